"""Row level security: role by table by verb, on every version and in Supabase's shape."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.scope import Scope
from tests.fixtures.catalog import TABLES
from tests.fixtures.databases import SUPABASE_VERSIONS, DatabasesOf
from tests.fixtures.rows import UPDATES, Rows, insert_row, store_rows
from tests.fixtures.servers import VERSIONS
from tests.fixtures.tenants import ALICE, BOB

OWNERS = {"mine": ALICE, "another's": BOB, "public": PUBLIC_USER_ID, "nobody's": None}
PLACES = [*(f"pg{version}" for version in VERSIONS), *(f"supabase{version}" for version in SUPABASE_VERSIONS)]

# Owners whose rows a role may touch, by verb; event_logs is the exception below.
ALLOWED = {
    "alice": {"select": {"mine", "public"}, "insert": {"mine"}, "update": {"mine"}, "delete": {"mine"}},
    "stranger": {"select": {"public"}, "insert": set(), "update": set(), "delete": set()},
}
ALLOWED_EVENTS = {
    "alice": {"select": {"mine"}, "insert": {"mine"}},
    "stranger": {"select": set(), "insert": set()},
}
# Ways in, and whom each of them is.
ROUTES = {"scope": "alice", "login": "alice", "api": "alice", "unlisted login": "stranger", "no claim": "stranger"}


# PostgREST is met in Supabase's shape only.
WAYS = [(place, route) for place in PLACES for route in ROUTES if route != "api" or place.startswith("supabase")]
on_every_way = pytest.mark.parametrize(("world", "route"), WAYS, indirect=["world"], scope="module")


@dataclass(frozen=True, slots=True)
class World:
    """A database with one row of each table for each owner, and a connection for each way in."""

    rows: dict[str, Rows]
    connections: dict[str, Connection]


def as_alice(user_id: uuid.UUID | None) -> str:
    claims = json.dumps({"sub": str(user_id), "role": "authenticated"}) if user_id else ""
    return f"SELECT set_config('role', 'authenticated', true), set_config('request.jwt.claims', '{claims}', true)"


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, databases_of: DatabasesOf) -> Iterator[World]:
    supabase = request.param.startswith("supabase")
    databases = databases_of(int(request.param[-2:]), supabase=supabase)
    with databases.clone() as name:
        service = create_engine(databases.url(name), poolclass=NullPool)
        with service.begin() as connection:
            rows = {label: store_rows(connection, owner) for label, owner in OWNERS.items()}
            connection.execute(text("CREATE ROLE matrix_alice LOGIN IN ROLE qforge_tenant"))
            connection.execute(text("CREATE ROLE matrix_stranger LOGIN IN ROLE qforge_tenant"))
            connection.execute(
                text("INSERT INTO qforge.tenant_logins (login, user_id) VALUES ('matrix_alice', :alice)"),
                {"alice": ALICE},
            )
        connections = dict(_open(databases.url(name), supabase=supabase))
        yield World(rows, connections)
        for connection in connections.values():
            connection.close()
    databases.server.execute("DROP ROLE matrix_alice, matrix_stranger")


def _open(url: str, *, supabase: bool) -> Iterator[tuple[str, Connection]]:
    """A connection for each way in; its first statements are run again in each transaction."""
    ways = {
        "scope": ("", Scope(ALICE).statements()),
        "login": ("matrix_alice", []),
        "unlisted login": ("matrix_stranger", []),
        "no claim": ("", ["SET LOCAL ROLE qforge_tenant"]),
    }
    if supabase:
        ways["api"] = ("authenticator", [as_alice(ALICE)])
    for name, (login, statements) in ways.items():
        target = make_url(url).set(username=login) if login else make_url(url)
        connection = create_engine(target, poolclass=NullPool).connect()
        yield name, connection.execution_options(opening=statements)


@pytest.fixture
def begun(world: World, route: str) -> Iterator[Connection]:
    """The route's connection in a transaction that is rolled back."""
    connection = world.connections[route]
    with connection.begin() as transaction:
        for statement in connection.get_execution_options()["opening"]:
            connection.exec_driver_sql(statement)
        yield connection
        transaction.rollback()


def allowed(route: str, table: str, verb: str, owner: str) -> bool:
    rules = ALLOWED_EVENTS if table == "event_logs" else ALLOWED
    return owner in rules[ROUTES[route]][verb]


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("table", TABLES)
@on_every_way
def test_select_sees(begun: Connection, world: World, route: str, table: str, owner: str) -> None:
    found = begun.exec_driver_sql(f"SELECT count(*) FROM public.{table} WHERE {world.rows[owner].where(table)}")

    assert (found.scalar_one() > 0) is allowed(route, table, "select", owner)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("table", TABLES)
@on_every_way
def test_insert_is_allowed(begun: Connection, world: World, route: str, table: str, owner: str) -> None:
    values = {"owner": OWNERS[owner], "word": "new", "number": 1, **world.rows["mine"].parents()}
    if table == "batch_items":
        values["molecules"] = world.rows["public"].keys["molecules"]

    if allowed(route, table, "insert", owner):
        assert insert_row(begun, table, **values).rowcount == 1
    else:
        with pytest.raises(ProgrammingError, match="row-level security policy") as caught:
            insert_row(begun, table, **values)
        assert caught.value.orig.pgcode == "42501"


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("table", [table for table in TABLES if table != "event_logs"])
@on_every_way
def test_update_changes(begun: Connection, world: World, route: str, table: str, owner: str) -> None:
    done = begun.exec_driver_sql(f"UPDATE public.{table} SET {UPDATES[table]} WHERE {world.rows[owner].where(table)}")

    assert (done.rowcount == 1) is allowed(route, table, "update", owner)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("table", [table for table in TABLES if table != "event_logs"])
@on_every_way
def test_delete_removes(begun: Connection, world: World, route: str, table: str, owner: str) -> None:
    done = begun.exec_driver_sql(f"DELETE FROM public.{table} WHERE {world.rows[owner].where(table)}")

    assert (done.rowcount == 1) is allowed(route, table, "delete", owner)


@pytest.mark.parametrize(
    "statement", ["UPDATE public.event_logs SET status = 'warning'", "DELETE FROM public.event_logs"]
)
@on_every_way
def test_events_are_never_changed(begun: Connection, route: str, statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied for table event_logs"):
        begun.exec_driver_sql(statement)


@pytest.mark.parametrize("table", TABLES)
@on_every_way
def test_nobody_truncates(begun: Connection, route: str, table: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        begun.exec_driver_sql(f"TRUNCATE public.{table} CASCADE")


@pytest.mark.parametrize("verb", ["SELECT count(*) FROM", "DELETE FROM"])
@pytest.mark.parametrize("table", TABLES)
def test_anon_reaches_no_table(supabase_url: str, table: str, verb: str) -> None:
    login = make_url(supabase_url).set(username="authenticator")

    with create_engine(login, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE anon")
        with pytest.raises(
            ProgrammingError, match=f"permission denied for (table {table}|function may_speak_for_others)"
        ):
            connection.exec_driver_sql(f"{verb} public.{table}")
