"""Statistics kept by triggers, and the indexes that pages and samples are read by."""

from qforge_sdk.db.migrations.sql import run_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
