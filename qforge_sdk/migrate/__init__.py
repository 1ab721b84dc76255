"""Years of finished runs become a database: job folders and xtb directories, read once and loaded once.

What reads runs is imported by processes of its own, which need neither pandas nor a database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qforge_sdk.migrate.folders import migrate
    from qforge_sdk.migrate.report import MigrationReport

_HOME = {"MigrationReport": "report", "migrate": "folders"}

__all__ = ["MigrationReport", "migrate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
