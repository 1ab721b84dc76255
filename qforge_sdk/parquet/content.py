"""A hash of a table's rows that depends neither on their order nor on how they are spread over files.

Definition, all arithmetic on unsigned 64-bit integers modulo 2**64:

- ``mix(z)`` is the finaliser of splitmix64: ``z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27;
  z *= 0x94D049BB133111EB; z ^= z >> 31``.
- The seed of a column is the first 8 bytes, little-endian, of the SHA-256 of its name in UTF-8.
- A value becomes a 64-bit word: an integer its two's complement, a boolean 0 or 1, a double its IEEE 754 bits (so
  -0.0 is not 0.0), a time its microseconds since 1970-01-01 UTC. Text (UTF-8) and bytes of length ``n`` are padded
  with zeros to whole 8-byte little-endian words ``w[0], w[1], ...``; theirs is
  ``n + sum(mix(w[i] + (i + 1) * GOLDEN))`` with ``GOLDEN = 0x9E3779B97F4A7C15``.
- A row is ``r = sum(mix(word + seed))`` over its columns; a null adds nothing, so a column added later and null in
  every row leaves the hash as it was.
- The table is the 128-bit number whose high half is the sum over its rows of ``mix(r)`` and whose low half is that of
  ``mix(r ^ GOLDEN)``, written as 32 hexadecimal digits.

It finds accidents, not forgers; against those the manifest holds the SHA-256 of each file.

References
----------
Steele, Lea, Flood, "Fast splittable pseudorandom number generators", doi:10.1145/2660193.2660195 (splitmix64).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_STEPS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
# Arrays of this many words stay in the processor's cache: twice as fast as 131,072 rows at a time.
_SLICE_ROWS: Final = 16_384
_SLICE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """Number of rows and the hash of what they hold; contents add up.

    Parameters
    ----------
    rows
        How many.
    high, low
        Halves of the hash.
    """

    rows: int = 0
    high: int = 0
    low: int = 0

    @property
    def digest(self) -> str:
        """The hash as 32 hexadecimal digits."""
        return f"{self.high:016x}{self.low:016x}"

    def __add__(self, other: Content) -> Content:
        return Content(self.rows + other.rows, (self.high + other.high) & _MASK, (self.low + other.low) & _MASK)


def content_of(rows: pa.Table | pa.RecordBatch) -> Content:
    """Content of some rows.

    Parameters
    ----------
    rows
        Columns of integers, booleans, doubles, text, bytes and times in microseconds.

    Returns
    -------
    Content
        Of these rows; add those of the others.
    """
    return total(_of_slice(part) for part in _slices(rows))


def total(contents: Iterable[Content]) -> Content:
    """Content of everything together."""
    return sum(contents, start=Content())


def _slices(rows: pa.Table | pa.RecordBatch) -> list[pa.RecordBatch]:
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    fitting = _SLICE_BYTES * table.num_rows // max(table.nbytes, 1)
    batches: list[pa.RecordBatch] = table.to_batches(max_chunksize=max(1, min(_SLICE_ROWS, fitting)))
    return batches


def _of_slice(batch: pa.RecordBatch) -> Content:
    words = np.zeros(batch.num_rows, dtype=np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        words += _contribution(name, column)
    return Content(batch.num_rows, _sum(_mix(words.copy())), _sum(_mix(words ^ np.uint64(_GOLDEN))))


def _contribution(name: str, column: pa.Array) -> Words:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    words = _mix(_words(column) + np.uint64(seed))
    if column.null_count:
        words *= pc.is_valid(column).to_numpy(zero_copy_only=False)
    return words


def _words(column: pa.Array) -> Words:
    for matches, convert in _CONVERSIONS:
        if matches(column.type):
            return convert(column)
    raise TypeError(f"no content hash for {column.type}")


def _whole_words(column: pa.Array) -> Words:
    filled = pc.fill_null(column.cast(pa.int64()), 0)
    return np.asarray(filled.to_numpy(zero_copy_only=False)).view(np.uint64)


def _bit_words(column: pa.Array) -> Words:
    return _whole_words(column.view(pa.int64()))


def _byte_words(column: pa.Array) -> Words:
    lengths, data = _flat(column)
    counts = (lengths + 7) // 8
    hashes: Words = lengths.astype(np.uint64)
    filled = counts > 0
    if filled.any():
        words, firsts = _padded(lengths, counts, data)
        hashes[filled] += np.add.reduceat(_mix(words), firsts[filled])
    return hashes


def _flat(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Length of each value, nulls as empty, and all their bytes in a row."""
    column = pc.fill_null(column, b"" if pa.types.is_binary(column.type) else "")
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    bytes_ = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    return np.diff(ends), bytes_[ends[0] : ends[-1]]


def _padded(
    lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]
) -> tuple[Words, npt.NDArray[np.int64]]:
    """Words of all values, each with its position mixed in, and where each value's first word is."""
    firsts = np.cumsum(counts) - counts
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(counts.sum()) - np.repeat(firsts, counts)
    places = np.repeat(starts, counts) + 8 * positions
    # A word at every byte: the array overlaps itself, reading past a value is masked off below.
    source = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    words = np.ndarray(len(data) + 1, dtype="<u8", buffer=source, strides=(1,))[places].astype(np.uint64)
    surplus = np.maximum(8 * (positions + 1) - np.repeat(lengths, counts), 0).astype(np.uint64)
    words &= np.uint64(_MASK) >> (surplus * np.uint64(8))
    words += (positions + 1).astype(np.uint64) * np.uint64(_GOLDEN)
    return words, firsts


def _mix(words: Words) -> Words:
    """Mix in place."""
    for shift, factor in _STEPS:
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words


def _sum(words: Words) -> int:
    return int(words.sum(dtype=np.uint64))


_CONVERSIONS: Final[tuple[tuple[Callable[[Any], bool], Callable[[pa.Array], Words]], ...]] = (
    (pa.types.is_floating, _bit_words),
    (pa.types.is_timestamp, _bit_words),
    (pa.types.is_integer, _whole_words),
    (pa.types.is_boolean, _whole_words),
    (pa.types.is_string, _byte_words),
    (pa.types.is_binary, _byte_words),
)
