"""A finished run's folder to one record: every number from the right place, every doubt kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qforge_sdk.chem import xtb_log
from qforge_sdk.chem.geometry_files import read_geometry
from qforge_sdk.chem.run_folder import Run, RunRecord, read_run, runs_in
from qforge_sdk.chem.xtb_files import Unreadable, count, number, read_xtb_json
from qforge_sdk.quantities import BOHR_IN_ANGSTROM as BOHR
from tests.fixtures.jobs import LOG, METHANE, WATER, write_job, write_run, xyz


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", energy=-5.070544408476, gap=14.392218592879)


def read(folder: Path) -> RunRecord:
    (run,) = runs_in(folder, sorted(path.name for path in folder.iterdir()))
    return read_run(run)


def codes(record: RunRecord) -> set[str]:
    return {doubt.code for doubt in record.result.doubts}


def log_of(**values: Any) -> str:
    defaults = {
        "input": "molecule.xyz", "options": "--opt", "charge": 0, "energy": -5.070544408476, "gap": 14.392218592879,
        "dipole": 2.216, "seconds": 0.017,
        "optimisation": "   *** GEOMETRY OPTIMIZATION CONVERGED AFTER 4 ITERATIONS",
    }  # fmt: skip
    return LOG.format(**defaults | values)


def xtb_json(style: str = "6.6", **values: Any) -> str:
    keys = {
        "6.6": ("HOMO-LUMO gap/eV", "dipole", "orbital energies/eV"),
        "6.7": ("HOMO-LUMO gap / eV", "dipole / a.u.", "orbital energies / eV"),
    }[style]
    content = {
        "total energy": -5.07054441,
        keys[0]: 14.39221859,
        keys[1]: [0.0, 0.0, -0.87184],
        "partial charges": [-0.5, 0.25, 0.25],
        keys[2]: [-18.5, -15.4, -13.9, -12.14654871, 2.24566988, 6.85],
        "fractional occupation": [2.0, 2.0, 2.0, 2.0, 0.0, 0.0],
        "number of unpaired electrons": 0,
        "program call": "xtb molecule.xyz --opt --chrg 0",
        "method": "GFN2-xTB",
        "xtb version": "6.6.1 (unknown)",
    }
    return json.dumps(content | values, indent=3)


def test_every_number_of_a_whole_run(folder: Path):
    record = read(folder)
    result = record.result
    assert (result.status, result.reason) == ("converged", None)
    assert (result.energy, result.gap) == (-5.070544408476, 14.392218592879)
    assert (result.homo, result.lumo, result.dipole) == (-12.1465, 2.2457, 2.216)
    assert (result.total_charge, result.unpaired_electrons) == (0.0, 0)
    assert (result.method, result.xtb_version, result.optimized) == ("GFN2-xTB", "6.6.1", True)
    assert result.execution_time_seconds == 0.017
    assert result.geometry is not None
    assert result.geometry.formula == "H2O"
    np.testing.assert_allclose(result.geometry.positions, [row[1:] for row in WATER])
    assert result.charges is not None
    assert result.charges.shape == (3,)
    assert result.doubts == ()
    assert record.sources["energy"] == "log"
    assert record.input_hash is not None


@pytest.mark.parametrize("style", ["6.6", "6.7"])
def test_both_key_styles_of_the_json(style: str):
    facts = read_xtb_json(xtb_json(style).encode())
    assert (facts.energy, facts.gap, facts.homo, facts.lumo) == (-5.07054441, 14.39221859, -12.14654871, 2.24566988)
    assert facts.dipole == pytest.approx(2.21599, abs=1e-4)
    assert (facts.unpaired_electrons, facts.method, facts.version) == (0, "GFN2-xTB", "6.6.1")


def test_a_call_that_is_not_escaped_does_not_spoil_the_json():
    broken = xtb_json().replace("xtb molecule.xyz", 'xtb "my molecule.xyz"').replace('\\"', '"')
    assert read_xtb_json(broken.encode()).energy == -5.07054441


def test_the_json_s_digits_are_taken_where_it_agrees(folder: Path):
    (folder / "xtbout.json").write_text(xtb_json())
    record = read(folder)
    assert record.result.homo == -12.14654871
    assert record.result.dipole == pytest.approx(0.87184 * 2.541746473)
    assert codes(record) == set()


def test_a_stale_dipole_and_the_first_energy_are_doubts(tmp_path: Path):
    folder = write_job(tmp_path, "water", energy=-5.070544408476, gap=14.392218592879)
    (folder / "xtbout.json").write_text(xtb_json(dipole=[0.0, 0.0, -0.90040539]))
    results = {"success": True, "energy": -5.070276993755, "results": {"homo_lumo_gap": 14.541922024894}}
    (folder / "results.json").write_text(json.dumps(results))
    record = read(folder)
    assert (record.result.energy, record.result.dipole) == (-5.070544408476, 2.216)
    assert codes(record) == {"energy_differs", "gap_differs", "dipole_stale"}
    (energy,) = [doubt for doubt in record.result.doubts if doubt.code == "energy_differs"]
    assert energy.values["log"] == -5.070544408476
    assert energy.values["results.json"] == -5.070276993755


def test_without_a_log_the_dipole_of_the_first_geometry_is_not_taken(folder: Path):
    (folder / "xtb_stdout.log").unlink()
    (folder / "xtbout.json").write_text(xtb_json())
    record = read(folder)
    assert record.result.dipole is None
    assert record.result.energy == -5.070544408476
    assert record.sources["energy"] == "xtbopt.xyz"
    assert "dipole_stale" in codes(record)


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_log_that_breaks_off_gives_no_number(folder: Path, percent: int):
    whole = (folder / "xtb_stdout.log").read_bytes()
    end = whole.index(b" * finished run")
    (folder / "xtb_stdout.log").write_bytes(whole[: end * percent // 100])
    for name in ("xtbopt.xyz", "charges"):
        (folder / name).unlink()
    record = read(folder)
    assert record.result.status == "error"
    assert (record.result.energy, record.result.gap, record.result.dipole) == (None, None, None)


def test_an_scf_that_failed_behind_a_normal_termination(folder: Path):
    text = log_of().replace(
        "convergence criteria satisfied after 9", "convergence criteria cannot be satisfied within 250"
    )
    (folder / "xtb_stdout.log").write_text(text)
    (folder / "xtb_stderr.log").write_text("normal termination of xtb\n")
    record = read(folder)
    assert (record.result.status, record.result.reason) == ("not_converged", "the SCF did not converge")
    assert "normal_termination" in codes(record)


def test_an_optimisation_that_failed(folder: Path):
    text = log_of(optimisation="   *** FAILED TO CONVERGE GEOMETRY OPTIMIZATION IN 200 ITERATIONS ***")
    (folder / "xtb_stdout.log").write_text(text)
    record = read(folder)
    assert record.result.status == "not_converged"
    assert record.result.optimized


def test_a_fatal_error_is_told(folder: Path):
    text = log_of().partition(" iter ")[0] + (
        "########\n[ERROR] Program stopped due to fatal error\n-2- reading failed\n-1- no such file\n########\n"
    )
    (folder / "xtb_stdout.log").write_text(text)
    record = read(folder)
    assert record.result.status == "error"
    assert record.result.reason == "-2- reading failed; -1- no such file"


@pytest.mark.parametrize("word", ["**************", "NaN", "Infinity", "1.0-E"])
def test_a_field_that_is_no_number_is_a_doubt(folder: Path, word: str):
    text = log_of().replace("-5.070544408476", word)
    (folder / "xtb_stdout.log").write_text(text)
    (folder / "xtbopt.xyz").unlink()
    record = read(folder)
    assert record.result.energy is None
    assert record.result.status == "error"
    assert "bad_field" in codes(record)


def test_fortran_exponents_windows_line_ends_and_odd_bytes(folder: Path):
    text = log_of().replace("-5.070544408476", "-0.5070544408476D+01").replace("\n", "\r\n").encode()
    (folder / "xtb_stdout.log").write_bytes(text.replace(b"molecular dipole", b"\xff\xfe\r\nmolecular dipole"))
    for name in ("molecule.xyz", "xtbopt.xyz", "charges"):
        path = folder / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    record = read(folder)
    assert record.result.energy == pytest.approx(-5.070544408476, abs=1e-12)
    assert record.result.dipole == 2.216
    assert codes(record) == set()


@pytest.mark.parametrize(
    "name", ["xtbout.json", "metadata.json", "results.json", "charges", "xtbopt.xyz", "molecule.xyz"]
)
@pytest.mark.parametrize("content", [b"", b"  \n", b"{", b"[1, 2]", b"\x00\xff\xfe", b"3\nx\nO 0 0\n"])
def test_a_damaged_file_is_a_doubt_and_no_exception(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    record = read(folder)
    assert "bad_file" in codes(record)
    assert record.result.energy == -5.070544408476


def test_charges_that_do_not_fit_are_left_out_or_doubted(folder: Path):
    (folder / "charges").write_text("0.1\n0.2\n")
    assert "geometry_differs" in codes(read(folder))
    assert read(folder).result.charges is None
    (folder / "charges").write_text("0.5\n0.2\n0.1\n")
    assert "charge_sum_off" in codes(read(folder))


def test_gradients_are_forces_with_the_sign_turned(folder: Path):
    lines = ["$grad", "  cycle =      1    SCF energy =  -5.07   |dE/dxyz| =  0.01"]
    lines += [f"{x / BOHR} {y / BOHR} {z / BOHR} {symbol}" for symbol, x, y, z in WATER]
    lines += ["0.1D-02 0.2 0.3", "-0.4 0.5 0.6", "0.7 0.8 -0.9", "$end", ""]
    (folder / "gradient").write_text("\n".join(lines))
    forces = read(folder).result.forces
    assert forces is not None
    np.testing.assert_allclose(forces, [[-0.001, -0.2, -0.3], [0.4, -0.5, -0.6], [-0.7, -0.8, 0.9]])


def test_forces_of_another_geometry_are_left_out(folder: Path):
    lines = ["$grad", "  cycle = 1 SCF energy = -5.07"]
    lines += ["0.0 0.0 0.2 O", "0.0 1.4 -0.9 H", "0.0 -1.4 -0.9 H", *["0.1 0.2 0.3"] * 3, "$end", ""]
    (folder / "gradient").write_text("\n".join(lines))
    record = read(folder)
    assert record.result.forces is None
    assert codes(record) == {"geometry_differs"}


def test_several_logs_in_one_folder_are_runs_of_their_own(tmp_path: Path):
    for name, energy in (("a", -1.0), ("b", -2.0)):
        (tmp_path / f"{name}.out").write_text(log_of(input=f"{name}.xyz", energy=energy))
        (tmp_path / f"{name}.xyz").write_text(xyz(METHANE))
    (tmp_path / "charges").write_text("0\n" * 5)
    runs = runs_in(tmp_path, sorted(path.name for path in tmp_path.iterdir()))
    records = [read_run(run) for run in runs]
    assert [record.result.energy for record in records] == [-1.0, -2.0]
    assert all(codes(record) == {"shared_files"} for record in records)


def test_a_huge_log_is_read_by_its_ends(folder: Path):
    path = folder / "xtb_stdout.log"
    text = path.read_bytes()
    head, tail = text[: text.index(b" iter ")], text[text.index(b" iter ") :]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**30)
        file.seek(2**30)
        file.write(tail)
    record = read(folder)
    assert record.result.energy == -5.070544408476
    assert record.result.method == "GFN2-xTB"
    assert "log_cut" in codes(record)


def test_a_folder_without_a_run_has_none(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "program.log").write_text("something else")
    assert runs_in(tmp_path, ["notes.txt", "program.log"]) == []


def test_runs_of_equal_content_have_one_hash(tmp_path: Path):
    hashes = {read(write_run(tmp_path / name)).content_hash for name in ("a", "b")}
    assert len(hashes) == 1
    assert read(write_run(tmp_path / "c", energy=-6.0)).content_hash not in hashes


OLD = """
     |                           x T B                           |
     |               Version 6.1 beta (SAW190227)                |
          |                Calculation Setup                |
program call               : /opt/xtb methane.xyz --opt
coordinate file            : methane.xyz
charge                     : -1
spin                       : .5
          |                 G F N 2 - x T B                 |
          eigenvalues
 #    :           1          2          3
 occ. :        2.000      1.000      0.000
 eps  :       -15.732    -12.678      3.613

SCC energy    :      -4.2351886
total E       :      -4.1740478
H-L gap (eV)  :         16.2890
molecular dipole:
   full:        0.000       0.000      -0.000       0.125
 * finished run on 2021/02/10 at 22:41:19.003
 * wall-time:     1 d,  2 h,  3 min,  4.500 sec
"""


def test_version_6_1_prints_otherwise():
    facts = xtb_log.read_log(OLD.encode())
    assert (facts.version, facts.method) == ("6.1", "GFN2-xTB")
    assert (facts.total_charge, facts.unpaired_electrons) == (-1.0, 1)
    assert (facts.energy, facts.gap, facts.homo, facts.lumo) == (-4.1740478, 16.289, -12.678, 3.613)
    assert (facts.dipole, facts.wall_time) == (0.125, 93784.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* Solvation model:               ALPB\n        Solvent                        water\n", ("ALPB", "water")),
        (
            "* Solvation model:               GBSA\n        Solvent                        Acetone\n",
            ("GBSA", "acetone"),
        ),
        ("program call : xtb m.xyz --alpb dmso\n", ("ALPB", "dmso")),
        ("program call : xtb m.xyz --gbsa none\n", (None, None)),
        ("program call : xtb m.xyz -g h2o\n", (None, None)),
    ],
)
def test_solvation(text: str, expected: tuple[str | None, str | None]):
    facts = xtb_log.read_log(f"Calculation Setup\n{text} iter ".encode())
    assert (facts.solvation, facts.solvent) in {expected, ("GBSA", "h2o")}


def test_ions_that_a_run_computed_as_well_are_a_doubt():
    text = log_of(options="--vipea", energy=-4.9).replace(
        "molecular dipole",
        ":: total energy   -5.07 Eh\nvertical delta SCC IP\nProperty Printout\nmolecular dipole",
        1,
    )
    facts = xtb_log.read_log(text.encode())
    (doubt,) = facts.doubts
    assert doubt.code == "ionised"
    assert doubt.values == {"log": -5.07, "log, at its end": -4.9}
    assert (facts.energy, facts.homo, facts.dipole) == (-5.07, -12.1465, None)


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_no_damage_of_a_log_raises(damage: bytes, at: int):
    text = log_of().encode()
    xtb_log.read_log(text[:at] + damage + text[at + len(damage) :])


def test_a_run_of_no_file_is_an_error_and_no_exception(tmp_path: Path):
    assert read_run(Run(tmp_path)).result.status == "error"


# Which files are the run's ------------------------------------------------------------------------------------------


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
        b"\n\n\n  0  0  0     0  0            999 V3000\n",
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
