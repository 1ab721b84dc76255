"""The parts that widgets are made of: what they say is text, and becomes text in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

_STATIC: Final = Path(__file__).parent / "static"

Cell = str | Mapping[str, Any]
"""Text, or some of ``text``, ``title``, ``tone`` (good, bad, busy, quiet), ``bar`` (pairs of share and tone),
``image`` (a data URI of SVG) with ``alt``, and ``button`` with the ``action`` that it asks for."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name
        What ``sort`` calls it.
    label
        Its heading.
    is_number
        Whether it is aligned to the right.
    can_sort
        Whether its heading sorts.
    is_word
        Whether what it says stays on one line.
    """

    name: str
    label: str
    is_number: bool = False
    can_sort: bool = False
    is_word: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Parameters
    ----------
    key
        What ``picked`` calls it.
    cells
        One for each column.
    """

    key: int | str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Card:
    """A structure with what there is to say of it.

    Parameters
    ----------
    key
        What ``picked`` calls it.
    image
        Data URI of SVG, empty for none.
    alt
        What the picture shows, in words.
    title, lines
        Text below it.
    """

    key: int
    image: str
    alt: str
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that stands for itself.

    Parameters
    ----------
    label
        What it is.
    value
        As it is shown, with its unit.
    hint
        Shown when the pointer rests on it.
    tone
        good, bad, busy, quiet, or empty for none.
    """

    label: str
    value: str
    hint: str = ""
    tone: str = ""


class Notice(anywidget.AnyWidget):  # type: ignore[misc]
    """One line: what is being done, or what went wrong. It knows the page's theme."""

    _esm = _STATIC / "notice.js"
    _css = _STATIC / "panel.css"
    text = traitlets.Unicode("").tag(sync=True)
    is_error = traitlets.Bool(False).tag(sync=True)
    is_dark = traitlets.Bool(False).tag(sync=True)

    def say(self, text: str, *, is_error: bool = False) -> None:
        """Show a line, or nothing."""
        self.is_error = is_error
        self.text = text


class Words(anywidget.AnyWidget):  # type: ignore[misc]
    """Lines of text, each as long as it is."""

    _esm = _STATIC / "words.js"
    lines = traitlets.List().tag(sync=True)

    def show(self, *lines: str | tuple[str, str]) -> None:
        """Show lines instead of those that are there.

        Parameters
        ----------
        *lines
            Text, or text and its tone: good, bad, busy, quiet, strong. Empty ones are left out.
        """
        pairs = [(line, "plain") if isinstance(line, str) else line for line in lines]
        self.lines = [list(pair) for pair in pairs if pair[0]]


class Table(anywidget.AnyWidget):  # type: ignore[misc]
    """Rows of text, sorted by their headings, picked by mouse or keyboard.

    A picked row is also sent as ``{"picked": key}``, a button as ``{"action": ..., "key": ...}``, and where
    ``tells_focus`` is set the row that the keyboard is on as ``{"focused": key}``.
    """

    _esm = _STATIC / "table.js"
    label = traitlets.Unicode("").tag(sync=True)
    columns = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    sort = traitlets.Unicode("").tag(sync=True)
    pick = traitlets.Enum(("none", "one", "many"), "none").tag(sync=True)
    picked = traitlets.List().tag(sync=True)
    tells_focus = traitlets.Bool(False).tag(sync=True)
    nothing = traitlets.Unicode("Nothing here.").tag(sync=True)

    def show(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Show rows instead of those that are there."""
        with self.hold_sync():
            self.columns = [asdict(column) for column in columns]
            self.rows = [{"key": row.key, "cells": list(row.cells)} for row in rows]


class Cards(anywidget.AnyWidget):  # type: ignore[misc]
    """Structures in a grid, picked by mouse or keyboard."""

    _esm = _STATIC / "cards.js"
    label = traitlets.Unicode("").tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    picked = traitlets.List().tag(sync=True)
    nothing = traitlets.Unicode("Nothing here.").tag(sync=True)

    def show(self, cards: Sequence[Card]) -> None:
        """Show cards instead of those that are there."""
        self.cards = [asdict(card) | {"lines": list(card.lines)} for card in cards]


class Details(anywidget.AnyWidget):  # type: ignore[misc]
    """One thing: its structure, its name and what there is to say of it."""

    _esm = _STATIC / "details.js"
    label = traitlets.Unicode("").tag(sync=True)
    image = traitlets.Unicode("").tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    facts = traitlets.List().tag(sync=True)
    is_wide = traitlets.Bool(False).tag(sync=True)
    nothing = traitlets.Unicode("Nothing here.").tag(sync=True)

    def show(self, title: str, facts: Sequence[Fact], *, image: str = "", alt: str = "") -> None:
        """Show a thing instead of the one that is there.

        Parameters
        ----------
        title
            Its name.
        facts
            What there is to say of it, in this order.
        image
            Data URI of SVG, empty for none.
        alt
            What the picture shows, in words.
        """
        with self.hold_sync():
            self.title, self.image, self.alt = title, image, alt
            self.facts = [asdict(fact) for fact in facts]


class Facts(anywidget.AnyWidget):  # type: ignore[misc]
    """Numbers in a row."""

    _esm = _STATIC / "facts.js"
    facts = traitlets.List().tag(sync=True)

    def show(self, facts: Sequence[Fact]) -> None:
        """Show these instead of those that are there."""
        self.facts = [asdict(fact) for fact in facts]
