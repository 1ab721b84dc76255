"""Batches run: items are leased to workers, and counts follow the items."""

from qforge_sdk.db.migrations.sql import run_file

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
