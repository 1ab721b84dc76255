"""One calculation: its numbers, its molecule in 3D, its atoms, its events."""

from __future__ import annotations

from typing import Any, Final

import ipywidgets as ipw
import pandas as pd

from qforge_sdk.schemas import Page
from qforge_sdk.widgets import calculation_state as state
from qforge_sdk.widgets.elements import Details, Notice, Table, Words
from qforge_sdk.widgets.panel import Pager, Panel
from qforge_sdk.widgets.sources import Sources
from qforge_sdk.widgets.viewer import Viewer

_PICTURE: Final = "1 1 320px"
_TABLE: Final = "2 1 560px"


class CalculationPanel(Panel):
    """One calculation.

    Parameters
    ----------
    sources
        Where it is read.
    id
        Its key.

    Raises
    ------
    NotFound
        No such calculation, or it is another tenant's.
    """

    def __init__(self, sources: Sources, id: int) -> None:  # noqa: A002
        self._sources, self._id = sources, id
        self._result = state.read_calculation(sources, id)
        super().__init__(f"Calculation {self._result.facts['id']}")
        self.details = Details(label="calculation", is_wide=True)
        self.remark = Notice()
        self.viewer = Viewer()
        self._controls = _Controls(self.viewer)
        self.table = Table(label="atoms", pick="one", nothing="No atoms are stored.")
        self.pager = Pager(self._turn_page, unit="atoms")
        self.events = Table(label="events", nothing="None of its own: a large load is one event for all its rows.")
        self.events.add_class("qf-limited")
        self._picture = ipw.VBox([self._controls, self.viewer], layout=ipw.Layout(flex=_PICTURE, min_width="320px"))
        self._atoms = ipw.VBox([_limited(self.table), self.pager], layout=ipw.Layout(flex=_TABLE, min_width="320px"))
        both = ipw.HBox([self._picture, self._atoms], layout=ipw.Layout(flex_flow="row wrap", grid_gap="14px"))
        self.content.children = [self.details, self.remark, both, _titled("Events", self.events)]
        self.table.observe(self._on_row, "picked")
        self.viewer.observe(self._on_atom, "picked")
        ipw.jslink((self.notice, "is_dark"), (self.viewer, "is_dark"))
        self._draw()

    @property
    def atoms(self) -> pd.DataFrame:
        """The atoms, as from ``client.atoms.for_calculation``, with ``force_norm`` (hartree/bohr)."""
        return self._result.atoms.copy()

    @property
    def selected(self) -> pd.DataFrame:
        """The picked atom, a row of :attr:`atoms`; no row when none is picked."""
        place = self.viewer.picked
        return self.atoms.iloc[0:0] if place is None else self.atoms.iloc[[place]].reset_index(drop=True)

    def _show(self) -> None:
        self._result = state.read_calculation(self._sources, self._id)
        self._draw()

    def _draw(self) -> None:
        result = self._result
        self.details.show(
            result.title,
            state.facts_of(result),
            image=state.image_of(result),
            alt=f"structure of {result.title}",
        )
        self.remark.say(state.remarks(result))
        with self.viewer.hold_sync():
            self.viewer.label = result.title
            self.viewer.picked = None
            self.viewer.charge_limit, self.viewer.force_limit = result.charge_limit, result.force_limit
            self.viewer.atoms = state.atoms_of(result)
        self._controls.show(result)
        shown = "none" if result.atoms.empty else None
        self._picture.layout.display = self._atoms.layout.display = shown
        self._show_atoms(0)
        self.events.show(state.EVENT_COLUMNS, state.event_rows(result))

    def _show_atoms(self, start: int) -> None:
        atoms = self._result.atoms
        self._start = start
        self.table.show(state.ATOM_COLUMNS, state.atom_rows(self._result, start))
        end = start + state.ATOMS_SHOWN
        later = str(end) if end < len(atoms) else None
        earlier = str(max(start - state.ATOMS_SHOWN, 0)) if start else None
        self.pager.show_from(start, Page(atoms.iloc[start:end], len(atoms), True, later, earlier))

    def _turn_page(self, way: dict[str, str]) -> None:
        with self.reporting():
            self._show_atoms(int(way.get("after") or way.get("before") or 0))

    def _on_row(self, change: dict[str, Any]) -> None:
        with self.reporting():
            self.viewer.picked = change["new"][0] if change["new"] else None

    def _on_atom(self, change: dict[str, Any]) -> None:
        with self.reporting():
            place = change["new"]
            if place is not None and not self._start <= place < self._start + state.ATOMS_SHOWN:
                self._show_atoms(place - place % state.ATOMS_SHOWN)
            self.table.picked = [] if place is None else [place]


class _Controls(ipw.HBox):  # type: ignore[misc]
    """What of the molecule is shown."""

    def __init__(self, viewer: Viewer) -> None:
        self.color = ipw.ToggleButtons(
            options=["element", "charge"],
            tooltips=["Colour the atoms by element", "Colour the atoms by charge"],
            style={"button_width": "74px"},
            layout={"width": "auto"},
        )
        self.arrows = ipw.Checkbox(description="forces", indent=False, layout=ipw.Layout(width="auto"))
        self.labels = ipw.Checkbox(description="atom numbers", indent=False, layout=ipw.Layout(width="auto"))
        self.words = Words()
        super().__init__([ipw.Label("colour by"), self.color, self.arrows, self.labels, self.words])
        self.add_class("qf-controls")
        for box, name in ((self.color, "color_by"), (self.arrows, "show_forces"), (self.labels, "show_labels")):
            ipw.link((box, "value"), (viewer, name))

    def show(self, result: state.Result) -> None:
        """Offer what there is."""
        self.color.disabled = not result.has_charges
        self.arrows.disabled = not result.has_forces
        self.color.value = "charge" if result.has_charges else "element"
        if not result.has_forces:
            self.arrows.value = False
        self.words.show((state.force_words(result), "quiet"))


def _limited(content: ipw.Widget) -> ipw.VBox:
    box = ipw.VBox([content])
    box.add_class("qf-limited")
    return box


def _titled(words: str, content: ipw.Widget) -> ipw.VBox:
    title = ipw.Label(words)
    title.add_class("qf-title")
    return ipw.VBox([title, content])
