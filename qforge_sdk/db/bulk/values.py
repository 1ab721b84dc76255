"""Values of one column: taken to the table's type, or refused row by row. No row is refused for another's fault."""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Fault: TypeAlias = tuple[BoolArray, str, str]
Checked: TypeAlias = tuple[pa.Array, list[Fault]]

_MISSING_WORDS: Final = pa.array(["", "na", "nan", "n/a", "null", "none", "<na>"])
_FAR: Final = decimal.Decimal(2**64)
_DIGITS: Final = r"^-?[0-9]{1,18}$"
# As JSON writes it: after an even number of backslashes.
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one column is read.

    Parameters
    ----------
    check
        From an Arrow array to one of the table's type and the faults found: mask, code, reason.
    required
        Whether a null is a fault.
    default
        What a null becomes.
    """

    check: Callable[[pa.Array], Checked]
    required: bool = False
    default: Any = None


def apply(rule: Rule, column: pa.Array) -> Checked:
    """Check one column.

    Parameters
    ----------
    rule
        How.
    column
        As it came.

    Returns
    -------
    tuple
        The column in the table's type, nulls where there was a fault, and the faults.
    """
    array, faults = rule.check(plain(column))
    if rule.required:
        refused = np.logical_or.reduce([mask for mask, _, _ in faults]) if faults else np.zeros(len(array), bool)
        absent = _mask(pc.is_null(array)) & ~refused
        if absent.any():
            faults.append((absent, "missing", "a value is needed here"))
    if rule.default is not None:
        array = pc.fill_null(array, pa.scalar(rule.default, array.type))
    return array, faults


def number(*, least: float | None = None, unit: str | None = None) -> Callable[[pa.Array], Checked]:
    """A finite float64; text is parsed."""
    wanted = f"a number ({unit})" if unit else "a number"

    def check(column: pa.Array) -> Checked:
        array, wrong = _floats(column)
        faults = _faults(wrong, "wrong_type", f"this is not {wanted}")
        infinite = _mask(pc.invert(pc.is_finite(array)))
        faults += _faults(infinite, "not_finite", "NaN and infinity are not stored; leave the value out")
        if least is not None:
            low = _mask(pc.less(array, least)) & ~infinite
            faults += _faults(low, "too_small", f"the least value is {least:g}")
        return _without(array, faults), faults

    return check


def integer(*, least: int, most: int, type_: pa.DataType | None = None) -> Callable[[pa.Array], Checked]:
    """A whole number in a range; floats without a fraction and text are taken."""
    target = type_ or pa.int64()

    def check(column: pa.Array) -> Checked:
        array, wrong, outside = _integers(column)
        faults = _faults(wrong, "wrong_type", "this is not a whole number")
        outside |= _mask(pc.or_(pc.less(array, least), pc.greater(array, most)))
        faults += _faults(outside, "out_of_range", f"it must lie between {least:,} and {most:,}")
        return pc.cast(_without(array, faults), target), faults

    return check


def text(*, longest: int | None = None, exactly: int | None = None) -> Callable[[pa.Array], Checked]:
    """Text without NUL, of a limited length; whole numbers are written out, empty text is null."""

    def check(column: pa.Array) -> Checked:
        array, faults = _strings(column)
        array = _blank(array, _mask(pc.equal(array, "")))
        faults += _faults(_mask(pc.match_substring(array, "\x00")), "control_character", "it holds a NUL character")
        array = _without(array, faults)
        if longest is not None and len(array):
            long = _mask(pc.greater(pc.utf8_length(array), longest))
            faults += _faults(long, "too_long", f"at most {longest} characters are stored")
        if exactly is not None:
            other = _mask(pc.not_equal(pc.utf8_length(array), exactly))
            faults += _faults(other, "wrong_length", f"it has {exactly} characters, as a sha256 in hexadecimal does")
        return _without(array, faults), faults

    return check


def word(known: tuple[str, ...]) -> Callable[[pa.Array], Checked]:
    """One of some words."""

    def check(column: pa.Array) -> Checked:
        array, faults = _strings(column)
        array = _blank(array, _mask(pc.equal(array, "")))
        unknown = _mask(pc.invert(pc.is_in(array, pa.array(known)))) & ~_mask(pc.is_null(array))
        faults += _faults(unknown, "unknown_word", f"known words: {', '.join(known)}")
        return _without(array, faults), faults

    return check


def flag(column: pa.Array) -> Checked:
    """True or false, also as 0 and 1 and as words."""
    if pa.types.is_boolean(column.type):
        return column, []
    words, faults = _strings(pc.cast(column, pa.string()) if pa.types.is_floating(column.type) else column)
    words = pc.utf8_lower(words)
    yes = pc.is_in(words, pa.array(["true", "t", "1", "yes", "1.0"]))
    no = pc.is_in(words, pa.array(["false", "f", "0", "no", "0.0"]))
    blank = pc.or_(pc.is_null(words), pc.equal(words, "").fill_null(True))
    wrong = _mask(pc.invert(pc.or_(pc.or_(yes, no), blank)))
    faults = [*faults, *_faults(wrong, "wrong_type", "this is neither true nor false")]
    return pc.if_else(pc.or_(yes, no), yes, pa.scalar(None, pa.bool_())), faults


def json_object(column: pa.Array) -> Checked:
    """JSON objects, as text, dicts or structs."""
    if pa.types.is_null(column.type):
        return pc.cast(column, pa.string()), []
    found: list[str | None] = []
    wrong = np.zeros(len(column), bool)
    for place, value in enumerate(column):
        try:
            found.append(_json_text(value.as_py(maps_as_pydicts="strict")))
        except (TypeError, ValueError, KeyError):
            found.append(None)
            wrong[place] = True
    return pa.array(found, pa.string()), _faults(wrong, "not_json", "this is no JSON object that PostgreSQL stores")


def _json_text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    parsed = json.loads(value, parse_constant=_no_constant) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise TypeError(value)
    written = json.dumps(parsed, allow_nan=False, ensure_ascii=False)
    # PostgreSQL stores neither NUL nor half of a surrogate pair.
    written.encode()
    if _NUL.search(written):
        raise ValueError(value)
    return written


def _no_constant(name: str) -> float:
    raise ValueError(name)


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, with dictionaries, views and extension types as what they stand for."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        return plain(column.dictionary).take(column.indices)
    # Arrow's functions do not know views yet.
    return pc.cast(column, pa.string()) if pa.types.is_string_view(column.type) else column


def _floats(column: pa.Array) -> tuple[pa.Array, BoolArray]:
    """Float64 values and where there were none."""
    kind = column.type
    nothing = np.zeros(len(column), bool)
    if pa.types.is_null(kind):
        return pc.cast(column, pa.float64()), nothing
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return pc.cast(column, pa.float64(), safe=False), nothing
    if not _is_text(kind):
        return pa.nulls(len(column), pa.float64()), _mask(pc.is_valid(column))
    words = _words(column)
    try:
        return pc.cast(words, pa.float64()), nothing
    except pa.ArrowInvalid:
        return _parsed(words, _parse_float, pa.float64())


def _integers(column: pa.Array) -> tuple[pa.Array, BoolArray, BoolArray]:
    """Int64 values, where there were none, and where they are too large for the type."""
    kind = column.type
    nothing = np.zeros(len(column), bool)
    if pa.types.is_integer(kind):
        outside = _mask(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))) if kind == pa.uint64() else nothing
        return pc.cast(_blank(column, outside), pa.int64()), nothing, outside
    if _is_text(kind) or pa.types.is_decimal(kind):
        return _integers_of_text(_words(column))
    floats, wrong = _floats(column)
    outside = _mask(pc.and_(pc.is_finite(floats), pc.greater_equal(pc.abs(floats), 2.0**63)))
    # Beyond 2**53 a float does not say which whole number was meant.
    exact = pc.and_(pc.equal(floats, pc.round(floats)), pc.less_equal(pc.abs(floats), 2.0**53))
    wrong |= _mask(pc.invert(exact)) & ~outside
    return pc.cast(_blank(floats, wrong | outside), pa.int64()), wrong, outside


def _integers_of_text(words: pa.Array) -> tuple[pa.Array, BoolArray, BoolArray]:
    nothing = np.zeros(len(words), bool)
    if pc.all(pc.match_substring_regex(words, _DIGITS)).as_py() is not False:
        return pc.cast(words, pa.int64()), nothing, nothing
    parsed, wrong = _parsed(words, _parse_integer, pa.decimal128(38))
    outside = _mask(pc.greater(pc.abs(parsed), pa.scalar(decimal.Decimal(2**63 - 1), pa.decimal128(38))))
    return pc.cast(_blank(parsed, outside), pa.int64()), wrong, outside


def _words(column: pa.Array) -> pa.Array:
    """Text without the blanks around it; null where it says that there is nothing."""
    words = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return _blank(words, _mask(pc.is_in(pc.utf8_lower(words), _MISSING_WORDS)))


def _parsed(
    words: pa.Array, parse: Callable[[str], float | decimal.Decimal], kind: pa.DataType
) -> tuple[pa.Array, BoolArray]:
    """Each text on its own, and where that failed."""
    found: list[float | decimal.Decimal | None] = []
    wrong = np.zeros(len(words), bool)
    for place, value in enumerate(words.to_pylist()):
        try:
            found.append(None if value is None else parse(value))
        except (ValueError, ArithmeticError):
            found.append(None)
            wrong[place] = True
    return pa.array(found, kind), wrong


def _parse_float(value: str) -> float:
    # "1_000" is a number to Python and to nobody else.
    if "_" in value:
        raise ValueError(value)
    return float(value)


def _parse_integer(value: str) -> decimal.Decimal:
    parsed = decimal.Decimal(value)
    if "_" in value or not parsed.is_finite() or parsed != parsed.to_integral_value():
        raise ValueError(value)
    # As far outside as any that the type cannot hold.
    return max(min(parsed, _FAR), -_FAR).quantize(decimal.Decimal(1))


def _strings(column: pa.Array) -> tuple[pa.Array, list[Fault]]:
    kind = column.type
    if pa.types.is_string(kind):
        return column, []
    if pa.types.is_null(kind) or _is_text(kind) or pa.types.is_integer(kind):
        return pc.cast(column, pa.string()), []
    return pa.nulls(len(column), pa.string()), _faults(_mask(pc.is_valid(column)), "wrong_type", "this is not text")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _faults(mask: BoolArray, code: str, reason: str) -> list[Fault]:
    return [(mask, code, reason)] if mask.any() else []


def _mask(values: Any) -> BoolArray:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def _blank(array: pa.Array, mask: BoolArray) -> pa.Array:
    """The array with nulls where the mask is true."""
    if not mask.any():
        return array
    return pc.if_else(pa.array(~mask), array, pa.scalar(None, array.type))


def _without(array: pa.Array, faults: list[Fault]) -> pa.Array:
    for mask, _, _ in faults:
        array = _blank(array, mask)
    return array
