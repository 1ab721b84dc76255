"""Ordered pages: the same rows as a plain ORDER BY LIMIT, read in the order of an index."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.orm import Session, aliased

from qforge_sdk.client import Client
from qforge_sdk.db.models import PUBLIC_USER_ID, Calculation
from qforge_sdk.db.pages import Ordering, order_of, ordered_page
from qforge_sdk.db.scope import Scope
from tests.fixtures.tenants import ALICE, BOB

# A third has no gap, a tenth repeats another's.
FILL = """
INSERT INTO public.calculations (user_id, molecule_id, energy, gap)
SELECT (ARRAY[CAST(:alice AS uuid), CAST(:bob AS uuid), CAST(:public AS uuid), NULL])[1 + n % 4], :molecule,
       -n, CASE WHEN n % 3 > 0 THEN (n * 7919 % 1000) / 10 END
FROM generate_series(1, :rows) AS n
"""
ORDERS: list[Ordering] = [
    [(Calculation.gap, False), (Calculation.id, False)],
    [(Calculation.gap, True), (Calculation.id, False)],
    [(Calculation.created_at, True), (Calculation.id, True)],
    [(Calculation.dipole, True), (Calculation.gap, True), (Calculation.id, True)],
]
OWNERS: list[list[uuid.UUID | None] | None] = [[ALICE, PUBLIC_USER_ID], [ALICE], [None, BOB], [], None]


def fill(engine: Engine, rows: int) -> None:
    with engine.begin() as connection:
        molecule = connection.scalar(
            text("INSERT INTO public.molecules (user_id, smiles, formula) VALUES (:public, 'C', 'CH4') RETURNING id"),
            {"public": PUBLIC_USER_ID},
        )
        values = {"alice": ALICE, "bob": BOB, "public": PUBLIC_USER_ID, "molecule": molecule, "rows": rows}
        connection.execute(text(FILL), values)


@pytest.fixture
def filled(session: Session) -> Session:
    molecule = session.scalar(text("INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4') RETURNING id"))
    values = {"alice": ALICE, "bob": BOB, "public": PUBLIC_USER_ID, "molecule": molecule, "rows": 300}
    session.execute(text(FILL), values)
    return session


def plain(session: Session, order: Ordering, owners: list[uuid.UUID | None] | None) -> list[int]:
    directed = [(column.desc() if descending else column.asc()).nulls_last() for column, descending in order]
    statement = select(Calculation.id, Calculation.user_id).order_by(*directed)
    return [key for key, owner in session.execute(statement) if owners is None or owner in owners]


@pytest.mark.parametrize("order", ORDERS, ids=["gap", "gap desc", "newest", "three columns"])
@pytest.mark.parametrize("owners", OWNERS, ids=["tenant", "one", "with none", "nobody", "all"])
@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (20, 0), (20, 55), (300, 0), (300, 40), (None, 0), (0, 0)])
def test_a_page_holds_the_rows_of_a_plain_query(
    filled: Session, order: Ordering, owners: list[uuid.UUID | None] | None, limit: int | None, offset: int
):
    expected = plain(filled, order, owners)[offset : None if limit is None else offset + limit]
    page = ordered_page(Calculation, [], order_by=order, limit=limit, owners=owners, offset=offset)
    assert list(filled.scalars(select(page.c.id).order_by(*order_of(page, order)))) == expected


def test_conditions_are_part_of_every_branch(filled: Session):
    page = ordered_page(
        Calculation,
        [Calculation.gap.between(10, 20)],
        order_by=ORDERS[0],
        limit=500,
        owners=[ALICE, PUBLIC_USER_ID],
    )
    expected = filled.scalar(
        select(func.count()).where(Calculation.gap.between(10, 20), Calculation.user_id.in_([ALICE, PUBLIC_USER_ID]))
    )
    assert filled.scalar(select(func.count()).select_from(page)) == expected


def test_a_page_is_read_as_objects_of_the_session(filled: Session):
    page = ordered_page(Calculation, [], order_by=ORDERS[0], limit=1, owners=[ALICE])
    found = filled.scalars(select(aliased(Calculation, page))).one()
    assert found is filled.get(Calculation, found.id)


def explain(engine: Engine, statement: Any) -> tuple[set[str], int]:
    """Indexes that the plan reads, and the most rows that one of its nodes returned."""
    sql = statement.compile(engine, compile_kwargs={"literal_binds": True}).string
    with engine.begin() as connection:
        (found,) = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}".replace("%", "%%")
        ).one()
    nodes = [(found if isinstance(found, list) else json.loads(found))[0]["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node and node["Actual Loops"]}
    return indexes, max(node["Actual Rows"] * node["Actual Loops"] for node in nodes)


@pytest.mark.parametrize(
    ("order", "index"),
    [(ORDERS[0], "calculations_gap"), (ORDERS[1], "calculations_gap"), (ORDERS[2], "calculations_created")],
    ids=["gap", "gap desc", "newest"],
)
def test_a_tenants_page_reads_no_more_of_the_index_than_it_needs(any_version_url: str, order: Ordering, index: str):
    service = create_engine(any_version_url)
    fill(service, 20_000)
    with service.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE public.calculations"))
    service.dispose()
    tenant = create_engine(any_version_url)
    Scope(ALICE).attach(tenant)

    page = ordered_page(Calculation, [], order_by=order, limit=50, owners=[ALICE, PUBLIC_USER_ID])
    indexes, most = explain(tenant, select(page))
    tenant.dispose()

    assert indexes == {index}
    assert most <= 150


def test_a_table_without_rows_has_one_empty_page(client: Client) -> None:
    for accessor in (client.molecules, client.calculations, client.batches):
        page = accessor.page()
        assert (len(page.frame), page.count, page.is_exact, page.next, page.previous) == (0, 0, True, None, None)
