"""One item: from its SMILES to what is stored of it."""

from __future__ import annotations

import errno
import math
import tempfile
import traceback
from time import perf_counter
from typing import Any, Final

from qforge_sdk import program_events
from qforge_sdk.chem.conformer import Conformer, geometry_from_smiles
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.origin import provenance, xyz_hash
from qforge_sdk.db.results import Ended
from qforge_sdk.db.work import Item
from qforge_sdk.errors import ComputationFailed, ConfigurationError, InvalidSmiles

_NUMBERS: Final = ("energy", "homo", "lumo", "gap", "dipole", "total_charge", "execution_time_seconds")
_OTHERS: Final = ("unpaired_electrons", "xtb_version", "solvation", "solvent", "optimized")
# No disk, no quota, no right: no other molecule would do better.
_OF_THE_MACHINE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})
_BY_STATUS: Final = {"not_converged": "scf_not_converged"}


def compute(item: Item, job: Job) -> Ended:
    """Compute one item.

    Parameters
    ----------
    item
        Claimed.
    job
        How.

    Returns
    -------
    Ended
        Whatever is wrong with this molecule is a code and a message.

    Raises
    ------
    ConfigurationError
        The engine is not installed, or not any more, or nothing can be written: no item would do better.
    """
    try:
        return _computed(item, job)
    except ComputationFailed as exc:
        return failed(item, job, exc.code, str(exc), exc.stderr)
    except InvalidSmiles as exc:
        return failed(item, job, "no_geometry", str(exc))
    except ConfigurationError:
        raise
    except MemoryError as exc:
        return failed(item, job, "killed", f"there was not enough memory: {exc}", traceback.format_exc())
    except OSError as exc:
        if exc.errno not in _OF_THE_MACHINE:
            return failed(item, job, "engine_error", f"{type(exc).__name__}: {exc}", traceback.format_exc())
        raise ConfigurationError(
            f"nothing can be written to {tempfile.gettempdir()}: {exc}; free some space, or set TMPDIR"
        ) from exc
    except Exception as exc:  # noqa: BLE001 - one molecule, whatever its engine makes of it, must not end the others'
        return failed(item, job, "engine_error", f"{type(exc).__name__}: {exc}", traceback.format_exc())


def failed(item: Item, job: Job, code: str, message: str, stderr: str = "") -> Ended:
    """What is stored of an item that has no result.

    Parameters
    ----------
    item
        Which.
    job
        Of its batch.
    code
        Key of :data:`qforge_sdk.errors.COMPUTATION_CODES`.
    message, stderr
        For people.

    Returns
    -------
    Ended
        With the event ``calculation_failed``.
    """
    printed = program_events.tail(stderr)
    event = program_events.calculation_failed(
        item.molecule_id,
        error_message=message,
        error_code=code,
        xtb_stderr=printed,
        context=_context(item, job) | {"method": job.parameters.method},
    )
    return Ended(item.id, event, code=code, message=message, stderr=printed)


def _computed(item: Item, job: Job) -> Ended:
    if item.smiles is None:
        raise ComputationFailed(
            f"molecule {item.molecule_id} has no SMILES that a geometry could be made of", code="no_geometry"
        )
    started = perf_counter()
    conformer = geometry_from_smiles(item.smiles, seed=job.seed, n_conformers=job.n_conformers)
    result = job.engine.run(
        conformer.geometry,
        charge=conformer.charge,
        unpaired_electrons=conformer.unpaired_electrons,
        parameters=job.parameters,
        timeout=_left(job, perf_counter() - started),
    )
    _require_sound(result)
    return Ended(item.id, _completed(item, job, result), row=_row(item, job, conformer, result), atoms=_atoms(result))


def _left(job: Job, seconds: float) -> float | None:
    return None if job.timeout is None else max(job.timeout - seconds, 0.001)


def _require_sound(result: XtbResult) -> None:
    """Refuse what no column takes."""
    if result.status != "converged" or result.energy is None:
        code = _BY_STATUS.get(result.status, "engine_error")
        raise ComputationFailed(result.reason or f"the engine's result is {result.status}", code=code)
    columns = {name: [getattr(result, name)] for name in _NUMBERS} | result.atoms()
    for name, values in columns.items():
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise ComputationFailed(f"{name} is not a finite number", code="engine_error")


def _row(item: Item, job: Job, conformer: Conformer, result: XtbResult) -> dict[str, Any]:
    return {
        **{name: getattr(result, name) for name in (*_NUMBERS, *_OTHERS)},
        "molecule_id": item.molecule_id,
        "method": result.method or job.parameters.method,
        "convergence_status": result.status,
        "xyz_file_hash": xyz_hash(conformer.geometry),
        "metadata": {"run": provenance(job.engine, job.parameters, result, conformer=conformer)},
    }


def _atoms(result: XtbResult) -> dict[str, list[Any]]:
    columns = result.atoms()
    return columns and columns | {"atomic_number": [] if result.geometry is None else result.geometry.numbers}


def _completed(item: Item, job: Job, result: XtbResult) -> dict[str, Any]:
    assert result.energy is not None
    return program_events.calculation_completed(
        item.molecule_id,
        energy=result.energy,
        gap=result.gap,
        dipole=result.dipole,
        execution_time_seconds=result.execution_time_seconds,
        xtb_version=result.xtb_version,
        context=_context(item, job),
    )


def _context(item: Item, job: Job) -> dict[str, Any]:
    return {"batch_id": job.work.batch_id, "batch_item_id": item.id}
