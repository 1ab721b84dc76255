"""What an engine computes, and how it says that it could not."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tblite.interface import Calculator

from qforge_sdk.chem import Geometry, geometry_from_smiles
from qforge_sdk.chem.electrons import valence_electrons
from qforge_sdk.chem.run_folder import Run, read_run
from qforge_sdk.compute import ENGINES, Parameters, get_engine, xtb
from qforge_sdk.compute.relax import model_hessian
from qforge_sdk.errors import COMPUTATION_CODES, ComputationFailed, ConfigurationError, InvalidInput, MissingExtra

WATER = Geometry(("O", "H", "H"), np.array([[0.0, 0.0, 0.119], [0.0, 0.7594, -0.4753], [0.0, -0.7594, -0.4753]]))
NOTHING: dict[str, Any] = {}


def engine(name: str, **options: Any) -> Any:
    return get_engine(name, **options)


def failure(name: str, geometry: Geometry = WATER, options: dict[str, Any] = NOTHING, **arguments: Any) -> Any:
    with pytest.raises(ComputationFailed) as caught:
        engine(name, **options).run(geometry, **arguments)
    assert caught.value.code in COMPUTATION_CODES
    return caught.value


def of(smiles: str) -> Geometry:
    return geometry_from_smiles(smiles).geometry


# What comes out


@pytest.mark.parametrize("name", ENGINES)
def test_a_single_point_fills_the_whole_record(name: str):
    result = engine(name).run(WATER)
    assert (result.status, result.method, result.optimized) == ("converged", "GFN2-xTB", False)
    assert result.energy == pytest.approx(-5.070290201, abs=1e-7)
    assert result.gap == pytest.approx(result.lumo - result.homo, abs=1e-3)
    assert result.gap == pytest.approx(14.3706, abs=1e-3)
    assert result.dipole == pytest.approx(2.28602, abs=1e-3)
    np.testing.assert_allclose(result.charges, [-0.5619, 0.28095, 0.28095], atol=1e-4)
    assert result.forces.shape == (3, 3)
    assert (result.geometry, result.input_geometry) == (WATER, WATER)
    assert 0 < result.execution_time_seconds < 60
    assert result.doubts == ()


def test_versions_name_the_program_unless_it_is_xtb():
    assert engine("tblite").run(WATER).xtb_version.startswith("tblite 0.")
    assert engine("xtb").run(WATER).xtb_version[0].isdigit()


@pytest.mark.parametrize("name", ENGINES)
def test_an_optimisation_ends_where_no_atom_is_pulled(name: str):
    start = of("CCO")
    result = engine(name).run(start, parameters=Parameters(optimize=True))
    assert result.optimized
    assert result.energy == pytest.approx(-11.39434, abs=2e-5)
    assert np.linalg.norm(result.forces, axis=1).max() < 1e-3
    np.testing.assert_array_equal(result.input_geometry.positions, start.positions)
    assert not np.allclose(result.geometry.positions, start.positions, atol=1e-3)
    assert result.doubts == ()


@pytest.mark.parametrize("name", ENGINES)
def test_the_numbers_of_an_optimised_row_are_those_of_its_geometry(name: str):
    relaxed = engine(name).run(of("CCO"), parameters=Parameters(optimize=True))
    again = engine(name).run(relaxed.geometry)
    assert again.energy == pytest.approx(relaxed.energy, abs=1e-7)
    assert again.gap == pytest.approx(relaxed.gap, abs=1e-3)
    assert again.dipole == pytest.approx(relaxed.dipole, abs=2e-3)
    np.testing.assert_allclose(again.charges, relaxed.charges, atol=1e-4)


def test_tblite_gives_the_same_bits_in_every_process():
    code = (
        "import sys; from qforge_sdk.chem import geometry_from_smiles; from qforge_sdk.compute import *\n"
        "result = get_engine('tblite').run(geometry_from_smiles('NCC(=O)O').geometry, "
        "parameters=Parameters(optimize=True))\n"
        "sys.stdout.write(result.energy.hex() + result.forces.tobytes().hex())"
    )
    seen = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(seen) == 1


def test_xtb_s_record_is_the_one_that_a_job_folder_gives(tmp_path: Path):
    parameters = Parameters("GFN1-xTB", solvation="ALPB", solvent="water")
    name, text = xtb.input_file(WATER, parameters.method)
    (tmp_path / name).write_text(text)
    command = [xtb.find_program(), *xtb.xtb_arguments(parameters, charge=0, unpaired_electrons=0)]
    with (tmp_path / "xtb_stdout.log").open("w") as log:
        subprocess.run(command, cwd=tmp_path, stdout=log, stderr=subprocess.DEVNULL, check=True)
    read = read_run(Run(tmp_path, "xtb_stdout.log")).result
    ran = engine("xtb").run(WATER, parameters=parameters)
    for field in ("energy", "homo", "lumo", "gap", "dipole", "solvation", "solvent", "xtb_version", "program_call"):
        assert getattr(ran, field) == getattr(read, field)
    np.testing.assert_array_equal(ran.charges, read.charges)
    np.testing.assert_allclose(ran.forces, read.forces, atol=1e-12)
    np.testing.assert_array_equal(read.input_geometry.positions, WATER.positions)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("method", ["GFN0-xTB", "GFN-FF"])
def test_xtb_has_the_methods_that_tblite_lacks(method: str, optimize: bool):
    result = engine("xtb").run(of("CCO"), parameters=Parameters(method, optimize=optimize))
    assert (result.method, result.optimized) == (method, optimize)
    assert result.energy == pytest.approx({"GFN0-xTB": -10.833, "GFN-FF": -1.220}[method], abs=2e-3)
    assert result.charges.sum() == pytest.approx(0.0, abs=1e-4)
    assert result.forces.shape == (9, 3)


def test_a_hessian_counts_imaginary_modes():
    planar_ammonia = Geometry(
        ("N", "H", "H", "H"),
        np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-0.5, 0.866025, 0.0], [-0.5, -0.866025, 0.0]]),
    )
    assert engine("xtb").run(planar_ammonia, parameters=Parameters(hessian=True)).imaginary_modes == 1
    relaxed = engine("xtb").run(of("N"), parameters=Parameters(optimize=True, hessian=True))
    assert (relaxed.imaginary_modes, relaxed.optimized) == (0, True)


@pytest.mark.parametrize("name", ENGINES)
def test_a_proton_has_no_homo_and_so_no_gap(name: str):
    proton = engine(name).run(of("[H+]"), charge=1)
    assert proton.energy == pytest.approx(0.229552, abs=1e-5)
    assert (proton.homo, proton.gap) == (None, None)


def test_a_hydrogen_atom_has_no_lumo_and_so_no_gap():
    hydrogen = engine("tblite").run(of("[H]"), unpaired_electrons=1)
    assert hydrogen.homo == pytest.approx(-10.7072, abs=1e-3)
    assert (hydrogen.lumo, hydrogen.gap) == (None, None)


@pytest.mark.parametrize(("smiles", "method", "unpaired"), [("[He]", "GFN1-xTB", 0), ("[HH]", "GFN2-xTB", 2)])
def test_xtb_s_energy_is_not_taken_where_no_orbital_is_empty(smiles: str, method: str, unpaired: int):
    error = failure("xtb", of(smiles), unpaired_electrons=unpaired, parameters=Parameters(method))
    assert (error.code, "no orbital is empty" in str(error)) == ("engine_error", True)
    assert engine("tblite").run(of(smiles), unpaired_electrons=unpaired, parameters=Parameters(method)).energy < 0


@pytest.mark.parametrize("name", ENGINES)
def test_an_atom_is_optimised_where_it_is(name: str):
    result = engine(name).run(of("[Ne]"), parameters=Parameters(optimize=True))
    assert result.optimized
    np.testing.assert_array_equal(result.geometry.positions, of("[Ne]").positions)


@pytest.mark.parametrize("name", ENGINES)
def test_a_lower_accuracy_value_and_a_hotter_gas_reach_the_program(name: str):
    cold, hot = (
        engine(name).run(of("[O][O]"), unpaired_electrons=2, parameters=Parameters(electronic_temperature=kelvin))
        for kelvin in (300.0, 9000.0)
    )
    assert hot.energy < cold.energy - 1e-3


# What cannot be computed


@pytest.mark.parametrize("name", ENGINES)
def test_an_element_beyond_radon_is_unknown(name: str):
    error = failure(name, of("[Og]"))
    assert (error.code, "Og" in str(error)) == ("unknown_element", True)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("charge", "unpaired", "words"),
    [(0, 1, "2 can"), (1, 0, "1 can"), (0, 10, "8 can"), (0, -1, "0 can"), (12, 0, "4 electrons more")],
)
def test_electrons_that_do_not_fit_the_spin_are_named(name: str, charge: int, unpaired: int, words: str):
    error = failure(name, charge=charge, unpaired_electrons=unpaired)
    assert error.code == "spin_mismatch"
    assert words in str(error)


def test_more_unpaired_electrons_than_orbitals_are_a_spin_mismatch():
    assert failure("tblite", of("FF"), unpaired_electrons=14).code == "spin_mismatch"


@pytest.mark.parametrize("name", ENGINES)
def test_an_scf_that_does_not_converge_says_so_and_shows_its_steps(name: str):
    error = failure(name, parameters=Parameters(max_iterations=2))
    assert error.code == "scf_not_converged"
    assert "-5.0" in error.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_an_optimisation_that_runs_out_of_steps_is_no_result(name: str):
    error = failure(name, of("CCO"), {"max_steps": 1}, parameters=Parameters(optimize=True))
    assert error.code == "optimization_not_converged"


@pytest.mark.parametrize("name", ENGINES)
def test_nuclei_at_one_place_are_an_engine_error(name: str):
    error = failure(name, Geometry(("H", "H"), np.zeros((2, 3))))
    assert error.code in {"engine_error", "killed"}


def test_xtb_is_killed_when_its_time_is_over():
    start = time.monotonic()
    error = failure("xtb", of("C" * 30), parameters=Parameters(optimize=True, hessian=True), timeout=0.3)
    assert error.code == "timeout"
    assert "0.3 s" in str(error)
    assert "x T B" in error.stderr or "CYCLE" in error.stderr or "optimization" in error.stderr
    assert time.monotonic() - start < 20
    assert not xtb_processes(os.getpid())


def test_an_xtb_that_somebody_kills_is_a_failure_that_names_the_signal():
    def kill() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for process in xtb_processes(os.getpid()):
                os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    error = failure("xtb", of("C" * 30), parameters=Parameters(optimize=True, hessian=True), timeout=60)
    killer.join()
    assert (error.code, "SIGKILL" in str(error)) == ("killed", True)


def test_a_worker_that_is_killed_takes_its_xtb_with_it(tmp_path: Path):
    code = (
        "from qforge_sdk.chem import geometry_from_smiles; from qforge_sdk.compute import *\n"
        "geometry = geometry_from_smiles('C' * 28).geometry\n"
        "get_engine('xtb').run(geometry, parameters=Parameters(optimize=True, hessian=True))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 30
    while not (children := xtb_processes(worker.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children
    assert not any(map(is_running, children))


def is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def xtb_processes(parent: int) -> list[int]:
    """Running xtb processes below a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        if name == "xtb" and int(rest.split()[1]) == parent and rest.split()[0] != "Z":
            found.append(int(entry.name))
    return found


# What is not this engine's


@pytest.mark.parametrize(
    ("name", "parameters", "field", "words"),
    [
        ("tblite", Parameters("GFN0-xTB"), "method", "did you mean 'GFN2-xTB'|GFN1-xTB"),
        ("xtb", Parameters("IPEA1-xTB"), "method", "known: GFN2-xTB"),
        ("tblite", Parameters(solvation="COSMO", solvent="water"), "solvation", "did you mean 'ddCOSMO'"),
        ("xtb", Parameters(solvation="CPCM-X", solvent="water"), "solvation", "known: ALPB, GBSA, COSMO"),
        ("tblite", Parameters(solvation="ALPB"), "solvent", "go together"),
        ("xtb", Parameters(solvent="water"), "solvent", "go together"),
        ("tblite", Parameters(solvation="ALPB", solvent="treacle"), "solvent", "treacle"),
        ("xtb", Parameters(solvation="ALPB", solvent="treacle"), "solvent", "treacle"),
        ("tblite", Parameters(solvation="GBSA", solvent="octanol"), "solvent", "no GBSA parameters"),
        ("xtb", Parameters(solvation="GBSA", solvent="octanol"), "solvent", "no GBSA parameters"),
        ("tblite", Parameters(hessian=True), "hessian", "engine='xtb'"),
        ("tblite", Parameters(accuracy=0.0), "accuracy", "above 0"),
        ("xtb", Parameters(electronic_temperature=float("nan")), "electronic_temperature", "above 0"),
        ("xtb", Parameters(max_iterations=True), "max_iterations", "above 0"),
        ("tblite", Parameters(max_iterations=10**12), "max_iterations", "whole number"),
        ("xtb", Parameters(solvation="ALPB", solvent="--opt"), "solvent", "no name of a solvent"),
        ("xtb", Parameters(solvation="ALPB", solvent="none"), "solvent", "no name of a solvent"),
        ("tblite", Parameters(solvation="ALPB", solvent="éther"), "solvent", "no name of a solvent"),
    ],
)
def test_parameters_that_an_engine_lacks_are_refused(name: str, parameters: Parameters, field: str, words: str):
    for act in (lambda: engine(name).run(WATER, parameters=parameters), lambda: engine(name).check(parameters)):
        with pytest.raises(InvalidInput, match=words) as caught:
            act()
        assert caught.value.field == field


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("solvation", [None, "ALPB", "GBSA"])
def test_parameters_that_an_engine_has_pass_its_check(name: str, solvation: str | None):
    solvent = None if solvation is None else "Water"
    engine(name).check(Parameters("GFN1-xTB", solvation=solvation, solvent=solvent, optimize=True))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("geometry", "charge", "field"),
    [(Geometry((), np.zeros((0, 3))), 0, "geometry"), (WATER, 0.5, "charge"), (WATER, True, "charge")],
)
def test_what_is_no_molecule_is_refused(name: str, geometry: Geometry, charge: Any, field: str):
    with pytest.raises(InvalidInput) as caught:
        engine(name).run(geometry, charge=charge)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ENGINES)
def test_numbers_of_numpy_are_numbers(name: str):
    parameters = Parameters(max_iterations=np.int64(250), accuracy=np.float64(1.0))  # type: ignore[arg-type]
    result = engine(name).run(WATER, charge=np.int64(1), unpaired_electrons=np.int64(1), parameters=parameters)
    assert result.energy == pytest.approx(-4.3976, abs=1e-3)


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'tblite'"):
        get_engine("tblight")


def test_an_unknown_option_of_an_engine_names_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'max_steps'"):
        get_engine("tblite", max_step=3)


def test_what_an_engine_is_cannot_be_set_by_an_option():
    with pytest.raises(InvalidInput, match="no option 'methods'"):
        get_engine("tblite", methods=("B3LYP",))


def test_an_unknown_optimisation_level_names_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'tight'"):
        get_engine("xtb", level="tigt")


# Which program


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_pickles(name: str):
    chosen = engine(name, max_steps=7)
    assert pickle.loads(pickle.dumps(chosen)) == chosen


def test_without_tblite_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(MissingExtra, match='pip install "tblite>='):
        engine("tblite").check(Parameters())


def test_xtb_path_names_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "my xtb"
    program.symlink_to(shutil.which("xtb") or "xtb")
    monkeypatch.setenv("XTB_PATH", str(program))
    assert engine("xtb").run(WATER).program_call.startswith(str(program))


def test_a_path_that_is_no_program_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XTB_PATH", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="set XTB_PATH"):
        engine("xtb").run(WATER)


def test_without_xtb_the_message_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="conda-forge"):
        engine("xtb").run(WATER)


def test_a_program_that_is_not_xtb_is_an_engine_error(tmp_path: Path):
    error = failure("xtb", options={"program": script(tmp_path, "echo I am not xtb >&2; exit 3")})
    assert error.code == "engine_error"
    assert "I am not xtb" in error.stderr
    with pytest.raises(ConfigurationError, match=r"cannot compute H2: .*; set XTB_PATH to xtb itself"):
        engine("xtb", program=script(tmp_path, "exit 3")).check(Parameters())


def test_an_xtb_that_passes_over_an_option_is_no_result(tmp_path: Path):
    # As versions before 6.5 do with --cosmo.
    real = shutil.which("xtb")
    old = script(
        tmp_path,
        f'for word do shift; [ "$word" = --cosmo ] && word=--csomo; set -- "$@" "$word"; done\nexec {real} "$@"',
    )
    error = failure("xtb", options={"program": old}, parameters=Parameters(solvation="COSMO", solvent="water"))
    assert "something else than was asked for" in str(error)


def test_the_home_folder_s_settings_of_xtb_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".xtbrc").write_text("$opt\n   maxcycle=1\n$end\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine("xtb").run(of("CCO"), parameters=Parameters(optimize=True)).optimized


def test_a_run_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    engine("xtb").run(WATER, parameters=Parameters(optimize=True))
    failure("xtb", parameters=Parameters(max_iterations=2))
    assert list(tmp_path.iterdir()) == []


def script(folder: Path, body: str) -> str:
    path = folder / "xtb"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# One thread


CPU_BY_WALL = """
import os, time
from qforge_sdk.chem import geometry_from_smiles
from qforge_sdk.compute import *
geometry = geometry_from_smiles("CC(C)Cc1ccc(cc1)C(C)C(=O)OCCCC").geometry
engine = get_engine("tblite", max_steps=8)
def work():
    for _ in range(10):
        engine.run(geometry)
    try:
        engine.run(geometry, parameters=Parameters(optimize=True))
    except Exception as error:
        assert error.code == "optimization_not_converged", error
def ticks():
    own = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()
        own[task] = int(fields[11]) + int(fields[12])
    return own
# Importing numpy and scipy starts threads, which run for a moment before they sleep.
work()
time.sleep(0.2)
before = ticks()
work()
after = ticks()
spent = sorted((after[task] - before.get(task, 0) for task in after), reverse=True)
print(spent[0], sum(spent[1:]))
"""


def test_tblite_computes_on_one_thread_whatever_the_environment_says():
    environment = os.environ | {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", CPU_BY_WALL], env=environment, check=True, capture_output=True)
    caller, others = map(int, run.stdout.split())
    assert caller > 10
    assert others <= 1


def test_a_program_s_own_threads_are_given_back():
    code = (
        "import ctypes, tblite._libtblite as library\n"
        "from qforge_sdk.chem import geometry_from_smiles\n"
        "from qforge_sdk.compute import get_engine\n"
        "openmp = ctypes.CDLL(library.__file__)\n"
        "openmp.omp_set_num_threads(3)\n"
        "get_engine('tblite').run(geometry_from_smiles('C').geometry)\n"
        "print(openmp.omp_get_max_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"3\n"


def test_threads_take_turns():
    molecules = [of(smiles) for smiles in ("CCO", "c1ccccc1", "CC(=O)O", "CCCCCC")]
    alone = [engine("tblite").run(molecule).energy.hex() for molecule in molecules]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda molecule: engine("tblite").run(molecule).energy.hex(), molecules * 10))
    assert together == alone * 10


# Tables


# All of GFN2-xTB's elements, and the ends of the blocks for the others.
ENDS = [1, 2, 3, 10, 11, 18, 19, 21, 29, 30, 36, 47, 48, 54, 57, 71, 72, 79, 80, 86]


@pytest.mark.parametrize(
    ("method", "numbers"), [("GFN2-xTB", list(range(1, 87))), ("GFN1-xTB", ENDS), ("IPEA1-xTB", ENDS)]
)
def test_valence_electrons_are_those_that_tblite_counts(method: str, numbers: list[int]):
    counted = {}
    for number in numbers:
        # Two atoms always have an even number of electrons, and hot ones converge.
        pair = np.array([number, number]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
        calculator = Calculator(method, *pair, 0.0, 0)
        for name, value in (("verbosity", 0), ("temperature", 0.05), ("accuracy", 1000.0)):
            calculator.set(name, value)
        counted[number] = round(calculator.singlepoint().get("orbital-occupations").sum()) // 2
    assert counted == {number: valence_electrons(number) for number in numbers}


def test_elements_beyond_radon_have_no_valence_electrons():
    with pytest.raises(InvalidInput, match="element 87"):
        valence_electrons(87)


def test_the_model_hessian_is_symmetric_and_feels_the_bonds():
    hessian = model_hessian(WATER)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-15)
    assert np.linalg.eigvalsh(hessian).min() == pytest.approx(0.05, abs=1e-12)
    shift = np.tile([0.0, 0.0, 1.0], 3)
    np.testing.assert_allclose(hessian @ shift, 0.05 * shift, atol=1e-12)
    assert 0.4 < np.linalg.eigvalsh(hessian).max() < 3.0
