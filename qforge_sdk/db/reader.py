"""Reads: one read-only transaction, one statement, Arrow out.

ADBC asks for every result by binary ``COPY (query) TO STDOUT``, which is several times faster than fetching rows.
The scope is set in the same transaction, so this also works through a pooler in transaction mode.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Never

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from adbc_driver_postgresql import StatementOptions
from sqlalchemy import Engine
from sqlalchemy.sql import ClauseElement

from qforge_sdk.config import libpq_url
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import ConnectionFailed, InvalidInput

Read = Callable[..., pa.Table]
"""A statement and its parameters to a table; see :meth:`ArrowReader.read`."""

_IDLE_CONNECTIONS: Final = 4
_BATCH_BYTES: Final = 8 * 1024 * 1024


class ArrowReader:
    """Reads of one client, each in a transaction of its own.

    Parameters
    ----------
    engine
        Engine of the same login; its URL is used and its driver writes parameters into SQL text.
    scope
        As whom the reads act.
    """

    def __init__(self, engine: Engine, scope: Scope) -> None:
        self.engine = engine
        self.scope = scope
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        # A client that nobody closed lets go of them when it goes, at the end of the process at the latest.
        weakref.finalize(self, _close_all, self._idle)

    def render(self, statement: ClauseElement | str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> str:
        """SQL text of a statement with its parameters in place, quoted by the driver.

        Parameters
        ----------
        statement
            A SQLAlchemy expression, or text with ``%(name)s`` placeholders.
        params
            Values of the placeholders. Without them text goes as it is, a bare ``%`` included.

        Returns
        -------
        str
            SQL without parameters.

        Raises
        ------
        InvalidInput
            A placeholder has no value, a value no placeholder, or a value is of a type that SQL does not know.
        """
        if isinstance(statement, str):
            text, values = statement, params
            _require_placeholders(text, params)
        else:
            compiled = statement.compile(dialect=self.engine.dialect, compile_kwargs={"render_postcompile": True})
            text, values = str(compiled), compiled.params
            if not values:
                return text % ()
        if values is None:
            return text
        self.require_open()
        with translated(), contextlib.closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                return str(cursor.mogrify(text, values).decode())
            except (KeyError, IndexError, TypeError, ValueError) as exc:
                raise _misfit(str(exc), params) from exc

    def read(
        self, statement: ClauseElement | str, params: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> pa.Table:
        """The whole result as one table.

        Parameters
        ----------
        statement, params
            As for :meth:`render`.

        Returns
        -------
        pyarrow.Table
            In the server's types.

        Raises
        ------
        QForgeError
            What the server reported, by its SQLSTATE.
        """
        with self.together() as read:
            return read(statement, params)

    @contextlib.contextmanager
    def together(self) -> Iterator[Read]:
        """Several reads of one snapshot.

        Yields
        ------
        callable
            Takes and returns what :meth:`read` does; valid inside the block.

        Raises
        ------
        QForgeError
            What the server reported, by its SQLSTATE.
        """
        with self.transaction() as cursor:

            def read(
                statement: ClauseElement | str, params: Mapping[str, Any] | Sequence[Any] | None = None
            ) -> pa.Table:
                cursor.execute(self.render(statement, params))
                return cursor.fetch_arrow_table()

            yield read

    @contextlib.contextmanager
    def stream(
        self, statement: ClauseElement | str, *, batch_bytes: int = _BATCH_BYTES, snapshot: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        """The result as a stream of record batches; memory stays flat.

        Parameters
        ----------
        statement
            As for :meth:`render`.
        batch_bytes
            Size at which the driver hands a batch out.
        snapshot
            An exported snapshot to read from.

        Yields
        ------
        pyarrow.RecordBatchReader
            Valid inside the block.

        Raises
        ------
        QForgeError
            What the server reported, by its SQLSTATE.
        """
        sql = self.render(statement)
        with self.transaction(snapshot=snapshot, lift_timeout=True) as cursor:
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: batch_bytes})
            cursor.execute(sql)
            # fetch_record_batch() would give Arrow's own reader, whose errors say nothing of the server's.
            with contextlib.closing(cursor._results.reader) as reader:
                yield reader

    @contextlib.contextmanager
    def transaction(self, *, snapshot: str | None = None, lift_timeout: bool = False) -> Iterator[Any]:
        """A cursor inside a read-only transaction of this scope.

        PostgreSQL itself holds it read-only: after the first query not even SET can make it writable.

        Parameters
        ----------
        snapshot
            An exported snapshot to read from.
        lift_timeout
            Whether statement_timeout is off inside.

        Yields
        ------
        adbc_driver_manager.dbapi.Cursor
            Runs one statement at a time.

        Raises
        ------
        QForgeError
            What the server reported, by its SQLSTATE.
        """
        self.require_open()
        with translated():
            connection, cursor = self._begin()
            try:
                if snapshot is not None:
                    cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                if lift_timeout:
                    cursor.execute("SET LOCAL statement_timeout = 0")
                for statement in self.scope.statements() or ["SELECT 1"]:
                    cursor.execute(statement)
                    self.scope.require(cursor.fetchone())
                yield cursor
                connection.adbc_connection.set_autocommit(True)
            except BaseException:
                _discard(cursor, connection)
                raise
            cursor.close()
            self._give_back(connection)

    def __reduce__(self) -> Never:
        raise TypeError("what reads a database does not pickle; open a client in each process: qforge_sdk.connect()")

    def require_open(self) -> None:
        """Refuse to go on after :meth:`close`.

        Raises
        ------
        ConnectionFailed
            It was closed.
        """
        if self._closed:
            raise ConnectionFailed("this client is closed: open another one by qforge_sdk.connect()")

    def close(self) -> None:
        """Close the idle connections; ones in use close when they are done."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)

    def _begin(self) -> tuple[Any, Any]:
        """Open a transaction on an idle connection that still answers, or on a new one."""
        while True:
            with self._lock:
                connection, fresh = (self._idle.pop(), False) if self._idle else (None, True)
            if connection is None:
                connection = adbc.connect(libpq_url(self.engine.url), autocommit=True)
            cursor = connection.cursor()
            try:
                # The driver prepares a statement and runs it in two messages. Between them a pooler may change the
                # server connection, unless a transaction is open; this opens one in a single message.
                connection.adbc_connection.set_autocommit(False)
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            except adbc_driver_manager.Error:
                _discard(cursor, connection)
                if fresh:
                    raise
            else:
                return connection, cursor

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


def _require_placeholders(text: str, params: Mapping[str, Any] | Sequence[Any] | None) -> None:
    """Refuse values by name that the text does not use: psycopg2 passes over them."""
    names = params if isinstance(params, Mapping) else ()
    for name in names:
        if f"%({name})" not in text:
            raise _misfit(f"there is no %({name})s for {name!r}", params)


def _misfit(reason: str, params: Any) -> InvalidInput:
    return InvalidInput(
        f"the SQL's placeholders and its parameters do not fit: {reason}; write %(name)s for each parameter "
        "and %% for a literal percent sign",
        field="params",
        value=params,
    )


def _close_all(connections: list[Any]) -> None:
    while connections:
        connections.pop().close()


def _discard(cursor: Any, connection: Any) -> None:
    """Close both; the server rolls back what was open."""
    with contextlib.suppress(adbc_driver_manager.Error):
        cursor.close()
    with contextlib.suppress(adbc_driver_manager.Error, RuntimeError):
        connection.close()
