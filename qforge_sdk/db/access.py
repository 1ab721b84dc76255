"""What the server's catalog says of a connection: whose rows it reaches, what holds it there, and what would not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, text

from qforge_sdk.db.models import TABLES
from qforge_sdk.db.scope import TENANT_ROLE
from qforge_sdk.errors import ScopeNotHeld
from qforge_sdk.schemas import AccessReport, FunctionAccess, TableAccess

VERBS: Final = ("select", "insert", "update", "delete")
PINNED_SEARCH_PATH: Final = "pg_catalog, pg_temp"

# Attributes with which a login leaves every policy behind, or can give itself a role that does.
_TOO_STRONG: Final = {
    "superuser": "NOSUPERUSER",
    "bypassrls": "NOBYPASSRLS",
    "createrole": "NOCREATEROLE",
    "replication": "NOREPLICATION",
}
# Whoever reads or writes the server's files, or runs programs there, reads every table.
_SERVER_ROLES: Final = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")
# Rights that row level security does not restrain.
_UNRESTRAINED: Final = ("TRUNCATE", "REFERENCES", "TRIGGER")

_STRENGTHS: Final[dict[str, Any]] = {"tenant": "boundary", "other": "none"}

_WHO = text("""
    SELECT session_user::text AS login, current_user::text AS role, qforge.login_kind() AS kind,
           qforge.current_user_id()::text AS user_id, r.rolsuper AS superuser, r.rolbypassrls AS bypassrls,
           r.rolcreaterole AS createrole, r.rolcreatedb AS createdb, r.rolreplication AS replication,
           r.rolinherit AS inherit
    FROM pg_catalog.pg_roles AS r WHERE r.rolname = session_user
""")
_MEMBERSHIPS = text("""
    SELECT r.rolname::text FROM pg_catalog.pg_roles AS r
    WHERE r.rolname <> session_user AND pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER') ORDER BY 1
""")
# Whom a login can act as and no policy holds.
_LOGINS: Final = """
    SELECT t.login::text AS login, r.oid IS NOT NULL AS exists, r.rolsuper AS superuser, r.rolbypassrls AS bypassrls,
           r.rolcreaterole AS createrole, r.rolreplication AS replication,
           array(SELECT s.rolname::text FROM pg_catalog.pg_roles AS s
                 WHERE s.oid <> r.oid AND NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER')
                       AND (s.rolsuper OR s.rolbypassrls OR s.rolcreaterole OR s.rolreplication
                            OR s.rolname = ANY (:server_roles)
                            OR s.oid IN (SELECT relowner FROM pg_catalog.pg_class
                                         WHERE oid = ANY (CAST(:tables AS regclass[]))))
                 ORDER BY 1) AS stronger
    FROM ({logins}) AS t LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = t.login
    ORDER BY 1
"""
_THIS_LOGIN = text(_LOGINS.format(logins="SELECT session_user AS login"))
_TENANT_LOGINS = text(_LOGINS.format(logins="SELECT login FROM qforge.tenant_logins"))
_TABLES = text("""
    SELECT c.relname::text AS name, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
           c.relrowsecurity AS secured, pg_catalog.row_security_active(c.oid) AS applies,
           array(SELECT lower(v) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY
                     AS u (v, n)
                 WHERE pg_catalog.has_table_privilege(:role, c.oid, v)
                       OR (v <> 'DELETE' AND pg_catalog.has_any_column_privilege(:role, c.oid, v))
                 ORDER BY n) AS rights,
           array(SELECT v FROM unnest(CAST(:unrestrained AS text[])) AS v
                 WHERE pg_catalog.has_table_privilege(:role, c.oid, v)) AS unrestrained
    FROM pg_catalog.pg_class AS c WHERE c.oid = ANY (CAST(:tables AS regclass[]))
    ORDER BY array_position(CAST(:tables AS regclass[]), c.oid::regclass)
""")
_POLICIES = text("""
    SELECT c.relname::text AS name, p.polname::text AS policy,
           CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
                         ELSE 'all' END AS verb,
           coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') AS using_,
           coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '') AS check_
    FROM pg_catalog.pg_policy AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid
    WHERE c.oid = ANY (CAST(:tables AS regclass[])) AND p.polpermissive
          AND EXISTS (SELECT FROM unnest(p.polroles) AS r (oid)
                      WHERE r.oid = 0 OR pg_catalog.pg_has_role(:role, r.oid, 'USAGE'))
    ORDER BY 1, 2
""")
_FUNCTIONS = text("""
    SELECT p.oid::regprocedure::text AS name, pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
           p.prosecdef AS definer,
           (SELECT substr(s, 13) FROM unnest(p.proconfig) AS s WHERE s LIKE 'search_path=%') AS search_path
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'qforge' OR (n.nspname = 'auth' AND p.proname = 'uid')
    ORDER BY 1
""")
_WRITABLE_SCHEMAS = text("""
    SELECT nspname::text FROM pg_catalog.pg_namespace
    WHERE nspname IN ('qforge', 'auth') AND pg_catalog.has_schema_privilege(:role, oid, 'CREATE') ORDER BY 1
""")


def inspect_access(connection: Connection) -> AccessReport:
    """Read who this connection is and what holds it.

    Parameters
    ----------
    connection
        In a transaction of its scope; the schema is current.

    Returns
    -------
    AccessReport
        Its ``problems`` are empty when the tenant holds.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        The server reported an error.
    """
    who = connection.execute(_WHO).one()
    # A service's rows are everybody's: what is to be inspected is the role that its tenants act in.
    role = TENANT_ROLE if who.user_id is None else who.role
    names = {"tables": [f"public.{table}" for table in TABLES], "role": role}
    policies = connection.execute(_POLICIES, names).all()
    rows = connection.execute(_TABLES, names | {"unrestrained": list(_UNRESTRAINED)}).all()
    functions = connection.execute(_FUNCTIONS).all()
    attributes = {name: bool(getattr(who, name)) for name in (*_TOO_STRONG, "createdb", "inherit")}
    problems = [
        *_table_problems(rows, role, acts=who.user_id is not None),
        *_policy_problems(policies),
        *_function_problems(functions, owner=rows[0].owner if rows else ""),
        *(
            f'{role} may create objects in schema {name}: REVOKE CREATE ON SCHEMA {name} FROM PUBLIC, "{role}"'
            for name in connection.execute(_WRITABLE_SCHEMAS, names).scalars()
        ),
        *_kind_problems(connection, who, names | {"server_roles": list(_SERVER_ROLES)}),
    ]
    return AccessReport(
        strength=_STRENGTHS.get(who.kind, "service" if who.user_id is None else "scope"),
        login=who.login,
        role=who.role,
        user_id=who.user_id,
        attributes=attributes,
        memberships=tuple(connection.execute(_MEMBERSHIPS).scalars()),
        tables=tuple(
            TableAccess(
                table=row.name,
                owner=row.owner,
                row_security=row.secured,
                applies=row.applies,
                rights=tuple(row.rights),
                policies={verb: _names(policies, row.name, verb) for verb in VERBS},
            )
            for row in rows
        ),
        functions=tuple(
            FunctionAccess(
                function=one.name, owner=one.owner, security_definer=one.definer, search_path=one.search_path
            )
            for one in functions
        ),
        problems=tuple(problems),
    )


def _kind_problems(connection: Connection, who: Any, names: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the login itself or, for the service, with the logins of its tenants."""
    if who.kind == "tenant":
        yield from _login_problems(connection.execute(_THIS_LOGIN, names).all())
    elif who.kind == "service" and who.user_id is None:
        yield from _login_problems(connection.execute(_TENANT_LOGINS, names).all())
    elif who.kind == "other":
        yield (
            f"the login {who.login!r} is neither a tenant's nor the service's: log in as the owner of the tables, or "
            "have the service make a tenant's login with client.admin.create_login()"
        )


def require_held(report: AccessReport) -> None:
    """Return if a tenant holds on this connection.

    Parameters
    ----------
    report
        Of :func:`inspect_access`.

    Raises
    ------
    ScopeNotHeld
        It would not; the message names the cause and the cure.
    """
    if report.strength != "service" and report.problems:
        more = f" (and {len(report.problems) - 1} more: client.health())" if len(report.problems) > 1 else ""
        who = "no tenant holds" if report.user_id is None else f"tenant {report.user_id} would not hold"
        raise ScopeNotHeld(f"{who} here: {report.problems[0]}{more}")


def _names(policies: Any, table: str, verb: str) -> tuple[str, ...]:
    return tuple(one.policy for one in policies if one.name == table and one.verb in {verb, "all"})


def _table_problems(rows: Any, role: str, *, acts: bool) -> Iterator[str]:
    for row in rows:
        if not row.secured:
            yield (
                f"row level security of public.{row.name} is off: "
                f"ALTER TABLE public.{row.name} ENABLE ROW LEVEL SECURITY"
            )
        elif acts and not row.applies:
            yield (
                f"row level security of public.{row.name} does not apply to {role}, which is a superuser, the owner "
                f'of the table or BYPASSRLS: ALTER ROLE "{role}" NOSUPERUSER NOBYPASSRLS'
            )
        if row.unrestrained:
            verbs = ", ".join(row.unrestrained)
            yield f'{role} may {verbs} public.{row.name}: REVOKE {verbs} ON public.{row.name} FROM "{role}", PUBLIC'
        changed = {"update", "delete"} & set(row.rights)
        if row.name == "event_logs" and changed:
            verbs = ", ".join(sorted(changed)).upper()
            yield f'{role} may change events: REVOKE {verbs} ON public.event_logs FROM "{role}", PUBLIC'


def _policy_problems(policies: Any) -> Iterator[str]:
    known = {(table, verb): f"tenant_{verb}" for table in TABLES for verb in VERBS}
    for one in policies:
        if known.get((one.name, one.verb)) != one.policy:
            yield (
                f"policy {one.policy!r} on public.{one.name} lets other rows through: "
                f'DROP POLICY "{one.policy}" ON public.{one.name}'
            )
        elif not all(_names_the_tenant(expression) for expression in (one.using_, one.check_) if expression):
            yield (
                f"policy {one.policy!r} on public.{one.name} does not ask for the tenant; make it again as "
                "`qforge db sql` prints it"
            )
    for (table, verb), name in known.items():
        if name not in _names(policies, table, verb):
            yield f"policy {name!r} is missing on public.{table}; make it again as `qforge db sql` prints it"


def _names_the_tenant(expression: str) -> bool:
    return (
        expression == "false"
        or re.search(r"\buser_id = .*\bqforge\.(?:current|login)_user_id\(\)", expression, re.S) is not None
    )


def _function_problems(functions: Any, *, owner: str) -> Iterator[str]:
    for one in functions:
        if not one.name.startswith("qforge."):
            continue
        if one.definer and one.owner != owner:
            yield f'{one.name} runs as {one.owner}: ALTER FUNCTION {one.name} OWNER TO "{owner}"'
        if one.search_path != PINNED_SEARCH_PATH:
            yield (
                f"{one.name} looks names up in {one.search_path or 'the path of its caller'}: "
                f"ALTER FUNCTION {one.name} SET search_path = {PINNED_SEARCH_PATH}"
            )


def _login_problems(logins: Any) -> Iterator[str]:
    for one in logins:
        if not one.exists:
            yield (
                f"the login {one.login} is listed as a tenant's and is no role of this server, so that whoever makes "
                f"one of that name becomes the tenant: client.admin.drop_login({one.login!r})"
            )
        for name, weaker in _TOO_STRONG.items():
            if getattr(one, name):
                cure = f'ALTER ROLE "{one.login}" {weaker}'
                yield f"the login {one.login} is {name.upper()} and could leave its tenant: {cure}"
        for role in one.stronger:
            yield (
                f"the login {one.login} can act as {role}, whom the policies do not hold: "
                f'REVOKE "{role}" FROM "{one.login}"'
            )
