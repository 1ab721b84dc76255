"""One run to what will be stored of it; runs in a process of its own, since RDKit may hang on a geometry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.perception import Perceived, flat, perceive
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.run_folder import Run, RunRecord, read_run
from qforge_sdk.chem.smiles import validate_here
from qforge_sdk.errors import InvalidSmiles

#: What :class:`qforge_sdk.chem.isolation.Worker` runs.
TASK: Final = "qforge_sdk.migrate.read:read_found"

_LONGEST: Final = 255
_COLUMNS: Final = (
    "energy", "homo", "lumo", "gap", "dipole", "total_charge", "unpaired_electrons", "execution_time_seconds",
    "xtb_version", "solvation", "solvent", "optimized",
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """A run as it will be stored.

    Parameters
    ----------
    path
        Folder, and log behind a ``#`` where several lie in it.
    source_id
        What names the run in the database.
    content_hash
        Equal for equal runs.
    unreadable
        Why nothing can be stored.
    row
        Columns of the calculation, without its molecule.
    atoms
        Columns of its atoms, each a list.
    smiles, name
        Of the molecule.
    graph
        Columns of a molecule without SMILES.
    doubts
        Codes.
    """

    path: str
    source_id: str
    content_hash: str = ""
    unreadable: str | None = None
    row: dict[str, Any] = field(default_factory=dict)
    atoms: dict[str, list[Any]] = field(default_factory=dict)
    smiles: str | None = None
    name: str | None = None
    graph: dict[str, Any] | None = None
    doubts: list[str] = field(default_factory=list)


def read_found(runs: list[Run], before_each: Callable[[int], None] | None = None) -> list[Found]:
    """Read runs and find out which molecules they are of.

    Parameters
    ----------
    runs
        What to read.
    before_each
        Called with the index of each run.

    Returns
    -------
    list of Found
        One a run; what could not be read says why.
    """
    results = []
    for index, run in enumerate(runs):
        if before_each is not None:
            before_each(index)
        try:
            results.append(_found(run))
        except Exception as exc:  # noqa: BLE001 - one folder, whatever it holds, must not end the others' migration
            results.append(unreadable(run, f"{type(exc).__name__}: {exc}"))
    return results


def unreadable(run: Run, reason: str) -> Found:
    """What is reported of a run that cannot be stored."""
    return Found(path=path_of(run), source_id=_by_path(run), unreadable=reason)


def path_of(run: Run) -> str:
    """Where a run lies, for people."""
    return str(run.folder) if run.alone or run.log is None else f"{run.folder}#{run.log}"


def _found(run: Run) -> Found:
    record = read_run(run)
    result = record.result
    job_id = record.job.get("job_id")
    named = isinstance(job_id, str) and bool(job_id.strip()) and len(job_id) < _LONGEST - 4
    found = Found(
        path=path_of(run),
        source_id=f"job:{job_id}" if named else _by_path(run),
        content_hash=record.content_hash,
        name=record.name[:_LONGEST] if record.name else None,
    )
    doubts = list(result.doubts)
    _identify(found, record, doubts)
    if found.smiles is None and found.graph is None:
        found.unreadable = "neither a SMILES nor a geometry says which molecule it is" + (
            f" ({result.reason})" if result.reason else ""
        )
    found.doubts = [doubt.code for doubt in doubts]
    found.row = _row(found, record, doubts)
    found.atoms = result.atoms()
    return found


def _identify(found: Found, record: RunRecord, doubts: list[Doubt]) -> None:
    """SMILES as given where it is valid and fits, else as perceived; a graph where neither is had."""
    result = record.result
    charge = round(result.total_charge)
    final = result.geometry or result.input_geometry
    if record.smiles is not None:
        given = _given(record.smiles, final, doubts)
        if given is not None:
            if given[1] != charge:
                apart = {"run": charge, "SMILES": given[1]}
                doubts.append(Doubt("charge_differs", "the run's charge is not that of the job's SMILES", apart))
            found.smiles = given[0]
    if final is None:
        return
    perceived = perceive(final, charge, result.unpaired_electrons)
    _compare_ends(result, perceived, charge, doubts)
    if found.smiles is not None:
        return
    found.smiles = perceived.smiles
    if perceived.smiles is None:
        found.graph = {
            "graph_hash": perceived.graph_hash(charge),
            "formula": final.formula,
            "charge": charge,
            "name": found.name,
            "metadata": json.dumps({"graph": perceived.graph, "no_smiles": perceived.reason}),
        }


def _given(smiles: str, geometry: Geometry | None, doubts: list[Doubt]) -> tuple[str, int] | None:
    try:
        valid = validate_here(smiles)
    except InvalidSmiles as exc:
        doubts.append(Doubt("smiles_refused", f"the job's SMILES was refused: {exc}", {"metadata.json": smiles}))
        return None
    if geometry is not None and valid.formula != geometry.formula:
        apart = {"geometry": geometry.formula, "metadata.json": valid.formula}
        doubts.append(Doubt("formula_differs", "the job's SMILES has another formula than its geometry", apart))
        return None
    return valid.smiles, valid.charge


def _compare_ends(result: XtbResult, final: Perceived, charge: int, doubts: list[Doubt]) -> None:
    if result.input_geometry is None or result.geometry is None or not result.optimized:
        return
    first = perceive(result.input_geometry, charge, result.unpaired_electrons)
    ends = {"final": final.smiles or final.graph, "input": first.smiles or first.graph}
    both = first.smiles is not None and final.smiles is not None
    same = flat(first.smiles) == flat(final.smiles) if both else first.graph == final.graph  # type: ignore[arg-type]
    if not same:
        doubts.append(Doubt("rearranged", "input and final geometry are perceived as different molecules", ends))


def _row(found: Found, record: RunRecord, doubts: list[Doubt]) -> dict[str, Any]:
    result = record.result
    run = {
        "path": found.path,
        "content_hash": record.content_hash,
        "program_call": result.program_call,
        "imaginary_modes": result.imaginary_modes,
        "input_geometry": result.input_geometry.as_json() if result.optimized and result.input_geometry else None,
        "reason": result.reason,
        "sources": dict(record.sources),
        "doubts": [doubt.as_json() for doubt in doubts],
    }
    job = {name: value for name, value in record.job.items() if isinstance(value, (str, int, float, bool, list))}
    metadata: dict[str, Any] = {"run": {name: value for name, value in run.items() if value not in (None, {}, [])}}
    if job:
        metadata["job"] = job
    return {
        **{name: getattr(result, name) for name in _COLUMNS},
        "method": result.method or "GFN2-xTB",
        "convergence_status": result.status,
        "xyz_file_hash": record.input_hash,
        "output_json_path": str(record.output_json) if record.output_json else None,
        "source_id": found.source_id,
        "metadata": json.dumps(metadata, default=str),
    }


def _by_path(run: Run) -> str:
    path = f"path:{path_of(run)}"
    if len(path) <= _LONGEST:
        return path
    return f"path:sha256:{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()}"
