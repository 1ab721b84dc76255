"""The files of one folder: read once, hashed, and never waited for."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from qforge_sdk.chem.result import Doubt

#: A file up to this size is read whole, of a longer log its two ends.
WHOLE_BYTES: Final = 16 * 1024 * 1024
_HEAD_BYTES: Final = 512 * 1024
_TAIL_BYTES: Final = 4 * 1024 * 1024

# A pipe without a writer would block open(), and a terminal would become ours.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class RunFiles:
    """A folder's files by name.

    Parameters
    ----------
    folder
        Where.

    Raises
    ------
    OSError
        It cannot be listed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.names = set(os.listdir(folder))  # noqa: PTH208 - a Path for each name costs more than reading it
        self.doubts: list[Doubt] = []
        self._prefix = os.path.join(folder, "")  # noqa: PTH118
        self._hash = hashlib.sha256()

    @property
    def content_hash(self) -> str:
        """sha256 over names and content of what was read."""
        return self._hash.hexdigest()

    def read(self, name: str | None, *, ends: bool = False, may_be_empty: bool = False) -> bytes | None:
        """A file's content; what is empty, no file or cannot be read is a doubt and None.

        Parameters
        ----------
        name
            In the folder; None where a name was looked for in vain.
        ends
            Read the two ends of a very long file, which is left out otherwise.
        may_be_empty
            An empty file is no doubt.
        """
        if name is None or name not in self.names:
            return None
        try:
            handle = os.open(self._prefix + name, _FLAGS)
            try:
                data = self._content(handle, name, ends=ends)
            finally:
                os.close(handle)
        except OSError as exc:
            self.doubt("bad_file", f"{name} cannot be read: {exc.strerror}")
            return None
        if data is None:
            return None
        self._hash.update(b"%b\0%d\0%b" % (os.fsencode(name), len(data), data))
        if not data or data.isspace():
            if not may_be_empty:
                self.doubt("bad_file", f"{name} is empty")
            return None
        return data

    def doubt(self, code: str, message: str) -> None:
        """Note that something was noticed."""
        self.doubts.append(Doubt(code, message))

    def _content(self, handle: int, name: str, *, ends: bool) -> bytes | None:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            self.doubt("bad_file", f"{name} is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}")
            return None
        size = found.st_size
        if size <= WHOLE_BYTES:
            return _read(handle, size)
        if not ends:
            self.doubt("bad_file", f"{name} has {size:,} bytes, more than {WHOLE_BYTES:,}, and was left out")
            return None
        self.doubt("log_cut", f"{name} has {size:,} bytes; only its ends were read")
        head = _read(handle, _HEAD_BYTES)
        os.lseek(handle, -_TAIL_BYTES, os.SEEK_END)
        return head + b"\n" + _read(handle, _TAIL_BYTES)


_KINDS: Final = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def beginning(folder: str | Path, name: str, size: int = 4096) -> bytes:
    """The first bytes of a file, none where it is no file or cannot be read.

    Parameters
    ----------
    folder, name
        Where.
    size
        So many.
    """
    try:
        handle = os.open(os.path.join(folder, name), _FLAGS)  # noqa: PTH118
        try:
            return os.read(handle, size) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        finally:
            os.close(handle)
    except OSError:
        return b""


def _read(handle: int, size: int) -> bytes:
    """Up to so many bytes; the system may give fewer at once."""
    data = os.read(handle, size)
    while 0 < len(data) < size and (more := os.read(handle, size - len(data))):
        data += more
    return data
