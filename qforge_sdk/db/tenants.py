"""Tenants as the service sees them: their logins, what they own, and their end."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import datetime
from typing import Any, Final, NoReturn

import psycopg2
from psycopg2.extensions import encrypt_password
from psycopg2.sql import SQL, Identifier, Literal
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.scope import SCOPE_ROLE, TENANT_ROLE
from qforge_sdk.errors import AccessDenied, Conflict, InvalidInput, NotFound

#: Children first: whatever a later table's rows would take along by cascade is counted under its own name.
DELETION_ORDER: Final = ("batch_items", "atomic_properties", "calculations", "batch_jobs", "molecules", "event_logs")

_LOGIN: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_.@-]{0,62}")
_RESERVED: Final = frozenset(
    {"public", "none", "current_user", "session_user", "current_role", "user", TENANT_ROLE, SCOPE_ROLE}
)


class Password:
    """A password that is shown once and stored nowhere: the server keeps what verifies it.

    Parameters
    ----------
    text
        The password.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text: str | None = text

    def reveal(self) -> str:
        """The password, once; hand it over and have its owner change it.

        Raises
        ------
        LookupError
            It was revealed before.
        """
        text, self._text = self._text, None
        if text is None:
            raise LookupError("this password was revealed before; make another with client.admin.reset_password()")
        return text

    def __repr__(self) -> str:
        return "<Password: call .reveal(), once>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Password does not pickle")


def create_login(connection: Connection, user_id: uuid.UUID, login: str) -> Password:
    """Make a role that is this tenant whatever it sets.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    user_id
        The tenant.
    login
        Name of the role: it is known to the whole server.

    Returns
    -------
    Password
        Only its SCRAM verifier was sent to the server.

    Raises
    ------
    InvalidInput
        The name cannot be a login.
    Conflict
        A role of that name exists.
    AccessDenied
        The service may not create roles; the message says what an administrator runs.
    """
    if not _LOGIN.fullmatch(login) or login in _RESERVED:
        raise InvalidInput(
            f"a login cannot be called {login!r}: write up to 63 lower-case letters, digits and _ . @ -, "
            "beginning with a letter",
            field="name",
            value=login,
        )
    if connection.scalar(
        text("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :login)"), {"login": login}
    ):
        raise Conflict(f"the server has a role {login!r} already, perhaps of another database; choose another name")
    password, verifier = _new_password(connection, login)
    _as_administrator(
        connection,
        SQL(
            "CREATE ROLE {} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
            "IN ROLE {} PASSWORD {}"
        ).format(Identifier(login), Identifier(TENANT_ROLE), Literal(verifier)),
    )
    connection.execute(
        text("INSERT INTO qforge.tenant_logins (login, user_id) VALUES (:login, :user_id)"),
        {"login": login, "user_id": user_id},
    )
    record(connection, "login_created", {"login": login, "user_id": str(user_id)})
    return password


def reset_password(connection: Connection, login: str) -> Password:
    """Give a tenant's login a new password.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    login
        Made by :func:`create_login`.

    Returns
    -------
    Password
        The old one is void; sessions that are open stay open.

    Raises
    ------
    NotFound
        No tenant has that login.
    AccessDenied
        The service may not change that role.
    """
    _require_login(connection, login)
    password, verifier = _new_password(connection, login)
    _as_administrator(connection, SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(login), Literal(verifier)))
    record(connection, "login_password_reset", {"login": login})
    return password


def drop_login(connection: Connection, login: str) -> None:
    """End a tenant's login, its sessions and what they own besides rows, such as large objects; its rows stay.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    login
        Made by :func:`create_login`.

    Raises
    ------
    NotFound
        No tenant has that login.
    AccessDenied
        The service may not drop that role.
    Conflict
        The role owns objects in another database.
    """
    user_id = _require_login(connection, login)
    connection.execute(text("DELETE FROM qforge.tenant_logins WHERE login = :login"), {"login": login})
    exists = connection.scalar(text("SELECT to_regrole(quote_ident(:login)) IS NOT NULL"), {"login": login})
    if exists:
        role = Identifier(login)
        newer = connection.scalar(text("SELECT current_setting('server_version_num')::int >= 160000"))
        options = SQL("WITH INHERIT TRUE, SET TRUE") if newer else SQL("")
        # Only a member may end its sessions and drop what it owns.
        _as_administrator(connection, SQL("GRANT {} TO CURRENT_USER {}").format(role, options))
        _as_administrator(connection, SQL("DROP OWNED BY {}").format(role))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = :login"),
            {"login": login},
        )
        _as_administrator(connection, SQL("DROP ROLE {}").format(role))
    record(connection, "login_dropped", {"login": login, "user_id": str(user_id)})


def delete_tenant(connection: Connection, user_id: uuid.UUID, *, dry_run: bool) -> dict[str, int]:
    """Delete everything of a tenant: rows, events and logins.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    user_id
        The tenant.
    dry_run
        Only count.

    Returns
    -------
    dict
        Rows by table, and ``tenant_logins``. Their events are counted before the deletion, which writes more.

    Raises
    ------
    Conflict
        Rows of other owners hang on the tenant's, and would go with them; nothing is deleted.
    AccessDenied
        The service may not drop a login.
    """
    owner = {"user_id": user_id}
    if not dry_run:
        lock_tables(connection)
    counts = {
        table: connection.execute(
            text(f"SELECT count(*) FROM public.{table} WHERE user_id = :user_id"), owner
        ).scalar_one()
        for table in DELETION_ORDER
    }
    logins = _logins_of(connection, user_id)
    counts["tenant_logins"] = len(logins)
    strangers = {
        name: number
        for name, query in _STRANGERS.items()
        if (number := connection.execute(text(query), owner).scalar_one())
    }
    if strangers:
        found = ", ".join(f"{number:,} {name}" for name, number in strangers.items())
        raise Conflict(
            f"rows of other owners hang on rows of tenant {user_id} and would go with them: {found}; move those first"
        )
    if dry_run:
        return counts
    for table in DELETION_ORDER[:-1]:
        connection.execute(text(f"DELETE FROM public.{table} WHERE user_id = :user_id"), owner)
    connection.execute(text("SELECT qforge.prune_events('infinity', :user_id)"), owner)
    # What counts nothing any more names the tenant until it is added up.
    connection.execute(text("SELECT qforge.compact_statistics()"))
    for login in logins:
        drop_login(connection, login)
    record(connection, "tenant_deleted", {"user_id": str(user_id), "rows": counts})
    return counts


def tenants(connection: Connection) -> list[Any]:
    """Every tenant that has rows or logins.

    Parameters
    ----------
    connection
        The service's.

    Returns
    -------
    list of Row
        user_id, logins, one count for each table, last_event_at.
    """
    owned = " UNION ALL ".join(
        f"SELECT user_id, '{table}' AS name, count(*) AS n, "
        f"{'max(created_at)' if table == 'event_logs' else 'NULL::timestamptz'} AS at "
        f"FROM public.{table} GROUP BY user_id"
        for table in TABLES
    )
    sums = ", ".join(f"coalesce(sum(n) FILTER (WHERE name = '{table}'), 0)::bigint AS {table}" for table in TABLES)
    query = f"""
        SELECT user_id, (SELECT string_agg(login, ', ' ORDER BY login) FROM qforge.tenant_logins AS t
                         WHERE t.user_id = every.user_id) AS logins, {sums}, max(at) AS last_event_at
        FROM ({owned} UNION ALL SELECT user_id, 'login', 0, NULL FROM qforge.tenant_logins) AS every
        WHERE user_id <> :public GROUP BY user_id ORDER BY user_id
    """
    return list(connection.execute(text(query), {"public": PUBLIC_USER_ID}))


def prune_events(connection: Connection, before: datetime) -> int:
    """Delete everybody's events that are older, and leave one about it.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    before
        With a time zone.

    Returns
    -------
    int
        Events deleted.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        This login does not own the table.
    """
    pruned: int = connection.execute(text("SELECT qforge.prune_events(:before)"), {"before": before}).scalar_one()
    return pruned


def record(connection: Connection, event_type: str, context: dict[str, Any]) -> None:
    """Leave an event about an act of administration, which only the service sees.

    Parameters
    ----------
    connection
        The service's, in the transaction of the act.
    event_type, context
        What was done.
    """
    statement = text(
        "INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service) "
        "VALUES (NULL, :event_type, 'system', :context, 'admin')"
    ).bindparams(bindparam("context", type_=JSONB))
    connection.execute(statement, {"event_type": event_type, "context": context})


def lock_tables(connection: Connection) -> None:
    """Keep others from writing until the end of the transaction: what is checked now stays as it is."""
    names = ", ".join(f"public.{table}" for table in TABLES if table != "event_logs")
    connection.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))


# Rows that go, or lose their calculation, with the tenant's, and are not its own.
_STRANGERS: Final = {
    "calculations": """
        SELECT count(*) FROM public.calculations AS c JOIN public.molecules AS m ON m.id = c.molecule_id
        WHERE m.user_id = :user_id AND c.user_id IS DISTINCT FROM :user_id
    """,
    "batch items": """
        SELECT count(*) FROM public.batch_items AS i
        JOIN public.molecules AS m ON m.id = i.molecule_id
        JOIN public.batch_jobs AS b ON b.id = i.batch_id
        LEFT JOIN public.calculations AS c ON c.id = i.calculation_id
        WHERE :user_id IN (m.user_id, b.user_id, c.user_id) AND i.user_id IS DISTINCT FROM :user_id
    """,
    "atoms": """
        SELECT count(*) FROM public.atomic_properties AS a JOIN public.calculations AS c ON c.id = a.calculation_id
        WHERE c.user_id = :user_id AND a.user_id IS DISTINCT FROM :user_id
    """,
}


def _new_password(connection: Connection, login: str) -> tuple[Password, str]:
    """A password, and what the server verifies it by: the password itself is never sent."""
    text = secrets.token_urlsafe(24)
    driver: Any = connection.connection.driver_connection
    return Password(text), encrypt_password(text, login, scope=driver, algorithm="scram-sha-256")


def _logins_of(connection: Connection, user_id: uuid.UUID) -> list[str]:
    query = text("SELECT login::text FROM qforge.tenant_logins WHERE user_id = :user_id ORDER BY login")
    return list(connection.execute(query, {"user_id": user_id}).scalars())


def _require_login(connection: Connection, login: str) -> uuid.UUID:
    query = text("SELECT user_id FROM qforge.tenant_logins WHERE login = :login FOR UPDATE")
    user_id: uuid.UUID | None = connection.scalar(query, {"login": login})
    if user_id is None:
        raise NotFound(
            f"no tenant has a login {login!r}; client.admin.tenants() lists them", entity="tenant_logins", key=login
        )
    return user_id


def _as_administrator(connection: Connection, statement: Any) -> None:
    """Run a statement on roles by the driver itself: what fails shows neither its text nor a verifier."""
    problem: Exception | None = None
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.errors.InsufficientPrivilege as exc:
            problem = AccessDenied(
                f"this login may not manage logins ({exc.diag.message_primary}); an administrator runs, for it: "
                f"ALTER ROLE ... CREATEROLE; GRANT {TENANT_ROLE} TO ... WITH ADMIN OPTION"
            )
        except psycopg2.errors.DependentObjectsStillExist as exc:
            problem = Conflict(
                f"{exc.diag.message_primary}: {exc.diag.message_detail}; drop those as their owner first"
            )
    if problem is not None:
        raise problem
