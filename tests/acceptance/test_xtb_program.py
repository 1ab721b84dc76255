"""What the reader returns is what xtb printed, and what tblite computes for the same geometry."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import pytest
from tblite.interface import Calculator

from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM, HARTREE_IN_EV
from tests.fixtures.jobs import codes, read

XTB: Final = Path("/usr/bin/xtb")
PARAMETERS: Final = Path("/usr/share/xtb")

#: Name to molecule, options, charge and unpaired electrons.
CASES: Final[dict[str, tuple[str, str, int, int]]] = {
    "water": ("O", "", 0, 0),
    "water_opt": ("O", "--opt", 0, 0),
    "ethanol_opt_json": ("CCO", "--opt tight --json", 0, 0),
    "ethanol_json": ("CCO", "--json", 0, 0),
    "ethanol_grad": ("CCO", "--grad --json", 0, 0),
    "ethanol_alpb": ("CCO", "--alpb water --json", 0, 0),
    "ethanol_gbsa": ("CCO", "--gbsa dmso --opt", 0, 0),
    "acetate": ("CC(=O)[O-]", "--chrg -1 --opt --json", -1, 0),
    "ammonium": ("[NH4+]", "--chrg 1", 1, 0),
    "methyl": ("[CH3]", "--uhf 1 --opt --json", 0, 1),
    "methyl_unasked": ("[CH3]", "", 0, 1),
    "oxygen": ("O=O", "--uhf 2 --opt", 0, 2),
    "formaldehyde_cation": ("C=O", "--chrg 1 --uhf 1 --json", 1, 1),
    "water_hess": ("O", "--hess", 0, 0),
    "ethene_ohess": ("C=C", "--ohess --json", 0, 0),
    "ethanol_gfn1": ("CCO", "--gfn 1 --json", 0, 0),
    "ethanol_gfn1_opt": ("CCO", "--gfn 1 --opt", 0, 0),
    "water_gfn0": ("O", "--gfn 0", 0, 0),
    "ethanol_gfnff": ("CCO", "--gfnff --opt", 0, 0),
    "ethanol_fukui": ("CCO", "--vfukui", 0, 0),
    "bromomethane": ("CBr", "--opt --json", 0, 0),
    "chain_namespace": ("CCCC", "--opt --json --namespace first", 0, 0),
}
#: Those that tblite can compute as well; it has neither GFN0-xTB nor GFN-FF.
WITH_TBLITE: Final = [name for name, case in CASES.items() if "gfn 0" not in case[1] and "gfnff" not in case[1]]

Xtb = Callable[..., Path]


@pytest.fixture(scope="session")
def xtb(tmp_path_factory: pytest.TempPathFactory, make_runs: ModuleType) -> Xtb:
    """Run the program in a folder of its own, with standard output in ``xtb.out``."""

    def run(name: str, molecule: str, options: str, form: str = "xyz") -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / "start.xyz").write_text(make_runs.xyz(make_runs.geometry(molecule), name))
        with (folder / "xtb.out").open("wb") as out, (folder / "xtb.err").open("wb") as err:
            subprocess.run(
                [XTB, f"start.{form}", *options.split()],
                cwd=folder,
                stdout=out,
                stderr=err,
                env=environment(),
                check=False,
            )
        return folder

    return run


@pytest.fixture(scope="session")
def folders(xtb: Xtb) -> dict[str, Path]:
    return {name: xtb(name, molecule, options) for name, (molecule, options, _, _) in CASES.items()}


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "XTBPATH": str(PARAMETERS)}


class Printed:
    """Lines of a log, last first."""

    def __init__(self, folder: Path) -> None:
        self.lines = (folder / "xtb.out").read_text().splitlines()[::-1]

    def last(self, label: str, word: int) -> float | None:
        """A word of the last line that has the label."""
        found = next((line for line in self.lines if label in line), None)
        return None if found is None else float(found.replace("|", " ").split()[word])

    def first(self, label: str, word: int) -> float:
        found = next(line for line in self.lines[::-1] if label in line)
        return float(found.split()[word])


@pytest.mark.parametrize("name", CASES)
def test_the_reader_returns_what_xtb_printed(folders: dict[str, Path], name: str):
    _, options, charge, unpaired = CASES[name]
    record, printed = read(folders[name]), Printed(folders[name])
    result = record.result
    assert (result.status, result.reason) == ("converged", None)
    assert result.energy == (
        printed.first(":: total energy", 3) if "vfukui" in options else printed.last("TOTAL ENERGY", 2)
    )
    assert result.gap == printed.last("HOMO-LUMO GAP", 2)
    for value, label in ((result.homo, "(HOMO)"), (result.lumo, "(LUMO)")):
        expected = printed.last(label, -2)
        assert value == (None if expected is None else pytest.approx(expected, abs=6e-5))
    assert (result.total_charge, result.unpaired_electrons) == (charge, unpaired)
    assert result.xtb_version == "6.5.1"
    assert result.optimized == ("opt" in options or "ohess" in options)
    # Of several times the first one behind the end is the whole run's.
    expected = next(line for line in printed.lines[::-1] if "wall-time" in line).split()
    assert result.execution_time_seconds == 60 * float(expected[6]) + float(expected[8])
    assert codes(record) <= {"dipole_stale", "ionised"}
    np.testing.assert_allclose(sum(result.charges), charge, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("water", ("GFN2-xTB", None, None)), ("ethanol_gfn1", ("GFN1-xTB", None, None)),
        ("water_gfn0", ("GFN0-xTB", None, None)), ("ethanol_gfnff", ("GFN-FF", None, None)),
        ("ethanol_alpb", ("GFN2-xTB", "ALPB", "water")), ("ethanol_gbsa", ("GFN2-xTB", "GBSA", "dmso")),
    ],
)  # fmt: skip
def test_the_method_and_the_solvent_are_those_of_the_run(folders: dict[str, Path], name: str, expected: Any):
    result = read(folders[name]).result
    assert (result.method, result.solvation, result.solvent) == expected


@pytest.mark.parametrize("name", WITH_TBLITE)
def test_tblite_computes_the_same(folders: dict[str, Path], name: str):
    _, options, charge, unpaired = CASES[name]
    result = read(folders[name]).result
    assert result.geometry is not None
    method = "GFN1-xTB" if "gfn 1" in options else "GFN2-xTB"
    positions = result.geometry.positions / BOHR_IN_ANGSTROM
    calculator = Calculator(method, np.array(result.geometry.numbers), positions, charge, unpaired)
    calculator.set("verbosity", 0)
    for model, solvent in (("alpb", "water"), ("gbsa", "dmso")):
        if model in options:
            calculator.add(f"{model}-solvation", solvent)
    found = calculator.singlepoint()
    assert result.energy == pytest.approx(found["energy"], abs=1e-6)
    orbitals, electrons = found["orbital-energies"] * HARTREE_IN_EV, round(found["orbital-occupations"].sum())
    highest = (electrons + unpaired) // 2
    gap = orbitals[highest] - orbitals[highest - 1]
    assert result.gap == pytest.approx(gap, abs=1e-3)
    np.testing.assert_allclose(result.charges, found["charges"], atol=1e-3)
    if result.dipole is not None:
        assert result.dipole == pytest.approx(np.linalg.norm(found["dipole"]) * ATOMIC_DIPOLE_IN_DEBYE, abs=1e-2)
    if result.forces is not None:
        np.testing.assert_allclose(result.forces, -found["gradient"], atol=1e-5)
    assert (result.dipole is None) == ("vfukui" in options)
    assert (result.forces is None) == ("grad" not in options)


def test_the_optimised_geometry_is_the_final_one(folders: dict[str, Path]):
    result = read(folders["ethanol_opt_json"]).result
    lines = (folders["ethanol_opt_json"] / "xtbopt.xyz").read_text().splitlines()
    printed = [[float(word) for word in line.split()[1:]] for line in lines[2:]]
    assert result.geometry.positions.tolist() == printed
    assert np.abs(result.geometry.positions - result.input_geometry.positions).max() > 1e-3


def test_the_dipole_in_the_json_of_an_optimisation_is_known_to_be_stale(folders: dict[str, Path]):
    record = read(folders["ethanol_opt_json"])
    assert codes(record) == {"dipole_stale"}
    assert record.sources["dipole"] == "log"


def test_a_hessian_counts_its_imaginary_modes(folders: dict[str, Path], xtb: Xtb, make_runs: ModuleType):
    assert read(folders["water_hess"]).result.imaginary_modes == 0
    assert read(folders["ethene_ohess"]).result.imaginary_modes == 0
    assert read(folders["water"]).result.imaginary_modes is None
    assert read(xtb("inversion", make_runs.planar_ammonia(), "--hess")).result.imaginary_modes == 1


def test_a_solvent_that_is_unknown_is_an_error_with_xtb_s_own_words(xtb: Xtb):
    record = read(xtb("nowhere", "O", "--alpb nowhere"))
    assert record.result.status == "error"
    assert "solvent: 'nowhere' is not parametrized" in record.result.reason
    assert record.result.energy is None


def test_an_option_that_xtb_does_not_know_is_not_believed(xtb: Xtb):
    result = read(xtb("cpcmx", "O", "--cpcmx water")).result
    assert (result.status, result.solvation, result.solvent) == ("converged", None, None)


def test_an_scf_that_does_not_converge(xtb: Xtb):
    record = read(xtb("scf", "CCO", "--iterations 3"))
    assert (record.result.status, record.result.reason) == ("not_converged", "the SCF did not converge")
    assert (record.result.energy, record.result.gap, record.result.dipole) == (None, None, None)


def test_an_optimisation_that_runs_out_of_cycles(xtb: Xtb):
    folder = xtb("cycles", "CCCO", "--opt --cycles 2")
    result = read(folder).result
    assert (result.status, result.reason) == ("not_converged", "the geometry optimisation did not converge")
    assert result.energy == Printed(folder).last("TOTAL ENERGY", 2)


def test_ions_that_the_run_computed_as_well_leave_the_molecule_its_numbers(xtb: Xtb):
    folder = xtb("ions", "O", "--vipea --json")
    record, printed = read(folder), Printed(folder)
    result = record.result
    assert codes(record) == {"ionised"}
    assert (result.total_charge, result.unpaired_electrons, result.method) == (0, 0, "IPEA-xTB")
    assert result.energy == printed.first(":: total energy", 3)
    assert result.energy != printed.last("TOTAL ENERGY", 2)
    assert result.gap == printed.first(":: HOMO-LUMO gap", 3)
    assert (result.charges, result.dipole) == (None, None)


def test_a_run_that_follows_another_in_its_folder_takes_nothing_of_it(xtb: Xtb):
    folder = xtb("twice", "CCO", "--opt --json")
    first = read(folder).result
    with (folder / "xtb.out").open("wb") as out:
        command = [XTB, "start.xyz", "--gfn", "1"]
        subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, env=environment(), check=True)
    record = read(folder)
    assert codes(record) == {"stale_file"}
    assert record.result.geometry.to_xyz() == record.result.input_geometry.to_xyz() != first.geometry.to_xyz()
    assert (record.result.method, record.result.optimized) == ("GFN1-xTB", False)
    assert record.sources["homo"] == "log"


def test_a_log_that_runs_were_appended_to_is_read_for_the_last(xtb: Xtb):
    folder = xtb("appended", "CCO", "--chrg 1 --uhf 1")
    with (folder / "xtb.out").open("ab") as out:
        command = [XTB, "start.xyz", "--gfn", "1"]
        subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, env=environment(), check=True)
    record = read(folder)
    result = record.result
    assert codes(record) == {"several_runs"}
    assert (result.method, result.total_charge, result.unpaired_electrons) == ("GFN1-xTB", 0, 0)
    assert result.energy == Printed(folder).last("TOTAL ENERGY", 2)


@pytest.mark.parametrize("form", ["coord", "pdb"])
def test_inputs_in_other_forms_give_the_same_energy(xtb: Xtb, make_runs: ModuleType, form: str):
    folder = xtb(form, "CCO", "--opt")
    reference = read(folder).result
    for path in folder.iterdir():
        if path.name != "start.xyz":
            path.unlink()
    atoms = make_runs.geometry("CCO")
    (folder / f"start.{form}").write_text(WRITERS[form](atoms))
    (folder / "start.xyz").unlink()
    with (folder / "xtb.out").open("wb") as out:
        command = [XTB, f"start.{form}", "--opt"]
        subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, env=environment(), check=True)
    record = read(folder)
    assert codes(record) == set()
    # A PDB file has three decimals.
    assert record.result.energy == pytest.approx(reference.energy, abs=1e-5)
    np.testing.assert_allclose(record.result.input_geometry.positions, [a[1:] for a in atoms], atol=6e-4)
    assert record.result.geometry.symbols == reference.geometry.symbols
    assert np.abs(record.result.geometry.positions - record.result.input_geometry.positions).max() > 1e-3


def test_a_run_that_was_killed_is_an_error_without_a_number(tmp_path: Path, make_runs: ModuleType):
    (tmp_path / "start.xyz").write_text(make_runs.xyz(make_runs.geometry("C" * 24), "long"))
    log = tmp_path / "xtb.out"
    with log.open("wb") as out:
        command = [XTB, "start.xyz", "--ohess", "--json"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=subprocess.DEVNULL, env=environment())
    while log.stat().st_size < 20_000 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    record = read(tmp_path)
    assert (record.result.status, record.result.reason) == ("error", "the log ends before the run does")
    assert (record.result.energy, record.result.gap, record.result.homo) == (None, None, None)
    assert codes(record) == {"log_truncated"}
    assert record.result.input_geometry.formula == "C24H50"


def test_the_tree_of_examples_is_what_the_program_gives(tmp_path: Path, make_runs: ModuleType):
    names = ("water", "ethanol")
    for number, case in enumerate(make_runs.JOBS):
        if case.name in names:
            made, kept = make_runs.make_job(tmp_path, case, number), make_runs.RUNS / "jobs"
            new, old = read(made).result, read(kept / made.name).result
            assert sorted(path.name for path in made.iterdir()) == sorted(
                path.name for path in (kept / made.name).iterdir()
            )
            assert (new.status, new.reason, len(new.doubts)) == (old.status, old.reason, len(old.doubts))
            assert new.energy == (None if old.energy is None else pytest.approx(old.energy, abs=1e-6))


def _coord(atoms: list[tuple[str, float, float, float]]) -> str:
    rows = [
        f"{x / BOHR_IN_ANGSTROM} {y / BOHR_IN_ANGSTROM} {z / BOHR_IN_ANGSTROM} {s.lower()}" for s, x, y, z in atoms
    ]
    return "\n".join(["$coord", *rows, "$end", ""])


def _pdb(atoms: list[tuple[str, float, float, float]]) -> str:
    rows = [
        f"HETATM{n:5d}  {s:<3s} UNL     1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {s:>2s}  "
        for n, (s, x, y, z) in enumerate(atoms, start=1)
    ]
    return "\n".join([*rows, "END", ""])


WRITERS: Final = {"coord": _coord, "pdb": _pdb}
