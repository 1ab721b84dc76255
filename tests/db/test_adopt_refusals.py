"""When an adoption does not happen: the reason is told, and the old database is as it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import make_url, text

import qforge_sdk as qf
from qforge_sdk.db import database, schema
from qforge_sdk.db.adopt import adopt, old_tables, parents, run, steps
from qforge_sdk.db.database import check_db_health
from tests.fixtures.catalog import EVERYTHING, catalog
from tests.fixtures.databases import Databases, DatabasesOf
from tests.fixtures.old_module import OldModule, connected, engine_of, fetch
from tests.fixtures.tenants import ALICE

State = tuple[dict[str, set[str]], dict[str, list[dict[str, Any]]]]
OLD = OldModule("policies")


@contextmanager
def filled(databases: Databases) -> Iterator[str]:
    with databases.clone(migrated=False) as name:
        OLD.create(databases, name)
        OLD.fill(databases.url(name), molecules=60)
        yield databases.url(name)


@pytest.fixture
def old_url(databases_of: DatabasesOf) -> Iterator[str]:
    """URL of a filled database of the old module."""
    with filled(databases_of()) as url:
        yield url


@pytest.fixture(scope="module")
def untouched(databases_of: DatabasesOf) -> Iterator[tuple[str, State]]:
    """URL of one for all tests that fail to change it, and what it holds."""
    with filled(databases_of()) as url:
        yield url, state(url)


def state(url: str, old: OldModule = OLD) -> State:
    """Catalog and rows."""
    queries = {name: query for name, query in EVERYTHING.items() if name not in {"revision", "comments"}}
    return catalog(url, queries), old.read(url)


def execute(url: str, *statements: str) -> None:
    with connected(url) as cursor:
        for statement in statements:
            cursor.execute(statement)


# What is no old database ------------------------------------------------------------------------------------------


def test_an_empty_database_has_nothing_to_adopt(empty_database_url: str) -> None:
    with pytest.raises(qf.SchemaMissing, match="holds no tables of the old database module; create the schema with"):
        adopt(engine_of(empty_database_url))


def test_a_current_database_has_nothing_to_adopt(database_url: str) -> None:
    with pytest.raises(qf.Conflict, match=f"has schema revision {schema.head_revision()} already"):
        adopt(engine_of(database_url), dry_run=False)


def test_a_database_of_a_newer_package_is_left_alone(database_url: str) -> None:
    execute(database_url, "UPDATE qforge.alembic_version SET version_num = '9999'")
    with pytest.raises(qf.SchemaOutdated, match="upgrade qforge_sdk"):
        adopt(engine_of(database_url), dry_run=False)


FOREIGN = {
    "uuid keys": (
        "CREATE TABLE public.molecules (id uuid PRIMARY KEY, smiles text NOT NULL, name text, formula text);"
        "CREATE TABLE public.calculations (id uuid PRIMARY KEY, molecule_id uuid, energy_hartree numeric)",
        "molecules.id is uuid, not an integer; calculations.id is uuid, not an integer; calculations.molecule_id is "
        "uuid, not an integer; calculations lacks the column energy",
    ),
    "another application": (
        "CREATE TABLE public.event_logs (id int PRIMARY KEY, payload text)",
        "there is no table molecules; there is no table calculations; event_logs lacks the column event_type",
    ),
    "a view": ("CREATE VIEW public.molecules AS SELECT 1 AS id", "holds no tables of the old database module"),
    "text for a number": (None, "calculations.energy is text, not a number"),
    "no key": (None, "batch_jobs has no primary key on id"),
}
COLUMNS = """
    SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
    WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3
"""
CHANGES = {
    "text for a number": "ALTER TABLE public.calculations ALTER COLUMN energy TYPE text",
    "no key": "ALTER TABLE public.batch_jobs DROP CONSTRAINT batch_jobs_pkey CASCADE",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_tables_of_another_shape_are_left_alone(databases_of: DatabasesOf, kind: str) -> None:
    script, message = FOREIGN[kind]
    databases, old = databases_of(), OldModule("orm")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        if script is None:
            old.create(databases, name)
        execute(url, script or CHANGES[kind])
        before = fetch(url, COLUMNS)
        with pytest.raises((qf.Conflict, qf.SchemaMissing)) as caught:
            adopt(engine_of(url), dry_run=False)
        assert message in str(caught.value)
        assert fetch(url, "SELECT to_regnamespace('qforge') IS NULL")[0][0]
        assert fetch(url, COLUMNS) == before


def test_an_unknown_word_for_unowned_rows_is_refused(empty_database_url: str) -> None:
    with pytest.raises(qf.InvalidInput, match="'service' or 'public', not 'everybody'"):
        adopt(engine_of(empty_database_url), unowned="everybody")


# What stands in the way -------------------------------------------------------------------------------------------


def test_only_the_owner_of_the_tables_adopts_them(databases_of: DatabasesOf) -> None:
    databases, old = databases_of(), OldModule("orm")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        databases.server.execute("ALTER TABLE public.molecules OWNER TO postgres",
                                 f"GRANT ALL ON public.molecules TO {databases.owner}", database=name)  # fmt: skip
        with pytest.raises(qf.AccessDenied, match="molecules belongs to postgres; log in as that role"):
            adopt(engine_of(url), dry_run=False)


def test_a_session_that_uses_the_tables_is_told(
    untouched: tuple[str, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = untouched
    monkeypatch.setattr(old_tables, "_LOCK_SECONDS", 0.2)
    with connected(url) as cursor:
        cursor.execute("SELECT count(*) FROM public.molecules")
        with pytest.raises(
            qf.Conflict, match="another session has used the old tables in a transaction that is open"
        ):
            adopt(engine_of(url))
    assert adopt(engine_of(url)).tables.found[0] == 60


def test_an_object_that_cannot_be_carried_over_is_named(old_url: str) -> None:
    execute(old_url, "CREATE FUNCTION public.all_molecules() RETURNS SETOF public.molecules LANGUAGE sql AS "
                     "'SELECT * FROM public.molecules'")  # fmt: skip
    before = state(old_url)
    with pytest.raises(qf.Conflict, match=r"function public.all_molecules\(\) depends on type public.molecules"):
        adopt(engine_of(old_url), dry_run=False)
    assert state(old_url) == before


def test_a_policy_that_does_not_fit_the_new_tables_is_named(old_url: str) -> None:
    execute(
        old_url,
        """CREATE POLICY scored ON public.calculation_errors AS RESTRICTIVE USING (EXISTS (
                     SELECT 1 FROM public.calculations AS c WHERE c.id = calculation_id AND c.quality_score > 0))""",
    )
    before = state(old_url)
    with pytest.raises(qf.Conflict, match=r"the policy public.calculation_errors: scored .*quality_score does not"):
        adopt(engine_of(old_url), dry_run=False)
    assert state(old_url) == before


# What happens on the way ------------------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> None:
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("module", "name"),
    [(schema, "to_head"), (run, "validate_structures"), (run, "provide_molecules"), (run, "verify"), (run, "record")],
)
def test_a_failure_leaves_the_old_database_as_it_was(
    untouched: tuple[str, State], monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    url, before = untouched
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        adopt(engine_of(url), dry_run=False)
    assert state(url) == before


@pytest.mark.parametrize(
    ("table", "column", "wrong"),
    [
        ("calculations", "energy", "{energy} + 1e-9"),
        ("calculations", "metadata", "'{{}}'"),
        ("molecules", "created_at", "now()"),
        ("molecules", "name", "upper({name})"),
        ("atomic_properties", "position_x", "{position_y}"),
        ("batch_items", "calculation_id", "NULL"),
        ("event_logs", "status", "'error'"),
        ("calculations", "metadata", "{metadata} || jsonb_build_object('n', 1)"),
    ],
)
def test_what_is_not_stored_as_it_was_is_noticed(
    untouched: tuple[str, State], monkeypatch: pytest.MonkeyPatch, table: str, column: str, wrong: str
) -> None:
    url, before = untouched
    step = steps.STEPS[table]
    monkeypatch.setitem(steps.STEPS, table, replace(step, instead={**step.instead, column: wrong}))
    with pytest.raises(qf.DatabaseError, match=f"{table}: .* rows are not as they were.*nothing was changed"):
        adopt(engine_of(url), dry_run=False)
    assert state(url) == before


def test_a_row_that_is_lost_is_noticed(untouched: tuple[str, State], monkeypatch: pytest.MonkeyPatch) -> None:
    url, before = untouched
    step = steps.STEPS["calculations"]
    monkeypatch.setitem(
        steps.STEPS, "calculations", replace(step, joins=f"{step.joins} JOIN pg_class AS nothing ON false")
    )
    with pytest.raises(qf.DatabaseError, match="calculations: of 120 rows 0 were adopted and 0 set aside"):
        adopt(engine_of(url), dry_run=False)
    assert state(url) == before


def test_a_killed_adoption_leaves_the_old_database_as_it_was(databases_of: DatabasesOf, long: bool) -> None:
    databases = databases_of()
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        OLD.create(databases, name)
        OLD.fill(url)
        before = state(url)
        whole = adopt(engine_of(url)).seconds
        for seed in range(20 if long else 2):
            kill_one(url, random.Random(seed).uniform(0, whole / 2))
            assert state(url) == before
        assert adopt(engine_of(url), dry_run=False).tables.adopted.sum() == 3_200


def kill_one(url: str, after: float) -> None:
    """Start an adoption and kill its process, some time after it has locked the tables."""
    code = (
        "import sys; from sqlalchemy import create_engine; from qforge_sdk.db.adopt import adopt; "
        "adopt(create_engine(sys.argv[1]), dry_run=False)"
    )
    bare = make_url(url).render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", code, bare], env=os.environ)
    locked = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation IS NOT NULL"
    while not fetch(url, locked) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while fetch(url, others):
        time.sleep(0.02)


def test_a_lost_connection_leaves_the_old_database_as_it_was(
    untouched: tuple[str, State], monkeypatch: pytest.MonkeyPatch, databases_of: DatabasesOf
) -> None:
    url, before = untouched
    inside: Callable[..., Any] = parents.provide_molecules

    def lose(cursor: Any, tables: Any) -> Any:
        cursor.execute("SELECT pg_backend_pid()")
        databases_of().server.execute(f"SELECT pg_terminate_backend({cursor.fetchone()[0]})")
        return inside(cursor, tables)

    monkeypatch.setattr(run, "provide_molecules", lose)
    with pytest.raises(qf.ConnectionFailed):
        adopt(engine_of(url), dry_run=False)
    assert state(url) == before


# Who is told to adopt ---------------------------------------------------------------------------------------------


def test_every_way_in_names_the_command(untouched: tuple[str, State]) -> None:
    url, _ = untouched
    with pytest.raises(qf.SchemaMissing, match="the old database module; run: qforge db adopt"):
        qf.connect(url)
    with pytest.raises(qf.SchemaMissing, match="qforge db adopt"):
        qf.connect(url, user_id=ALICE)
    with pytest.raises(qf.SchemaMissing, match="qforge db adopt"):
        schema.upgrade(engine_of(url))
    health = check_db_health(engine_of(url))
    assert (health.status, health.tables_exist) == ("unhealthy", False)
    assert "qforge db adopt" in health.message
    with engine_of(url).connect() as connection:
        assert schema.status(connection).old_module


def test_setup_database_does_not_touch_the_old_tables(untouched: tuple[str, State]) -> None:
    url, before = untouched
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(database.close_db)
        with pytest.raises(qf.SchemaMissing, match="qforge db adopt"):
            database.setup_database(url)
    assert state(url) == before


def test_a_new_database_is_not_taken_for_an_old_one(database_url: str, empty_database_url: str) -> None:
    for url in (database_url, empty_database_url):
        with engine_of(url).connect() as connection:
            assert not schema.status(connection).old_module
            assert connection.execute(text("SELECT 1")).scalar() == 1
