"""What a tenant may try in order to leave its rows, and what comes of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.scope import Scope
from qforge_sdk.errors import ScopeNotHeld
from tests.fixtures.databases import OWNER, Databases
from tests.fixtures.rows import Rows, insert_row, store_rows
from tests.fixtures.tenants import ALICE, BOB, TenantEngine

VISIBLE = "SELECT array_agg(DISTINCT user_id) FROM public.molecules"
ALICE_SEES = {ALICE, PUBLIC_USER_ID}


@pytest.fixture(scope="module")
def rows_and_url(any_version: Databases) -> Iterator[tuple[dict[uuid.UUID | None, Rows], str]]:
    """One row of each table for Alice, Bob, everybody and nobody; URL of the service."""
    with any_version.clone() as name:
        url = any_version.url(name)
        with create_engine(url, poolclass=NullPool).begin() as connection:
            rows = {owner: store_rows(connection, owner) for owner in (ALICE, BOB, PUBLIC_USER_ID, None)}
            connection.execute(text("CREATE ROLE escape_alice LOGIN IN ROLE qforge_tenant"))
            connection.execute(
                text("INSERT INTO qforge.tenant_logins (login, user_id) VALUES ('escape_alice', :alice)"),
                {"alice": ALICE},
            )
        yield rows, url
    any_version.server.execute("DROP ROLE escape_alice")


@pytest.fixture
def rows(rows_and_url: tuple[dict[uuid.UUID | None, Rows], str]) -> dict[uuid.UUID | None, Rows]:
    return rows_and_url[0]


@pytest.fixture
def login(rows_and_url: tuple[dict[uuid.UUID | None, Rows], str]) -> Iterator[Connection]:
    """A connection of a login that is Alice."""
    url = make_url(rows_and_url[1]).set(username="escape_alice")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


@pytest.fixture
def scoped(rows_and_url: tuple[dict[uuid.UUID | None, Rows], str]) -> Iterator[Engine]:
    """An engine of the service in Alice's scope, with one connection that is used again and again."""
    engine = create_engine(rows_and_url[1], pool_size=1, max_overflow=0)
    Scope(ALICE).attach(engine)
    yield engine
    engine.dispose()


def visible(connection: Connection) -> set[uuid.UUID | None]:
    return set(connection.execute(text(VISIBLE)).scalar_one())


# A tenant login -----------------------------------------------------------------------------------------------------

USELESS = {
    "an older claim": f"SET request.jwt.claim.sub = '{BOB}'",
    "a claim": f"""SELECT set_config('request.jwt.claims', '{{"sub": "{BOB}"}}', false)""",
    "broken claims": "SET request.jwt.claims = 'no json'",
    "the tenants' role": "SET ROLE qforge_tenant",
    "no role": "RESET ROLE",
    "a search path of its own": "CREATE TEMP TABLE shadow (); SET search_path = pg_temp, public",
    "a shadow of the tenant logins": (
        f"CREATE TEMP TABLE tenant_logins AS SELECT 'escape_alice'::name AS login, '{BOB}'::uuid AS user_id"
    ),
    "a shadow of the molecules": "CREATE TEMP TABLE molecules (LIKE public.molecules)",
    "shadows of catalog functions": (
        "CREATE FUNCTION pg_temp.session_user() RETURNS name LANGUAGE sql RETURN 'postgres'::name"
    ),
    "a leaky function": (
        "CREATE FUNCTION pg_temp.tell(uuid) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS "
        "$$ BEGIN RAISE NOTICE USING MESSAGE = $1; RETURN true; END $$"
    ),
}


@pytest.mark.parametrize("statement", USELESS.values(), ids=USELESS.keys())
def test_a_login_stays_its_tenant_after(login: Connection, statement: str) -> None:
    login.exec_driver_sql(statement)

    assert visible(login) == ALICE_SEES


def test_a_leaky_function_is_shown_only_what_its_caller_may_see(login: Connection) -> None:
    login.exec_driver_sql(USELESS["a leaky function"])

    with login.connection.cursor() as cursor:
        cursor.execute("SELECT FROM public.molecules WHERE pg_temp.tell(user_id)")
        notices = cursor.connection.notices

    assert {line.split()[1] for line in notices} == {str(ALICE), str(PUBLIC_USER_ID)}


INSUFFICIENT_PRIVILEGE = "42501"
REFUSED = {
    "become the owner": f"SET ROLE {OWNER}",
    "become the superuser": "SET ROLE postgres",
    "authorize as the owner": f"SET SESSION AUTHORIZATION {OWNER}",
    "switch triggers off by replication": "SET session_replication_role = replica",
    "disable a trigger": "ALTER TABLE public.molecules DISABLE TRIGGER audit_insert",
    "disable all triggers": "ALTER TABLE public.calculations DISABLE TRIGGER ALL",
    "drop a trigger": "DROP TRIGGER audit_delete ON public.molecules",
    "disable row level security": "ALTER TABLE public.molecules DISABLE ROW LEVEL SECURITY",
    "drop a policy": "DROP POLICY tenant_select ON public.molecules",
    "add a policy": "CREATE POLICY mine ON public.molecules USING (true)",
    "read around the policies": "SET row_security = off; SELECT FROM public.molecules",
    "bypass row level security": "ALTER ROLE escape_alice BYPASSRLS",
    "list itself as another": f"UPDATE qforge.tenant_logins SET user_id = '{BOB}'",
    "list another login": f"INSERT INTO qforge.tenant_logins (login, user_id) VALUES ('x', '{BOB}')",
    "read who else there is": "SELECT * FROM qforge.tenant_logins",
    "replace who it is": "CREATE OR REPLACE FUNCTION qforge.current_user_id() RETURNS uuid LANGUAGE sql RETURN NULL",
    "replace the claims": "CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql RETURN NULL",
    "create a function in public": "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql RETURN 1",
    "add members to its group": "GRANT qforge_tenant TO escape_alice WITH ADMIN OPTION",
    "change the revision": "UPDATE qforge.alembic_version SET version_num = 'x'",
    "reset a sequence": "SELECT setval('public.molecules_id_seq', 1)",
    "read a sequence": "SELECT last_value FROM public.molecules_id_seq",
    "call an audit function": "SELECT qforge.audit_insert()",
    "attach an audit function": (
        "CREATE TEMP TABLE t (id bigint); CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION qforge.audit_insert()"
    ),
    "read statistics of columns": "SELECT stavalues1 FROM pg_statistic",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED.keys())
def test_a_login_is_refused_to(login: Connection, statement: str) -> None:
    if "REFERENCES" in statement:
        expected = "constraints on temporary tables may reference only temporary tables|permission denied"
    elif "GRANT" in statement:
        expected = 'permission denied|admin option|role "public" does not exist|may not grant|syntax error'
    else:
        expected = "permission denied|must be owner|row-level security|must be|only roles with"
    with pytest.raises(DBAPIError, match=expected):
        login.exec_driver_sql(statement)


def test_statistics_of_values_are_hidden(
    login: Connection, rows_and_url: tuple[dict[uuid.UUID | None, Rows], str]
) -> None:
    with create_engine(rows_and_url[1], poolclass=NullPool).begin() as service:
        service.exec_driver_sql("ANALYZE public.molecules")

    found = login.exec_driver_sql("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'")

    assert found.scalar_one() == 0


def test_copy_from_is_refused(login: Connection) -> None:
    with login.connection.cursor() as cursor, pytest.raises(psycopg2.Error, match="row-level security"):
        cursor.copy_expert("COPY public.molecules (smiles, formula) FROM STDIN", _Nothing())


class _Nothing:
    def read(self, _size: int) -> str:
        return ""


# A parent that one may not use --------------------------------------------------------------------------------------

MISSING = 10**15
CHILDREN = [
    ("calculations", "molecules"),
    ("atomic_properties", "calculations"),
    ("batch_items", "batch_jobs"),
    ("batch_items", "molecules"),
]


def refusal(connection: Connection, table: str, parents: dict[str, int]) -> tuple[str, str]:
    savepoint = connection.begin_nested()
    with pytest.raises(DBAPIError) as caught:
        insert_row(connection, table, owner=ALICE, word="new", number=7, **parents)
    savepoint.rollback()
    diagnosis = caught.value.orig.diag
    return diagnosis.sqlstate, f"{diagnosis.message_primary} {diagnosis.message_detail} {diagnosis.constraint_name}"


@pytest.mark.parametrize("owner", [BOB, None], ids=["another's", "nobody's"])
@pytest.mark.parametrize(("table", "parent"), CHILDREN)
def test_a_foreign_parent_and_a_missing_one_are_refused_alike(
    login: Connection, rows: dict[uuid.UUID | None, Rows], table: str, parent: str, owner: uuid.UUID | None
) -> None:
    mine = rows[ALICE].parents()

    missing = refusal(login, table, mine | {parent: MISSING})
    foreign = refusal(login, table, mine | {parent: rows[owner].keys[parent]})

    assert foreign == missing
    assert foreign[0] == "42501"


@pytest.mark.parametrize("verb", ["insert", "update"])
def test_a_foreign_calculation_of_an_item_and_a_missing_one_are_refused_alike(
    login: Connection, rows: dict[uuid.UUID | None, Rows], verb: str
) -> None:
    batch, molecule = rows[ALICE].keys["batch_jobs"], rows[PUBLIC_USER_ID].keys["molecules"]
    statement = {
        "insert": "INSERT INTO public.batch_items (user_id, batch_id, molecule_id, calculation_id) "
        f"VALUES ('{ALICE}', {batch}, {molecule}, %(calculation)s)",
        "update": "UPDATE public.batch_items SET calculation_id = %(calculation)s",
    }[verb]
    said = []
    for calculation in (MISSING, rows[BOB].keys["calculations"]):
        savepoint = login.begin_nested()
        with pytest.raises(DBAPIError) as caught:
            login.exec_driver_sql(statement, {"calculation": calculation})
        savepoint.rollback()
        said.append((caught.value.orig.pgcode, str(caught.value.orig)))

    assert said[0] == said[1]
    assert said[0][0] == "42501"


def test_a_calculation_cannot_be_moved_to_a_foreign_molecule(
    login: Connection, rows: dict[uuid.UUID | None, Rows]
) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        login.exec_driver_sql(f"UPDATE public.calculations SET molecule_id = {rows[BOB].keys['molecules']}")


def test_a_public_molecule_may_be_calculated(login: Connection, rows: dict[uuid.UUID | None, Rows]) -> None:
    parent = rows[PUBLIC_USER_ID].keys["molecules"]

    done = insert_row(login, "calculations", owner=ALICE, word="of a public one", molecules=parent)

    assert done.rowcount == 1


def test_atoms_are_not_hung_on_a_public_calculation(login: Connection, rows: dict[uuid.UUID | None, Rows]) -> None:
    parent = rows[PUBLIC_USER_ID].keys["calculations"]

    with pytest.raises(DBAPIError, match="row-level security"):
        insert_row(login, "atomic_properties", owner=ALICE, number=9, calculations=parent)


# Keys, owners, clocks -----------------------------------------------------------------------------------------------

DENIED_COLUMNS = {
    "an id": "INSERT INTO public.molecules (id, smiles, formula) VALUES (1, 'CC', 'C2H6')",
    "an id, overriding": "INSERT INTO public.molecules (id, smiles, formula) OVERRIDING SYSTEM VALUE "
    "VALUES (1, 'CC', 'C2H6')",
    "the id of an event": "INSERT INTO public.event_logs (id, event_type, entity_type) VALUES (1, 'error', 'system')",
    "a new id": "UPDATE public.molecules SET id = 1",
    "a new owner": f"UPDATE public.molecules SET user_id = '{BOB}'",
    "the public as owner": f"UPDATE public.calculations SET user_id = '{PUBLIC_USER_ID}'",
    "a date of creation": "INSERT INTO public.molecules (smiles, formula, created_at) VALUES ('CC', 'C2H6', now())",
    "another date of creation": "UPDATE public.molecules SET created_at = now()",
    "a date of change": "UPDATE public.molecules SET updated_at = now()",
    "another batch of an item": "UPDATE public.batch_items SET batch_id = 1",
    "another calculation of an atom": "UPDATE public.atomic_properties SET calculation_id = 1",
}


@pytest.mark.parametrize("statement", DENIED_COLUMNS.values(), ids=DENIED_COLUMNS.keys())
def test_a_tenant_cannot_give(login: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError, match="permission denied for table"):
        login.exec_driver_sql(statement)


@pytest.mark.parametrize("owner", [BOB, PUBLIC_USER_ID, None], ids=["another", "the public", "nobody"])
def test_a_tenant_cannot_store_a_molecule_for(login: Connection, owner: uuid.UUID | None) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        insert_row(login, "molecules", owner=owner, word="CC")


def test_a_tenant_s_row_is_its_own_by_default(login: Connection) -> None:
    stored = login.exec_driver_sql(
        "INSERT INTO public.molecules (smiles, formula) VALUES ('CC', 'C2H6') RETURNING user_id"
    )

    assert stored.scalar_one() == ALICE


def test_two_tenants_store_the_same_molecule(login: Connection) -> None:
    assert insert_row(login, "molecules", owner=ALICE, word="CCO").rowcount == 1


# A scope of the service's login -------------------------------------------------------------------------------------


def test_a_scope_holds_in_every_transaction_of_a_connection(scoped: Engine) -> None:
    with scoped.connect() as connection:
        seen = []
        for end in ("commit", "rollback", "commit"):
            seen.append(visible(connection))
            getattr(connection, end)()

    assert seen == [ALICE_SEES] * 3


def test_a_scope_holds_after_an_error(scoped: Engine) -> None:
    with scoped.connect() as connection:
        with pytest.raises(DBAPIError, match="division by zero"):
            connection.exec_driver_sql("SELECT 1/0")
        connection.rollback()

        assert visible(connection) == ALICE_SEES


def test_a_scope_holds_after_a_savepoint(scoped: Engine) -> None:
    with scoped.connect() as connection:
        connection.begin()
        connection.begin_nested().rollback()

        assert visible(connection) == ALICE_SEES


def test_a_scope_does_not_stay_on_the_connection(scoped: Engine) -> None:
    with scoped.connect() as connection:
        visible(connection)
        connection.commit()
        # The driver's own cursor, which opens no scope.
        with psycopg2.extensions.cursor(connection.connection.driver_connection) as cursor:
            cursor.execute("SELECT current_user, coalesce(current_setting('request.jwt.claims', true), '')")
            assert cursor.fetchone() == (OWNER, "")
        connection.connection.rollback()


def test_an_autocommit_connection_cannot_hold_a_scope(scoped: Engine) -> None:
    with (
        scoped.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(ScopeNotHeld),
    ):
        visible(connection)


def test_two_scopes_do_not_meet(tenant_engine: TenantEngine) -> None:
    for tenant in (ALICE, BOB):
        with tenant_engine(tenant).begin() as connection:
            insert_row(connection, "molecules", owner=tenant)

    for tenant in (ALICE, BOB):
        with tenant_engine(tenant).connect() as connection:
            assert visible(connection) == {tenant}
