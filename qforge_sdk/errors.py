"""Errors of qforge_sdk, one tree.

::

    QForgeError
    ├── ConfigurationError (ValueError)        a setting or URL that cannot be used
    │   └── MissingExtra (ImportError)         an optional package is not installed
    ├── ConnectionFailed (ConnectionError)     the server cannot be reached or was lost
    │   └── EmbeddedServerError                the embedded server did not start, stop or upgrade
    ├── SchemaError (RuntimeError)
    │   ├── SchemaMissing                      no tables yet: ``qforge db upgrade``
    │   └── SchemaOutdated                     another revision than this package's
    ├── InvalidInput (ValueError)              a value that cannot be taken
    │   ├── InvalidSmiles                      with a stable ``code``
    │   ├── UnknownField (AttributeError)      a filter, column or unit that does not exist
    │   └── RowsRejected                       a bulk call with ``on_error="raise"``
    ├── NotFound (LookupError)                 absent, or another tenant's
    ├── Conflict (ValueError)                  what is there already stands in the way
    │   ├── DuplicateMolecule
    │   └── DuplicateBatch
    ├── AccessDenied (PermissionError)         the role may not do this
    │   └── ScopeNotHeld                       the tenant of this connection would not hold
    ├── ComputationFailed (RuntimeError)       a molecule that could not be computed, with a stable ``code``
    ├── StatementTimeout (TimeoutError)
    ├── DatabaseError (RuntimeError)           anything else that the server reports
    └── ExportMismatch (ValueError)            files that disagree with their manifest

    LoadWarning (UserWarning)                  a bulk load rejected rows and loaded the rest

Facts are attributes; the driver's error stays reachable as ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qforge_sdk._version import requirements


class QForgeError(Exception):
    """Root of every error that this package raises on purpose; it goes from one process to another as it is."""

    def __reduce__(self) -> Any:
        return _as_it_was, (type(self), self.args, vars(self))


def _as_it_was(kind: type[QForgeError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> QForgeError:
    # Without __init__, which takes the facts and not the message.
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(facts)
    return error


class ConfigurationError(QForgeError, ValueError):
    """A setting or database URL cannot be used."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional package is not installed.

    Parameters
    ----------
    package
        The module that failed to import.
    extra
        The extra of this package that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        # By name: the extra of a package that came from a folder is nothing that an index knows.
        wanted = " ".join(f'"{name}"' for name in requirements(extra))
        super().__init__(f"{package} is not installed; run: pip install {wanted}")


class ConnectionFailed(QForgeError, ConnectionError):
    """The server cannot be reached, refused the login, or was lost."""


class EmbeddedServerError(ConnectionFailed):
    """The embedded PostgreSQL did not start, stop or upgrade."""


class SchemaError(QForgeError, RuntimeError):
    """The database does not hold the schema of this package."""


class SchemaMissing(SchemaError):
    """The database has no qforge tables yet, or those of the old database module."""


class SchemaOutdated(SchemaError):
    """The schema of the database and this package are of different revisions.

    Parameters
    ----------
    found
        Revision in the database.
    expected
        Revision of this package.
    """

    def __init__(self, message: str, *, found: str | None = None, expected: str | None = None) -> None:
        self.found = found
        self.expected = expected
        super().__init__(message)


class InvalidInput(QForgeError, ValueError):
    """A value cannot be taken.

    Parameters
    ----------
    field
        Name of the argument or column, if one is to blame.
    value
        The value as it was given.
    code
        Short stable word for programs.
    """

    def __init__(self, message: str, *, field: str | None = None, value: Any = None, code: str = "invalid") -> None:
        self.field = field
        self.value = value
        self.code = code
        super().__init__(message)


class InvalidSmiles(InvalidInput):
    """A SMILES was refused; ``code`` and ``position`` say why and where.

    Parameters
    ----------
    smiles
        The text as it was given.
    code
        Stable word, see :data:`qforge_sdk.chem.SMILES_CODES`.
    position
        0-based character position of the fault, where it is known.
    """

    def __init__(self, message: str, *, smiles: object, code: str, position: int | None = None) -> None:
        self.smiles = smiles
        self.position = position
        super().__init__(message, field="smiles", value=smiles, code=code)


class UnknownField(InvalidInput, AttributeError):
    """A filter, column, table or unit of that name does not exist."""


class RowsRejected(InvalidInput):
    """A bulk call refused rows and, as ``on_error="raise"`` asks, loaded nothing.

    Parameters
    ----------
    report
        The LoadReport, with every refused row.
    """

    def __init__(self, message: str, *, report: Any) -> None:
        self.report = report
        super().__init__(message, code="rows_rejected")


class NotFound(QForgeError, LookupError):
    """No such row, or it belongs to another tenant.

    Parameters
    ----------
    entity
        Table name.
    key
        What was looked for.
    """

    def __init__(self, message: str, *, entity: str | None = None, key: object = None) -> None:
        self.entity = entity
        self.key = key
        super().__init__(message)


class Conflict(QForgeError, ValueError):
    """What is stored already stands in the way.

    Parameters
    ----------
    existing_id
        Key of the stored row, where it is known.
    constraint
        Name of the database constraint, where one spoke.
    """

    def __init__(self, message: str, *, existing_id: int | None = None, constraint: str | None = None) -> None:
        self.existing_id = existing_id
        self.constraint = constraint
        super().__init__(message)


class DuplicateMolecule(Conflict):
    """The molecule is stored already, perhaps under another spelling."""


class DuplicateBatch(Conflict):
    """A batch of that name is stored already."""


class AccessDenied(QForgeError, PermissionError):
    """The role of this connection may not do this, or a parent row is not yours."""


class ScopeNotHeld(AccessDenied):
    """The tenant asked for would not hold on this connection, so it was refused."""


COMPUTATION_CODES: Final[Mapping[str, str]] = {
    "no_geometry": "no geometry could be made of the SMILES",
    "unknown_element": "the method has no parameters for an element",
    "spin_mismatch": "the number of electrons does not allow that many unpaired ones",
    "scf_not_converged": "the SCF did not converge",
    "optimization_not_converged": "the geometry optimisation did not converge",
    "timeout": "it took longer than allowed",
    "killed": "the process that computed it died",
    "engine_error": "the engine failed for another reason",
}
"""Codes of failed computations."""


class ComputationFailed(QForgeError, RuntimeError):
    """A molecule could not be computed.

    Parameters
    ----------
    message
        What went wrong.
    code
        Key of :data:`COMPUTATION_CODES`.
    stderr
        What the engine printed, its end where it is long.
    """

    def __init__(self, message: str, *, code: str, stderr: str = "") -> None:
        self.code = code
        self.stderr = stderr
        super().__init__(message)


class StatementTimeout(QForgeError, TimeoutError):
    """The server's statement_timeout ended the statement."""


class DatabaseError(QForgeError, RuntimeError):
    """The server reported an error that has no better class here.

    Parameters
    ----------
    sqlstate
        The five-character code of the server.
    constraint
        Name of the constraint, where one spoke.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        self.sqlstate = sqlstate
        self.constraint = constraint
        super().__init__(message)


class ExportMismatch(QForgeError, ValueError):
    """Exported files are missing or disagree with their manifest."""


class LoadWarning(UserWarning):
    """A bulk load rejected some rows and loaded the others."""
