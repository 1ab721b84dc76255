"""Molecules."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Final

from sqlalchemy import case, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from qforge_sdk.chem import ValidatedMolecule, validate_smiles
from qforge_sdk.chem.formula import composition
from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import UserId, owner_of
from qforge_sdk.db.fingerprint import bit_text
from qforge_sdk.db.models import PUBLIC_USER_ID, BatchItem, Calculation, Molecule
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import DuplicateMolecule, InvalidInput
from qforge_sdk.schemas import MoleculeCreate, MoleculeUpdate


@translated()
def create_molecule(db: Session, molecule: MoleculeCreate, user_id: UserId = None) -> Molecule:
    """Store a molecule under its canonical SMILES.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    molecule
        Any spelling of its SMILES.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    Molecule
        As it is stored.

    Raises
    ------
    InvalidSmiles
        RDKit or this package refuses the SMILES.
    InvalidInput
        The given formula disagrees with the SMILES.
    DuplicateMolecule
        The owner has it already, perhaps by another spelling; ``existing_id`` says which. The session goes on.
    """
    valid = validate_smiles(molecule.smiles)
    _require_formula(molecule.formula, valid)
    values = _values_of(molecule, valid) | rows.owner_values(owner_of(user_id))
    # Waits for a concurrent insert of the same molecule and, unlike an error, leaves the transaction usable.
    statement = insert(Molecule).values(values).on_conflict_do_nothing(constraint="molecules_identity")
    stored = db.scalars(statement.returning(Molecule)).one_or_none()
    if stored is None:
        raise _duplicate(db, valid.smiles, owner_of(user_id))
    return stored


@translated()
def get_molecule(db: Session, molecule_id: int, user_id: UserId = None) -> Molecule | None:
    """Molecule by its key.

    Parameters
    ----------
    db
        Session.
    molecule_id
        Its key.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    Molecule or None
        None when it is absent or another tenant's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    return rows.find(db, Molecule, molecule_id, owner_of(user_id))


@translated()
def get_molecule_by_smiles(db: Session, smiles: str, user_id: UserId = None) -> Molecule | None:
    """Molecule by any spelling of its SMILES: the reader's own first, then the public one.

    Parameters
    ----------
    db
        Session.
    smiles
        Any spelling.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    Molecule or None
        None when the reader sees no such molecule.

    Raises
    ------
    InvalidSmiles
        It is no SMILES.
    """
    reader = owner_of(user_id) or select(func.qforge.current_user_id()).scalar_subquery()
    nearness = case(
        (Molecule.user_id == reader, 0),
        (Molecule.user_id.is_(None), 1),
        (Molecule.user_id == PUBLIC_USER_ID, 2),
        else_=3,
    )
    statement = (
        select(Molecule)
        .where(Molecule.identity_hash == identity_hash(validate_smiles(smiles).smiles))
        .where(*rows.visible(Molecule, owner_of(user_id)))
        .order_by(nearness, Molecule.id)
        .limit(1)
    )
    return db.scalars(statement).one_or_none()


@translated()
def list_molecules(
    db: Session, skip: int = 0, limit: int = 100, user_id: UserId = None
) -> tuple[list[Molecule], int]:
    """Molecules, newest first.

    Parameters
    ----------
    db
        Session.
    skip, limit
        Which page.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    tuple of list and int
        The page, and the number of all.

    Raises
    ------
    InvalidInput
        ``skip`` or ``limit`` is below zero.
    """
    return rows.newest(db, Molecule, [], skip=skip, limit=limit, owner=owner_of(user_id))


@translated()
def update_molecule(
    db: Session, molecule_id: int, update_data: MoleculeUpdate, user_id: UserId = None
) -> Molecule | None:
    """Change the fields that are set in ``update_data``.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    molecule_id
        Its key.
    update_data
        Fields that are left out stay as they are.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    Molecule or None
        None when it is absent or not the owner's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    molecule = rows.find_own(db, Molecule, molecule_id, owner_of(user_id))
    if molecule is None:
        return None
    return rows.change(db, molecule, rows.attributes(update_data, only_set=True))


@translated()
def delete_molecule(db: Session, molecule_id: int, user_id: UserId = None) -> bool:
    """Delete a molecule with its calculations, their atoms and its batch items.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    molecule_id
        Its key.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    bool
        False when it is absent or not the owner's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    molecule = rows.find_own(db, Molecule, molecule_id, owner_of(user_id))
    if molecule is None:
        return False
    db.delete(molecule)
    db.flush()
    return True


@translated()
def assign_smiles(
    db: Session,
    molecule_id: int,
    smiles: str,
    *,
    merge: bool = False,
    check: bool = True,
    user_id: UserId = None,
) -> Molecule | None:
    """Settle a molecule that was stored without a SMILES.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    molecule_id
        Its key.
    smiles
        Of the same formula and charge, as far as these are known: of a molecule that the old database module stored
        under a text that is no SMILES the charge is not, and the formula only where it can be read.
    merge
        Where a molecule of that SMILES is stored: hand calculations and batch items over to it and delete this one.
        An item of a batch that has one for the other molecule too goes with it; the audit trail keeps what it was.
    check
        Compare formula and charge; False where the stored ones are wrong.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    Molecule or None
        The molecule that has the SMILES now; None when ``molecule_id`` is absent or not the owner's.

    Raises
    ------
    InvalidSmiles
        It is no SMILES.
    InvalidInput
        The molecule has a SMILES, or another formula or charge.
    DuplicateMolecule
        The SMILES is stored already and ``merge`` is False.
    """
    molecule = rows.find_own(db, Molecule, molecule_id, owner_of(user_id))
    if molecule is None:
        return None
    if molecule.smiles is not None:
        raise InvalidInput(f"molecule {molecule_id} has a SMILES: {molecule.smiles}", field="smiles", value=smiles)
    valid = validate_smiles(smiles)
    if check:
        _require_same_atoms(molecule, valid)
    same = db.scalars(
        select(Molecule).where(
            Molecule.identity_hash == identity_hash(valid.smiles),
            Molecule.user_id.is_not_distinct_from(molecule.user_id),
        )
    ).one_or_none()
    if same is None:
        values = _values_of(MoleculeCreate(smiles=valid.smiles), valid)
        return rows.change(db, molecule, {name: values[name] for name in values if name not in {"name", "metadata_"}})
    if not merge:
        raise _duplicate(db, valid.smiles, molecule.user_id)
    db.execute(update(Calculation).where(Calculation.molecule_id == molecule_id).values(molecule_id=same.id))
    _hand_items_over(db, molecule_id, same.id)
    if same.graph_hash is None:
        # Later runs of the same graph find it.
        rows.change(db, same, {"graph_hash": molecule.graph_hash})
    db.expire(molecule)
    db.delete(molecule)
    db.flush()
    return same


def _require_same_atoms(molecule: Molecule, valid: ValidatedMolecule) -> None:
    """Compare what is known of a molecule without a SMILES with one that it shall have."""
    adopted = molecule.metadata_.get("adopted")
    unknown = adopted.get("unknown", ()) if isinstance(adopted, dict) else ()
    same = {
        "formula": composition(molecule.formula) == composition(valid.formula),
        "charge": molecule.charge == valid.charge,
    }
    for name, agrees in same.items():
        if name not in unknown and not agrees:
            raise InvalidInput(
                f"{name} of {valid.input_smiles!r} is {getattr(valid, name)}, of the molecule "
                f"{getattr(molecule, name)}; where that is wrong: check=False",
                field="smiles",
                value=valid.input_smiles,
                code=f"{name}_mismatch",
            )


def _hand_items_over(db: Session, molecule_id: int, other_id: int) -> None:
    """Put a molecule's batch items anew, for another: a tenant may not move an item to another molecule."""
    other = aliased(BatchItem)
    taken = exists().where(other.batch_id == BatchItem.batch_id, other.molecule_id == other_id)
    kept = [column for column in BatchItem.__table__.c if column.name in _HANDED_OVER]
    moved = select(literal(other_id), *kept).where(BatchItem.molecule_id == molecule_id, ~taken)
    db.execute(insert(BatchItem).from_select(["molecule_id", *(column.name for column in kept)], moved))


_HANDED_OVER: Final = frozenset(
    {
        "user_id", "batch_id", "status", "calculation_id", "error_message", "error_code", "retry_count", "metadata",
        "started_at", "completed_at", "lease_token", "lease_holder", "lease_expires_at",
    }
)  # fmt: skip


def identity_hash(canonical_smiles: str) -> bytes:
    """What the database computes as ``identity_hash`` of a molecule with this canonical SMILES."""
    return hashlib.sha256(canonical_smiles.encode()).digest()


def _values_of(molecule: MoleculeCreate, valid: ValidatedMolecule) -> dict[str, Any]:
    return {
        "name": molecule.name,
        "smiles": valid.smiles,
        "formula": valid.formula,
        "charge": valid.charge,
        "inchikey": valid.inchikey,
        "fingerprint": bit_text(valid.fingerprint),
        "fingerprint_popcount": valid.fingerprint_popcount,
        "input_smiles": valid.input_smiles,
        "rdkit_version": valid.rdkit_version,
        "metadata_": molecule.metadata,
    }


def _require_formula(given: str | None, valid: ValidatedMolecule) -> None:
    if given is not None and composition(given) != composition(valid.formula):
        raise InvalidInput(
            f"formula {given!r} disagrees with the SMILES {valid.input_smiles!r}, which is {valid.formula}; "
            "leave it out to have it computed",
            field="formula",
            value=given,
            code="formula_mismatch",
        )


def _duplicate(db: Session, smiles: str, owner: uuid.UUID | None) -> DuplicateMolecule:
    owner = owner or rows.session_owner(db)
    existing = db.scalar(
        select(Molecule.id).where(Molecule.user_id == owner, Molecule.identity_hash == identity_hash(smiles))
    )
    return DuplicateMolecule(
        f"molecule {smiles} is stored already, as id {existing}",
        existing_id=existing,
        constraint="molecules_identity",
    )
