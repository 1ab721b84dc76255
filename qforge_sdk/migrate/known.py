"""Numbers by text, for as many texts as a database has rows: 24 bytes each."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

_GONE: Final = -1
_FEWEST_TO_MERGE: Final = 4096

Digest = tuple[int, int]


class NumberByText:
    """A mapping from texts to numbers of 0 or more. Texts are known by 128 bits of their hash."""

    def __init__(self) -> None:
        self._high: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._low: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._values: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._recent: dict[Digest, int] = {}

    def __setitem__(self, text: str, value: int) -> None:
        self._recent[_digest(text)] = value
        if len(self._recent) > max(_FEWEST_TO_MERGE, len(self._values) // 8):
            self._merge()

    def __contains__(self, text: str) -> bool:
        return self.get(text) is not None

    def get(self, text: str) -> int | None:
        """The number of a text, None where there is none."""
        digest = _digest(text)
        value = self._recent.get(digest)
        if value is None:
            value = self._merged(digest)
        return None if value == _GONE else value

    def discard(self, text: str) -> None:
        """Forget a text."""
        self._recent[_digest(text)] = _GONE

    def _merged(self, digest: Digest) -> int:
        place = int(np.searchsorted(self._high, np.uint64(digest[0])))
        while place < len(self._high) and int(self._high[place]) == digest[0]:
            if int(self._low[place]) == digest[1]:
                return int(self._values[place])
            place += 1
        return _GONE

    def _merge(self) -> None:
        recent = np.array(list(self._recent), np.uint64).reshape(-1, 2)
        high = np.concatenate([self._high, recent[:, 0]])
        low = np.concatenate([self._low, recent[:, 1]])
        values = np.concatenate([self._values, np.fromiter(self._recent.values(), np.int64, len(self._recent))])
        # The last of equal ones is the most recent.
        order = np.lexsort((np.arange(len(high)), low, high))
        high, low, values = high[order], low[order], values[order]
        is_last = np.ones(len(high), bool)
        is_last[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        kept = is_last & (values != _GONE)
        self._high, self._low, self._values = high[kept], low[kept], values[kept]
        self._recent.clear()


def _digest(text: str) -> Digest:
    data = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big")
