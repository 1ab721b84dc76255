"""Totals over the whole database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, ScalarSelect, cast, func, select
from sqlalchemy.orm import Session

from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import Owner, UserId, owner_of
from qforge_sdk.db.models import BatchJob, Calculation, Molecule
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.schemas import DatabaseStatsResponse


@translated()
def get_database_stats(db: Session, user_id: UserId = None) -> DatabaseStatsResponse:
    """Totals over the rows that the reader sees, computed by the server in one statement.

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

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    owner = owner_of(user_id)
    total = func.count()
    converged = total.filter(Calculation.convergence_status == "converged")
    statement = select(
        _count(Molecule, owner).label("total_molecules"),
        total.label("total_calculations"),
        _count(BatchJob, owner).label("total_batches"),
        func.avg(Calculation.energy).label("average_energy"),
        func.percentile_cont(0.5).within_group(Calculation.gap).label("median_gap"),
        func.coalesce(100.0 * cast(converged, Double) / func.nullif(total, 0), 0.0).label("success_rate"),
        func.max(Calculation.created_at).label("latest_calculation_at"),
    ).where(*rows.visible(Calculation, owner))
    return DatabaseStatsResponse.model_validate(dict(db.execute(statement).mappings().one()))


def _count(model: type[Molecule] | type[BatchJob], owner: Owner) -> ScalarSelect[Any]:
    return select(func.count()).select_from(model).where(*rows.visible(model, owner)).scalar_subquery()
