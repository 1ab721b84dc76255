"""How a value is written for people to read: plain text, which nothing here escapes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from numbers import Integral, Real
from typing import Any, Final

LONGEST_TEXT: Final = 200
"""Characters of the longest text that is written whole."""

NOTHING: Final = "\N{EN DASH}"
"""What stands for a missing value."""

_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def written(value: object) -> str:
    """A value in few words.

    Parameters
    ----------
    value
        None and NA become a dash, numbers have up to six decimals, a mapping or list is JSON.

    Returns
    -------
    str
        At most :data:`LONGEST_TEXT` characters.
    """
    if is_missing(value):
        return NOTHING
    write = next((write for kind, write in _WRITERS if isinstance(value, kind)), str)
    return shortened(plain(write(value)))


def is_missing(value: object) -> bool:
    """Whether it is None, NA, NaT or NaN."""
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124
        return True
    import pandas as pd

    return value is pd.NA or value is pd.NaT


def is_number(value: object) -> bool:
    """Whether it is a number to compute with; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: object) -> str:
    """Text without what XML and JSON cannot hold, such as NUL and halves of surrogate pairs."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))


def shortened(value: str, length: int = LONGEST_TEXT) -> str:
    """At most ``length`` characters, the last an ellipsis where some are left out."""
    return value if len(value) <= length else f"{value[: length - 1]}…"


def _number(value: Any) -> str:
    """Whole numbers as they are, others with up to six decimals, or six digits where that would hide them."""
    if isinstance(value, Integral):
        return str(int(value))
    number = float(value)
    if number == 0 or 1e-3 <= abs(number) < 1e9:
        return f"{number:.6f}".rstrip("0").rstrip(".")
    return f"{number:.6g}"


def _time(value: Any) -> str:
    return str(value.isoformat(sep=" ", timespec="seconds")).replace("+00:00", " UTC")


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


_WRITERS: Final[tuple[tuple[Any, Callable[[Any], str]], ...]] = (
    (bool, lambda value: "yes" if value else "no"),
    (Real, _number),
    (datetime, _time),
    ((dict, list, tuple), _json),
    (bytes, bytes.hex),
)
