"""${message}."""

from qforge_sdk.db.migrations.sql import run_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
