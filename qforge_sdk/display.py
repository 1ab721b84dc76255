"""Everything that a notebook shows: HTML is built and escaped here and nowhere else.

Builders take text and return :class:`Html`. Text is escaped, Html is not, so that nothing which came from a database
becomes markup. Pictures lie on a white rounded card of their own, readable on a light and on a dark page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final

from qforge_sdk.errors import InvalidInput, UnknownField
from qforge_sdk.quantities import did_you_mean
from qforge_sdk.wording import is_missing, is_number, plain, shortened, written

if TYPE_CHECKING:
    import pandas as pd

PICTURE_SIZE: Final = (220, 150)
"""Width and height of a structure, pixels."""

SMALL_SIZE: Final = (160, 110)
"""Width and height of a structure among many, pixels."""

SHOWN_ROWS: Final = 50
"""Rows of a DataFrame that are shown when nobody asks for more."""

_VOID: Final = frozenset({"br", "hr", "img"})
_LEFT: Final = "text-align:left"
_RIGHT: Final = "text-align:right"
_WRAPPED: Final = "text-align:left;min-width:18em;max-width:26em;overflow-wrap:anywhere"


class Html(str):
    """Text that is HTML already and is put into a page as it is; a notebook shows it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def text(value: object) -> Html:
    """A value as a page shows it: escaped, unless it is Html."""
    return value if isinstance(value, Html) else Html(escape(plain(value)))


def chart_text(value: object, *, length: int = 60) -> Html:
    """A value as a plotly chart shows it, which takes ``<b>`` and ``&lt;`` for markup as a page does.

    Parameters
    ----------
    value
        Escaped, unless it is Html.
    length
        Characters of the longest text that is shown whole.

    Returns
    -------
    Html
        For names, titles and hover texts. Quotes stay as they are: plotly does not know how they are escaped.
    """
    return value if isinstance(value, Html) else Html(escape(plain(shortened(str(value), length)), quote=False))


def together(*parts: object) -> Html:
    """Parts one after the other, text among them escaped."""
    return Html("".join(map(text, parts)))


def element(tag: str, /, *content: object, **attributes: object) -> Html:
    """One element.

    Parameters
    ----------
    tag
        Its name, a constant of the caller.
    *content
        What is inside: Html as it is, everything else escaped.
    **attributes
        Values are escaped; a name may end in an underscore where Python needs it (``class_``), one that is None or
        empty is left out.

    Returns
    -------
    Html
        The element with its content.
    """
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value not in (None, "")
    )
    if tag in _VOID:
        return Html(f"<{tag}{shown}>")
    return Html(f"<{tag}{shown}>{together(*content)}</{tag}>")


def paragraph(*content: object) -> Html:
    """A paragraph."""
    return element("p", *content)


def preformatted(content: object) -> Html:
    """Text with its own lines and blanks, such as a program's."""
    return element("pre", content)


def details(summary: object, *content: object) -> Html:
    """Content that opens with a click."""
    return element("details", element("summary", summary), *content)


def failure(exc: BaseException) -> Html:
    """An error, for where a traceback would hide the page."""
    name = element("b", type(exc).__name__)
    return element("p", name, ": ", exc, style="color:#c62828", role="alert")


def table(facts: Mapping[str, object], *, caption: object = "") -> Html:
    """Names and values, one line each.

    Parameters
    ----------
    facts
        Name to value; None is shown as a dash, a mapping or list as JSON.
    caption
        What it is about.

    Returns
    -------
    Html
        A table.
    """
    return _names_and((element("td", _shown(value), style=_LEFT) for value in facts.values()), facts, caption)


def counts_table(counts: Mapping[str, int], *, caption: object = "") -> Html:
    """How many of each, one line each.

    Parameters
    ----------
    counts
        Name to number.
    caption
        What it is about.

    Returns
    -------
    Html
        A table.
    """
    return _names_and((element("td", f"{n:,}", style=_RIGHT) for n in counts.values()), counts, caption)


def frame_table(
    df: pd.DataFrame, *, caption: object = "", rows: int = SHOWN_ROWS, first: Mapping[str, Sequence[object]] = {}
) -> Html:
    """The first rows of a DataFrame.

    Parameters
    ----------
    df
        What to show. A RangeIndex is left out, any other is shown.
    caption
        What it is about.
    rows
        How many rows at most; a line below tells of the others.
    first
        Columns to put before those of ``df``, a value for each row that is shown.

    Returns
    -------
    Html
        A table.
    """
    import pandas as pd

    head = df.iloc[:rows]
    places = range(head.shape[1])
    columns: list[tuple[str, Sequence[object]]] = [
        *first.items(),
        *((_label(df.columns[place]), head.iloc[:, place].tolist()) for place in places),
    ]
    if not isinstance(df.index, pd.RangeIndex):
        name = _label(df.index.names if df.index.nlevels > 1 else df.index.name)
        columns.insert(0, (name, [element("b", _label(key)) for key in head.index.tolist()]))
    heads, *lines = zip(*(_column_cells(name, values) for name, values in columns), strict=True) if columns else ((),)
    body = element("tbody", *(element("tr", *line) for line in lines))
    whole = element("table", *_caption(caption), element("thead", element("tr", *heads)), body)
    if len(df) <= rows:
        return whole
    return together(whole, paragraph(f"{len(head):,} of {len(df):,} rows"))


def record(title: object, facts: Mapping[str, object], *, picture: Html | None = None) -> Html:
    """One record: its structure, where there is one, beside a table of its fields.

    Parameters
    ----------
    title
        What it is.
    facts
        Name to value; those that are None or empty are left out.
    picture
        From :func:`structure`.

    Returns
    -------
    Html
        Both, side by side where the page is wide enough.
    """
    known = {name: value for name, value in facts.items() if value is not None and value not in ("", {}, [])}
    shown = table(known, caption=title)
    if picture is None:
        return shown
    return element("div", picture, shown, style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start")


def structure_svg(smiles: object, *, size: tuple[int, int] = PICTURE_SIZE, formula: object = None) -> Html:
    """A structure as SVG on a white rounded card, transparent around it.

    Without a SMILES, or where it cannot be read or is too large (:mod:`qforge_sdk.drawing`), the card holds
    the formula and a word why; nothing is raised for what the SMILES is.

    Parameters
    ----------
    smiles
        In any spelling; None and NA mean that there is none.
    size
        Width and height, pixels.
    formula
        Shown where the structure cannot be.

    Returns
    -------
    Html
        An ``<svg>`` without XML header and without ids, so that many fit one page.

    Raises
    ------
    InvalidInput
        ``size`` is not two whole numbers from 20 to 4,000.
    """
    width, height = _checked(size)
    inner = _picture(smiles, width, height, formula)
    card = element("rect", x=1, y=1, width=width - 2, height=height - 2, rx=8, fill="#ffffff", stroke="#d0d0d0")
    label = next((one for one in (smiles, formula) if not is_missing(one)), "")
    return element(
        "svg",
        card,
        inner,
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=plain(shortened(str(label))),
    )


def structure_uri(smiles: object, *, size: tuple[int, int] = PICTURE_SIZE, formula: object = None) -> str:
    """A structure as ``data:image/svg+xml;base64,...``, for the ``src`` of an ``<img>``.

    Parameters
    ----------
    smiles, size, formula
        As for :func:`structure_svg`.

    Returns
    -------
    str
        It needs no escaping.

    Raises
    ------
    InvalidInput
        As for :func:`structure_svg`.
    """
    svg = structure_svg(smiles, size=size, formula=formula).encode("utf-8")
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def structure(smiles: object, *, size: tuple[int, int] = PICTURE_SIZE, formula: object = None) -> Html:
    """A structure as an ``<img>``, which a notebook shows.

    Parameters
    ----------
    smiles, size, formula
        As for :func:`structure_svg`.

    Returns
    -------
    Html
        The picture inside it, the SMILES as its alternative text.

    Raises
    ------
    InvalidInput
        As for :func:`structure_svg`.
    """
    uri = structure_uri(smiles, size=size, formula=formula)
    label = "no structure" if is_missing(smiles) else shortened(str(smiles))
    return element(
        "img", src=uri, alt=label, title=label, width=size[0], height=size[1], style="max-width:none;margin:0"
    )


@dataclass(frozen=True, slots=True)
class StructureTable:
    """A DataFrame that a notebook shows with its structures; made by :func:`structures`.

    Parameters
    ----------
    data
        The DataFrame as it was given.
    smiles_column
        Where its SMILES are.
    rows
        How many rows are shown at most.
    size
        Width and height of a structure, pixels.
    """

    data: pd.DataFrame = field(repr=False)
    smiles_column: Any = "smiles"
    rows: int = SHOWN_ROWS
    size: tuple[int, int] = PICTURE_SIZE

    def _repr_html_(self) -> str:
        head = self.data.iloc[: self.rows]
        smiles, formulas = (_column(head, name) for name in (self.smiles_column, "formula"))
        pictures = [structure(one, size=self.size, formula=two) for one, two in zip(smiles, formulas, strict=True)]
        return frame_table(self.data, rows=self.rows, first={"structure": pictures})

    def __repr__(self) -> str:
        return (
            f"StructureTable({len(self.data):,} rows, structures of {self.smiles_column!r}; .data is the DataFrame)"
        )


def frame_with_structures(df: pd.DataFrame) -> Html:
    """All rows of a DataFrame, with small structures where it has a column ``smiles``.

    Parameters
    ----------
    df
        What to show, a page of rows.

    Returns
    -------
    Html
        A table.
    """
    if "smiles" not in df.columns:
        return frame_table(df, rows=len(df))
    return Html(structures(df, rows=len(df), size=SMALL_SIZE)._repr_html_())


def structures(
    df: pd.DataFrame,
    smiles_column: Any = "smiles",
    *,
    rows: int = SHOWN_ROWS,
    size: tuple[int, int] = PICTURE_SIZE,
) -> StructureTable:
    """A DataFrame with a picture of each structure beside its columns.

    Parameters
    ----------
    df
        Any DataFrame; it is not changed.
    smiles_column
        Its column of SMILES; of several with that name, the first. A row without one, or with one that cannot be
        drawn, shows its ``formula``, where there is such a column.
    rows
        How many rows to show at most.
    size
        Width and height of a structure, pixels.

    Returns
    -------
    StructureTable
        What a notebook shows; its ``data`` is ``df``.

    Raises
    ------
    UnknownField
        There is no such column; the message names the nearest.
    InvalidInput
        ``df`` is no DataFrame, ``rows`` is no whole number from 0 on, or ``size`` is none of a picture.
    """
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise InvalidInput(
            f"structures takes a DataFrame, not {type(df).__name__}; of a Query, call .df()", field="df"
        )
    names = df.columns.tolist()
    if smiles_column not in names:
        hint = did_you_mean(str(smiles_column), [str(name) for name in names])
        raise UnknownField(f"the DataFrame has no column {smiles_column!r}{hint}", field="smiles_column")
    if not _is_whole(rows) or rows < 0:
        raise InvalidInput(f"rows must be a whole number, 0 or more, not {rows!r}", field="rows", value=rows)
    return StructureTable(df, smiles_column, int(rows), _checked(size))


def _checked(size: Any) -> tuple[int, int]:
    if (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(_is_whole(one) and 20 <= one <= 4_000 for one in size)
    ):
        return int(size[0]), int(size[1])
    raise InvalidInput(
        f"size is width and height in pixels, two whole numbers from 20 to 4,000, not {size!r}",
        field="size",
        value=size,
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _picture(smiles: object, width: int, height: int, formula: object) -> Html:
    if is_missing(smiles) or smiles == "":
        return _words("no SMILES", formula, width, height)
    from qforge_sdk.drawing import Undrawn, drawing

    try:
        return Html(drawing(str(smiles), width, height))
    except Undrawn as exc:
        return _words(str(exc), formula, width, height)


def _words(reason: str, formula: object, width: int, height: int) -> Html:
    """The formula, and below it why there is no structure."""
    middle = {"x": width // 2, "text_anchor": "middle", "font_family": "sans-serif"}
    if is_missing(formula) or not str(formula).strip():
        return element("text", reason, y=height // 2 + 5, font_size=13, fill="#666666", **middle)
    name = plain(shortened(str(formula), 40))
    # A sans-serif letter is about 0.6 of its size wide.
    points = max(7, min(18, int(1.5 * width / max(len(name), 1))))
    return together(
        element("text", name, y=height // 2, font_size=points, fill="#222222", **middle),
        element("text", reason, y=height // 2 + 20, font_size=12, fill="#666666", **middle),
    )


def _column(df: pd.DataFrame, name: Any) -> list[Any]:
    """Values of the first column of that name, None for each row where there is no such column."""
    names = df.columns.tolist()
    return df.iloc[:, names.index(name)].tolist() if name in names else [None] * len(df)


def _label(name: Any) -> str:
    parts = name if isinstance(name, Iterable) and not isinstance(name, str | bytes) else (name,)
    return ", ".join("" if part is None else str(part) for part in parts)


def _caption(caption: object) -> tuple[Html, ...]:
    return (element("caption", caption, style=f"{_LEFT};white-space:nowrap;font-weight:bold"),) if caption else ()


def _names_and(cells: Iterable[Html], names: Iterable[str], caption: object) -> Html:
    lines = (element("tr", element("th", name, style=_LEFT), cell) for name, cell in zip(names, cells, strict=True))
    return element("table", *_caption(caption), element("tbody", *lines))


def _column_cells(name: str, values: Sequence[object]) -> list[Html]:
    """A heading and cells: numbers to the right, with what is missing among them; long text in several lines."""
    is_numeric = any(map(is_number, values)) and all(is_number(one) or is_missing(one) for one in values)
    side = _RIGHT if is_numeric else _LEFT
    return [element("th", name, style=side), *(_cell(value, side) for value in values)]


def _cell(value: object, side: str) -> Html:
    shown = _shown(value)
    is_long = len(shown) > 40 and not isinstance(shown, Html)
    return element("td", shown, style=_WRAPPED if is_long else side)


def _shown(value: object) -> str:
    return value if isinstance(value, Html) else written(value)
