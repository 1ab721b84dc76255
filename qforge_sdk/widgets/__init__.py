"""Views for a notebook over the accessors: ``client.widgets``."""

from __future__ import annotations

from importlib import import_module

from qforge_sdk.errors import MissingExtra
from qforge_sdk.widgets.sources import Sources

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
