"""``client.widgets.molecules()``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ipywidgets as ipw
import pandas as pd

from qforge_sdk.errors import InvalidInput, QForgeError
from qforge_sdk.widgets.elements import Cards
from qforge_sdk.widgets.molecules_state import (
    KINDS,
    ORDERS,
    QUANTITIES_SHOWN,
    SIZES,
    Reading,
    Scale,
    View,
    cards,
    find,
    nothing,
    picked_frame,
    scales,
    turn,
)
from qforge_sdk.widgets.numbers import heading
from qforge_sdk.widgets.panel import Pager, Panel
from qforge_sdk.widgets.sources import Sources

_NARROW: Final = {"description_width": "128px"}


class MoleculeGrid(Panel):
    """Structures to look through, search and pick; made by ``client.widgets.molecules()``.

    Parameters
    ----------
    sources
        Where it reads.
    page_size
        Molecules of a page: 12, 24, 48 or 96.

    Raises
    ------
    InvalidInput
        ``page_size`` is none of these.
    """

    def __init__(self, sources: Sources, *, page_size: int = 24) -> None:
        if page_size not in SIZES:
            raise InvalidInput(
                f"page_size is one of {', '.join(map(str, SIZES))}, not {page_size!r}",
                field="page_size",
                value=page_size,
            )
        self._sources = sources
        self._view, self._reading = View(size=page_size), Reading()
        self._scales: dict[str, Scale | None] = {}
        self._is_quiet = False
        super().__init__("Molecules")
        self._make_controls(page_size)
        self.pager = Pager(self._turn_page, unit="molecules")
        self.cards = Cards(label="Molecules")
        self.cards.observe(self._count_picked, "picked")
        self.content.children = [self._controls(), self._ranges(), self._bar(), self.cards]
        self._count_picked()
        self.update()

    @property
    def selected(self) -> pd.DataFrame:
        """The picked molecules, read anew, in the order in which they were picked.

        Returns
        -------
        pandas.DataFrame
            The columns of ``client.molecules.page()``: id, smiles, name, formula, charge, inchikey, created_at, and
            of the newest converged calculation calculation_id, method, energy (hartree), homo, lumo and gap (eV),
            dipole (debye), total_charge (e). No rows when nothing is picked.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        return picked_frame(self._sources.molecules, list(self.cards.picked))

    def _make_controls(self, page_size: int) -> None:
        self.search = ipw.Text(
            placeholder="part of a name, formula or SMILES, then Enter",
            continuous_update=False,
            layout=ipw.Layout(flex="1 1 240px", width="auto"),
        )
        self.search.tooltip = "Part of a name, a formula or a SMILES in any spelling"
        self.kind = ipw.Dropdown(options=KINDS, tooltip="What the text is", layout=ipw.Layout(width="110px"))
        self.order = ipw.Dropdown(options=ORDERS, tooltip="Order", layout=ipw.Layout(width="170px"))
        self.size = ipw.Dropdown(
            options=[(f"{size} a page", size) for size in SIZES],
            value=page_size,
            tooltip="Molecules of a page",
            layout=ipw.Layout(width="110px"),
        )
        self.sliders = {name: self._slider(name) for name in QUANTITIES_SHOWN}
        for control in (self.search, self.kind, self.order, self.size, *self.sliders.values()):
            control.observe(self._changed, "value")
        self.reset = ipw.Button(description="Reset", tooltip="Show all molecules again", layout={"width": "auto"})
        self.reset.on_click(lambda _: self._reset())
        self.picked = ipw.Label()
        self.clear = ipw.Button(description="Clear picks", tooltip="Pick nothing", layout={"width": "auto"})
        self.clear.on_click(lambda _: self._clear())

    def _slider(self, name: str) -> Any:
        kind = ipw.IntRangeSlider if name == "total_charge" else ipw.FloatRangeSlider
        return kind(
            description=heading(name),
            continuous_update=False,
            style=_NARROW,
            layout=ipw.Layout(flex="1 1 380px", width="auto", min_width="300px"),
        )

    def _controls(self) -> ipw.Box:
        row = ipw.HBox([self.search, self.kind, self.order, self.size, self.reset])
        row.add_class("qf-controls")
        return row

    def _ranges(self) -> ipw.Box:
        row = ipw.HBox(list(self.sliders.values()))
        row.add_class("qf-controls")
        return row

    def _bar(self) -> ipw.Box:
        picks = ipw.HBox([self.picked, self.clear])
        row = ipw.HBox([self.pager, picks], layout=ipw.Layout(justify_content="space-between"))
        row.add_class("qf-controls")
        return row

    def _show(self) -> None:
        found = scales(self._sources.calculations)
        with self._quietly():
            for name, scale in found.items():
                self._fit(self.sliders[name], scale, self._scales.get(name))
        self._scales = found
        self._search()

    def _fit(self, slider: Any, scale: Scale | None, before: Scale | None) -> None:
        """Give a slider its ends; a handle that stood at an end follows it, others keep their number."""
        slider.layout.display = "none" if scale is None else None
        if scale is None:
            return
        narrowed = before.narrowed(*slider.value) if before else None
        low, high = scale.handles(narrowed)
        with slider.hold_sync():
            slider.min, slider.max = min(slider.min, scale.low), max(slider.max, scale.high)
            slider.value = (low, high)
            slider.min, slider.max, slider.step = scale.low, scale.high, scale.step
            slider.readout_format = "d" if isinstance(slider, ipw.IntRangeSlider) else f".{scale.decimals}f"

    def _looked_for(self) -> View:
        ranges = {}
        for name, scale in self._scales.items():
            found = scale.narrowed(*self.sliders[name].value) if scale else None
            if found is not None:
                ranges[name] = found
        return View(self.search.value, self.kind.value, ranges, self.order.value, self.size.value)

    def _search(self) -> None:
        self._view = self._looked_for()
        try:
            found = find(self._sources.molecules, self._view)
        except QForgeError:
            self.cards.nothing = ""
            self.cards.show([])
            self.pager.clear()
            raise
        self._reading = found.reading
        self.notice.say(found.words)
        self.cards.nothing = nothing(self._view)
        self.cards.show(cards(found.page.frame))
        self.pager.show(found.page, {})

    def _turn_page(self, way: dict[str, str]) -> None:
        with self.reporting():
            page = turn(self._sources.molecules, self._view, self._reading, way)
            self.cards.show(cards(page.frame))
            self.pager.show(page, way)

    def _changed(self, _: Any) -> None:
        with self.reporting():
            if not self._is_quiet:
                self._search()

    def _reset(self) -> None:
        with self.reporting():
            with self._quietly():
                self.search.value, self.kind.value, self.order.value = "", KINDS[0], ORDERS["Newest first"]
                for slider in self.sliders.values():
                    slider.value = (slider.min, slider.max)
            self._show()

    def _clear(self) -> None:
        self.cards.picked = []

    def _count_picked(self, _: Any = None) -> None:
        n = len(self.cards.picked)
        self.picked.value = f"{n:,} picked" if n else "none picked"
        self.clear.disabled = not n

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Change controls without a search for each of them."""
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False
