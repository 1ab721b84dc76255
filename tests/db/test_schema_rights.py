"""Who holds which right on what the migrations made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from tests.fixtures.catalog import TABLES
from tests.fixtures.databases import Databases

SERVICE_COLUMNS = {"id", "created_at", "updated_at", "identity_hash"}
AUDIT_COLUMNS = {"recorded_by", "actor", "application", "transaction_id"}
COUNTED_COLUMNS = {"successful_count", "failed_count", "skipped_count", "waiting_count"}
# What hangs a row on its owner, its parent or its place among its siblings stays as it was inserted.
FIXED_COLUMNS = {
    "molecules": {"user_id"},
    "calculations": {"user_id"},
    "atomic_properties": {"user_id", "calculation_id", "atom_index"},
    "batch_jobs": {"user_id"} | COUNTED_COLUMNS,
    "batch_items": {"user_id", "batch_id", "molecule_id"},
}


@pytest.fixture(scope="module")
def supabase_connection(supabase: Databases) -> Iterator[Connection]:
    with supabase.clone() as name, create_engine(supabase.url(name), poolclass=NullPool).connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def plain_connection(any_version: Databases) -> Iterator[Connection]:
    with (
        any_version.clone() as name,
        create_engine(any_version.url(name), poolclass=NullPool).connect() as connection,
    ):
        yield connection


def rights_of(connection: Connection, role: str) -> list[str]:
    """Every right of ``role`` on our relations, their columns, our functions and our schema."""
    query = """
        WITH ours AS (
            SELECT c.oid, c.relkind FROM pg_class AS c
            WHERE c.relnamespace IN ('public'::regnamespace, 'qforge'::regnamespace) AND c.relkind IN ('r', 'S')
        )
        SELECT r || ' on ' || oid::regclass FROM ours,
            unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS r
        WHERE relkind = 'r' AND has_table_privilege(:role, oid, r)
        UNION ALL
        SELECT r || ' on a column of ' || oid::regclass
        FROM ours, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS r
        WHERE relkind = 'r' AND has_any_column_privilege(:role, oid, r)
        UNION ALL
        SELECT r || ' on ' || oid::regclass FROM ours, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS r
        WHERE relkind = 'S' AND has_sequence_privilege(:role, oid, r)
        UNION ALL
        SELECT r || ' on schema qforge' FROM unnest(ARRAY['USAGE', 'CREATE']) AS r
        WHERE has_schema_privilege(:role, 'qforge', r)
        UNION ALL
        SELECT 'EXECUTE on ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'qforge'::regnamespace AND has_function_privilege(:role, oid, 'EXECUTE')
    """
    return list(connection.execute(text(query), {"role": role}).scalars())


def granted_columns(connection: Connection, table: str, right: str) -> set[str]:
    query = text(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped "
        "AND has_column_privilege('qforge_tenant', attrelid, attnum, :right)"
    )
    return set(connection.execute(query, {"table": f"public.{table}", "right": right}).scalars())


def columns_of(connection: Connection, table: str) -> set[str]:
    return set(connection.execute(text(f"SELECT * FROM public.{table} LIMIT 0")).keys())


def test_anon_has_no_right_at_all(supabase_connection: Connection) -> None:
    assert rights_of(supabase_connection, "anon") == []


def test_everybody_has_no_right_at_all(plain_connection: Connection) -> None:
    assert rights_of(plain_connection, "public") == []


def test_authenticated_has_what_every_tenant_has(supabase_connection: Connection) -> None:
    assert rights_of(supabase_connection, "authenticated") == rights_of(supabase_connection, "qforge_tenant")


def test_a_tenant_has_these_rights_and_no_other(plain_connection: Connection) -> None:
    writable = [table for table in TABLES if table != "event_logs"]
    expected = {
        *(f"SELECT on public.{table}" for table in TABLES),
        *(f"SELECT on a column of public.{table}" for table in TABLES),
        *(f"DELETE on public.{table}" for table in writable),
        *(f"INSERT on a column of public.{table}" for table in TABLES),
        *(f"UPDATE on a column of public.{table}" for table in writable),
        "SELECT on qforge.alembic_version",
        "SELECT on a column of qforge.alembic_version",
        "USAGE on schema qforge",
        "EXECUTE on qforge.current_user_id()",
        "EXECUTE on qforge.login_kind()",
        "EXECUTE on qforge.login_user_id()",
        "EXECUTE on qforge.may_speak_for_others()",
        "EXECUTE on qforge.enrich_event(text,bigint,text,jsonb)",
        "EXECUTE on qforge.own_statistics(text[])",
        "EXECUTE on qforge.read_statistics(text[])",
    }
    plain_connection.execute(text("SET search_path = ''"))

    rights = set(rights_of(plain_connection, "qforge_tenant"))
    plain_connection.rollback()

    assert rights == expected


@pytest.mark.parametrize("table", TABLES)
def test_a_tenant_reads_every_column(plain_connection: Connection, table: str) -> None:
    assert granted_columns(plain_connection, table, "SELECT") == columns_of(plain_connection, table)


@pytest.mark.parametrize("table", TABLES)
def test_a_tenant_inserts_all_but_keys_clocks_counts_and_who_wrote(plain_connection: Connection, table: str) -> None:
    expected = columns_of(plain_connection, table) - SERVICE_COLUMNS - AUDIT_COLUMNS - COUNTED_COLUMNS

    assert granted_columns(plain_connection, table, "INSERT") == expected


@pytest.mark.parametrize("table", FIXED_COLUMNS)
def test_a_tenant_updates_all_but_keys_clocks_counts_and_owners(plain_connection: Connection, table: str) -> None:
    expected = columns_of(plain_connection, table) - SERVICE_COLUMNS - FIXED_COLUMNS[table]

    assert granted_columns(plain_connection, table, "UPDATE") == expected


def test_a_tenant_updates_no_column_of_an_event(plain_connection: Connection) -> None:
    assert granted_columns(plain_connection, "event_logs", "UPDATE") == set()


@pytest.mark.parametrize("table", TABLES)
def test_row_level_security_is_on_with_a_policy_for_each_verb(plain_connection: Connection, table: str) -> None:
    enabled = text("SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(:table)")
    policies = text("SELECT cmd, permissive, roles::text FROM pg_policies WHERE tablename = :table")

    assert plain_connection.execute(enabled, {"table": f"public.{table}"}).scalar_one() is True
    assert {tuple(row) for row in plain_connection.execute(policies, {"table": table})} == {
        (verb, "PERMISSIVE", "{public}") for verb in ("SELECT", "INSERT", "UPDATE", "DELETE")
    }


def test_every_function_of_ours_pins_its_search_path(plain_connection: Connection) -> None:
    query = "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'qforge'::regnamespace"

    found = {row[0]: row[1] for row in plain_connection.execute(text(query))}

    assert {name for name, settings in found.items() if "search_path=pg_catalog, pg_temp" not in settings} == set()


def test_no_function_of_ours_lands_in_a_schema_that_the_api_shows(supabase_connection: Connection) -> None:
    query = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"

    assert list(supabase_connection.execute(text(query)).scalars()) == []
