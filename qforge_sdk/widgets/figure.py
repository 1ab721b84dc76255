"""Charts that a browser draws whole at once."""

from __future__ import annotations

from typing import Any, Final

import plotly.graph_objects as go
import traitlets

_CONFIG: Final[dict[str, Any]] = {"responsive": True, "displaylogo": False}


class Chart(go.FigureWidget):  # type: ignore[misc]
    """A figure whose first message to the browser holds all that it shows.

    plotly.py's own opens empty and sends its content afterwards; a view that is drawn in between stays empty.

    Parameters
    ----------
    figure
        What it shows at first.
    """

    def __init__(self, figure: go.Figure) -> None:
        self._opening = figure.to_dict()
        super().__init__(figure)

    @traitlets.default("_widget_data")  # type: ignore[untyped-decorator]
    def _first_data(self) -> list[Any]:
        data: list[Any] = self._opening["data"]
        return data

    @traitlets.default("_config")  # type: ignore[untyped-decorator]
    def _first_config(self) -> dict[str, Any]:
        return dict(_CONFIG)

    @traitlets.validate("_config")  # type: ignore[untyped-decorator]
    def _whole_config(self, proposal: Any) -> dict[str, Any]:
        # plotly.py empties it while it opens the figure.
        given: dict[str, Any] = proposal["value"]
        return _CONFIG | given

    @traitlets.default("_widget_layout")  # type: ignore[untyped-decorator]
    def _first_layout(self) -> dict[str, Any]:
        layout: dict[str, Any] = self._opening["layout"]
        return layout
