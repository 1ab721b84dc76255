"""Engines and sessions, and the default database that the functions of this module share.

Nothing connects on import: the default engine is made from :class:`~qforge_sdk.config.Settings` on first use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, NullPool, QueuePool, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session, sessionmaker

from qforge_sdk.config import Settings, normalise_url
from qforge_sdk.db import schema
from qforge_sdk.db.access import inspect_access
from qforge_sdk.db.embedded import EmbeddedServer
from qforge_sdk.db.embedded import start as start_embedded
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.scope import Scope, parse_user_id
from qforge_sdk.db.sqlstate import redact, translated
from qforge_sdk.errors import QForgeError, SchemaError
from qforge_sdk.schemas import HealthCheckResponse


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions on ``engine``; their objects can still be read after the commit.

    Parameters
    ----------
    engine
        From :func:`make_engine`.

    Returns
    -------
    sessionmaker
        Call it, or use its ``begin()``.
    """
    return sessionmaker(engine, expire_on_commit=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """The database that settings point at."""

    url: URL
    scope: Scope
    server: EmbeddedServer | None = None

    @classmethod
    def of(cls, settings: Settings) -> _Target:
        scope = Scope(parse_user_id(settings.qforge_user_id))
        url = settings.url()
        if url is not None:
            return cls(url, scope)
        server = start_embedded(settings.qforge_data_dir)
        return cls(normalise_url(server.url), scope, server)

    def upgrade(self) -> None:
        # As the login itself: a tenant may not create tables.
        schema.upgrade(make_engine(self.url, poolclass=NullPool))

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()


class _Default:
    """The engine shared by the functions below, and the embedded server that it may need."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._target: _Target | None = None
        self._engine: Engine | None = None

    def target(self) -> _Target:
        """Where it is; the embedded server is started and given its tables."""
        with self._lock:
            if self._target is None:
                self._target = _Target.of(Settings())
                if self._target.server is not None:
                    self._target.upgrade()
            return self._target

    def engine(self) -> Engine:
        """The engine, made on first use."""
        with self._lock:
            if self._engine is None:
                target = self.target()
                self._engine = make_engine(target.url, scope=target.scope)
            return self._engine

    def point_at(self, url: URL) -> None:
        """Use another database from now on."""
        with self._lock:
            self.close()
            self._target = _Target(url, Scope(parse_user_id(Settings().qforge_user_id)))

    def close(self) -> None:
        """Close the pool and leave the embedded server."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            if self._target is not None:
                self._target.stop()
            self._engine = self._target = None


_default = _Default()


def setup_database(url: str | URL | None = None) -> tuple[Engine, sessionmaker[Session]]:
    """Choose the default database and create or upgrade its tables.

    Parameters
    ----------
    url
        Where it is; by default what the settings say, else the embedded server.

    Returns
    -------
    tuple of Engine and sessionmaker
        The default engine, and sessions on it.

    Raises
    ------
    ConfigurationError
        A setting or the URL cannot be used.
    ConnectionFailed
        The server cannot be reached.
    AccessDenied
        The login may not create the tables.
    """
    if url is not None:
        # A traceback shows the variables of its frames: a URL object hides its password there.
        url = normalise_url(url)
        _default.point_at(url)
    return init_db(), session_factory(_default.engine())


def init_db() -> Engine:
    """Create or upgrade the tables of the default database.

    Returns
    -------
    Engine
        The default engine.

    Raises
    ------
    ConfigurationError
        A setting cannot be used.
    ConnectionFailed
        The server cannot be reached.
    AccessDenied
        The login may not create the tables.
    """
    _default.target().upgrade()
    return _default.engine()


def close_db() -> None:
    """Close the default engine's connections; the embedded server stops with its last user."""
    _default.close()


@contextmanager
def get_db_context() -> Iterator[Session]:
    """Session on the default database: committed at the end, rolled back on an error, closed in any case.

    Yields
    ------
    Session
        For one unit of work.

    Raises
    ------
    ConfigurationError
        A setting cannot be used.
    QForgeError
        What the server reported inside the block or at the commit.
    """
    with session_factory(_default.engine())() as session, translated():
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise


def get_db() -> Iterator[Session]:
    """FastAPI dependency: the session of :func:`get_db_context` for one request.

    Yields
    ------
    Session
        Write ``Depends(get_db, scope="function")``: only then does FastAPI commit before it answers.

    Raises
    ------
    ConfigurationError
        A setting cannot be used.
    QForgeError
        What the server reported.
    """
    with get_db_context() as session:
        yield session


def check_db_health(engine: Engine | None = None) -> HealthCheckResponse:
    """Whether the database can be reached and holds this package's tables.

    Parameters
    ----------
    engine
        By default the default database's.

    Returns
    -------
    HealthCheckResponse
        ``unhealthy``, with the reason and without a password, when anything is wrong; nothing is raised.
    """
    try:
        engine = engine or _default.engine()
        with translated(), engine.connect() as connection:
            return _health_of(connection, engine)
    except QForgeError as exc:
        return HealthCheckResponse(
            status="unhealthy", database="PostgreSQL", message=redact(str(exc)), tables_exist=False
        )


def _health_of(connection: Connection, engine: Engine) -> HealthCheckResponse:
    version = connection.scalar(text("SELECT current_setting('server_version')"))
    found = schema.status(connection)
    problem = _schema_problem(connection)
    access = inspect_access(connection) if problem is None else None
    if access is not None and access.problems:
        problem = "; ".join(access.problems)
    place = f"{engine.url.host or engine.url.query.get('host', 'local socket')}, database {engine.url.database}"
    return HealthCheckResponse(
        status="unhealthy" if problem else "healthy",
        database=f"PostgreSQL {version}",
        message=problem or f"connected to {place}, schema revision {found.found}",
        tables_exist=found.found is not None,
        pool_size=str(engine.pool.size()) if isinstance(engine.pool, QueuePool) else None,
        access=access,
    )


def _schema_problem(connection: Connection) -> str | None:
    try:
        schema.require_current(connection)
    except SchemaError as exc:
        return str(exc)
    return None
