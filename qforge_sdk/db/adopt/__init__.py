"""The tables of the old database module become this package's, in one transaction.

The old tables are moved aside, the migrations run, the rows are copied with their keys, times and counts and
compared, and the old tables are dropped. What the new tables refuse is adapted and told: each doubt stands in the
report, and in the row's ``metadata["adopted"]`` with the old value. Rows that cannot be stored at all are kept as
events ``row_set_aside``.
"""

from qforge_sdk.db.adopt.run import adopt

__all__ = ["adopt"]
