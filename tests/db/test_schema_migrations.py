"""The migrations build the schema wherever they are run, and say what stops them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from alembic import command
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session

import qforge_sdk as qf
from qforge_sdk.db import schema
from qforge_sdk.errors import AccessDenied, SchemaMissing, SchemaOutdated
from tests.fixtures.catalog import EVERYTHING, TABLES, catalog
from tests.fixtures.databases import Databases
from tests.fixtures.rows import store_rows
from tests.fixtures.servers import MAIN, PostgresServer, Servers
from tests.fixtures.tenants import ALICE, TenantEngine

HEAD = schema.head_revision()


def engine_of(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


def owners_of_tables(url: str) -> dict[str, str]:
    with engine_of(url).connect() as connection:
        rows = connection.execute(text("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'"))
        return {row.tablename: row.tableowner for row in rows}


def is_superuser(url: str) -> bool:
    with engine_of(url).connect() as connection:
        return bool(
            connection.execute(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).scalar_one()
        )


def test_an_ordinary_owner_gets_every_table(any_version_url: str) -> None:
    assert not is_superuser(any_version_url)
    assert owners_of_tables(any_version_url) == dict.fromkeys(TABLES, "qforge_owner")


def test_supabase_s_postgres_gets_every_table(supabase_url: str) -> None:
    assert not is_superuser(supabase_url)
    assert owners_of_tables(supabase_url) == dict.fromkeys(TABLES, "postgres")


def test_the_first_upgrade_reports_that_nothing_was_there(empty_database_url: str) -> None:
    assert schema.upgrade(engine_of(empty_database_url)) == schema.SchemaStatus(found=None, expected=HEAD)


def test_the_second_upgrade_changes_nothing(database_url: str) -> None:
    before = catalog(database_url, EVERYTHING)

    found = schema.upgrade(engine_of(database_url))

    assert found.is_current
    assert catalog(database_url, EVERYTHING) == before


def test_psql_runs_the_printed_sql_to_the_same_catalog(any_version: Databases) -> None:
    with any_version.clone(migrated=False) as printed, any_version.clone() as online:
        done = any_version.server.psql(printed, schema.upgrade_sql(), user=any_version.owner)

        assert done.returncode == 0, done.stderr
        assert catalog(any_version.url(printed), EVERYTHING) == catalog(any_version.url(online), EVERYTHING)


def test_psql_runs_the_printed_sql_on_supabase(supabase: Databases) -> None:
    with supabase.clone(migrated=False) as printed, supabase.clone() as online:
        done = supabase.server.psql(printed, schema.upgrade_sql(), user=supabase.owner)

        assert done.returncode == 0, done.stderr
        assert catalog(supabase.url(printed), EVERYTHING) == catalog(supabase.url(online), EVERYTHING)


def test_a_scope_on_an_older_database_says_what_to_run(servers: Servers) -> None:
    server = servers.get(MAIN, superuser="fresh")
    server.execute("CREATE ROLE old_owner LOGIN CREATEROLE", "CREATE DATABASE old OWNER old_owner")
    url = server.url("old", user="old_owner")
    with engine_of(url).begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    with pytest.raises(SchemaOutdated, match="qforge db upgrade"):
        qf.connect(url, user_id=ALICE)

    schema.upgrade(engine_of(url))
    with qf.connect(url, user_id=ALICE) as client:
        assert client.molecules.create("CCO").user_id == str(ALICE)
    server.execute("DROP DATABASE old WITH (FORCE)", "DROP ROLE qforge_scope, qforge_tenant, old_owner")


def test_a_filled_database_of_an_older_revision_becomes_the_same(any_version: Databases) -> None:
    with any_version.clone(migrated=False) as old, any_version.clone() as new:
        engine = engine_of(any_version.url(old))
        with engine.begin() as connection:
            config = schema._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            rows = store_rows(connection, ALICE)
            connection.execute(text("UPDATE public.molecules SET name = 'before'"))

        assert schema.upgrade(engine).found == "0001"

        assert catalog(any_version.url(old), EVERYTHING) == catalog(any_version.url(new), EVERYTHING)
        with engine.begin() as connection:
            for table in TABLES:
                found = connection.execute(text(f"SELECT count(*) FROM public.{table} WHERE {rows.where(table)}"))
                assert found.scalar_one() == 1
            connection.execute(text("UPDATE public.molecules SET name = 'after'"))
            changed = connection.execute(
                text("SELECT context->'after'->>'name' FROM public.event_logs WHERE event_type = 'molecule_updated'")
            )
            assert set(changed.scalars()) == {"before", "after"}


def test_concurrent_upgrades_take_turns(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: schema.upgrade(engine_of(empty_database_url)).found, range(4)))

    assert sorted(found, key=str) == [HEAD, HEAD, HEAD, None]


def test_a_failed_upgrade_leaves_nothing_behind(empty_database_url: str) -> None:
    engine = engine_of(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.event_logs (id int)"))

    with pytest.raises(Exception, match="event_logs"):
        schema.upgrade(engine)

    assert owners_of_tables(empty_database_url) == {"event_logs": "qforge_owner"}


# Another owner on the same server ---------------------------------------------------------------------------------


@pytest.fixture
def second_owner_url(any_version: Databases) -> Iterator[str]:
    """URL of an empty database whose owner may not create roles, on a server that has qforge_tenant already."""
    any_version.template(migrated=True)
    server = any_version.server
    server.execute("CREATE ROLE second_owner LOGIN", "CREATE DATABASE second OWNER second_owner")
    yield server.url("second", user="second_owner")
    server.execute("DROP DATABASE second WITH (FORCE)", "DROP ROLE second_owner")


def test_a_second_owner_who_may_not_create_roles_is_told_the_cure(second_owner_url: str) -> None:
    with pytest.raises(AccessDenied, match="GRANT qforge_tenant TO second_owner WITH ADMIN OPTION"):
        schema.upgrade(engine_of(second_owner_url))


def test_a_second_owner_is_told_of_the_scopes_role_too(second_owner_url: str, any_version: Databases) -> None:
    any_version.server.execute("GRANT qforge_tenant TO second_owner WITH ADMIN OPTION")

    with pytest.raises(AccessDenied, match="GRANT qforge_scope TO second_owner WITH ADMIN OPTION"):
        schema.upgrade(engine_of(second_owner_url))


def test_a_second_owner_can_migrate_after_the_cure(second_owner_url: str, any_version: Databases) -> None:
    any_version.server.execute("GRANT qforge_tenant, qforge_scope TO second_owner WITH ADMIN OPTION")

    schema.upgrade(engine_of(second_owner_url))

    assert owners_of_tables(second_owner_url) == dict.fromkeys(TABLES, "second_owner")


def test_the_second_owner_speaks_for_tenants_in_its_own_database_only(
    second_owner_url: str, any_version: Databases
) -> None:
    any_version.server.execute("GRANT qforge_tenant, qforge_scope TO second_owner WITH ADMIN OPTION")
    schema.upgrade(engine_of(second_owner_url))
    with any_version.clone() as first:
        elsewhere = make_url(second_owner_url).set(database=first)
        kinds = []
        for url in (second_owner_url, elsewhere):
            with create_engine(url, poolclass=NullPool).connect() as connection:
                kinds.append(connection.execute(text("SELECT qforge.login_kind()")).scalar_one())

    assert kinds == ["service", "other"]


@pytest.fixture
def fresh_server(servers: Servers) -> Iterator[PostgresServer]:
    """A server where nobody made the role qforge_tenant yet."""
    server = servers.get(MAIN, superuser="fresh")
    server.execute("CREATE ROLE plain_owner LOGIN", "CREATE DATABASE plain OWNER plain_owner")
    yield server
    server.execute(
        "DROP DATABASE plain WITH (FORCE)", "DROP ROLE plain_owner", "DROP ROLE IF EXISTS qforge_scope, qforge_tenant"
    )


def test_the_first_owner_who_may_not_create_roles_is_told_the_cure(fresh_server: PostgresServer) -> None:
    url = fresh_server.url("plain", user="plain_owner")

    with pytest.raises(AccessDenied, match="CREATE ROLE qforge_tenant NOLOGIN; GRANT qforge_tenant TO plain_owner"):
        schema.upgrade(engine_of(url))


def test_a_role_that_another_database_is_just_creating_is_waited_for(fresh_server: PostgresServer) -> None:
    fresh_server.execute("ALTER ROLE plain_owner CREATEROLE SUPERUSER")
    url = fresh_server.url("plain", user="plain_owner")
    other = psycopg2.connect(host="127.0.0.1", port=fresh_server.port, user="fresh", dbname="postgres")
    with ThreadPoolExecutor(1) as pool, other.cursor() as cursor:
        cursor.execute("CREATE ROLE qforge_tenant NOLOGIN")
        upgrade = pool.submit(schema.upgrade, engine_of(url))
        while not fresh_server.execute("SELECT 1 FROM pg_locks WHERE NOT granted") and not upgrade.done():
            time.sleep(0.01)
        other.commit()
        upgrade.result()
    other.close()

    assert set(owners_of_tables(url)) == set(TABLES)


# Revisions --------------------------------------------------------------------------------------------------------


def set_revision(url: str, revision: str) -> None:
    with engine_of(url).begin() as connection:
        connection.execute(text("UPDATE qforge.alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_migrated_database_is_current(session: Session) -> None:
    schema.require_current(session.connection())

    assert schema.status(session.connection()).is_current


def test_a_database_without_tables_is_missing_its_schema(empty_database_url: str) -> None:
    with (
        engine_of(empty_database_url).connect() as connection,
        pytest.raises(SchemaMissing, match="qforge db upgrade"),
    ):
        schema.require_current(connection)


def test_an_older_database_is_to_be_upgraded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "head_revision", lambda: "9999")

    with engine.connect() as connection, pytest.raises(SchemaOutdated, match="run: qforge db upgrade") as caught:
        schema.require_current(connection)

    assert (caught.value.found, caught.value.expected) == (HEAD, "9999")


def test_a_newer_database_asks_for_a_newer_package(database_url: str) -> None:
    set_revision(database_url, "9999")

    with (
        engine_of(database_url).connect() as connection,
        pytest.raises(SchemaOutdated, match="upgrade qforge_sdk") as caught,
    ):
        schema.require_current(connection)

    assert (caught.value.found, caught.value.expected) == ("9999", HEAD)


def test_a_newer_database_is_not_upgraded(database_url: str) -> None:
    set_revision(database_url, "9999")

    with pytest.raises(SchemaOutdated, match="upgrade qforge_sdk"):
        schema.upgrade(engine_of(database_url))


def test_a_tenant_may_read_the_revision(tenant_engine: TenantEngine) -> None:
    with tenant_engine(ALICE).connect() as connection:
        assert schema.status(connection).found == HEAD
