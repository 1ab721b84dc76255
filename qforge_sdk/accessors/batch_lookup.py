"""A batch by its key, its name or its record."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from qforge_sdk.accessors.base import Context, key_of, not_found
from qforge_sdk.db.models import BatchJob
from qforge_sdk.errors import InvalidInput, NotFound
from qforge_sdk.schemas import BatchJobResponse


def find_batch(context: Context, session: Session, batch: object) -> BatchJob:
    """The batch that is meant.

    Parameters
    ----------
    context
        Whose name it is: of batches of one name one's own comes before others'.
    session
        In a transaction.
    batch
        Its key, its name or its record.

    Returns
    -------
    BatchJob
        The row.

    Raises
    ------
    NotFound
        No such batch, or it is another tenant's.
    InvalidInput
        Several have that name, or it is neither name nor key.
    """
    if not isinstance(batch, str):
        key = batch.id if isinstance(batch, BatchJobResponse) else batch
        row = session.get(BatchJob, key_of(key, "batch_jobs"))
        # A record of another database has another's key.
        if row is None or (isinstance(batch, BatchJobResponse) and row.batch_name != batch.batch_name):
            raise not_found(BatchJob, key)
        return row
    if "\0" in batch or batch != batch.encode("utf-8", "replace").decode():
        # PostgreSQL holds no such text.
        raise NotFound(f"there is no batch {batch!r}", entity="batch_jobs", key=batch)
    named = session.scalars(select(BatchJob).where(BatchJob.batch_name == batch).order_by(BatchJob.id)).all()
    found = [row for row in named if row.user_id == context.tenant] or named
    if not found:
        raise NotFound(f"there is no batch {batch!r}", entity="batch_jobs", key=batch)
    if len(found) > 1:
        keys = ", ".join(str(row.id) for row in found[:10])
        raise InvalidInput(f"several batches are named {batch!r}: give a key, {keys}", field="batch", value=batch)
    return found[0]
