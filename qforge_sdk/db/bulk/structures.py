"""The distinct SMILES of an input: validated once, looked up once, registered once."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.sql import SQL, Composable, Literal
from sqlalchemy import Column, LargeBinary

from qforge_sdk.chem import validate_many
from qforge_sdk.db.bulk.columns import is_null
from qforge_sdk.db.bulk.write import ROW, Writer
from qforge_sdk.db.models import PUBLIC_USER_ID, Molecule

_BLOCK: Final = 50_000
_HASH_BYTES: Final = 32
_KEY_COLUMN: Final = Column("identity_hash", LargeBinary)
_STORED: Final = (
    "smiles",
    "inchikey",
    "formula",
    "charge",
    "fingerprint",
    "fingerprint_popcount",
    "input_smiles",
    "rdkit_version",
)

IntArray = npt.NDArray[np.int64]


class Structures:
    """Distinct texts, numbered by first appearance.

    Parameters
    ----------
    writer
        Way into the database.
    owner
        Owner of what is registered.
    """

    def __init__(self, writer: Writer, owner: uuid.UUID | None) -> None:
        self._writer = writer
        self._owner = owner
        self._places: dict[str, int] = {}
        self._file = tempfile.TemporaryFile(prefix="qforge-structures-")  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._file.close)
        self._offsets: list[int] = []
        self.first_rows: list[int] = []
        self.faults: dict[int, tuple[str, str]] = {}
        self.ids: IntArray = np.zeros(0, np.int64)
        self.twins: IntArray = np.zeros(0, np.int64)
        self.missing: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self._texts: list[str] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def add(self, texts: pa.Array, first_row: int) -> IntArray:
        """Number the texts of a chunk.

        Parameters
        ----------
        texts
            Text, null where there is none.
        first_row
            Number of the first of them in the input.

        Returns
        -------
        numpy.ndarray
            Number of each text, -1 where there is none.
        """
        encoded = texts.dictionary_encode()
        seen = np.empty(len(encoded.dictionary) + 1, np.int64)
        seen[-1] = -1
        codes = np.where(is_null(texts), -1, pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False))
        for code, value in enumerate(encoded.dictionary.to_pylist()):
            place = self._places.setdefault(value, len(self._places))
            if place == len(self.first_rows):
                self.first_rows.append(-1)
            seen[code] = place
        places = seen[codes]
        fresh, where = np.unique(places, return_index=True)
        for place, at in zip(fresh.tolist(), where.tolist(), strict=True):
            if place >= 0 and self.first_rows[place] < 0:
                self.first_rows[place] = first_row + at
        return places

    def resolve(self, *, public: bool, workers: Any, progress: bool | None) -> None:
        """Validate all texts and find those that are stored.

        Parameters
        ----------
        public
            Whether public molecules will do as well as one's own.
        workers, progress
            For the validation.
        """
        hashes = self._validate(workers=workers, progress=progress)
        self.twins = _twins(hashes)
        self.ids = np.zeros(len(self), np.int64)
        valid = np.ones(len(self), bool)
        valid[list(self.faults)] = False
        first = valid & (self.twins == np.arange(len(self)))
        self._look_up(first, hashes, public=public)
        if (first & (self.ids == 0)).any():
            # Two loads that register the same molecules take turns.
            self._writer.take_turns(f"smiles {self._owner}")
            self._look_up(first & (self.ids == 0), hashes, public=public)
        self.missing = first & (self.ids == 0)
        self.ids = self.ids[self.twins]

    def keep(self, usable: npt.NDArray[np.bool_]) -> None:
        """Register only texts that some good row has; of several spellings the first usable one stands for all."""
        spoilt = self.missing & ~usable
        if not spoilt.any():
            return
        others = np.flatnonzero(usable & spoilt[self.twins])
        replaced, at = np.unique(self.twins[others], return_index=True)
        heirs = np.arange(len(self))
        heirs[replaced] = others[at]
        self.twins = heirs[self.twins]
        self.missing &= usable
        self.missing[others[at]] = True

    def text(self, place: int) -> str:
        """The text of a number."""
        if self._texts is None:
            self._texts = list(self._places)
        return self._texts[place]

    def formulas(self) -> pa.Array:
        """Computed formula of each text, null where it is refused."""
        parts = [block["formula"].combine_chunks() for _, block in self.blocks()]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def id_of(self, places: IntArray) -> IntArray:
        """Key of the molecule of each place, 0 where there is none."""
        return np.append(self.ids, 0)[places]

    def blocks(self) -> Iterator[tuple[int, pa.Table]]:
        """Validated texts in their order: number of the first one, and their table."""
        for block, offset in enumerate(self._offsets):
            self._file.seek(offset)
            with pa.ipc.open_stream(self._file) as reader:
                yield block * _BLOCK, reader.read_all()

    def register(self, extra: dict[str, pa.Array], *, advance: Callable[[int], object] = lambda _n: None) -> int:
        """Insert what is missing.

        Parameters
        ----------
        extra
            Further columns (name, metadata), one entry a text.
        advance
            Is told the number of rows of each part that is sent.

        Returns
        -------
        int
            Molecules inserted; ``ids`` is complete then.
        """
        places = np.flatnonzero(self.missing)
        if not len(places):
            return 0
        reserved = None
        if not self._writer.subject:
            reserved = self._writer.reserve(Molecule, len(places)).between(0, len(places))
        names = [*_STORED, *extra, "user_id", *(["id"] if reserved is not None else [])]
        count, keys = self._writer.insert(Molecule, names, self._rows(reserved, extra, advance))
        self.ids[places] = keys if reserved is None else reserved
        self.ids = self.ids[self.twins]
        return count

    def _rows(
        self, reserved: IntArray | None, extra: dict[str, pa.Array], advance: Callable[[int], object]
    ) -> Iterator[pa.Table]:
        done = 0
        for start, block in self.blocks():
            mask = self.missing[start : start + len(block)]
            chosen = pa.array(np.flatnonzero(mask))
            table = block.select(list(_STORED)).take(chosen)
            for name, values in extra.items():
                table = table.append_column(name, values.slice(start, len(block)).take(chosen))
            owner = None if self._owner is None else str(self._owner)
            table = table.append_column("user_id", pa.array([owner] * len(table), pa.string()))
            if reserved is not None:
                table = table.append_column("id", pa.array(reserved[done : done + len(table)]))
            done += len(table)
            yield table
            advance(len(table))

    def _validate(self, *, workers: Any, progress: bool | None) -> npt.NDArray[np.uint8]:
        hashes = np.zeros((len(self), _HASH_BYTES), np.uint8)
        texts = list(self._places)
        for start in range(0, len(texts), _BLOCK):
            found = validate_many(
                pa.array(texts[start : start + _BLOCK], pa.string()), workers=workers, progress=progress
            )
            self._offsets.append(self._file.tell())
            with pa.ipc.new_stream(
                self._file, found.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
            ) as sink:
                sink.write_table(found)
            for place in np.flatnonzero(~np.asarray(found["ok"])).tolist():
                self.faults[start + place] = (found["code"][place].as_py(), found["reason"][place].as_py())
            digests = b"".join(
                hashlib.sha256(canonical.encode()).digest() if canonical is not None else bytes(_HASH_BYTES)
                for canonical in found["smiles"].to_pylist()
            )
            hashes[start : start + len(found)] = np.frombuffer(digests, np.uint8).reshape(-1, _HASH_BYTES)
        return hashes

    def _look_up(self, which: npt.NDArray[np.bool_], hashes: npt.NDArray[np.uint8], *, public: bool) -> None:
        places = np.flatnonzero(which)
        if not len(places):
            return
        wanted = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(_HASH_BYTES), len(places), [None, pa.py_buffer(np.ascontiguousarray(hashes[places]))]
        ).cast(pa.binary())
        keys = self._writer.temporary([ROW, _KEY_COLUMN], [pa.table({"row": places, "identity_hash": wanted})])
        # The public ones first, so that one's own take their place.
        owners = [PUBLIC_USER_ID] * public + [self._owner]
        for owner in dict.fromkeys(owners):
            found = self._writer.fetch(
                SQL(
                    "SELECT k.row, m.id FROM {keys} AS k JOIN public.molecules AS m "
                    "ON m.identity_hash = k.identity_hash AND {own}"
                ),
                keys=keys,
                own=owned_by(owner, "m"),
            )
            if found:
                rows, ids = np.array(found, np.int64).T
                self.ids[rows] = ids


def owned_by(owner: uuid.UUID | None, alias: str) -> Composable:
    """SQL condition on the owner of a row, in a form that an index serves."""
    if owner is None:
        return SQL(f"{alias}.user_id IS NULL")
    return SQL(f"{alias}.user_id = {{}}").format(Literal(str(owner)))


def _twins(hashes: npt.NDArray[np.uint8]) -> IntArray:
    """For each text the first one of the same canonical form, by its hash."""
    here = np.arange(len(hashes))
    if not len(hashes):
        return here
    short = np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()
    _, first, inverse = np.unique(short, return_index=True, return_inverse=True)
    twins = first[inverse]
    same = (hashes == hashes[twins]).all(axis=1) & hashes.any(axis=1)
    return np.where(same, twins, here)
