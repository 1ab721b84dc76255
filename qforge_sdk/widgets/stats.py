"""``client.widgets.stats()``."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from qforge_sdk.widgets.elements import Facts
from qforge_sdk.widgets.panel import Panel
from qforge_sdk.widgets.sources import Sources
from qforge_sdk.widgets.stats_figure import charts, hidden_groups
from qforge_sdk.widgets.stats_state import EMPTY, GROUPS, Overview, overview


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
        self.figure: Any = None
        self._shown = Overview([], [], None, [])
        self.notice.observe(self._dress, "is_dark")
        self._charts = ipw.VBox()
        self.content.children = [self.facts, self._charts]
        self.update()

    def _show(self) -> None:
        self._shown = overview(self._sources, self.by.value)
        self.facts.show(self._shown.facts)
        self.notice.say("" if self._shown.timeline else EMPTY)
        self._draw()

    def _draw(self) -> None:
        """Put new charts in the place of the old ones; what was hidden stays hidden."""
        old = self.figure
        hidden = hidden_groups(old) if old else set()
        self.figure = charts(self._shown, self.by.value, dark=self.notice.is_dark, hidden=hidden)
        self._charts.children = [self.by, self.figure] if self._shown.timeline else []
        if old:
            old.close()

    def _dress(self, _: Any) -> None:
        with self.reporting():
            self._draw()
