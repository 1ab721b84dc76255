"""Whatever happened to a folder: a record, a status with its reason, and no number that stands in no file of it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qforge_sdk.chem.result import DOUBT_CODES
from qforge_sdk.chem.run_folder import Run, RunRecord, read_run, runs_in
from qforge_sdk.migrate.read import read_found
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE
from tests.fixtures.xtb_runs import RUNS, run_folders

FOLDERS: Final = run_folders()
WORD: Final = re.compile(rb"[^\s,\[\]{}\":|=]+")


def damage(kind: str, data: bytes, at: float, size: int, noise: bytes) -> bytes:
    """One kind of damage at a place from 0 to 1."""
    place = int(at * len(data))
    number = next(re.finditer(rb"-?\d+\.\d+", data[place:]), None)
    start, stop = (place + number.start(), place + number.end()) if number else (place, place)
    found = data[start:stop]
    return {
        "cut": lambda: data[:place],
        "flip": lambda: data[:place] + noise + data[place + len(noise) :],
        "hole": lambda: data[:place] + data[place + size :],
        "zeros": lambda: data[:place] + b"\0" * size + data[place + size :],
        "overflow": lambda: data[:start] + b"*" * len(found) + data[stop:],
        "extreme": lambda: re.sub(rb"-?\d+\.\d+", b"-1.0E+308", data),
        "exponent": lambda: data[:start] + found + b"D+02" + data[stop:],
        "huge": lambda: data[:start] + b"9" * 5000 + data[stop:],
        "not a number": lambda: data[:start] + b"NaN" + data[stop:],
        "underscore": lambda: data[:start] + found[:2] + b"_" + found[2:] + data[stop:],
        "windows": lambda: data.replace(b"\n", b"\r\n"),
        "old mac": lambda: data.replace(b"\n", b"\r"),
        "one line": lambda: data.replace(b"\n", b" "),
        "twice": lambda: data + data[place:],
        "byte-order mark": lambda: b"\xef\xbb\xbf" + data,
        "wide": lambda: data.decode("latin-1").encode("utf-16"),
        "long line": lambda: data[:place] + b"x" * 200_000 + data[place:],
        "empty": lambda: b"",
    }[kind]()


KINDS: Final = (
    "gone", "extreme", "cut", "flip", "hole", "zeros", "overflow", "exponent", "huge", "not a number", "underscore",
    "windows", "old mac", "one line", "twice", "byte-order mark", "wide", "long line", "empty",
)  # fmt: skip
DAMAGES: Final = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 30),
        st.floats(0, 1),
        st.integers(1, 400),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damaged(folder: Path, target: Path, damages: list[tuple[str, int, float, int, bytes]]) -> Path:
    """A copy of a folder with some files damaged."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    names = names_in(target)
    for kind, number, at, size, noise in damages:
        path = target / names[number % len(names)]
        if kind == "gone":
            path.unlink(missing_ok=True)
        elif path.exists():
            path.write_bytes(damage(kind, path.read_bytes(), at, size, noise))
    return target


def numbers_in(folder: Path) -> set[float]:
    """All numbers that stand in the files, as Fortran or JSON writes them."""
    found: set[float] = {0.0}
    for path in folder.iterdir():
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        # JSON may be UTF-16.
        for word in WORD.findall(data) + (WORD.findall(data.replace(b"\0", b"")) if b"\0" in data else []):
            try:
                found.add(float(word.replace(b"D", b"E").replace(b"d", b"e")))
            except ValueError:
                continue
    return found


def dipoles_in(folder: Path) -> list[float]:
    """Norms of vectors in xtbout.json, debye."""
    path = folder / "xtbout.json"
    data = path.read_bytes().replace(b"\0", b"") if path.is_file() else b""
    found = re.findall(rb'"dipole[^"]*":\s*\[([^\]]*)\]', data)
    words = [vector.split(b",") for vector in found]
    return [math.hypot(*map(float, vector)) * ATOMIC_DIPOLE_IN_DEBYE for vector in words if len(vector) == 3]


def check(record: RunRecord, folder: Path) -> None:
    result = record.result
    assert result.status in {"converged", "not_converged", "error"}
    assert bool(result.reason) == (result.status != "converged")
    assert {doubt.code for doubt in result.doubts} <= DOUBT_CODES.keys()
    assert len(record.content_hash) == 64
    known = numbers_in(folder)
    for name in ("energy", "gap", "homo", "lumo"):
        value = getattr(result, name)
        assert value is None or (value in known and math.isfinite(value)), (name, value)
    assert result.dipole is None or result.dipole in known or any(
        math.isclose(result.dipole, moment, rel_tol=1e-9) for moment in dipoles_in(folder)
    )  # fmt: skip
    assert result.total_charge in {round(value) for value in known if abs(value) < 2000}
    assert result.unpaired_electrons in {*known, *(2 * value for value in known), 0, 1}
    assert result.status != "converged" or result.energy is not None
    assert result.execution_time_seconds is None or 0 <= result.execution_time_seconds < 1e12
    for array in (result.charges, result.geometry and result.geometry.positions):
        assert array is None or set(np.ravel(array).tolist()) <= known
    if result.forces is not None:
        assert set(np.ravel(-result.forces).tolist()) <= known


def records(folder: Path) -> list[RunRecord]:
    return [read_run(run) for run in runs_in(folder, names_in(folder))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(RUNS)))
def test_the_undamaged_runs_pass_the_same_checks(folder: Path):
    (record,) = records(folder)
    check(record, folder)
    assert record.result.energy is None or record.result.status == "converged"


def test_damaged_folders_give_records_without_a_made_up_number(tmp_path: Path, long: bool):
    @settings(max_examples=20_000 if long else 250, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.sampled_from(FOLDERS), DAMAGES)
    def one(folder: Path, damages: list[tuple[str, int, float, int, bytes]]) -> None:
        target = damaged(folder, tmp_path / "run", damages)
        for record in records(target):
            check(record, target)

    one()


def test_a_log_cut_at_any_byte_gives_no_final_number(tmp_path: Path, long: bool):
    for folder in FOLDERS:
        name = "xtb_stdout.log" if (folder / "xtb_stdout.log").exists() else "xtb.out"
        whole = (folder / name).read_bytes()
        finish = whole.rfind(b"finished run on")
        for place in range(0, len(whole), 37 if long else 2003):
            (tmp_path / name).write_bytes(whole[:place])
            (record,) = records(tmp_path)
            check(record, tmp_path)
            if place < finish:
                result = record.result
                assert result.status != "converged"
                assert (result.energy, result.gap, result.homo, result.lumo, result.dipole) == (None,) * 5
        (tmp_path / name).unlink()


def test_what_is_stored_of_damaged_folders_fits_the_tables(tmp_path: Path, long: bool):
    @settings(max_examples=3000 if long else 100, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.sampled_from(FOLDERS), DAMAGES)
    def one(folder: Path, damages: list[tuple[str, int, float, int, bytes]]) -> None:
        target = damaged(folder, tmp_path / "run", damages)
        for found in read_found(runs_in(target, names_in(target))):
            assert found.unreadable is None or found.unreadable.startswith("neither a SMILES")
            pa.array([found.path, found.source_id, found.name, found.row["metadata"]], pa.string())
            metadata = json.loads(found.row["metadata"], parse_constant=pytest.fail)
            assert "\0" not in str(metadata)
            assert -(2**31) < found.row["unpaired_electrons"] < 2**31
            assert len(set(map(len, found.atoms.values()))) <= 1

    one()


# Files that are none ------------------------------------------------------------------------------------------------


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Fail instead of waiting for a pipe for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    here = Path.cwd()
    # The path of a socket is limited to some 100 bytes.
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


ODDITIES: Final[dict[str, Callable[[Path], object]]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a pipe": lambda path: [os.mkfifo(f"{path}.fifo"), path.symlink_to(f"{path}.fifo")],
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize(
    "name", ["xtb_stdout.log", "metadata.json", "results.json", "xtbout.json", "charges", "xtbopt.xyz", "water.xyz"]
)
def test_what_is_no_file_is_a_doubt_and_nobody_waits_for_it(tmp_path: Path, name: str, oddity: str):
    (water,) = (RUNS / "jobs").glob("water_*")
    target = tmp_path / "run"
    shutil.copytree(water, target)
    (target / name).unlink()
    ODDITIES[oddity](target / name)
    with no_longer_than(20):
        runs = runs_in(target, names_in(target))
        (record,) = [read_run(run) for run in runs]
    assert any(doubt.code == "bad_file" and name in doubt.message for doubt in record.result.doubts)
    assert record.result.energy == pytest.approx(-5.0705443, abs=1e-6)


def test_a_log_that_is_no_file_is_no_run_s(tmp_path: Path):
    for number, make in enumerate(ODDITIES.values()):
        make(tmp_path / f"{number}.log")
    with no_longer_than(20):
        assert runs_in(tmp_path, names_in(tmp_path)) == []


# Metadata that is not what it should be -----------------------------------------------------------------------------

ODD_VALUES: Final[list[Any]] = [
    None, True, 7, 10**400, 1e308, -1, [], ["x"], {}, {"x": 1}, "", " ", "x" * 100_000, "\0", "a\0b", "\ud800",
    "../../etc/passwd", "/dev/zero", "1_0", "\u0661", float("nan"), float("inf"),
]  # fmt: skip
KEYS: Final = (
    "job_id", "molecule_name", "status", "xyz_file", "smiles", "charge", "error_message", "molecule", "method",
    "input_file", "created_at",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:20])
def test_metadata_of_any_type_is_read(tmp_path: Path, key: str, value: Any):
    (water,) = (RUNS / "jobs").glob("water_*")
    target = tmp_path / "run"
    shutil.copytree(water, target)
    metadata = json.loads((target / "metadata.json").read_text()) | {key: value}
    (target / "metadata.json").write_text(json.dumps(metadata))
    (found,) = read_found([Run(target, "xtb_stdout.log")])
    assert found.unreadable is None
    assert found.row["energy"] == pytest.approx(-5.0705443, abs=1e-6)
    assert found.smiles == "O"
    assert found.row["total_charge"] == 0
    for text in (found.name, found.source_id, found.row["metadata"]):
        assert text is None or (text.isprintable() and "\\u0000" not in text)
    json.loads(found.row["metadata"], parse_constant=pytest.fail)


def test_json_as_deep_as_it_gets_is_read(tmp_path: Path):
    (tmp_path / "xtbopt.xyz").write_text("1\n energy: -0.39 xtb: 6.5.1\nH 0 0 0\n")
    for text in ("[" * 200_000, '{"a":' * 200_000, '{"job_id": ' + "[" * 900 + "]" * 900 + "}"):
        (tmp_path / "metadata.json").write_text(text)
        (found,) = read_found([Run(tmp_path)])
        assert found.unreadable is None
        assert found.row["energy"] == -0.39


def test_names_that_are_no_text_are_read(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name, content in (
        (b"mol\xe9cule.xyz", b"1\n\xe9\nH 0 0 0\n"),
        (b"xtb.out", b"| x T B |\n program call : xtb mol\xe9cule.xyz\n coordinate file : mol\xe9cule.xyz\n\n"),
        (b"xtbopt.xyz", b"1\n energy: -0.39 \xff\nH 0 0 0\n"),
    ):
        (folder / os.fsdecode(name)).write_bytes(content)
    (found,) = read_found([Run(folder, "xtb.out")])
    assert found.unreadable is None
    assert found.path.endswith("caf\\xe9")
    pa.array([found.path, found.source_id, found.row["metadata"]], pa.string())
