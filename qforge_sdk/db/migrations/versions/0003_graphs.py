"""Molecules known by their graph are found by it."""

from qforge_sdk.db.migrations.sql import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
