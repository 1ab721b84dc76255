"""The six tables as ORM classes.

The database is made by the migrations; a test builds one database from these classes and one from the migrations and
compares them. Row level security, rights and triggers are SQL and live in ``migrations/versions``.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import BIT, BYTEA, JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

from qforge_sdk.db import public
from qforge_sdk.quantities import QUANTITIES

PUBLIC_USER_ID: Final = public.PUBLIC_USER_ID
"""Owner of the rows that everybody reads and only the service writes."""

FINGERPRINT_BITS: Final = 2048

CONVERGENCE_STATUSES: Final = ("converged", "not_converged", "error")
BATCH_STATUSES: Final = ("pending", "in_progress", "completed", "failed")
ITEM_STATUSES: Final = ("pending", "processing", "completed", "failed", "skipped")
EVENT_STATUSES: Final = ("success", "warning", "error")
ENTITY_TYPES: Final = (
    "molecules",
    "calculations",
    "atomic_properties",
    "batch_jobs",
    "batch_items",
    "event_logs",
    "system",
)


class Base(DeclarativeBase):
    """Declarative base of all qforge tables, which live in schema ``public``."""

    metadata = MetaData(schema="public")


class _PgName(UserDefinedType[str]):
    """PostgreSQL's type of role names."""

    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "name"


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def _finite(*columns: str) -> str:
    # PostgreSQL sorts NaN above Infinity, so one upper bound refuses both.
    return " AND ".join(f"{column} > '-Infinity' AND {column} < 'Infinity'" for column in columns)


def _quantity(name: str, *, nullable: bool = True, default: str | None = None) -> Mapped[Any]:
    """Column of a measured number; its comment is its unit."""
    quantity = QUANTITIES[name]
    return mapped_column(
        Double,
        nullable=nullable,
        server_default=text(default) if default else None,
        info={"unit": quantity.unit, "description": quantity.description},
    )


def _key() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(always=False), primary_key=True)


def _owner() -> Mapped[uuid.UUID | None]:
    return mapped_column(UUID(as_uuid=True), server_default=text("qforge.current_user_id()"))


def _json(name: str) -> Mapped[dict[str, Any]]:
    return mapped_column(name, JSONB, nullable=False, server_default=text("'{}'"))


def _now() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), nullable=False, server_default=text("now()"))


def _later() -> Mapped[datetime | None]:
    return mapped_column(DateTime(timezone=True))


def _word(default: str) -> Mapped[str]:
    return mapped_column(String(50), nullable=False, server_default=text(f"'{default}'"))


def _count() -> Mapped[int]:
    return mapped_column(nullable=False, server_default=text("0"))


class Molecule(Base):
    """A structure, unique for its owner by ``identity_hash``."""

    __tablename__ = "molecules"

    id: Mapped[int] = _key()
    user_id: Mapped[uuid.UUID | None] = _owner()
    name: Mapped[str | None] = mapped_column(String(255))
    smiles: Mapped[str | None] = mapped_column(Text)
    formula: Mapped[str] = mapped_column(String(255), nullable=False)
    charge: Mapped[int] = _count()
    inchikey: Mapped[str | None] = mapped_column(String(27))
    graph_hash: Mapped[str | None] = mapped_column(String(64))
    identity_hash: Mapped[bytes] = mapped_column(
        BYTEA,
        Computed(r"sha256(replace(coalesce(smiles, 'graph:' || graph_hash), '\', '\\')::bytea)", persisted=True),
        nullable=True,
        deferred=True,
    )
    # As PostgreSQL's text form of bit(2048); bulk loads and reads use its binary form.
    fingerprint: Mapped[str | None] = mapped_column(BIT(FINGERPRINT_BITS), deferred=True)
    fingerprint_popcount: Mapped[int | None]
    input_smiles: Mapped[str | None] = mapped_column(Text)
    rdkit_version: Mapped[str | None] = mapped_column(String(50))
    metadata_: Mapped[dict[str, Any]] = _json("metadata")
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    calculations: Mapped[list[Calculation]] = relationship(
        back_populates="molecule", cascade="all, delete-orphan", passive_deletes=True
    )
    batch_items: Mapped[list[BatchItem]] = relationship(
        back_populates="molecule", cascade="all, delete-orphan", passive_deletes=True
    )

    __table_args__ = (
        UniqueConstraint("user_id", "identity_hash", name="molecules_identity", postgresql_nulls_not_distinct=True),
        CheckConstraint("smiles IS NOT NULL OR graph_hash IS NOT NULL", name="molecules_has_identity"),
        CheckConstraint("smiles <> ''", name="molecules_smiles_not_empty"),
        CheckConstraint("name <> ''", name="molecules_name_not_empty"),
        Index("molecules_inchikey", "user_id", "inchikey"),
        Index("molecules_id", "user_id", "id"),
        Index("molecules_name", "user_id", "name", "id"),
        Index("molecules_formula", "user_id", "formula", "id"),
        Index("molecules_graph", "user_id", "graph_hash", postgresql_where=text("graph_hash IS NOT NULL")),
    )

    def __repr__(self) -> str:
        return f"Molecule(id={self.id!r}, name={self.name!r}, smiles={self.smiles!r})"


class Calculation(Base):
    """One xTB result; numbers and their units are in :mod:`qforge_sdk.quantities`."""

    __tablename__ = "calculations"

    id: Mapped[int] = _key()
    user_id: Mapped[uuid.UUID | None] = _owner()
    molecule_id: Mapped[int] = mapped_column(
        ForeignKey("public.molecules.id", name="calculations_molecule_id_fkey", ondelete="CASCADE"),
        nullable=False,
    )
    energy: Mapped[float | None] = _quantity("energy")
    homo: Mapped[float | None] = _quantity("homo")
    lumo: Mapped[float | None] = _quantity("lumo")
    gap: Mapped[float | None] = _quantity("gap")
    dipole: Mapped[float | None] = _quantity("dipole")
    total_charge: Mapped[float] = _quantity("total_charge", nullable=False, default="0")
    unpaired_electrons: Mapped[int] = _count()
    execution_time_seconds: Mapped[float | None] = _quantity("execution_time_seconds")
    xtb_version: Mapped[str | None] = mapped_column(String(50))
    method: Mapped[str] = _word("GFN2-xTB")
    solvation: Mapped[str | None] = mapped_column(String(50))
    solvent: Mapped[str | None] = mapped_column(String(50))
    optimized: Mapped[bool] = mapped_column(nullable=False, server_default=text("false"))
    convergence_status: Mapped[str] = _word("converged")
    xyz_file_hash: Mapped[str | None] = mapped_column(String(64))
    output_json_path: Mapped[str | None] = mapped_column(Text)
    source_id: Mapped[str | None] = mapped_column(String(255))
    metadata_: Mapped[dict[str, Any]] = _json("metadata")
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    molecule: Mapped[Molecule] = relationship(back_populates="calculations")
    atomic_properties: Mapped[list[AtomicProperty]] = relationship(
        back_populates="calculation",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="AtomicProperty.atom_index",
    )

    __table_args__ = (
        CheckConstraint(_one_of("convergence_status", CONVERGENCE_STATUSES), name="calculations_status"),
        CheckConstraint(
            "energy IS NOT NULL OR convergence_status <> 'converged'",
            name="calculations_converged_has_energy",
        ),
        CheckConstraint(
            "execution_time_seconds >= 0 AND execution_time_seconds < 'Infinity'",
            name="calculations_time_not_negative",
        ),
        CheckConstraint(_finite("energy"), name="calculations_energy_finite"),
        CheckConstraint(_finite("homo"), name="calculations_homo_finite"),
        CheckConstraint(_finite("lumo"), name="calculations_lumo_finite"),
        CheckConstraint(_finite("gap"), name="calculations_gap_finite"),
        CheckConstraint("dipole >= 0 AND dipole < 'Infinity'", name="calculations_dipole_not_negative"),
        CheckConstraint(_finite("total_charge"), name="calculations_total_charge_finite"),
        CheckConstraint("unpaired_electrons >= 0", name="calculations_unpaired_electrons_not_negative"),
        CheckConstraint("length(xyz_file_hash) = 64", name="calculations_xyz_file_hash_is_sha256"),
        Index("calculations_molecule", "molecule_id", "user_id", "id"),
        Index("calculations_gap", "user_id", "gap"),
        Index("calculations_energy", "user_id", "energy"),
        Index("calculations_created", "user_id", "created_at", "id"),
        Index(
            "calculations_sample",
            "user_id",
            text("hashint8extended(id, 0)"),
            postgresql_include=[
                "id",
                "energy",
                "homo",
                "lumo",
                "gap",
                "dipole",
                "total_charge",
                "execution_time_seconds",
                "method",
            ],
            postgresql_where=text("hashint8extended(id, 0) & 15 = 0"),
        ),
        Index(
            "calculations_source",
            "user_id",
            "source_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("source_id IS NOT NULL"),
        ),
    )

    def __repr__(self) -> str:
        return f"Calculation(id={self.id!r}, molecule_id={self.molecule_id!r}, energy={self.energy!r})"


class AtomicProperty(Base):
    """One atom of one calculation, keyed by ``(calculation_id, atom_index)``; its owner is the calculation's."""

    __tablename__ = "atomic_properties"

    user_id: Mapped[uuid.UUID | None] = _owner()
    calculation_id: Mapped[int] = mapped_column(
        ForeignKey("public.calculations.id", name="atomic_properties_calculation_id_fkey", ondelete="CASCADE"),
        nullable=False,
    )
    atom_index: Mapped[int] = mapped_column(nullable=False)
    element: Mapped[str] = mapped_column(String(3), nullable=False)
    atomic_number: Mapped[int] = mapped_column(SmallInteger, nullable=False)
    partial_charge: Mapped[float | None] = _quantity("partial_charge")
    position_x: Mapped[float] = _quantity("position_x", nullable=False)
    position_y: Mapped[float] = _quantity("position_y", nullable=False)
    position_z: Mapped[float] = _quantity("position_z", nullable=False)
    force_x: Mapped[float | None] = _quantity("force_x")
    force_y: Mapped[float | None] = _quantity("force_y")
    force_z: Mapped[float | None] = _quantity("force_z")
    orbital_energy: Mapped[float | None] = _quantity("orbital_energy")
    metadata_: Mapped[dict[str, Any]] = _json("metadata")
    created_at: Mapped[datetime] = _now()

    calculation: Mapped[Calculation] = relationship(back_populates="atomic_properties")

    __table_args__ = (
        UniqueConstraint(
            "calculation_id",
            "user_id",
            "atom_index",
            name="atomic_properties_key",
            postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint("atom_index >= 0", name="atomic_properties_atom_index_not_negative"),
        CheckConstraint("atomic_number BETWEEN 1 AND 118", name="atomic_properties_atomic_number"),
        CheckConstraint(_finite("position_x", "position_y", "position_z"), name="atomic_properties_position_finite"),
        CheckConstraint(_finite("partial_charge"), name="atomic_properties_partial_charge_finite"),
        CheckConstraint(_finite("force_x"), name="atomic_properties_force_x_finite"),
        CheckConstraint(_finite("force_y"), name="atomic_properties_force_y_finite"),
        CheckConstraint(_finite("force_z"), name="atomic_properties_force_z_finite"),
        CheckConstraint(_finite("orbital_energy"), name="atomic_properties_orbital_energy_finite"),
    )
    # The key of the table carries user_id as well (see the first migration), which may be null.
    __mapper_args__ = {"primary_key": [calculation_id, atom_index]}

    def __repr__(self) -> str:
        return f"AtomicProperty(calculation_id={self.calculation_id!r}, atom={self.element}{self.atom_index})"


class BatchJob(Base):
    """A named set of molecules to be computed with the same parameters; the database keeps its counts."""

    __tablename__ = "batch_jobs"

    id: Mapped[int] = _key()
    user_id: Mapped[uuid.UUID | None] = _owner()
    batch_name: Mapped[str] = mapped_column(String(255), nullable=False)
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = _word("pending")
    total_molecules: Mapped[int] = _count()
    successful_count: Mapped[int] = _count()
    failed_count: Mapped[int] = _count()
    skipped_count: Mapped[int] = _count()
    waiting_count: Mapped[int] = _count()
    parameters: Mapped[dict[str, Any]] = _json("parameters")
    metadata_: Mapped[dict[str, Any]] = _json("metadata")
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None] = _later()
    completed_at: Mapped[datetime | None] = _later()
    updated_at: Mapped[datetime] = _now()

    batch_items: Mapped[list[BatchItem]] = relationship(
        back_populates="batch", cascade="all, delete-orphan", passive_deletes=True, order_by="BatchItem.id"
    )

    __table_args__ = (
        CheckConstraint("batch_name <> ''", name="batch_jobs_name_not_empty"),
        CheckConstraint(_one_of("status", BATCH_STATUSES), name="batch_jobs_status"),
        CheckConstraint(
            "total_molecules >= 0 AND successful_count >= 0 AND failed_count >= 0 AND skipped_count >= 0 "
            "AND waiting_count >= 0",
            name="batch_jobs_counts_not_negative",
        ),
        Index("batch_jobs_name", "user_id", "batch_name"),
    )

    def __repr__(self) -> str:
        return f"BatchJob(id={self.id!r}, batch_name={self.batch_name!r}, status={self.status!r})"


class BatchItem(Base):
    """One molecule of one batch; its owner is the batch's."""

    __tablename__ = "batch_items"

    id: Mapped[int] = _key()
    user_id: Mapped[uuid.UUID | None] = _owner()
    batch_id: Mapped[int] = mapped_column(
        ForeignKey("public.batch_jobs.id", name="batch_items_batch_id_fkey", ondelete="CASCADE"),
        nullable=False,
    )
    molecule_id: Mapped[int] = mapped_column(
        ForeignKey("public.molecules.id", name="batch_items_molecule_id_fkey", ondelete="CASCADE"),
        nullable=False,
    )
    status: Mapped[str] = _word("pending")
    calculation_id: Mapped[int | None] = mapped_column(
        ForeignKey("public.calculations.id", name="batch_items_calculation_id_fkey", ondelete="SET NULL")
    )
    error_message: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(50))
    retry_count: Mapped[int] = _count()
    lease_token: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    lease_holder: Mapped[str | None] = mapped_column(String(255))
    lease_expires_at: Mapped[datetime | None] = _later()
    metadata_: Mapped[dict[str, Any]] = _json("metadata")
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None] = _later()
    completed_at: Mapped[datetime | None] = _later()
    updated_at: Mapped[datetime] = _now()

    batch: Mapped[BatchJob] = relationship(back_populates="batch_items")
    molecule: Mapped[Molecule] = relationship(back_populates="batch_items")
    calculation: Mapped[Calculation | None] = relationship()

    __table_args__ = (
        UniqueConstraint(
            "batch_id",
            "user_id",
            "molecule_id",
            name="batch_items_key",
            postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint(_one_of("status", ITEM_STATUSES), name="batch_items_status"),
        CheckConstraint("retry_count >= 0", name="batch_items_retry_count_not_negative"),
        Index("batch_items_molecule", "molecule_id", "user_id"),
        Index("batch_items_status", "batch_id", "user_id", "status", "id"),
        Index(
            "batch_items_claim",
            "user_id",
            "batch_id",
            "id",
            postgresql_where=text("status IN ('pending', 'processing')"),
        ),
        Index(
            "batch_items_calculation",
            "calculation_id",
            "user_id",
            postgresql_where=text("calculation_id IS NOT NULL"),
        ),
    )

    def __repr__(self) -> str:
        return f"BatchItem(batch_id={self.batch_id!r}, molecule_id={self.molecule_id!r}, status={self.status!r})"


class EventLog(Base):
    """One line of the audit trail, written by a trigger or added by a program."""

    __tablename__ = "event_logs"

    id: Mapped[int] = _key()
    user_id: Mapped[uuid.UUID | None] = _owner()
    event_type: Mapped[str] = mapped_column(String(50), nullable=False)
    entity_type: Mapped[str] = mapped_column(String(50), nullable=False)
    entity_id: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = _word("success")
    error_message: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(50))
    context: Mapped[dict[str, Any]] = _json("context")
    service: Mapped[str] = _word("api")
    recorded_by: Mapped[str] = _word("program")
    actor: Mapped[str] = mapped_column(_PgName, nullable=False, server_default=text("SESSION_USER"))
    application: Mapped[str | None] = mapped_column(
        Text, server_default=text("current_setting('application_name', true)")
    )
    transaction_id: Mapped[int] = mapped_column(
        BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")
    )
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")
    )

    __table_args__ = (
        CheckConstraint(_one_of("status", EVENT_STATUSES), name="event_logs_status"),
        CheckConstraint(_one_of("recorded_by", ("program", "trigger")), name="event_logs_recorded_by"),
        CheckConstraint(_one_of("entity_type", ENTITY_TYPES), name="event_logs_entity_type"),
        Index("event_logs_entity", "user_id", "entity_type", "entity_id"),
        Index("event_logs_created", "user_id", "created_at", "id"),
    )

    def __repr__(self) -> str:
        return f"EventLog(id={self.id!r}, event_type={self.event_type!r}, status={self.status!r})"


TABLES: Final[dict[str, type[Base]]] = {
    model.__tablename__: model for model in (Molecule, Calculation, AtomicProperty, BatchJob, BatchItem, EventLog)
}
