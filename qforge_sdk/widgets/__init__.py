"""Views for a notebook over the accessors: ``client.widgets``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qforge_sdk.errors import MissingExtra
from qforge_sdk.widgets.sources import Sources

if TYPE_CHECKING:
    from qforge_sdk.widgets.calculation import CalculationPanel

__all__ = ["Sources", "Widgets"]


class Widgets:
    """Views of a database: the last line of a notebook's cell shows one.

    Parameters
    ----------
    sources
        Where they read.

    Raises
    ------
    MissingExtra
        The packages that draw them are not installed.
    """

    def __init__(self, sources: Sources) -> None:
        for package in ("ipywidgets", "anywidget", "plotly"):
            try:
                import_module(package)
            except ImportError as exc:
                raise MissingExtra(package, "notebook") from exc
        self._sources = sources

    def calculation(self, id: int) -> CalculationPanel:  # noqa: A002
        """One calculation: its numbers, its molecule in 3D, its atoms and its events.

        Parameters
        ----------
        id
            Its key.

        Returns
        -------
        CalculationPanel
            ``atoms`` is the table of atoms and ``selected`` the picked one.

        Raises
        ------
        NotFound
            No such calculation, or it is another tenant's.
        InvalidInput
            The key is no whole number.
        """
        from qforge_sdk.widgets.calculation import CalculationPanel

        return CalculationPanel(self._sources, id)
