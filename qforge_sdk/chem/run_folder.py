"""A finished run's folder to one result.

The files of a folder overlap and disagree. For each number they are asked in a written order of trust,
:data:`TRUST`; the first that has it is taken and the others are compared with it. What disagrees by more than the
digits it was printed with is a doubt that holds both values. Nothing here raises for what a folder holds: a run that
cannot be read is a result of status ``error`` that says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from qforge_sdk.chem import xtb_files, xtb_log
from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.xtb_files import Unreadable

#: Where each number comes from, the most trusted first. The log is right where it is whole: it prints 12 decimals and
#: the last of several values is the final one; xtbout.json rounds to 8 and keeps the dipole of the first geometry;
#: results.json of a job often holds the energy of the first single point.
TRUST: Final[Mapping[str, tuple[str, ...]]] = {
    "energy": ("log", "xtbopt.xyz", "xtbout.json", "gradient", "results.json"),
    "gap": ("log", "xtbout.json", "results.json"),
    "homo": ("xtbout.json", "log"),
    "lumo": ("xtbout.json", "log"),
    "dipole": ("log", "xtbout.json"),
    "total_charge": ("log", ".CHRG", "metadata.json"),
    "unpaired_electrons": ("log", "xtbout.json", ".UHF"),
    "method": ("log", "xtbout.json", "metadata.json"),
    "xtb_version": ("log", "xtbout.json", "xtbopt.xyz", "metadata.json"),
    "charges": ("charges", "xtbout.json", "gfnff_charges"),
}
# How far apart two sources may print the same number.
_TOLERANCE: Final = {"energy": 2e-7, "gap": 2e-4, "homo": 2e-4, "lumo": 2e-4, "dipole": 1e-3, "total_charge": 1e-3}
_DIFFERS: Final = {"energy": "energy", "gap": "gap", "homo": "gap", "lumo": "gap", "dipole": "dipole",
                   "total_charge": "charge", "method": "method"}  # fmt: skip

#: A log up to this size is read whole, of a longer one its two ends.
WHOLE_LOG_BYTES: Final = 16 * 1024 * 1024
_END_BYTES: Final = 4 * 1024 * 1024
_OTHER_BYTES: Final = 64 * 1024 * 1024

_LOGS: Final = ("xtb_stdout.log", "xtb.out", "xtb.log", "stdout.log")
_LOG_SUFFIXES: Final = (".out", ".output", ".log", ".stdout")
_NO_LOGS: Final = frozenset({"xtbopt.log", "xtb_stderr.log", "xtbscan.log", "xtbirc.log", "g98.out"})
_FINAL: Final = ("xtbopt.xyz", "xtbopt.coord", "xtblast.xyz")
_NO_INPUTS: Final = frozenset({"xtbopt.xyz", "xtblast.xyz", "xtbhess.xyz", "xtbscreen.xyz"})
_MARKS: Final = frozenset({"xtbout.json", "xtbopt.xyz", "xtbopt.coord", "xtbtopo.mol", "wbo", "charges"})


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk.

    Parameters
    ----------
    folder
        Where it is.
    log
        Name of its log in the folder, None where there is none.
    alone
        Whether the folder holds this run only, so that every file in it is the run's.
    """

    folder: Path
    log: str | None = None
    alone: bool = True


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What was read of one run.

    Parameters
    ----------
    run
        Where.
    result
        Numbers, status and doubts.
    name
        Of the molecule, where the job's metadata names it.
    smiles
        As metadata gives it, not validated.
    job
        The job's metadata.
    input_hash
        sha256 of the input XYZ.
    content_hash
        sha256 over the files that were read: the same run gives the same hash wherever it lies.
    output_json
        Path of xtbout.json, where there is one.
    sources
        Which source each number came from.
    """

    run: Run
    result: XtbResult
    name: str | None = None
    smiles: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    input_hash: str | None = None
    content_hash: str = ""
    output_json: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


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
    known = set(names)
    logs: list[str] = [name for name in _LOGS if name in known]
    logs = logs or sorted(name for name in names if _may_be_log(folder / name))
    is_job = any(name == "metadata.json" or name.endswith("_metadata.json") for name in names)
    if len(logs) > 1:
        return [Run(folder, log, alone=False) for log in logs]
    if logs or is_job or known & _MARKS - {"wbo", "charges"} or {"wbo", "charges"} <= known:
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


def _may_be_log(path: Path) -> bool:
    if path.name in _NO_LOGS or path.suffix not in _LOG_SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return xtb_log.looks_like_log(file.read(4096))
    except OSError:
        return False


class _Reader:
    """The files of one run and what they say."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.names = {entry.name for entry in run.folder.iterdir()}
        self.doubts: list[Doubt] = []
        self.said: dict[str, dict[str, Any]] = {name: {} for name in TRUST}
        self.sources: dict[str, str] = {}
        self._hash = hashlib.sha256()

    def read(self) -> RunRecord:
        log = self._read_log()
        job = self._read_job()
        output = self._read_json() if self.run.alone else None
        final = self._read_final(log)
        start, input_hash = self._read_input(log, job)
        geometry = final or (start if not (log and log.optimized) else None)
        chosen = {name: self._choose(name) for name in TRUST}
        if output is not None and (output.homo is None) != (output.lumo is None):
            # A hydrogen atom has one orbital, a proton none filled; xtb prints the one energy for the gap then.
            chosen["gap"] = None
        self._refine_dipole(chosen, optimized=log.optimized if log else final is not None, has_log=log is not None)
        charges = self._checked(chosen["charges"], geometry, chosen["total_charge"])
        forces = self._read_forces(geometry)
        status, reason = self._judge(log, job, chosen["energy"])
        call = (log.program_call if log else None) or (output.program_call if output else None)
        result = XtbResult(
            status=status,
            reason=reason,
            energy=chosen["energy"],
            homo=chosen["homo"],
            lumo=chosen["lumo"],
            gap=chosen["gap"],
            dipole=chosen["dipole"],
            total_charge=float(chosen["total_charge"] or 0.0),
            unpaired_electrons=int(chosen["unpaired_electrons"] or 0),
            method=chosen["method"],
            solvation=log.solvation if log else None,
            solvent=log.solvent if log else None,
            xtb_version=chosen["xtb_version"],
            optimized=log.optimized if log else final is not None,
            execution_time_seconds=log.wall_time if log else None,
            geometry=geometry,
            input_geometry=start,
            charges=charges,
            forces=forces,
            imaginary_modes=self._imaginary_modes(log),
            program_call=call,
            doubts=(*(log.doubts if log else ()), *self.doubts),
        )
        return RunRecord(
            run=self.run,
            result=result,
            name=_text(job.get("molecule_name")) or _text(_inner(job, "molecule", "name")),
            smiles=_text(job.get("smiles")) or _text(_inner(job, "molecule", "smiles")),
            job=job,
            input_hash=input_hash,
            content_hash=self._hash.hexdigest(),
            output_json=self.run.folder / "xtbout.json" if output is not None else None,
            sources=self.sources,
        )

    # Files ----------------------------------------------------------------------------------------------------------

    def _bytes(self, name: str | None, *, limit: int = _OTHER_BYTES) -> bytes | None:
        """A file's content; what is empty or cannot be read is a doubt."""
        if name is None or name not in self.names:
            return None
        try:
            with (self.run.folder / name).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as exc:
            self.doubts.append(Doubt("bad_file", f"{name} cannot be read: {exc.strerror}"))
            return None
        if len(data) > limit:
            self.doubts.append(Doubt("bad_file", f"{name} is larger than {limit} bytes and was left out"))
            return None
        self._hash.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        if not data.strip():
            self.doubts.append(Doubt("bad_file", f"{name} is empty"))
            return None
        return data

    def _read_log(self) -> xtb_log.LogFacts | None:
        name = self.run.log
        if name is None:
            return None
        path = self.run.folder / name
        try:
            size = path.stat().st_size
            if size > WHOLE_LOG_BYTES:
                self.doubts.append(Doubt("log_cut", f"{name} has {size:,} bytes; only its ends were read"))
                with path.open("rb") as file:
                    data = file.read(_END_BYTES // 8)
                    file.seek(-_END_BYTES, 2)
                    data += file.read()
                self._hash.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
            else:
                data = self._bytes(name) or b""
        except OSError as exc:
            self.doubts.append(Doubt("bad_file", f"{name} cannot be read: {exc.strerror}"))
            return None
        facts = xtb_log.read_log(data)
        if not facts.finished and facts.fatal is None:
            self.doubts.append(Doubt("log_truncated", f"{name} ends before the run does"))
        trusted = facts.finished
        for quantity in ("energy", "gap", "homo", "lumo", "dipole"):
            # What a log printed before it broke off is no final number.
            if trusted:
                self._say(quantity, "log", getattr(facts, quantity))
        self._say("total_charge", "log", facts.total_charge)
        self._say("unpaired_electrons", "log", facts.unpaired_electrons)
        self._say("method", "log", facts.method)
        self._say("xtb_version", "log", facts.version)
        return facts

    def _read_job(self) -> dict[str, Any]:
        """metadata.json and results.json, under their usual names or behind the job's."""
        job: dict[str, Any] = {}
        if not self.run.alone:
            return job
        for kind in ("metadata", "results"):
            name = self._one(f"{kind}.json", f"_{kind}.json")
            data = self._bytes(name)
            if data is None or name is None:
                continue
            try:
                content = xtb_files.load_json(data)
            except Unreadable as exc:
                self.doubts.append(Doubt("bad_file", f"{name}: {exc}"))
                continue
            if kind == "metadata":
                job |= content
                self._say("total_charge", "metadata.json", xtb_files.number(_inner(content, "molecule", "charge")))
                self._say("total_charge", "metadata.json", xtb_files.number(content.get("charge")))
                self._say("method", "metadata.json", _text(_inner(content, "method", "hamiltonian")))
                self._say("xtb_version", "metadata.json", _text(_inner(content, "method", "version")))
            else:
                job["results"] = content
                energy = content.get("energy", _inner(content, "energetics", "total_energy_hartree"))
                gap = _inner(content, "results", "homo_lumo_gap")
                self._say("energy", "results.json", xtb_files.number(energy))
                other = _inner(content, "energetics", "homo_lumo_gap_ev")
                self._say("gap", "results.json", xtb_files.number(gap if gap is not None else other))
        for name, quantity in ((".CHRG", "total_charge"), (".UHF", "unpaired_electrons")):
            data = self._bytes(name)
            if data is not None:
                self._say(quantity, name, xtb_files.number(data.split()[0].decode("utf-8", "replace")))
        return job

    def _read_json(self) -> xtb_files.JsonFacts | None:
        data = self._bytes("xtbout.json")
        if data is None:
            return None
        try:
            facts = xtb_files.read_xtb_json(data)
        except Unreadable as exc:
            self.doubts.append(Doubt("bad_file", f"xtbout.json: {exc}"))
            return None
        for quantity in ("energy", "gap", "homo", "lumo", "dipole", "charges", "unpaired_electrons", "method"):
            self._say(quantity, "xtbout.json", getattr(facts, quantity))
        self._say("xtb_version", "xtbout.json", facts.version)
        return facts

    def _read_final(self, log: xtb_log.LogFacts | None) -> Geometry | None:
        """The optimised geometry: of a file of the run's own, else as the log prints it."""
        if not self.run.alone and self.names & {"xtbopt.xyz", "xtbout.json", "charges", "gradient"}:
            self.doubts.append(Doubt("shared_files", "the folder holds several runs: only the log was read"))
        for name in _FINAL if self.run.alone else ():
            geometry = self._geometry(name, self._bytes(name))
            if geometry is not None:
                energy, version = xtb_files.read_comment(geometry.comment)
                self._say("energy", "xtbopt.xyz", energy)
                self._say("xtb_version", "xtbopt.xyz", version)
                return geometry
        printed = log.final_structure if log else None
        return self._geometry("the log's final structure", printed) if printed else None

    def _geometry(self, name: str, data: bytes | None) -> Geometry | None:
        """Coordinates in xtb's forms of them; what cannot be read is a doubt."""
        if data is None:
            return None
        reader = xtb_files.read_coord if b"$coord" in data[:200] else xtb_files.read_first_xyz
        try:
            return reader(data)
        except Unreadable as exc:
            self.doubts.append(Doubt("bad_file", f"{name}: {exc}"))
            return None

    def _read_input(self, log: xtb_log.LogFacts | None, job: Mapping[str, Any]) -> tuple[Geometry | None, str | None]:
        """The first geometry and the hash of its file."""
        candidates = [Path(one).name for one in (job.get("xyz_file"), job.get("input_file")) if isinstance(one, str)]
        if log and log.input_file:
            candidates.append(Path(log.input_file.replace("\\", "/")).name)
        if self.run.alone:
            others = sorted(n for n in self.names if n.endswith(".xyz") and n not in _NO_INPUTS)
            candidates += others if len(others) == 1 else []
        name = next((one for one in candidates if one in self.names), None)
        data = self._bytes(name)
        if data is None or name is None:
            return None, None
        geometry = self._geometry(name, data)
        return geometry, hashlib.sha256(data).hexdigest()

    def _read_forces(self, geometry: Geometry | None) -> FloatArray | None:
        if geometry is None or not self.run.alone:
            return None
        engrad = next((name for name in sorted(self.names) if name.endswith(".engrad")), None)
        for name, reader in (("gradient", xtb_files.read_gradient), (engrad, xtb_files.read_engrad)):
            data = self._bytes(name)
            if data is None:
                continue
            try:
                return reader(data, len(geometry.symbols))
            except Unreadable as exc:
                self.doubts.append(Doubt("bad_file", f"{name}: {exc}"))
        return None

    def _imaginary_modes(self, log: xtb_log.LogFacts | None) -> int | None:
        if log and log.imaginary_modes is not None:
            return log.imaginary_modes
        data = self._bytes("vibspectrum") if self.run.alone else None
        if data is None:
            return None
        try:
            return xtb_files.count_imaginary(data)
        except Unreadable as exc:
            self.doubts.append(Doubt("bad_file", f"vibspectrum: {exc}"))
            return None

    def _one(self, name: str, suffix: str) -> str | None:
        """A file of that name, else the only one that ends so."""
        if name in self.names:
            return name
        found = [one for one in self.names if one.endswith(suffix)]
        return found[0] if len(found) == 1 else None

    # Choice ---------------------------------------------------------------------------------------------------------

    def _say(self, quantity: str, source: str, value: Any) -> None:
        if value is not None:
            self.said[quantity].setdefault(source, value)

    def _choose(self, quantity: str) -> Any:
        """The most trusted value; the others are compared with it."""
        if quantity == "charges":
            for name in ("charges", "gfnff_charges") if self.run.alone else ():
                data = self._bytes(name)
                try:
                    self._say("charges", name, None if data is None else xtb_files.read_charges(data))
                except Unreadable as exc:
                    self.doubts.append(Doubt("bad_file", f"{name}: {exc}"))
        said = {source: self.said[quantity][source] for source in TRUST[quantity] if source in self.said[quantity]}
        if not said:
            return None
        source, value = next(iter(said.items()))
        self.sources[quantity] = source
        if quantity in _DIFFERS and any(self._apart(quantity, value, other) for other in said.values()):
            code = f"{_DIFFERS[quantity]}_differs"
            self.doubts.append(Doubt(code, f"{quantity}: {source} was taken of sources that disagree", said))
        return value

    def _apart(self, quantity: str, one: Any, other: Any) -> bool:
        if isinstance(one, str):
            return bool(one.lower() != str(other).lower())
        return bool(abs(one - other) > _TOLERANCE[quantity])

    def _refine_dipole(self, chosen: dict[str, Any], *, optimized: bool, has_log: bool) -> None:
        """xtbout.json has more digits, and after an optimisation the dipole of the geometry before it."""
        exact = self.said["dipole"].get("xtbout.json")
        if exact is None:
            return
        if has_log and "log" in self.said["dipole"]:
            if abs(exact - self.said["dipole"]["log"]) <= _TOLERANCE["dipole"]:
                chosen["dipole"], self.sources["dipole"] = exact, "xtbout.json"
        elif optimized:
            chosen["dipole"] = None
            self.sources.pop("dipole", None)
            self.doubts.append(
                Doubt("dipole_differs", "xtbout.json keeps the dipole of the geometry before the optimisation; the "
                      "final one is printed in a log only", {"xtbout.json": exact})
            )  # fmt: skip

    def _checked(
        self, charges: FloatArray | None, geometry: Geometry | None, total: float | None
    ) -> FloatArray | None:
        if charges is None:
            return None
        if geometry is not None and len(charges) != len(geometry.symbols):
            self.doubts.append(
                Doubt(
                    "geometry_differs",
                    f"{len(charges)} charges for {len(geometry.symbols)} atoms; they were left out",
                )
            )
            return None
        if total is not None and abs(float(np.sum(charges)) - total) > 0.01:
            found = {"total_charge": total, "sum of charges": float(np.sum(charges))}
            self.doubts.append(Doubt("charge_sum_off", "the atomic charges do not sum to the total charge", found))
        return charges

    def _judge(
        self, log: xtb_log.LogFacts | None, job: Mapping[str, Any], energy: float | None
    ) -> tuple[Any, str | None]:
        """Status and reason."""
        failed = _text(job.get("error_message")) or _text(_inner(job, "results", "error"))
        verdict: tuple[Any, str | None]
        if ".sccnotconverged" in self.names or (log is not None and log.scf_failed):
            verdict = ("not_converged", "the SCF did not converge")
        elif log is not None and log.fatal is not None and not log.finished:
            verdict = ("error", log.fatal)
        elif log is not None and not log.finished:
            verdict = ("error", "the log ends before the run does")
        elif log is not None and log.optimization_failed:
            verdict = ("not_converged", "the geometry optimisation did not converge")
        elif energy is None:
            verdict = ("error", failed or "no file names a total energy")
        else:
            verdict = ("converged", None)
        stderr = self._bytes("xtb_stderr.log") if self.run.alone else None
        if verdict[0] != "converged" and stderr is not None and b"\nnormal termination" in b"\n" + stderr:
            self.doubts.append(Doubt("normal_termination", f"xtb ended normally, and {verdict[1]}"))
        claimed = _text(job.get("status"))
        if claimed and (claimed.upper() == "COMPLETED") != (verdict[0] == "converged"):
            self.doubts.append(
                Doubt(
                    "status_differs",
                    "the job's metadata and its run disagree",
                    {"run": verdict[0], "metadata": claimed},
                )
            )
        return verdict


def _inner(content: Mapping[str, Any], *names: str) -> Any:
    value: Any = content
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
