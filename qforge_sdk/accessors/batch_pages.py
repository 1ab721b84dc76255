"""What can be read of batches: their items, how far they are, why items failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qforge_sdk.accessors.base import key_of
from qforge_sdk.accessors.batch_lookup import find_batch
from qforge_sdk.accessors.paging import Paged, Part, Request, page_of
from qforge_sdk.accessors.watch import Watch
from qforge_sdk.db.activity import Activity, activity
from qforge_sdk.db.batches import BatchItems, Failure
from qforge_sdk.db.models import ITEM_STATUSES, BatchItem, BatchJob, Calculation
from qforge_sdk.db.pages import Slices
from qforge_sdk.db.work import Work
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import BATCH_ITEMS, BATCHES, CALCULATIONS
from qforge_sdk.filters import whole
from qforge_sdk.query import Query
from qforge_sdk.schemas import BatchJobResponse, Page


class BatchPages(Paged):
    """Batches and their items, to look at."""

    _table = BATCHES
    _record = BatchJobResponse

    def get(self, id: int | str | BatchJobResponse) -> BatchJobResponse:  # noqa: A002
        """One batch as a record.

        Parameters
        ----------
        id
            Its key, its name, or a record of it, which is read again.

        Returns
        -------
        BatchJobResponse
            As it is stored now.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        InvalidInput
            Several batches have that name.
        """
        record: BatchJobResponse = super().get(id)  # type: ignore[arg-type]  # _row() knows names and records
        return record

    def items(self, batch_id: int | str | BatchJobResponse, **options: Any) -> pd.DataFrame:
        """Items of a batch with their molecules.

        Parameters
        ----------
        batch_id
            The batch's key, name or record.
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
        key = self.get(batch_id).id
        query = Query(self._context.reader, BATCH_ITEMS)
        order = options.pop("order_by", "id")
        limit, columns, units = (options.pop(name, None) for name in ("limit", "columns", "units"))
        query = query.where(batch_id=key, **options).limit(limit)
        query = query.order_by(*([order] if isinstance(order, str) else order))
        return (query if columns is None else query.select(columns)).df(units=units)

    def results(self, batch: int | str | BatchJobResponse) -> Query:
        """The calculations of a batch, as far as it is.

        Parameters
        ----------
        batch
            Its key, its name or its record.

        Returns
        -------
        Query
            Of calculations, those that ``reuse`` linked included; one a completed item. Nothing is read until one of
            its endings is called, such as ``results("screen").order_by("-dipole").limit(20).df()`` or
            ``results("screen").to_parquet("screen.parquet")``.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        """
        with self._context.session() as session:
            row = self._row(session, batch)
        linked = select(BatchItem.calculation_id).where(
            BatchItem.batch_id == row.id, BatchItem.user_id == row.user_id, BatchItem.status == "completed"
        )
        return Query(self._context.reader, CALCULATIONS).where(Calculation.id.in_(linked))

    def items_page(
        self,
        batch_id: int | str | BatchJobResponse,
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
            The batch's key, name or record.
        order_by, limit, after, before, count, columns, units, **filters
            As in :meth:`page`. Pages sorted by ``id`` or ``status`` are as fast anywhere among millions; without a
            filter, or filtered by ``status``, their count is exact.

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
        with self._context.session() as session:
            batch = self._row(session, batch_id)
        query = Query(self._context.reader, BATCH_ITEMS).where(**filters)
        request = Request(order_by, limit, after, before, count, units)
        by_status = str(order_by).removeprefix("-") == "status"
        table = BatchItem.__table__
        slices = Slices(table.c.batch_id, batch.id, table.c.status, () if by_status else ITEM_STATUSES)
        return page_of(
            self._context,
            query if columns is None else query.select(columns),
            request,
            filters,
            Part(batch.id, batch.user_id, slices),
        )

    def progress(self, batch_id: int | str | BatchJobResponse) -> pd.Series[int]:
        """Items of a batch counted by status.

        Parameters
        ----------
        batch_id
            The batch's key, name or record.

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
            key = self._row(session, batch_id).id
            counted = dict(
                session.execute(
                    select(BatchItem.status, func.count()).where(BatchItem.batch_id == key).group_by(BatchItem.status)
                ).all()
            )
        counts = {status: counted.get(status, 0) for status in ITEM_STATUSES}
        return pd.Series(counts | {"total": sum(counts.values())}, dtype="int64", name="items")

    def activity(self, batches: Sequence[int]) -> pd.DataFrame:
        """What is going on in several batches, as fast with a million items as with ten.

        Parameters
        ----------
        batches
            Their keys; those of other tenants' batches and of absent ones are left out.

        Returns
        -------
        pandas.DataFrame
            One row a batch, sorted by ``batch_id``: how many items are ``pending``, ``processing``, ``completed``,
            ``failed`` and ``skipped`` (int64), and ``is_computed`` (boolean), whether a run works on some now.

        Raises
        ------
        InvalidInput
            A key is no whole number.
        """
        keys = [key_of(key, self._table.name) for key in batches]
        with self._context.connection() as connection:
            found = activity(connection, keys)
        frame = pd.DataFrame(found, columns=list(Activity._fields))
        return frame.astype(dict.fromkeys(Activity._fields[:-1], "int64") | {"is_computed": "boolean"})

    def may_change(self, batch: BatchJobResponse) -> bool:
        """Whether one may run, retry, cancel or delete a batch: a tenant only reads public ones."""
        return self._context.may_change(batch.user_id)

    def watch(self, batch: int | str | BatchJobResponse, *, interval: float = 1.0) -> Watch:
        """Look at a batch that somebody runs, until it has ended.

        Parameters
        ----------
        batch
            Its key, its name or its record.
        interval
            Seconds between two looks.

        Returns
        -------
        Watch
            ``for now in client.batches.watch("screen"): print(now)``; as the last line of a notebook's cell it shows
            a bar.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        InvalidInput
            ``interval`` is below 0.
        """
        if not interval >= 0:
            raise InvalidInput(f"interval is a number of seconds, not {interval!r}", field="interval", value=interval)
        with self._context.session() as session:
            key = self._row(session, batch).id
        return Watch(lambda: self.get(key), interval=interval)

    def failures(self, batch: int | str | BatchJobResponse, *, among: int | None = None) -> pd.DataFrame:
        """Why items of a batch failed.

        Parameters
        ----------
        batch
            Its key, its name or its record.
        among
            Look only at so many of the items that failed, the first of the batch; None for all. With a million of
            them 10,000 take 20 ms.

        Returns
        -------
        pandas.DataFrame
            One row a code of :data:`qforge_sdk.errors.COMPUTATION_CODES` (``unknown`` where there is none), the most
            frequent first: ``code``, ``items`` (how many), and of the first of them ``item_id``, ``molecule_id``,
            ``smiles``, ``message``.

        Raises
        ------
        NotFound
            No such batch, or it is another tenant's.
        InvalidInput
            ``among`` is no whole number from 1 on.
        """
        if among is not None and (whole(among) or 0) < 1:
            raise InvalidInput(f"among is a whole number from 1 on, not {among!r}", field="among", value=among)
        with self._context.session() as session:
            found = self._items(session, self._row(session, batch)).failures(among=among)
        frame = pd.DataFrame(found, columns=list(Failure._fields))
        return frame.astype(dict.fromkeys(("items", "item_id", "molecule_id"), "int64")).astype(
            dict.fromkeys(("code", "smiles", "message"), "str")
        )

    def _row(self, session: Session, key: object) -> BatchJob:
        return find_batch(self._context, session, key)

    @staticmethod
    def _items(session: Session, row: BatchJob) -> BatchItems:
        return BatchItems(session.connection(), Work(row.id, row.user_id))
