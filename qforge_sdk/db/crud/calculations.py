"""Calculations."""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute, Session

from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import Owner, UserId, owner_of
from qforge_sdk.db.models import Calculation, Molecule
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.schemas import CalculationCreate


@translated()
def create_calculation(db: Session, calc: CalculationCreate, user_id: UserId = None) -> Calculation:
    """Store an xTB result.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    calc
        The result, in the units of :mod:`qforge_sdk.quantities`.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    Calculation
        As it is stored.

    Raises
    ------
    NotFound
        The molecule is absent or another tenant's.
    Conflict
        The owner has a calculation of that ``source_id``.
    """
    rows.require_visible(db, Molecule, calc.molecule_id, owner_of(user_id))
    return rows.add(db, Calculation(**rows.attributes(calc), **rows.owner_values(owner_of(user_id))))


@translated()
def get_calculation(db: Session, calc_id: int, user_id: UserId = None) -> Calculation | None:
    """Calculation by its key.

    Parameters
    ----------
    db
        Session.
    calc_id
        Its key.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    Calculation or None
        None when it is absent or another tenant's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    return rows.find(db, Calculation, calc_id, owner_of(user_id))


@translated()
def list_calculations(
    db: Session, molecule_id: int | None = None, skip: int = 0, limit: int = 100, user_id: UserId = None
) -> tuple[list[Calculation], int]:
    """Calculations, newest first.

    Parameters
    ----------
    db
        Session.
    molecule_id
        Only this molecule's.
    skip, limit
        Which page.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    tuple of list and int
        The page, and the number of all that match.

    Raises
    ------
    InvalidInput
        ``skip`` or ``limit`` is below zero.
    """
    conditions = [] if molecule_id is None else [Calculation.molecule_id == molecule_id]
    return rows.newest(db, Calculation, conditions, skip=skip, limit=limit, owner=owner_of(user_id))


@translated()
def get_calculations_by_energy_range(
    db: Session, min_energy: float | None, max_energy: float | None, limit: int = 1000, user_id: UserId = None
) -> list[Calculation]:
    """Calculations whose energy lies in a closed range, lowest first.

    Parameters
    ----------
    db
        Session.
    min_energy, max_energy
        Hartree; None for an open end.
    limit
        How many at most.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    list of Calculation
        Ordered by energy, then key.

    Raises
    ------
    InvalidInput
        ``limit`` is below zero.
    """
    return _in_range(db, Calculation.energy, (min_energy, max_energy), limit=limit, owner=owner_of(user_id))


@translated()
def get_calculations_by_gap_range(
    db: Session, min_gap: float | None, max_gap: float | None, limit: int = 1000, user_id: UserId = None
) -> list[Calculation]:
    """Calculations whose HOMO-LUMO gap lies in a closed range, lowest first.

    Parameters
    ----------
    db
        Session.
    min_gap, max_gap
        eV; None for an open end.
    limit
        How many at most.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    list of Calculation
        Ordered by gap, then key.

    Raises
    ------
    InvalidInput
        ``limit`` is below zero.
    """
    return _in_range(db, Calculation.gap, (min_gap, max_gap), limit=limit, owner=owner_of(user_id))


def _in_range(
    db: Session,
    column: InstrumentedAttribute[float | None],
    bounds: tuple[float | None, float | None],
    *,
    limit: int,
    owner: Owner,
) -> list[Calculation]:
    conditions: list[ColumnElement[bool]] = [column.is_not(None)]
    low, high = bounds
    if low is not None:
        conditions.append(column >= low)
    if high is not None:
        conditions.append(column <= high)
    order = [(column, False), (Calculation.id, False)]
    return rows.page(db, Calculation, conditions, order, limit=limit, owner=owner)
