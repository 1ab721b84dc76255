"""Events that only a program knows: what it started, finished, failed at and measured.

The database's own triggers record what was stored, changed and deleted; the functions here add to the same audit
trail in the caller's transaction, and say the same through :mod:`logging`. Importing configures nothing: call
:func:`setup_logging`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import cast, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from qforge_sdk import program_events
from qforge_sdk.db import crud
from qforge_sdk.db.crud.rows import UserId
from qforge_sdk.db.models import EventLog
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.log_output import setup_logging
from qforge_sdk.program_events import API, RUNNER, known, number

__all__ = [
    "log_batch_completed",
    "log_batch_failed",
    "log_batch_started",
    "log_calculation_completed",
    "log_calculation_failed",
    "log_calculation_started",
    "log_error",
    "log_molecule_created",
    "log_molecule_deleted",
    "log_performance_metric",
    "setup_logging",
]

logger: Final = logging.getLogger(__name__)


def log_calculation_started(
    db: Session,
    calculation_id: int,
    molecule_id: int,
    xtb_version: str | None = None,
    method: str = "GFN2-xTB",
    solvation: str | None = None,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``calculation_started`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    calculation_id, molecule_id
        Which calculation of which molecule.
    xtb_version, method, solvation
        How it is computed.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        The context is not JSON.
    """
    logger.info("calculation %s of molecule %s started", calculation_id, molecule_id)
    return crud.log_event(
        db,
        "calculation_started",
        "calculations",
        calculation_id,
        context=known(context, molecule_id=molecule_id, xtb_version=xtb_version, method=method, solvation=solvation),
        service=RUNNER,
        user_id=user_id,
    )


def log_calculation_completed(
    db: Session,
    calculation_id: int,
    molecule_id: int,
    energy: float,
    gap: float | None = None,
    dipole: float | None = None,
    execution_time_seconds: float = 0,
    xtb_version: str | None = None,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``calculation_completed`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    calculation_id, molecule_id
        Which calculation of which molecule.
    energy, gap, dipole
        Hartree, eV, debye.
    execution_time_seconds
        Wall time.
    xtb_version
        Which xtb.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        A number is not finite, or the context is not JSON.
    """
    logger.info("calculation %s completed: energy %s hartree, gap %s eV", calculation_id, energy, gap)
    event = program_events.calculation_completed(
        molecule_id,
        energy=energy,
        gap=gap,
        dipole=dipole,
        execution_time_seconds=execution_time_seconds,
        xtb_version=xtb_version,
        context=context,
    )
    return crud.log_event(db, entity_id=calculation_id, user_id=user_id, **event)


def log_calculation_failed(
    db: Session,
    calculation_id: int | None,
    molecule_id: int,
    error_message: str,
    error_code: str | None = None,
    xtb_stderr: str | None = None,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``calculation_failed`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    calculation_id, molecule_id
        Which calculation of which molecule; None when none was stored.
    error_message, error_code
        For people, and for programs.
    xtb_stderr
        What xtb printed; its last 4,000 characters are kept.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        A text is too long, or the context is not JSON.
    """
    logger.error("calculation %s failed: %s (%s)", calculation_id, error_message, error_code)
    event = program_events.calculation_failed(
        molecule_id, error_message=error_message, error_code=error_code, xtb_stderr=xtb_stderr, context=context
    )
    return crud.log_event(db, entity_id=calculation_id, user_id=user_id, **event)


def log_batch_started(
    db: Session,
    batch_id: int,
    batch_name: str,
    molecule_count: int,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``batch_started`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    batch_id, batch_name
        Which batch.
    molecule_count
        How many molecules it has.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        The context is not JSON.
    """
    logger.info("batch %s (%s) started: %s molecules", batch_id, batch_name, molecule_count)
    event = program_events.batch_started(batch_name, molecule_count=molecule_count, context=context)
    return crud.log_event(db, entity_id=batch_id, user_id=user_id, **event)


def log_batch_completed(
    db: Session,
    batch_id: int,
    batch_name: str,
    total_molecules: int,
    successful_count: int,
    failed_count: int,
    execution_time_seconds: float = 0,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``batch_completed`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    batch_id, batch_name
        Which batch.
    total_molecules, successful_count, failed_count
        How it ended; the event carries the success rate in percent as well.
    execution_time_seconds
        Wall time.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        The context is not JSON.
    """
    logger.info(
        "batch %s (%s) completed: %s of %s succeeded", batch_id, batch_name, successful_count, total_molecules
    )
    event = program_events.batch_completed(
        batch_name,
        total_molecules=total_molecules,
        successful_count=successful_count,
        failed_count=failed_count,
        execution_time_seconds=execution_time_seconds,
        context=context,
    )
    return crud.log_event(db, entity_id=batch_id, user_id=user_id, **event)


def log_batch_failed(
    db: Session,
    batch_id: int,
    batch_name: str,
    error_message: str,
    processed_count: int,
    total_molecules: int,
    user_id: UserId = None,
    context: Mapping[str, Any] | None = None,
) -> EventLog:
    """Add ``batch_failed`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    batch_id, batch_name
        Which batch.
    error_message
        What went wrong.
    processed_count, total_molecules
        How far it came.
    user_id
        Owner of the event; by default whoever the session is.
    context
        Whatever else is known, as JSON.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        The context is not JSON.
    """
    logger.error("batch %s (%s) failed: %s", batch_id, batch_name, error_message)
    event = program_events.batch_failed(
        batch_name,
        error_message=error_message,
        processed_count=processed_count,
        total_molecules=total_molecules,
        context=context,
    )
    return crud.log_event(db, entity_id=batch_id, user_id=user_id, **event)


def log_molecule_created(
    db: Session, molecule_id: int, name: str | None, smiles: str, user_id: UserId = None
) -> EventLog:
    """Add what the program knows to the trigger's ``molecule_created``, or write that event if there is none.

    Parameters
    ----------
    db
        Session, in the transaction that stored the molecule.
    molecule_id, name, smiles
        Which molecule, and how the program calls it.
    user_id
        Owner of a new event; by default whoever the session is.

    Returns
    -------
    EventLog
        The trigger's event of this transaction, else a new one.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    logger.info("molecule %s created: %s (%s)", molecule_id, name, smiles)
    return _enrich(db, "molecule_created", molecule_id, known(None, name=name, smiles=smiles), user_id)


def log_molecule_deleted(db: Session, molecule_id: int, name: str | None, user_id: UserId = None) -> EventLog:
    """Add what the program knows to the trigger's ``molecule_deleted``, or write that event if there is none.

    Parameters
    ----------
    db
        Session, in the transaction that deleted the molecule.
    molecule_id, name
        Which molecule, and how the program calls it.
    user_id
        Owner of a new event; by default whoever the session is.

    Returns
    -------
    EventLog
        The trigger's event of this transaction, else a new one.

    Raises
    ------
    QForgeError
        The server reported an error.
    """
    logger.info("molecule %s deleted: %s", molecule_id, name)
    return _enrich(db, "molecule_deleted", molecule_id, known(None, name=name), user_id)


def log_error(
    db: Session,
    error_message: str,
    error_code: str,
    entity_type: str,
    entity_id: int | None = None,
    error_details: Mapping[str, Any] | None = None,
    user_id: UserId = None,
    service: str = API,
) -> EventLog:
    """Add ``error`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed, so an error worth keeping needs a transaction that is kept.
    error_message, error_code
        For people, and for programs.
    entity_type, entity_id
        What it concerns: a table's name and a key, or ``system``.
    error_details
        Whatever else is known, as JSON.
    user_id
        Owner of the event; by default whoever the session is.
    service
        The program that speaks.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        There is no such entity type, a text is too long, or the details are not JSON.
    """
    logger.error("%s: %s (%s %s)", error_code, error_message, entity_type, entity_id)
    return crud.log_event(
        db,
        "error",
        entity_type,
        entity_id,
        status="error",
        error_message=error_message,
        error_code=error_code,
        context=error_details,
        service=service,
        user_id=user_id,
    )


def log_performance_metric(
    db: Session,
    metric_name: str,
    value: float,
    unit: str,
    context: Mapping[str, Any] | None = None,
    user_id: UserId = None,
) -> EventLog:
    """Add ``performance_metric`` to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    metric_name, value, unit
        What was measured.
    context
        Whatever else is known, as JSON.
    user_id
        Owner of the event; by default whoever the session is.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        The value is not finite, or the context is not JSON.
    """
    logger.debug("%s: %s %s", metric_name, value, unit)
    return crud.log_event(
        db,
        "performance_metric",
        "system",
        context=known(context, metric_name=metric_name, value=number(value), unit=unit),
        service=API,
        user_id=user_id,
    )


def _enrich(db: Session, kind: str, molecule_id: int, facts: dict[str, Any], user_id: UserId) -> EventLog:
    with translated():
        db.flush()
        enriched = db.scalar(select(func.qforge.enrich_event("molecules", molecule_id, kind, cast(facts, JSONB))))
        if enriched is not None:
            return db.get_one(EventLog, enriched, populate_existing=True)
    return crud.log_event(db, kind, "molecules", molecule_id, context=facts, service=API, user_id=user_id)
