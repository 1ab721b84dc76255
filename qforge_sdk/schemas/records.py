"""One record in or out: frozen pydantic models of the six tables.

``XCreate`` and ``XUpdate`` refuse unknown fields. ``XResponse`` is read from an ORM object or a mapping, and
``XDetail`` adds what belongs to it. Numbers carry their unit from :mod:`qforge_sdk.quantities` into the JSON schema.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.fields import FieldInfo

from qforge_sdk import display
from qforge_sdk.quantities import QUANTITIES

ConvergenceStatus = Literal["converged", "not_converged", "error"]
BatchStatus = Literal["pending", "in_progress", "completed", "failed"]
ItemStatus = Literal["pending", "processing", "completed", "failed", "skipped"]
EventStatus = Literal["success", "warning", "error"]
EntityType = Literal[
    "molecules", "calculations", "atomic_properties", "batch_jobs", "batch_items", "event_logs", "system"
]

_MAX_INTEGER = 2**31 - 1


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL stores no text with a NUL character")
    return text


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except TypeError as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    return value


def _uuid_text(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


def _with_unit(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return f"{name} ({extra['unit']})" if isinstance(extra, dict) and "unit" in extra else name


def _brief(value: object) -> object:
    if isinstance(value, Record):
        return value._title()
    if isinstance(value, list | tuple) and value and isinstance(value[0], Record):
        return f"{len(value):,} records"
    return value


def _quantity(name: str, *, ge: float | None = None) -> FieldInfo:
    """Description and unit of a measured number."""
    quantity = QUANTITIES[name]
    field: FieldInfo = Field(
        description=f"{quantity.description} ({quantity.unit})", json_schema_extra={"unit": quantity.unit}, ge=ge
    )
    return field


LongText = Annotated[str, AfterValidator(_without_nul)]
Text255 = Annotated[LongText, StringConstraints(max_length=255)]
Name = Annotated[LongText, StringConstraints(min_length=1, max_length=255)]
Word = Annotated[LongText, StringConstraints(max_length=50)]
Key = Annotated[int, Field(description="Primary key of the row that is meant")]
Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]
Owner = Annotated[
    str | None,
    BeforeValidator(_uuid_text),
    Field(description="Tenant who owns the row; the uuid of zeros for public rows, null for the service's"),
]
# An ORM object's own `metadata` is SQLAlchemy's: there the attribute is `metadata_`.
StoredMetadata = Annotated[
    dict[str, Any],
    Field(validation_alias=AliasChoices("metadata_", "metadata"), description="Whatever else is known"),
]


class Record(BaseModel):
    """Base of all records: frozen, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    def _repr_html_(self) -> str:
        return display.record(self._title(), self._shown(), picture=self._picture())

    def _title(self) -> str:
        words = re.sub(r"(?<!^)([A-Z])", r" \1", re.sub("(Response|Detail)$", "", type(self).__name__)).lower()
        key = getattr(self, "id", None)
        return words if key is None else f"{words} {key}"

    def _shown(self) -> dict[str, object]:
        """What a notebook shows of each field: numbers with their unit, of other records only how many."""
        fields = type(self).model_fields
        return {
            _with_unit(name, fields[name]): _brief(getattr(self, name))
            for name in sorted(fields, key=lambda name: name != "id")
        }

    def _picture(self) -> display.Html | None:
        """The structure of the molecule that the record is or knows."""
        molecule = getattr(self, "molecule", None) or self
        smiles, formula = getattr(molecule, "smiles", None), getattr(molecule, "formula", None)
        return display.structure(smiles, formula=formula) if smiles or formula else None


class _Input(Record):
    model_config = ConfigDict(extra="forbid")


class _Stored(Record):
    model_config = ConfigDict(from_attributes=True)


class Summary(Record):
    """A report that code written for the old dictionaries can still index."""

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in type(self).model_fields


class MoleculeCreate(_Input):
    """A molecule to be stored; its identity is computed from ``smiles``."""

    smiles: Annotated[str, Field(description="SMILES in any spelling")]
    name: Annotated[Name | None, Field(description="What people call it")] = None
    formula: Annotated[
        Text255 | None, Field(description="Computed when absent; one that disagrees with the SMILES is refused")
    ] = None
    metadata: Annotated[JsonObject, Field(description="Whatever else is known")] = {}


class MoleculeUpdate(_Input):
    """What may change of a molecule; a field that is left out stays."""

    name: Name | None = None
    metadata: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}


class MoleculeResponse(_Stored):
    """A stored molecule."""

    id: int
    user_id: Owner = None
    name: str | None = None
    smiles: Annotated[str | None, Field(description="Canonical isomeric SMILES; null when none describes it")] = None
    formula: str
    charge: Annotated[int, Field(description="Formal charge (e)", json_schema_extra={"unit": "e"})] = 0
    inchikey: str | None = None
    graph_hash: Annotated[str | None, Field(description="Identity of a structure without a SMILES")] = None
    input_smiles: Annotated[str | None, Field(description="The SMILES as it was given")] = None
    rdkit_version: str | None = None
    metadata: StoredMetadata = {}
    created_at: datetime
    updated_at: datetime


class MoleculeDetail(MoleculeResponse):
    """A molecule with its calculations."""

    calculations: list[CalculationResponse] = []


class _CalculationValues(Record):
    molecule_id: Key
    energy: Annotated[float | None, _quantity("energy")] = None
    homo: Annotated[float | None, _quantity("homo")] = None
    lumo: Annotated[float | None, _quantity("lumo")] = None
    gap: Annotated[float | None, _quantity("gap")] = None
    dipole: Annotated[float | None, _quantity("dipole", ge=0)] = None
    total_charge: Annotated[float, _quantity("total_charge")] = 0.0
    unpaired_electrons: Count = 0
    execution_time_seconds: Annotated[float | None, _quantity("execution_time_seconds", ge=0)] = None
    xtb_version: Word | None = None
    method: Word = "GFN2-xTB"
    solvation: Annotated[Word | None, Field(description="Solvation model, such as ALPB")] = None
    solvent: Word | None = None
    optimized: Annotated[bool, Field(description="Whether the geometry was optimised first")] = False
    convergence_status: ConvergenceStatus = "converged"
    xyz_file_hash: Annotated[
        str | None, Field(pattern="^[0-9a-fA-F]{64}$", description="sha256 of the input xyz")
    ] = None
    output_json_path: LongText | None = None
    source_id: Annotated[
        Text255 | None, Field(description="Name of the run where it came from, so that a load can be repeated")
    ] = None


class CalculationCreate(_CalculationValues, _Input):
    """An xTB result to be stored; only a run that did not converge may come without an energy."""

    metadata: JsonObject = {}

    @model_validator(mode="after")
    def _converged_has_energy(self) -> Self:
        if self.convergence_status == "converged" and self.energy is None:
            raise ValueError("a converged calculation has an energy; for a failed run set convergence_status")
        return self


class CalculationUpdate(_Input):
    """What may change of a calculation; a field that is left out stays, and numbers always do."""

    convergence_status: ConvergenceStatus = "converged"
    output_json_path: LongText | None = None
    metadata: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}


class CalculationResponse(_CalculationValues, _Stored):
    """A stored calculation."""

    id: int
    user_id: Owner = None
    metadata: StoredMetadata = {}
    created_at: datetime
    updated_at: datetime


class CalculationDetail(CalculationResponse):
    """A calculation with its molecule and atoms."""

    molecule: MoleculeResponse | None = None
    atomic_properties: list[AtomicPropertyResponse] = []


class _AtomValues(Record):
    atom_index: Annotated[int, Field(ge=0, le=_MAX_INTEGER, description="Position in the xyz, from 0")]
    element: Annotated[str, Field(pattern="^[A-Z][a-z]{0,2}$", description="Symbol, such as Cl")]
    atomic_number: Annotated[int, Field(ge=1, le=118)]
    partial_charge: Annotated[float | None, _quantity("partial_charge")] = None
    position_x: Annotated[float, _quantity("position_x")]
    position_y: Annotated[float, _quantity("position_y")]
    position_z: Annotated[float, _quantity("position_z")]
    force_x: Annotated[float | None, _quantity("force_x")] = None
    force_y: Annotated[float | None, _quantity("force_y")] = None
    force_z: Annotated[float | None, _quantity("force_z")] = None
    orbital_energy: Annotated[float | None, _quantity("orbital_energy")] = None


class AtomicPropertyCreate(_AtomValues, _Input):
    """One atom to be stored."""

    calculation_id: Annotated[
        int | None, Field(description="May be left out where the calculation is an argument of its own")
    ] = None
    metadata: JsonObject = {}


class AtomicPropertyUpdate(_Input):
    """What may change of an atom; a field that is left out stays."""

    partial_charge: Annotated[float | None, _quantity("partial_charge")] = None
    force_x: Annotated[float | None, _quantity("force_x")] = None
    force_y: Annotated[float | None, _quantity("force_y")] = None
    force_z: Annotated[float | None, _quantity("force_z")] = None
    orbital_energy: Annotated[float | None, _quantity("orbital_energy")] = None
    metadata: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}


class AtomicPropertyResponse(_AtomValues, _Stored):
    """A stored atom, keyed by ``(calculation_id, atom_index)``."""

    calculation_id: int
    user_id: Owner = None
    metadata: StoredMetadata = {}
    created_at: datetime


class AtomicPropertyDetail(AtomicPropertyResponse):
    """An atom with its calculation."""

    calculation: CalculationResponse | None = None


class BatchJobCreate(_Input):
    """A batch to be stored."""

    batch_name: Name
    description: LongText | None = None
    total_molecules: Annotated[Count, Field(description="How many are announced; grows with the items")] = 0
    parameters: Annotated[JsonObject, Field(description="Settings shared by all molecules of the batch")] = {}
    metadata: JsonObject = {}


class BatchJobUpdate(_Input):
    """What may change of a batch; a field that is left out stays."""

    description: LongText | None = None
    status: BatchStatus = "pending"
    total_molecules: Annotated[Count, Field(description="How many are announced, at least as many as there are")] = 0
    parameters: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}
    metadata: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}


class BatchJobResponse(_Stored):
    """A stored batch."""

    id: int
    user_id: Owner = None
    batch_name: str
    description: str | None = None
    status: BatchStatus = "pending"
    total_molecules: int = 0
    successful_count: int = 0
    failed_count: int = 0
    skipped_count: int = 0
    waiting_count: Annotated[int, Field(description="Items that are pending or processing")] = 0
    parameters: dict[str, Any] = {}
    metadata: StoredMetadata = {}
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime


class BatchJobDetail(BatchJobResponse):
    """A batch with its items."""

    batch_items: list[BatchItemResponse] = []


class BatchItemCreate(_Input):
    """A molecule to be put into a batch."""

    batch_id: Key
    molecule_id: Key
    status: ItemStatus = "pending"
    calculation_id: int | None = None
    error_message: LongText | None = None
    metadata: JsonObject = {}


class BatchItemUpdate(_Input):
    """What may change of an item; a field that is left out stays."""

    status: ItemStatus = "pending"
    calculation_id: int | None = None
    error_message: LongText | None = None
    retry_count: Count = 0
    metadata: Annotated[JsonObject, Field(description="Replaces what is stored")] = {}


class BatchItemResponse(_Stored):
    """A stored item of a batch."""

    id: int
    user_id: Owner = None
    batch_id: int
    molecule_id: int
    status: ItemStatus = "pending"
    calculation_id: int | None = None
    error_message: str | None = None
    error_code: Annotated[str | None, Field(description="Key of qforge_sdk.errors.COMPUTATION_CODES")] = None
    retry_count: int = 0
    metadata: StoredMetadata = {}
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime


class BatchItemDetail(BatchItemResponse):
    """An item with its molecule and, once computed, its calculation."""

    molecule: MoleculeResponse | None = None
    calculation: CalculationResponse | None = None


class EventLogCreate(_Input):
    """What a program adds to the audit trail."""

    event_type: Annotated[Word, Field(min_length=1, description="Such as calculation_started")]
    entity_type: EntityType
    entity_id: int | None = None
    status: EventStatus = "success"
    error_message: LongText | None = None
    error_code: Word | None = None
    context: JsonObject = {}
    service: Annotated[Word, Field(min_length=1, description="The program that speaks")] = "api"


class EventLogUpdate(_Input):
    """What a program may add to the event that a trigger wrote in the same transaction; nothing else ever changes."""

    context: JsonObject


class EventLogResponse(_Stored):
    """One line of the audit trail."""

    id: int
    user_id: Owner = None
    event_type: str
    entity_type: EntityType
    entity_id: int | None = None
    status: EventStatus = "success"
    error_message: str | None = None
    error_code: str | None = None
    context: dict[str, Any] = {}
    service: str = "api"
    created_at: datetime


class EventLogDetail(EventLogResponse):
    """An event with who wrote it."""

    recorded_by: Literal["program", "trigger"]
    actor: Annotated[str, Field(description="Login of the session")]
    application: str | None = None
    transaction_id: int


class DatabaseStatsResponse(Summary):
    """Totals over what the reader may see."""

    total_molecules: int
    total_calculations: int
    total_batches: int
    average_energy: Annotated[float | None, _quantity("energy")] = None
    median_gap: Annotated[float | None, _quantity("gap")] = None
    success_rate: Annotated[float, Field(description="Converged calculations, percent", ge=0, le=100)]
    latest_calculation_at: datetime | None = None


MoleculeDetail.model_rebuild()
CalculationDetail.model_rebuild()
BatchJobDetail.model_rebuild()
