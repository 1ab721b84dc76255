"""Results that complete the items of a batch."""

from __future__ import annotations

import uuid
from typing import Final

import pyarrow as pa
from psycopg2.sql import SQL, Literal
from sqlalchemy import BigInteger, Column

from qforge_sdk.db.bulk.structures import IntArray, owned_by
from qforge_sdk.db.bulk.write import Writer
from qforge_sdk.errors import NotFound

_KEY: Final = Column("key", BigInteger)

_COMPLETE = """
INSERT INTO public.batch_items (user_id, batch_id, molecule_id, status, calculation_id, started_at, completed_at)
SELECT DISTINCT ON (c.molecule_id) {owner}::uuid, {batch}, c.molecule_id,
       CASE c.convergence_status WHEN 'converged' THEN 'completed' ELSE 'failed' END, c.id, now(), now()
FROM {keys} AS k JOIN public.calculations AS c ON c.id = k.key
ORDER BY c.molecule_id, c.convergence_status = 'converged' DESC, c.id DESC
ON CONFLICT ON CONSTRAINT batch_items_key DO UPDATE
SET status = excluded.status, calculation_id = excluded.calculation_id, error_message = NULL, error_code = NULL,
    completed_at = excluded.completed_at
"""


def require_batch(writer: Writer, batch_id: int, owner: uuid.UUID | None) -> None:
    """Return if the batch is this owner's.

    Raises
    ------
    NotFound
        It is not there, or another's.
    """
    found = writer.fetch(
        SQL("SELECT 1 FROM public.batch_jobs AS b WHERE b.id = {batch} AND {own}"),
        batch=Literal(batch_id),
        own=owned_by(owner, "b"),
    )
    if not found:
        raise NotFound(f"batch_jobs has no row {batch_id!r}", entity="batch_jobs", key=batch_id)


def complete_items(writer: Writer, batch_id: int, owner: uuid.UUID | None, calculations: IntArray) -> None:
    """Link calculations to the items of their molecules; items that were not there are added.

    Parameters
    ----------
    writer
        Of the load.
    batch_id
        The batch.
    owner
        Owner of the batch.
    calculations
        Keys of the loaded calculations; of several for one molecule the last converged one counts.
    """
    keys = writer.temporary([_KEY], [pa.table({"key": calculations})])
    names = {"batch": Literal(batch_id), "keys": keys, "owner": Literal(None if owner is None else str(owner))}
    with writer.cursor as cursor:
        cursor.execute(SQL(_COMPLETE).format(**names))
