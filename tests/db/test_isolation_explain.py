"""EXPLAIN ANALYZE counts no row of another tenant: the policy is part of the index condition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from qforge_sdk.db.scope import Scope
from tests.fixtures.databases import Databases
from tests.fixtures.rows import store_rows
from tests.fixtures.tenants import ALICE, BOB

# Bob's numbers, which Alice guesses at.
FILL = """
INSERT INTO public.molecules (user_id, smiles, formula, inchikey)
    SELECT :bob, 'secret ' || i, 'CH4', 'KEY' || i % 50 FROM generate_series(1, 4000) AS i;
INSERT INTO public.calculations (user_id, molecule_id, energy, gap, source_id)
    SELECT :bob, id, -(id % 100), id % 100, 'source ' || id FROM public.molecules WHERE user_id = :bob;
INSERT INTO public.atomic_properties (user_id, calculation_id, atom_index, element, atomic_number, position_x,
                                      position_y, position_z)
    SELECT :bob, id, i, 'C', 6, 0, 0, 0 FROM public.calculations, generate_series(1, 2) AS i WHERE user_id = :bob;
INSERT INTO public.batch_jobs (user_id, batch_name)
    SELECT :bob, 'batch ' || i % 40 FROM generate_series(1, 4000) AS i;
INSERT INTO public.batch_items (user_id, batch_id, molecule_id, calculation_id)
    SELECT :bob, (SELECT min(id) FROM public.batch_jobs WHERE user_id = :bob) + id % 40, molecule_id, id
    FROM public.calculations WHERE user_id = :bob;
INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id)
    SELECT :bob, 'error', 'molecules', i % 100 FROM generate_series(1, 4000) AS i;
"""

PROBES = {
    "energy": "SELECT * FROM public.calculations WHERE energy = -17",
    "a range of energies": "SELECT * FROM public.calculations WHERE energy BETWEEN -20 AND -10",
    "gap": "SELECT * FROM public.calculations WHERE gap = 17",
    "a range of gaps": "SELECT * FROM public.calculations WHERE gap > 90",
    "source": "SELECT * FROM public.calculations WHERE source_id = 'source ' || {calculation}",
    "batch name": "SELECT * FROM public.batch_jobs WHERE batch_name = 'batch 7'",
    "InChIKey": "SELECT * FROM public.molecules WHERE inchikey = 'KEY17'",
    "identity": "SELECT * FROM public.molecules WHERE identity_hash = sha256('secret 17')",
    "events of a molecule": "SELECT * FROM public.event_logs WHERE entity_type = 'molecules' AND entity_id = 17",
}
# The index of a foreign key begins with the parent, or a cascade would read the whole table. Before PostgreSQL 17 the
# planner filters by the policy's array there instead of descending by it, and so counts the children of a guessed id.
KEY_PROBES = {
    "molecule": "SELECT * FROM public.calculations WHERE molecule_id = {molecule}",
    "atoms of a calculation": "SELECT * FROM public.atomic_properties WHERE calculation_id = {calculation}",
    "items of a batch": "SELECT * FROM public.batch_items WHERE batch_id = {batch}",
    "items of a molecule": "SELECT * FROM public.batch_items WHERE molecule_id = {molecule}",
    "items of a calculation": "SELECT * FROM public.batch_items WHERE calculation_id = {calculation}",
}
VERBS = {
    "update": "UPDATE public.calculations SET gap = 1 WHERE energy = -17",
    "delete": "DELETE FROM public.calculations WHERE gap = 17",
    "lock": "SELECT * FROM public.calculations WHERE energy = -17 FOR UPDATE",
}


@pytest.fixture(scope="module")
def alice_and_keys(any_version: Databases) -> Iterator[tuple[Connection, dict[str, int]]]:
    with any_version.clone() as name:
        service = create_engine(any_version.url(name), poolclass=NullPool)
        with service.begin() as connection:
            store_rows(connection, ALICE)
            for statement in FILL.split(";\n")[:-1]:
                connection.execute(text(statement), {"bob": BOB})
            keys = {
                name: connection.execute(text(f"SELECT max(id) - 7 FROM public.{table}")).scalar_one()
                for name, table in {"molecule": "molecules", "calculation": "calculations"}.items()
            }
            batch = "SELECT min(id) + 7 FROM public.batch_jobs WHERE user_id = :bob"
            keys["batch"] = connection.execute(text(batch), {"bob": BOB}).scalar_one()
        with service.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        alice = create_engine(any_version.url(name), poolclass=NullPool)
        Scope(ALICE).attach(alice)
        with alice.connect() as connection:
            yield connection, keys


def plan(connection: Connection, statement: str) -> str:
    lines = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS OFF) {statement}").scalars()
    text = "\n".join(lines)
    connection.rollback()
    return text


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())
def test_a_plan_counts_nobody_else_s_rows_by(alice_and_keys: tuple[Connection, dict[str, int]], probe: str) -> None:
    alice, keys = alice_and_keys

    said = plan(alice, probe.format(**keys))

    assert "Rows Removed" not in said
    assert "Index Cond" in said
    assert "user_id" in "".join(line for line in said.splitlines() if "Index Cond" in line)


@pytest.mark.parametrize("probe", KEY_PROBES.values(), ids=KEY_PROBES.keys())
def test_a_plan_counts_nobody_else_s_children_by(
    alice_and_keys: tuple[Connection, dict[str, int]], any_version: Databases, probe: str
) -> None:
    alice, keys = alice_and_keys

    said = plan(alice, probe.format(**keys))

    assert ("Rows Removed" in said) is (any_version.server.version < 17)


# A column without an index is read with the whole table: its size is seen, whatever is asked for.
GUESSES = {
    "SMILES": "SELECT * FROM public.molecules WHERE smiles = '{}'",
    "InChIKey": "SELECT * FROM public.molecules WHERE inchikey = '{}'",
    "batch name": "SELECT * FROM public.batch_jobs WHERE batch_name = '{}'",
}
RIGHT = {"SMILES": "secret 17", "InChIKey": "KEY17", "batch name": "batch 7"}


@pytest.mark.parametrize("column", GUESSES)
def test_a_right_guess_looks_like_a_wrong_one(alice_and_keys: tuple[Connection, dict[str, int]], column: str) -> None:
    alice, _ = alice_and_keys

    right, wrong = (plan(alice, GUESSES[column].format(word)) for word in (RIGHT[column], "wrong"))

    assert removed(right) == removed(wrong)


def removed(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if "Rows Removed" in line]


@pytest.mark.parametrize("statement", VERBS.values(), ids=VERBS.keys())
def test_a_plan_counts_nobody_else_s_rows_in(
    alice_and_keys: tuple[Connection, dict[str, int]], statement: str
) -> None:
    said = plan(alice_and_keys[0], statement)

    assert "Rows Removed" not in said


def test_the_probes_would_find_bob_s_rows(
    any_version: Databases, alice_and_keys: tuple[Connection, dict[str, int]]
) -> None:
    alice, keys = alice_and_keys
    service = create_engine(any_version.url(alice.engine.url.database), poolclass=NullPool)
    with service.connect() as connection:
        found = {
            name: len(connection.exec_driver_sql(sql.format(**keys)).all())
            for name, sql in (PROBES | KEY_PROBES).items()
        }

    assert [name for name, count in found.items() if count == 0] == []


def test_the_policy_asks_once_a_statement_who_one_is(alice_and_keys: tuple[Connection, dict[str, int]]) -> None:
    said = plan(alice_and_keys[0], "SELECT * FROM public.calculations")

    assert "InitPlan" in said
