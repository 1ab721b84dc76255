"""From the server's error codes to this package's errors: the only place that reads SQLSTATE."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
import sqlalchemy.exc

from qforge_sdk.errors import (
    AccessDenied,
    Conflict,
    ConnectionFailed,
    DatabaseError,
    InvalidInput,
    QForgeError,
    SchemaMissing,
    StatementTimeout,
)

_EXACT: Final[dict[str, type[QForgeError]]] = {
    "23505": Conflict,
    "25006": AccessDenied,
    "28000": ConnectionFailed,
    "28P01": ConnectionFailed,
    "3D000": ConnectionFailed,
    "42501": AccessDenied,
    "42P01": SchemaMissing,
    "53300": ConnectionFailed,
    "57014": StatementTimeout,
    "57P01": ConnectionFailed,
    "57P02": ConnectionFailed,
    "57P03": ConnectionFailed,
}
_CLASSES: Final[dict[str, type[QForgeError]]] = {
    "08": ConnectionFailed,
    "22": InvalidInput,
    "23": InvalidInput,
}

_FROM_SQLALCHEMY: Final = (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)

_HINTS: Final[dict[str, str]] = {
    "23502": "give that column a value",
    "23503": "no such parent row; create it first",
    "23505": "that row is stored already",
    "23514": "the value is outside what the column may hold",
    "25006": "this call only reads; write through the accessors or client.session()",
    "42501": "this login may not do it, or a parent row is not there for it",
    "42P01": "create the tables with: qforge db upgrade",
    "57014": "narrow the query, or raise statement_timeout for this role",
}

# libpq answers sslmode=require with this; normalise_url() adds that mode for hosts elsewhere.
_NO_TLS: Final = "server does not support SSL"
_NO_TLS_HINT: Final = (
    "this server has no TLS: switch it on there, or, where the network between is trusted, "
    "write ?sslmode=disable at the end of the database URL"
)

_SERVED = re.compile(r"(?:ERROR|FATAL):  ([^\n]*)")
# psycopg2 and libpq repeat what they were given; a connection string must not reach a message.
_SECRETS = re.compile(r"(password\s*=\s*)(?:'(?:\\.|[^'\\])*'|[^\s&]+)|(://[^:/@\s]*:)\S+(@)", re.IGNORECASE)


def redact(message: str) -> str:
    """Return ``message`` without the passwords of connection strings in it."""
    return _SECRETS.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[2]}***{m[3]}", message)


def translate(exc: BaseException) -> QForgeError | None:  # noqa: PLR0911 - one for each kind of error
    """This package's error for a driver's error.

    Parameters
    ----------
    exc
        What psycopg2, SQLAlchemy or ADBC raised.

    Returns
    -------
    QForgeError or None
        None when ``exc`` did not come from the database.
    """
    original = getattr(exc, "orig", None) or exc
    if not isinstance(original, _errors_of_drivers("Error", psycopg2.Error)):
        if isinstance(exc, sqlalchemy.exc.TimeoutError):
            return ConnectionFailed(f"no free connection in the pool: {exc.args[0]}")
        return None
    sqlstate = _sqlstate_of(original)
    diagnosis = getattr(original, "diag", None)
    constraint = getattr(diagnosis, "constraint_name", None)
    text = _message_of(original, diagnosis)
    if sqlstate in _HINTS:
        text = f"{text}; {_HINTS[sqlstate]}"
    elif _NO_TLS in text:
        text = f"{text}; {_NO_TLS_HINT}"
    # What has no SQLSTATE never reached the server, or lost it.
    lost = _errors_of_drivers("OperationalError", psycopg2.OperationalError, psycopg2.InterfaceError)
    if sqlstate is None and isinstance(original, lost):
        return ConnectionFailed(text)
    kind = _EXACT.get(sqlstate or "") or _CLASSES.get((sqlstate or "")[:2], DatabaseError)
    if kind is Conflict:
        return Conflict(text, constraint=constraint)
    if kind is InvalidInput:
        field = getattr(diagnosis, "column_name", None) or constraint
        return InvalidInput(text, field=field, code=sqlstate or "invalid")
    if kind is DatabaseError:
        return DatabaseError(text, sqlstate=sqlstate, constraint=constraint)
    return kind(text)


@contextmanager
def translated() -> Iterator[None]:
    """Raise this package's errors for the driver's inside the block, the cause kept.

    A failure to connect keeps its cause without the frames: those of the drivers hold the connection string, and a
    traceback with variables, as loggers, notebooks and test runners print it, would show the password.

    Raises
    ------
    QForgeError
        The class that fits the SQLSTATE.
    """
    outside = sys.exception()
    try:
        yield
    except _errors_of_drivers("Error", psycopg2.Error, *_FROM_SQLALCHEMY) as exc:
        error = translate(exc)
        if error is None:
            raise
        # What has no SQLSTATE may have been raised while connecting, a bad connection string for one.
        if isinstance(error, ConnectionFailed) or _sqlstate_of(getattr(exc, "orig", None) or exc) is None:
            _forget_frames(exc, until=outside)
        raise error from exc


def _errors_of_drivers(name: str, *kinds: type[Exception]) -> tuple[type[Exception], ...]:
    """These, and ADBC's of that name if its driver was loaded: it takes 0.4 s, and a batch's worker does without."""
    module = sys.modules.get("adbc_driver_manager.dbapi")
    return kinds if module is None else (*kinds, getattr(module, name))


def _forget_frames(error: BaseException | None, *, until: BaseException | None) -> None:
    """Remove the tracebacks of an error and of all that led to it, up to what was handled before."""
    pending, seen = [error], {id(until)}
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = None
        pending += [current.__cause__, current.__context__]


def _sqlstate_of(original: Any) -> str | None:
    return getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)


def _message_of(original: Any, diagnosis: Any) -> str:
    primary = getattr(diagnosis, "message_primary", None)
    if primary is None:
        # ADBC wraps the server's message in its own and repeats the query.
        served = _SERVED.search(str(original))
        return redact(served[1] if served else str(original).strip())
    hint = getattr(diagnosis, "message_hint", None)
    return redact(f"{primary} ({hint})" if hint else primary)
