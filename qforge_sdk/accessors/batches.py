"""``client.batches``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from qforge_sdk.accessors.paging import Paged, Request, page_of
from qforge_sdk.db import bulk, crud
from qforge_sdk.db.crud.rows import as_record
from qforge_sdk.db.models import ITEM_STATUSES, BatchItem, BatchJob
from qforge_sdk.errors import DuplicateBatch, InvalidInput
from qforge_sdk.fields import BATCH_ITEMS, BATCHES
from qforge_sdk.query import Query
from qforge_sdk.schemas import BatchJobCreate, BatchJobResponse, Page


class Batches(Paged):
    """Named sets of molecules that are computed with the same parameters."""

    _table = BATCHES
    _record = BatchJobResponse

    def create(
        self,
        name: str,
        *,
        molecules: Any = (),
        parameters: dict[str, Any] | None = None,
        description: str | None = None,
        exist_ok: bool = False,
        shared: bool = False,
    ) -> BatchJobResponse:
        """Store a batch and its items.

        Parameters
        ----------
        name
            Unique among your batches.
        molecules
            A frame with a column ``molecule_id`` (or ``id``) or ``smiles``, or a list of keys or of SMILES; new
            structures are registered. A molecule that stands twice is one item.
        parameters
            What is to be computed, such as ``{"method": "GFN2-xTB"}``.
        description
            Free text.
        exist_ok
            Return the stored batch instead of raising when the name is taken; its items stay as they are.
        shared
            Everybody shall read it (service login only).

        Returns
        -------
        BatchJobResponse
            The stored record; ``total_molecules`` counts its items.

        Raises
        ------
        DuplicateBatch
            The name is taken.
        RowsRejected
            A SMILES was refused; nothing is stored.
        NotFound
            A molecule is absent or another tenant's.
        InvalidInput
            ``molecules`` has neither keys nor SMILES.
        """
        owner = self._context.owner(shared=shared)
        record = as_record(
            BatchJobCreate, {"batch_name": name, "description": description, "parameters": parameters or {}}
        )
        with self._context.session() as session:
            # The name is unique by this lock, not by an index: old databases hold repeated names. Everybody may see
            # the key of an advisory lock, so the name is no part of it.
            session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"batches {owner}", 0))))
            stored = session.scalars(
                select(BatchJob)
                .where(BatchJob.batch_name == name, BatchJob.user_id.is_not_distinct_from(owner))
                .order_by(BatchJob.id)
                .limit(1)
            ).first()
            if stored is not None:
                if exist_ok:
                    return BatchJobResponse.model_validate(stored)
                raise DuplicateBatch(
                    f"batch {name!r} is stored already as {stored.id}; exist_ok=True returns it",
                    existing_id=stored.id,
                )
            row = crud.create_batch_job(session, record, user_id=owner)
            keys = _molecule_keys(session, molecules, owner)
            if keys:
                session.execute(
                    insert(BatchItem), [{"batch_id": row.id, "molecule_id": key, "user_id": owner} for key in keys]
                )
            row.total_molecules = len(keys)
            session.flush()
            session.refresh(row)
            return BatchJobResponse.model_validate(row)

    def items(self, batch_id: int, **options: Any) -> pd.DataFrame:
        """Items of a batch with their molecules.

        Parameters
        ----------
        batch_id
            Key of the batch.
        **options
            Filters and options of ``query``, such as ``status="failed"``, ``limit=50``.

        Returns
        -------
        pandas.DataFrame
            One row an item, in the order of the batch unless ``order_by`` says otherwise.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        """
        self.get(batch_id)
        query = Query(self._context.reader, BATCH_ITEMS)
        order = options.pop("order_by", "id")
        limit, columns, units = (options.pop(name, None) for name in ("limit", "columns", "units"))
        query = query.where(batch_id=batch_id, **options).limit(limit)
        query = query.order_by(*([order] if isinstance(order, str) else order))
        return (query if columns is None else query.select(columns)).df(units=units)

    def items_page(
        self,
        batch_id: int,
        *,
        order_by: str = "id",
        limit: int = 24,
        after: str | None = None,
        before: str | None = None,
        count: bool = True,
        columns: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        **filters: Any,
    ) -> Page:
        """One page of the items of a batch with their molecules.

        Parameters
        ----------
        batch_id
            Key of the batch.
        order_by, limit, after, before, count, columns, units, **filters
            As in :meth:`page`. Without a filter, or filtered by ``status``, pages sorted by ``id`` are as fast
            anywhere and their count is exact.

        Returns
        -------
        Page
            One row an item.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        UnknownField
            No such column.
        InvalidInput
            A filter or option cannot be used, or a token is not of a page sorted like this.
        """
        batch = self.get(batch_id)
        query = Query(self._context.reader, BATCH_ITEMS).where(batch_id=batch.id, **filters)
        request = Request(order_by, limit, after, before, count, units)
        return page_of(
            self._context, query if columns is None else query.select(columns), request, filters, cell=batch.id
        )

    def progress(self, batch_id: int) -> pd.Series[int]:
        """Items of a batch counted by status.

        Parameters
        ----------
        batch_id
            Key of the batch.

        Returns
        -------
        pandas.Series
            int64, indexed by every status word, and ``total``.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        """
        with self._context.session() as session:
            self._row(session, batch_id)
            counted = dict(
                session.execute(
                    select(BatchItem.status, func.count())
                    .where(BatchItem.batch_id == batch_id)
                    .group_by(BatchItem.status)
                ).all()
            )
        counts = {status: counted.get(status, 0) for status in ITEM_STATUSES}
        return pd.Series(counts | {"total": sum(counts.values())}, dtype="int64", name="items")

    def update(self, id: int, *, status: str) -> BatchJobResponse:  # noqa: A002
        """Set the status of a batch; its start and end times follow.

        Parameters
        ----------
        id
            Its key.
        status
            pending, in_progress, completed or failed.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to change.
        InvalidInput
            No such status.
        """
        with self._context.session() as session:
            self._own_row(session, id)
            return BatchJobResponse.model_validate(crud.update_batch_job_status(session, id, status))


def _molecule_keys(session: Session, molecules: Any, owner: Any) -> list[int]:
    """Keys of the molecules, each once, new structures registered on the way."""
    if isinstance(molecules, pd.DataFrame):
        for column in ("molecule_id", "id", "smiles"):
            if column in molecules:
                values = molecules[column].tolist()
                break
        else:
            raise InvalidInput("molecules: the frame needs a column molecule_id, id or smiles", field="molecules")
    elif isinstance(molecules, (str, bytes)) or not isinstance(molecules, (Sequence, pd.Series)):
        raise InvalidInput(
            "molecules is a DataFrame, a list of keys or a list of SMILES", field="molecules", value=molecules
        )
    else:
        values = list(molecules)
    if any(isinstance(value, str) for value in values):
        report = bulk.load_molecules(
            session.connection(), pd.DataFrame({"smiles": values}), owner=owner, on_error="raise"
        )
        values = report.ids.tolist()
    return list(dict.fromkeys(int(value) for value in values))
