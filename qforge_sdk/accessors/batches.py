"""``client.batches``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from qforge_sdk import program_events
from qforge_sdk.accessors.base import key_of
from qforge_sdk.accessors.batch_molecules import molecule_keys
from qforge_sdk.accessors.batch_pages import BatchPages
from qforge_sdk.compute import Engine, Parameters
from qforge_sdk.compute.parameters import read_parameters
from qforge_sdk.db import crud
from qforge_sdk.db.batches import ABANDONED, CANCELLED, UNKNOWN
from qforge_sdk.db.crud.rows import as_record, one_of
from qforge_sdk.db.models import BatchItem, BatchJob
from qforge_sdk.db.results import insert_events
from qforge_sdk.db.work import Work
from qforge_sdk.errors import COMPUTATION_CODES, DuplicateBatch, InvalidInput
from qforge_sdk.schemas import BatchJobCreate, BatchJobResponse, BatchReport

_CODES: Final = (*COMPUTATION_CODES, CANCELLED, ABANDONED, UNKNOWN)
_USUAL: Final = {
    f"usual_{name}": getattr(Parameters(), attribute)
    for name, attribute in (("accuracy", "accuracy"), ("temperature", "electronic_temperature"))
}


class Batches(BatchPages):
    """Named sets of molecules that are computed with the same parameters."""

    def create(
        self,
        name: str,
        *,
        molecules: Any = (),
        parameters: dict[str, Any] | None = None,
        description: str | None = None,
        reuse: bool = False,
        exist_ok: bool = False,
        shared: bool = False,
    ) -> BatchJobResponse:
        """Store a batch and its items.

        Parameters
        ----------
        name
            Unique among your batches.
        molecules
            A list of keys or of SMILES; or a DataFrame, a :class:`~qforge_sdk.Query`, a file or other rows as bulk
            loads take them, with a column ``molecule_id`` or ``smiles``, or ``id`` beside the latter. New structures
            are registered, under their ``name`` where there is such a column. A molecule that stands twice is one
            item.
        parameters
            What is to be computed, such as ``{"method": "GFN2-xTB"}``: fields of
            :class:`qforge_sdk.compute.Parameters`.
        description
            Free text.
        reuse
            Complete items whose molecule has a result already: converged, yours or public, of the molecule's charge,
            of the same method, solvation, accuracy and electronic temperature, optimised or not as the parameters
            say. The newest is linked.
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
            ``molecules`` has neither keys nor SMILES, or there is no such parameter.
        """
        owner = self._context.owner(shared=shared)
        wanted = read_parameters(parameters or {})
        record = as_record(
            BatchJobCreate, {"batch_name": name, "description": description, "parameters": parameters or {}}
        )
        with self._context.session() as session:
            # The name is unique by this lock, not by an index: old databases hold repeated names. Everybody may see
            # the key of an advisory lock, so the name is no part of it.
            _take_turns(session, f"batches {owner}")
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
            self._put(session, row, molecules, wanted if reuse else None)
            session.refresh(row)
            return BatchJobResponse.model_validate(row)

    def add(self, batch: int | str | BatchJobResponse, molecules: Any, *, reuse: bool = False) -> int:
        """Put more molecules into a batch; a run that is at work computes them too.

        Parameters
        ----------
        batch
            Its key, its name or its record.
        molecules, reuse
            As in :meth:`create`.

        Returns
        -------
        int
            How many were not in the batch before; of those that were, the items stay as they are.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to change; or a molecule is absent or another tenant's.
        RowsRejected
            A SMILES was refused; nothing is stored.
        InvalidInput
            ``molecules`` has neither keys nor SMILES.
        """
        with self._context.session() as session:
            row = self._own_row(session, batch)
            # Two that add the same molecules in other orders would wait for each other.
            _take_turns(session, f"batch {row.id}")
            return self._put(session, row, molecules, read_parameters(row.parameters) if reuse else None)

    def update(
        self,
        id: int | str | BatchJobResponse,  # noqa: A002
        *,
        status: str | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> BatchJobResponse:
        """Change a batch.

        Parameters
        ----------
        id
            Its key, its name or its record.
        status
            pending, in_progress, completed or failed; its start and end times follow.
        parameters
            All of them, for the next :meth:`run`: what is not named goes back to its default. A run that is at work
            goes on with its own.

        Returns
        -------
        BatchJobResponse
            As it is stored now.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to change.
        InvalidInput
            No such status or parameter.
        """
        if parameters is not None:
            read_parameters(parameters)
        with self._context.session() as session:
            row = self._own_row(session, id)
            if parameters is not None:
                row.parameters = parameters
                session.flush()
            if status is not None:
                crud.update_batch_job_status(session, row.id, status)
            session.refresh(row)
            return BatchJobResponse.model_validate(row)

    def run(
        self,
        batch: int | str | BatchJobResponse,
        *,
        engine: str | Engine = "tblite",
        workers: Any = None,
        timeout: float | None = 3600.0,
        max_retries: int = 2,
        optimize: bool = False,
        seed: int = 42,
        n_conformers: int = 1,
        lease_seconds: float = 60.0,
        reconnect_seconds: float = 60.0,
        progress: bool | None = None,
    ) -> BatchReport:
        """Compute the items of a batch until none is left; run it again to go on after whatever stopped it.

        Each worker claims a few items, computes them and stores their results in one transaction. Whoever is killed
        when: every item ends once. Several runs, on several machines, share a batch.

        Parameters
        ----------
        batch
            Its key, its name or its record.
        engine
            ``tblite``, ``xtb``, or an engine such as ``qforge_sdk.compute.get_engine("xtb", level="tight")``.
        workers
            Processes on this machine, None for one a processor; or a ``distributed.Client``: its cluster works then.
        timeout
            Wall time that one item may take, s, its geometry included; None for no end. Items that another program
            set to ``processing`` are left to it for as long.
        max_retries
            How often an item is tried again after its worker died.
        optimize
            Relax geometries, also where the batch's parameters do not say so.
        seed, n_conformers
            Of geometries, see :func:`qforge_sdk.chem.geometry_from_smiles`.
        lease_seconds
            After that time without a sign of life a worker's items are another's to compute.
        reconnect_seconds
            How long workers wait for a database that is gone.
        progress
            Show a bar; None shows one where somebody looks.

        Returns
        -------
        BatchReport
            Accounts for each item. Interrupted (Ctrl-C, or a notebook's stop), it says so, and what was begun waits
            again.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to run.
        InvalidInput
            An argument, or a parameter of the batch, is not the engine's.
        ConfigurationError
            The engine is not installed, or a worker of the cluster cannot work.
        ConnectionFailed
            The database did not come back in time.
        """
        from qforge_sdk.compute.runner import make_job, run

        with self._context.session() as session:
            row = self._own_row(session, batch)
        job = make_job(
            self._context.engine,
            self._context.scope,
            Work(row.id, row.user_id),
            row.parameters,
            engine=engine,
            optimize=optimize,
            seed=seed,
            n_conformers=n_conformers,
            timeout=timeout,
            max_retries=max_retries,
            lease_seconds=lease_seconds,
            reconnect_seconds=reconnect_seconds,
        )
        return run(job, row.batch_name, self._context.engine, workers=workers, progress=progress)

    def retry(
        self,
        batch: int | str | BatchJobResponse,
        where: str | Sequence[str] | None = None,
        *,
        items: Iterable[int] | None = None,
    ) -> int:
        """Let items wait again that failed; :meth:`run` computes them.

        Parameters
        ----------
        batch
            Its key, its name or its record.
        where
            Only those with this code, or one of these, as :meth:`failures` names them; ``cancelled`` for those that
            :meth:`cancel` skipped, ``abandoned`` for those that another program set to ``processing`` and no run
            holds.
        items
            Only those with these keys, such as the ``id`` of :meth:`items`: all of them or none.

        Returns
        -------
        int
            How many items wait again, with all their retries.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to change; or an item is not of this batch.
        InvalidInput
            There is no such code; or an item waits, is being computed or has a result; or both are given.
        """
        if where is not None and items is not None:
            raise InvalidInput("give the codes or the items, not both", field="items", value=items)
        codes = [where] if isinstance(where, str) else where
        for code in codes or ():
            one_of(code, _CODES, field="where")
        keys = None if items is None else [key_of(key, "batch_items") for key in items]
        with self._context.session() as session:
            stored = self._items(session, self._own_row(session, batch))
            return stored.retry(codes) if keys is None else stored.retry_items(keys)

    def cancel(self, batch: int | str | BatchJobResponse) -> int:
        """Skip what has not ended of a batch; its workers stop within half of their lease.

        Parameters
        ----------
        batch
            Its key, its name or its record.

        Returns
        -------
        int
            How many items were skipped. The batch counts as failed, unless nothing was left of it;
            ``retry(batch, "cancelled")`` takes it up again.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to change.
        """
        with self._context.session() as session:
            row = self._own_row(session, batch)
            items = self._items(session, row)
            skipped = items.cancel()
            if skipped:
                session.refresh(row)
                event = program_events.batch_failed(
                    row.batch_name,
                    error_message="cancelled",
                    processed_count=row.successful_count + row.failed_count,
                    total_molecules=row.total_molecules,
                )
                insert_events(items.connection, items.work, [{**event, "entity_id": row.id}])
            return skipped

    def delete(self, id: int | str | BatchJobResponse) -> None:  # noqa: A002
        """Delete a batch and its items; the calculations stay.

        Parameters
        ----------
        id
            Its key, its name or its record.

        Raises
        ------
        NotFound
            No such batch, or it is not yours to delete.
        """
        with self._context.session() as session:
            row = self._own_row(session, id)
            # Items first, as the workers lock them.
            session.execute(delete(BatchItem).where(BatchItem.batch_id == row.id))
            session.delete(row)

    def _put(self, session: Session, row: BatchJob, molecules: Any, wanted: Parameters | None) -> int:
        keys = molecule_keys(self._context, session, molecules, row.user_id)
        reuse = None if wanted is None else dataclasses.asdict(wanted) | _USUAL
        return self._items(session, row).put(keys, reuse=reuse)


def _take_turns(session: Session, what: str) -> None:
    """Wait for others that named the same, and let them wait until this transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(what, 0))))
