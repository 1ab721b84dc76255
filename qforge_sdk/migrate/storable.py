"""What folders hold, as a database takes it: no NUL, no half characters, no NaN, nothing too deep."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_DEEPEST: Final = 6
_MOST_DIGITS: Final = 2**63


def one_line(text: str) -> str:
    """Text whose characters can all be printed; others are written as escapes.

    Parameters
    ----------
    text
        Of any content.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def path_text(path: str | Path) -> str:
    """A path for people; bytes of its name that are no text are written as escapes.

    Parameters
    ----------
    path
        Of any name.
    """
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def plain(value: Any, depth: int = 0) -> Any:
    """A JSON value that PostgreSQL stores as it is.

    Parameters
    ----------
    value
        As the parser gave it; NaN and numbers of many digits become text, what lies deeper than that is None.
    depth
        How deep it lies.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        is_kept = math.isfinite(value) if isinstance(value, float) else abs(value) < _MOST_DIGITS
        return value if is_kept else str(value) if isinstance(value, float) else hex(value)
    if depth == _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(one, depth + 1) for key, one in value.items()}
    return [plain(one, depth + 1) for one in value] if isinstance(value, (list, tuple)) else _text(str(value))


def _text(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(_escaped(c) if c == "\0" or 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
