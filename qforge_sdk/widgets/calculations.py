"""``client.widgets.calculations()``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import ipywidgets as ipw
import pandas as pd

from qforge_sdk.query import Query
from qforge_sdk.widgets import calculations_figure as chart
from qforge_sdk.widgets import calculations_rows as rows
from qforge_sdk.widgets import calculations_state as state
from qforge_sdk.widgets.elements import Details, Table
from qforge_sdk.widgets.numbers import heading
from qforge_sdk.widgets.panel import Pager, Panel
from qforge_sdk.widgets.sources import Sources

EMPTY: Final = (
    "There are no calculations yet. client.calculations.create(smiles=..., energy=...) stores one, "
    "client.calculations.bulk_load(frame) many, and client.migrate(folder) reads finished xtb runs."
)
_ANY_METHOD: Final = "all methods"
_ANY_STATUS: Final = "all statuses"
_LASSO_NEEDS_POINTS: Final = (
    "A lasso needs points: over a density draw a box, or narrow it to at most "
    f"{state.MOST_POINTS:,} calculations first."
)
_REMEMBERED: Final = 64
_AUTO: Final = {"description_width": "auto"}


class CalculationsPanel(Panel):
    """Many calculations by two of their quantities; made by ``client.widgets.calculations()``.

    Parameters
    ----------
    sources
        Where it reads.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._choice = state.Choice()
        self._drawing: state.Points | state.Density | None = None
        self._selection: state.Selection | None = None
        self._portraits: OrderedDict[int, rows.Portrait] = OrderedDict()
        self._is_quiet = False
        super().__init__("Calculations")
        self._make_controls()
        self._make_views()
        self.content.children = [self._controls(), self._drawn, self._bar(), self.table, self.pager]
        self._connect()
        self.update()

    @property
    def selected(self) -> pd.DataFrame:
        """What the box or lasso holds, read anew; where nothing is drawn, the picked rows of the table.

        Returns
        -------
        pandas.DataFrame
            As from ``client.calculations.query``; no rows when nothing is selected.

        Raises
        ------
        InvalidInput
            More than 100,000 are selected: :attr:`query` reads any number of them.
        QForgeError
            What the server reported.
        """
        return state.read_selected(self._sources, self._selected_filters())

    @property
    def picked(self) -> pd.DataFrame:
        """The picked rows of the table, read anew, as from ``client.calculations.query``.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        return state.read_selected(self._sources, {"id": list(self.table.picked)})

    @property
    def query(self) -> Query:
        """What :attr:`selected` reads, lazy and of any size: ``.count()``, ``.to_parquet(path)``, ``.df()``.

        Returns
        -------
        Query
            Nothing is read until one of its endings is called.
        """
        return state.selected_query(self._sources, self._selected_filters())

    def _selected_filters(self) -> dict[str, Any]:
        if self._selection is None:
            return {"id": list(self.table.picked)}
        return self._selection.filters(self._choice)

    # Parts

    def _make_controls(self) -> None:
        quantities = [(heading(name), name) for name in state.QUANTITIES_SHOWN]
        self.x = _dropdown("x", quantities, self._choice.x, 200)
        self.y = _dropdown("y", quantities, self._choice.y, 200)
        self.color = _dropdown("colour", list(state.COLORS), "nothing", 150)
        self.method = _dropdown("", [_ANY_METHOD], _ANY_METHOD, 150)
        self.status = _dropdown("", [_ANY_STATUS], _ANY_STATUS, 130)
        self.drag = ipw.ToggleButtons(
            options=[("box", "select"), ("lasso", "lasso"), ("zoom", "zoom")],
            tooltips=["Drag to select a box", "Drag to select with a lasso", "Drag to zoom in"],
            style={"button_width": "58px"},
            layout={"width": "auto"},
        )
        self.edges = [_edge(name) for name in ("x from", "x to", "y from", "y to")]
        self.select = ipw.Button(description="Select box", layout={"width": "auto"})
        self.closer = ipw.Button(button_style="primary", layout={"width": "auto", "display": "none"})
        self.everything = ipw.Button(description="Show all", layout={"width": "auto", "display": "none"})
        self.clear = ipw.Button(description="Clear selection", layout={"width": "auto", "display": "none"})
        self.selection = ipw.Label()

    def _make_views(self) -> None:
        self.figure: Any = None
        self.details = Details(
            label="structure", nothing="Rest the pointer on a point, or walk the table with the arrow keys."
        )
        self.table = Table(label="calculations", pick="many", tells_focus=True, nothing="No calculations.")
        self.pager = Pager(self._turn_page, unit="calculations")
        self._plot = ipw.VBox(layout=ipw.Layout(flex="1 1 520px", min_width="0"))
        side = ipw.VBox([self.details], layout=ipw.Layout(flex="1 1 270px", min_width="220px"))
        self._drawn = ipw.HBox([self._plot, side], layout=ipw.Layout(flex_flow="row wrap", grid_gap="12px"))

    def _controls(self) -> ipw.Box:
        choices = ipw.HBox([self.x, self.y, self.color, self.method, self.status])
        box = ipw.HBox([ipw.Label("drag a"), self.drag, ipw.Label("or type a box:"), *self.edges, self.select])
        for row in (choices, box):
            row.add_class("qf-controls")
        return ipw.VBox([choices, box])

    def _bar(self) -> ipw.Box:
        row = ipw.HBox([self.selection, self.closer, self.clear, self.everything])
        row.add_class("qf-controls")
        return row

    def _connect(self) -> None:
        self.x.observe(self._on_axis, "value")
        self.y.observe(self._on_axis, "value")
        for control in (self.color, self.method, self.status):
            control.observe(self._on_choice, "value")
        self.drag.observe(self._on_drag_mode, "value")
        self.select.on_click(self._guarded(self._select_typed))
        self.closer.on_click(self._guarded(self._look_closer))
        self.everything.on_click(self._guarded(lambda: self._narrow(None)))
        self.clear.on_click(self._guarded(self._clear))
        self.table.observe(lambda _: self._guarded(lambda: self._show_page({}))(), "sort")
        self.table.observe(self._on_picked, "picked")
        self.table.on_msg(self._on_message)
        self.notice.observe(self._dress, "is_dark")

    def _guarded(self, call: Callable[[], Any]) -> Callable[..., None]:
        def run(*_: Any) -> None:
            with self.reporting():
                call()

        return run

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False

    def _dress(self, _: Any = None) -> None:
        with self.reporting():
            if self.figure is not None:
                chart.dress(self.figure, dark=self.notice.is_dark)

    # What is shown

    def _show(self) -> None:
        self._portraits.clear()
        with self._quietly():
            for control, first, found in (
                (self.method, _ANY_METHOD, state.methods_of(self._sources)),
                (self.status, _ANY_STATUS, state.statuses_of(self._sources)),
            ):
                chosen = control.value
                control.options = [first, *found]
                control.value = chosen if chosen in control.options else first
            self._choice = replace(self._choice, **self._chosen())
        is_empty = len(self.method.options) == 1
        for part in self.content.children:
            part.layout.display = "none" if is_empty else None
        if is_empty:
            self.notice.say(EMPTY)
            return
        self._drop_figure()
        self._draw()

    def _chosen(self) -> dict[str, Any]:
        return {
            "x": self.x.value,
            "y": self.y.value,
            "color": state.COLORS[self.color.value],
            "method": None if self.method.value == _ANY_METHOD else self.method.value,
            "status": None if self.status.value == _ANY_STATUS else self.status.value,
        }

    def _draw(self) -> None:
        self._selection = None
        self._drawing = state.read_drawing(self._sources, self._choice)
        if self.figure is None:
            self._make_figure(self._drawing)
        else:
            chart.draw(self.figure, self._drawing, self._choice)
        self.everything.layout.display = "none" if self._choice.region is None else None
        self._show_selected(None)
        self._show_page({})
        self._show_marks()

    def _drop_figure(self) -> None:
        """Make another one next: anywidget stops telling a figure of changes where it took the page 2 s to load."""
        if self.figure is not None:
            self.figure.close()
            self.figure = None

    def _make_figure(self, drawing: state.Points | state.Density) -> None:
        self.figure = chart.new_figure(drawing, self._choice, dark=self.notice.is_dark, drag=self.drag.value)
        # A private trait of plotly's: no public one tells of a box over a density, or of an empty one.
        self.figure.observe(self._on_layout, "_js2py_relayout")
        self.figure.data[chart.POINTS].on_hover(self._on_hover)
        self.figure.data[chart.POINTS].on_click(self._on_point)
        self._plot.children = [self.figure]

    def _show_page(self, way: dict[str, str]) -> None:
        filters = self._choice.filters if self._selection is None else self._selection.filters(self._choice)
        page = rows.read_page(self._sources, self._choice, filters, self.table.sort, way)
        self.table.nothing = "The selection is empty." if self._selection else "No calculation is like that."
        self.table.show(rows.table_columns(self._choice), rows.table_rows(page, self._choice))
        self.pager.show(page, way)
        if self._selection is None and self._drawing is not None:
            self.notice.say(state.drawing_words(self._drawing, self._choice, page))

    def _turn_page(self, way: dict[str, str]) -> None:
        with self.reporting():
            self._show_page(way)

    def _show_marks(self) -> None:
        chart.show_marks(self.figure, *state.read_places(self._sources, self._choice, self.table.picked))

    def _show_portrait(self, key: int) -> None:
        if key not in self._portraits:
            self._portraits[key] = rows.read_portrait(self._sources, key)
            if len(self._portraits) > _REMEMBERED:
                self._portraits.popitem(last=False)
        shown = self._portraits[key]
        self.details.show(shown.title, shown.facts, image=shown.image, alt=f"structure of {shown.title}")

    # What is chosen

    def _on_choice(self, _: Any) -> None:
        with self.reporting():
            if not self._is_quiet:
                self._choice = replace(self._choice, **self._chosen())
                self._draw()

    def _on_axis(self, change: Mapping[str, Any]) -> None:
        with self.reporting():
            if self._is_quiet:
                return
            other = self.y if change["owner"] is self.x else self.x
            with self._quietly():
                # Two different quantities: who takes the other axis's one gives its own for it.
                if other.value == change["new"]:
                    other.value = change["old"]
            self._choice = replace(self._choice, region=None, **self._chosen())
            self._draw()

    def _narrow(self, region: state.Box | None) -> None:
        self._choice = replace(self._choice, region=region)
        self._draw()

    def _look_closer(self) -> None:
        if self._selection is not None and self._selection.box is not None:
            self._narrow(self._selection.box.within(self._choice.region))

    # What is selected

    def _on_drag_mode(self, change: Mapping[str, Any]) -> None:
        with self.reporting():
            if self.figure is not None:
                self.figure.layout.dragmode = change["new"]
            if change["new"] == "lasso" and isinstance(self._drawing, state.Density):
                self.selection.value = _LASSO_NEEDS_POINTS

    def _on_layout(self, change: Mapping[str, Any]) -> None:
        with self.reporting():
            done = chart.told(change)
            if "selections" in done:
                self._select(done["selections"])
            elif isinstance(self._drawing, state.Density):
                region = chart.zoomed(self.figure, done)
                if region is not None or chart.is_reset(done):
                    self._narrow(region)

    def _select(self, shapes: Sequence[Mapping[str, Any]]) -> None:
        """Take what was drawn into the chart."""
        if isinstance(self._drawing, state.Points):
            keys = state.selected_keys(self._drawing, shapes)
            self._selection = state.Selection(keys=keys) if shapes else None
            n: int | None = len(keys)
        else:
            boxes = [state.box_of(shape) for shape in shapes if shape.get("type") == "rect"]
            if shapes and not boxes:
                self._clear()
                self.selection.value = _LASSO_NEEDS_POINTS
                return
            self._selection = state.Selection(box=boxes[-1]) if boxes else None
            filters = self._choice.filters if self._selection is None else self._selection.filters(self._choice)
            n = state.count_up_to(self._sources, filters, state.MOST_POINTS) if boxes else None
        chart.dim(self.figure, not_selected=self._selection is not None)
        self._show_edges()
        self._show_selected(n)
        self._show_page({})

    def _select_typed(self) -> None:
        if self._drawing is None:
            return
        box = state.typed_box([edge.value for edge in self.edges], self._choice, self._drawing)
        shapes = [chart.rectangle(box)]
        chart.show_selection(self.figure, shapes)
        self._select(shapes)

    def _clear(self) -> None:
        chart.show_selection(self.figure, [])
        self._select([])

    def _show_edges(self) -> None:
        """Type the box that was drawn, for who wants it rounder."""
        box = None if self._selection is None else self._selection.box
        if box is not None:
            for edge, value in zip(self.edges, (*box.x, *box.y), strict=True):
                edge.value = f"{value:.6g}"

    def _show_selected(self, n: int | None) -> None:
        self.selection.value = state.selection_words(self._selection, n)
        self.clear.layout.display = "none" if self._selection is None else None
        has_box = self._selection is not None and self._selection.box is not None and n != 0
        self.closer.layout.display = None if has_box else "none"
        if has_box:
            self.closer.description = "Look closer at the box" if n is None else f"Show these {n:,} as points"

    # What is pointed at

    def _on_picked(self, change: Mapping[str, Any]) -> None:
        with self.reporting():
            self._show_marks()
            new = [key for key in change["new"] if key not in change["old"]]
            if new:
                self._show_portrait(new[-1])

    def _on_message(self, _table: object, content: Any, _buffers: object) -> None:
        with self.reporting():
            if isinstance(content, dict) and isinstance(content.get("focused"), int):
                self._show_portrait(content["focused"])

    def _on_hover(self, _trace: object, points: Any, _device: object) -> None:
        with self.reporting():
            for key in self._keys(points.point_inds):
                self._show_portrait(key)

    def _on_point(self, _trace: object, points: Any, _device: object) -> None:
        with self.reporting():
            for key in self._keys(points.point_inds):
                kept = [other for other in self.table.picked if other != key]
                self.table.picked = kept if key in self.table.picked else [*kept, key]

    def _keys(self, places: list[int]) -> list[int]:
        """Keys of points; of a chart that was drawn over meanwhile, none."""
        if not isinstance(self._drawing, state.Points):
            return []
        keys = self._drawing.keys
        return [int(keys[place]) for place in places if place < len(keys)]


def _dropdown(words: str, options: list[Any], value: Any, width: int) -> ipw.Dropdown:
    return ipw.Dropdown(
        options=options, value=value, description=words, style=_AUTO, layout=ipw.Layout(width=f"{width}px")
    )


def _edge(words: str) -> ipw.Text:
    return ipw.Text(placeholder=words, continuous_update=False, layout=ipw.Layout(width="84px"))
