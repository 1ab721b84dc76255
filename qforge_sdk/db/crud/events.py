"""The audit trail, as far as programs write and read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from qforge_sdk.db.crud import rows
from qforge_sdk.db.crud.rows import UserId, owner_of
from qforge_sdk.db.models import ENTITY_TYPES, EVENT_STATUSES, EventLog
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.schemas import EventLogCreate


@translated()
def log_event(
    db: Session,
    event_type: str,
    entity_type: str,
    entity_id: int | None = None,
    status: str = "success",
    error_message: str | None = None,
    error_code: str | None = None,
    context: Mapping[str, Any] | None = None,
    service: str = "api",
    user_id: UserId = None,
) -> EventLog:
    """Add an event to the audit trail.

    Parameters
    ----------
    db
        Session; it is flushed, not committed.
    event_type
        What happened, such as ``calculation_started``.
    entity_type, entity_id
        To what: a table's name and a key, or ``system``.
    status
        ``success``, ``warning`` or ``error``.
    error_message, error_code
        For people, and for programs.
    context
        Whatever else is known, as JSON.
    service
        The program that speaks.
    user_id
        Owner of the event; by default whoever the session is.

    Returns
    -------
    EventLog
        As it is stored.

    Raises
    ------
    InvalidInput
        A word is none of the known ones, a text is too long, or the context is not JSON.
    """
    rows.one_of(status, EVENT_STATUSES, field="status")
    rows.one_of(entity_type, ENTITY_TYPES, field="entity_type")
    event = rows.as_record(
        EventLogCreate,
        {
            "event_type": event_type,
            "entity_type": entity_type,
            "entity_id": entity_id,
            "status": status,
            "error_message": error_message,
            "error_code": error_code,
            "context": dict(context or {}),
            "service": service,
        },
    )
    return rows.add(db, EventLog(**rows.attributes(event), **rows.owner_values(owner_of(user_id))))


@translated()
def get_event_logs(
    db: Session,
    entity_type: str | None = None,
    entity_id: int | None = None,
    status: str | None = None,
    skip: int = 0,
    limit: int = 100,
    user_id: UserId = None,
) -> tuple[list[EventLog], int]:
    """Events, newest first.

    Parameters
    ----------
    db
        Session.
    entity_type, entity_id, status
        Only those; None for any.
    skip, limit
        Which page.
    user_id
        Reader, who sees only its own; by default whoever the session is.

    Returns
    -------
    tuple of list and int
        The page, and the number of all that match.

    Raises
    ------
    InvalidInput
        A word is none of the known ones, or ``skip`` or ``limit`` is below zero.
    """
    conditions: list[ColumnElement[bool]] = []
    if entity_type is not None:
        conditions.append(EventLog.entity_type == rows.one_of(entity_type, ENTITY_TYPES, field="entity_type"))
    if entity_id is not None:
        conditions.append(EventLog.entity_id == entity_id)
    if status is not None:
        conditions.append(EventLog.status == rows.one_of(status, EVENT_STATUSES, field="status"))
    return rows.newest(db, EventLog, conditions, skip=skip, limit=limit, owner=owner_of(user_id))
