"""What each table offers to filter on, sort by and select: one table of data for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, DateTime, Double, Integer, LargeBinary, SmallInteger, Text, cast, func
from sqlalchemy.dialects.postgresql import BIT, JSONB, UUID
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import ColumnElement

from qforge_sdk.db.models import (
    BATCH_STATUSES,
    CONVERGENCE_STATUSES,
    EVENT_STATUSES,
    ITEM_STATUSES,
    AtomicProperty,
    Base,
    BatchItem,
    BatchJob,
    Calculation,
    EventLog,
    Molecule,
)
from qforge_sdk.errors import UnknownField
from qforge_sdk.quantities import did_you_mean

_HIDDEN: Final = frozenset({"metadata", "fingerprint", "lease_token", "lease_holder", "lease_expires_at"})
_WORDS: Final[dict[tuple[type[Base], str], tuple[str, ...]]] = {
    (Calculation, "convergence_status"): CONVERGENCE_STATUSES,
    (BatchJob, "status"): BATCH_STATUSES,
    (BatchItem, "status"): ITEM_STATUSES,
    (EventLog, "status"): EVENT_STATUSES,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One column that a query can filter on, sort by and select.

    Parameters
    ----------
    name
        As users write it and as it is headed in a frame.
    attribute
        The mapped column.
    kind
        Key of :data:`qforge_sdk.frames.PANDAS_TYPES`.
    default
        Whether a query returns it when no columns are named.
    """

    name: str
    attribute: InstrumentedAttribute[Any]
    kind: str
    default: bool = True

    @property
    def model(self) -> type[Base]:
        """The table it belongs to."""
        model: type[Base] = self.attribute.parent.class_
        return model

    @property
    def words(self) -> tuple[str, ...]:
        """All that it can hold; empty where that is any value of its kind."""
        return _WORDS.get((self.model, self.name), ())

    def selected(self) -> ColumnElement[Any]:
        """The column as it is read: types that Arrow does not know, as text or bytes."""
        column = self.attribute.expression
        if isinstance(column.type, BIT):
            # The binary form begins with the number of bits, in 4 bytes.
            return func.substring(func.bit_send(column), 5, type_=LargeBinary).label(self.name)
        if isinstance(column.type, (UUID, JSONB)) or self.kind == "str":
            column = cast(column, Text)
        return column.label(self.name)


@dataclass(frozen=True, slots=True)
class TableFields:
    """Fields of one table, those of its molecule included where it has one.

    Parameters
    ----------
    model
        The table.
    fields
        Name to field, in the order of a frame's columns.
    """

    model: type[Base]
    fields: dict[str, Field]

    @property
    def name(self) -> str:
        """Table name."""
        return str(self.model.__tablename__)

    def default_columns(self) -> list[str]:
        """Columns of a frame when none are named."""
        return [name for name, field in self.fields.items() if field.default]

    def __getitem__(self, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            raise UnknownField(
                f"{self.name} has no column {name!r}{did_you_mean(name, list(self.fields))}", field=name
            ) from None


def _kind(attribute: InstrumentedAttribute[Any]) -> str:
    column = attribute.expression
    if column.primary_key or column.foreign_keys:
        return "key"
    if isinstance(column.type, (BigInteger, Integer, SmallInteger)):
        return "Int64" if column.nullable else "int64"
    for sql_type, kind in (
        (Double, "float64"),
        (Boolean, "boolean"),
        (DateTime, "time"),
        (JSONB, "json"),
        (BIT, "bytes"),
    ):
        if isinstance(column.type, sql_type):
            return kind
    return "str"


def _fields(model: type[Base], first: tuple[str, ...], skip: frozenset[str] = frozenset()) -> dict[str, Field]:
    """Fields of a model: those of ``first`` lead, the others follow in table order."""
    attributes = {
        column.name: model.__mapper__.get_property_by_column(column).class_attribute
        for column in model.__table__.columns
    }
    names = [*first, *(name for name in attributes if name not in first and name not in skip)]
    return {
        name: Field(name, attributes[name], _kind(attributes[name]), default=name not in _HIDDEN) for name in names
    }


def _molecule_fields(*, shown: tuple[str, ...], hidden: tuple[str, ...]) -> dict[str, Field]:
    every = _fields(Molecule, ())
    return {
        name: Field(name, every[name].attribute, every[name].kind, default=name in shown)
        for name in (*shown, *hidden)
    }


_INTERNAL: Final = frozenset({"identity_hash"})

MOLECULES: Final = TableFields(
    Molecule, _fields(Molecule, ("id", "smiles", "name", "formula", "charge", "inchikey"), _INTERNAL)
)

_HIDDEN_OF_MOLECULES: Final = (
    "charge", "inchikey", "graph_hash", "fingerprint", "fingerprint_popcount", "input_smiles"
)  # fmt: skip

_calculation = _fields(Calculation, ("id", "molecule_id"))
CALCULATIONS: Final = TableFields(
    Calculation,
    {
        "id": _calculation.pop("id"),
        "molecule_id": _calculation.pop("molecule_id"),
        **_molecule_fields(
            shown=("smiles", "name", "formula"),
            hidden=_HIDDEN_OF_MOLECULES,
        ),
        **_calculation,
    },
)

ATOMS: Final = TableFields(AtomicProperty, _fields(AtomicProperty, ("calculation_id", "atom_index")))
BATCHES: Final = TableFields(BatchJob, _fields(BatchJob, ("id", "batch_name")))

_item = _fields(BatchItem, ("id", "batch_id", "molecule_id"))
BATCH_ITEMS: Final = TableFields(
    BatchItem,
    {
        "id": _item.pop("id"),
        "batch_id": _item.pop("batch_id"),
        "molecule_id": _item.pop("molecule_id"),
        **_molecule_fields(shown=("smiles", "name", "formula"), hidden=_HIDDEN_OF_MOLECULES),
        **_item,
    },
)
EVENTS: Final = TableFields(EventLog, _fields(EventLog, ("id", "created_at", "event_type")))
EVENTS.fields["context"] = Field("context", EventLog.context, "json", default=True)

ALL_TABLES: Final[dict[str, TableFields]] = {
    table.name: table for table in (MOLECULES, CALCULATIONS, ATOMS, BATCHES, BATCH_ITEMS, EVENTS)
}
