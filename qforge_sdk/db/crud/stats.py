"""Totals over the whole database."""

from __future__ import annotations

import math

from sqlalchemy.orm import Session

from qforge_sdk.db import statistics
from qforge_sdk.db.crud.rows import UserId, owner_of
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.schemas import DatabaseStatsResponse


@translated()
def get_database_stats(db: Session, user_id: UserId = None) -> DatabaseStatsResponse:
    """Totals over the rows that the reader sees, from what triggers keep counted.

    Parameters
    ----------
    db
        Session.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    DatabaseStatsResponse
        Averages and the exact median leave out what has no number; ``success_rate`` is 0 without calculations.
        ``average_energy`` is the exact sum, rounded once, by the number of energies.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    found = dict(db.execute(statistics.totals(), {"owner": owner_of(user_id)}).mappings().one())
    middle = _halfway(found.pop("gap_below"), found.pop("gap_above"))
    return DatabaseStatsResponse.model_validate(found | {"median_gap": middle})


def _halfway(low: float | None, high: float | None) -> float | None:
    if low is None or high is None:
        return None
    middle = low + (high - low) * 0.5
    return middle if math.isfinite(middle) else low / 2 + high / 2
