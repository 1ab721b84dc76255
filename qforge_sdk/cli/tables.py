"""DataFrames and records as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from rich.markup import escape
from rich.table import Table

from qforge_sdk.quantities import QUANTITIES


def frame_table(frame: pd.DataFrame, title: str) -> Table:
    """A rich table of a frame, units in the heads."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in frame.columns:
        unit = frame.attrs.get("units", {}).get(name) or (QUANTITIES[name].unit if name in QUANTITIES else None)
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(f"{name}\n[dim]{unit}[/]" if unit else name, justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def facts_table(facts: Mapping[str, object], title: str) -> Table:
    """Two columns: a name and its value."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in facts.items():
        table.add_row(name, _cell(value))
    return table


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))
