"""``client.widgets.stats()``."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from qforge_sdk.widgets.elements import Facts
from qforge_sdk.widgets.panel import Panel
from qforge_sdk.widgets.sources import Sources
from qforge_sdk.widgets.stats_figure import draw, dress, new_figure
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
        self._is_drawn = self._has_missed = False
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
        is_empty = self._shown.timeline is None
        if self.figure is not None:
            draw(self.figure, self._shown, self.by.value)
            self._has_missed = not self._is_drawn
        elif not is_empty:
            self.figure = new_figure(self._shown, self.by.value, dark=self.notice.is_dark)
            self.figure.observe(self._drawn, "_js2py_layoutDelta")
        self._charts.children = [] if is_empty else [self.by, self.figure]

    def _dress(self, _: Any = None) -> None:
        if self.figure is not None:
            with self.reporting():
                dress(self.figure, dark=self.notice.is_dark)
                self._has_missed = not self._is_drawn

    def _drawn(self, _: Any) -> None:
        """A browser has drawn the charts: tell them what they have missed until then."""
        self._is_drawn = True
        if self._has_missed:
            self._dress()
            with self.reporting():
                self._draw()
