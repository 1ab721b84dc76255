"""Batches as a whole: their items from molecules, what became of them, and what is to be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from qforge_sdk.db.models import ITEM_STATUSES
from qforge_sdk.db.work import Work

CANCELLED: Final = "cancelled"
"""Code of items that were cancelled."""
UNKNOWN: Final = "unknown"
"""Stands for the code of items that failed without one."""

_NO_RESULT: Final = "SELECT CAST(NULL AS bigint) AS id"
# An item hangs on no calculation that the owner of its batch cannot see, whoever puts it there.
_STORED_RESULT: Final = """
    SELECT c.id FROM public.calculations AS c JOIN public.molecules AS m ON m.id = c.molecule_id
    WHERE c.molecule_id = k.id AND c.convergence_status = 'converged' AND c.total_charge = m.charge
          AND c.method = :method AND c.optimized = :optimize
          AND c.solvation IS NOT DISTINCT FROM CAST(:solvation AS text)
          AND lower(c.solvent) IS NOT DISTINCT FROM lower(CAST(:solvent AS text))
          AND coalesce((c.metadata #>> '{run,parameters,accuracy}')::float8, :usual_accuracy) = :accuracy
          AND coalesce((c.metadata #>> '{run,parameters,electronic_temperature}')::float8, :usual_temperature)
              = :electronic_temperature
          AND (NOT :hessian OR c.metadata #> '{run,imaginary_modes}' IS NOT NULL)
          AND (c.user_id IS NOT DISTINCT FROM CAST(:owner AS uuid)
               OR c.user_id = '00000000-0000-0000-0000-000000000000')
    ORDER BY c.id DESC LIMIT 1
"""


def put_items(
    connection: Connection, work: Work, molecules: Sequence[int], *, reuse: Mapping[str, Any] | None = None
) -> None:
    """Put molecules into a batch, in one statement.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch, which has no items yet.
    molecules
        Their keys, each once.
    reuse
        Fields of Parameters, and ``usual_accuracy`` and ``usual_temperature`` of results that do not say theirs: an
        item whose molecule has a converged result at this level of theory and of its charge is completed with the
        newest.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        A molecule is absent or another tenant's.
    """
    stored = _NO_RESULT if reuse is None else _STORED_RESULT
    now = "CASE WHEN c.id IS NOT NULL THEN clock_timestamp() END"
    connection.execute(
        text(
            "INSERT INTO public.batch_items "
            "(user_id, batch_id, molecule_id, status, calculation_id, started_at, completed_at) "
            "SELECT CAST(:owner AS uuid), :batch, k.id, "
            f"CASE WHEN c.id IS NULL THEN 'pending' ELSE 'completed' END, c.id, {now}, {now} "
            "FROM unnest(CAST(:molecules AS bigint[])) WITH ORDINALITY AS k (id, n) "
            f"LEFT JOIN LATERAL ({stored}) AS c ON true ORDER BY k.n"
        ),
        {**work.values, **(reuse or {}), "molecules": list(molecules)},
    )


def cancel(connection: Connection, work: Work) -> int:
    """Skip the items that have not ended; the batch then counts as failed.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.

    Returns
    -------
    int
        How many items were skipped. Workers that hold some write nothing of them any more.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    skipped = connection.execute(
        text(
            "UPDATE public.batch_items AS i SET status = 'skipped', error_code = :code, error_message = :message, "
            "lease_token = NULL, lease_holder = NULL, lease_expires_at = NULL, completed_at = clock_timestamp() "
            f"WHERE {work.mine} AND i.status IN ('pending', 'processing')"
        ),
        {**work.values, "code": CANCELLED, "message": "the batch was cancelled"},
    ).rowcount
    if skipped:
        connection.execute(text("UPDATE public.batch_jobs SET status = 'failed' WHERE id = :batch"), work.values)
    return skipped


def retry(connection: Connection, work: Work, codes: Sequence[str] | None) -> int:
    """Let items wait again that failed or were cancelled.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.
    codes
        Those of these codes; None for all that failed.

    Returns
    -------
    int
        How many wait again, with all their retries.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    chosen = "i.status = 'failed'"
    if codes is not None:
        chosen = "i.status IN ('failed', 'skipped') AND coalesce(i.error_code, :unknown) = ANY (:codes)"
    return connection.execute(
        text(
            "UPDATE public.batch_items AS i SET status = 'pending', retry_count = 0, error_code = NULL, "
            "error_message = NULL, metadata = i.metadata - 'stderr', lease_token = NULL, lease_holder = NULL, "
            f"lease_expires_at = NULL, started_at = NULL, completed_at = NULL WHERE {work.mine} AND {chosen}"
        ),
        {**work.values, "unknown": UNKNOWN, "codes": list(codes or ())},
    ).rowcount


class Failure(NamedTuple):
    """Items of a batch that failed for one reason, and the first of them."""

    code: str
    items: int
    item_id: int
    molecule_id: int
    smiles: str | None
    message: str | None


def failures(connection: Connection, work: Work) -> list[Failure]:
    """Items that failed, by code.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.

    Returns
    -------
    list of Failure
        The most frequent first.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    rows = connection.execute(
        text(
            "SELECT f.code, f.items, i.id, i.molecule_id, m.smiles, i.error_message FROM ("
            "SELECT coalesce(i.error_code, :unknown) AS code, count(*) AS items, min(i.id) AS first "
            f"FROM public.batch_items AS i WHERE {work.mine} AND i.status = 'failed' GROUP BY 1"
            ") AS f JOIN public.batch_items AS i ON i.id = f.first "
            "LEFT JOIN public.molecules AS m ON m.id = i.molecule_id ORDER BY f.items DESC, f.code"
        ),
        {**work.values, "unknown": UNKNOWN},
    )
    return [Failure(*row) for row in rows]


class Account(NamedTuple):
    """How many items of a batch have each status, and of those that failed each code."""

    by_status: dict[str, int]
    by_code: dict[str, int]


def account(connection: Connection, work: Work) -> Account:
    """Count the items of a batch.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.

    Returns
    -------
    Account
        With every status word.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    by_status, by_code = dict.fromkeys(ITEM_STATUSES, 0), {}
    rows = connection.execute(
        text(
            "SELECT i.status, CASE WHEN i.status = 'failed' THEN coalesce(i.error_code, :unknown) END, count(*) "
            f"FROM public.batch_items AS i WHERE {work.mine} GROUP BY 1, 2 ORDER BY 3 DESC"
        ),
        {**work.values, "unknown": UNKNOWN},
    )
    for status, code, count in rows:
        by_status[status] += count
        if code is not None:
            by_code[code] = count
    return Account(by_status, by_code)
