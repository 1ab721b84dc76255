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
from qforge_sdk.chem.run_folder import Run, RunRecord, read_run, runs_in
from qforge_sdk.chem.xtb_files import read_xtb_json
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
        "program call": "xtb molecule.xyz --opt --json",
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


def test_two_half_filled_orbitals_are_homo_and_lumo():
    # Nitric oxide: its one unpaired electron is spread over two orbitals of equal energy.
    text = xtb_json(
        **{
            "orbital energies/eV": [-16.4, -10.8, -10.8],
            "fractional occupation": [2.0, 0.5, 0.5],
            "number of electrons": 3,
            "number of unpaired electrons": 1,
        }
    )
    facts = read_xtb_json(text.encode())
    assert (facts.homo, facts.lumo) == (-10.8, -10.8)


def test_more_electrons_than_orbitals_hold_give_no_orbital():
    facts = read_xtb_json(xtb_json(**{"number of electrons": 999}).encode())
    assert (facts.homo, facts.lumo) == (None, None)


def test_a_hydrogen_atom_has_no_gap(folder: Path):
    one_orbital = {"orbital energies/eV": [-10.7], "number of electrons": 1, "number of unpaired electrons": 1}
    (folder / "xtbout.json").write_text(xtb_json(**one_orbital))
    assert read(folder).result.gap is None


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
    assert codes(record) == {"energy_differs", "gap_differs", "dipole_differs"}
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
    assert "dipole_differs" in codes(record)


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
    lines += ["0.0 0.0 0.2 O", "0.0 1.4 -0.9 H", "0.0 -1.4 -0.9 H"]
    lines += ["0.1D-02 0.2 0.3", "-0.4 0.5 0.6", "0.7 0.8 -0.9", "$end", ""]
    (folder / "gradient").write_text("\n".join(lines))
    forces = read(folder).result.forces
    assert forces is not None
    np.testing.assert_allclose(forces, [[-0.001, -0.2, -0.3], [0.4, -0.5, -0.6], [-0.7, -0.8, 0.9]])


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
    text = log_of(options="--vipea").replace(
        "molecular dipole", ":: total energy              -4.900000000000 Eh\n Property Printout\nmolecular dipole", 1
    )
    (doubt,) = xtb_log.read_log(text.encode()).doubts
    assert doubt.code == "ionised"
    assert doubt.values == {"log": -5.070544408476, "log, before the ions": -4.9}


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_no_damage_of_a_log_raises(damage: bytes, at: int):
    text = log_of().encode()
    xtb_log.read_log(text[:at] + damage + text[at + len(damage) :])


def test_a_run_of_no_file_is_an_error_and_no_exception(tmp_path: Path):
    assert read_run(Run(tmp_path)).result.status == "error"
