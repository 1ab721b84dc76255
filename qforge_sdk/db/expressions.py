"""SQL expressions over the models, looked into and moved onto aliases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy.sql import ColumnElement, FromClause, visitors
from sqlalchemy.sql.schema import Column


def mentions_other(expression: ColumnElement[Any], model: Any) -> bool:
    """Whether an expression reads a column of another table than this model's.

    Parameters
    ----------
    expression
        Over the models.
    model
        An ORM class.

    Returns
    -------
    bool
        True where another table has to be joined for it.
    """
    return any(column.table is not model.__table__ for column in _columns_of(expression))


def moved_onto(expression: ColumnElement[Any], model: Any, source: Any) -> ColumnElement[Any]:
    """``expression`` with the model's columns replaced by those of an alias of it.

    Parameters
    ----------
    expression
        Over the models.
    model
        An ORM class.
    source
        It, an alias of it, or a selectable with its columns.

    Returns
    -------
    sqlalchemy.ColumnElement
        The same over ``source``; columns of other tables stay.
    """
    if source is model:
        return expression

    def swap(element: Any, **_kw: object) -> Any:
        if not isinstance(element, Column) or element.table is not model.__table__:
            return None
        if isinstance(source, FromClause):
            return source.c[element.key]
        return getattr(source, model.__mapper__.get_property_by_column(element).key)

    replaced: ColumnElement[Any] = visitors.replacement_traverse(expression, {}, swap)
    return replaced


def _columns_of(expression: ColumnElement[Any]) -> Iterator[Column[Any]]:
    return (element for element in visitors.iterate(expression) if isinstance(element, Column))
