"""Run the ``.sql`` file that stands beside a revision."""

from pathlib import Path

from alembic import op


def run_file(revision_file: str) -> None:
    """Execute, or in offline mode print, the SQL file of the same name as a revision's module.

    Parameters
    ----------
    revision_file
        ``__file__`` of the revision.
    """
    sql = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(sql)
    else:
        # The driver's own cursor: sqlalchemy would take ":name" and "%" in it for parameters.
        cursor = op.get_bind().connection.cursor()
        cursor.execute(sql)
        cursor.close()
