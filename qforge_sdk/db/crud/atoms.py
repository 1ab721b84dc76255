"""Per-atom data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import UserId, owner_of
from qforge_sdk.db.models import AtomicProperty, Calculation
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import InvalidInput
from qforge_sdk.schemas import AtomicPropertyCreate


@translated()
def create_atomic_properties(
    db: Session,
    calc_id: int,
    properties_list: Sequence[AtomicPropertyCreate | Mapping[str, Any]],
    user_id: UserId = None,
) -> list[AtomicProperty]:
    """Store the atoms of a calculation; they belong to its owner.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    calc_id
        Key of the calculation.
    properties_list
        One record or mapping for each atom.
    user_id
        Owner of the calculation; by default whoever the session is.

    Returns
    -------
    list of AtomicProperty
        In the order given.

    Raises
    ------
    NotFound
        The calculation is absent or not the owner's.
    InvalidInput
        An atom cannot be taken, stands twice in the list, or names another calculation.
    Conflict
        An atom of that index is stored already.
    """
    atoms = [_atom(properties, calc_id) for properties in properties_list]
    _require_distinct(atoms)
    owner = rows.require_own(db, Calculation, calc_id, owner_of(user_id)).user_id
    if not atoms:
        return []
    values = [rows.attributes(atom) | {"calculation_id": calc_id, "user_id": owner} for atom in atoms]
    # Asking SQLAlchemy for the order of the list costs one INSERT an atom: the key has no column to sort by.
    stored = {atom.atom_index: atom for atom in db.scalars(insert(AtomicProperty).returning(AtomicProperty), values)}
    return [stored[atom.atom_index] for atom in atoms]


@translated()
def get_atomic_properties_for_calculation(db: Session, calc_id: int, user_id: UserId = None) -> list[AtomicProperty]:
    """Atoms of a calculation, by index.

    Parameters
    ----------
    db
        Session.
    calc_id
        Key of the calculation.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    list of AtomicProperty
        Empty when there are none, or the calculation is another tenant's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    theirs = AtomicProperty.calculation_id == calc_id
    statement = select(AtomicProperty).where(theirs, *rows.visible(AtomicProperty, owner_of(user_id)))
    return list(db.scalars(statement.order_by(AtomicProperty.atom_index)))


def _atom(properties: AtomicPropertyCreate | Mapping[str, Any], calc_id: int) -> AtomicPropertyCreate:
    atom = (
        properties
        if isinstance(properties, AtomicPropertyCreate)
        else rows.as_record(AtomicPropertyCreate, properties)
    )
    if atom.calculation_id not in (None, calc_id):
        raise InvalidInput(
            f"atom {atom.atom_index} names calculation {atom.calculation_id}, not {calc_id}",
            field="calculation_id",
            value=atom.calculation_id,
        )
    return atom


def _require_distinct(atoms: Sequence[AtomicPropertyCreate]) -> None:
    seen: set[int] = set()
    for atom in atoms:
        if atom.atom_index in seen:
            raise InvalidInput(
                f"atom_index {atom.atom_index} stands twice in the list", field="atom_index", value=atom.atom_index
            )
        seen.add(atom.atom_index)
