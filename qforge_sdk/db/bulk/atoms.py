"""Bulk load of atoms."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.sql import SQL, Composable
from sqlalchemy import BigInteger, Column, Connection, String

from qforge_sdk.chem.geometry import element_symbol
from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.columns import ATOM_KEY_RULES, ATOM_RULES, Chunk, check_names, chunks, is_null
from qforge_sdk.db.bulk.molecules import check_option
from qforge_sdk.db.bulk.rebuild import without_indexes
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.db.bulk.structures import IntArray, owned_by
from qforge_sdk.db.bulk.values import apply
from qforge_sdk.db.bulk.write import ROW, Writer, columns_of, listed
from qforge_sdk.db.models import AtomicProperty
from qforge_sdk.errors import InvalidInput
from qforge_sdk.progress import progress_bar
from qforge_sdk.schemas.reports import LoadReport

_SYMBOLS: Final = pa.array([element_symbol(number) for number in range(1, 119)])
_KEY: Final[Column[Any]] = Column("key", BigInteger)
_SOURCE_ID: Final[Column[Any]] = Column("source_id", String(255))

_BY_KEY = "SELECT k.row, c.id FROM {keys} AS k JOIN public.calculations AS c ON c.id = k.key AND {own}"
_BY_SOURCE_ID = (
    "SELECT k.row, c.id FROM {keys} AS k JOIN public.calculations AS c ON c.source_id = k.source_id AND {own}"
)

_IF_STORED: Final = ("changed", "another atom of this calculation and index is stored; delete that one first")
_IF_REPEATED: Final = ("duplicate_in_load", "an earlier row of this input has the same atom and other values")

_DIFFERING = """
SELECT s.row, s.atom_index
FROM {staged} AS s JOIN public.atomic_properties AS a
ON a.calculation_id = s.calculation_id AND a.atom_index = s.atom_index AND {own}
WHERE ROW({mine}) IS DISTINCT FROM ROW({theirs})
ORDER BY s.row
"""

_INSERT_NEW = """
INSERT INTO public.atomic_properties ({listed}) SELECT {values}
FROM (SELECT DISTINCT ON (calculation_id, atom_index) * FROM {staged} ORDER BY calculation_id, atom_index, row) AS s
WHERE NOT EXISTS (
    SELECT FROM public.atomic_properties AS a
    WHERE a.calculation_id = s.calculation_id AND a.atom_index = s.atom_index AND {own}
)
"""


def load_atoms(
    connection: Connection,
    source: Any,
    *,
    owner: uuid.UUID | None,
    on_error: str = "collect",
    progress: bool | None = None,
) -> LoadReport:
    """Validate and insert atoms in the transaction of a connection.

    Parameters
    ----------
    connection
        In a transaction; on an error its owner rolls back.
    source
        Anything that :func:`~qforge_sdk.db.bulk.source.open_source` takes, with ``calculation_id`` or ``source_id``,
        ``atom_index``, ``element`` or ``atomic_number``, and positions.
    owner
        Whose calculations they belong to.
    on_error
        ``"collect"`` or ``"raise"``.
    progress
        Show a bar; None shows one after 2 s where somebody looks.

    Returns
    -------
    LoadReport
        Without keys: an atom's key is its calculation and index.

    Raises
    ------
    InvalidInput
        The source cannot be read or lacks a column, or an option is unknown.
    RowsRejected
        ``on_error="raise"`` and a row was refused.
    """
    check_option("on_error", on_error, ("collect", "raise"))
    rows = open_source(source)
    check_names(rows, [*ATOM_KEY_RULES, *ATOM_RULES], "atomic_properties")
    if not rows.is_nothing:
        _check_columns(rows)
    account = Account("atomic_properties", rows, keyed=False)
    with progress_bar(progress, "loading atoms", rows.n_rows) as bar:
        writer = Writer.on(connection)
        load = _Load(writer, rows, owner, account, _calculations(rows, writer, owner, account), bar.update)
        load.insert()
        load.settle()
    return account.report(on_error=on_error)


def _check_columns(rows: Source) -> None:
    for choice in (("calculation_id", "source_id"), ("element", "atomic_number")):
        if not set(choice) & set(rows.names):
            raise InvalidInput(f"atoms: the input needs a column {' or '.join(choice)}", field=choice[0])
    for name in ("atom_index", "position_x", "position_y", "position_z"):
        if name not in rows.names:
            raise InvalidInput(f"atoms: the input needs a column {name}", field=name)


@dataclass
class _Load:
    """One pass over all columns into the table."""

    writer: Writer
    rows: Source
    owner: uuid.UUID | None
    account: Account
    calculations: IntArray
    advance: Callable[[int], object]

    def __post_init__(self) -> None:
        given = [name for name in ATOM_RULES if name in self.rows.names or name in {"element", "atomic_number"}]
        self.names = ["calculation_id", "user_id", *given]
        self._doubtful = self._repeats() | self._have_atoms()
        self._waiting: list[pa.Table] = []

    def insert(self) -> None:
        with (
            self.writer.cursor as cursor,
            without_indexes(cursor, "public.atomic_properties", rows=self.rows.n_rows) as rebuilt,
        ):
            self.account.n_inserted, _ = self.writer.insert(
                AtomicProperty, self.names, self._tables(), freeze=rebuilt
            )

    def settle(self) -> None:
        """Rows of calculations that have atoms, or that stand twice: equal to a stored one, different, or new."""
        if not self._waiting:
            return
        staged = self.writer.temporary([ROW, *columns_of(AtomicProperty, self.names)], self._waiting)
        changed = self._differing(staged)
        new = self._insert_new(staged)
        repeated = self._differing(staged)
        repeated = {row: index for row, index in repeated.items() if row not in changed}
        for found, (code, reason) in ((changed, _IF_STORED), (repeated, _IF_REPEATED)):
            self.account.reject(np.array(list(found), np.int64), "atom_index", list(found.values()), code, reason)
        staged_rows = sum(table.num_rows for table in self._waiting)
        self.account.n_inserted += new
        self.account.n_existing += staged_rows - new - len(changed) - len(repeated)

    def _differing(self, staged: Composable) -> dict[int, int]:
        """Rows whose atom is stored with other values, and their atom index."""
        compared = [name for name in self.names if name not in {"user_id", "calculation_id", "atom_index"}]
        found = self.writer.fetch(
            SQL(_DIFFERING),
            staged=staged,
            own=owned_by(self.owner, "a"),
            mine=listed(compared, "s"),
            theirs=listed(compared, "a"),
        )
        return dict(found)

    def _insert_new(self, staged: Composable) -> int:
        with self.writer.cursor as cursor:
            cursor.execute(
                SQL(_INSERT_NEW).format(
                    listed=listed(self.names),
                    values=self.writer.values(self.names),
                    staged=staged,
                    own=owned_by(self.owner, "a"),
                )
            )
            return int(cursor.rowcount)

    def _tables(self) -> Iterator[pa.Table]:
        for chunk in chunks(self.rows, [*ATOM_KEY_RULES, *ATOM_RULES]):
            end = chunk.first_row + chunk.n_rows
            calculations = self.calculations[chunk.first_row : end]
            chunk.good &= calculations > 0
            chunk.columns["calculation_id"] = pa.array(calculations)
            owner = pa.scalar(None if self.owner is None else str(self.owner), pa.string())
            chunk.columns["user_id"] = pa.repeat(owner, chunk.n_rows)
            chunk.check({name: ATOM_RULES[name] for name in self.names[2:]}, self.account)
            _check_elements(chunk, self.account)
            if "metadata" in chunk.columns:
                chunk.columns["metadata"] = pc.fill_null(chunk.columns["metadata"], "{}")
            doubtful = self._doubtful[chunk.first_row : end]
            if (doubtful & chunk.good).any():
                self._waiting.append(chunk.table(["row", *self.names], doubtful))
            yield chunk.table(self.names, ~doubtful)
            self.advance(chunk.n_rows)

    def _repeats(self) -> Any:
        """All rows when an atom may stand twice: those that are in order cannot."""
        last = (0, -1)
        for chunk in chunks(self.rows, ["atom_index"]):
            index, _ = apply(ATOM_RULES["atom_index"], chunk.raw("atom_index"))
            numbers = pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)
            keys = self.calculations[chunk.first_row : chunk.first_row + chunk.n_rows]
            used = keys > 0
            pairs = np.concatenate([[last], np.stack([keys[used], numbers[used]], axis=1)])
            step = np.diff(pairs, axis=0)
            if not ((step[:, 0] > 0) | ((step[:, 0] == 0) & (step[:, 1] > 0))).all():
                return np.ones(self.rows.n_rows, bool)
            last = (int(pairs[-1, 0]), int(pairs[-1, 1]))
        return np.zeros(self.rows.n_rows, bool)

    def _have_atoms(self) -> Any:
        """Rows of calculations that have atoms already."""
        if self.writer.fetch(SQL("SELECT EXISTS (SELECT FROM public.atomic_properties)")) == [(False,)]:
            return np.zeros(self.rows.n_rows, bool)
        named = np.unique(self.calculations[self.calculations > 0])
        keys = self.writer.temporary([_KEY], [pa.table({"key": named})])
        found = self.writer.fetch(
            SQL(
                "SELECT k.key FROM {keys} AS k WHERE EXISTS "
                "(SELECT FROM public.atomic_properties AS a WHERE a.calculation_id = k.key AND {own})"
            ),
            keys=keys,
            own=owned_by(self.owner, "a"),
        )
        return np.isin(self.calculations, np.array(found, np.int64).ravel())


def _check_elements(chunk: Chunk, account: Account) -> None:
    """Element and atomic number from each other; they must agree where both are given."""
    element, number = chunk.columns["element"], chunk.columns["atomic_number"]
    found = pc.add(pc.cast(pc.index_in(element, _SYMBOLS), pa.int16()), pa.scalar(1, pa.int16()))
    unknown = is_null(found) & ~is_null(element)
    chunk.reject(unknown, account, "element", element, "unknown_element", "there is no element of this symbol")
    nothing = is_null(element) & is_null(number)
    chunk.reject(nothing, account, "element", element, "missing", "an element or an atomic number is needed here")
    differ = np.asarray(pc.fill_null(pc.not_equal(found, number), False).to_numpy(zero_copy_only=False), dtype=bool)
    chunk.reject(differ, account, "element", element, "element_mismatch", "element and atomic_number disagree")
    chunk.columns["atomic_number"] = pc.coalesce(number, found)
    symbols = _SYMBOLS.take(pc.subtract(pc.cast(chunk.columns["atomic_number"], pa.int32()), 1))
    chunk.columns["element"] = pc.coalesce(element, symbols)


def _calculations(rows: Source, writer: Writer, owner: uuid.UUID | None, account: Account) -> IntArray:
    """Key of the calculation of each row, 0 where the row is refused for it."""
    name = "calculation_id" if "calculation_id" in rows.names else "source_id"
    key, query = (_KEY, _BY_KEY) if name == "calculation_id" else (_SOURCE_ID, _BY_SOURCE_ID)
    places: dict[Any, int] = {}
    numbers = []
    for chunk in chunks(rows, [name]):
        chunk.check({name: ATOM_KEY_RULES[name]}, account)
        column = chunk.columns[name]
        chunk.reject(is_null(column), account, name, chunk.raw(name), "missing", "a calculation is needed here")
        encoded = column.dictionary_encode()
        seen = np.array([places.setdefault(v, len(places)) for v in encoded.dictionary.to_pylist()] + [-1], np.int64)
        codes = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        numbers.append(np.where(chunk.good, seen[codes], -1))
    number = np.concatenate(numbers) if numbers else np.zeros(0, np.int64)
    table = pa.table({"row": np.arange(len(places)), key.name: pa.array(list(places), _arrow(key))})
    keys = writer.temporary([ROW, key], [table])
    ids = np.zeros(len(places) + 1, np.int64)
    for row, found_id in writer.fetch(SQL(query), keys=keys, own=owned_by(owner, "c")):
        ids[row] = found_id
    found = np.where(number >= 0, ids[number], 0)
    at = np.flatnonzero((number >= 0) & (found == 0))
    texts = list(places)
    account.reject(
        at, name, [texts[n] for n in number[at]], "unknown_calculation", "there is no such calculation of yours"
    )
    return found


def _arrow(column: Column[Any]) -> pa.DataType:
    return pa.int64() if isinstance(column.type, BigInteger) else pa.string()
