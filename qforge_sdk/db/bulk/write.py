"""Rows into tables: straight by COPY where the role may, else through a temporary table."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable, Identifier, Literal
from sqlalchemy import BigInteger, Column, Connection, text

from qforge_sdk.db.copy import copy_in
from qforge_sdk.db.models import Base

_T = TypeVar("_T")
_PREFETCH: Final = 2
_numbers = itertools.count(1)

ROW: Final = Column("row", BigInteger)


@dataclass(frozen=True, slots=True)
class Reserved:
    """Keys that were taken from a sequence: a range, unless another session took some at the same time.

    Parameters
    ----------
    first
        The lowest.
    scattered
        All of them, when they are no range.
    """

    first: int
    scattered: npt.NDArray[np.int64] | None

    def between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Keys of the rows from ``start`` up to ``stop``."""
        if self.scattered is not None:
            return self.scattered[start:stop]
        return np.arange(self.first + start, self.first + stop, dtype=np.int64)


@dataclass(frozen=True)
class Writer:
    """One load's way into the database.

    Parameters
    ----------
    connection
        In the transaction of the load.
    subject
        Whether row level security applies, and with it the temporary table.
    """

    connection: Connection
    subject: bool

    @classmethod
    def on(cls, connection: Connection) -> Writer:
        """Prepare the transaction for bulk work: no statement_timeout, memory for sorting."""
        connection.execute(
            text(
                "SELECT set_config('statement_timeout', '0', true), set_config('work_mem', '128MB', true), "
                "set_config('maintenance_work_mem', '512MB', true)"
            )
        )
        subject = bool(connection.scalar(text("SELECT row_security_active('public.calculations'::regclass)")))
        return cls(connection, subject)

    @property
    def cursor(self) -> Cursor:
        """A new cursor of the driver, in the same transaction."""
        return cast("Cursor", self.connection.connection.cursor())

    def temporary(self, columns: Sequence[Column[Any]], tables: Iterable[pa.Table]) -> Composable:
        """A temporary table with these rows; its quoted name. It is gone at the end of the transaction."""
        name = f"qforge_load_{next(_numbers)}"
        quoted = SQL("pg_temp.{}").format(Identifier(name))
        parts = [
            SQL("{} {}").format(Identifier(c.name), SQL(c.type.compile(self.connection.dialect))) for c in columns
        ]
        with self.cursor as cursor:
            cursor.execute(
                SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(Identifier(name), SQL(", ").join(parts))
            )
            copy_in(cursor, quoted, columns, ahead(tables))
            cursor.execute(SQL("ANALYZE {}").format(quoted))
        return quoted

    def fetch(self, query: Composable, **names: Composable) -> list[tuple[Any, ...]]:
        """Rows of a query whose ``{name}`` are filled in."""
        with self.cursor as cursor:
            cursor.execute(query.format(**names) if names else query)  # type: ignore[attr-defined]
            return cursor.fetchall()

    def take_turns(self, key: str) -> None:
        """Wait for other transactions that named the same key, and make later ones wait for this one."""
        self.fetch(SQL("SELECT pg_advisory_xact_lock(hashtextextended({key}, 0))"), key=Literal(key))

    def reserve(self, model: type[Base], count: int) -> Reserved:
        """Keys for ``count`` rows, ascending, nobody else's."""
        if not count:
            return Reserved(0, None)
        sequence = f"public.{model.__tablename__}_id_seq"
        query = SQL(
            "SELECT min(n), CASE WHEN max(n) - min(n) + 1 <> count(*) THEN array_agg(n ORDER BY n) END "
            f"FROM (SELECT nextval('{sequence}') AS n FROM generate_series(1, {int(count)})) AS taken"
        )
        ((first, scattered),) = self.fetch(query)
        return Reserved(first, None if scattered is None else np.array(scattered, np.int64))

    def values(self, names: Sequence[str]) -> Composable:
        """SQL list of the columns of a temporary table ``s``, in which a tenant's own id stands for ``user_id``."""
        return SQL(", ").join(
            SQL("(SELECT qforge.current_user_id())") if name == "user_id" and self.subject else Identifier("s", name)
            for name in names
        )

    def insert(
        self, model: type[Base], names: list[str], tables: Iterable[pa.Table], *, freeze: bool = False
    ) -> tuple[int, npt.NDArray[np.int64]]:
        """Insert rows in one statement.

        Parameters
        ----------
        model
            The table.
        names
            Its columns that the tables hold. Straight into the table they may include ``id`` and ``user_id``; through
            the temporary table the database gives both.
        tables
            The rows.
        freeze
            The table was truncated in this very transaction.

        Returns
        -------
        int
            Rows inserted.
        numpy.ndarray
            Their keys in order, as far as the database gave them here.
        """
        columns = columns_of(model, names)
        target = SQL("public.{}").format(Identifier(model.__tablename__))
        if not self.subject:
            with self.cursor as cursor:
                return copy_in(cursor, target, columns, ahead(tables), freeze=freeze), np.zeros(0, np.int64)
        staged = self.temporary(columns, tables)
        insert = SQL("INSERT INTO {target} ({listed}) SELECT {values} FROM {staged} AS s").format(
            target=target, listed=listed(names), values=self.values(names), staged=staged
        )
        if "id" not in model.__table__.c:
            with self.cursor as cursor:
                cursor.execute(insert)
                return cursor.rowcount, np.zeros(0, np.int64)
        # A temporary table is read in the order in which it was filled, and keys are given in the order of reading.
        ((count, first, last, scattered),) = self.fetch(
            SQL(
                "WITH new AS ({insert} RETURNING id) SELECT count(*), min(id), max(id), "
                "CASE WHEN max(id) - min(id) + 1 <> count(*) THEN array_agg(id ORDER BY id) END FROM new"
            ),
            insert=insert,
        )
        if not count:
            return 0, np.zeros(0, np.int64)
        keys = np.arange(first, last + 1, dtype=np.int64) if scattered is None else np.array(scattered, np.int64)
        return count, keys


def columns_of(model: type[Base], names: Iterable[str]) -> list[Column[Any]]:
    """Columns of a table by their names."""
    return [cast("Column[Any]", model.__table__.c[name]) for name in names]


def listed(names: Iterable[str], alias: str | None = None) -> Composable:
    """SQL list of columns, of the table with this alias."""
    return SQL(", ").join(Identifier(alias, name) if alias else Identifier(name) for name in names)


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, made in a thread while the caller waits for the server."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=_PREFETCH)
    stop = threading.Event()
    end = object()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as exc:  # noqa: BLE001 - raised again in the consumer
            put(_Failure(exc))
        else:
            put(end)

    thread = threading.Thread(target=produce, name="qforge-load", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, _Failure):
                raise item.cause
            yield item
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class _Failure:
    cause: BaseException
