"""What the grid of molecules shows, apart from how: what is searched for, the page that it finds, its cards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from qforge_sdk.accessors import Calculations, Molecules
from qforge_sdk.chem import validate_smiles
from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.geometry import hill_formula
from qforge_sdk.display import structure_uri
from qforge_sdk.errors import InvalidInput, InvalidSmiles
from qforge_sdk.schemas import Page
from qforge_sdk.widgets.elements import Card
from qforge_sdk.widgets.numbers import is_missing, measured

ANYTHING, NAME, FORMULA, SMILES = "anything", "name", "formula", "SMILES"
KINDS: Final = (ANYTHING, NAME, FORMULA, SMILES)
ORDERS: Final = {
    "Newest first": "-id",
    "Oldest first": "id",
    "Name, A to Z": "name",
    "Name, Z to A": "-name",
    "Formula": "formula",
    "Smallest gap first": "gap",
    "Largest gap first": "-gap",
    "Lowest energy first": "energy",
    "Highest energy first": "-energy",
}
SIZES: Final = (12, 24, 48, 96)
QUANTITIES_SHOWN: Final = ("gap", "energy", "dipole", "total_charge")
EMPTY: Final = (
    'No molecules yet. client.molecules.create("CCO", name="ethanol") stores one, client.molecules.bulk_load(df) as '
    "many as you have."
)

_PICTURE: Final = (240, 180)
_MOST_KEYS: Final = 1_000
_STEPS: Final = 400
_HAIR: Final = 1e-9
_LEAST_STEPS: Final = {"total_charge": 1.0}
_LONGEST_WORD: Final = 80
_CHARGE: Final = re.compile(r"(\+|-)(\d*)$")
_ONLY_IN_SMILES: Final = re.compile(r"[=#()\[\]@/\\]|\d$")

Range = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class View:
    """What one looks for.

    Parameters
    ----------
    text
        Part of a name, formula or SMILES; blank for everything.
    kind
        Which of them it is, one of :data:`KINDS`.
    ranges
        Column to its range, for those that are narrowed.
    order
        ``order_by`` of the pages.
    size
        Molecules of a page.
    """

    text: str = ""
    kind: str = ANYTHING
    ranges: Mapping[str, Range] = field(default_factory=dict)
    order: str = "-id"
    size: int = 24

    @property
    def is_open(self) -> bool:
        """Whether every molecule is wanted."""
        return not self.text.strip() and not self.ranges and self.order.lstrip("-") not in QUANTITIES_SHOWN


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that a text can mean.

    Parameters
    ----------
    filters
        Of :meth:`Molecules.page`.
    words
        What is searched for, such as ``formula C2H6O``.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Parameters
    ----------
    reading
        The meaning of the text that found it.
    page
        The first page.
    words
        What was searched for, to be shown; empty where nothing was.
    """

    reading: Reading
    page: Page
    words: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a slider begins and ends.

    Parameters
    ----------
    low, high
        Its ends, in the column's unit; all data lie between them.
    step
        Its smallest move.
    decimals
        Digits after the point that tell its steps apart.
    """

    low: float
    high: float
    step: float
    decimals: int

    @classmethod
    def around(cls, low: float, high: float, *, least: float = 0.0) -> Scale:
        """A scale with round ends.

        Parameters
        ----------
        low, high
            Least and greatest number.
        least
            Smallest step, 0 for any.
        """
        span = max(high - low, abs(high) / 1_000, 1e-3)
        power = math.floor(math.log10(span / _STEPS))
        step = next(step for step in (10.0**power * n for n in (1, 2, 5, 10, 20)) if step >= span / _STEPS)
        step = max(step, least)
        decimals = max(0, -math.floor(math.log10(step) + _HAIR))
        # 4.6 / 0.05 is a little less than 92.
        first, last = math.floor(low / step + _HAIR), math.ceil(high / step - _HAIR)
        ends = [round(first * step, decimals), round(last * step, decimals)]
        if ends[0] == ends[1]:
            ends = [round(ends[0] - step, decimals), round(ends[1] + step, decimals)]
        return cls(ends[0], ends[1], step, decimals)

    def narrowed(self, low: float, high: float) -> Range | None:
        """The filter that a slider's handles stand for; None where they stand at its ends."""
        found = (low if low > self.low else None, high if high < self.high else None)
        return None if found == (None, None) else found

    def handles(self, narrowed: Range | None) -> tuple[float, float]:
        """Where the handles stand for a filter; at an end where it is open or lies beyond."""
        low, high = narrowed or (None, None)
        return (
            self.low if low is None else min(max(low, self.low), self.high),
            self.high if high is None else max(min(high, self.high), self.low),
        )


def scales(calculations: Calculations) -> dict[str, Scale | None]:
    """Scales of the sliders from what is stored; None for a column without numbers."""
    limits = calculations.limits(*QUANTITIES_SHOWN)
    return {
        name: None if is_missing(low) else Scale.around(low, high, least=_LEAST_STEPS.get(name, 0.0))
        for name, low, high in zip(QUANTITIES_SHOWN, limits["low"].tolist(), limits["high"].tolist(), strict=True)
    }


def readings(text: str, kind: str = ANYTHING) -> list[Reading]:
    """What a text can mean, the narrowest meaning first.

    Parameters
    ----------
    text
        As it was typed.
    kind
        One of :data:`KINDS`.

    Returns
    -------
    list of Reading
        One without filters for a blank text.

    Raises
    ------
    InvalidSmiles
        ``kind`` is SMILES and RDKit refuses it.
    InvalidInput
        ``kind`` is formula and it is none.
    """
    wanted = text.strip()
    if not wanted:
        return [Reading()]
    if kind != ANYTHING:
        return [_READERS[kind](wanted)]
    found = []
    for reader in _READERS.values():
        try:
            found.append(reader(wanted))
        except InvalidInput:
            continue
    return found


def find(molecules: Molecules, view: View) -> Found:
    """The first page of the first meaning of the text that finds anything.

    Raises
    ------
    InvalidInput
        The text cannot be what it is said to be, or a range is none.
    QForgeError
        What the server reported.
    """
    every = readings(view.text, view.kind)
    for reading in every:
        page = turn(molecules, view, reading, {})
        if not page.frame.empty:
            return Found(reading, page, _found_words(view, reading))
    return Found(every[-1], page, _nothing_words(view, every))


def turn(molecules: Molecules, view: View, reading: Reading, way: Mapping[str, str]) -> Page:
    """Any page of a meaning of the text.

    Parameters
    ----------
    molecules
        Where to read.
    view
        What is looked for.
    reading
        What its text means.
    way
        ``after`` or ``before`` of :meth:`Molecules.page`, none for the first page.
    """
    wanted: dict[str, Any] = {**way, **reading.filters, **view.ranges}
    return molecules.page(order_by=view.order, limit=view.size, **wanted)


def nothing(view: View) -> str:
    """What to say instead of cards."""
    return EMPTY if view.is_open else "No molecule fits. Widen the ranges, shorten the text, or press Reset."


def cards(frame: pd.DataFrame) -> list[Card]:
    """Cards of the molecules of a page."""
    return [_card({str(name): value for name, value in row.items()}) for row in frame.to_dict("records")]


def picked_frame(molecules: Molecules, keys: Sequence[int]) -> pd.DataFrame:
    """Molecules of these keys as they are stored now, in this order.

    Returns
    -------
    pandas.DataFrame
        The columns of :meth:`Molecules.page`; those that were deleted meanwhile are left out.
    """
    parts = [list(keys[start : start + _MOST_KEYS]) for start in range(0, max(len(keys), 1), _MOST_KEYS)]
    frames = [molecules.page(id=part, order_by="id", limit=_MOST_KEYS, count=False).frame for part in parts]
    frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    place = {key: n for n, key in enumerate(keys)}
    order = sorted(range(len(frame)), key=lambda row: place[int(frame["id"].iloc[row])])
    sorted_frame = frame.iloc[order].reset_index(drop=True)
    sorted_frame.attrs = dict(frames[0].attrs)
    return sorted_frame


def _smiles(text: str) -> Reading:
    stored = validate_smiles(text).smiles
    meant = "" if stored == text else f" (stored as {_short(stored)})"
    return Reading({"smiles": text}, f"SMILES {_short(text)}{meant}")


def _formula(text: str) -> Reading:
    atoms = composition(text)
    if not atoms:
        raise InvalidInput(f"{_short(text)} is no formula such as C2H6O", field="formula", value=text)
    formula = hill_formula(atoms.elements())
    charge = _CHARGE.search(text)
    if charge is None:
        return Reading({"formula": [formula, text]}, f"formula {formula}")
    number = int(f"{charge[1]}{charge[2] or 1}")
    return Reading({"formula": [formula, text], "charge": number}, f"formula {formula} with charge {number:+d}")


def _name(text: str) -> Reading:
    return Reading(
        {"name_contains": text},
        f"name with \N{LEFT DOUBLE QUOTATION MARK}{_short(text)}\N{RIGHT DOUBLE QUOTATION MARK}",
    )


_READERS: Final = {SMILES: _smiles, FORMULA: _formula, NAME: _name}


def _found_words(view: View, reading: Reading) -> str:
    words = [f"Searched for the {reading.words}."] if reading.words else []
    if view.ranges or view.order.lstrip("-") in QUANTITIES_SHOWN:
        words.append("Molecules without these numbers are left out.")
    return " ".join(words)


def _nothing_words(view: View, every: Sequence[Reading]) -> str:
    tried = [reading.words for reading in every if reading.words]
    if not tried:
        return ""
    words = f"Nothing found for the {', nor for the '.join(tried)}."
    if len(every) == 1 and view.kind == ANYTHING and _ONLY_IN_SMILES.search(view.text):
        try:
            validate_smiles(view.text.strip())
        except InvalidSmiles as error:
            words += f"\nIt is no SMILES: {error}"
    return words


def _card(row: Mapping[str, Any]) -> Card:
    name, smiles, formula = (None if is_missing(row[key]) else str(row[key]) for key in ("name", "smiles", "formula"))
    title = name or smiles or formula or f"molecule {row['id']}"
    return Card(
        key=int(row["id"]),
        image=structure_uri(smiles, size=_PICTURE, formula=formula),
        alt=f"structure of {smiles or formula or title}",
        title=title,
        lines=[_formula_line(formula, row["charge"]), *_number_lines(row)],
    )


def _formula_line(formula: str | None, charge: Any) -> str:
    sign = "" if is_missing(charge) or charge == 0 else f", charge {int(charge):+d}".replace("-", "\N{MINUS SIGN}")
    return f"{formula or 'formula unknown'}{sign}"


def _number_lines(row: Mapping[str, Any]) -> list[str]:
    if is_missing(row["calculation_id"]):
        return ["not computed"]
    return [f"{name} {measured(name, row[name])}" for name in ("gap", "energy", "dipole")]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_WORD else f"{text[: _LONGEST_WORD - 1]}…"
