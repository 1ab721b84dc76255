"""A finished run's folder to one result.

The files of a folder overlap and disagree. For each number they are asked in a written order of trust,
:data:`~qforge_sdk.chem.trust.TRUST`; the first that has it is taken and the others are compared with it. What
disagrees by more than the digits it was printed with is a doubt that holds both values. Nothing here raises for what
a folder holds: a run that cannot be read is a result of status ``error`` that says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from qforge_sdk.chem import xtb_files, xtb_log
from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.geometry_files import read_geometry
from qforge_sdk.chem.result import Doubt, Status, XtbResult
from qforge_sdk.chem.run_files import RunFiles, beginning
from qforge_sdk.chem.run_record import Run, RunRecord
from qforge_sdk.chem.trust import TOLERANCE, TRUST, Sources, apart
from qforge_sdk.chem.xtb_files import Unreadable
from qforge_sdk.chem.xtb_log import LogFacts

T = TypeVar("T")

__all__ = ["TRUST", "Run", "RunRecord", "read_run", "runs_in"]

_LOGS: Final = ("xtb_stdout.log", "xtb.out", "xtb.log")
_LOG_SUFFIXES: Final = (".out", ".output", ".log", ".stdout")
_NO_LOGS: Final = frozenset({"xtbopt.log", "xtb_stderr.log", "xtbscan.log", "xtbirc.log", "g98.out"})
_ERRORS: Final = ("xtb_stderr.log", "xtb.err")
_FORMS: Final = ("xyz", "coord", "tmol", "pdb", "sdf", "mol")
_NO_INPUTS: Final = ("xtbopt", "xtblast", "xtbhess", "xtbscreen", "xtbscan", "xtb.")
_FINAL: Final = frozenset(f"{name}.{form}" for name in ("xtbopt", "xtblast") for form in _FORMS)
_MARKS: Final = _FINAL | {"xtbout.json", "xtbtopo.mol"}
_WRITTEN: Final = frozenset({"xtbout.json", "charges", "gradient", "xtbopt.xyz"})
_SAID_BY_LOG: Final = ("energy", "gap", "homo", "lumo", "dipole", "method")
_SAID_BY_JSON: Final = ("energy", "gap", "homo", "lumo", "charges", "unpaired_electrons", "method")
# Lanthanides are computed without their f electrons, so that counting electrons says nothing of their spins.
_LANTHANIDES: Final = range(58, 72)


def runs_in(folder: Path, names: list[str]) -> list[Run]:
    """The runs that a folder holds.

    Parameters
    ----------
    folder
        Where.
    names
        Its files.

    Returns
    -------
    list of Run
        None for a folder that is no run's; several where several logs lie in one folder.
    """
    logs = [name for name in names if name in _LOGS or (name.endswith(_LOG_SUFFIXES) and name not in _NO_LOGS)]
    logs = sorted(name for name in logs if name in _LOGS or _is_log(folder, name))
    if len(logs) > 1:
        return [Run(folder, log, alone=False) for log in logs]
    known = set(names)
    is_job = "metadata.json" in known or any(name.endswith("_metadata.json") for name in names)
    if logs or is_job or known & _MARKS or {"wbo", "charges"} <= known:
        return [Run(folder, logs[0] if logs else None)]
    return []


def read_run(run: Run) -> RunRecord:
    """Read one run.

    Parameters
    ----------
    run
        From :func:`runs_in`.

    Returns
    -------
    RunRecord
        Whatever the folder holds, with status and doubts.

    Raises
    ------
    OSError
        The folder itself cannot be listed.
    """
    return _Reader(run).read()


def _is_log(folder: Path, name: str) -> bool:
    return xtb_log.looks_like_log(beginning(folder, name))


class _Reader:
    """The files of one run and what they say."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.files = RunFiles(run.folder)
        self.doubts = self.files.doubts
        self.sources = Sources(self.doubts)
        self.log: LogFacts | None = None
        self.own: Mapping[str, str] = {}
        self.log_text = b""
        self.electrons: int | None = None
        self.input_name: str | None = None

    def read(self) -> RunRecord:
        self._read_log()
        self.own = self._own_files()
        job = self._read_job()
        call = self._read_json()
        start, input_hash = self._read_input(job)
        final = self._read_final()
        optimized = final is not None or (self.log is not None and self.log.optimized)
        geometry = final or (None if optimized else start)
        forces = self._read_forces(geometry)
        self._read_charges()
        chosen = self._choose()
        charge = float(chosen["total_charge"] or 0.0)
        status, reason = self._judge(job, chosen["energy"])
        result = XtbResult(
            status=status,
            reason=reason,
            energy=chosen["energy"],
            homo=chosen["homo"],
            lumo=chosen["lumo"],
            gap=chosen["gap"],
            dipole=chosen["dipole"],
            total_charge=charge,
            unpaired_electrons=self._unpaired(chosen["unpaired_electrons"] or 0, geometry or start, charge),
            method=chosen["method"],
            solvation=self.log.solvation if self.log else None,
            solvent=self.log.solvent if self.log else None,
            xtb_version=chosen["xtb_version"],
            optimized=optimized,
            execution_time_seconds=self.log.wall_time if self.log else None,
            geometry=geometry,
            input_geometry=start,
            charges=self._checked(chosen["charges"], geometry, charge),
            forces=forces,
            imaginary_modes=self._imaginary_modes(),
            program_call=(self.log.program_call if self.log else None) or call,
            doubts=(*(self.log.doubts if self.log else ()), *self.doubts),
        )
        return RunRecord(
            run=self.run,
            result=result,
            name=_text(job.get("molecule_name")) or _text(_inner(job, "molecule", "name")),
            smiles=_text(job.get("smiles")) or _text(_inner(job, "molecule", "smiles")),
            job=job,
            input_hash=input_hash,
            content_hash=self.files.content_hash,
            output_json=self.run.folder / self.own["xtbout.json"] if "xtbout.json" in self.own else None,
            sources=self.sources.taken,
        )

    def _choose(self) -> dict[str, Any]:
        chosen = {name: self.sources.choose(name) for name in TRUST}
        if (chosen["homo"] is None) != (chosen["lumo"] is None):
            # A hydrogen atom has one orbital, a proton none filled; xtb prints the one energy for the gap then.
            chosen["gap"] = None
        return chosen

    # Files ----------------------------------------------------------------------------------------------------------

    def _own_files(self) -> Mapping[str, str]:
        """Files that this run wrote, by the name that xtb gives them without ``--namespace``."""
        names = self.files.names
        if self.log is not None and self.log.namespace is not None:
            before, hidden = f"{self.log.namespace}.", f".{self.log.namespace}."
            own = {name.removeprefix(before): name for name in names if name.startswith(before)}
            return own | {f".{name.removeprefix(hidden)}": name for name in names if name.startswith(hidden)}
        return {name: name for name in names} if self.run.alone else {}

    def _parsed(self, name: str | None, parse: Callable[[bytes], T]) -> T | None:
        """What a file says; one that is damaged is a doubt."""
        data = self.files.read(name)
        if data is None:
            return None
        try:
            return parse(data)
        except Unreadable as exc:
            self.files.doubt("bad_file", f"{name}: {exc}")
            return None

    def _read_log(self) -> None:
        name = self.run.log
        data = self.files.read(name, ends=True)
        if name is None:
            return
        self.log_text = data or b""
        self.log = log = xtb_log.read_log(self.log_text)
        self.electrons = log.electrons
        if data is not None and not log.finished and log.fatal is None:
            self.files.doubt("log_truncated", f"{name} ends before the run does")
        for quantity in _SAID_BY_LOG:
            self.sources.say(quantity, "log", getattr(log, quantity))
        self.sources.say("xtb_version", "log", log.version)
        for source, charge, unpaired in (
            ("log", log.printed_charge, log.printed_unpaired),
            ("call", log.asked_charge, log.asked_unpaired),
        ):
            self.sources.say("total_charge", source, charge)
            self.sources.say("unpaired_electrons", source, unpaired)
        if log.method is None:
            self.sources.say("method", "call", log.asked_method)

    def _read_job(self) -> dict[str, Any]:
        """metadata.json and results.json, under their usual names or behind the job's."""
        if not self.run.alone:
            return {}
        say = self.sources.say
        job = self._parsed(self._one("metadata.json"), xtb_files.load_json) or {}
        results = self._parsed(self._one("results.json"), xtb_files.load_json)
        for charge in (_inner(job, "molecule", "charge"), job.get("charge")):
            say("total_charge", "metadata.json", _charge(charge))
        say("method", "metadata.json", _text(_inner(job, "method", "hamiltonian")))
        say("xtb_version", "metadata.json", _text(_inner(job, "method", "version")))
        if results is not None:
            job["results"] = results
            for energy in (results.get("energy"), _inner(results, "energetics", "total_energy_hartree")):
                say("energy", "results.json", xtb_files.number(energy))
            for gap in (
                _inner(results, "results", "homo_lumo_gap"),
                _inner(results, "energetics", "homo_lumo_gap_ev"),
            ):
                say("gap", "results.json", xtb_files.number(gap))
        say("total_charge", ".CHRG", self._parsed(".CHRG", lambda data: _charge(data.split(None, 1)[0])))
        say("unpaired_electrons", ".UHF", self._parsed(".UHF", lambda data: xtb_files.count(data.split(None, 1)[0])))
        return job

    def _read_json(self) -> str | None:
        """xtbout.json; its command line."""
        facts = self._parsed(self.own.get("xtbout.json"), xtb_files.read_xtb_json)
        if facts is None:
            return None
        log, call = self.log, facts.program_call
        if log and log.program_call and call and log.program_call.split() != call.split():
            self.doubts.append(
                Doubt("stale_file", "xtbout.json is of another run", {"log": log.program_call, "xtbout.json": call})
            )
            return None
        self.sources.say("xtb_version", "xtbout.json", facts.version)
        if log and log.ionised:
            # All of it is of the last ion, and computed with IPEA-xTB it says GFN1-xTB.
            return call
        self.electrons = self.electrons or facts.electrons
        for quantity in _SAID_BY_JSON:
            self.sources.say(quantity, "xtbout.json", getattr(facts, quantity))
        self._say_dipole(facts.dipole)
        return call

    def _say_dipole(self, exact: float | None) -> None:
        """After an optimisation xtbout.json has the dipole of the geometry before it; the log has the final one."""
        printed = self.sources.said("dipole", "log")
        was_optimized = self.log.moved if self.log else not _FINAL.isdisjoint(self.own)
        is_same = exact is not None and printed is not None and not apart("dipole", printed, exact)
        if exact is None or is_same or not was_optimized:
            self.sources.say("dipole", "xtbout.json", exact)
            return
        message = "xtbout.json keeps the dipole of the geometry before the optimisation; the final one is in the log"
        self.doubts.append(Doubt("dipole_stale", message, {"log": printed, "xtbout.json": exact}))

    def _read_final(self) -> Geometry | None:
        """The optimised geometry: of a file of the run's own, else as the log prints it."""
        if not self.own and not self.run.alone and self.files.names & _WRITTEN:
            self.files.doubt("shared_files", "the folder holds several runs: only the log was read")
        # xtbopt before xtblast, which is left where an optimisation failed.
        for name in sorted((_FINAL & self.own.keys()) - {self.input_name}, reverse=True):
            geometry = self._parsed(self.own[name], partial(read_geometry, name))
            if geometry is None:
                continue
            energy, version = xtb_files.read_comment(geometry.comment)
            if self.log and self.log.finished and not self.log.moved:
                values = {} if energy is None else {name: energy}
                self.doubts.append(Doubt("stale_file", f"{name} is of another run: this one moved no atom", values))
                return None
            self.sources.say("energy", name, energy)
            self.sources.say("xtb_version", name, version)
            return geometry
        printed = xtb_log.final_structure(self.log_text) if self.log and self.log.moved else None
        if printed is None:
            return None
        try:
            return read_geometry(Path(self.log.input_file or "").name if self.log else "", printed)
        except Unreadable as exc:
            self.files.doubt("bad_file", f"the log's final structure: {exc}")
            return None

    def _read_input(self, job: Mapping[str, Any]) -> tuple[Geometry | None, str | None]:
        """The first geometry and the hash of its file."""
        named = [self.log.input_file if self.log else None, job.get("xyz_file"), job.get("input_file")]
        candidates = [one.replace("\\", "/").rpartition("/")[2] for one in named if isinstance(one, str)]
        name = next((one for one in candidates if one in self.files.names), None) or self._only_xyz()
        if self.log and self.log.moved and name in _FINAL:
            # The run began with the end of another and wrote its own over it.
            return None, None
        self.input_name = name
        data = self.files.read(name)
        if data is None or name is None:
            return None, None
        digest = hashlib.sha256(data).hexdigest()
        try:
            return read_geometry(name, data), digest
        except Unreadable as exc:
            self.files.doubt("bad_file", f"{name}: {exc}")
            return None, digest

    def _only_xyz(self) -> str | None:
        if not self.run.alone:
            return None
        found = [name for name in self.files.names if name.endswith(".xyz") and not name.startswith(_NO_INPUTS)]
        return found[0] if len(found) == 1 else None

    def _read_charges(self) -> None:
        for name in ("charges", "gfnff_charges"):
            self.sources.say("charges", name, self._parsed(self.own.get(name), xtb_files.read_charges))
        found = self.sources.said("charges", "charges")
        if found is not None and self.log is None:
            self.sources.say("total_charge", "charges", _charge(round(sum(found.tolist()))))

    def _read_forces(self, geometry: Geometry | None) -> FloatArray | None:
        if geometry is None or not self.run.alone:
            return None
        name = next((one for one in self.files.names if one == "gradient" or one.endswith(".engrad")), None)
        if name is None:
            return None
        parse = xtb_files.read_gradient if "gradient" in self.files.names else xtb_files.read_engrad
        name = "gradient" if "gradient" in self.files.names else name
        found = self._parsed(name, lambda data: parse(data, len(geometry.symbols)))
        if found is None:
            return None
        if np.abs(found.positions - geometry.positions).max() > 1e-3:
            self.files.doubt("geometry_differs", f"{name} is of another geometry, and its forces were left out")
            return None
        self.sources.say("energy", "gradient", found.energy)
        return found.forces

    def _imaginary_modes(self) -> int | None:
        if self.log and (self.log.imaginary_modes is not None or self.log.finished):
            return self.log.imaginary_modes
        return self._parsed(self.own.get("vibspectrum"), xtb_files.count_imaginary)

    def _one(self, name: str) -> str | None:
        """A file of that name, else the only one that ends so behind a job's name."""
        if name in self.files.names:
            return name
        found = [one for one in self.files.names if one.endswith(f"_{name}")]
        return found[0] if len(found) == 1 else None

    # Judgement ------------------------------------------------------------------------------------------------------

    def _unpaired(self, said: int, geometry: Geometry | None, charge: float) -> int:
        """As said; an odd electron that nobody asked for is unpaired, as the program takes it."""
        electrons = self.electrons
        if electrons is None and geometry is not None and not any(z in _LANTHANIDES for z in geometry.numbers):
            electrons = sum(geometry.numbers) - round(charge)
        if electrons is None or (said - electrons) % 2 == 0:
            return said
        if said == 0:
            return 1
        source = self.sources.taken.get("unpaired_electrons", "")
        self.doubts.append(
            Doubt(
                "spin_differs",
                "so many electrons cannot leave so many unpaired",
                {source: said, "electrons": electrons},
            )
        )
        return said

    def _checked(self, charges: FloatArray | None, geometry: Geometry | None, total: float) -> FloatArray | None:
        if charges is None:
            return None
        if geometry is not None and len(charges) != len(geometry.symbols):
            message = f"{len(charges)} charges for {len(geometry.symbols)} atoms; they were left out"
            self.files.doubt("geometry_differs", message)
            return None
        found = sum(charges.tolist())
        if abs(found - total) <= TOLERANCE["total_charge"]:
            return charges
        if self.log and self.log.ionised:
            return None
        values = {"total_charge": total, "sum of charges": found}
        self.doubts.append(Doubt("charge_sum_off", "the atomic charges do not sum to the total charge", values))
        return charges

    def _judge(self, job: Mapping[str, Any], energy: float | None) -> tuple[Status, str | None]:
        """Status and reason."""
        verdict = self._verdict(job, energy)
        if verdict[0] == "converged":
            self._compare_status(job, verdict[0])
            return verdict
        errors = self._errors()
        if errors and errors[-1].startswith("normal termination"):
            self.files.doubt("normal_termination", f"xtb ended normally, and {verdict[1]}")
        self._compare_status(job, verdict[0])
        if self.log and not self.log.finished and self.log.fatal is None and errors:
            return verdict[0], f"{verdict[1]}; {errors[0]}"
        return verdict

    def _verdict(self, job: Mapping[str, Any], energy: float | None) -> tuple[Status, str | None]:
        log = self.log
        told = _text(job.get("error_message")) or _text(_inner(job, "results", "error"))
        last = log is None and "xtblast.xyz" in self.own
        if ".sccnotconverged" in self.own or (log is not None and log.scf_failed):
            return "not_converged", "the SCF did not converge"
        if (log is not None and log.optimization_failed) or (last and not self.sources.said("energy", "xtbopt.xyz")):
            return "not_converged", "the geometry optimisation did not converge"
        if log is not None and not log.finished:
            return "error", log.fatal or ("the log ends before the run does" if self.log_text else "the log is empty")
        if log is None and (told or _inner(job, "results", "success") is False):
            return "error", told or "the job's results say that it failed"
        if energy is None:
            return "error", told or "no file names a total energy"
        return "converged", None

    def _errors(self) -> list[str]:
        """Lines of what was printed for errors, without those that tell nothing."""
        name = next((one for one in _ERRORS if one in self.files.names), None) if self.run.alone else None
        data = self.files.read(name, may_be_empty=True, ends=True) or b""
        lines = [line.strip() for line in data[-4096:].decode("utf-8", "replace").splitlines()]
        return [line for line in lines if line and not line.startswith(("Note:", "#", "ERROR STOP", "Error term"))]

    def _compare_status(self, job: Mapping[str, Any], status: Status) -> None:
        claimed = _text(job.get("status"))
        if claimed and (claimed.upper() == "COMPLETED") != (status == "converged"):
            values = {"run": status, "metadata.json": claimed}
            self.doubts.append(Doubt("status_differs", "the job's metadata and its run disagree", values))


def _charge(value: Any) -> float | None:
    found = xtb_files.number(value)
    return found if found is not None and abs(found) <= 1000 and found == round(found) else None


def _inner(content: Mapping[str, Any], *names: str) -> Any:
    value: Any = content
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
