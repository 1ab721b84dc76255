"""One run to what will be stored of it; runs in a process of its own, since RDKit may hang on a geometry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.perception import Perceived, connection_graph, draws, is_rearranged, perceive, stored_formula
from qforge_sdk.chem.result import SETTLED_CODES, Doubt, XtbResult
from qforge_sdk.chem.run_folder import Run, RunRecord, read_run
from qforge_sdk.chem.smiles import validate_here
from qforge_sdk.errors import InvalidSmiles
from qforge_sdk.migrate.storable import one_line, path_text, plain

#: What :class:`qforge_sdk.chem.isolation.Worker` runs.
TASK: Final = "qforge_sdk.migrate.read:read_found"
#: The same for what ended the process.
TASK_WITHOUT_BONDS: Final = "qforge_sdk.migrate.read:read_without_bonds"

_LONGEST: Final = 255
_METHOD: Final = "GFN2-xTB"
_COLUMNS: Final = (
    "energy", "homo", "lumo", "gap", "dipole", "total_charge", "unpaired_electrons", "execution_time_seconds",
    "optimized",
)  # fmt: skip
_WORDS: Final = ("method", "xtb_version", "solvation", "solvent")
_LONGEST_WORD: Final = 50


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
    reason
        Why it failed, else what its doubts say.
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
    reason: str | None = None


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
    return _each(runs, _found, before_each)


def read_without_bonds(runs: list[Run], before_each: Callable[[int], None] | None = None) -> list[Found]:
    """As :func:`read_found`, for runs whose bonds take RDKit too long: they are molecules without SMILES.

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
    return _each(runs, partial(_found, bonds=False), before_each)


def unreadable(run: Run, reason: str) -> Found:
    """What is reported of a run that cannot be stored."""
    return Found(path=path_of(run), source_id=_by_path(run), unreadable=reason)


def path_of(run: Run) -> str:
    """Where a run lies, for people."""
    folder = path_text(run.folder)
    return folder if run.alone or run.log is None else f"{folder}#{path_text(run.log)}"


def _each(runs: list[Run], read: Callable[[Run], Found], before_each: Callable[[int], None] | None) -> list[Found]:
    results = []
    for index, run in enumerate(runs):
        if before_each is not None:
            before_each(index)
        try:
            results.append(read(run))
        except Exception as exc:  # noqa: BLE001 - one folder, whatever it holds, must not end the others' migration
            results.append(unreadable(run, one_line(f"{type(exc).__name__}: {exc}")))
    return results


def _found(run: Run, *, bonds: bool = True) -> Found:
    record = read_run(run)
    job_id = record.job.get("job_id")
    job_id = one_line(job_id.strip()) if isinstance(job_id, str) else ""
    source_id = f"job:{job_id}" if 0 < len(job_id) < _LONGEST - 4 else _by_path(run)
    return identified(record, path=path_of(run), source_id=source_id, bonds=bonds)


def identified(record: RunRecord, *, path: str, source_id: str, bonds: bool = True) -> Found:
    """Find out which molecule a record is of, and what will be stored of it.

    Parameters
    ----------
    record
        What was read, whichever files it comes from.
    path
        Where it lies, for people.
    source_id
        What names it in the database.
    bonds
        Perceive bonds where no SMILES is given.

    Returns
    -------
    Found
        Unreadable where neither a SMILES nor a geometry names the molecule.
    """
    result = record.result
    name = one_line(" ".join((record.name or "").split()))[:_LONGEST]
    found = Found(path=path, source_id=source_id, content_hash=record.content_hash, name=name or None)
    doubts = list(result.doubts)
    _identify(found, record, doubts, bonds=bonds)
    if found.smiles is None and found.graph is None:
        found.unreadable = "neither a SMILES nor a geometry says which molecule it is" + (
            f" ({one_line(result.reason)})" if result.reason else ""
        )
    if result.method is None:
        doubts.append(Doubt("method_unknown", f"nothing names the method; {_METHOD}, the default, was stored"))
    found.doubts = [doubt.code for doubt in doubts]
    told = dict.fromkeys(doubt.message for doubt in doubts if doubt.code not in SETTLED_CODES)
    found.reason = one_line(result.reason or "; ".join(told)) or None
    found.row = _row(found, record, doubts)
    found.atoms = result.atoms()
    return found


def _identify(found: Found, record: RunRecord, doubts: list[Doubt], *, bonds: bool) -> None:
    """SMILES as given where it is valid and fits, else as perceived; a graph where neither is had."""
    result = record.result
    charge = round(result.total_charge)
    final = result.geometry or result.input_geometry
    if record.smiles is not None:
        given = _given(record.smiles, final, doubts)
        if given is not None:
            if given[1] != charge:
                apart = {"run": charge, "SMILES": given[1]}
                doubts.append(Doubt("charge_differs", "the run's charge is not that of the given SMILES", apart))
            found.smiles = given[0]
    if final is None:
        return
    if _is_rearranged(result):
        ends = {"final": connection_graph(final), "input": connection_graph(result.input_geometry or final)}
        doubts.append(Doubt("rearranged", "input and final geometry are perceived as different molecules", ends))
    if found.smiles is not None:
        _compare_graph(found.smiles, result, doubts)
        return
    perceived = perceive(final, charge, result.unpaired_electrons) if bonds else _unperceived(final)
    found.smiles = perceived.smiles
    if perceived.smiles is None:
        found.graph = {
            "graph_hash": perceived.graph_hash(charge),
            "formula": stored_formula(final),
            "charge": charge,
            "name": found.name,
            "metadata": json.dumps({"graph": perceived.graph, "no_smiles": perceived.reason}),
        }


def _unperceived(geometry: Geometry) -> Perceived:
    return Perceived(None, connection_graph(geometry), "RDKit took too long over its bonds")


def _given(smiles: str, geometry: Geometry | None, doubts: list[Doubt]) -> tuple[str, int] | None:
    try:
        valid = validate_here(smiles)
    except InvalidSmiles as exc:
        doubts.append(Doubt("smiles_refused", f"the given SMILES was refused: {exc}", {"given": smiles}))
        return None
    if geometry is not None and composition(valid.formula) != composition(geometry.formula):
        apart = {"geometry": geometry.formula, "given": valid.formula}
        doubts.append(Doubt("formula_differs", "the given SMILES has another formula than the geometry", apart))
        return None
    return valid.smiles, valid.charge


def _is_rearranged(result: XtbResult) -> bool:
    first, last = result.input_geometry, result.geometry
    return result.optimized and first is not None and last is not None and is_rearranged(first, last)


def _compare_graph(smiles: str, result: XtbResult, doubts: list[Doubt]) -> None:
    """The SMILES may be of the input or of what became of it."""
    ends = [connection_graph(one) for one in (result.geometry, result.input_geometry) if one is not None]
    if not any(draws(smiles, graph) for graph in dict.fromkeys(ends)):
        apart = {"given": smiles, "geometry": ends[0]}
        doubts.append(Doubt("structure_differs", "the given SMILES connects the atoms otherwise", apart))


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
    metadata: dict[str, Any] = {"run": {name: value for name, value in run.items() if value not in (None, {}, [])}}
    if record.job:
        metadata["job"] = dict(record.job)
    words = {name: getattr(result, name) for name in _WORDS}
    words["method"] = words["method"] or _METHOD
    return {
        **{name: getattr(result, name) for name in _COLUMNS},
        **{name: word and one_line(word)[:_LONGEST_WORD] for name, word in words.items()},
        "convergence_status": result.status,
        "xyz_file_hash": record.input_hash,
        "output_json_path": path_text(record.output_json) if record.output_json else None,
        "source_id": found.source_id,
        "metadata": json.dumps(plain(metadata)),
    }


def _by_path(run: Run) -> str:
    path = f"path:{path_of(run)}"
    if len(path) <= _LONGEST:
        return path
    return f"path:sha256:{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()}"
