"""The items of a batch as work: claimed under a lease, finished, given back.

A worker claims a few items under a token of its own and holds them as long as their lease is renewed. Whatever it
writes of them it writes in one transaction and only where the token is still theirs: a worker whose lease ran out,
and whose items another one claimed, writes nothing. So a result is stored once, whoever dies when.

:mod:`qforge_sdk.db.results` writes. Rows are locked in the order molecule, item, batch, which is that of a molecule's
deletion.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from qforge_sdk.errors import NotFound

MOST_AT_ONCE: Final = 100
"""Items of one transaction: the audit trail summarises inserts of more rows."""


@dataclass(frozen=True, slots=True)
class Work:
    """A batch as work.

    Parameters
    ----------
    batch_id
        Its key.
    owner
        Whose it is, and all that comes of it.
    """

    batch_id: int
    owner: uuid.UUID | None

    @property
    def values(self) -> dict[str, Any]:
        """Parameters of the statements here."""
        return {"batch": self.batch_id, "owner": self.owner}

    @property
    def mine(self) -> str:
        """SQL condition on its items ``i``; an index begins with the owner."""
        return f"i.batch_id = :batch AND {self.owned}"

    @property
    def queue(self) -> str:
        """SQL of its items ``i`` that have not ended, in the order of the index over them.

        The range stands for an equality: with that, and a LIMIT, the planner would rather read the primary key, and
        all items of older batches with it.
        """
        return (
            f"FROM public.batch_items AS i WHERE {self.owned} AND i.batch_id BETWEEN :batch AND :batch "
            "AND i.status IN ('pending', 'processing') AND ({condition}) ORDER BY i.user_id, i.batch_id, i.id"
        )

    @property
    def owned(self) -> str:
        """SQL condition on the owner of items ``i``."""
        return "i.user_id IS NULL" if self.owner is None else "i.user_id = CAST(:owner AS uuid)"


class Item(NamedTuple):
    """A claimed item: key, key and SMILES of its molecule, how often it was claimed before."""

    id: int
    molecule_id: int
    smiles: str | None
    retry_count: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker got.

    Parameters
    ----------
    items
        To be computed, perhaps none.
    given_up
        Keys of items that ran out of retries; they are to be failed in the same transaction.
    began
        Name of the batch and number of its molecules, if it began with this claim.
    """

    items: tuple[Item, ...]
    given_up: tuple[Item, ...]
    began: tuple[str, int] | None


# A claim or a renewal that a crash of the server undoes costs some time and nothing else.
_UNHURRIED: Final = "SET LOCAL synchronous_commit = off"
# What a program without leases set to processing is free when no item may take that long; NULL is never.
_FREE: Final = (
    "(i.status = 'pending' OR i.lease_expires_at < clock_timestamp() OR (i.lease_expires_at IS NULL "
    "AND i.updated_at < clock_timestamp() - make_interval(secs => CAST(:timeout AS float8))))"
)
_HELD: Final = "i.status = 'processing' AND i.lease_expires_at >= clock_timestamp()"
_PICK: Final = (
    "SELECT i.id, i.status = 'processing' AS expired, i.retry_count {queue} LIMIT :limit FOR UPDATE SKIP LOCKED"
)
_LEASE: Final = """
    UPDATE public.batch_items AS i
    SET status = 'processing', lease_token = :token, lease_holder = :holder,
        lease_expires_at = clock_timestamp() + make_interval(secs => :lease),
        started_at = clock_timestamp(), completed_at = NULL,
        retry_count = i.retry_count + (i.id = ANY (:expired))::int
    WHERE i.id = ANY (:ids)
    RETURNING i.id, i.molecule_id, (SELECT m.smiles FROM public.molecules AS m WHERE m.id = i.molecule_id),
              i.retry_count
"""


def claim(
    connection: Connection,
    work: Work,
    *,
    token: uuid.UUID,
    holder: str,
    limit: int,
    lease_seconds: float,
    max_retries: int,
    timeout: float | None = None,
    after: int = 0,
) -> Claim:
    """Take some items: those that wait, those whose lease ran out, those that were begun without one and forgotten.

    An item that was claimed before is claimed alone, so that one which ends every process takes no others with it.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.
    token
        New, and never used again.
    holder
        Who claims, for people.
    limit
        At most so many items.
    lease_seconds
        How long they are held unless the lease is renewed.
    max_retries
        How often an item may be claimed again.
    timeout
        What one item may take, s: one that is in ``processing`` without a lease, and was not changed for that long,
        is nobody's any more. None leaves those to whoever set them so.
    after
        Only items behind this key: a worker that goes on where it was need not pass over what has ended.

    Returns
    -------
    Claim
        Items in the order of their keys.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    connection.execute(text(_UNHURRIED))
    values = {**work.values, "after": after, "limit": min(limit, MOST_AT_ONCE), "timeout": timeout}
    queue = work.queue.format(condition=f"i.id > :after AND {_FREE}")
    picked = connection.execute(text(_PICK.format(queue=queue)), values).all()
    tired = [row.id for row in picked if row.expired and row.retry_count >= max_retries]
    chosen = _choose([row for row in picked if row.id not in set(tired)])
    taken = _lease(connection, [*chosen, *tired], picked, token=token, holder=holder, lease_seconds=lease_seconds)
    began = _begun_by_us(connection, work) if chosen else None
    return Claim(
        tuple(item for item in taken if item.id in set(chosen)),
        tuple(item for item in taken if item.id in set(tired)),
        began,
    )


def _choose(picked: Sequence[Any]) -> list[int]:
    fresh = [row.id for row in picked if not row.expired and row.retry_count == 0]
    return fresh or [row.id for row in picked[:1]]


def _lease(connection: Connection, ids: list[int], picked: Sequence[Any], **values: Any) -> list[Item]:
    if not ids:
        return []
    expired = [row.id for row in picked if row.expired]
    values = {**values, "lease": values.pop("lease_seconds"), "ids": ids, "expired": expired}
    return sorted(Item(*row) for row in connection.execute(text(_LEASE), values))


def _begun_by_us(connection: Connection, work: Work) -> tuple[str, int] | None:
    """Name and size of the batch, if this transaction changed its row: a claim does when the batch begins with it."""
    row = connection.execute(
        text(
            "SELECT b.batch_name, b.total_molecules FROM public.batch_jobs AS b WHERE b.id = :batch "
            "AND b.xmin::text::bigint = pg_current_xact_id()::text::bigint % 4294967296"
        ),
        work.values,
    ).one_or_none()
    return None if row is None else (row.batch_name, row.total_molecules)


def renew(
    connection: Connection, tokens: Mapping[uuid.UUID, Sequence[int]], *, lease_seconds: float
) -> set[uuid.UUID]:
    """Hold items for longer.

    Parameters
    ----------
    connection
        In a transaction.
    tokens
        Keys of the items of each token.
    lease_seconds
        From now on.

    Returns
    -------
    set of uuid.UUID
        Those tokens that still hold an item.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    if not tokens:
        return set()
    connection.execute(text(_UNHURRIED))
    held = connection.execute(
        text(
            "UPDATE public.batch_items AS i SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease) "
            "WHERE i.id = ANY (:ids) AND i.lease_token = ANY (:tokens) AND i.status = 'processing' "
            "RETURNING i.lease_token"
        ),
        {
            "lease": lease_seconds,
            "ids": sorted(key for keys in tokens.values() for key in keys),
            "tokens": list(tokens),
        },
    )
    return set(held.scalars())


def release(
    connection: Connection,
    work: Work,
    token: uuid.UUID,
    *,
    blamed: int | None = None,
    only: Sequence[int] | None = None,
) -> int:
    """Give items back that were not finished.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.
    token
        Of their claim; items that have ended stay so.
    blamed
        The item that ended its worker: it counts as tried once more.
    only
        Keys of these items; None for all of the claim.

    Returns
    -------
    int
        How many items wait again.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    return connection.execute(
        text(
            "UPDATE public.batch_items AS i "
            "SET status = 'pending', lease_token = NULL, lease_holder = NULL, lease_expires_at = NULL, "
            "started_at = NULL, retry_count = i.retry_count + (i.id = :blamed)::int "
            f"WHERE {work.mine} AND i.status = 'processing' AND i.lease_token = :token "
            "AND (CAST(:only AS bigint[]) IS NULL OR i.id = ANY (:only))"
        ),
        {**work.values, "token": token, "blamed": blamed or 0, "only": None if only is None else list(only)},
    ).rowcount


class Outlook(NamedTuple):
    """What is left of a batch.

    Parameters
    ----------
    claimable
        Items that can be claimed, counted up to a limit.
    leased
        Whether somebody holds items; not asked for while some can be claimed.
    ended, total, failed
        Items that have ended, of how many, and how many of them failed.
    """

    claimable: int
    leased: bool
    ended: int
    total: int
    failed: int


def outlook(connection: Connection, work: Work, *, limit: int, timeout: float | None = None) -> Outlook:
    """What is left of a batch.

    Parameters
    ----------
    connection
        In a transaction.
    work
        The batch.
    limit
        How far to count.
    timeout
        As for :func:`claim`.

    Returns
    -------
    Outlook
        Items that some other program works on, without a lease, are neither claimable nor leased.

    Raises
    ------
    NotFound
        The batch was deleted.
    """
    row = connection.execute(
        text(
            "SELECT b.waiting_count, b.successful_count + b.failed_count + b.skipped_count, b.total_molecules, "
            "b.failed_count FROM public.batch_jobs AS b WHERE b.id = :batch"
        ),
        work.values,
    ).one_or_none()
    if row is None:
        raise NotFound(f"batch_jobs has no row {work.batch_id} any more", entity="batch_jobs", key=work.batch_id)
    waiting, ended, total, failed = row
    claimable, leased = _waiting(connection, work, limit, timeout) if waiting else (0, False)
    return Outlook(claimable, leased, ended, total, failed)


def _waiting(connection: Connection, work: Work, limit: int, timeout: float | None) -> tuple[int, bool]:
    def count(condition: str, limit: int) -> int:
        few = f"SELECT count(*) FROM (SELECT {work.queue.format(condition=condition)} LIMIT :limit) AS few"
        return int(connection.execute(text(few), {**work.values, "limit": limit, "timeout": timeout}).scalar_one())

    claimable = count(_FREE, limit)
    # A million items may wait behind the first that somebody holds.
    return claimable, not claimable and count(_HELD, 1) > 0
