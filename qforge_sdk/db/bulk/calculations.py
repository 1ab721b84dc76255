"""Bulk load of calculations."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.sql import SQL
from sqlalchemy import Column, Connection

from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.batches import complete_items, require_batch
from qforge_sdk.db.bulk.columns import (
    CALCULATION_RULES,
    MOLECULE_KEY_RULES,
    MOLECULE_RULES,
    Chunk,
    check_names,
    chunks,
    is_null,
)
from qforge_sdk.db.bulk.conflicts import Conflicts
from qforge_sdk.db.bulk.molecules import check_option, number_texts, reject_invalid
from qforge_sdk.db.bulk.rebuild import without_indexes
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.db.bulk.structures import IntArray, Structures, owned_by
from qforge_sdk.db.bulk.values import BoolArray
from qforge_sdk.db.bulk.write import ROW, Reserved, Writer
from qforge_sdk.db.models import PUBLIC_USER_ID, Calculation
from qforge_sdk.errors import InvalidInput
from qforge_sdk.progress import progress_bar
from qforge_sdk.schemas.reports import LoadReport


def load_calculations(
    connection: Connection,
    source: Any,
    *,
    owner: uuid.UUID | None,
    on_error: str = "collect",
    on_conflict: str = "skip",
    batch_id: int | None = None,
    workers: Any = None,
    progress: bool | None = None,
) -> LoadReport:
    """Validate and insert calculations in the transaction of a connection.

    Parameters
    ----------
    connection
        In a transaction; on an error its owner rolls back.
    source
        Anything that :func:`~qforge_sdk.db.bulk.source.open_source` takes, with ``molecule_id`` or ``smiles`` (which
        registers new molecules, under ``name`` if that column is there); ``molecule_id`` wins where a row has both.
    owner
        Who owns the new rows.
    on_error
        ``"collect"`` or ``"raise"``.
    on_conflict
        For a ``source_id`` of this owner that is stored: ``"skip"``, ``"update"`` or ``"error"``.
    batch_id
        Batch whose items the rows complete.
    workers, progress
        For the validation of SMILES; the bar counts rows too.

    Returns
    -------
    LoadReport
        With the number of molecules that were registered.

    Raises
    ------
    InvalidInput
        The source cannot be read or names no molecules, or an option is unknown.
    NotFound
        No such batch.
    RowsRejected
        ``on_error="raise"`` and a row was refused.
    """
    check_option("on_error", on_error, ("collect", "raise"))
    check_option("on_conflict", on_conflict, ("skip", "update", "error"))
    rows = open_source(source)
    if not {"molecule_id", "smiles"} & set(rows.names) and not rows.is_nothing:
        raise InvalidInput("calculations: the input needs a column molecule_id or smiles", field="molecule_id")
    check_names(rows, ["molecule_id", "smiles", "name", *CALCULATION_RULES], "calculations")
    with progress_bar(progress, "loading calculations", rows.n_rows) as bar:
        writer = Writer.on(connection)
        if batch_id is not None:
            require_batch(writer, batch_id, owner)
        account = Account("calculations", rows)
        molecules = _molecules(rows, writer, owner, account, workers=workers, progress=progress)
        conflicts = Conflicts.of(writer, rows, owner, account, on_conflict=on_conflict)
        load = _Load(writer, rows, owner, account, molecules, conflicts, bar.update)
        load.insert()
        conflicts.settle(load.names)
        if batch_id is not None:
            complete_items(writer, batch_id, owner, account.ids[account.ids > 0])
    return account.report(on_error=on_error)


@dataclass
class _Load:
    """One pass over all columns into the table."""

    writer: Writer
    rows: Source
    owner: uuid.UUID | None
    account: Account
    molecules: IntArray
    conflicts: Conflicts
    advance: Callable[[int], object]
    names: list[str] = field(init=False)
    _inserted: list[BoolArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        given = [name for name in CALCULATION_RULES if name in self.rows.names]
        self.names = ["molecule_id", "user_id", *given]

    def insert(self) -> None:
        names = list(self.names)
        reserved = None
        if not self.writer.subject:
            # One array for both, since it is as long as the input: a chunk's molecules make room for its keys.
            self.account.ids = self.molecules
            reserved = self.writer.reserve(Calculation, self.rows.n_rows)
            names.append("id")
        with (
            self.writer.cursor as cursor,
            without_indexes(cursor, "public.calculations", rows=self.rows.n_rows) as rebuilt,
        ):
            count, keys = self.writer.insert(Calculation, names, self._tables(names, reserved), freeze=rebuilt)
        if self.writer.subject and self._inserted:
            self.account.ids[np.concatenate(self._inserted)] = keys
        self.account.n_inserted = count

    def _tables(self, names: list[str], reserved: Reserved | None) -> Iterator[pa.Table]:
        for chunk in chunks(self.rows, [*self.names, "molecule_id", "smiles"]):
            end = chunk.first_row + chunk.n_rows
            molecules = self.molecules[chunk.first_row : end].copy()
            chunk.good &= molecules > 0
            chunk.columns["molecule_id"] = pa.array(molecules)
            owner = pa.scalar(None if self.owner is None else str(self.owner), pa.string())
            chunk.columns["user_id"] = pa.repeat(owner, chunk.n_rows)
            if reserved is not None:
                keys = reserved.between(chunk.first_row, end)
                chunk.columns["id"] = pa.array(keys)
            chunk.check({name: CALCULATION_RULES[name] for name in self.names[2:]}, self.account)
            _check_rules(chunk, self.account)
            fresh = self.conflicts.divert(chunk, self.names)
            table = chunk.table(names, fresh)
            inserted = chunk.good & fresh
            if reserved is not None:
                self.account.ids[chunk.first_row : end] = np.where(inserted, keys, 0)
            else:
                self._inserted.append(inserted)
            if "metadata" in names:
                place = names.index("metadata")
                table = table.set_column(place, "metadata", pc.fill_null(table["metadata"], "{}"))
            yield table
            self.advance(chunk.n_rows)


def _check_rules(chunk: Chunk, account: Account) -> None:
    """What concerns more than one column."""
    energy = chunk.columns.get("energy", pa.nulls(chunk.n_rows, pa.float64()))
    status = chunk.columns.get("convergence_status", pa.repeat(pa.scalar("converged"), chunk.n_rows))
    converged = np.asarray(pc.equal(status, "converged").to_numpy(zero_copy_only=False), dtype=bool)
    chunk.reject(
        converged & is_null(energy), account, "energy", energy, "missing_energy",
        "a converged calculation has an energy; a failed one says so in convergence_status",
    )  # fmt: skip


def _molecules(
    rows: Source,
    writer: Writer,
    owner: uuid.UUID | None,
    account: Account,
    *,
    workers: Any,
    progress: bool | None,
) -> IntArray:
    """Key of the molecule of each row, 0 where the row is refused for it."""
    keys = np.zeros(rows.n_rows, np.int64)
    if "molecule_id" in rows.names:
        keys = _by_key(rows, writer, owner, account)
    if "smiles" in rows.names and (keys == 0).any():
        _by_smiles(rows, keys, writer, owner, account, workers=workers, progress=progress)
    keys[keys < 0] = 0
    return keys


def _by_key(rows: Source, writer: Writer, owner: uuid.UUID | None, account: Account) -> IntArray:
    """Molecules that are named by key; -1 where that failed, 0 where none is named."""
    keys = np.zeros(rows.n_rows, np.int64)
    named: IntArray = np.zeros(0, np.int64)
    for chunk in chunks(rows, ["molecule_id"]):
        chunk.check(MOLECULE_KEY_RULES, account)
        column = chunk.columns["molecule_id"]
        if "smiles" not in rows.names:
            chunk.reject(
                is_null(column), account, "molecule_id", column, "missing_molecule", "a molecule is needed here"
            )
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        keys[chunk.first_row : chunk.first_row + chunk.n_rows] = np.where(chunk.good, values, -1)
        named = np.union1d(named, values[chunk.good & (values > 0)])
    known = _known(named, writer, owner)
    unknown = (keys > 0) & ~np.isin(keys, known) if len(known) < len(named) else np.zeros(0, bool)
    at = np.flatnonzero(unknown)
    account.reject(
        at, "molecule_id", keys[at].tolist(), "unknown_molecule", "there is no such molecule that you may use"
    )
    keys[at] = -1
    return keys


def _known(keys: IntArray, writer: Writer, owner: uuid.UUID | None) -> IntArray:
    """Those of the keys whose molecule this load may refer to."""
    if not len(keys):
        return keys
    column = Column("key", ROW.type)
    wanted = writer.temporary([column], [pa.table({"key": keys})])
    # What everybody reads must not hang on what only one may read.
    condition = owned_by(owner, "m") if owner == PUBLIC_USER_ID else SQL("true")
    found = writer.fetch(
        SQL("SELECT k.key FROM {wanted} AS k JOIN public.molecules AS m ON m.id = k.key WHERE {condition}"),
        wanted=wanted,
        condition=condition,
    )
    return np.array(found, np.int64).ravel()


def _by_smiles(
    rows: Source,
    keys: IntArray,
    writer: Writer,
    owner: uuid.UUID | None,
    account: Account,
    *,
    workers: Any,
    progress: bool | None,
) -> None:
    """Fill in the molecules of rows that name none by key; new ones are registered."""
    structures = Structures(writer, owner)
    wanted = keys == 0
    places = number_texts(rows, structures, account, only=wanted)
    structures.resolve(public=True, workers=workers, progress=progress)
    reject_invalid(structures, places, account)
    extra = {}
    if "name" in rows.names and structures.missing.any():
        extra["name"] = _names(rows, structures, account, places)
    with writer.cursor as cursor, without_indexes(cursor, "public.molecules", rows=int(structures.missing.sum())):
        account.n_molecules_created = structures.register(extra)
    keys[wanted] = structures.id_of(places)[wanted]


def _names(rows: Source, structures: Structures, account: Account, places: IntArray) -> pa.Array:
    """Name of each distinct text, from the first row that has it; a bad name refuses its row."""
    found: list[str | None] = [None] * len(structures)
    for chunk in chunks(rows, ["name"]):
        here = places[chunk.first_row : chunk.first_row + chunk.n_rows]
        chunk.good &= here >= 0
        chunk.check({"name": MOLECULE_RULES["name"]}, account)
        here[~chunk.good] = -1
        for place, name in zip(here.tolist(), chunk.columns["name"].to_pylist(), strict=True):
            if place >= 0 and name is not None and found[place] is None:
                found[place] = name
    return pa.array(found, pa.string())
