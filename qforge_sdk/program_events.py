"""Events that a program adds about calculations and batches, as keyword arguments of ``crud.log_event``.

Parameters are those of the functions of :mod:`qforge_sdk.logger`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

RUNNER: Final = "xTB_runner"
API: Final = "api"

# The reason stands at the end of what a program prints.
_STDERR_KEPT: Final = 4000


def calculation_completed(
    molecule_id: int,
    *,
    energy: float,
    gap: float | None = None,
    dipole: float | None = None,
    execution_time_seconds: float | None = None,
    xtb_version: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``calculation_completed``, as of :func:`qforge_sdk.logger.log_calculation_completed`."""
    facts = known(
        context,
        molecule_id=molecule_id,
        energy=number(energy),
        gap=number(gap),
        dipole=number(dipole),
        execution_time_seconds=number(execution_time_seconds),
        xtb_version=xtb_version,
    )
    return {**_ABOUT, "event_type": "calculation_completed", "context": facts}


def calculation_failed(
    molecule_id: int,
    *,
    error_message: str,
    error_code: str | None = None,
    xtb_stderr: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``calculation_failed``, as of :func:`qforge_sdk.logger.log_calculation_failed`."""
    return {
        **_ABOUT,
        "event_type": "calculation_failed",
        "status": "error",
        "error_message": error_message,
        "error_code": error_code,
        "context": known(context, molecule_id=molecule_id, xtb_stderr=tail(xtb_stderr)),
    }


def batch_started(
    batch_name: str, *, molecule_count: int, context: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``batch_started``, as of :func:`qforge_sdk.logger.log_batch_started`."""
    facts = known(context, batch_name=batch_name, molecule_count=molecule_count)
    return {**_ABOUT_BATCHES, "event_type": "batch_started", "context": facts}


def batch_completed(
    batch_name: str,
    *,
    total_molecules: int,
    successful_count: int,
    failed_count: int,
    execution_time_seconds: float = 0,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``batch_completed``, as of :func:`qforge_sdk.logger.log_batch_completed`."""
    facts = known(
        context,
        batch_name=batch_name,
        total_molecules=total_molecules,
        successful_count=successful_count,
        failed_count=failed_count,
        success_rate=100.0 * successful_count / total_molecules if total_molecules else 0.0,
        execution_time_seconds=number(execution_time_seconds),
    )
    return {**_ABOUT_BATCHES, "event_type": "batch_completed", "context": facts}


def batch_failed(
    batch_name: str,
    *,
    error_message: str,
    processed_count: int,
    total_molecules: int,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``batch_failed``, as of :func:`qforge_sdk.logger.log_batch_failed`."""
    facts = known(context, batch_name=batch_name, processed_count=processed_count, total_molecules=total_molecules)
    return {
        **_ABOUT_BATCHES,
        "event_type": "batch_failed",
        "status": "error",
        "error_message": error_message,
        "context": facts,
    }


def tail(printed: str | None) -> str | None:
    """The last 4,000 characters of what a program printed; jsonb stores no NUL, and a broken program prints any."""
    return printed[-_STDERR_KEPT:].replace("\0", "") if printed else None


def known(context: Mapping[str, Any] | None, **facts: Any) -> dict[str, Any]:
    """A new context: the caller's, and the facts that are not None."""
    return {**(context or {}), **{name: fact for name, fact in facts.items() if fact is not None}}


def number(value: float | None) -> float | None:
    """A float, also of a numpy number, which is no JSON."""
    return None if value is None else float(value)


_ABOUT: Final = {"entity_type": "calculations", "status": "success", "service": RUNNER}
_ABOUT_BATCHES: Final = {"entity_type": "batch_jobs", "status": "success", "service": API}
