"""What all accessors share: a context to work in, and the verbs that mean the same everywhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Never

import numpy as np
import pandas as pd
from pydantic import BaseModel
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from qforge_sdk import display
from qforge_sdk.db.models import PUBLIC_USER_ID, Base
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import AccessDenied, InvalidInput, NotFound, QForgeError
from qforge_sdk.fields import TableFields
from qforge_sdk.query import Query


@dataclass(frozen=True, slots=True)
class Context:
    """What one client's accessors work with.

    Parameters
    ----------
    engine
        Pool whose transactions all begin in the scope.
    reader
        Reads through Arrow in the same scope.
    scope
        As whom to act; without a tenant in it, as the login itself.
    tenant
        The tenant that the server sees, None for the service.
    """

    engine: Engine
    reader: ArrowReader
    scope: Scope
    tenant: uuid.UUID | None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session in one transaction: committed at the end, rolled back on an error.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        self.reader.require_open()
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in one transaction: committed at the end, rolled back on an error.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        self.reader.require_open()
        with translated(), self.engine.begin() as connection:
            yield connection

    def __reduce__(self) -> Never:
        raise TypeError("what belongs to a client does not pickle; open one in each process: qforge_sdk.connect()")

    def may_change(self, owner: uuid.UUID | str | None) -> bool:
        """Whether rows of an owner may be changed: a tenant changes its own, the service everybody's.

        Parameters
        ----------
        owner
            Their ``user_id``.
        """
        return self.tenant is None or str(owner) == str(self.tenant)

    def owner(self, *, shared: bool) -> uuid.UUID | None:
        """Owner of rows that are written now.

        Parameters
        ----------
        shared
            Whether everybody shall read them.

        Returns
        -------
        uuid.UUID or None
            The tenant, the public owner, or None for the service's own rows, which no tenant sees.

        Raises
        ------
        AccessDenied
            A tenant asked for shared rows.
        """
        if not shared:
            return self.tenant
        if self.tenant is not None:
            raise AccessDenied("shared=True writes rows that everybody reads, which only a service login may do")
        return PUBLIC_USER_ID


# Counting on would make showing what one may call wait.
_COUNTED_ROWS: Final = 10_000


class Accessor:
    """The rows of one table.

    Parameters
    ----------
    context
        The client's.
    """

    _table: ClassVar[TableFields]
    _record: ClassVar[type[BaseModel]]

    def __init__(self, context: Context) -> None:
        self._context = context

    def __repr__(self) -> str:
        verbs = [name for name in dir(self) if not name.startswith("_")]
        return f"<{self._table.name}: {', '.join(verbs)}>"

    def _repr_html_(self) -> str:
        verbs = ", ".join(name for name in dir(self) if not name.startswith("_"))
        what = (type(self).__doc__ or "").partition("\n")[0]
        try:
            count = self.where().count(most=_COUNTED_ROWS)
        except QForgeError as exc:
            return display.together(display.paragraph(self), display.failure(exc))
        many = f"{count:,}" if count < _COUNTED_ROWS else f"{_COUNTED_ROWS:,} or more"
        return display.table({"rows": many, "methods": verbs}, caption=f"{self._table.name}: {what}")

    def query(
        self,
        *,
        order_by: str | Sequence[str] = (),
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        **filters: Any,
    ) -> pd.DataFrame:
        """Rows that fulfil all filters, as a DataFrame.

        Parameters
        ----------
        order_by
            Column or columns; ``-gap`` sorts downwards. Without it, and with a limit, the newest come first.
        limit
            Largest number of rows, None for all of them.
        columns
            Columns to return, None for the usual ones (without fingerprints and metadata).
        units
            Column name to the unit wanted, such as ``{"energy": "kcal/mol"}``.
        **filters
            Column name to a value (equals), ``(low, high)`` with None for an open end, a list (any of), None (null).

        Returns
        -------
        pandas.DataFrame
            RangeIndex; the same columns and dtypes whether there are rows or not.

        Raises
        ------
        UnknownField
            A filter, column or unit does not exist.
        InvalidInput
            A filter's value does not fit its column.
        """
        query = self.where(**filters).limit(limit)
        if order_by:
            query = query.order_by(*([order_by] if isinstance(order_by, str) else order_by))
        elif limit is not None and "id" in self._table.fields:
            query = query.order_by("-id")
        if columns is not None:
            query = query.select(columns)
        return query.df(units=units)

    def where(self, *expressions: ColumnElement[bool], **filters: Any) -> Query:
        """The same rows as a lazy :class:`~qforge_sdk.Query`; filters as in ``query``.

        Parameters
        ----------
        *expressions
            SQLAlchemy expressions over the models.
        **filters
            As in ``query``.

        Returns
        -------
        Query
            Nothing is read until one of its endings is called.

        Raises
        ------
        UnknownField
            A filter does not exist.
        InvalidInput
            A filter's value does not fit its column.
        """
        return Query(self._context.reader, self._table).where(*expressions, **filters)

    def count(self, **filters: Any) -> int:
        """Number of rows that fulfil all filters, counted by the server.

        Raises
        ------
        UnknownField
            A filter does not exist.
        InvalidInput
            A filter's value does not fit its column.
        """
        return self.where(**filters).count()

    def get(self, id: int) -> Any:  # noqa: A002
        """One row as a record.

        Parameters
        ----------
        id
            Its key.

        Returns
        -------
        pydantic.BaseModel
            A frozen record.

        Raises
        ------
        NotFound
            No such row, or it is another tenant's.
        """
        with self._context.session() as session:
            return self._record.model_validate(self._row(session, id))

    def delete(self, id: int) -> None:  # noqa: A002
        """Delete one row and what hangs on it.

        Parameters
        ----------
        id
            Its key.

        Raises
        ------
        NotFound
            No such row, or it is not yours to delete.
        """
        with self._context.session() as session:
            row = self._own_row(session, id)
            session.delete(row)

    def _row(self, session: Session, key: object) -> Any:
        row = session.get(self._table.model, key_of(key, self._table.name))
        if row is None:
            raise not_found(self._table.model, key)
        return row

    def _own_row(self, session: Session, key: object) -> Any:
        """The row, if this connection may change it: row level security hides others', public ones only read."""
        row = self._row(session, key)
        if not self._context.may_change(row.user_id):
            raise not_found(self._table.model, key)
        return row


def not_found(model: type[Base], key: object) -> NotFound:
    """The error for what is absent and for what is another's: there is only one."""
    return NotFound(f"{model.__tablename__} has no row {key!r}", entity=model.__tablename__, key=key)


def key_of(value: object, table: str) -> int:
    """A key, as an int.

    Raises
    ------
    InvalidInput
        It is no whole number.
    """
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value or isinstance(value, bool | np.bool_):
        raise InvalidInput(f"{table}: a key is a whole number, not {value!r}", field="id", value=value)
    return int(number)
