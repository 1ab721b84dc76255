"""Geometries in the forms that xtb reads and writes: XYZ, Turbomole's coord, PDB, MDL molfiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from qforge_sdk.chem.geometry import ELEMENT_SYMBOLS, Geometry, atomic_number, element_symbol
from qforge_sdk.chem.xtb_files import Unreadable, coordinate
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import BOHR_IN_ANGSTROM

#: Angstrom; squares and differences of such numbers are numbers still.
_FARTHEST: Final = 1e6

Rows = list[tuple[str, Sequence[str | bytes]]]

# As files spell them: C, cl, CL.
_SPELLINGS: Final = {
    spelling.encode(): symbol
    for symbol in ELEMENT_SYMBOLS
    for spelling in (symbol, symbol.lower(), symbol.upper())
} | dict.fromkeys((b"D", b"d", b"T", b"t"), "H")  # fmt: skip


def read_geometry(name: str, data: bytes) -> Geometry:
    """First geometry of a file, whatever of these forms it has.

    Parameters
    ----------
    name
        The file's, whose ending names the form where the content does not.
    data
        Content; odd bytes in a comment do not matter.

    Returns
    -------
    Geometry
        Angstrom.

    Raises
    ------
    Unreadable
        It has none of these forms, or is damaged.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    try:
        return _reader(name, data)(data)
    except (ValueError, IndexError, InvalidInput) as exc:
        raise exc if isinstance(exc, Unreadable) else Unreadable(f"no geometry: {_one_line(exc)}") from exc


def read_first_xyz(data: bytes) -> Geometry:
    """First geometry of an XYZ file, as xtb and others write it.

    Raises
    ------
    Unreadable
        It is no XYZ.
    """
    return read_geometry(".xyz", data)


def _reader(name: str, data: bytes) -> Callable[[bytes], Geometry]:
    if b"$coord" in data[:200]:
        return _read_coord
    ending = name.rpartition(".")[2].lower()
    if ending == "pdb" or data.startswith((b"HETATM", b"ATOM  ")):
        return _read_pdb
    if ending in {"mol", "sdf"} or data[:400].rstrip(b" ").find(b"V2000\n") > 0:
        return _read_mol
    return _read_xyz


def _read_xyz(data: bytes) -> Geometry:
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    first, _, rest = data.partition(b"\n")
    comment, _, body = rest.partition(b"\n")
    if not first.strip().isdigit():
        raise Unreadable("line 1 of an XYZ file is the number of atoms")
    count = int(first)
    if not 1 <= count <= len(body):
        raise Unreadable(f"the XYZ names {count} atoms and has {len(body)} bytes for them")
    text = comment.decode("utf-8", "replace").strip()
    return _of_plain_rows(body, count, text) or _of_lines(body, count, text)


def _of_plain_rows(body: bytes, count: int, comment: str) -> Geometry | None:
    """Four words a line, which most files have: none of it is looked at word by word."""
    words = body.split(None, 4 * count)
    symbols = [_SPELLINGS.get(word) for word in words[0 : 4 * count : 4]]
    if len(words) < 4 * count or None in symbols or b"_" in body:
        return None
    try:
        columns = [list(map(float, words[axis : 4 * count : 4])) for axis in (1, 2, 3)]
    except ValueError:
        return None
    return _placed(tuple(symbols), columns, comment)  # type: ignore[arg-type]


def _of_lines(body: bytes, count: int, comment: str) -> Geometry:
    lines = [line.split(None, 4)[:4] for line in body.split(b"\n", count)[:count]]
    rows = [line for line in lines if len(line) == 4]
    if len(rows) < count:
        raise Unreadable(f"the XYZ names {count} atoms and has {len(rows)}")
    return _geometry([(row[0].decode("utf-8", "replace"), row[1:]) for row in rows], comment=comment)


def _read_coord(data: bytes) -> Geometry:
    """Bohr unless it says otherwise, and the element at the end of the line."""
    first, *lines = data.decode("utf-8", "replace").partition("$coord")[2].split("\n")
    if "frac" in first:
        raise Unreadable("fractional coordinates are not read")
    rows: Rows = []
    for line in lines:
        words = line.split()
        if line.lstrip().startswith("$"):
            break
        if words:
            rows.append((words[3], words[:3]))
    return _geometry(rows, factor=1.0 if "angs" in first else BOHR_IN_ANGSTROM)


def _read_pdb(data: bytes) -> Geometry:
    rows: Rows = []
    for line in data.decode("utf-8", "replace").split("\n"):
        if line.startswith(("ATOM  ", "HETATM")):
            rows.append((line[76:78].strip(), [line[at : at + 8] for at in (30, 38, 46)]))
        elif line.startswith("END"):
            break
    return _geometry(rows)


def _read_mol(data: bytes) -> Geometry:
    lines = data.decode("utf-8", "replace").split("\n")
    if "V3000" in lines[3]:
        raise Unreadable("molfiles of version V3000 are not read")
    count = int(lines[3][:3])
    rows: Rows = [(line[31:34].strip(), [line[at : at + 10] for at in (0, 10, 20)]) for line in lines[4 : 4 + count]]
    if count < 1 or len(rows) < count:
        raise Unreadable(f"the molfile names {count} atoms and has {len(rows)}")
    return _geometry(rows)


def _geometry(rows: Rows, *, factor: float = 1.0, comment: str = "") -> Geometry:
    if not rows:
        raise Unreadable("there is no atom in it")
    symbols = tuple(_symbol(symbol) for symbol, _ in rows)
    columns = [[factor * coordinate(row[axis]) for _, row in rows] for axis in range(3)]
    if any(len(row) != 3 for _, row in rows):
        raise Unreadable("a line has not three coordinates")
    return _placed(symbols, columns, comment)


def _placed(symbols: tuple[str, ...], columns: list[list[float]], comment: str) -> Geometry:
    # Lists of a molecule's length are faster than arrays of it.
    if max(map(max, columns)) > _FARTHEST or min(map(min, columns)) < -_FARTHEST:
        raise Unreadable(f"an atom is farther away than {_FARTHEST:g} angstrom")
    return Geometry(symbols, np.array(columns).T, comment)


def _symbol(word: str) -> str:
    if word.isdigit() and word.isascii():
        return element_symbol(int(word[:4]))
    symbol = _SPELLINGS.get(word.encode()) or word.capitalize()
    atomic_number(symbol)
    return symbol


def _one_line(exc: Exception) -> str:
    return (str(exc).partition("\n")[0] or type(exc).__name__)[:200]
