"""A scope of the service's login: on every path of this package, and whatever happens to its transactions."""

from __future__ import annotations

import contextlib
import io
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import psycopg2.extras
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import NullPool, create_engine, func, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import qforge_sdk as qf
from qforge_sdk import program_events
from qforge_sdk.db import crud
from qforge_sdk.db.batches import BatchItems
from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.results import Ended, LeaseLost, finish
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.db.work import Work, claim, release, renew
from qforge_sdk.fields import ALL_TABLES
from qforge_sdk.query import Query
from tests.fixtures.databases import Databases, DatabasesOf
from tests.fixtures.engines import Repulsion
from tests.fixtures.rows import UPDATES, Rows, store_rows
from tests.fixtures.tenants import ALICE, BOB

OWNERS = {"alice": ALICE, "bob": BOB, "public": PUBLIC_USER_ID, "nobody": None}
WRITABLE = [table for table in TABLES if table != "event_logs"]


@pytest.fixture(scope="module")
def world(databases_of: DatabasesOf) -> Iterator[tuple[str, dict[str, Rows]]]:
    """URL of the service, and one row of each table for each owner."""
    databases: Databases = databases_of()
    with databases.clone() as name:
        url = databases.url(name)
        with create_engine(url, poolclass=NullPool).begin() as connection:
            rows = {label: store_rows(connection, owner) for label, owner in OWNERS.items()}
        yield url, rows


@pytest.fixture(scope="module")
def url(world: tuple[str, dict[str, Rows]]) -> str:
    return world[0]


@pytest.fixture(scope="module")
def rows(world: tuple[str, dict[str, Rows]]) -> dict[str, Rows]:
    return world[1]


@pytest.fixture(scope="module")
def alice(url: str) -> Iterator[qf.Client]:
    with qf.connect(url, user_id=ALICE) as client:
        yield client


def allowed(table: str) -> set[uuid.UUID]:
    return {ALICE} if table == "event_logs" else {ALICE, PUBLIC_USER_ID}


def owners(values: Any) -> set[uuid.UUID | None]:
    return {None if pd.isna(value) else uuid.UUID(str(value)) for value in values}


# Every path that reads ----------------------------------------------------------------------------------------------


def by_export(client: qf.Client, table: str, folder: Path, partitions: int) -> set[uuid.UUID | None]:
    target = folder / f"{table}-{partitions}"
    client.export(target, tables=[table], partitions=partitions, progress=False)
    return owners(
        value
        for path in (target / table).rglob("*.parquet")
        for value in pq.read_table(path, columns=["user_id"]).column(0).to_pylist()
    )


def by_copy(client: qf.Client, table: str) -> set[uuid.UUID | None]:
    text_of = io.StringIO()
    with client.engine.connect() as connection:
        connection.connection.cursor().copy_expert(f"COPY (SELECT user_id FROM public.{table}) TO STDOUT", text_of)
    return owners(None if line == "\\N" else line for line in text_of.getvalue().split())


def by_driver(client: qf.Client, table: str, factory: Any = None) -> set[uuid.UUID | None]:
    raw = client.engine.raw_connection()
    try:
        with raw.cursor(cursor_factory=factory) if factory else raw.cursor() as cursor:
            cursor.execute(f"SELECT user_id AS u FROM public.{table}")
            return owners(row["u"] if isinstance(row, dict) else row[0] for row in cursor.fetchall())
    finally:
        raw.close()


def by_named_cursor(client: qf.Client, table: str) -> set[uuid.UUID | None]:
    raw = client.engine.raw_connection()
    try:
        with raw.cursor("page") as cursor:
            cursor.execute(f"SELECT user_id FROM public.{table}")
            return owners(row[0] for row in cursor)
    finally:
        raw.close()


def query_of(client: qf.Client, table: str) -> Query:
    return Query(client.molecules._context.reader, ALL_TABLES[table]).select(["user_id"])


READS: dict[str, Callable[[qf.Client, str], Any]] = {
    "sql": lambda client, table: client.sql(f"SELECT user_id FROM public.{table}").user_id,
    "frame": lambda client, table: query_of(client, table).df().user_id,
    "arrow": lambda client, table: query_of(client, table).arrow().column(0).to_pylist(),
    "batches": lambda client, table: [v for b in query_of(client, table).iter_batches(1) for v in b[0].to_pylist()],
    "stream": lambda client, table: pa.table(query_of(client, table)).column(0).to_pylist(),
    "orm": lambda client, table: _by_orm(client, table),  # noqa: PLW0108 - it stands below
    "connection": lambda client, table: (
        [row[0] for row in connected.execute(text(f"SELECT user_id FROM public.{table}"))]
        if (connected := client.engine.connect())
        else []
    ),
    "pandas": lambda client, table: pd.read_sql(f"SELECT user_id FROM public.{table}", client.engine).user_id,
    "COPY": by_copy,
    "raw connection": by_driver,
    "named cursor": by_named_cursor,
    "RealDictCursor": lambda client, table: by_driver(client, table, psycopg2.extras.RealDictCursor),
    "NamedTupleCursor": lambda client, table: by_driver(client, table, psycopg2.extras.NamedTupleCursor),
}


def _by_orm(client: qf.Client, table: str) -> set[uuid.UUID | None]:
    with client.session() as session:
        return set(session.scalars(select(TABLES[table].user_id)))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("path", READS)
def test_a_scope_reads_its_own_and_public_rows_by(alice: qf.Client, path: str, table: str):
    found = READS[path](alice, table)
    assert (found if isinstance(found, set) else owners(found)) == allowed(table)


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("table", TABLES)
def test_a_scope_exports_its_own_and_public_rows(alice: qf.Client, tmp_path: Path, table: str, partitions: int):
    assert by_export(alice, table, tmp_path, partitions) == allowed(table)


@pytest.mark.parametrize("table", TABLES)
def test_a_scope_counts_what_it_reads(alice: qf.Client, table: str):
    query = Query(alice.molecules._context.reader, ALL_TABLES[table])
    assert query.count() == len(query.df()) > 0


def test_a_scope_s_statistics_are_of_what_it_reads(alice: qf.Client):
    stats = alice.stats()
    assert (stats.total_molecules, stats.total_calculations, stats.total_batches) == (2, 2, 2)


def test_to_parquet_holds_what_a_scope_reads(alice: qf.Client, tmp_path: Path):
    path = alice.calculations.where().select(["user_id"]).to_parquet(tmp_path / "rows.parquet")
    assert owners(pq.read_table(path).column(0).to_pylist()) == {ALICE, PUBLIC_USER_ID}


ACCESSORS = {
    "molecules": "molecules",
    "calculations": "calculations",
    "batch_jobs": "batches",
    "event_logs": "events",
}


@pytest.mark.parametrize("owner", ["bob", "nobody"])
@pytest.mark.parametrize("table", ACCESSORS)
def test_get_does_not_find_another_s_row(alice: qf.Client, rows: dict[str, Rows], table: str, owner: str):
    accessor = getattr(alice, ACCESSORS[table])
    key = rows[owner].keys[table]
    with pytest.raises(qf.NotFound) as absent:
        accessor.get(10**12)
    with pytest.raises(qf.NotFound) as hidden:
        accessor.get(key)
    assert str(hidden.value).replace(str(key), "") == str(absent.value).replace(str(10**12), "")
    assert accessor.count(id=key) == 0


@pytest.mark.parametrize("owner", ["bob", "nobody", "public"])
@pytest.mark.parametrize("table", ["molecules", "calculations", "batch_jobs"])
def test_another_s_row_is_neither_changed_nor_deleted(
    url: str, alice: qf.Client, rows: dict[str, Rows], table: str, owner: str
):
    accessor, key = getattr(alice, ACCESSORS[table]), rows[owner].keys[table]
    with pytest.raises(qf.NotFound):
        accessor.delete(key)
    if table != "batch_jobs":
        with pytest.raises(qf.NotFound):
            accessor.update(key, metadata={"mine": True})
    with qf.connect(url) as service:
        assert getattr(service, ACCESSORS[table]).count(id=key) == 1


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
@pytest.mark.parametrize("table", WRITABLE)
def test_a_statement_touches_a_scope_s_own_rows_only(alice: qf.Client, table: str, verb: str):
    statement = {
        "UPDATE": f"UPDATE public.{table} SET {UPDATES[table]} RETURNING user_id",
        "DELETE": f"DELETE FROM public.{table} RETURNING user_id",
    }[verb]
    with alice.engine.connect() as connection:
        touched = set(connection.execute(text(statement)).scalars())
        connection.rollback()
    assert touched <= {ALICE}
    assert touched


CHILDREN: dict[str, Callable[[Session, Rows], Any]] = {
    "a calculation on another's molecule": lambda db, bob: crud.create_calculation(
        db, qf.schemas.CalculationCreate(molecule_id=bob.keys["molecules"], energy=-1.0)
    ),
    "atoms on another's calculation": lambda db, bob: crud.create_atomic_properties(
        db,
        bob.keys["calculations"],
        [
            {
                "atom_index": 5,
                "element": "C",
                "atomic_number": 6,
                "position_x": 0.0,
                "position_y": 0.0,
                "position_z": 0.0,
            }
        ],
    ),
    "an item in another's batch": lambda db, bob: crud.create_batch_item(
        db, qf.schemas.BatchItemCreate(batch_id=bob.keys["batch_jobs"], molecule_id=bob.keys["molecules"])
    ),
}


@pytest.mark.parametrize("child", CHILDREN)
def test_nothing_is_hung_on_another_s_row(alice: qf.Client, rows: dict[str, Rows], child: str):
    said = []
    for parent in (rows["bob"], Rows(None, dict.fromkeys(rows["bob"].keys, 10**12))):
        with pytest.raises((qf.AccessDenied, qf.NotFound)) as refused, alice.session() as session:
            CHILDREN[child](session, parent)
        said.append(type(refused.value))
    assert said[0] is said[1]


def test_loads_are_the_scope_s_own_and_hang_on_nothing_of_another_s(url: str, rows: dict[str, Rows]):
    with qf.connect(url, user_id=ALICE) as alice:
        with pytest.warns(qf.LoadWarning):
            report = alice.calculations.bulk_load(
                [
                    {"molecule_id": rows["bob"].keys["molecules"], "energy": -1.0},
                    {"molecule_id": rows["alice"].keys["molecules"], "energy": -2.0},
                    {"molecule_id": 10**12, "energy": -3.0},
                ]
            )
        assert report.rejected.row.tolist() == [0, 2]
        assert report.rejected.code.nunique() == 1
        with pytest.warns(qf.LoadWarning):
            atoms = alice.atoms.bulk_load(
                [
                    {"calculation_id": rows["bob"].keys["calculations"], "atom_index": 7, "element": "C",
                     "position_x": 0.0, "position_y": 0.0, "position_z": 0.0}
                ]
            )  # fmt: skip
        assert (atoms.n_inserted, atoms.n_rejected) == (0, 1)
        # Bob's source_id and Bob's batch name are free.
        assert alice.calculations.bulk_load(
            [{"smiles": "CCCC", "energy": -1.0, "source_id": "C of bob"}], on_conflict="update"
        ).n_inserted == 1  # fmt: skip
    with qf.connect(url) as service:
        assert service.calculations.get(rows["bob"].keys["calculations"]).energy == -1.5


def test_workers_of_a_batch_act_in_the_scope(url: str) -> None:
    with qf.connect(url, user_id=ALICE) as alice:
        batch = alice.batches.create("workers", molecules=["CCO", "CCN"], parameters={"method": "repulsion"})
        report = alice.batches.run(batch, engine=Repulsion(fails_on="CCN"), workers=1)
        assert (report.n_completed, report.failed) == (1, {"scf_not_converged": 1})
        events = alice.events.query(service="xTB_runner")
    with qf.connect(url) as service:
        item = service.batches.items(batch.id, status="completed")
        calculation = int(item["calculation_id"][0])
        written = [
            service.calculations.get(calculation).user_id,
            *service.sql(
                f"SELECT DISTINCT user_id::text AS u FROM atomic_properties WHERE calculation_id = {calculation}"
            ).u,
            *service.events.query(id=events["id"].tolist(), columns=["user_id"]).user_id,
            *item["user_id"],
        ]
        assert set(written) == {str(ALICE)}
        # Each transaction of a worker's was opened as Alice, whatever the login could do.
        actors = service.events.query(entity_type="calculations", entity_id=calculation, columns=["application"])
        assert set(actors["application"]) == {"qforge_worker"}
        service.batches.delete(batch.id)
        service.calculations.delete(calculation)
        service.molecules.delete(int(item["molecule_id"][0]))


@pytest.mark.parametrize("owner", ["bob", "nobody", "public"])
@pytest.mark.parametrize("verb", ["run", "cancel", "retry", "delete"])
def test_another_s_batch_is_not_run_cancelled_or_deleted(
    url: str, alice: qf.Client, rows: dict[str, Rows], verb: str, owner: str
) -> None:
    key = rows[owner].keys["batch_jobs"]
    with pytest.raises(qf.NotFound):
        getattr(alice.batches, verb)(key)
    with qf.connect(url) as service:
        assert service.batches.progress(key)["pending"] == 1


@pytest.mark.parametrize("owner", ["bob", "nobody", "public"])
def test_another_s_items_are_not_tried_again(url: str, alice: qf.Client, rows: dict[str, Rows], owner: str) -> None:
    key, item = rows[owner].keys["batch_jobs"], rows[owner].keys["batch_items"]
    mine = rows["alice"].keys["batch_jobs"]
    with qf.connect(url) as service:
        put_status(service, item, "failed")
        for batch, wanted in ((key, item), (mine, item), (mine, 10**12)):
            with pytest.raises(qf.NotFound, match="has no"):
                alice.batches.retry(batch, items=[wanted])
        # The service's own way is as narrow: an item is of its batch.
        with pytest.raises(qf.NotFound, match=f"batch {mine} has no item {item}"):
            service.batches.retry(mine, items=[item])
        assert service.batches.progress(key)["failed"] == 1
        put_status(service, item, "pending")


def put_status(client: qf.Client, item: int, status: str) -> None:
    with client.session() as session:
        crud.update_batch_item_status(session, item, status)


@pytest.mark.parametrize("owner", ["bob", "nobody", "public"])
def test_a_worker_in_a_scope_neither_claims_nor_ends_another_s_items(
    url: str, rows: dict[str, Rows], owner: str
) -> None:
    work = Work(rows[owner].keys["batch_jobs"], OWNERS[owner])
    item = rows[owner].keys["batch_items"]
    token = uuid.uuid4()
    with qf.connect(url) as service, qf.connect(url, user_id=ALICE) as alice:
        claimed = {"token": token, "holder": "a", "limit": 5, "lease_seconds": 60.0, "max_retries": 2}
        with alice.engine.begin() as connection:
            for stolen in (work, Work(work.batch_id, ALICE)):
                assert claim(connection, stolen, **claimed).items == ()
        with service.engine.begin() as connection:
            assert [one.id for one in claim(connection, work, **claimed).items] == [item]
        # It knows the token, and still can do nothing with it.
        with alice.engine.begin() as connection:
            assert renew(connection, {token: [item]}, lease_seconds=1e6) == set()
            assert release(connection, work, token) == 0
            items = BatchItems(connection, work)
            assert (items.cancel(), items.retry(None), items.retry(["abandoned", "unknown"])) == (0, 0, 0)
        ended = [Ended(item, program_events.calculation_failed(1, error_message="x", error_code="killed"), code="x")]
        with contextlib.suppress(qf.QForgeError, LeaseLost), translated(), alice.engine.begin() as connection:
            finish(connection, work, token, ended)
        stored = service.batches.items(work.batch_id, columns=["status", "lease_holder", "error_code"])
        assert stored.iloc[0].fillna("").tolist() == ["processing", "a", ""]
        with service.engine.begin() as connection:
            assert release(connection, work, token) == 1


READING = ["watch", "failures", "items", "items_page", "progress", "results", "get"]


@pytest.mark.parametrize("verb", READING)
def test_another_s_batch_is_not_watched(alice: qf.Client, rows: dict[str, Rows], verb: str) -> None:
    for owner in ("bob", "nobody"):
        with pytest.raises(qf.NotFound):
            getattr(alice.batches, verb)(rows[owner].keys["batch_jobs"])


@pytest.mark.parametrize("verb", [*READING, "run", "cancel", "retry", "update", "delete"])
def test_another_s_batch_has_no_name(alice: qf.Client, verb: str) -> None:
    for owner in ("bob", "nobody"):
        with pytest.raises(qf.NotFound, match="no batch"):
            getattr(alice.batches, verb)(f"C of {owner}")


# It fails closed ----------------------------------------------------------------------------------------------------

VISIBLE = "SELECT array_agg(DISTINCT user_id) FROM public.molecules"
HELD = {ALICE, PUBLIC_USER_ID}


@pytest.fixture
def one(url: str) -> Iterator[qf.Client]:
    """A client of Alice's whose pool has one connection, so that everything meets it again."""
    client = qf.connect(url, user_id=ALICE)
    client.engine.dispose()
    client.engine.pool = client.engine.pool.recreate()
    yield client
    client.close()


def visible(connection: Any) -> set[uuid.UUID]:
    return set(connection.exec_driver_sql(VISIBLE).scalar_one())


ENDS: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "savepoint rolled back": lambda connection: (connection.begin_nested().rollback(), connection.rollback()),
    "savepoint released": lambda connection: (connection.begin_nested().commit(), connection.commit()),
    "invalidation": lambda connection: (connection.invalidate(), connection.rollback()),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_scope_holds_after(one: qf.Client, end: str):
    with one.engine.connect() as connection:
        for _ in range(3):
            assert visible(connection) == HELD
            ENDS[end](connection)
        assert visible(connection) == HELD
    with one.engine.connect() as connection:
        assert visible(connection) == HELD


def test_a_scope_holds_after_an_error_and_inside_a_savepoint(one: qf.Client):
    with one.engine.connect() as connection:
        with pytest.raises(Exception, match="division by zero"):
            connection.exec_driver_sql("SELECT 1/0")
        connection.rollback()
        savepoint = connection.begin_nested()
        with pytest.raises(Exception, match="division by zero"):
            connection.exec_driver_sql("SELECT 1/0")
        savepoint.rollback()
        assert visible(connection) == HELD


def test_a_scope_holds_after_the_server_ended_the_connection(url: str, one: qf.Client):
    with one.engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with create_engine(url, poolclass=NullPool).begin() as service:
        service.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with one.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != pid
        assert visible(connection) == HELD


def test_a_transaction_of_the_driver_s_own_is_in_the_scope(one: qf.Client):
    raw = one.engine.raw_connection()
    with raw.cursor() as cursor:
        for end in (raw.commit, raw.rollback, raw.commit):
            cursor.execute("SELECT DISTINCT user_id::text FROM public.molecules")
            assert owners(row[0] for row in cursor.fetchall()) == HELD
            end()
    raw.close()


def test_threads_of_one_client_and_clients_of_two_tenants_do_not_meet(url: str):
    with qf.connect(url, user_id=ALICE) as alice, qf.connect(url, user_id=BOB) as bob:
        wrong: list[object] = []

        def work(client: qf.Client, tenant: uuid.UUID) -> None:
            for _ in range(20):
                found = owners(client.molecules.query(columns=["user_id"]).user_id)
                with client.session() as session:
                    found |= set(session.execute(text(VISIBLE)).scalar_one())
                if found != {tenant, PUBLIC_USER_ID}:
                    wrong.append(found)

        threads = [threading.Thread(target=work, args=one) for one in ((alice, ALICE), (bob, BOB)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


AUTOCOMMIT: dict[str, Callable[[qf.Client], Any]] = {
    "engine option": lambda c: (
        c.engine.execution_options(isolation_level="AUTOCOMMIT").connect().execute(text(VISIBLE))
    ),
    "connection option": lambda c: (
        c.engine.connect().execution_options(isolation_level="AUTOCOMMIT").execute(text(VISIBLE))
    ),
    "the driver's attribute": lambda c: _autocommitted(c, lambda raw: setattr(raw, "autocommit", True)),
    "the driver's set_session": lambda c: _autocommitted(c, lambda raw: raw.set_session(autocommit=True)),
    "the driver's isolation level": lambda c: _autocommitted(c, lambda raw: raw.set_isolation_level(0)),
    "two phases": lambda c: c.engine.connect().begin_twophase(),
    "a session's option": lambda c: _session_autocommitted(c),  # noqa: PLW0108 - it stands below
}


def _autocommitted(client: qf.Client, change: Callable[[Any], Any]) -> None:
    raw = client.engine.raw_connection()
    try:
        change(raw.driver_connection)
        raw.cursor().execute(VISIBLE)
    finally:
        raw.invalidate()


def _session_autocommitted(client: qf.Client) -> None:
    with client.session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text(VISIBLE))


@pytest.mark.parametrize("way", AUTOCOMMIT)
def test_a_scope_refuses_autocommit_by(one: qf.Client, way: str):
    with pytest.raises(
        (qf.ScopeNotHeld, Exception), match=r"autocommit|two-phase|isolation_level|AUTOCOMMIT|already"
    ):
        AUTOCOMMIT[way](one)


LOST = {
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "end in a comment's shade": "/* x */ END",
    "commit and read": f"COMMIT; {VISIBLE}",
    "commit, begin and read": f"COMMIT; BEGIN; {VISIBLE}",
    "rollback, begin and read": f"ROLLBACK; BEGIN; {VISIBLE}",
    "no role": f"SET LOCAL ROLE NONE; {VISIBLE}",
    "the owner's role": f"SET ROLE qforge_owner; {VISIBLE}",
    "reset role": f"RESET ROLE; {VISIBLE}",
    "reset all": f"RESET ALL; {VISIBLE}",
    "authorization": f"SET SESSION AUTHORIZATION DEFAULT; {VISIBLE}",
    "role by function": "SELECT set_config('role', 'none', true), 1",
    "claims by function": f"SELECT set_config('request.jwt.claim.sub', '{BOB}', true)",
    "claims of Bob": f"SET LOCAL request.jwt.claim.sub = '{BOB}'; {VISIBLE}",
    "no claims": "SET LOCAL request.jwt.claim.sub = ''; SET LOCAL request.jwt.claims = ''",
    "a block": f"DO $$ BEGIN SET LOCAL ROLE NONE; END $$; {VISIBLE}",
    "a prepared transaction": "PREPARE TRANSACTION 'x'",
}


@pytest.mark.parametrize("statement", LOST.values(), ids=LOST.keys())
def test_a_tenant_that_is_lost_reads_nothing(one: qf.Client, statement: str):
    connection = one.engine.connect()
    with pytest.raises(Exception) as refused:
        connection.exec_driver_sql("SELECT 1")
        result = connection.exec_driver_sql(statement)
        result.fetchall()
    assert isinstance(refused.value, qf.ScopeNotHeld) or "permission denied" in str(refused.value) or (
        "max_prepared_transactions" in str(refused.value)
    )  # fmt: skip
    # Whatever follows on the same connection holds, or is refused.
    with contextlib.suppress(qf.ScopeNotHeld, SQLAlchemyError):
        assert visible(connection) == HELD
    connection.close()
    with one.engine.connect() as again:
        assert visible(again) == HELD


def test_the_rows_of_a_lost_tenant_cannot_be_fetched_from_the_driver(one: qf.Client):
    raw = one.engine.raw_connection()
    cursor = raw.cursor()
    with pytest.raises(qf.ScopeNotHeld):
        cursor.execute(f"COMMIT; {VISIBLE}")
    with pytest.raises(psycopg2.InterfaceError):
        cursor.fetchall()
    raw.invalidate()


@pytest.mark.parametrize("verb", ["executemany", "execute_values", "callproc", "copy_expert", "copy_to"])
def test_other_verbs_of_the_driver_are_in_the_scope(one: qf.Client, verb: str):
    raw = one.engine.raw_connection()
    shown = io.StringIO()
    with raw.cursor() as cursor:
        if verb == "executemany":
            cursor.executemany("UPDATE public.molecules SET name = %s", [("x",), ("y",)])
            cursor.execute("SELECT count(*) FROM public.molecules WHERE name = 'y' AND user_id <> %s", (str(ALICE),))
            assert cursor.fetchone() == (0,)
        elif verb == "execute_values":
            psycopg2.extras.execute_values(
                cursor, "INSERT INTO public.batch_jobs (batch_name) VALUES %s RETURNING user_id", [("a",), ("b",)]
            )
            assert {uuid.UUID(str(row[0])) for row in cursor.fetchall()} == {ALICE}
        elif verb == "callproc":
            cursor.callproc("qforge.current_user_id")
            assert uuid.UUID(str(cursor.fetchone()[0])) == ALICE
        elif verb == "copy_expert":
            cursor.copy_expert("COPY (SELECT user_id FROM public.molecules) TO STDOUT", shown)
            assert owners(shown.getvalue().split()) == HELD
        else:
            cursor.execute("CREATE TEMP TABLE seen AS SELECT user_id FROM public.molecules")
            cursor.copy_to(shown, "seen")
            assert owners(shown.getvalue().split()) == HELD
    raw.rollback()
    raw.close()


def test_what_a_holder_of_the_login_does_on_purpose_is_not_held(one: qf.Client):
    # docs/access.md says so: the driver's own class of cursor knows no scope.
    raw = one.engine.raw_connection()
    with psycopg2.extensions.cursor(raw.driver_connection) as cursor:
        cursor.execute("SELECT count(DISTINCT user_id) FROM public.molecules")
        assert cursor.fetchone() == (3,)
    raw.invalidate()


# connect() refuses, and health() says why ---------------------------------------------------------------------------

BROKEN = {
    "row level security is off": (
        "ALTER TABLE public.calculations DISABLE ROW LEVEL SECURITY",
        "row level security of public.calculations is off: ALTER TABLE",
    ),
    "another policy": (
        "CREATE POLICY everybody ON public.molecules FOR SELECT USING (true)",
        "policy 'everybody' on public.molecules lets other rows through: DROP POLICY",
    ),
    "another policy for all verbs": (
        "CREATE POLICY everything ON public.batch_jobs TO qforge_scope, qforge_tenant USING (true)",
        "policy 'everything' on public.batch_jobs",
    ),
    "a policy that was opened": (
        "ALTER POLICY tenant_select ON public.molecules USING (true)",
        "policy 'tenant_select' on public.molecules does not ask for the tenant",
    ),
    "a policy that is gone": (
        "DROP POLICY tenant_delete ON public.molecules",
        "policy 'tenant_delete' is missing on public.molecules",
    ),
    "TRUNCATE": ("GRANT TRUNCATE ON public.molecules TO qforge_tenant", "may TRUNCATE public.molecules: REVOKE"),
    "changed events": ("GRANT DELETE ON public.event_logs TO qforge_tenant", "may change events: REVOKE DELETE"),
    "an unpinned function": (
        "ALTER FUNCTION qforge.login_kind() RESET search_path",
        "qforge.login_kind() looks names up in the path of its caller: ALTER FUNCTION",
    ),
    "another owner": (
        "ALTER FUNCTION qforge.audit_insert() OWNER TO postgres",
        "qforge.audit_insert() runs as postgres: ALTER FUNCTION",
    ),
    "an open schema": (
        "GRANT CREATE ON SCHEMA qforge TO PUBLIC",
        "may create objects in schema qforge: REVOKE CREATE",
    ),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_scope_that_would_not_hold_is_refused_with_cause_and_cure(
    database_url: str, admin_url: str, change: str, said: str
):
    with create_engine(admin_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(change))
    with pytest.raises(qf.ScopeNotHeld) as refused:
        qf.connect(database_url, user_id=ALICE)
    assert said in str(refused.value)
    with qf.connect(database_url) as service:
        health = service.health()
    assert health.status == "unhealthy"
    assert any(said in problem for problem in health.access.problems)


LOGINS = {
    "BYPASSRLS": "ALTER ROLE weak_alice BYPASSRLS",
    "SUPERUSER": "ALTER ROLE weak_alice SUPERUSER",
    "CREATEROLE": "ALTER ROLE weak_alice CREATEROLE",
    "REPLICATION": "ALTER ROLE weak_alice REPLICATION",
    "can act as strong_role": "CREATE ROLE strong_role BYPASSRLS; GRANT strong_role TO weak_alice",
    "can act as pg_read_server_files": "GRANT pg_read_server_files TO weak_alice",
}


@pytest.mark.parametrize(("said", "change"), LOGINS.items())
def test_a_tenant_s_login_that_is_too_strong_is_refused(database_url: str, admin_url: str, said: str, change: str):
    login = make_url(database_url).set(username="weak_alice").render_as_string(hide_password=False)
    with qf.connect(database_url) as service:
        service.admin.create_login(ALICE, "weak_alice")
        try:
            with qf.connect(login) as tenant:
                assert tenant.health().access.strength == "boundary"
            with create_engine(admin_url, poolclass=NullPool).begin() as connection:
                connection.execute(text(change))
            with pytest.raises(qf.ScopeNotHeld, match=said):
                qf.connect(login)
            assert any(said in problem for problem in service.health().access.problems)
        finally:
            with create_engine(admin_url, poolclass=NullPool).begin() as connection:
                connection.execute(
                    text("DELETE FROM qforge.tenant_logins; DROP ROLE weak_alice; DROP ROLE IF EXISTS strong_role")
                )


def test_health_tells_the_strengths_apart(url: str, tenant_login: Callable[..., str]):
    with qf.connect(url) as service, qf.connect(url, user_id=ALICE) as scope:
        assert service.health().access.strength == "service"
        access = scope.health().access
    assert (access.strength, access.login, access.role, access.user_id) == (
        "scope", "qforge_owner", "qforge_scope", str(ALICE),
    )  # fmt: skip
    assert [one.table for one in access.tables] == list(TABLES)
    assert all(one.row_security and one.applies for one in access.tables)
    assert all(set(one.policies) == {"select", "insert", "update", "delete"} for one in access.tables)
    assert access.attributes["createrole"]
    assert not access.attributes["superuser"]
    with qf.connect(tenant_login(url, ALICE)) as boundary:
        assert boundary.health().access.strength == "boundary"


def test_a_tenant_s_login_may_name_itself(url: str, tenant_login: Callable[..., str]):
    login = tenant_login(url, ALICE)
    with qf.connect(login, user_id=ALICE) as client:
        assert client.health().access.strength == "boundary"
        assert owners(client.molecules.query(columns=["user_id"]).user_id) == HELD
        with client.session() as session:
            assert session.scalar(select(func.current_user())) == make_url(login).username
    with pytest.raises(qf.ScopeNotHeld, match="cannot act as another"):
        qf.connect(login, user_id=BOB)
