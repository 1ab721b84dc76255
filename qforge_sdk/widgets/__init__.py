"""Views for a notebook over the accessors: ``client.widgets``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from qforge_sdk.errors import MissingExtra
from qforge_sdk.widgets.sources import Sources

if TYPE_CHECKING:
    from qforge_sdk.widgets.batches import BatchBoard
    from qforge_sdk.widgets.calculation import CalculationPanel
    from qforge_sdk.widgets.calculations import CalculationsPanel
    from qforge_sdk.widgets.molecules import MoleculeGrid
    from qforge_sdk.widgets.stats import StatsPanel

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
        self._panels: WeakSet[Any] = WeakSet()

    def batches(self) -> BatchBoard:
        """All batches as they go on: progress, failures, items; retried and cancelled by a click.

        While something runs it is read every 2 s, otherwise every 5 s as long as it is on screen, so that a run which
        somebody starts elsewhere is noticed. Nothing is read when no page of a browser shows it.

        Returns
        -------
        BatchBoard
            ``selected`` is a DataFrame of the chosen items.
        """
        from qforge_sdk.widgets.batches import BatchBoard

        board = BatchBoard(self._sources)
        self._panels.add(board)
        return board

    def calculations(self) -> CalculationsPanel:
        """Many calculations by any two of their quantities, with a table and their structures.

        Up to 20,000 are points; of more, the server counts a density, and zooming in or drawing a box leads to
        points. A box or a lasso selects, the table shows what is selected, and picked rows are ringed in the chart.

        Returns
        -------
        CalculationsPanel
            ``selected`` is a DataFrame of what the box or lasso holds, ``query`` the same for any number of rows, and
            ``picked`` the picked rows of the table.

        Raises
        ------
        MissingExtra
            ipywidgets, anywidget or plotly is not installed.
        """
        from qforge_sdk.widgets.calculations import CalculationsPanel

        return CalculationsPanel(self._sources)

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

    def molecules(self, *, page_size: int = 24) -> MoleculeGrid:
        """A grid of structures to look through, search and pick.

        Its text field finds a part of a name, a formula or a SMILES in any spelling; its sliders narrow the gap,
        energy, dipole and charge of the newest converged calculation of a molecule; a click or Enter picks.

        Parameters
        ----------
        page_size
            Molecules of a page: 12, 24, 48 or 96.

        Returns
        -------
        MoleculeGrid
            ``selected`` is a DataFrame of what is picked.

        Raises
        ------
        InvalidInput
            ``page_size`` is none of these.
        """
        from qforge_sdk.widgets.molecules import MoleculeGrid

        return MoleculeGrid(self._sources, page_size=page_size)

    def stats(self) -> StatsPanel:
        """Totals, calculations per day, and histograms of the gap and the energy by method.

        The server counts; no row is fetched. A click on a method in the legend hides it in all charts.

        Returns
        -------
        StatsPanel
            A tenant's own and public rows; all that a service reads.
        """
        from qforge_sdk.widgets.stats import StatsPanel

        return StatsPanel(self._sources)

    def close(self) -> None:
        """Let no widget do anything more by itself; a closed client does so."""
        for panel in list(self._panels):
            panel.end()
