"""The xtb program: GFN2-xTB, GFN1-xTB, GFN0-xTB and GFN-FF, with its own optimiser and Hessian."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.chem.run_folder import Run, read_run
from qforge_sdk.compute.check import DEFAULTS, check_molecule, check_parameters, check_positive, hydrogen
from qforge_sdk.compute.engine import Parameters
from qforge_sdk.compute.scratch import scratch_folder
from qforge_sdk.config import Settings
from qforge_sdk.errors import ComputationFailed, ConfigurationError, InvalidInput
from qforge_sdk.quantities import BOHR_IN_ANGSTROM, did_you_mean

LEVELS: Final = ("crude", "sloppy", "loose", "lax", "normal", "tight", "vtight", "verytight", "extreme")
"""xtb's optimisation levels; ``normal`` ends at 5e-6 hartree and a gradient norm of 1e-3 hartree/bohr."""

_METHODS: Final = {
    "GFN2-xTB": ("--gfn", "2"),
    "GFN1-xTB": ("--gfn", "1"),
    "GFN0-xTB": ("--gfn", "0"),
    "GFN-FF": ("--gfnff",),
}
_SOLVATIONS: Final = {"ALPB": "--alpb", "GBSA": "--gbsa", "COSMO": "--cosmo"}
_TASKS: Final = {(False, True): "--hess", (True, False): "--opt", (True, True): "--ohess"}
_ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OMP_MAX_ACTIVE_LEVELS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
# xtb keeps its arrays on the stack; a dump of its memory helps nobody.
_START: Final = 'ulimit -c 0; ulimit -s unlimited 2>/dev/null || ulimit -S -s "$(ulimit -H -s)"; exec "$@"'
# After an optimisation xtbout.json still holds the dipole of the first geometry.
_EXPECTED: Final = ("dipole_stale",)
_TAIL_CHARACTERS: Final = 4000
_LOG: Final = "xtb_stdout.log"
_ERRORS: Final = "xtb_stderr.log"
_SHELL_SIGNALS: Final = 128
_SIGNALS: Final = frozenset(int(one) for one in signal.Signals)


@dataclass(frozen=True, slots=True)
class XtbEngine:
    """Runs the xtb program, each molecule in a folder of its own, on one thread.

    Parameters
    ----------
    level
        Of an optimisation, one of :data:`LEVELS`.
    max_steps
        How many steps an optimisation may take; None for xtb's own number, which grows with the molecule.
    program
        Path of xtb; None for ``XTB_PATH``, or else what PATH finds.
    """

    level: str = "normal"
    max_steps: int | None = None
    program: str | None = None

    name: ClassVar[str] = "xtb"
    methods: ClassVar[tuple[str, ...]] = tuple(_METHODS)
    solvations: ClassVar[Mapping[str, str]] = {
        "ALPB": "analytical linearised Poisson-Boltzmann",
        "GBSA": "generalised Born with surface area",
        "COSMO": "conductor-like screening (xtb 6.5 and newer)",
    }

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InvalidInput(
                f"xtb has no optimisation level {self.level!r}{did_you_mean(str(self.level), list(LEVELS))}",
                field="level",
                value=self.level,
            )
        if self.max_steps is not None:
            check_positive("max_steps", self.max_steps, whole=True)

    def check(self, parameters: Parameters) -> None:
        """Refuse parameters that are not this engine's, by a run on hydrogen.

        Parameters
        ----------
        parameters
            What is asked for.

        Raises
        ------
        InvalidInput
            Method, solvation model or solvent are not there.
        ConfigurationError
            xtb is not installed, or the program is not xtb.
        ComputationFailed
            xtb was killed, or took longer than 60 s.
        """
        try:
            self.run(hydrogen(), parameters=parameters, timeout=60)
        except ComputationFailed as exc:
            if exc.code != "engine_error":
                raise
            raise ConfigurationError(
                f"{find_program(self.program)} cannot compute H2: {exc}; set XTB_PATH to xtb itself"
            ) from exc

    def run(
        self,
        geometry: Geometry,
        *,
        charge: int = 0,
        unpaired_electrons: int = 0,
        parameters: Parameters = DEFAULTS,
        timeout: float | None = None,
    ) -> XtbResult:
        """Compute one molecule; see :meth:`qforge_sdk.compute.Engine.run`.

        Parameters
        ----------
        geometry
            Angstrom.
        charge
            Total charge, e.
        unpaired_electrons
            Number.
        parameters
            Level of theory and what to do.
        timeout
            Wall time, s, after which xtb is killed.

        Returns
        -------
        XtbResult
            What the job-folder reader makes of the run's folder; the dipole of an optimised geometry has the three
            decimals of the log, and GFN0-xTB has none there.

        Raises
        ------
        ComputationFailed
            By ``code``; ``stderr`` holds the end of what xtb printed.
        InvalidInput
            The parameters are not this engine's.
        ConfigurationError
            xtb is not installed.
        """
        check_parameters(parameters, engine=self.name, methods=self.methods, solvations=self.solvations)
        check_molecule(geometry, charge, unpaired_electrons)
        program = find_program(self.program)
        arguments = xtb_arguments(
            parameters,
            charge=charge,
            unpaired_electrons=unpaired_electrons,
            level=self.level,
            max_steps=self.max_steps,
        )
        with scratch_folder() as (folder, lock):
            run = _Folder(folder, lock)
            name, text = input_file(geometry, parameters.method)
            (run.path / name).write_text(text, encoding="utf-8")
            run.execute([program, *arguments], timeout)
            result = run.result(parameters, charge)
        return dataclasses.replace(
            result,
            # xtb leaves an atom where it is and does not say that it was optimised.
            optimized=parameters.optimize,
            # As they were given: coord holds them in bohr.
            input_geometry=geometry,
            geometry=result.geometry if parameters.optimize else geometry,
            doubts=tuple(doubt for doubt in result.doubts if not parameters.optimize or doubt.code not in _EXPECTED),
        )


def find_program(program: str | None = None) -> str:
    """Path of xtb.

    Parameters
    ----------
    program
        As it was configured; None for ``XTB_PATH``, or else what PATH finds.

    Raises
    ------
    ConfigurationError
        There is none, or it cannot be executed.
    """
    wanted = program or Settings().xtb_path
    found = shutil.which(str(Path(wanted).expanduser()) if wanted else "xtb")
    if found is None and wanted:
        raise ConfigurationError(f"{wanted} is no program that can be executed; set XTB_PATH to xtb itself")
    if found is None:
        raise ConfigurationError("xtb is not on PATH; install it (conda-forge and Debian: xtb) or set XTB_PATH")
    return found


def xtb_arguments(
    parameters: Parameters,
    *,
    charge: int,
    unpaired_electrons: int,
    level: str = "normal",
    max_steps: int | None = None,
) -> list[str]:
    """Command line of xtb, without the program.

    Parameters
    ----------
    parameters
        Of a method and solvation model that xtb has.
    charge, unpaired_electrons
        Of the molecule.
    level, max_steps
        Of an optimisation.

    Returns
    -------
    list of str
        Beginning with the name of the input file, see :func:`input_file`.
    """
    arguments = [_input_name(parameters.method), *_METHODS[parameters.method]]
    arguments += ["--chrg", str(charge), "--uhf", str(unpaired_electrons)]
    if parameters.solvation is not None and parameters.solvent is not None:
        arguments += [_SOLVATIONS[parameters.solvation], parameters.solvent.lower()]
    for option, value in (("--acc", parameters.accuracy), ("--etemp", parameters.electronic_temperature)):
        arguments += [option, repr(float(value))]
    arguments += ["--iterations", str(parameters.max_iterations)]
    task = _TASKS.get((parameters.optimize, parameters.hessian))
    if task is not None:
        arguments += [task, level] if parameters.optimize else [task]
    if parameters.optimize and max_steps is not None:
        arguments += ["--cycles", str(max_steps)]
    return [*arguments, "--grad", "--json"]


def input_file(geometry: Geometry, method: str) -> tuple[str, str]:
    """Name and text of xtb's input.

    Parameters
    ----------
    geometry
        Angstrom.
    method
        Of the calculation.

    Returns
    -------
    tuple of str
        XYZ; Turbomole's coord (bohr) for GFN0-xTB, since xtb up to 6.7.0 crashes when that reads XYZ.
    """
    name = _input_name(method)
    if name != "coord":
        return name, geometry.to_xyz()
    atoms = zip(geometry.symbols, (geometry.positions / BOHR_IN_ANGSTROM).tolist(), strict=True)
    lines = [f"{x!r:>24} {y!r:>24} {z!r:>24} {symbol.lower()}" for symbol, (x, y, z) in atoms]
    return name, "\n".join(["$coord", *lines, "$end", ""])


def _input_name(method: str) -> str:
    return "coord" if method == "GFN0-xTB" else "molecule.xyz"


class _Folder:
    """The folder of one run."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def execute(self, command: list[str], timeout: float | None) -> None:
        environment = os.environ | _ONE_THREAD | {"XTBPATH": _parameter_path(Path(command[0]))}
        with (self.path / _LOG).open("wb") as log, (self.path / _ERRORS).open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603
                [*_dying_with_us(), "/bin/sh", "-c", _START, "sh", *command],
                cwd=self.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                pass_fds=[self._lock],
                start_new_session=True,
            )
            try:
                self.returncode = process.wait(timeout)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise self._failure(f"xtb took longer than {timeout:g} s", "timeout") from None
            except BaseException:
                _kill(process)
                raise

    def result(self, parameters: Parameters, charge: int) -> XtbResult:
        # A shell around it tells a signal by a code above 128.
        ended_by = -self.returncode if self.returncode < 0 else self.returncode - _SHELL_SIGNALS
        if ended_by in _SIGNALS:
            raise self._failure(f"xtb was ended by {signal.Signals(ended_by).name}", "killed")
        if not (self.path / _LOG).stat().st_size and not shutil.disk_usage(self.path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        result = read_run(Run(self.path, _LOG)).result
        if result.status != "converged":
            raise self._explained(result, parameters)
        if self.returncode:
            raise self._failure(f"xtb ended with exit code {self.returncode}", "engine_error")
        if result.homo is not None and result.lumo is None:
            # xtb 6.5.1 reads beyond its orbitals then: triplet H2 comes out at -0.18 or, once in three runs, at 2.86.
            message = f"xtb {result.xtb_version} is not to be trusted where no orbital is empty; tblite is"
            raise self._failure(message, "engine_error")
        self._require_as_asked(result, parameters, charge)
        return result

    def _explained(self, result: XtbResult, parameters: Parameters) -> Exception:
        reason = result.reason or "no reason given"
        if parameters.solvent is not None and "is not parametrized" in reason:
            return InvalidInput(
                f"xtb has no {parameters.solvation} parameters of {parameters.method} for the solvent "
                f"{parameters.solvent!r}",
                field="solvent",
                value=parameters.solvent,
            )
        code = "engine_error"
        if result.status == "not_converged":
            code = "scf_not_converged" if "SCF" in reason else "optimization_not_converged"
        return self._failure(f"xtb: {reason}", code)

    def _require_as_asked(self, result: XtbResult, parameters: Parameters, charge: int) -> None:
        """An older xtb passes over what it does not know, with a warning."""
        wanted: dict[str, Any] = {
            "method": parameters.method,
            "solvation": parameters.solvation,
            "optimized": parameters.optimize,
            "total_charge": float(charge),
        }
        apart = [name for name, value in wanted.items() if getattr(result, name) != value]
        if b"Unknown option" in (self.path / _LOG).read_bytes():
            apart.append("an option that it does not know")
        if apart:
            raise self._failure(
                f"xtb {result.xtb_version} computed something else than was asked for: {', '.join(apart)}",
                "engine_error",
            )

    def _failure(self, message: str, code: str) -> ComputationFailed:
        printed = [
            (self.path / name).read_bytes()[-_TAIL_CHARACTERS:].decode("utf-8", "replace").strip()
            for name in (_LOG, _ERRORS)
        ]
        return ComputationFailed(message, code=code, stderr="\n".join(filter(None, printed)))


def _parameter_path(program: Path) -> str:
    """Where xtb finds parameter files; never in the home folder, whose .xtbrc would change results."""
    given = os.environ.get("XTBPATH")
    return given or str(program.resolve().parent.parent / "share" / "xtb")


@cache
def _dying_with_us() -> tuple[str, ...]:
    """So that a killed worker leaves no xtb behind, where the system has a program for it."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    # That of busybox has no such option.
    described = subprocess.run([setpriv, "--help"], capture_output=True, check=False).stdout  # noqa: S603
    return (setpriv, "--pdeathsig", "KILL") if b"--pdeathsig" in described else ()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
