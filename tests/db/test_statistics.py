"""Statistics that triggers keep: equal to the rows in every snapshot, whatever changes them."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import psycopg2
import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session

import qforge_sdk as qf
from qforge_sdk.db import crud, schema
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.scope import Scope
from tests.fixtures.clients import TenantClient
from tests.fixtures.counted import counted, kept, plain_stats
from tests.fixtures.databases import Databases, DatabasesOf
from tests.fixtures.rows import store_rows
from tests.fixtures.tenants import ALICE, BOB, TenantLogin, TenantSession

OWNERS = [ALICE, BOB, PUBLIC_USER_ID, None]
METHODS = ["GFN2-xTB", "GFN1-xTB", "GFN-FF"]
STATUSES = ["converged", "not_converged", "error"]

numbers = st.one_of(
    st.none(),
    st.integers(-200, 200).map(lambda n: n / 64),
    st.floats(-100, 100),
    st.sampled_from([0.0, -0.0, 1e9, -1e9, 1e300, -1e300, 65536.0, -65536.0, 5e-324]),
)
calculations = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([None if owner is None else str(owner) for owner in OWNERS]),
            "method": st.sampled_from(METHODS),
            "convergence_status": st.sampled_from(STATUSES),
            "energy": numbers,
            "gap": numbers,
            "dipole": numbers.map(lambda x: None if x is None else abs(x)),
            "total_charge": numbers.map(lambda x: x or 0.0),
            "created_at": st.datetimes().map(lambda at: f"{at.isoformat()}Z"),
        }
    ).map(lambda row: row | {"energy": row["energy"] or 0.0} if row["convergence_status"] == "converged" else row),
    min_size=1,
    max_size=12,
)
_COLUMNS = "user_id, method, convergence_status, energy, gap, dipole, total_charge, created_at"
_NAMES = _COLUMNS.split(", ")
_TYPES = (
    "user_id uuid, method text, convergence_status text, energy float8, gap float8, dipole float8, "
    "total_charge float8, created_at timestamptz"
)
_ROWS = f"SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r ({_TYPES})"
INSERT = f"""
    INSERT INTO public.calculations (molecule_id, {_COLUMNS})
    SELECT (SELECT min(id) FROM public.molecules WHERE smiles = 'public'), r.* FROM ({_ROWS}) AS r
"""
PUBLIC_MOLECULE = f"""
    INSERT INTO public.molecules (user_id, smiles, formula) VALUES ('{PUBLIC_USER_ID}', 'public', 'C')
    ON CONFLICT DO NOTHING
"""


def insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Store calculations in one statement, on a public molecule."""
    connection.execute(text(PUBLIC_MOLECULE))
    connection.execute(text(INSERT), {"rows": json.dumps(rows)})


def assert_kept(connection: Connection) -> None:
    assert kept(connection) == counted(connection)


def assert_stats(session: Session, where: str, user_id: uuid.UUID | None = None) -> None:
    """The answer of crud is that of the rows."""
    found = crud.get_database_stats(session, user_id).model_dump()
    plain = plain_stats(session.connection(), where)
    average = plain.pop("average_energy")
    assert found.pop("average_energy") == (None if average is None else pytest.approx(average, rel=1e-12, abs=1e-13))
    assert found == plain


class Machine(RuleBasedStateMachine):
    """Several owners' rows change in every way there is."""

    engine: Engine
    alice: Engine
    service: qf.Client

    @initialize()
    def start(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("TRUNCATE public.molecules, public.calculations, public.batch_jobs CASCADE"))
            connection.execute(text(PUBLIC_MOLECULE))

    def run(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    @rule(rows=calculations)
    def add(self, rows: list[dict[str, Any]]) -> None:
        with self.engine.begin() as connection:
            insert(connection, rows)

    @rule(rows=calculations)
    def add_one_by_one(self, rows: list[dict[str, Any]]) -> None:
        with self.engine.begin() as connection:
            for row in rows:
                insert(connection, [row])

    @rule(rows=calculations, n=st.integers(1, 3))
    def copy(self, rows: list[dict[str, Any]], n: int) -> None:
        self.run(PUBLIC_MOLECULE)
        with self.engine.begin() as connection, connection.connection.cursor() as cursor:
            molecule = connection.scalar(text("SELECT min(id) FROM public.molecules WHERE smiles = 'public'"))
            lines = [
                "\t".join([str(molecule), *("\\N" if row[name] is None else str(row[name]) for name in _NAMES)])
                for row in rows * n
            ]
            file = StringIO("\n".join(lines))
            cursor.copy_expert(f"COPY public.calculations (molecule_id, {_COLUMNS}) FROM STDIN", file)

    @rule(rows=calculations)
    def roll_back(self, rows: list[dict[str, Any]]) -> None:
        with self.engine.connect() as connection, connection.begin() as transaction:
            insert(connection, rows)
            savepoint = connection.begin_nested()
            connection.execute(text("DELETE FROM public.calculations WHERE id % 2 = 0"))
            savepoint.rollback()
            assert_kept(connection)
            transaction.rollback()

    @rule(rows=calculations, every=st.integers(1, 4))
    def change(self, rows: list[dict[str, Any]], every: int) -> None:
        columns = "method, convergence_status, energy, gap, dipole, total_charge, created_at, user_id"
        self.run(
            f"UPDATE public.calculations AS c SET ({columns}) = (SELECT {columns} FROM ({_ROWS} LIMIT 1) AS r) "
            "WHERE id % :every = 0 AND source_id IS NULL",
            rows=json.dumps(rows),
            every=every,
        )

    @rule()
    def change_nothing_that_counts(self) -> None:
        self.run("UPDATE public.calculations SET metadata = '{\"a\": 1}', homo = -9")

    @rule(rows=calculations)
    def merge(self, rows: list[dict[str, Any]]) -> None:
        self.run(PUBLIC_MOLECULE)
        self.run(
            f"MERGE INTO public.calculations AS c USING ({_ROWS}) AS r ON c.gap = r.gap AND c.method = 'GFN-FF' "
            "WHEN MATCHED AND r.energy < 0 THEN DELETE WHEN MATCHED THEN DO NOTHING "
            f"WHEN NOT MATCHED THEN INSERT (molecule_id, {_COLUMNS}) VALUES "
            "((SELECT min(id) FROM public.molecules WHERE smiles = 'public'), "
            f"{', '.join(f'r.{name}' for name in _NAMES)})",
            rows=json.dumps([row | {"gap": n + 0.5} for n, row in enumerate(rows)]),
        )

    @rule(owner=st.sampled_from(OWNERS), n=st.integers(1, 5))
    def load_again(self, owner: uuid.UUID | None, n: int) -> None:
        self.run(PUBLIC_MOLECULE)
        self.run(
            "INSERT INTO public.calculations (user_id, molecule_id, energy, gap, source_id) "
            "SELECT :owner, (SELECT min(id) FROM public.molecules WHERE smiles = 'public'), -i, i, 'run ' || i "
            "FROM generate_series(1, :n) AS i ON CONFLICT (user_id, source_id) WHERE source_id IS NOT NULL "
            "DO UPDATE SET gap = excluded.gap + 1",
            owner=owner,
            n=n,
        )

    @rule(every=st.integers(1, 3))
    def delete(self, every: int) -> None:
        self.run("DELETE FROM public.calculations WHERE id % :every = 0", every=every)

    @rule(source=st.sampled_from(OWNERS), to=st.sampled_from(OWNERS))
    def move(self, source: uuid.UUID | None, to: uuid.UUID | None) -> None:
        if source == to or PUBLIC_USER_ID in {source, to}:
            return
        try:
            self.service.admin.transfer(source, to)
        except qf.Conflict:
            assert_kept_of(self.engine)

    @rule(owner=st.sampled_from(OWNERS), n=st.integers(1, 6))
    def add_molecules_and_a_batch(self, owner: uuid.UUID | None, n: int) -> None:
        with self.engine.begin() as connection:
            keys = connection.execute(
                text(
                    "INSERT INTO public.molecules (user_id, smiles, formula) "
                    "SELECT :owner, 'C' || i || gen_random_uuid(), 'C' FROM generate_series(1, :n) AS i RETURNING id"
                ),
                {"owner": owner, "n": n},
            ).scalars()
            batch = connection.execute(
                text("INSERT INTO public.batch_jobs (user_id, batch_name) VALUES (:owner, 'b') RETURNING id"),
                {"owner": owner},
            ).scalar_one()
            connection.execute(
                text("INSERT INTO public.batch_items (user_id, batch_id, molecule_id) VALUES (:owner, :batch, :key)"),
                [{"owner": owner, "batch": batch, "key": key} for key in keys],
            )

    @rule(status=st.sampled_from(["processing", "completed", "failed"]), every=st.integers(1, 3))
    def work_on_batches(self, status: str, every: int) -> None:
        self.run("UPDATE public.batch_items SET status = :status WHERE id % :every = 0", status=status, every=every)
        self.run("UPDATE public.batch_jobs SET status = 'completed' WHERE id % :every = 0", every=every)

    @rule(every=st.integers(2, 4))
    def delete_molecules_with_what_hangs_on_them(self, every: int) -> None:
        self.run("DELETE FROM public.molecules WHERE id % :every = 1", every=every)

    @rule(every=st.integers(2, 4))
    def delete_batches(self, every: int) -> None:
        self.run("DELETE FROM public.batch_jobs WHERE id % :every = 1", every=every)

    @rule(table=st.sampled_from(["molecules", "calculations", "batch_jobs", "batch_items"]))
    def truncate(self, table: str) -> None:
        self.run(f"TRUNCATE public.{table} CASCADE")

    @rule(n=st.integers(1, 4))
    def a_tenant_adds_and_deletes(self, n: int) -> None:
        self.run(PUBLIC_MOLECULE)
        with self.alice.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO public.calculations (molecule_id, energy, gap) "
                    "SELECT (SELECT min(id) FROM public.molecules WHERE smiles = 'public'), i, i "
                    "FROM generate_series(1, :n) AS i"
                ),
                {"n": n},
            )
            connection.execute(text("DELETE FROM public.calculations WHERE gap = 1"))

    @rule()
    def compact(self) -> None:
        self.run("SELECT qforge.compact_statistics()")

    @rule()
    def refresh(self) -> None:
        with self.engine.begin() as connection:
            assert connection.scalar(text("SELECT qforge.refresh_statistics()")) == 0

    @invariant()
    def the_statistics_are_those_of_the_rows(self) -> None:
        assert_kept_of(self.engine)
        with Session(self.engine) as session:
            assert_stats(session, "true")
            assert_stats(session, f"user_id IN ('{ALICE}', '{PUBLIC_USER_ID}')", ALICE)


def assert_kept_of(engine: Engine) -> None:
    with engine.connect() as connection:
        assert_kept(connection)


@pytest.fixture(scope="module")
def machine_url(databases_of: DatabasesOf) -> Iterator[str]:
    databases = databases_of()
    with databases.clone() as name:
        yield databases.url(name)


def test_random_changes_leave_the_statistics_right(machine_url: str, long: bool) -> None:
    Machine.engine, Machine.alice = create_engine(machine_url), create_engine(machine_url)
    Scope(ALICE).attach(Machine.alice)
    with qf.connect(machine_url) as Machine.service:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=300 if long else 12,
                stateful_step_count=40 if long else 20,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    Machine.engine.dispose()
    Machine.alice.dispose()


# Numbers at the edges -----------------------------------------------------------------------------------------------


@pytest.fixture
def service(engine: Engine) -> Iterator[Connection]:
    """The service's connection on a database of this test's own, in a transaction."""
    with engine.begin() as connection:
        yield connection


def row(**values: Any) -> dict[str, Any]:
    usual = dict.fromkeys(_NAMES) | {"method": "GFN2-xTB", "convergence_status": "error", "total_charge": 0.0}
    return usual | {"created_at": "2026-05-01T00:00:00Z"} | values


def test_a_day_begins_at_midnight_utc_whatever_the_session_s_zone(service: Connection) -> None:
    service.execute(text("SET LOCAL timezone = 'Pacific/Auckland'"))
    insert(service, [row(created_at=f"1969-12-31T{time}Z") for time in ("00:00:00", "23:59:59.999999")])
    insert(service, [row(created_at="1970-01-01T00:00:00Z")])

    days = service.execute(
        text("SELECT cell, sum(n) FROM qforge.statistics_parts WHERE kind = 'calculations' GROUP BY 1 ORDER BY 1")
    )

    assert [tuple(one) for one in days] == [(-1, 2), (0, 1)]


@pytest.mark.parametrize("time", ["infinity", "-infinity", "4713-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999"])
def test_any_time_is_counted_and_taken_back(service: Connection, time: str) -> None:
    insert(service, [row(created_at=time)])
    cells = (
        service.execute(text("SELECT cell FROM qforge.statistics_parts WHERE kind = 'calculations'")).scalars().all()
    )
    service.execute(text("DELETE FROM public.calculations"))

    assert len(cells) == 1
    assert kept(service)[0].keys() == {("molecules", PUBLIC_USER_ID, "", "", 0)}


def test_sums_of_energies_lose_no_bit_to_large_ones(service: Connection) -> None:
    insert(service, [row(energy=energy) for energy in (-76.12345678901234, 1e18, -1e18, 65536.0, -1e300, 1e300)])
    service.execute(text("DELETE FROM public.calculations WHERE abs(energy) > 65536"))

    with Session(service) as session:
        assert crud.get_database_stats(session).average_energy == (-76.12345678901234 + 65536.0) / 2


@given(gaps=st.lists(st.one_of(st.floats(-1e300, 1e300), st.integers(-3, 3).map(float)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_the_median_is_the_one_that_sorting_finds(shared_engine: Engine, gaps: list[float]) -> None:
    with shared_engine.connect() as connection, connection.begin() as transaction:
        insert(connection, [row(gap=gap, user_id=[None, str(ALICE)][n % 2]) for n, gap in enumerate(gaps)])
        with Session(connection) as session:
            found = crud.get_database_stats(session).median_gap
        transaction.rollback()

    middle = sorted(gaps)[(len(gaps) - 1) // 2 : len(gaps) // 2 + 1]
    assert found == pytest.approx(middle[0] + (middle[-1] - middle[0]) * 0.5, rel=1e-15)


def test_a_million_equal_numbers_are_not_gone_through(service: Connection) -> None:
    service.execute(text(PUBLIC_MOLECULE))
    service.execute(
        text(
            "INSERT INTO public.calculations (molecule_id, energy, gap) "
            "SELECT (SELECT min(id) FROM public.molecules), -1, 5 FROM generate_series(1, 20000)"
        )
    )
    service.execute(text("ANALYZE public.calculations"))
    before = pages_read(service)
    with Session(service) as session:
        stats = crud.get_database_stats(session)

    assert (stats.total_calculations, stats.median_gap, stats.average_energy) == (20000, 5.0, -1.0)
    assert pages_read(service) - before < 100


def pages_read(connection: Connection) -> int:
    """Pages of calculations and of their indexes that this transaction has read."""
    return int(
        connection.execute(
            text(
                "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid)) FROM pg_class AS c "
                "WHERE c.oid = 'public.calculations'::regclass "
                "OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'public.calculations'::regclass)"
            )
        ).scalar_one()
    )


# Triggers that did not fire, tables that were emptied ---------------------------------------------------------------


def test_truncate_takes_back_what_it_removes(service: Connection) -> None:
    for owner in OWNERS:
        store_rows(service, owner)
    service.execute(text("TRUNCATE public.batch_jobs, public.calculations CASCADE"))

    assert {key[0] for key in kept(service)[0]} == {"molecules"}
    assert_kept(service)


def test_a_truncate_that_is_rolled_back_takes_nothing(service: Connection) -> None:
    store_rows(service, ALICE)
    savepoint = service.begin_nested()
    service.execute(text("TRUNCATE public.molecules, public.batch_jobs CASCADE"))
    assert kept(service) == ({}, {})
    savepoint.rollback()

    assert_kept(service)
    assert kept(service)[0]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_truncate_under_an_older_snapshot_is_refused(engine: Engine, level: str) -> None:
    with engine.begin() as connection:
        store_rows(connection, ALICE)
    isolated = engine.execution_options(isolation_level=level)

    with pytest.raises(Exception, match="READ COMMITTED"), isolated.begin() as connection:
        connection.execute(text("TRUNCATE public.calculations CASCADE"))

    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM public.calculations")) == 1
        assert_kept(connection)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_changes_under_an_older_snapshot_are_counted(engine: Engine, level: str) -> None:
    with engine.begin() as connection:
        store_rows(connection, ALICE)
    with engine.execution_options(isolation_level=level).begin() as older:
        older.execute(text("SELECT 1 FROM public.calculations"))
        with engine.begin() as connection:
            store_rows(connection, BOB)
            connection.execute(text("SELECT qforge.compact_statistics()"))
        assert_kept(older)
        older.execute(text("UPDATE public.calculations SET gap = 3"))
        older.execute(text("SELECT qforge.compact_statistics()"))
        assert_kept(older)

    assert_kept_of(engine)


def test_counting_afresh_mends_what_triggers_did_not_see(engine: Engine) -> None:
    with engine.begin() as connection:
        store_rows(connection, ALICE)
        connection.execute(text("ALTER TABLE public.calculations DISABLE TRIGGER USER"))
        connection.execute(text("UPDATE public.calculations SET gap = 3, method = 'other'"))
        connection.execute(text("ALTER TABLE public.calculations ENABLE TRIGGER USER"))
        connection.execute(text("DELETE FROM qforge.statistics_changes WHERE kind = 'batch_jobs'"))
        assert kept(connection) != counted(connection)

        wrong = [connection.scalar(text("SELECT qforge.refresh_statistics()")) for _ in range(2)]

        # The old and the new method of its day, energy and charge, the gap that it got, the batch.
        assert wrong == [8, 0]
        assert_kept(connection)


def test_counting_afresh_waits_for_writers(engine: Engine) -> None:
    with ThreadPoolExecutor(1) as pool, engine.connect() as writer:
        transaction = writer.begin()
        store_rows(writer, ALICE)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(Exception, match="lock timeout"):
                connection.execute(text("SELECT qforge.refresh_statistics()"))
        refreshed = pool.submit(refresh, engine)
        transaction.commit()

        assert refreshed.result() == 0
    assert_kept_of(engine)


def refresh(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.execute(text("SELECT qforge.refresh_statistics()")).scalar_one())


def test_a_filled_database_of_an_older_revision_is_counted(any_version: Databases) -> None:
    with any_version.clone(migrated=False) as name:
        engine = create_engine(any_version.url(name), poolclass=NullPool)
        with engine.begin() as connection:
            config = schema._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0003")
            for owner in OWNERS:
                store_rows(connection, owner)
            insert(connection, [row(gap=n / 7, energy=-n / 3, method=f"M{n % 3}") for n in range(50)])

        schema.upgrade(engine)

        assert_kept_of(engine)
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT count(*) FROM qforge.statistics_changes")) == 0
            insert(connection, [row(gap=1.0)])
            connection.execute(text("DELETE FROM public.calculations WHERE gap > 5"))
        assert_kept_of(engine)
        with Session(engine) as session:
            assert_stats(session, "true")


# Compaction ---------------------------------------------------------------------------------------------------------


def changes(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM qforge.statistics_changes")).scalar_one())


def test_compaction_leaves_sums_and_no_empty_cell(service: Connection) -> None:
    insert(service, [row(gap=n / 10, user_id=str(ALICE)) for n in range(40)])
    before = kept(service)
    service.execute(text("SELECT qforge.compact_statistics()"))

    assert changes(service) == 0
    assert kept(service, "qforge.statistics") == before
    service.execute(text("DELETE FROM public.calculations WHERE gap < 2"))
    service.execute(text("SELECT qforge.compact_statistics()"))
    assert service.scalar(text("SELECT count(*) FROM qforge.statistics WHERE n = 0")) == 0
    assert_kept(service)


def test_every_4096th_change_adds_all_up(service: Connection) -> None:
    service.execute(text(PUBLIC_MOLECULE))
    most = 0
    for n in range(30):
        insert(service, [row(gap=n + i * 3.0, energy=-i * 3.0) for i in range(100)])
        most = max(most, changes(service))

    assert 2000 < most <= 4096 + 2 * 100 + 10
    assert_kept(service)


def test_compaction_does_not_wait_for_its_turn(engine: Engine) -> None:
    with engine.begin() as connection:
        store_rows(connection, ALICE)
    with engine.begin() as holder:
        holder.execute(text("SELECT FROM qforge.statistics_turn FOR UPDATE"))
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            found = changes(connection)
            connection.execute(text("SELECT qforge.compact_statistics()"))
            store_rows(connection, BOB)
            assert changes(connection) > found > 0
    assert_kept_of(engine)


def test_eight_writers_at_once_are_all_counted(engine: Engine, long: bool) -> None:
    with engine.begin() as connection:
        connection.execute(text(PUBLIC_MOLECULE))
    stop = threading.Event()
    snapshots: list[bool] = []

    def write(seed: int) -> None:
        dice = random.Random(seed)
        url = engine.url
        writer = create_engine(url, poolclass=NullPool)
        with writer.connect() as connection:
            for _ in range(200 if long else 25):
                transaction = connection.begin()
                rows = [
                    row(
                        user_id=dice.choice([str(ALICE), str(BOB), None]),
                        method=dice.choice(METHODS),
                        gap=dice.uniform(0, 10),
                        energy=dice.uniform(-50, 0),
                    )
                    for _ in range(dice.choice([1, 1, 5, 60]))
                ]
                insert(connection, rows)
                # Of its own rows: writers must not wait for each other here.
                connection.execute(
                    text("UPDATE public.calculations SET gap = gap + 1 WHERE xmin = pg_current_xact_id()::xid")
                )
                if dice.random() < 0.3:
                    connection.execute(text("SELECT qforge.compact_statistics()"))
                if dice.random() < 0.2:
                    transaction.rollback()
                else:
                    transaction.commit()

    def watch() -> None:
        reader = create_engine(engine.url, poolclass=NullPool).execution_options(isolation_level="REPEATABLE READ")
        while not stop.is_set():
            with reader.begin() as connection:
                snapshots.append(kept(connection) == counted(connection))

    with ThreadPoolExecutor(9) as pool:
        watched = pool.submit(watch)
        for done in [pool.submit(write, seed) for seed in range(8)]:
            done.result()
        stop.set()
        watched.result()

    assert len(snapshots) > 3
    assert all(snapshots)
    assert_kept_of(engine)


# Who sees what ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared_url(database_url: str, engine: Engine) -> str:
    """A database in which each owner has calculations, as many as its place in :data:`OWNERS` says."""
    with engine.begin() as connection:
        connection.execute(text(PUBLIC_MOLECULE))
        for n, owner in enumerate(OWNERS, 1):
            insert(connection, [row(user_id=None if owner is None else str(owner), gap=n + 0.5)] * n)
    return database_url


READ = "SELECT user_id, sum(n)::int FROM qforge.read_statistics('{gap}') GROUP BY 1"
SEEN = {ALICE: {ALICE: 1, PUBLIC_USER_ID: 3}, BOB: {BOB: 2, PUBLIC_USER_ID: 3}}
EVERYBODYS = {ALICE: 1, BOB: 2, PUBLIC_USER_ID: 3, None: 4}


def seen(url: str, *statements: str) -> dict[uuid.UUID | None, int]:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
        return dict(map(tuple, connection.execute(text(READ))))


@pytest.mark.parametrize("tenant", SEEN)
def test_a_login_reads_the_statistics_of_its_own_and_public_rows(
    shared_url: str, tenant_login: TenantLogin, tenant: uuid.UUID
) -> None:
    login = tenant_login(shared_url, tenant)

    assert seen(login) == SEEN[tenant]
    assert seen(login, "SET ROLE qforge_tenant", f"SET request.jwt.claim.sub = '{BOB}'") == SEEN[tenant]
    assert seen(login, "SET row_security = off") == SEEN[tenant]


@pytest.mark.parametrize("tenant", SEEN)
def test_a_scope_reads_the_same(shared_url: str, tenant_client: TenantClient, tenant: uuid.UUID) -> None:
    found = tenant_client(tenant).sql(READ.replace("user_id,", "user_id::text AS user_id,"))

    assert {uuid.UUID(one.user_id): one.sum for one in found.itertuples()} == SEEN[tenant]


def test_the_service_reads_everybody_s(shared_url: str) -> None:
    assert seen(shared_url) == EVERYBODYS


def test_nobody_reads_the_public_rows_statistics_at_most(shared_url: str, tenant_login: TenantLogin) -> None:
    assert seen(tenant_login(shared_url, None)) == {PUBLIC_USER_ID: 3}
    assert seen(shared_url, "SET LOCAL ROLE qforge_scope") == {PUBLIC_USER_ID: 3}


FORBIDDEN = [
    *(f"{verb} qforge.{table}" for table in ("statistics", "statistics_changes", "statistics_turn")
      for verb in ("SELECT FROM", "DELETE FROM", "TRUNCATE", "LOCK TABLE")),
    "SELECT FROM qforge.statistics_parts",
    "SELECT FROM qforge.statistics_turn FOR UPDATE",
    "INSERT INTO qforge.statistics VALUES ('gap', NULL, '', '', 0, 1, 0)",
    "INSERT INTO qforge.statistics_changes (kind, method, status, cell, n, energy) VALUES ('gap', '', '', 0, 1, 0)",
    "UPDATE qforge.statistics SET n = 0",
    "SELECT qforge.compact_statistics()",
    "SELECT qforge.refresh_statistics()",
    "SELECT nextval('qforge.statistics_changes_id_seq')",
    "SELECT last_value FROM qforge.statistics_changes_id_seq",
    "CREATE TEMP TABLE molecules (user_id uuid); CREATE TRIGGER t AFTER INSERT ON molecules REFERENCING NEW TABLE AS "
    "new_rows FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_insert()",
]  # fmt: skip


def test_a_tenant_reaches_none_of_it_otherwise(shared_url: str, tenant_login: TenantLogin, engine: Engine) -> None:
    login = make_url(tenant_login(shared_url, ALICE)).set(drivername="postgresql")
    allowed = []
    for statement in FORBIDDEN:
        connection = psycopg2.connect(login.render_as_string(hide_password=False))
        with connection.cursor() as cursor:
            try:
                cursor.execute(statement)
                allowed.append(statement)
            except psycopg2.errors.InsufficientPrivilege:
                pass
        connection.close()

    assert allowed == []
    assert_kept_of(engine)


def test_a_tenant_s_temporary_tables_are_not_counted(
    shared_url: str, tenant_login: TenantLogin, engine: Engine
) -> None:
    with create_engine(tenant_login(shared_url, ALICE), poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TEMP TABLE new_rows (user_id uuid, id bigint)"))
        connection.execute(text("CREATE TEMP TABLE statistics_parts (n int)"))
        connection.execute(text("INSERT INTO public.batch_jobs (batch_name) VALUES ('b')"))
    assert_kept_of(engine)


def test_supabase_s_service_key_reads_everybody_s_and_its_users_their_own(supabase_url: str) -> None:
    with create_engine(supabase_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(PUBLIC_MOLECULE))
        for n, owner in enumerate(OWNERS, 1):
            insert(connection, [row(user_id=None if owner is None else str(owner), gap=n + 0.5)] * n)
    api = make_url(supabase_url).set(username="authenticator").render_as_string(hide_password=False)
    claims = f'SET LOCAL request.jwt.claims = \'{{"sub": "{ALICE}"}}\''

    assert seen(api, "SET LOCAL ROLE service_role") == EVERYBODYS
    assert seen(api, "SET LOCAL ROLE authenticated", claims) == SEEN[ALICE]
    assert seen(api, "SET LOCAL ROLE authenticated") == {PUBLIC_USER_ID: 3}
    with pytest.raises(Exception, match="permission denied"):
        seen(api, "SET LOCAL ROLE anon")


def test_a_deleted_tenant_leaves_no_trace(shared_url: str, engine: Engine) -> None:
    with qf.connect(shared_url) as client:
        client.admin.delete_tenant(ALICE, dry_run=False)

    with engine.begin() as connection:
        for table in ("statistics", "statistics_changes"):
            found = connection.execute(text(f"SELECT count(*) FROM qforge.{table} WHERE user_id = '{ALICE}'"))
            assert found.scalar_one() == 0
        assert_kept(connection)


def test_loads_exports_and_restores_are_counted(database_url: str, databases_of: DatabasesOf, tmp_path: Any) -> None:
    with qf.connect(database_url) as client:
        smiles = ["C" * n for n in range(1, 21)]
        client.molecules.bulk_load({"smiles": smiles})
        client.calculations.bulk_load({"smiles": smiles * 5, "energy": [-1.5] * 100, "gap": list(range(100))})
        client.batches.create("b", molecules=smiles)
        client.export(tmp_path / "export")
        with client.session() as session:
            assert_kept(session.connection())
    databases = databases_of()
    with databases.clone() as name, qf.connect(databases.url(name)) as client:
        client.restore(tmp_path / "export")
        with client.session() as session:
            assert_kept(session.connection())
        assert client.stats().total_calculations == 100


def test_a_tenant_s_own_statistics_are_those_of_its_rows(shared_url: str, tenant_session: TenantSession) -> None:
    for tenant in (ALICE, BOB):
        assert_stats(tenant_session(tenant), "true")
