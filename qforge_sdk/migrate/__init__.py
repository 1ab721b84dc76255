"""Years of finished runs become a database: folders of runs and files of results, read once and loaded once.

What reads them is imported by processes of its own, which need neither pandas nor a database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qforge_sdk.migrate.files import is_result_file, migrate_file
    from qforge_sdk.migrate.folders import migrate
    from qforge_sdk.migrate.report import MigrationReport

_HOME = {"MigrationReport": "report", "is_result_file": "files", "migrate": "folders", "migrate_file": "files"}

__all__ = ["MigrationReport", "is_result_file", "migrate", "migrate_file"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
