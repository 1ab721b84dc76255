"""The items of a batch as a whole: made of molecules, skipped, let wait again, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, CursorResult, text

from qforge_sdk.db.models import ITEM_STATUSES
from qforge_sdk.db.work import Work
from qforge_sdk.errors import InvalidInput, NotFound

CANCELLED: Final = "cancelled"
"""Code of items that were cancelled."""
UNKNOWN: Final = "unknown"
"""Stands for the code of items that failed without one."""
ABANDONED: Final = "abandoned"
"""Stands for the code of items that a program set to ``processing`` without a lease."""

LARGEST_KEY: Final = 2**63 - 1
"""Of a row."""

_NO_RESULT: Final = "SELECT CAST(NULL AS bigint) AS id"
# An item hangs on no calculation that the owner of its batch cannot see, whoever puts it there.
_STORED_RESULT: Final = """
    SELECT c.id FROM public.calculations AS c JOIN public.molecules AS m ON m.id = c.molecule_id
    WHERE c.molecule_id = k.id AND c.convergence_status = 'converged' AND c.total_charge = m.charge
          AND c.method = :method AND c.optimized = :optimize
          AND c.solvation IS NOT DISTINCT FROM CAST(:solvation AS text)
          AND lower(c.solvent) IS NOT DISTINCT FROM lower(CAST(:solvent AS text))
          AND coalesce(c.metadata #> '{run,parameters,accuracy}', to_jsonb(CAST(:usual_accuracy AS float8)))
              = to_jsonb(CAST(:accuracy AS float8))
          AND coalesce(c.metadata #> '{run,parameters,electronic_temperature}',
                       to_jsonb(CAST(:usual_temperature AS float8)))
              = to_jsonb(CAST(:electronic_temperature AS float8))
          -- Of another spin state only where it is that of the SMILES, as in a run.
          AND (coalesce(c.unpaired_electrons, 0) < 2 OR c.metadata #> '{run,conformer}' IS NOT NULL)
          AND (NOT :hessian OR c.metadata #> '{run,imaginary_modes}' IS NOT NULL)
          AND (c.user_id IS NOT DISTINCT FROM CAST(:owner AS uuid)
               OR c.user_id = '00000000-0000-0000-0000-000000000000')
    ORDER BY c.id DESC LIMIT 1
"""
_ABSENT: Final = """
    SELECT k.id FROM unnest(CAST(:molecules AS bigint[])) WITH ORDINALITY AS k (id, n)
    WHERE NOT EXISTS (
        SELECT FROM public.molecules AS m
        WHERE m.id = k.id AND (CAST(:owner AS uuid) IS NULL OR m.user_id = CAST(:owner AS uuid)
                               OR m.user_id = '00000000-0000-0000-0000-000000000000'))
    ORDER BY k.n LIMIT 1
"""
_WAIT_AGAIN: Final = """
    UPDATE public.batch_items AS i
    SET status = 'pending', retry_count = 0, error_code = NULL, error_message = NULL,
        metadata = i.metadata - 'stderr', lease_token = NULL, lease_holder = NULL, lease_expires_at = NULL,
        started_at = NULL, completed_at = NULL
    WHERE {chosen}
"""
_ABANDONED: Final = "i.status = 'processing' AND i.lease_expires_at IS NULL"
_OF_CODES: Final = (
    "(i.status IN ('failed', 'skipped') AND coalesce(i.error_code, :unknown) = ANY (:codes) "
    f"OR :abandoned = ANY (:codes) AND {_ABANDONED})"
)


class Failure(NamedTuple):
    """Items of a batch that failed for one reason, and the first of them."""

    code: str
    items: int
    item_id: int
    molecule_id: int
    smiles: str | None
    message: str | None


class Account(NamedTuple):
    """How many items of a batch have each status, and of those that failed each code."""

    by_status: dict[str, int]
    by_code: dict[str, int]


@dataclass(frozen=True, slots=True)
class BatchItems:
    """The items of one batch, in one transaction. Every method raises what the driver does.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.
    """

    connection: Connection
    work: Work

    def put(self, molecules: Sequence[int], *, reuse: Mapping[str, Any] | None = None) -> int:
        """Put molecules into the batch, in one statement.

        Parameters
        ----------
        molecules
            Their keys, each once; what is in the batch already stays as it is.
        reuse
            Fields of Parameters, and ``usual_accuracy`` and ``usual_temperature`` of results that do not say theirs:
            an item whose molecule has a converged result at this level of theory and of its charge is completed with
            the newest.

        Returns
        -------
        int
            How many were not in it before.

        Raises
        ------
        NotFound
            A molecule is absent, or the owner of the batch cannot see it.
        """
        self._require_molecules(molecules)
        stored = _NO_RESULT if reuse is None else _STORED_RESULT
        now = "CASE WHEN c.id IS NOT NULL THEN clock_timestamp() END"
        return self._execute(
            "INSERT INTO public.batch_items "
            "(user_id, batch_id, molecule_id, status, calculation_id, started_at, completed_at) "
            "SELECT CAST(:owner AS uuid), :batch, k.id, "
            f"CASE WHEN c.id IS NULL THEN 'pending' ELSE 'completed' END, c.id, {now}, {now} "
            "FROM unnest(CAST(:molecules AS bigint[])) WITH ORDINALITY AS k (id, n) "
            f"LEFT JOIN LATERAL ({stored}) AS c ON true ORDER BY k.n "
            "ON CONFLICT ON CONSTRAINT batch_items_key DO NOTHING",
            **(reuse or {}),
            molecules=list(molecules),
        ).rowcount

    def cancel(self) -> int:
        """Skip the items that have not ended; the batch then counts as failed.

        Returns
        -------
        int
            How many items were skipped. Workers that hold some write nothing of them any more.
        """
        skipped = self._execute(
            "UPDATE public.batch_items AS i SET status = 'skipped', error_code = :code, error_message = :message, "
            "lease_token = NULL, lease_holder = NULL, lease_expires_at = NULL, completed_at = clock_timestamp() "
            f"WHERE {self.work.mine} AND i.status IN ('pending', 'processing')",
            code=CANCELLED,
            message="the batch was cancelled",
        ).rowcount
        if skipped:
            self._execute("UPDATE public.batch_jobs SET status = 'failed' WHERE id = :batch")
        return skipped

    def retry(self, codes: Sequence[str] | None) -> int:
        """Let items wait again that failed, were cancelled or are held by nobody.

        Parameters
        ----------
        codes
            Those of these codes; None for all that failed.

        Returns
        -------
        int
            How many wait again, with all their retries.
        """
        chosen = "i.status = 'failed'" if codes is None else _OF_CODES
        return self._execute(
            _WAIT_AGAIN.format(chosen=f"{self.work.mine} AND {chosen}"),
            unknown=UNKNOWN,
            abandoned=ABANDONED,
            codes=list(codes or ()),
        ).rowcount

    def retry_items(self, keys: Sequence[int]) -> int:
        """Let these items wait again, all of them or none.

        Parameters
        ----------
        keys
            Of items that failed, were skipped, or are in ``processing`` without a lease.

        Returns
        -------
        int
            How many wait again, with all their retries.

        Raises
        ------
        NotFound
            One is no item of the batch.
        InvalidInput
            One waits, is being computed, or has a result.
        """
        # In the order of keys, as whoever ends several locks them.
        found = self._execute(
            f"SELECT i.id, i.status, i.status IN ('failed', 'skipped') OR {_ABANDONED} AS ended "
            f"FROM public.batch_items AS i WHERE {self.work.mine} "
            "AND i.id = ANY (CAST(:keys AS bigint[])) ORDER BY i.id FOR UPDATE",
            keys=[key for key in keys if 0 < key <= LARGEST_KEY],
        ).all()
        _require_all({row.id for row in found}, keys, self.work.batch_id)
        _require_ended([f"{row.id} is {row.status}" for row in found if not row.ended])
        return self._execute(_WAIT_AGAIN.format(chosen="i.id = ANY (:ids)"), ids=[row.id for row in found]).rowcount

    def failures(self, *, among: int | None = None) -> list[Failure]:
        """Items that failed, by code.

        Parameters
        ----------
        among
            Only of so many that come first, None for all.

        Returns
        -------
        list of Failure
            The most frequent first.
        """
        failed = f"FROM public.batch_items AS i WHERE {self.work.mine} AND i.status = 'failed'"
        if among is not None:
            # A range where the batch is meant, for the reason given at Work.queue.
            failed = (
                "FROM (SELECT i.id, i.error_code FROM public.batch_items AS i WHERE i.batch_id BETWEEN :batch AND "
                f":batch AND {self.work.owned} AND i.status = 'failed' "
                "ORDER BY i.batch_id, i.user_id, i.status, i.id LIMIT :among) AS i"
            )
        rows = self._execute(
            "SELECT f.code, f.items, i.id, i.molecule_id, m.smiles, i.error_message FROM ("
            f"SELECT coalesce(i.error_code, :unknown) AS code, count(*) AS items, min(i.id) AS first {failed} "
            "GROUP BY 1) AS f JOIN public.batch_items AS i ON i.id = f.first "
            "LEFT JOIN public.molecules AS m ON m.id = i.molecule_id ORDER BY f.items DESC, f.code",
            unknown=UNKNOWN,
            **({} if among is None else {"among": among}),
        )
        return [Failure(*row) for row in rows]

    def account(self) -> Account:
        """Count the items.

        Returns
        -------
        Account
            With every status word.
        """
        by_status, by_code = dict.fromkeys(ITEM_STATUSES, 0), {}
        rows = self._execute(
            "SELECT i.status, CASE WHEN i.status = 'failed' THEN coalesce(i.error_code, :unknown) END, count(*) "
            f"FROM public.batch_items AS i WHERE {self.work.mine} GROUP BY 1, 2 ORDER BY 3 DESC",
            unknown=UNKNOWN,
        )
        for status, code, count in rows:
            by_status[status] += count
            if code is not None:
                by_code[code] = count
        return Account(by_status, by_code)

    def _require_molecules(self, keys: Sequence[int]) -> None:
        """What an item points at must be visible to its owner, whoever puts it there."""
        absent = next((key for key in keys if not 0 < key <= LARGEST_KEY), None)
        if absent is None:
            absent = self._execute(_ABSENT, molecules=list(keys)).scalar()
        if absent is not None:
            raise NotFound(f"molecules has no row {absent} that is yours to use", entity="molecules", key=absent)

    def _execute(self, statement: str, **values: Any) -> CursorResult[*tuple[Any, ...]]:
        return self.connection.execute(text(statement), {**self.work.values, **values})


def _require_all(found: set[int], keys: Sequence[int], batch_id: int) -> None:
    for key in keys:
        if key not in found:
            raise NotFound(f"batch {batch_id} has no item {key}", entity="batch_items", key=key)


def _require_ended(others: Sequence[str]) -> None:
    if others:
        more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
        raise InvalidInput(
            f"only items that failed, were cancelled or abandoned can be tried again: {', '.join(others[:5])}{more}",
            field="items",
            value=others[0],
        )
