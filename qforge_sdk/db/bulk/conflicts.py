"""Rows whose ``source_id`` is stored already, or stands in the input twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.sql import SQL
from sqlalchemy import Column, String

from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.columns import CALCULATION_RULES, Chunk, chunks
from qforge_sdk.db.bulk.source import Source
from qforge_sdk.db.bulk.structures import IntArray, owned_by
from qforge_sdk.db.bulk.values import BoolArray, apply
from qforge_sdk.db.bulk.write import ROW, Writer, columns_of, listed
from qforge_sdk.db.models import Calculation

_SOURCE_ID: Final = Column("source_id", String(255))
_STORED: Final = 1

_IF_STORED: Final = {
    "skip": ("changed", 'the stored calculation of this source_id differs; on_conflict="update" replaces it'),
    "error": ("exists", "a calculation of this source_id is stored"),
}
_IF_REPEATED: Final = ("duplicate_in_load", "an earlier row of this input has the same source_id and other values")

_FIND = """
SELECT k.row, CASE WHEN c.id IS NOT NULL THEN 1 ELSE 2 END
FROM (SELECT row, source_id, row_number() OVER (PARTITION BY source_id ORDER BY row) AS turn FROM {keys}) AS k
LEFT JOIN public.calculations AS c ON c.source_id = k.source_id AND {own}
WHERE c.id IS NOT NULL OR k.turn > 1
"""

_INSERT_FIRST = """
INSERT INTO public.calculations ({listed}) SELECT {values}
FROM (SELECT DISTINCT ON (source_id) * FROM {staged} ORDER BY source_id, row) AS s
WHERE NOT EXISTS (SELECT FROM public.calculations AS c WHERE c.source_id = s.source_id AND {own})
RETURNING id
"""

_PAIRS = """
SELECT s.row, c.id, s.source_id, ROW({mine}) IS NOT DISTINCT FROM ROW({theirs}),
       row_number() OVER (PARTITION BY c.id ORDER BY s.row) = 1
FROM {staged} AS s JOIN public.calculations AS c ON c.source_id = s.source_id AND {own}
ORDER BY s.row
"""

_UPDATE = """
UPDATE public.calculations AS c SET ({listed}) = ROW({mine})
FROM (SELECT DISTINCT ON (source_id) * FROM {staged} ORDER BY source_id, row DESC) AS s
WHERE c.source_id = s.source_id AND {own} AND ROW({mine}) IS DISTINCT FROM ROW({theirs})
"""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Rows in question, the stored calculation of each, whether both are equal, and whether the row became it."""

    rows: IntArray
    keys: IntArray
    source_ids: npt.NDArray[np.object_]
    same: BoolArray
    new: BoolArray

    @classmethod
    def of(cls, pairs: list[tuple[Any, ...]], inserted: list[tuple[Any, ...]]) -> _Pairs:
        rows, keys, source_ids, same, first = zip(*pairs, strict=True)
        numbers = np.array(keys, np.int64)
        new = np.array(first, bool) & np.isin(numbers, np.array(inserted, np.int64).ravel())
        return cls(np.array(rows, np.int64), numbers, np.array(source_ids, object), np.array(same, bool), new)


@dataclass
class Conflicts:
    """Rows that wait until the others are in, to be compared with what is stored then.

    Parameters
    ----------
    writer, owner, account
        Of the load.
    on_conflict
        What to do with a stored one.
    kinds
        For each row of the input 0, stored or repeated; empty when there are none of both.
    """

    writer: Writer
    owner: uuid.UUID | None
    account: Account
    on_conflict: str
    kinds: npt.NDArray[np.int8]
    _waiting: list[pa.Table] = field(default_factory=list)

    @classmethod
    def of(
        cls, writer: Writer, rows: Source, owner: uuid.UUID | None, account: Account, *, on_conflict: str
    ) -> Conflicts:
        """Find the rows in question; without a ``source_id`` or a match this costs next to nothing."""
        kinds = np.zeros(0, np.int8)
        if "source_id" in rows.names and rows.n_rows:
            # Two loads of the same keys take turns.
            writer.take_turns(f"source_id {owner}")
            found = cls._find(writer, rows, owner)
            if found:
                kinds = np.zeros(rows.n_rows, np.int8)
                at, what = np.array(found, np.int64).T
                kinds[at] = what
        return cls(writer, owner, account, on_conflict, kinds)

    @staticmethod
    def _find(writer: Writer, rows: Source, owner: uuid.UUID | None) -> list[tuple[Any, ...]]:
        own = owned_by(owner, "c")
        stored = writer.fetch(
            SQL("SELECT EXISTS (SELECT FROM public.calculations AS c WHERE c.source_id IS NOT NULL AND {own})"),
            own=own,
        )
        if stored == [(False,)] and _all_distinct(rows):
            return []
        keys = writer.temporary([ROW, _SOURCE_ID], _source_ids(rows))
        return writer.fetch(SQL(_FIND), keys=keys, own=own)

    def divert(self, chunk: Chunk, names: list[str]) -> BoolArray:
        """Keep the rows in question back; which rows of the chunk are none of them."""
        if not len(self.kinds):
            return np.ones(chunk.n_rows, bool)
        mine: BoolArray = self.kinds[chunk.first_row : chunk.first_row + chunk.n_rows] > 0
        if (mine & chunk.good).any():
            self._waiting.append(chunk.table(["row", *names], mine))
        return ~mine

    def settle(self, names: list[str]) -> None:
        """Compare the rows in question with what is stored now; insert those that have no partner after all.

        Parameters
        ----------
        names
            Columns of the input that are compared.
        """
        if not self._waiting:
            return
        staged = self.writer.temporary([ROW, *columns_of(Calculation, names)], map(self._filled, self._waiting))
        compared = [name for name in names if name not in {"user_id", "source_id"}]
        shared = {
            "staged": staged,
            "own": owned_by(self.owner, "c"),
            "mine": listed(compared, "s"),
            "theirs": listed(compared, "c"),
        }
        new = self.writer.fetch(SQL(_INSERT_FIRST), **shared, listed=listed(names), values=self.writer.values(names))
        pairs = _Pairs.of(self.writer.fetch(SQL(_PAIRS), **shared), new)
        self.account.n_inserted += len(new)
        self.account.ids[pairs.rows] = pairs.keys
        refused = self._refuse(pairs)
        self.account.ids[refused] = 0
        self.account.n_existing += len(pairs.rows) - len(new) - len(refused)
        if self.on_conflict == "update":
            with self.writer.cursor as cursor:
                cursor.execute(SQL(_UPDATE).format(**shared, listed=listed(compared)))
                self.account.n_updated = cursor.rowcount

    def _refuse(self, pairs: _Pairs) -> IntArray:
        """Refuse what ``on_conflict`` does not allow; the rows."""
        if self.on_conflict == "update":
            return np.zeros(0, np.int64)
        stored = (self.kinds[pairs.rows] == _STORED) & ~pairs.new
        again = ~stored & ~pairs.new & ~pairs.same
        if self.on_conflict == "skip":
            stored &= ~pairs.same
        for mask, (code, reason) in ((stored, _IF_STORED[self.on_conflict]), (again, _IF_REPEATED)):
            self.account.reject(pairs.rows[mask], "source_id", pairs.source_ids[mask].tolist(), code, reason)
        return np.asarray(pairs.rows[stored | again])

    @staticmethod
    def _filled(table: pa.Table) -> pa.Table:
        if "metadata" not in table.column_names:
            return table
        place = table.column_names.index("metadata")
        return table.set_column(place, "metadata", pc.fill_null(table["metadata"], "{}"))


def _texts(rows: Source) -> Iterator[tuple[Chunk, pa.Array]]:
    for chunk in chunks(rows, ["source_id"]):
        yield chunk, apply(CALCULATION_RULES["source_id"], chunk.raw("source_id"))[0]


def _source_ids(rows: Source) -> Iterator[pa.Table]:
    for chunk, texts in _texts(rows):
        yield pa.table({"row": chunk.rows, "source_id": texts}).filter(pc.is_valid(texts))


def _all_distinct(rows: Source) -> bool:
    """Whether no ``source_id`` stands twice, counted in memory as long as that is small."""
    parts, size = [], 0
    for _, texts in _texts(rows):
        parts.append(texts.drop_null())
        size += texts.nbytes
        if size > 128 * 2**20:
            return False
    whole = pa.chunked_array(parts, pa.string())
    return bool(pc.count_distinct(whole).as_py() == len(whole))
