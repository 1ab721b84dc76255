"""pg_stat_statements shows a tenant login no statement of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qforge_sdk.db.scope import Scope
from tests.fixtures.attacks import HIDDEN, WORD, Attacked, attacked_database
from tests.fixtures.databases import OWNER, Databases
from tests.fixtures.servers import PostgresServer
from tests.fixtures.tenants import BOB

ROLES = ("NONE", "qforge_tenant")


@pytest.fixture(scope="module")
def recording() -> Iterator[Attacked]:
    """A server with pg_stat_statements, as Supabase has it; PostgreSQL 15 is the one that is here with modules."""
    server = PostgresServer(15)
    server.start(shared_preload_libraries="pg_stat_statements")
    try:
        databases = Databases(server, owner=OWNER, roles=f"CREATE ROLE {OWNER} LOGIN CREATEROLE NOSUPERUSER")
        with attacked_database(databases) as stored:
            stored.admin("CREATE EXTENSION pg_stat_statements")
            yield stored
    finally:
        server.stop()


def test_a_login_s_statements_are_not_shown_by_pg_stat_statements(recording: Attacked) -> None:
    recording.attack({"copy": f"COPY (SELECT '{WORD}') TO STDOUT"}, kept=True, user=HIDDEN)

    said = recording.attack({role: f"SET ROLE {role}; TABLE pg_stat_statements" for role in ROLES})

    assert {role: one.leaked for role, one in said.items()} == {"NONE": [], "qforge_tenant": []}


def test_a_scope_s_statements_are_not_shown_by_pg_stat_statements(recording: Attacked) -> None:
    script = "; ".join(["BEGIN", *Scope(BOB).statements(), f"COPY (SELECT '{WORD}') TO STDOUT", "COMMIT"])
    recording.attack({"copy": script}, kept=True, user=OWNER)

    said = recording.attack({"as the group": "SET ROLE qforge_tenant; TABLE pg_stat_statements"})

    assert said["as the group"].leaked == []
