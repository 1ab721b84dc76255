"""What is going on in several batches at once: their items by status, and whether somebody computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, text

_COUNTED: Final = ("pending", "processing", "completed", "failed", "skipped")
_COUNTS: Final = ", ".join(
    f"coalesce(sum(k.n) FILTER (WHERE k.status = '{status}'), 0)::bigint AS {status}" for status in _COUNTED
)
_HELD: Final = """
    EXISTS (SELECT FROM public.batch_items AS i WHERE i.batch_id = b.id AND i.user_id {owner}
            AND i.status = 'processing' AND i.lease_expires_at >= clock_timestamp())
"""
# Only where items wait, and each owner's by the index: a batch may have a million items that have ended.
_ACTIVITY: Final = f"""
    WITH kept AS MATERIALIZED (
        SELECT cell, status, sum(n) AS n FROM qforge.read_statistics(ARRAY['batch_items'])
        WHERE cell = ANY (:batches) GROUP BY cell, status
    )
    SELECT b.id AS batch_id, {_COUNTS},
           b.waiting_count > 0 AND CASE WHEN b.user_id IS NULL THEN {_HELD.format(owner="IS NULL")}
                                        ELSE {_HELD.format(owner="= b.user_id")} END AS is_computed
    FROM public.batch_jobs AS b LEFT JOIN kept AS k ON k.cell = b.id
    WHERE b.id = ANY (:batches) GROUP BY b.id ORDER BY b.id
"""


class Activity(NamedTuple):
    """A batch: its items by status, and whether somebody holds some by a lease that has not run out."""

    batch_id: int
    pending: int
    processing: int
    completed: int
    failed: int
    skipped: int
    is_computed: bool


def activity(connection: Connection, batches: Sequence[int]) -> list[Activity]:
    """What is going on in batches; the counts are those that the database keeps.

    Parameters
    ----------
    connection
        In a transaction.
    batches
        Their keys.

    Returns
    -------
    list of Activity
        One for each batch that one reads, sorted by key.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    statement = text(_ACTIVITY.replace("::", "\\:\\:"))
    return [Activity(*row) for row in connection.execute(statement, {"batches": list(batches)})]
