"""What users write as filters, as SQL."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import uuid
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import ARRAY, and_, any_, bindparam, cast, or_
from sqlalchemy.sql import ColumnElement

from qforge_sdk.chem import validate_smiles
from qforge_sdk.db.models import Molecule
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import Field


def condition(field: Field, value: Any) -> ColumnElement[bool]:
    """SQL for one filter.

    Parameters
    ----------
    field
        What is compared.
    value
        A value, a tuple ``(low, high)``, a list, or None.

    Returns
    -------
    sqlalchemy.ColumnElement
        The expression.

    Raises
    ------
    InvalidInput
        The column cannot be compared with the value.
    """
    column: ColumnElement[Any] = field.attribute.expression
    if field.kind in {"json", "bytes"}:
        raise InvalidInput(
            f"{field.name} cannot be filtered by a value; use an expression in where(...)", field=field.name
        )
    if value is None:
        return column.is_(None)
    if isinstance(value, tuple):
        return _in_range(field, value)
    if isinstance(value, (list, set, frozenset, range, np.ndarray, pd.Series, pd.Index)):
        return _any_of(field, list(value))
    if field.name == "smiles":
        same: ColumnElement[bool] = Molecule.identity_hash == smiles_hash(value)
        return same
    equal: ColumnElement[bool] = column == checked(field, value)
    return equal


def smiles_hash(smiles: object) -> bytes:
    """Identity of a SMILES in any spelling, as the database computes it.

    Raises
    ------
    InvalidSmiles
        It is no valid SMILES.
    """
    return hashlib.sha256(validate_smiles(smiles).smiles.encode()).digest()


def _in_range(field: Field, value: tuple[Any, ...]) -> ColumnElement[bool]:
    if len(value) != 2:
        raise InvalidInput(
            f"{field.name}: a tuple is a range (low, high), with None for an open end; for any of several values "
            f"write a list, not {value!r}",
            field=field.name,
            value=value,
        )
    low, high = (None if end is None else checked(field, end) for end in value)
    column: ColumnElement[Any] = field.attribute.expression
    if low is not None and high is not None:
        if low > high:
            raise InvalidInput(f"{field.name}: the range {value!r} is upside down", field=field.name, value=value)
        return column.between(low, high)
    conditions = [] if low is None else [column >= low]
    conditions += [] if high is None else [column <= high]
    return and_(column.is_not(None), *conditions)


def _any_of(field: Field, values: list[Any]) -> ColumnElement[bool]:
    known = [value for value in values if not _is_missing(value)]
    column: ColumnElement[Any] = field.attribute.expression
    if field.name == "smiles":
        column, converted = Molecule.identity_hash.expression, [smiles_hash(value) for value in known]
    else:
        converted = [checked(field, value) for value in known]
    array = bindparam(None, converted, type_=ARRAY(column.type), unique=True)
    # An empty array has no type of its own.
    found = column == any_(cast(array, ARRAY(column.type)))
    return found if len(known) == len(values) else or_(found, column.is_(None))


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float | int | None:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def whole(value: Any) -> int | None:
    """A whole number, None if it is none.

    Parameters
    ----------
    value
        What a user gave.
    """
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and "\x00" not in value else None


def _time(value: Any) -> dt.datetime | None:
    if not isinstance(value, (str, dt.date, dt.datetime, np.datetime64)):
        return None
    try:
        stamp = pd.Timestamp(value)
    except ValueError:
        return None
    return (stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp).to_pydatetime()


def _truth(value: Any) -> bool | None:
    return bool(value) if isinstance(value, (bool, np.bool_)) else None


_CHECKS: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    "key": (whole, "a whole number"),
    "Int64": (whole, "a whole number"),
    "int64": (whole, "a whole number"),
    "float64": (_number, "a finite number"),
    "boolean": (_truth, "True or False"),
    "str": (_text, "text"),
    "time": (_time, "a date or time such as '2026-05-01'"),
}


def checked(field: Field, value: Any) -> Any:
    """A value as a column can be compared with it.

    Parameters
    ----------
    field
        The column.
    value
        What a user gave.

    Returns
    -------
    object
        For the driver.

    Raises
    ------
    InvalidInput
        The column cannot be compared with it.
    """
    if field.name == "user_id":
        return _uuid(value)
    check, wanted = _CHECKS[field.kind]
    found = check(value)
    if found is None:
        raise InvalidInput(
            f"{field.name} is compared with {wanted}, not with {value!r}", field=field.name, value=value
        )
    if field.words and found not in field.words:
        raise InvalidInput(
            f"{field.name} is one of {', '.join(field.words)}, not {value!r}", field=field.name, value=value
        )
    return found


def _uuid(value: Any) -> uuid.UUID:
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        raise InvalidInput(
            f"user_id is compared with a uuid, not with {value!r}", field="user_id", value=value
        ) from None
