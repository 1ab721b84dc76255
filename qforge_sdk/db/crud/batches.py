"""Batches and their items."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, inspect, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import Owner, UserId, owner_of
from qforge_sdk.db.models import BATCH_STATUSES, ITEM_STATUSES, BatchItem, BatchJob, Calculation, Molecule
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import Conflict, InvalidInput
from qforge_sdk.schemas import BatchItemCreate, BatchJobCreate

_RUNNING = ("in_progress", "processing")
_WAITING = "pending"


@translated()
def create_batch_job(db: Session, batch: BatchJobCreate, user_id: UserId = None) -> BatchJob:
    """Store a batch; its name may be taken already.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    batch
        Name, description, parameters.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    BatchJob
        As it is stored, ``pending``.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    return rows.add(db, BatchJob(**rows.attributes(batch), **rows.owner_values(owner_of(user_id))))


@translated()
def get_batch_job(db: Session, batch_id: int, user_id: UserId = None) -> BatchJob | None:
    """Batch by its key.

    Parameters
    ----------
    db
        Session.
    batch_id
        Its key.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    BatchJob or None
        None when it is absent or another tenant's.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    return rows.find(db, BatchJob, batch_id, owner_of(user_id))


@translated()
def list_batch_jobs(
    db: Session, status: str | None = None, skip: int = 0, limit: int = 100, user_id: UserId = None
) -> tuple[list[BatchJob], int]:
    """Batches, newest first.

    Parameters
    ----------
    db
        Session.
    status
        Only those of this status.
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
        There is no such status, or ``skip`` or ``limit`` is below zero.
    """
    conditions = [] if status is None else [BatchJob.status == rows.one_of(status, BATCH_STATUSES, field="status")]
    return rows.newest(db, BatchJob, conditions, skip=skip, limit=limit, owner=owner_of(user_id))


@translated()
def update_batch_job_status(db: Session, batch_id: int, status: str, user_id: UserId = None) -> BatchJob | None:
    """Set the status of a batch, and when it began or ended.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    batch_id
        Its key.
    status
        ``pending``, ``in_progress``, ``completed`` or ``failed``.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    BatchJob or None
        None when it is absent or not the owner's.

    Raises
    ------
    InvalidInput
        There is no such status.
    """
    rows.one_of(status, BATCH_STATUSES, field="status")
    batch = rows.find_own(db, BatchJob, batch_id, owner_of(user_id))
    return None if batch is None else rows.change(db, batch, {"status": status} | _clock(batch, status))


@translated()
def create_batch_item(db: Session, item: BatchItemCreate, user_id: UserId = None) -> BatchItem:
    """Put a molecule into a batch; the item belongs to the batch's owner.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    item
        Batch and molecule; the database counts it in the batch.
    user_id
        Owner of the batch; by default whoever the session is.

    Returns
    -------
    BatchItem
        As it is stored.

    Raises
    ------
    NotFound
        The batch is absent or not the owner's, or the molecule or calculation is absent or another tenant's.
    InvalidInput
        The calculation is another molecule's.
    Conflict
        The molecule is in the batch already; ``existing_id`` is its item. The session goes on.
    """
    batch = rows.require_own(db, BatchJob, item.batch_id, owner_of(user_id))
    # What the item points at must be visible to its owner, whoever writes it.
    rows.require_visible(db, Molecule, item.molecule_id, batch.user_id)
    if item.calculation_id is not None:
        _require_calculation(db, item.calculation_id, molecule_id=item.molecule_id, owner=batch.user_id)
    values = rows.attributes(item) | {"user_id": batch.user_id}
    statement = insert(BatchItem).values(values).on_conflict_do_nothing(constraint="batch_items_key")
    stored = db.scalars(statement.returning(BatchItem)).one_or_none()
    if stored is None:
        raise _in_batch_already(db, item)
    db.refresh(batch)
    return stored


@translated()
def get_batch_items(db: Session, batch_id: int, status: str | None = None, user_id: UserId = None) -> list[BatchItem]:
    """Items of a batch, in the order in which they were put into it.

    Parameters
    ----------
    db
        Session.
    batch_id
        Key of the batch.
    status
        Only those of this status.
    user_id
        Reader; by default whoever the session is.

    Returns
    -------
    list of BatchItem
        Empty when there are none, or the batch is another tenant's.

    Raises
    ------
    InvalidInput
        There is no such status.
    """
    statement = select(BatchItem).where(BatchItem.batch_id == batch_id, *rows.visible(BatchItem, owner_of(user_id)))
    if status is not None:
        statement = statement.where(BatchItem.status == rows.one_of(status, ITEM_STATUSES, field="status"))
    return list(db.scalars(statement.order_by(BatchItem.id)))


@translated()
def update_batch_item_status(
    db: Session,
    item_id: int,
    status: str,
    calculation_id: int | None = None,
    error_message: str | None = None,
    user_id: UserId = None,
) -> BatchItem | None:
    """Set the status of an item, and when it began or ended.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    item_id
        Its key.
    status
        ``pending``, ``processing``, ``completed``, ``failed`` or ``skipped``.
    calculation_id
        The result; None leaves what is stored.
    error_message
        Why it failed; None leaves what is stored, except that ``completed`` clears it. A code that is stored was of
        another reason and goes with either.
    user_id
        Owner; by default whoever the session is.

    Returns
    -------
    BatchItem or None
        None when it is absent or not the owner's.

    Raises
    ------
    InvalidInput
        There is no such status, or the calculation is another molecule's.
    NotFound
        The calculation is absent or another tenant's.
    """
    rows.one_of(status, ITEM_STATUSES, field="status")
    item = rows.find_own(db, BatchItem, item_id, owner_of(user_id))
    if item is None:
        return None
    values: dict[str, Any] = {"status": status} | _clock(item, status)
    if calculation_id is not None:
        _require_calculation(db, calculation_id, molecule_id=item.molecule_id, owner=item.user_id)
        values["calculation_id"] = calculation_id
    if error_message is not None or status == "completed":
        values |= {"error_message": error_message, "error_code": None}
    rows.change(db, item, values)
    _refresh_batch(db, item.batch_id)
    return item


def _clock(row: BatchJob | BatchItem, status: str) -> dict[str, Any]:
    """Times that go with a status: a row that runs again has no end, one that waits again has no beginning either."""
    # now() stands still within a transaction; these two tell how long something took.
    moment = func.clock_timestamp()
    if status == _WAITING:
        return {"started_at": None, "completed_at": None}
    if status in _RUNNING:
        return {"started_at": row.started_at or moment, "completed_at": None}
    return {"completed_at": row.completed_at or moment}


def _require_calculation(db: Session, calculation_id: int, *, molecule_id: int, owner: Owner) -> None:
    calculation = rows.find(db, Calculation, calculation_id, owner)
    if calculation is None:
        raise rows.not_found(Calculation, calculation_id)
    if calculation.molecule_id != molecule_id:
        raise InvalidInput(
            f"calculation {calculation_id} is of molecule {calculation.molecule_id}, the item of {molecule_id}",
            field="calculation_id",
            value=calculation_id,
        )


def _in_batch_already(db: Session, item: BatchItemCreate) -> Conflict:
    existing = db.scalar(
        select(BatchItem.id).where(BatchItem.batch_id == item.batch_id, BatchItem.molecule_id == item.molecule_id)
    )
    return Conflict(
        f"molecule {item.molecule_id} is in batch {item.batch_id} already, as item {existing}",
        existing_id=existing,
        constraint="batch_items_key",
    )


def _refresh_batch(db: Session, batch_id: int) -> None:
    """Let a batch that the session holds show its counts and status, which the database changed."""
    held = db.identity_map.get(inspect(BatchJob).identity_key_from_primary_key((batch_id,)))
    if held is not None:
        db.refresh(held)
