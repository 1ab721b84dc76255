"""Rows whose ``source_id`` is stored already, or stands in the input twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.sql import SQL, Composable, Literal
from sqlalchemy import Column, String

from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.columns import CALCULATION_RULES, Chunk, chunks
from qforge_sdk.db.bulk.source import Source
from qforge_sdk.db.bulk.structures import owned_by
from qforge_sdk.db.bulk.values import BoolArray, apply
from qforge_sdk.db.bulk.write import ROW, Writer, columns_of, listed
from qforge_sdk.db.models import Calculation

_SOURCE_ID: Final = Column("source_id", String(255))
_STORED, _REPEATED = 1, 2

_FIND = """
SELECT k.row, CASE WHEN c.id IS NOT NULL THEN 1 ELSE 2 END
FROM (SELECT row, source_id, row_number() OVER (PARTITION BY source_id ORDER BY row) AS turn FROM {keys}) AS k
LEFT JOIN public.calculations AS c ON c.source_id = k.source_id AND {own}
WHERE c.id IS NOT NULL OR k.turn > 1
"""

_PAIRS = """
SELECT s.row, c.id, ROW({mine}) IS NOT DISTINCT FROM ROW({theirs})
FROM {staged} AS s LEFT JOIN public.calculations AS c ON c.source_id = s.source_id AND {own}
ORDER BY s.row
"""

_UPDATE = """
UPDATE public.calculations AS c SET ({listed}) = ROW({mine})
FROM (SELECT DISTINCT ON (source_id) * FROM {staged} WHERE row = ANY (%s) ORDER BY source_id, row DESC) AS s
WHERE c.source_id = s.source_id AND {own}
"""


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
    kinds: Any
    _waiting: list[pa.Table] = field(default_factory=list)

    @classmethod
    def of(
        cls, writer: Writer, rows: Source, owner: uuid.UUID | None, account: Account, *, on_conflict: str
    ) -> Conflicts:
        """Find the rows in question; without a ``source_id`` or a match this costs next to nothing."""
        kinds = np.zeros(0, np.int8)
        if "source_id" in rows.names and rows.n_rows:
            # Two loads of the same keys take turns.
            writer.fetch(
                SQL("SELECT pg_advisory_xact_lock(hashtextextended({key}, 0))"), key=Literal(f"source_id {owner}")
            )
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
        mine = self.kinds[chunk.first_row : chunk.first_row + chunk.n_rows] > 0
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
        staged = self.writer.temporary(
            [ROW, *columns_of(Calculation, names)], [self._filled(table) for table in self._waiting]
        )
        compared = [name for name in names if name not in {"user_id", "source_id"}]
        self._insert_unmatched(staged, names)
        pairs = self.writer.fetch(
            SQL(_PAIRS),
            staged=staged,
            own=owned_by(self.owner, "c"),
            mine=listed(compared, "s"),
            theirs=listed(compared, "c"),
        )
        changed = [row for row, _, same in pairs if not same and self.account.ids[row] == 0]
        for row, key, _ in pairs:
            self.account.ids[row] = key
        inserted = int(sum(1 for row, _, _ in pairs if row in self._new))
        refused = self._refused(changed, [row for row, _, _ in pairs if row not in self._new])
        self.account.ids[refused] = 0
        self.account.n_existing += len(pairs) - inserted - len(refused)
        if self.on_conflict == "update" and changed:
            self._update(staged, compared, changed)

    def _refused(self, changed: list[int], matched: list[int]) -> list[int]:
        """Refuse what ``on_conflict`` does not allow."""
        if self.on_conflict == "error":
            at = np.array([row for row in matched if self.kinds[row] == _STORED], np.int64)
            self.account.reject(
                at, "source_id", [None] * len(at), "exists", "a calculation of this source_id is stored"
            )
            again = np.array([row for row in changed if self.kinds[row] == _REPEATED], np.int64)
        elif self.on_conflict == "skip":
            at = np.array([row for row in changed if self.kinds[row] == _STORED], np.int64)
            self.account.reject(
                at, "source_id", [None] * len(at), "changed",
                'the stored calculation of this source_id differs; on_conflict="update" replaces it',
            )  # fmt: skip
            again = np.array([row for row in changed if self.kinds[row] == _REPEATED], np.int64)
        else:
            return []
        self.account.reject(
            again, "source_id", [None] * len(again), "duplicate_in_load",
            "an earlier row of this input has the same source_id and other values",
        )  # fmt: skip
        return [*at.tolist(), *again.tolist()]

    def _update(self, staged: Composable, names: list[str], rows: list[int]) -> None:
        with self.writer.cursor as cursor:
            cursor.execute(
                SQL(_UPDATE).format(
                    listed=listed(names),
                    mine=listed(names, "s"),
                    staged=staged,
                    own=owned_by(self.owner, "c"),
                ),
                (rows,),
            )
        self.account.n_updated = len(rows)

    def _insert_unmatched(self, staged: Composable, names: list[str]) -> None:
        """Rows whose earlier namesake was refused: the first of each is new."""
        self._new: set[int] = set()
        found = self.writer.fetch(
            SQL(
                "SELECT DISTINCT ON (s.source_id) s.row FROM {staged} AS s WHERE NOT EXISTS "
                "(SELECT FROM public.calculations AS c WHERE c.source_id = s.source_id AND {own}) "
                "ORDER BY s.source_id, s.row"
            ),
            staged=staged,
            own=owned_by(self.owner, "c"),
        )
        if not found:
            return
        self._new = {row for (row,) in found}
        with self.writer.cursor as cursor:
            cursor.execute(
                SQL(
                    "INSERT INTO public.calculations ({listed}) SELECT {values} FROM {staged} AS s WHERE s.row = ANY (%s)"
                ).format(listed=listed(names), values=self.writer.values(names), staged=staged),
                (sorted(self._new),),
            )
            self.account.n_inserted += cursor.rowcount

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
