"""Years of finished runs become a database: job folders and xtb directories, read once and loaded once."""

from qforge_sdk.migrate.folders import migrate
from qforge_sdk.migrate.report import MigrationReport

__all__ = ["MigrationReport", "migrate"]
