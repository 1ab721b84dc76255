"""The first rows of a table in the order of an index, for readers of more than one owner's rows.

Every index begins with ``user_id``, and a tenant reads two owners' rows: its own and the public ones. Over two owners
no index is in order, so PostgreSQL would sort all that match (12 ms for 23,000 of 400,000 calculations). One ordered
and limited branch for each owner is read in index order and merged (0.2 ms, on PostgreSQL 15 and 18).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Select, Subquery, UnaryExpression, false, func, select, union_all
from sqlalchemy.orm import InstrumentedAttribute

from qforge_sdk.db.models import Base

OwnedModel: TypeAlias = type[Base]
Ordering: TypeAlias = Sequence[tuple[InstrumentedAttribute[Any], bool]]


def ordered_page(
    model: OwnedModel,
    conditions: Sequence[ColumnElement[bool]],
    *,
    order_by: Ordering,
    limit: int | None,
    owners: Sequence[uuid.UUID | None] | None,
    offset: int = 0,
) -> Subquery:
    """Rows ``offset`` to ``offset + limit`` of ``model`` in the given order.

    Parameters
    ----------
    model
        An ORM class with a ``user_id``.
    conditions
        On columns of ``model`` alone; another table is reached by ``EXISTS`` or ``IN``.
    order_by
        ``(column, descending)`` pairs, nulls last either way; end with the key, so that pages do not overlap.
    limit
        None for all rows.
    owners
        Whose rows: None in the list for rows without an owner, no list at all for everybody's.
    offset
        Rows to leave out first.

    Returns
    -------
    Subquery
        All columns of the table, under its name. The order of the rows in it is not kept by an outer SELECT:
        order that again by :func:`order_of`. ``aliased(model, page)`` reads it as ORM objects.
    """
    branches = [
        branch
        for owner in _owner_conditions(model, owners)
        for branch in _branches(model, (*conditions, *owner), order_by, _reach(limit, offset))
    ]
    merged = union_all(*branches).subquery()
    ordered = select(merged).order_by(*order_of(merged, order_by))
    return ordered.limit(limit).offset(offset or None).subquery(model.__tablename__)


def order_of(page: Subquery, order_by: Ordering) -> list[UnaryExpression[Any]]:
    """The same order on the columns of a page.

    Parameters
    ----------
    page
        From :func:`ordered_page`.
    order_by
        What it was made with.

    Returns
    -------
    list of UnaryExpression
        For ``ORDER BY``.
    """
    return [_directed(page.c[str(column.expression.key)], column, descending) for column, descending in order_by]


def _branches(
    model: OwnedModel, conditions: Sequence[ColumnElement[bool]], order_by: Ordering, reach: int | None
) -> list[Select[Any]]:
    """Selects of one owner that an index reads in order; their rows together hold the first ``reach``."""
    rows = select(*model.__table__.c).where(*conditions)
    directions = [_directed(column.expression, column, descending) for column, descending in order_by]
    leading, descending = order_by[0]
    if not (descending and leading.expression.nullable):
        return [rows.order_by(*directions).limit(reach)]
    # Read backwards the index has its nulls first: leave them out, and fetch them only when the others are too few.
    known = rows.where(leading.is_not(None)).order_by(leading.desc(), *directions[1:]).limit(reach)
    unknown = rows.where(leading.is_(None)).order_by(*directions[1:]).limit(reach)
    if reach is not None:
        too_few = select(func.count()).select_from(known.subquery()).scalar_subquery() < reach
        unknown = unknown.where(too_few)
    return [known, unknown]


def _directed(expression: Any, column: InstrumentedAttribute[Any], descending: bool) -> UnaryExpression[Any]:
    # Elsewhere NULLS LAST would only keep PostgreSQL from reading an index backwards.
    directed: UnaryExpression[Any] = expression.desc() if descending else expression.asc()
    return directed.nulls_last() if descending and column.expression.nullable else directed


def _reach(limit: int | None, offset: int) -> int | None:
    return None if limit is None else limit + offset


def _owner_conditions(
    model: OwnedModel, owners: Sequence[uuid.UUID | None] | None
) -> list[tuple[ColumnElement[bool], ...]]:
    if owners is None:
        return [()]
    if not owners:
        return [(false(),)]
    column = model.__table__.c.user_id
    return [(column == owner,) for owner in dict.fromkeys(owners)]
