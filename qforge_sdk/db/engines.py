"""Engines: how this package connects."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, Pool, QueuePool, create_engine
from sqlalchemy.engine import URL

from qforge_sdk.db.scope import Scope

APPLICATION_NAME: Final = "qforge_sdk"
AS_LOGIN: Final = Scope()

# A server that is gone is noticed after 10 + 3 x 10 s, not after the kernel's two hours.
_CONNECT_ARGUMENTS: Final = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def make_engine(
    url: URL,
    *,
    scope: Scope = AS_LOGIN,
    pool_size: int = 20,
    max_overflow: int = 30,
    pool_recycle: int = 3600,
    application_name: str = APPLICATION_NAME,
    poolclass: type[Pool] | None = None,
) -> Engine:
    """Engine of one database in one scope; it connects on first use.

    Parameters
    ----------
    url
        From :func:`qforge_sdk.config.normalise_url`; its own arguments win over the ones below.
    scope
        As whom every transaction acts.
    pool_size, max_overflow
        Connections that are kept, and how many more there may be at once.
    pool_recycle
        Seconds after which a connection is replaced.
    application_name
        What the server and the audit trail see.
    poolclass
        Another pool, such as ``NullPool``.

    Returns
    -------
    Engine
        A transaction of it raises :class:`ScopeNotHeld` when it has a tenant and runs in autocommit.
    """
    kind = poolclass or QueuePool
    sizes = {"pool_size": pool_size, "max_overflow": max_overflow} if issubclass(kind, QueuePool) else {}
    engine = create_engine(
        url,
        poolclass=kind,
        pool_pre_ping=True,
        pool_recycle=pool_recycle,
        # Saves two queries on each new connection; no column is an hstore.
        use_native_hstore=False,
        connect_args=_connect_arguments(url, application_name),
        **sizes,
    )
    scope.attach(engine)
    return engine


def _connect_arguments(url: URL, application_name: str) -> dict[str, Any]:
    arguments = {"application_name": application_name, **_CONNECT_ARGUMENTS}
    return {name: value for name, value in arguments.items() if name not in url.query}
