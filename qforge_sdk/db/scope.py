"""As whom a transaction acts.

A scope is set at the beginning of every transaction and only for it, so that transaction-mode poolers, rollbacks and
reused connections cannot carry it anywhere else. The driver's connection sees to it (:class:`ScopedConnection`): what
is sent outside a transaction of the scope is refused, whichever way it came, and a connection that lost its tenant
is closed before its rows can be read.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn

import psycopg2
from psycopg2.extensions import (
    STATUS_READY,
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)
from psycopg2.extensions import connection as DriverConnection  # noqa: N812 (the driver's names are in lower case)
from psycopg2.extensions import cursor as DriverCursor  # noqa: N812
from psycopg2.sql import Composable
from sqlalchemy import Connection, Engine, event

from qforge_sdk.db.public import PUBLIC_USER_ID
from qforge_sdk.errors import InvalidInput, SchemaMissing, SchemaOutdated, ScopeNotHeld

#: The group of tenants' logins, which holds the rights on the tables, and the role that scopes act in.
TENANT_ROLE: Final = "qforge_tenant"
SCOPE_ROLE: Final = "qforge_scope"

# What the pool sends, in autocommit, to learn whether a connection still lives.
_PING: Final = "SELECT 1"
_WHO: Final = "qforge.current_user_id()::text, current_user::text, qforge.login_kind()"
_NO_AUTOCOMMIT: Final = "a tenant's connection cannot run in autocommit: the tenant is set for each transaction"
# Statements after which somebody else might be acting.
_MAY_CHANGE_ROLE: Final = re.compile(
    r"\b(?:role|authorization|set_config|jwt)\b|(?:^|;)\s*(?:do|call|reset|discard|rollback|commit|end|abort)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant of a connection.

    Parameters
    ----------
    user_id
        The tenant, or None for the login as it is.
    """

    user_id: uuid.UUID | None = None

    def statements(self) -> list[str]:
        """SQL that opens a transaction of this scope, without parameters; its row goes to :meth:`require`."""
        if self.user_id is None:
            return []
        claims = json.dumps({"sub": str(self.user_id), "role": "authenticated"})
        # auth.uid() prefers the older claim: an old value of it must not win. OFFSET keeps the order of evaluation.
        # A tenant's own login keeps its role, which holds it already, and may become no other.
        role = f"CASE qforge.login_kind() WHEN 'tenant' THEN 'none' ELSE '{SCOPE_ROLE}' END"
        return [
            f"SELECT {_WHO} FROM ("
            f"SELECT set_config('request.jwt.claims', '{claims}', true), "
            f"set_config('request.jwt.claim.sub', '{self.user_id}', true), "
            f"set_config('role', {role}, true) OFFSET 0) AS opened"
        ]

    def require(self, row: Sequence[object] | None) -> None:
        """Return if the server acts as this tenant.

        Parameters
        ----------
        row
            What the server answered to the last of :meth:`statements`: tenant, role, kind of the login.

        Raises
        ------
        ScopeNotHeld
            It acts as somebody else.
        """
        if self.user_id is None or self.is_held(row):
            return
        found, role, _ = row if row is not None else (None, None, None)
        if found is not None and found != str(self.user_id):
            cause = f"this login is tenant {found} and cannot act as another; leave user_id out"
        elif found is None:
            cause = "this login is neither the service's nor a tenant's; log in as the owner of the tables"
        else:
            cause = f"the role is {role} and not {SCOPE_ROLE}"
        raise ScopeNotHeld(f"cannot act as tenant {self.user_id}: {cause}")

    def is_held(self, row: Sequence[object] | None) -> bool:
        """Whether the answer of :meth:`require` is this tenant, in a role that the policies hold."""
        if row is None:
            return False
        found, role, kind = row
        return found == str(self.user_id) and (role == SCOPE_ROLE or kind == "tenant")

    def attach(self, engine: Engine) -> None:
        """Open every transaction of ``engine`` in this scope.

        Parameters
        ----------
        engine
            An engine of its own, which has not connected yet; engines of other tenants must not share it.
        """
        if self.user_id is None:
            return
        factory = type("ScopedConnection", (ScopedConnection,), {"scope": self})

        @event.listens_for(engine, "do_connect")
        def _do_connect(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
            options["connection_factory"] = factory

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if getattr(connection.connection.dbapi_connection, "autocommit", False):
                raise ScopeNotHeld(_NO_AUTOCOMMIT)


class ScopedConnection(DriverConnection):
    """A connection of psycopg2 whose every statement runs in a transaction of one scope."""

    scope: ClassVar[Scope]

    def cursor(self, *args: Any, **options: Any) -> Any:
        """A cursor that keeps the scope, whatever else it does."""
        wanted = options.get("cursor_factory") or DriverCursor
        scoped = wanted if issubclass(wanted, ScopedCursor) else type(wanted.__name__, (ScopedCursor, wanted), {})
        return super().cursor(*args, **options | {"cursor_factory": scoped})

    def rollback(self) -> None:
        """Roll back; a connection that was closed because it lost its tenant has nothing left to roll back."""
        if not self.closed:
            super().rollback()

    def tpc_begin(self, *_args: Any) -> NoReturn:
        """Refuse: a prepared transaction outlives its role."""
        raise ScopeNotHeld("a tenant's connection has no two-phase transactions; use an ordinary one")

    def enter(self, query: object) -> bool:
        """Open the scope if ``query`` begins a transaction.

        Returns
        -------
        bool
            Whether the scope has to hold after the query.

        Raises
        ------
        ScopeNotHeld
            There is no transaction to hold it, or the server takes this connection for somebody else.
        """
        if self.autocommit:
            if query == _PING:
                return False
            raise ScopeNotHeld(_NO_AUTOCOMMIT)
        if self.info.transaction_status == TRANSACTION_STATUS_IDLE:
            if self.status != STATUS_READY:
                self._lose("the transaction was ended by a statement, and the tenant with it")
            self._open()
        return True

    def check(self, query: object) -> None:
        """Return if the scope still holds after ``query``.

        Raises
        ------
        ScopeNotHeld
            It does not; the connection is closed, what it had not committed is rolled back.
        """
        status = self.info.transaction_status
        if status not in {TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR}:
            self._lose("a statement ended the transaction, and the tenant with it; use commit() and rollback()")
        if status == TRANSACTION_STATUS_INTRANS and _MAY_CHANGE_ROLE.search(self._text(query)):
            with DriverCursor(self) as cursor:
                cursor.execute(f"SELECT {_WHO}")
                held = self.scope.is_held(cursor.fetchone())
            if not held:
                self._lose("a statement changed the role or the claims of the transaction")

    def _open(self) -> None:
        with DriverCursor(self) as cursor:
            try:
                for statement in self.scope.statements():
                    cursor.execute(statement)
                self.scope.require(cursor.fetchone())
            except psycopg2.Error as exc:
                raise _refusal(exc, str(self.info.user)) from exc

    def _lose(self, reason: str) -> NoReturn:
        # Closed, so that not even the rows that have come already can be fetched.
        self.close()
        raise ScopeNotHeld(f"the tenant {self.scope.user_id} was lost and the connection closed: {reason}")

    def _text(self, query: object) -> str:
        if isinstance(query, Composable):
            return query.as_string(self)
        return query.decode(errors="replace") if isinstance(query, bytes) else str(query)


class ScopedCursor(DriverCursor):
    """Each statement of it runs in the scope of its connection, or not at all."""

    connection: ScopedConnection

    def execute(self, query: Any, *args: Any, **options: Any) -> None:
        """Run one statement in the scope."""
        self._run(super().execute, query, *args, **options)

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        """Run one statement several times in the scope."""
        self._run(super().executemany, query, *args, **options)

    def copy_expert(self, sql: Any, *args: Any, **options: Any) -> None:
        """COPY in the scope."""
        self._run(super().copy_expert, sql, *args, **options)

    def copy_from(self, *args: Any, **options: Any) -> None:
        """COPY in the scope."""
        self._run(lambda _, *rest, **more: super(ScopedCursor, self).copy_from(*rest, **more), "", *args, **options)

    def copy_to(self, *args: Any, **options: Any) -> None:
        """COPY in the scope."""
        self._run(lambda _, *rest, **more: super(ScopedCursor, self).copy_to(*rest, **more), "", *args, **options)

    def callproc(self, procname: Any, *args: Any, **options: Any) -> None:
        """Call a function in the scope."""
        self._run(super().callproc, procname, *args, **options)

    def _run(self, verb: Any, query: Any, *args: Any, **options: Any) -> None:
        held = self.connection.enter(query)
        verb(query, *args, **options)
        if held:
            self.connection.check(query)


def _refusal(exc: psycopg2.Error, login: str) -> Exception:
    """What it means that a scope could not be opened."""
    if exc.pgcode in {"3F000", "42883"}:
        return SchemaMissing(
            "this database has no qforge tables yet; create them with: qforge db upgrade, "
            "or bring those of the old database module over with: qforge db adopt"
        )
    if exc.pgcode == "22023":
        return SchemaOutdated(f"this database has no role {SCOPE_ROLE} yet; run: qforge db upgrade")
    if exc.pgcode == "42501":
        return ScopeNotHeld(
            f"the login {login!r} may not act for tenants ({exc.diag.message_primary}); a service login is the owner "
            f'of the tables and a member of {SCOPE_ROLE}: GRANT {SCOPE_ROLE} TO "{login}"'
        )
    return exc


def parse_user_id(value: str | uuid.UUID | None) -> uuid.UUID | None:
    """Tenant id from text.

    Parameters
    ----------
    value
        A uuid, its text form, or None.

    Returns
    -------
    uuid.UUID or None
        The same as a uuid.

    Raises
    ------
    InvalidInput
        It is no uuid, or it is the public one, which no tenant may be.
    """
    if value is None:
        return None
    try:
        parsed = value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError as exc:
        raise InvalidInput(
            f"user_id {value!r} is not a uuid such as 8c5f0e9a-3b60-4a52-9d0c-3f1c6a1b2c3d",
            field="user_id",
            value=value,
        ) from exc
    if parsed == PUBLIC_USER_ID:
        raise InvalidInput(
            "the uuid of zeros owns the public rows and is no tenant; a service login writes there with shared=True",
            field="user_id",
            value=value,
        )
    return parsed
