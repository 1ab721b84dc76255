"""What the functions of every table share: whose rows, which page, which parent, which record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session, aliased

from qforge_sdk.db.models import (
    PUBLIC_USER_ID,
    AtomicProperty,
    Base,
    BatchItem,
    BatchJob,
    Calculation,
    EventLog,
    Molecule,
)
from qforge_sdk.db.pages import Ordering, order_of, ordered_page
from qforge_sdk.db.scope import parse_user_id
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import InvalidInput, NotFound
from qforge_sdk.quantities import did_you_mean
from qforge_sdk.schemas.records import Record

UserId: TypeAlias = str | uuid.UUID | None
"""What callers give: a tenant, or None for whoever the session is."""

Owner: TypeAlias = uuid.UUID | None
"""The same, checked by :func:`owner_of`."""

Keyed = TypeVar("Keyed", Molecule, Calculation, BatchJob, BatchItem, EventLog)
Owned: TypeAlias = Molecule | Calculation | AtomicProperty | BatchJob | BatchItem | EventLog
RecordType = TypeVar("RecordType", bound=Record)

_NO_SUCH_PARENT: Final = "23503"


def owner_of(user_id: UserId) -> Owner:
    """The owner named by ``user_id``.

    Parameters
    ----------
    user_id
        A tenant, None for whoever the session is, or ``models.PUBLIC_USER_ID`` itself, with which the service
        writes for everybody.

    Returns
    -------
    uuid.UUID or None
        As it is stored.

    Raises
    ------
    InvalidInput
        It is no uuid, or the public one as text, which comes from outside.
    """
    return user_id if user_id is PUBLIC_USER_ID else parse_user_id(user_id)


def owner_values(owner: Owner) -> dict[str, uuid.UUID]:
    """Value of ``user_id`` for a new row; without one the database fills in who the session is."""
    return {} if owner is None else {"user_id": owner}


def visible(model: type[Owned], owner: Owner) -> list[ColumnElement[bool]]:
    """Conditions on the rows that ``owner`` may read; none without one, when the policies decide alone."""
    return [] if owner is None else [model.user_id.in_(_owners_seen_by(model, owner))]


def session_owner(db: Session) -> Owner:
    """Who the session is: a tenant, or None for the service."""
    return db.scalar(select(func.qforge.current_user_id()))


def readable_owners(db: Session, model: type[Keyed], owner: Owner) -> list[uuid.UUID] | None:
    """Owners of the rows that a page may hold; None when the session reads everybody's."""
    if owner is None:
        question = text("SELECT row_security_active('public.molecules'), qforge.current_user_id()")
        is_limited, owner = db.execute(question).one()
        if not is_limited:
            return None
    return _owners_seen_by(model, owner)


def find(db: Session, model: type[Keyed], key: int, owner: Owner) -> Keyed | None:
    """The row with this key, if ``owner`` may read it."""
    return db.scalars(select(model).where(model.id == key, *visible(model, owner))).one_or_none()


def find_own(db: Session, model: type[Keyed], key: int, owner: Owner) -> Keyed | None:
    """The row with this key, if it is ``owner``'s to change; locked until the end of the transaction."""
    mine = [] if owner is None else [model.user_id == owner]
    # Locking asks the UPDATE policy, so that a tenant's session does not find public rows here either.
    statement = select(model).where(model.id == key, *mine).with_for_update(key_share=True)
    return db.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def require_visible(db: Session, model: type[Keyed], key: int, owner: Owner) -> None:
    """Return if ``owner`` may point at this row, raise :class:`NotFound` if it is absent or another's."""
    if db.scalar(select(model.id).where(model.id == key, *visible(model, owner))) is None:
        raise not_found(model, key)


def require_own(db: Session, model: type[Keyed], key: int, owner: Owner) -> Keyed:
    """The row as of :func:`find_own`, :class:`NotFound` if it is absent or another's."""
    row = find_own(db, model, key, owner)
    if row is None:
        raise not_found(model, key)
    return row


def not_found(model: type[Base], key: object) -> NotFound:
    """The same error for a row that is absent and one that is another's."""
    table = model.__tablename__
    return NotFound(f"{table} has no row {key} that is yours to use", entity=table, key=key)


def add(db: Session, row: Keyed) -> Keyed:
    """Insert ``row`` and read what the database filled in."""
    db.add(row)
    try:
        with translated():
            db.flush()
    except InvalidInput as exc:
        # The parent was there a moment ago.
        if exc.code == _NO_SUCH_PARENT:
            raise NotFound(str(exc), entity=row.__tablename__) from exc
        raise
    return row


def change(db: Session, row: Keyed, values: Mapping[str, Any]) -> Keyed:
    """Write ``values`` by attribute name and read what a trigger changed."""
    for name, value in values.items():
        setattr(row, name, value)
    db.flush()
    db.refresh(row)
    return row


def newest(
    db: Session,
    model: type[Keyed],
    conditions: Sequence[ColumnElement[bool]],
    *,
    skip: int,
    limit: int,
    owner: Owner,
) -> tuple[list[Keyed], int]:
    """One page, newest first, and the number of all rows that match."""
    total = db.scalar(select(func.count()).select_from(model).where(*conditions, *visible(model, owner)))
    order: Ordering = [(model.created_at, True), (model.id, True)]
    return page(db, model, conditions, order, skip=skip, limit=limit, owner=owner), total or 0


def page(
    db: Session,
    model: type[Keyed],
    conditions: Sequence[ColumnElement[bool]],
    order: Ordering,
    *,
    skip: int = 0,
    limit: int,
    owner: Owner,
) -> list[Keyed]:
    """One page in the given order."""
    owners = readable_owners(db, model, owner)
    rows = ordered_page(model, conditions, order_by=order, limit=limit, owners=owners, offset=skip)
    return list(db.scalars(select(aliased(model, rows)).order_by(*order_of(rows, order))))


def attributes(record: Record, *, only_set: bool = False) -> dict[str, Any]:
    """Values of a record by ORM attribute name."""
    values = record.model_dump(exclude_unset=only_set)
    if "metadata" in values:
        values["metadata_"] = values.pop("metadata")
    return values


def as_record(kind: type[RecordType], values: Mapping[str, Any]) -> RecordType:
    """A record of loose values.

    Parameters
    ----------
    kind
        Class of the record.
    values
        Its fields.

    Returns
    -------
    Record
        The validated record.

    Raises
    ------
    InvalidInput
        A value cannot be taken; ``field`` and ``value`` say which, for the first of several.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        problems = "; ".join(f"{_field_of(error)}: {error['msg']}" for error in errors)
        raise InvalidInput(problems, field=_field_of(errors[0]), value=errors[0]["input"]) from exc


def one_of(word: str, known: Sequence[str], *, field: str) -> str:
    """``word``, if it is one of the known ones.

    Parameters
    ----------
    word
        What was given.
    known
        What the column may hold.
    field
        Name of the argument.

    Returns
    -------
    str
        The same.

    Raises
    ------
    InvalidInput
        It is none of them; the message names them.
    """
    if word not in known:
        hint = did_you_mean(str(word), list(known))
        raise InvalidInput(
            f"{field} {word!r} is none of {', '.join(known)}{hint if 'did you mean' in hint else ''}",
            field=field,
            value=word,
        )
    return word


def _owners_seen_by(model: type[Owned], owner: Owner) -> list[uuid.UUID]:
    # The audit trail of public rows is the service's alone.
    shared = () if issubclass(model, EventLog) else (PUBLIC_USER_ID,)
    return [known for known in (owner, *shared) if known is not None]


def _field_of(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"]) or "record"
