"""Years of finished runs become a database: folders of runs and files of peers, read once and loaded once."""

from qforge_sdk.migrate.files import is_result_file, migrate_file
from qforge_sdk.migrate.folders import migrate
from qforge_sdk.migrate.report import MigrationReport

__all__ = ["MigrationReport", "is_result_file", "migrate", "migrate_file"]
