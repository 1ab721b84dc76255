"""Pages of sorted rows that go on from the last row of the one before: as fast at the end as at the start."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from sqlalchemy import Select, exists, func, select

from qforge_sdk.accessors.base import Accessor, Context
from qforge_sdk.db import statistics
from qforge_sdk.db.expressions import mentions_other
from qforge_sdk.db.models import PUBLIC_USER_ID, Molecule
from qforge_sdk.db.pages import Position, Slices, Way, column_of, keyset_page
from qforge_sdk.db.reader import Read
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import Field, TableFields
from qforge_sdk.filters import checked, whole
from qforge_sdk.frames import arrow_schema, conform, to_frame
from qforge_sdk.query import Query
from qforge_sdk.schemas import Page

LAST_PAGE: Final = "end"
LARGEST_PAGE: Final = 1_000
#: Rows that are counted where nobody keeps their number; of more it is only said that there are so many.
COUNTED: Final = 10_000
#: Owners whose rows are read each by its index; of more, everybody's are sorted.
MANY_OWNERS: Final = 32

VALUE, KEY = "page_value", "page_key"


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked a page for; the options of :meth:`Paged.page`."""

    order_by: str
    limit: int
    after: str | None
    before: str | None
    count: bool
    units: Mapping[str, str] | None

    def turn(self, table: TableFields, allowed: Sequence[str]) -> Turn:
        """Check it.

        Parameters
        ----------
        table
            Whose rows.
        allowed
            Columns that one may sort by.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            It is not sorted by, ``limit`` is out of range, or a token is none of a page sorted like this.
        """
        size = whole(self.limit)
        if size is None or not 1 <= size <= LARGEST_PAGE:
            raise InvalidInput(
                f"limit is a whole number from 1 to {LARGEST_PAGE:,}, not {self.limit!r}",
                field="limit",
                value=self.limit,
            )
        if self.after is not None and self.before is not None:
            raise InvalidInput("give either after or before, not both", field="before", value=self.before)
        field, descending = _sorted_by(self.order_by, table, allowed)
        token = self.before if self.after is None else self.after
        start = None if token is None or self.before == LAST_PAGE else _position(token, field, descending)
        return Turn(field, Way(descending, self.before is not None, start), size)


@dataclass(frozen=True, slots=True)
class Turn:
    """Which page is wanted.

    Parameters
    ----------
    field
        Column that is sorted by.
    way
        How one goes through the rows.
    limit
        Rows of a page.
    """

    field: Field
    way: Way
    limit: int

    def page(self, table: pa.Table, kinds: Mapping[str, str], units: Mapping[str, str] | None) -> Page:
        """A page of rows that were read on the way, one more than it holds where there are more.

        Parameters
        ----------
        table
            Columns of ``kinds`` in order, then the marks.
        kinds
            Column name to kind.
        units
            As of a query.
        """
        more = table.num_rows > self.limit
        rows = table.slice(0, self.limit)
        if self.way.backwards:
            rows = rows.take(np.arange(rows.num_rows)[::-1])
        frame = to_frame(conform(rows.select(range(len(kinds))), arrow_schema(kinds)), kinds, units=units)
        began = self.way.start is not None and rows.num_rows > 0
        ends = [self._token(rows, place) for place in (0, -1)] if rows.num_rows else ["", ""]
        later, earlier = (began, more) if self.way.backwards else (more, began)
        return Page(frame, None, False, ends[1] if later else None, ends[0] if earlier else None)

    def _token(self, rows: pa.Table, place: int) -> str:
        value, key = (rows[mark][place].as_py() for mark in (VALUE, KEY))
        text = value.isoformat() if isinstance(value, dt.datetime) else value
        content = json.dumps([self.field.name, self.way.descending, text, key])
        return base64.urlsafe_b64encode(content.encode()).decode()


def _position(token: object, field: Field, descending: bool) -> Position:
    """What a token stands for."""
    try:
        name, down, value, key = json.loads(base64.urlsafe_b64decode(str(token).encode()))
        if name == field.name and down == descending and isinstance(key, int):
            return Position(None if value is None else checked(field, value), key)
    except (ValueError, TypeError, binascii.Error):
        pass
    raise InvalidInput(
        f"this is no token of a page sorted by {'-' if descending else ''}{field.name}: give a page's own `next` as "
        "after=, its `previous` as before=, and the same order_by",
        field="after",
        value=token,
    )


def _sorted_by(order_by: object, table: TableFields, allowed: Sequence[str]) -> tuple[Field, bool]:
    """The column of an ``order_by``, and whether it descends."""
    if not isinstance(order_by, str):
        raise InvalidInput("a page is sorted by one column", field="order_by", value=order_by)
    field = table[order_by.removeprefix("-")]
    if field.name not in allowed:
        raise InvalidInput(
            f"pages are sorted by {', '.join(allowed)}, not by {field.name}", field="order_by", value=order_by
        )
    return field, order_by.startswith("-")


def named_owners(tenant: uuid.UUID | None, found: Sequence[str | None]) -> list[uuid.UUID | None] | None:
    """Whose rows one reads.

    Parameters
    ----------
    tenant
        Who reads; None for the service.
    found
        All owners whose rows the service reads.

    Returns
    -------
    list of uuid.UUID or None
        None where they are too many to name.
    """
    if tenant is not None:
        return [tenant, PUBLIC_USER_ID]
    # Without any rows it is one owner who has none.
    every = found or [None]
    return None if len(every) > MANY_OWNERS else [None if one is None else uuid.UUID(one) for one in every]


class Paged(Accessor):
    """Pages of the rows of one table."""

    def page(
        self,
        *,
        order_by: str | None = None,
        limit: int = 24,
        after: str | None = None,
        before: str | None = None,
        count: bool = True,
        columns: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        **filters: Any,
    ) -> Page:
        """One page of rows, as fast anywhere among millions where an index serves the order.

        Parameters
        ----------
        order_by
            One column of the table itself; ``-`` sorts downwards, nulls come last. By default the newest come first.
            Indexes serve created_at, and the gap and energy of calculations.
        limit
            Rows of a page, at most 1,000.
        after
            ``next`` of the page before.
        before
            ``previous`` of the page after, or ``"end"`` for the last page.
        count
            Whether to count the rows of all pages.
        columns, units
            As in :meth:`query`.
        **filters
            As in :meth:`query`.

        Returns
        -------
        Page
            ``frame``; ``next`` and ``previous`` to go on with; ``count``, which is exact where the database keeps it
            (no filter, or only ``method`` and ``convergence_status``) and up to 10,000, and a lower bound beyond.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            A filter or option cannot be used, or a token is not of a page sorted like this.
        """
        query = self.where(**filters)
        request = Request(order_by or self._newest, limit, after, before, count, units)
        return page_of(self._context, query if columns is None else query.select(columns), request, filters)

    @property
    def _newest(self) -> str:
        return "-created_at" if self._table.name == "calculations" else "-id"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a table that belongs together, such as the items of a batch.

    Parameters
    ----------
    cell
        The number that they are counted by.
    owner
        Whose they all are.
    slices
        The index that holds them, in the order that is wanted.
    """

    cell: int
    owner: uuid.UUID | None
    slices: Slices


def page_of(
    context: Context, query: Query, request: Request, filters: Mapping[str, Any], part: Part | None = None
) -> Page:
    """A page of what a query asks for.

    Parameters
    ----------
    context
        The client's.
    query
        Unsorted.
    request
        Which page.
    filters
        Those of the query by which its rows may be counted already.
    part
        The part of the table that the rows are of, None for the whole.
    """
    table = query.table
    own = [name for name, field in table.fields.items() if field.model is table.model and field.kind not in _UNSORTED]
    turn = request.turn(table, own)
    conditions = [_own(condition, table) for condition in query.conditions]
    with context.reader.together() as read:
        owners = _owners(context, read, table.name) if part is None else [part.owner]
        rows, order = keyset_page(
            table.model,
            conditions,
            sort=turn.field.attribute,
            way=turn.way,
            limit=turn.limit + 1,
            owners=owners,
            slices=part.slices if part else None,
        )
        marks = [rows.c[column_of(turn.field.attribute).key].label(VALUE), rows.c.id.label(KEY)]
        statement = replace(query, conditions=(), within=rows).statement().add_columns(*marks).order_by(*order)
        kinds = {name: table[name].kind for name in query.columns or table.default_columns()}
        page = turn.page(read(statement), kinds, request.units)
        if not request.count:
            return page
        kept = kept_count(read, table.name, filters, part.cell if part else None)
        if kept is not None:
            return replace(page, count=kept, is_exact=True)
        matching = select(table.model.__table__.c.id).where(*conditions)
        if part is not None:
            matching = matching.where(part.slices.column == part.slices.value)
        return counted(read, page, matching)


def _owners(context: Context, read: Read, kind: str) -> list[uuid.UUID | None] | None:
    """Whose rows of a table one reads."""
    tenant = context.tenant
    return named_owners(tenant, [] if tenant else read(statistics.OWNERS, {"kind": kind})["user_id"].to_pylist())


def counted(read: Read, page: Page, matching: Select[Any], most: int = COUNTED) -> Page:
    """The page with the number of matching rows, up to as many as are worth counting."""
    if page.next is None and page.previous is None:
        return replace(page, count=len(page.frame), is_exact=True)
    found = select(func.count()).select_from(matching.limit(most + 1).subquery())
    n = int(read(found).column(0)[0].as_py())
    return replace(page, count=min(n, most), is_exact=n <= most)


def kept_count(read: Read, kind: str, filters: Mapping[str, Any], cell: int | None = None) -> int | None:
    """Number of rows that the database keeps counted, None where it does not follow these filters."""
    known = statistics.FILTERS[kind]
    chosen = {name: [value] if isinstance(value, str) else value for name, value in filters.items()}
    for name, values in chosen.items():
        if name not in known or not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            return None
    words = {known[name]: values for name, values in chosen.items()}
    values = {"kind": kind, "method": words.get("method"), "status": words.get("status"), "cell": cell}
    return int(read(statistics.COUNT, values).column(0)[0].as_py())


def _own(condition: Any, table: TableFields) -> Any:
    """A condition on the table's own columns: those of the molecule are asked for by EXISTS."""
    if not mentions_other(condition, table.model):
        return condition
    return (
        exists().where(Molecule.id == table.model.__table__.c.molecule_id, condition).correlate(table.model.__table__)
    )


_UNSORTED: Final = frozenset({"json", "bytes"})
