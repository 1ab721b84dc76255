"""What a worker stores of the items that it claimed, in one transaction and only while they are its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, CursorResult, text

from qforge_sdk.db.work import Work

_COLUMNS: Final = {
    "molecule_id": "bigint", "energy": "float8", "homo": "float8", "lumo": "float8", "gap": "float8",
    "dipole": "float8", "total_charge": "float8", "unpaired_electrons": "int", "execution_time_seconds": "float8",
    "xtb_version": "text", "method": "text", "solvation": "text", "solvent": "text", "optimized": "boolean",
    "convergence_status": "text", "xyz_file_hash": "text", "metadata": "jsonb",
}  # fmt: skip
_ATOM_COLUMNS: Final = {
    "calculation_id": "bigint", "atom_index": "int", "element": "text", "atomic_number": "smallint",
    "partial_charge": "float8", "position_x": "float8", "position_y": "float8", "position_z": "float8",
    "force_x": "float8", "force_y": "float8", "force_z": "float8",
}  # fmt: skip
_ITEM_COLUMNS: Final = {
    "id": "bigint", "status": "text", "calculation_id": "bigint", "error_code": "text", "error_message": "text",
    "stderr": "text",
}  # fmt: skip
_EVENT_COLUMNS: Final = {
    "event_type": "text", "entity_type": "text", "entity_id": "bigint", "status": "text", "error_message": "text",
    "error_code": "text", "context": "jsonb", "service": "text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one item: a calculation, or a code and a message.

    Parameters
    ----------
    item_id
        The item.
    event
        As :func:`qforge_sdk.db.crud.log_event` takes it, without the key of the calculation.
    row
        Columns of the calculation; None where it failed.
    atoms
        Columns of its atoms, each a list.
    code, message, stderr
        Why it failed.
    """

    item_id: int
    event: Mapping[str, Any]
    row: Mapping[str, Any] | None = None
    atoms: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    code: str | None = None
    message: str | None = None
    stderr: str | None = None


class BatchEnd(NamedTuple):
    """A batch whose last item ended.

    Parameters
    ----------
    batch_name
        Its name.
    total_molecules, successful_count, failed_count
        Its counts.
    execution_time_seconds
        From its beginning to its end.
    """

    batch_name: str
    total_molecules: int
    successful_count: int
    failed_count: int
    execution_time_seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """What a worker wrote.

    Parameters
    ----------
    item_ids
        Items that have ended under the token, now or in a transaction whose answer was lost.
    batch
        The batch, if it ended with them.
    """

    item_ids: frozenset[int]
    batch: BatchEnd | None


class LeaseLost(Exception):
    """Items were taken away while their results were written; try again with those that are left."""


_HELD: Final = """
    SELECT i.id, i.status FROM public.batch_items AS i
    WHERE i.id = ANY (:ids) AND i.lease_token = :token AND i.status IN ('processing', 'completed', 'failed')
"""
_END: Final = """
    UPDATE public.batch_items AS i
    SET status = e.status, calculation_id = coalesce(e.calculation_id, i.calculation_id),
        error_code = e.error_code, error_message = e.error_message,
        metadata = CASE WHEN e.stderr IS NULL THEN i.metadata - 'stderr'
                        ELSE i.metadata || jsonb_build_object('stderr', e.stderr) END,
        completed_at = clock_timestamp(), lease_expires_at = NULL
    FROM {ended} AS e
    WHERE i.id = e.id AND i.lease_token = :token AND i.status = 'processing'
"""


def finish(connection: Connection, work: Work, token: uuid.UUID, ended: Sequence[Ended]) -> Finished:
    """Store what became of items: calculations, atoms, status, counts and events.

    Parameters
    ----------
    connection
        In a transaction of its own, which its owner commits.
    work
        The batch.
    token
        Of the claim; of items that are no longer held under it nothing is written.
    ended
        At most :data:`qforge_sdk.db.work.MOST_AT_ONCE`.

    Returns
    -------
    Finished
        Called again after a commit whose answer was lost, it finds the same items.

    Raises
    ------
    LeaseLost
        An item was taken away meanwhile: roll back and call it again.
    QForgeError
        What the server reported.
    """
    asked = {"ids": [one.item_id for one in ended], "token": token}
    status = {row.id: row.status for row in connection.execute(text(_HELD), asked)}
    writing = [one for one in ended if status.get(one.item_id) == "processing"]
    if writing:
        calculations = _insert_calculations(connection, work, writing)
        _insert_atoms(connection, work, writing, calculations)
        _end_items(connection, token, writing, calculations)
        events = [{**one.event, "entity_id": calculations.get(one.item_id)} for one in writing]
        insert_events(connection, work, events)
    return Finished(frozenset(status), _batch_end(connection, work) if writing else None)


def _insert_calculations(connection: Connection, work: Work, ended: Sequence[Ended]) -> dict[int, int]:
    """Keys of the calculations by item; a molecule is in a batch once."""
    done = [one for one in ended if one.row is not None]
    if not done:
        return {}
    rows: list[Mapping[str, Any]] = [one.row for one in done if one.row is not None]
    columns = _by_column(_COLUMNS, rows)
    stored = _insert(connection, work, "calculations", _COLUMNS, columns, returning="molecule_id, id")
    by_molecule: dict[int, int] = {row.molecule_id: row.id for row in stored}
    return {one.item_id: by_molecule[row["molecule_id"]] for one, row in zip(done, rows, strict=True)}


def _insert_atoms(
    connection: Connection, work: Work, ended: Sequence[Ended], calculations: Mapping[int, int]
) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in _ATOM_COLUMNS}
    for one in ended:
        for name, column in one.atoms.items():
            columns[name] += column
        columns["calculation_id"] += [calculations.get(one.item_id)] * len(one.atoms.get("atom_index", ()))
    if not columns["calculation_id"]:
        return
    _insert(connection, work, "atomic_properties", _ATOM_COLUMNS, columns)


def _end_items(
    connection: Connection, token: uuid.UUID, ended: Sequence[Ended], calculations: Mapping[int, int]
) -> None:
    rows = [
        {
            "id": one.item_id,
            "status": "failed" if one.row is None else "completed",
            "calculation_id": calculations.get(one.item_id),
            "error_code": one.code,
            "error_message": one.message,
            "stderr": one.stderr or None,
        }
        for one in ended
    ]
    source, values = _as_table(_ITEM_COLUMNS, _by_column(_ITEM_COLUMNS, rows))
    done = connection.execute(text(_END.format(ended=source)), {**values, "token": token})
    if done.rowcount != len(ended):
        raise LeaseLost


def insert_events(connection: Connection, work: Work, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add events to the audit trail.

    Parameters
    ----------
    connection
        In a transaction.
    work
        To whose owner they belong.
    rows
        As :func:`qforge_sdk.db.crud.log_event` takes them.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        What the server reported.
    """
    _insert(connection, work, "event_logs", _EVENT_COLUMNS, _by_column(_EVENT_COLUMNS, rows))


def _batch_end(connection: Connection, work: Work) -> BatchEnd | None:
    """The batch, if nothing of it waits any more: the items that this transaction ended were the last."""
    row = connection.execute(
        text(
            "SELECT batch_name, total_molecules, successful_count, failed_count, started_at, completed_at "
            "FROM public.batch_jobs WHERE id = :batch AND status = 'completed'"
        ),
        work.values,
    ).one_or_none()
    if row is None:
        return None
    seconds = (row.completed_at - row.started_at).total_seconds()
    return BatchEnd(row.batch_name, row.total_molecules, row.successful_count, row.failed_count, seconds)


def _insert(
    connection: Connection,
    work: Work,
    table: str,
    columns: Mapping[str, str],
    given: Mapping[str, Iterable[Any]],
    *,
    returning: str = "",
) -> CursorResult[*tuple[Any, ...]]:
    """Rows that belong to the owner of the batch."""
    source, values = _as_table(columns, given)
    return connection.execute(
        text(
            f"INSERT INTO public.{table} (user_id, {', '.join(columns)}) "
            f"SELECT CAST(:owner AS uuid), t.* FROM {source} AS t {returning and f'RETURNING {returning}'}"
        ),
        {**values, "owner": work.owner},
    )


def _by_column(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in columns}


def _as_table(columns: Mapping[str, str], given: Mapping[str, Iterable[Any]]) -> tuple[str, dict[str, str]]:
    """Columns as SQL, and its parameters."""
    arrays = ", ".join(f"CAST(:c_{name} AS {kind}[])" for name, kind in columns.items())
    source = f"(SELECT * FROM unnest({arrays}) AS u ({', '.join(columns)}))"
    return source, {f"c_{name}": _array(given[name]) for name in columns}


def _array(values: Iterable[Any]) -> str:
    """PostgreSQL's text form of an array: doubles keep every bit, and a thousand of them take the driver no time."""
    return f"{{{','.join(_literal(value) for value in values)}}}"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        # numpy's doubles have another repr.
        return float.__repr__(value)
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    # No text of PostgreSQL holds a NUL, and a broken program prints what it likes.
    escaped = (
        str(value).encode("utf-8", "replace").decode().replace("\0", "").replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'
