"""The table below a chart of calculations, and the box beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from qforge_sdk.display import structure_uri
from qforge_sdk.errors import NotFound
from qforge_sdk.schemas import Page
from qforge_sdk.widgets.calculations_state import Choice
from qforge_sdk.widgets.elements import Column, Fact, Row
from qforge_sdk.widgets.numbers import heading, label, measured, number, words
from qforge_sdk.widgets.sources import Sources

#: Rows of a page.
PAGE_ROWS: Final = 10
_IMAGE_SIZE: Final = (260, 190)


def table_columns(choice: Choice) -> list[Column]:
    """Columns of the table: those of the axes among them."""
    numbers = dict.fromkeys((choice.x, choice.y, "gap", "energy", "dipole"))
    return [
        Column("id", "calculation", is_number=True, can_sort=True),
        Column("name", "molecule"),
        Column("formula", "formula", is_word=True),
        *(Column(name, heading(name), is_number=True, can_sort=True) for name in numbers),
        Column("method", "method", can_sort=True),
        Column("convergence_status", "status", can_sort=True),
    ]


def read_page(
    sources: Sources, choice: Choice, filters: Mapping[str, Any], sort: str, way: Mapping[str, str]
) -> Page:
    """One page of the table.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    columns = [column.name for column in table_columns(choice)]
    return sources.calculations.page(
        order_by=sort or None,
        limit=PAGE_ROWS,
        after=way.get("after"),
        before=way.get("before"),
        columns=columns,
        **filters,
    )


def table_rows(page: Page, choice: Choice) -> list[Row]:
    """Its lines."""
    columns = table_columns(choice)
    return [
        Row(int(row["id"]), [_cell(column, row[column.name]) for column in columns])
        for _, row in page.frame.iterrows()
    ]


def _cell(column: Column, value: Any) -> Any:
    if column.name == "id":
        return str(value)
    if column.is_number:
        return number(column.name, value)
    if column.name == "convergence_status":
        return {"text": str(value).replace("_", " "), "tone": "good" if value == "converged" else "bad"}
    text = words(value)
    return {"text": text, "title": text} if column.name == "name" else text


@dataclass(frozen=True, slots=True)
class Portrait:
    """A calculation as the box beside the chart shows it.

    Parameters
    ----------
    title
        Name of the molecule, or its formula.
    facts
        Its numbers.
    image
        Its structure, a data URI.
    """

    title: str
    facts: tuple[Fact, ...]
    image: str


def read_portrait(sources: Sources, key: int) -> Portrait:
    """Read one calculation with its structure.

    Raises
    ------
    NotFound
        It was deleted meanwhile.
    """
    frame = sources.calculations.query(id=key)
    if frame.empty:
        raise NotFound(f"calculation {key} is no longer there", entity="calculations", key=key)
    row = frame.iloc[0]
    smiles, formula = (None if pd.isna(row[name]) else row[name] for name in ("smiles", "formula"))
    title = str(formula) if pd.isna(row["name"]) else str(row["name"])
    facts = [
        Fact("calculation", str(key)),
        Fact("formula", words(row["formula"])),
        *(Fact(label(name), measured(name, row[name])) for name in ("energy", "gap", "dipole", "total_charge")),
        Fact("method", str(row["method"])),
        Fact("status", str(row["convergence_status"]).replace("_", " ")),
    ]
    return Portrait(title, tuple(facts), structure_uri(smiles, size=_IMAGE_SIZE, formula=formula))
