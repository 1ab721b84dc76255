"""A PostgreSQL database of xTB quantum-chemistry results, driven from a notebook.

>>> import qforge_sdk as qf
>>> client = qf.connect()  # doctest: +SKIP

Names load on first use, so that worker processes of :mod:`qforge_sdk.chem` import RDKit and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qforge_sdk import display
    from qforge_sdk._version import __version__
    from qforge_sdk.citations import cite
    from qforge_sdk.client import Client, connect
    from qforge_sdk.db.models import AtomicProperty, BatchItem, BatchJob, Calculation, EventLog, Molecule
    from qforge_sdk.errors import (
        AccessDenied,
        ComputationFailed,
        ConfigurationError,
        Conflict,
        ConnectionFailed,
        DatabaseError,
        DuplicateBatch,
        DuplicateMolecule,
        EmbeddedServerError,
        ExportMismatch,
        InvalidInput,
        InvalidSmiles,
        LoadWarning,
        MissingExtra,
        NotFound,
        QForgeError,
        RowsRejected,
        SchemaError,
        SchemaMissing,
        SchemaOutdated,
        ScopeNotHeld,
        StatementTimeout,
        UnknownField,
    )
    from qforge_sdk.query import Query
    from qforge_sdk.schemas import BatchReport, LoadReport

_HOME = {
    "AccessDenied": "errors",
    "AtomicProperty": "db.models",
    "BatchItem": "db.models",
    "BatchJob": "db.models",
    "BatchReport": "schemas",
    "Calculation": "db.models",
    "Client": "client",
    "ComputationFailed": "errors",
    "ConfigurationError": "errors",
    "Conflict": "errors",
    "ConnectionFailed": "errors",
    "DatabaseError": "errors",
    "DuplicateBatch": "errors",
    "DuplicateMolecule": "errors",
    "EmbeddedServerError": "errors",
    "EventLog": "db.models",
    "ExportMismatch": "errors",
    "InvalidInput": "errors",
    "InvalidSmiles": "errors",
    "LoadReport": "schemas",
    "LoadWarning": "errors",
    "MissingExtra": "errors",
    "Molecule": "db.models",
    "NotFound": "errors",
    "QForgeError": "errors",
    "Query": "query",
    "RowsRejected": "errors",
    "SchemaError": "errors",
    "SchemaMissing": "errors",
    "SchemaOutdated": "errors",
    "ScopeNotHeld": "errors",
    "StatementTimeout": "errors",
    "UnknownField": "errors",
    "__version__": "_version",
    "cite": "citations",
    "connect": "client",
}

__all__ = [
    "AccessDenied",
    "AtomicProperty",
    "BatchItem",
    "BatchJob",
    "BatchReport",
    "Calculation",
    "Client",
    "ComputationFailed",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "DatabaseError",
    "DuplicateBatch",
    "DuplicateMolecule",
    "EmbeddedServerError",
    "EventLog",
    "ExportMismatch",
    "InvalidInput",
    "InvalidSmiles",
    "LoadReport",
    "LoadWarning",
    "MissingExtra",
    "Molecule",
    "NotFound",
    "QForgeError",
    "Query",
    "RowsRejected",
    "SchemaError",
    "SchemaMissing",
    "SchemaOutdated",
    "ScopeNotHeld",
    "StatementTimeout",
    "UnknownField",
    "__version__",
    "cite",
    "connect",
    "display",
]


def __getattr__(name: str) -> Any:
    if name == "display":
        return import_module(f"{__name__}.display")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
