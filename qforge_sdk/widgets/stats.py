"""``client.widgets.stats()``."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from qforge_sdk.widgets.elements import Facts
from qforge_sdk.widgets.panel import Panel
from qforge_sdk.widgets.sources import Sources
from qforge_sdk.widgets.stats_figure import draw, dress, empty_figure
from qforge_sdk.widgets.stats_state import EMPTY, GROUPS, overview


class StatsPanel(Panel):
    """Totals and distributions of what one reads; made by ``client.widgets.stats()``.

    Parameters
    ----------
    sources
        Where it reads.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        super().__init__("Statistics")
        self.facts = Facts()
        self.by = ipw.Dropdown(
            options=list(GROUPS),
            description="over time by",
            style={"description_width": "auto"},
            tooltip="What calculations over time are told apart by",
            layout=ipw.Layout(width="190px"),
        )
        self.by.observe(lambda _: self.update(), "value")
        self.figure = empty_figure()
        self.notice.observe(self._dress, "is_dark")
        self._dress()
        self._charts = ipw.VBox([self.by, self.figure])
        self.content.children = [self.facts, self._charts]
        self.update()

    def _show(self) -> None:
        shown = overview(self._sources, self.by.value)
        self.facts.show(shown.facts)
        is_empty = shown.timeline is None
        self._charts.layout.display = "none" if is_empty else None
        self.notice.say(EMPTY if is_empty else "")
        draw(self.figure, shown, self.by.value)

    def _dress(self, _: Any = None) -> None:
        with self.reporting():
            dress(self.figure, dark=self.notice.is_dark)
