"""Counting in SQL how numbers are distributed, and fair samples to count in."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, Double, Select, Subquery, cast, func, literal, select, text, union_all

from qforge_sdk.db.models import Calculation

#: One calculation in sixteen stands in the index of samples; so much of it can be taken without running short.
LARGEST_FRACTION: Final = 0.055
#: Owners whose parts of a sample are read one by one; of more, a share of everybody's is.
MANY_OWNERS: Final = 32

_IN_INDEX: Final = text("hashint8extended(calculations.id, 0) & 15 = 0")
_ORDER: Final = text("hashint8extended(calculations.id, 0)")


def extremes(rows: Select[Any], names: Sequence[str]) -> Select[Any]:
    """Least and greatest of columns: two columns of the answer for each name.

    Parameters
    ----------
    rows
        What is looked at.
    names
        Numeric columns of it.
    """
    found = rows.subquery()
    return select(*(function(found.c[name]) for name in names for function in (func.min, func.max)))


def counted(rows: Select[Any], edges: Mapping[str, Sequence[float]], by: str | None = None) -> Select[Any]:
    """Rows counted by the bins that their numbers fall into.

    Parameters
    ----------
    rows
        What is counted.
    edges
        Column name to ascending edges; a bin holds its lower edge and not its upper one.
    by
        Further column of ``rows`` to tell apart.

    Returns
    -------
    sqlalchemy.Select
        The number of the bin for each column, from 1; ``by``; the number of rows. Empty bins are left out.
    """
    found = rows.subquery()
    bins = [
        func.width_bucket(found.c[name], cast(literal(ends, ARRAY(Double)), ARRAY(Double))).label(f"bin_{n}")
        for n, (name, ends) in enumerate(edges.items())
    ]
    groups = bins if by is None else [*bins, found.c[by]]
    inside = [condition for name, ends in edges.items() for condition in _inside(found.c[name], ends)]
    return select(*groups, func.count().label("n")).where(*inside).group_by(*groups)


def by_day(rows: Select[Any], by: str | None) -> Select[Any]:
    """Rows counted by the day of ``created_at``, in days since 1970-01-01 UTC, and by a further column.

    Parameters
    ----------
    rows
        With a column ``created_at``.
    by
        Further column of ``rows``.
    """
    found = rows.where(func.isfinite(Calculation.created_at)).subquery()
    day = func.date_trunc("day", found.c.created_at, "UTC")
    groups = [day] if by is None else [day, found.c[by]]
    number = (func.extract("epoch", day) / 86400).cast(Double).label("day")
    return select(number, *groups[1:], func.count().label("n")).group_by(*groups).order_by(*groups)


def sample(owners: Mapping[uuid.UUID | None, int], fraction: float) -> Subquery:
    """The same fair share of every owner's calculations, each time the same rows.

    Parameters
    ----------
    owners
        Owner to the number of calculations; None for the service's.
    fraction
        Of each owner's, at most :data:`LARGEST_FRACTION`.

    Returns
    -------
    Subquery
        All columns of the table, under its name.
    """
    rows = select(*Calculation.__table__.c).where(_IN_INDEX)
    if len(owners) > MANY_OWNERS:
        share = text(f"(hashint8extended(calculations.id, 0) >> 4) & 65535 < {round(fraction * 16 * 65536)}")
        return rows.where(share).subquery("calculations")
    # Sorted by user_id too: where it is null PostgreSQL takes the index for unsorted otherwise.
    column = Calculation.__table__.c.user_id
    parts = [
        rows.where(column == owner).order_by(column, _ORDER).limit(round(n * fraction)).subquery().select()
        for owner, n in owners.items()
    ]
    return union_all(*parts).subquery("calculations")


def _inside(column: Any, ends: Sequence[float]) -> tuple[Any, Any]:
    return column >= ends[0], column < ends[-1]
