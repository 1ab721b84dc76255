"""The chart of many calculations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from qforge_sdk.display import chart_text
from qforge_sdk.widgets.calculations_state import Array, Box, Choice, Density, Points
from qforge_sdk.widgets.figure import Chart
from qforge_sdk.widgets.numbers import heading, label

DENSITY, POINTS, MARKS = range(3)
_CLEAR: Final = "rgba(0,0,0,0)"
_HEIGHT: Final = 460
_PLAIN: Final = "#1f83d6"
# Told apart by the colour-blind too, on white and on black; the last is for all others.
_COLORS: Final = (
    *("#1f83d6", "#e69f00", "#2e8b57", "#cc79a7", "#8a6fd1"),
    *("#d55e00", "#56b4e9", "#a0863b", "#d1495b", "#9aa5b1"),
)
_OPACITY, _FAINT = 0.75, 0.12
_PICKED: Final = "#ff9800"
_OUTLINE: Final = {"color": _PICKED, "width": 1.5, "dash": "dot"}
_BAR: Final = {"thickness": 14, "outlinewidth": 0, "len": 0.9}


def new_figure(drawing: Points | Density, choice: Choice, *, dark: bool, drag: str) -> Any:
    """The chart.

    Parameters
    ----------
    drawing
        What there is to show.
    choice
        What it was read for.
    dark
        Whether the page is.
    drag
        What dragging does: ``select``, ``lasso`` or ``zoom``.
    """
    ringed = {"symbol": "circle-open", "size": 15, "color": _PICKED, "line": {"width": 3}}
    figure = go.Figure(
        [
            go.Heatmap(visible=False, colorscale="Viridis", colorbar=_BAR, hoverongaps=False),
            go.Scattergl(visible=False, mode="markers", marker={"size": 6, "opacity": _OPACITY, "color": _PLAIN}),
            go.Scatter(mode="markers", hoverinfo="skip", marker=ringed, unselected={"marker": {"opacity": 1}}),
        ]
    )
    figure.update_layout(
        autosize=True,
        height=_HEIGHT,
        showlegend=False,
        hovermode="closest",
        dragmode=drag,
        margin={"l": 70, "r": 20, "t": 30, "b": 55},
        modebar={"remove": ["select2d", "lasso2d", "zoom2d", "pan2d", "autoScale2d", "toImage"]},
        newselection={"line": _OUTLINE},
    )
    dress(figure, dark=dark)
    draw(figure, drawing, choice)
    return Chart(figure)


def dress(figure: Any, *, dark: bool) -> None:
    """Fit the chart to the page's theme."""
    figure.update_layout(
        template="plotly_dark" if dark else "plotly_white",
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        modebar={"bgcolor": _CLEAR},
    )


def draw(figure: Any, drawing: Points | Density, choice: Choice) -> None:
    """Show something else; what was selected is no longer.

    Parameters
    ----------
    figure
        From :func:`new_figure`.
    drawing
        What there is to show.
    choice
        What it was read for.
    """
    show_selection(figure, [])
    with figure.batch_update():
        figure.layout.xaxis.title.text, figure.layout.yaxis.title.text = heading(choice.x), heading(choice.y)
        if isinstance(drawing, Density):
            _draw_density(figure, drawing, choice)
        else:
            _draw_points(figure, drawing, choice)
        _frame(figure, drawing, choice)


def _draw_points(figure: Any, drawing: Points, choice: Choice) -> None:
    figure.data[DENSITY].visible, figure.data[DENSITY].z = False, None
    points = figure.data[POINTS]
    points.x, points.y = drawing.x, drawing.y
    points.hovertemplate = f"{label(choice.x)} %{{x:.5~g}}<br>{label(choice.y)} %{{y:.6~g}}<extra></extra>"
    points.marker.update(_color(drawing, choice))
    points.visible = True


def _color(drawing: Points, choice: Choice) -> dict[str, Any]:
    """The colours of points, named by a bar beside the chart."""
    n = len(drawing.groups)
    if not n or choice.color is None:
        return {"color": _PLAIN, "showscale": False}
    steps = [(place / n, color) for place, color in zip((*range(n), n), _spread(n), strict=True)]
    scale = [pair for low, high in pairwise(steps) for pair in (low, (high[0], low[1]))]
    names = [str(chart_text(name, length=24)) for name in drawing.groups]
    bar = {**_BAR, "tickvals": list(range(n)), "ticktext": names, "title": {"text": heading(choice.color)}}
    return {
        "color": drawing.group,
        "cmin": -0.5,
        "cmax": n - 0.5,
        "colorscale": scale,
        "showscale": True,
        "colorbar": bar,
    }


def _spread(n: int) -> list[str]:
    return [_COLORS[min(place, len(_COLORS) - 1)] for place in range(n + 1)]


def _draw_density(figure: Any, drawing: Density, choice: Choice) -> None:
    figure.data[POINTS].visible, figure.data[POINTS].x, figure.data[POINTS].y = False, None, None
    cells = figure.data[DENSITY]
    cells.x, cells.y = drawing.x_edges, drawing.y_edges
    # A matrix is sent as JSON, which has no NaN.
    tens = np.log10(np.maximum(drawing.counts, 1)).astype(object)
    tens[drawing.counts == 0] = None
    cells.z = tens
    cells.customdata = drawing.counts
    about = "" if drawing.sample is None else "about "
    cells.hovertemplate = (
        f"{label(choice.x)} %{{x:.5~g}}<br>{label(choice.y)} %{{y:.6~g}}<br>"
        f"{about}%{{customdata:,}} calculations<extra></extra>"
    )
    most = int(np.log10(max(drawing.counts.max(initial=1), 1)))
    ticks = list(range(most + 1))
    title = {"text": "calculations"}
    cells.colorbar.update(tickvals=ticks, ticktext=[f"{10**one:,}" for one in ticks], title=title)
    cells.visible = True


def _frame(figure: Any, drawing: Points | Density, choice: Choice) -> None:
    """Axes that begin and end where the region does."""
    if choice.region is not None:
        figure.layout.xaxis.range, figure.layout.yaxis.range = choice.region.x, choice.region.y
    elif isinstance(drawing, Density) and len(drawing.x_edges) > 1:
        figure.layout.xaxis.range = (drawing.x_edges[0], drawing.x_edges[-1])
        figure.layout.yaxis.range = (drawing.y_edges[0], drawing.y_edges[-1])
    else:
        figure.layout.xaxis.autorange = figure.layout.yaxis.autorange = True


def show_marks(figure: Any, x: Array, y: Array) -> None:
    """Ring some places."""
    with figure.batch_update():
        figure.data[MARKS].x, figure.data[MARKS].y = x, y


def show_selection(figure: Any, shapes: Sequence[Mapping[str, Any]]) -> None:
    """Outline what is selected.

    Parameters
    ----------
    figure
        From :func:`new_figure`.
    shapes
        As plotly describes them; none to select nothing.
    """
    figure.plotly_relayout({"selections": [dict(one) for one in shapes]})
    dim(figure, not_selected=bool(shapes))


def dim(figure: Any, *, not_selected: bool) -> None:
    """Whether points that are not selected are faint: a browser goes on to take all for those when nothing is."""
    figure.data[POINTS].unselected.marker.opacity = _FAINT if not_selected else _OPACITY


def rectangle(box: Box) -> dict[str, Any]:
    """A box as plotly describes it."""
    ends = {"x0": box.x[0], "x1": box.x[1], "y0": box.y[0], "y1": box.y[1]}
    return {"type": "rect", "xref": "x", "yref": "y", "line": _OUTLINE, **ends}


def told(change: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a user did to the layout, from a change of ``_js2py_relayout``; empty for nothing.

    Callbacks of ``layout.on_change`` see no new selections: plotly.py keeps them, but passes on the old ones.
    """
    message = change["new"] or {}
    found: Mapping[str, Any] = message.get("relayout_data") or {}
    return found


def zoomed(figure: Any, done: Mapping[str, Any]) -> Box | None:
    """Where a user zoomed or moved to, None where that was not what was done."""
    if not any(name.startswith(("xaxis.range", "yaxis.range")) for name in done):
        return None
    ends = [figure.layout.xaxis.range, figure.layout.yaxis.range]
    if any(one is None for one in ends):
        return None
    x, y = (sorted(float(end) for end in one) for one in ends)
    return Box((x[0], x[1]), (y[0], y[1]))


def is_reset(done: Mapping[str, Any]) -> bool:
    """Whether a user asked for the whole axes."""
    return any(name.endswith(".autorange") for name in done)
