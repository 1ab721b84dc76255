"""As whom a transaction acts.

A scope is set at the beginning of every transaction and only for it, so that transaction-mode poolers, rollbacks and
reused connections cannot carry it anywhere else.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, event

from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.errors import InvalidInput, ScopeNotHeld

TENANT_ROLE: Final = "qforge_tenant"


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
        """SQL that opens a transaction of this scope, without parameters."""
        if self.user_id is None:
            return []
        claims = json.dumps({"sub": str(self.user_id), "role": "authenticated"})
        # auth.uid() prefers the older claim: an old value of it must not win.
        return [
            f"SELECT set_config('request.jwt.claims', '{claims}', true), "
            f"set_config('request.jwt.claim.sub', '{self.user_id}', true), "
            f"set_config('role', '{TENANT_ROLE}', true)"
        ]

    def attach(self, engine: Engine) -> None:
        """Open every transaction of ``engine`` in this scope.

        Parameters
        ----------
        engine
            An engine of its own; engines of other tenants must not share it.
        """
        statements = self.statements()
        if not statements:
            return

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if getattr(connection.connection.dbapi_connection, "autocommit", False):
                raise ScopeNotHeld(
                    f"the tenant {self.user_id} would hold for no statement in autocommit; use a transaction"
                )
            for statement in statements:
                connection.exec_driver_sql(statement)


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
