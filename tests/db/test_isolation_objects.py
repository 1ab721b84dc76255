"""What a tenant login may make and change of the database itself: temporary things of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import psycopg2.extensions
import pytest

from qforge_sdk.db.scope import Scope
from tests.fixtures.attacks import ATTACKER, HIDDEN, SECRETS, WORD, Attacked, Said
from tests.fixtures.catalog import EVERYTHING, TABLES, catalog
from tests.fixtures.tenants import BOB

DONE = "00000"
DENIED = "42501"


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """Schema, rights and what is not Alice's are the same before and after all of this."""
    rows, shape = attacked.not_alices(), shape_of(attacked)
    yield
    assert shape_of(attacked) == shape
    assert attacked.not_alices() == rows


def shape_of(attacked: Attacked) -> dict[str, set[str]]:
    server = attacked.databases.server
    return catalog(server.url(attacked.name), EVERYTHING) | {
        "roles": {
            str(row)
            for row in attacked.admin(
                "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls, "
                "rolconfig FROM pg_roles WHERE rolname !~ '^pg_'"
            )
        },
        "members": {
            str(row) for row in attacked.admin("SELECT roleid::regrole, member::regrole FROM pg_auth_members")
        },
        "database": {
            str(row)
            for row in attacked.admin(
                "SELECT datacl::text, datdba::regrole FROM pg_database WHERE datname = current_database()"
            )
        },
        "settings": {str(row) for row in attacked.admin("SELECT * FROM pg_db_role_setting")},
    }


def states(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.state for name, one in said.items()}


CREATIONS = {
    "table": "CREATE TABLE {s}.x (i int)",
    "table as": "CREATE TABLE {s}.x AS SELECT 1",
    "view": "CREATE VIEW {s}.x AS SELECT 1",
    "materialized view": "CREATE MATERIALIZED VIEW {s}.x AS SELECT 1",
    "function": "CREATE FUNCTION {s}.x() RETURNS int LANGUAGE sql RETURN 1",
    "procedure": "CREATE PROCEDURE {s}.x() LANGUAGE sql AS ''",
    "aggregate": "CREATE AGGREGATE {s}.x(int) (SFUNC = int4pl, STYPE = int)",
    "operator": "CREATE OPERATOR {s}.=== (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = uuid_eq)",
    "type": "CREATE TYPE {s}.x AS (i int)",
    "enum": "CREATE TYPE {s}.x AS ENUM ('a')",
    "range": "CREATE TYPE {s}.x AS RANGE (SUBTYPE = uuid)",
    "domain": "CREATE DOMAIN {s}.x AS int",
    "sequence": "CREATE SEQUENCE {s}.x",
    "collation": 'CREATE COLLATION {s}.x FROM "C"',
    "conversion": "CREATE CONVERSION {s}.x FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
    "text search configuration": "CREATE TEXT SEARCH CONFIGURATION {s}.x (COPY = pg_catalog.simple)",
    "text search dictionary": "CREATE TEXT SEARCH DICTIONARY {s}.x (TEMPLATE = simple)",
    "statistics": "CREATE STATISTICS {s}.x ON id, name FROM public.molecules",
}
# Statistics are the owner's of the table; a materialized view is never temporary, says PostgreSQL 15.
NOT_EVEN_TEMPORARY = {"statistics", "materialized view"}


def test_nothing_is_made_in_a_schema(attacked: Attacked) -> None:
    schemas = ("public", "qforge", "auth", "pg_catalog", "information_schema")
    said = attacked.attack(
        {
            f"{name} in {schema} as {role}": f"SET ROLE {role}; " + sql.format(s=schema)
            for name, sql in CREATIONS.items()
            for schema in schemas
            for role in ("NONE", "qforge_tenant")
        }
    )

    assert {name: state for name, state in states(said).items() if state != DENIED} == {}


def test_what_is_made_is_temporary(attacked: Attacked) -> None:
    said = attacked.attack(
        {name: sql.format(s="pg_temp") for name, sql in CREATIONS.items() if name not in NOT_EVEN_TEMPORARY}
    )
    statistics = attacked.attack({"": CREATIONS["statistics"].format(s="pg_temp")})

    assert states(said) == dict.fromkeys(said, DONE)
    assert states(statistics) == {"": DENIED}


OF_THE_DATABASE = {
    "schema": "CREATE SCHEMA x",
    "schema for oneself": f"CREATE SCHEMA AUTHORIZATION {ATTACKER}",
    "role": "CREATE ROLE x",
    "role of the group": "CREATE ROLE x IN ROLE qforge_tenant",
    "another's password": f"ALTER ROLE {HIDDEN} PASSWORD 'x'",
    "another's settings": f"ALTER ROLE {HIDDEN} SET search_path = pg_temp",
    "another's name": f"ALTER ROLE {HIDDEN} RENAME TO x",
    "another's end": f"DROP ROLE {HIDDEN}",
    "its own name": f"ALTER ROLE {ATTACKER} RENAME TO x",
    "its own powers": f"ALTER ROLE {ATTACKER} SUPERUSER",
    "its own creation of roles": f"ALTER ROLE {ATTACKER} CREATEROLE",
    "its own replication": f"ALTER ROLE {ATTACKER} REPLICATION",
    "its own bypassing": f"ALTER ROLE {ATTACKER} BYPASSRLS",
    "another's membership": f"REVOKE qforge_tenant FROM {HIDDEN}",
    "settings of all": "ALTER ROLE ALL SET search_path = pg_temp",
    "default privileges of the owner": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON TABLES TO qforge_tenant"
    ),
    "what the owner owns": f"REASSIGN OWNED BY {{owner}} TO {ATTACKER}",
    "what the owner has": "DROP OWNED BY {owner}",
    "what Bob has": f"DROP OWNED BY {HIDDEN}",
    "settings of the database": "ALTER DATABASE {database} SET search_path = pg_temp",
    "owner of the database": f"ALTER DATABASE {{database}} OWNER TO {ATTACKER}",
    "owner of a table": f"ALTER TABLE public.molecules OWNER TO {ATTACKER}",
    "owner of a schema": f"ALTER SCHEMA public OWNER TO {ATTACKER}",
    "name of a schema": "ALTER SCHEMA qforge RENAME TO x",
    "owner of a function": f"ALTER FUNCTION qforge.login_kind() OWNER TO {ATTACKER}",
    "owner of logins": f"ALTER TABLE qforge.tenant_logins OWNER TO {ATTACKER}",
    "a column": "ALTER TABLE public.molecules ADD x int",
    "a column's default": f"ALTER TABLE public.molecules ALTER user_id SET DEFAULT '{ATTACKER}'",
    "a constraint": "ALTER TABLE public.molecules DROP CONSTRAINT molecules_identity",
    "a key": "ALTER TABLE public.calculations DROP CONSTRAINT calculations_molecule_id_fkey",
    "an index": "CREATE INDEX ON public.molecules (smiles)",
    "an index's end": "DROP INDEX public.molecules_inchikey",
    "a table's end": "DROP TABLE public.molecules CASCADE",
    "row security": "ALTER TABLE public.molecules NO FORCE ROW LEVEL SECURITY",
    "a policy for all": "ALTER POLICY tenant_select ON public.molecules USING (true)",
    "a policy of one's own": "CREATE POLICY mine ON public.event_logs FOR DELETE USING (true)",
    "statistics of a column": "ALTER TABLE public.molecules ALTER smiles SET STATISTICS 0",
    "options of a table": "ALTER TABLE public.molecules SET (autovacuum_enabled = off)",
    "storage": "ALTER TABLE public.molecules SET UNLOGGED",
    "comment": "COMMENT ON TABLE public.molecules IS 'x'",
    "comment on the database": "COMMENT ON DATABASE {database} IS 'x'",
    "cast between ours": "CREATE CAST (uuid AS text) WITH INOUT AS IMPLICIT",
    "transform": "CREATE TRANSFORM FOR uuid LANGUAGE plpgsql (FROM SQL WITH FUNCTION now())",
    "reindex": "REINDEX TABLE public.molecules",
    "cluster": "CLUSTER public.molecules USING molecules_pkey",
    "reference": "CREATE TEMP TABLE t (m bigint REFERENCES public.molecules (id))",
    "trigger": (
        "CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER t BEFORE INSERT ON public.molecules FOR EACH ROW EXECUTE FUNCTION pg_temp.f()"
    ),
    "rule": "CREATE RULE r AS ON INSERT TO public.molecules DO ALSO NOTHING",
    "security label": "SECURITY LABEL ON TABLE public.molecules IS 'x'",
}
# Not a right that is missing: temporary tables refer to temporary ones, no label provider is loaded, nobody renames
# the session's own login.
OTHER_REASONS = {"reference": "42P16", "security label": "22023", "transform": "42P17", "its own name": "0A000"}


def test_nothing_of_the_database_is_changed(attacked: Attacked) -> None:
    values = {"owner": attacked.databases.owner, "database": attacked.name}
    said = attacked.attack({name: sql.format(**values) for name, sql in OF_THE_DATABASE.items()})
    said |= attacked.attack({"tablespace": "CREATE TABLESPACE x LOCATION '/tmp'"}, kept=True)

    assert {
        name: state for name, state in states(said).items() if state not in {DENIED, OTHER_REASONS.get(name, DENIED)}
    } == {}


def test_rights_are_not_passed_on(attacked: Attacked) -> None:
    rights = [
        *(f"ALL ON public.{table}" for table in TABLES),
        "USAGE ON SCHEMA qforge",
        "EXECUTE ON FUNCTION qforge.current_user_id()",
        "ALL ON qforge.tenant_logins",
    ]
    said = attacked.attack(
        {f"GRANT {right} TO {whom}": f"GRANT {right} TO {whom}" for right in rights for whom in ("PUBLIC", HIDDEN)}
        | {f"REVOKE {right}": f"REVOKE {right} FROM qforge_tenant" for right in rights},
        kept=True,
    )

    # A member of the group has the right and no option to pass it on: a warning, and nothing is done.
    assert set(states(said).values()) <= {DONE, DENIED}
    warned = {
        name for name, one in said.items() if "WARNING:  01007" in one.errors or "WARNING:  01006" in one.errors
    }
    assert {name for name, one in said.items() if one.state == DONE} == warned


def test_maintenance_of_our_tables_is_skipped(attacked: Attacked) -> None:
    verbs = ("VACUUM", "ANALYZE", "VACUUM FULL", "ANALYZE VERBOSE")
    said = attacked.attack({f"{verb} {t}": f"{verb} public.{t}" for verb in verbs for t in TABLES}, kept=True)

    assert {name for name, one in said.items() if "WARNING" not in one.errors or "INFO" in one.errors} == set()


def test_settings_of_the_group_reach_nobody(attacked: Attacked) -> None:
    """After SET ROLE the group is oneself, and everybody may give oneself settings."""
    try:
        said = attacked.attack(
            {
                "setting": "SET ROLE qforge_tenant; ALTER ROLE qforge_tenant SET search_path = pg_temp",
                "password": "ALTER ROLE qforge_tenant PASSWORD NULL",
                "login": "ALTER ROLE qforge_tenant LOGIN",
            },
            kept=True,
        )
        others = "SHOW search_path; SELECT set_config('role', 'qforge_tenant', true); SHOW search_path"
        bob, service = (
            attacked.psql(f"BEGIN; {others}; ROLLBACK", user=user).shown.split("\n")
            for user in (HIDDEN, attacked.databases.owner)
        )
    finally:
        attacked.admin("ALTER ROLE qforge_tenant RESET ALL")

    assert states(said) == {"setting": DONE, "password": DONE, "login": DENIED}
    assert "pg_temp" not in bob + service


# What is the group's is every member's ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["NONE", "qforge_tenant"])
def test_the_policies_are_not_dropped_with_what_the_group_has(attacked: Attacked, role: str) -> None:
    with attacked.copy() as copied:
        copied.attack({"drop": f"SET ROLE {role}; DROP OWNED BY qforge_tenant"}, kept=True)
        ((policies,),) = copied.admin("SELECT count(*) FROM pg_policies")
        bob = copied.attack({"molecules": "SELECT count(*) FROM public.molecules"}, user=HIDDEN)

    assert policies == 24
    assert bob["molecules"].shown.strip() == "2"


@pytest.fixture
def scoped(attacked: Attacked) -> Iterator[psycopg2.extensions.connection]:
    """A session of the service in Bob's scope that has made a temporary table and a large object."""
    url = attacked.databases.url(attacked.name).replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("; ".join(Scope(BOB).statements()))
            cursor.execute(
                f"CREATE TEMP TABLE staged AS SELECT '{WORD}' || i AS word FROM generate_series(1, 9) AS i"
            )
            cursor.execute("ANALYZE staged")
            connection.commit()
        yield connection
        connection.rollback()


def test_statistics_of_a_scope_s_temporary_table_are_hidden(
    attacked: Attacked, scoped: psycopg2.extensions.connection
) -> None:
    said = attacked.attack({"stats": "SELECT * FROM pg_stats WHERE tablename = 'staged'"})

    assert [secret for secret in SECRETS if secret in said["stats"].shown] == []


def test_a_scope_s_temporary_table_is_not_dropped(attacked: Attacked, scoped: psycopg2.extensions.connection) -> None:
    said = attacked.attack(
        {"drop": "DROP OWNED BY qforge_tenant; SELECT count(*) FROM pg_class WHERE relname = 'staged'"}
    )

    assert said["drop"].shown.strip() == "1"


def test_a_scope_s_large_object_is_closed(attacked: Attacked, scoped: psycopg2.extensions.connection) -> None:
    with scoped.cursor() as cursor:
        cursor.execute("; ".join(Scope(BOB).statements()))
        cursor.execute(f"SELECT lo_from_bytea(0, '{WORD}')")
        ((oid,),) = cursor.fetchall()
        scoped.commit()
        said = attacked.attack({"get": f"SELECT convert_from(lo_get({oid}), 'UTF8')"})
        cursor.execute("; ".join(Scope(BOB).statements()))
        cursor.execute(f"SELECT lo_unlink({oid})")
        scoped.commit()

    assert said["get"].leaked == []
