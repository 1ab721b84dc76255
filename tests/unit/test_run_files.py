"""Which of a folder's files are a run's, what counts where they say little, geometries and numbers in all forms."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qforge_sdk.chem import xtb_log
from qforge_sdk.chem.geometry_files import read_geometry
from qforge_sdk.chem.run_folder import Run, read_run, runs_in
from qforge_sdk.chem.xtb_files import Unreadable, count, number, read_xtb_json
from tests.fixtures.jobs import WATER, codes, log_of, read, write_job, write_run, xtb_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", energy=-5.070544408476, gap=14.392218592879)


def test_a_namespace_tells_the_files_of_two_runs_apart(tmp_path: Path):
    for name, energy in (("a", -1.0), ("b", -2.0)):
        write_run(tmp_path / name, energy=energy)
        log = (tmp_path / name / "xtb_stdout.log").read_text()
        (tmp_path / f"{name}.out").write_text(log.replace("--opt", f"--opt --namespace {name}"))
        for file in ("xtbopt.xyz", "charges"):
            (tmp_path / name / file).rename(tmp_path / f"{name}.{file}")
        for left in (tmp_path / name).iterdir():
            left.unlink()
        (tmp_path / name).rmdir()
    (tmp_path / "a.charges").write_text("-0.6\n0.3\n0.3\n")
    records = [read_run(run) for run in runs_in(tmp_path, [path.name for path in tmp_path.iterdir()])]
    assert [codes(record) for record in records] == [set(), set()]
    assert [record.result.energy for record in records] == [-1.0, -2.0]
    assert records[0].result.charges.tolist() == [-0.6, 0.3, 0.3]
    assert records[0].sources["charges"] == "charges"


def test_a_log_beside_one_of_a_usual_name_is_a_run_too(folder: Path):
    (folder / "xtb_stdout.log").rename(folder / "xtb.out")
    (folder / "again.out").write_text(log_of(energy=-5.0))
    runs = runs_in(folder, [path.name for path in folder.iterdir()])
    assert [run.log for run in runs] == ["again.out", "xtb.out"]
    assert [read_run(run).result.energy for run in runs] == [-5.0, -5.070544408476]


@pytest.mark.parametrize(
    "names",
    [["xtb_stdout.log"], ["metadata.json"], ["w_metadata.json"], ["xtbout.json"], ["xtbopt.pdb"], ["wbo", "charges"]],
)
def test_what_a_run_s_folder_is_known_by(tmp_path: Path, names: list[str]):
    assert runs_in(tmp_path, names) == [Run(tmp_path, "xtb_stdout.log" if "xtb_stdout.log" in names else None)]


@pytest.mark.parametrize("names", [[], ["charges"], ["wbo"], ["metadata.json.bak"], ["a.xyz"], ["xtbopt.log"]])
def test_what_no_run_s_folder_is_known_by(tmp_path: Path, names: list[str]):
    assert runs_in(tmp_path, names) == []


def test_the_geometry_of_another_run_is_left_out(folder: Path):
    text = log_of(optimisation="", options="--gfn 2 --chrg 0", energy=-5.07)
    (folder / "xtb_stdout.log").write_text(text)
    record = read(folder)
    assert codes(record) == {"stale_file"}
    assert record.result.energy == -5.07
    assert record.result.geometry is record.result.input_geometry
    assert not record.result.optimized


def test_the_json_of_another_call_is_left_out(folder: Path):
    (folder / "xtbout.json").write_text(
        xtb_json(**{"program call": "xtb molecule.xyz --gfn 1", "total energy": -4.0})
    )
    record = read(folder)
    assert codes(record) == {"stale_file"}
    assert record.sources["homo"] == "log"


def test_the_input_of_a_run_that_follows_an_optimisation_is_no_stale_file(folder: Path):
    (folder / "xtb_stdout.log").write_text(log_of(input="xtbopt.xyz", options="--hess", optimisation=""))
    (folder / "molecule.xyz").unlink()
    record = read(folder)
    assert codes(record) == set()
    assert record.result.geometry is record.result.input_geometry
    assert record.input_hash == hashlib.sha256((folder / "xtbopt.xyz").read_bytes()).hexdigest()


def test_a_run_that_wrote_over_its_input_has_none(folder: Path):
    (folder / "xtb_stdout.log").write_text(log_of(input="xtbopt.xyz"))
    (folder / "molecule.xyz").unlink()
    record = read(folder)
    assert (record.result.input_geometry, record.input_hash) == (None, None)
    assert record.result.geometry is not None


def test_numbers_that_overflowed_in_the_json_cost_themselves_only():
    facts = read_xtb_json(xtb_json().replace("-5.07054441", "********************").encode())
    assert (facts.energy, facts.gap) == (None, 14.39221859)


@pytest.mark.parametrize(
    ("options", "expected"),
    [("--uhf 1", 1), ("--uhf 3", 3), ("-u 2", 2), ("", 0), ("--uhf x", 0), ("--uhf", 0), ("--uhf 1.5", 0)],
)
def test_unpaired_electrons_of_the_call(options: str, expected: int):
    assert (xtb_log.read_log(f" program call : xtb m.xyz {options}\n\n".encode()).unpaired_electrons or 0) == expected


def test_an_odd_electron_that_nobody_asked_for_is_unpaired(folder: Path):
    (folder / "xtb_stdout.log").write_text(log_of(options="--opt --chrg 1", charge=1))
    (folder / "charges").write_text("0.6\n0.2\n0.2\n")
    result = read(folder).result
    assert (result.total_charge, result.unpaired_electrons) == (1.0, 1)
    assert codes(read(folder)) == set()


def test_unpaired_electrons_that_cannot_be_are_a_doubt(folder: Path):
    (folder / "xtb_stdout.log").write_text(log_of(options="--opt --uhf 1"))
    (doubt,) = read(folder).result.doubts
    assert (doubt.code, dict(doubt.values)) == ("spin_differs", {"call": 1, "electrons": 10})


def test_the_wall_time_of_the_scf_is_not_the_run_s(folder: Path):
    text = log_of().replace(
        "* wall-time:     0 d,  0 h,  0 min,  0.017 sec",
        "* wall-time:     * d, ** h, ** min,  *.*** sec\n SCF:\n * wall-time:     0 d,  0 h,  0 min,  0.001 sec",
    )
    (folder / "xtb_stdout.log").write_text(text)
    assert read(folder).result.execution_time_seconds is None


def test_an_optimisation_that_failed_in_6_7_has_its_last_geometry(folder: Path):
    text = log_of(optimisation="   *** FAILED TO CONVERGE GEOMETRY OPTIMIZATION IN 200 ITERATIONS ***")
    fatal = "########\n[ERROR] Program stopped due to fatal error\n-1- Geometry optimization failed\n########\n"
    (folder / "xtb_stdout.log").write_text(text.partition("molecular dipole")[0] + fatal)
    (folder / "xtbopt.xyz").rename(folder / "xtblast.xyz")
    record = read(folder)
    assert (record.result.status, record.result.reason) == (
        "not_converged", "the geometry optimisation did not converge"
    )  # fmt: skip
    assert record.sources["energy"] == "xtblast.xyz"
    assert record.result.geometry is not None


def test_the_charge_of_a_folder_without_a_log_is_the_sum_of_its_charges(folder: Path):
    (folder / "xtb_stdout.log").unlink()
    (folder / "charges").write_text("-1.5\n0.25\n0.2500001\n")
    record = read(folder)
    assert (record.result.total_charge, record.sources["total_charge"]) == (-1.0, "charges")
    assert record.result.unpaired_electrons == 1


def test_a_job_that_failed_without_a_log_says_why(tmp_path: Path):
    folder = write_job(tmp_path, "water", 1, metadata={"status": "FAILED", "error_message": "no xtb here"})
    (folder / "xtb_stdout.log").unlink()
    record = read(folder)
    assert (record.result.status, record.result.reason) == ("error", "no xtb here")


def test_a_broken_off_log_s_reason_has_what_was_printed_for_errors(folder: Path):
    (folder / "xtb_stdout.log").write_text(log_of().partition("molecular dipole")[0])
    (folder / "xtb_stderr.log").write_text("Note: some\nforrtl: severe (174): SIGSEGV\n")
    assert read(folder).result.reason == "the log ends before the run does; forrtl: severe (174): SIGSEGV"


SPELLINGS = {
    "xyz": "3\n\nO 0 0 0.119\nH 0 0.7594 -0.4753\nH 0 -0.7594 -0.4753\n",
    "numbers": "3\n\n8 0 0 0.119\n1 0 0.7594 -0.4753\n1 0 -0.7594 -0.4753\n",
    "odd case": "3\n\nO 0 0 0.119\nh 0 0.7594 -0.4753\nD 0 -0.7594 -0.4753\n",
    "five columns": "3\n\nO 0 0 0.119 -0.5\nH 0 0.7594 -0.4753 0.2\nH 0 -0.7594 -0.4753 0.3\n",
    "exponents": "3\n\nO 0 0 1.19D-01\nH 0 7.594d-1 -0.4753\nH 0 -0.7594 -4753E-4\n",
    "a trajectory": "3\n\nO 0 0 0.119\nH 0 0.7594 -0.4753\nH 0 -0.7594 -0.4753\n3\n\nO 9 9 9\nH 9 9 9\nH 9 9 9\n",
    "coord": "$coord angs\n 0 0 0.119 o\n 0 0.7594 -0.4753 h\n 0 -0.7594 -0.4753 h\n$user-defined bonds\n$end\n",
    "mol": "water\n\n\n  3  2  0  0  0  0            999 V2000\n"
    "    0.0000    0.0000    0.1190 O   0  0\n    0.0000    0.7594   -0.4753 H   0  0\n"
    "    0.0000   -0.7594   -0.4753 H   0  0\n  1  2  1  0\n",
}


@pytest.mark.parametrize("form", SPELLINGS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_geometries_in_all_their_spellings(form: str, line_end: str):
    geometry = read_geometry("file", SPELLINGS[form].replace("\n", line_end).encode())
    assert geometry.symbols == ("O", "H", "H")
    np.testing.assert_allclose(geometry.positions, [row[1:] for row in WATER], atol=1e-12)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x\n\nO 0 0 0\n", b"0\n\n", b"-1\n\n", b"1_0\n\n" + b"H 0 0 0\n" * 10, b"9" * 20 + b"\n\nH 0 0 0\n",
        b"2\n\nH 0 0 0\n", b"1\n\nXx 0 0 0\n", b"1\n\nH 0 0 nan\n", b"1\n\nH 0 0 1_0\n", b"1\n\nH 0 0 1e999\n",
        b"1\n\n999 0 0 0\n",
        b"$coord\n", b"$coord frac\n0 0 0 h\n", b"$coord\n0 0 h\n", b"HETATM\n", b"\n\n\n  1  0 V2000\n",
        b"1\n\nH 0 0 1e7\n", b"\n\n\n  0  0  0     0  0            999 V3000\n",
    ],
)  # fmt: skip
def test_what_is_no_geometry_is_refused(data: bytes):
    with pytest.raises(Unreadable):
        read_geometry("file", data)


@pytest.mark.parametrize(
    "word", [b"1_0", b"", b"x", b"nan", b"-inf", b"1e400", b"*****", b"\xd9\xa1", b"0x10", b"1D"]
)
def test_what_is_no_number(word: bytes):
    assert number(word) is None
    assert number(word.decode()) is None


@pytest.mark.parametrize("value", [None, True, [], {}, 10**400, float("inf"), 1j])
def test_values_that_are_no_number(value: Any):
    assert number(value) is None
    assert count(value) is None


def test_numbers_of_all_kinds():
    assert [number(one) for one in (b" 1.5 ", "1.5D+00", 1.5, 3, b"-1.0d-03")] == [1.5, 1.5, 1.5, 3.0, -0.001]
    assert [count(one) for one in (b"3", 3.0, 3.5, -1, 10**7)] == [3, 3, None, None, None]
