"""What administration needs: guarded events, pruning, events for both owners of a row that moves."""

from qforge_sdk.db.migrations.sql import run_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
