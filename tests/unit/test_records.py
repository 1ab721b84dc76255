"""The pydantic records."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

import qforge_sdk.db.schemas
import qforge_sdk.schemas
from qforge_sdk.db import models
from qforge_sdk.quantities import QUANTITIES
from qforge_sdk.schemas import (
    AtomicPropertyCreate,
    AtomicPropertyResponse,
    BatchItemResponse,
    BatchJobResponse,
    CalculationCreate,
    CalculationResponse,
    DatabaseStatsResponse,
    EventLogCreate,
    EventLogDetail,
    MoleculeCreate,
    MoleculeResponse,
    MoleculeUpdate,
    records,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ENTITIES = {
    "Molecule": models.Molecule,
    "Calculation": models.Calculation,
    "AtomicProperty": models.AtomicProperty,
    "BatchJob": models.BatchJob,
    "BatchItem": models.BatchItem,
    "EventLog": models.EventLog,
}
KINDS = ("Create", "Update", "Response", "Detail")
# Columns that a record of one row need not carry.
INTERNAL = {
    "identity_hash",
    "fingerprint",
    "fingerprint_popcount",
    "lease_token",
    "lease_holder",
    "lease_expires_at",
    "recorded_by",
    "actor",
    "application",
    "transaction_id",
}
INPUTS = [getattr(records, f"{entity}{kind}") for entity in ENTITIES for kind in ("Create", "Update")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entity", ENTITIES)
def test_each_entity_has_all_four_records(entity: str, kind: str):
    assert f"{entity}{kind}" in qforge_sdk.schemas.__all__


def test_the_old_place_exports_every_record():
    old = qforge_sdk.db.schemas
    assert [name for name in old.__all__ if getattr(old, name) is not getattr(qforge_sdk.schemas, name)] == []
    assert {f"{entity}{kind}" for entity in ENTITIES for kind in KINDS} < set(old.__all__)


@pytest.mark.parametrize("entity", ENTITIES)
def test_a_response_carries_every_column(entity: str):
    response = getattr(records, f"{entity}Response")
    columns = {column.name for column in ENTITIES[entity].__table__.columns}
    assert set(response.model_fields) == columns - INTERNAL


@pytest.mark.parametrize("kind", ["Create", "Update"])
@pytest.mark.parametrize("entity", ENTITIES)
def test_what_goes_in_is_a_column(entity: str, kind: str):
    columns = {column.name for column in ENTITIES[entity].__table__.columns}
    assert set(getattr(records, f"{entity}{kind}").model_fields) <= columns


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (records.ConvergenceStatus, models.CONVERGENCE_STATUSES),
        (records.BatchStatus, models.BATCH_STATUSES),
        (records.ItemStatus, models.ITEM_STATUSES),
        (records.EventStatus, models.EVENT_STATUSES),
        (records.EntityType, models.ENTITY_TYPES),
    ],
)
def test_status_words_are_those_of_the_database(words: Any, stored: tuple[str, ...]):
    assert get_args(words) == stored


@pytest.mark.parametrize("record", [CalculationCreate, CalculationResponse, AtomicPropertyCreate])
def test_numbers_name_their_unit(record: Any):
    fields = record.model_json_schema()["properties"]
    named = {name: field["unit"] for name, field in fields.items() if name in QUANTITIES}
    assert named
    assert named == {name: QUANTITIES[name].unit for name in named}


@pytest.mark.parametrize("record", INPUTS)
def test_an_unknown_field_is_refused(record: Any):
    with pytest.raises(ValidationError, match="no_such_field"):
        record(no_such_field=1)


def test_records_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        MoleculeCreate(smiles="C").smiles = "CC"  # type: ignore[misc]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_is_finite(number: float):
    with pytest.raises(ValidationError, match="finite"):
        CalculationCreate(molecule_id=1, energy=number)


def test_a_converged_calculation_has_an_energy():
    with pytest.raises(ValidationError, match="a converged calculation has an energy"):
        CalculationCreate(molecule_id=1)
    assert CalculationCreate(molecule_id=1, convergence_status="error").energy is None


@pytest.mark.parametrize(
    "values",
    [
        {"dipole": -1},
        {"execution_time_seconds": -1},
        {"unpaired_electrons": -1},
        {"convergence_status": "done"},
        {"xyz_file_hash": "abc"},
        {"method": "x" * 51},
        {"solvent": "a\0b"},
        {"metadata": None},
    ],
)
def test_what_the_database_would_refuse_is_refused_here(values: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(values))):
        CalculationCreate(molecule_id=1, energy=-1, **values)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_metadata_is_json(value: dict[str, Any]):
    with pytest.raises(ValidationError, match="JSON"):
        MoleculeCreate(smiles="C", metadata=value)


def test_an_update_says_which_fields_were_set():
    assert MoleculeUpdate(name=None).model_dump(exclude_unset=True) == {"name": None}
    with pytest.raises(ValidationError, match="metadata"):
        MoleculeUpdate(metadata=None)  # type: ignore[arg-type]


def _molecule() -> models.Molecule:
    return models.Molecule(
        id=7, user_id=uuid.UUID(int=5), formula="CH4", charge=0, smiles="C", metadata_={"a": 1},
        created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def test_an_orm_object_becomes_a_record():
    record = MoleculeResponse.model_validate(_molecule())
    assert record.metadata == {"a": 1}
    assert record.user_id == "00000000-0000-0000-0000-000000000005"


def test_a_record_survives_a_round_trip_through_json():
    record = MoleculeResponse.model_validate(_molecule())
    text = record.model_dump_json()
    assert '"metadata":{"a":1}' in text
    assert MoleculeResponse.model_validate_json(text) == record


def test_a_detail_reads_the_related_rows():
    calculation = models.Calculation(
        id=1, molecule_id=7, energy=-1.0, total_charge=0, unpaired_electrons=0, method="GFN2-xTB", optimized=False,
        convergence_status="converged", metadata_={}, created_at=NOW, updated_at=NOW, molecule=_molecule(),
    )  # fmt: skip
    detail = records.CalculationDetail.model_validate(calculation)
    assert detail.molecule is not None
    assert detail.molecule.formula == "CH4"
    assert detail.atomic_properties == []


def test_a_summary_can_be_read_like_the_old_dictionary():
    stats = DatabaseStatsResponse(total_molecules=1, total_calculations=2, total_batches=3, success_rate=50.0)
    assert stats["success_rate"] == 50.0
    assert "average_energy" in stats
    assert "model_config" not in stats
    with pytest.raises(KeyError, match="model_config"):
        stats["model_config"]


def test_an_event_names_a_table_or_the_system():
    with pytest.raises(ValidationError, match="'molecules', 'calculations'"):
        EventLogCreate.model_validate({"event_type": "error", "entity_type": "molecule"})


def test_fastapi_documents_the_records_with_their_names():
    app = FastAPI()

    @app.post("/", response_model=MoleculeResponse)
    def _create(molecule: MoleculeCreate, atom: AtomicPropertyCreate) -> None: ...

    for record in (CalculationResponse, AtomicPropertyResponse, BatchJobResponse, BatchItemResponse, EventLogDetail):
        app.get(f"/{record.__name__}", response_model=record)(lambda: None)

    schemas = app.openapi()["components"]["schemas"]

    assert "metadata" in schemas["MoleculeCreate"]["properties"]
    assert "metadata" in schemas["MoleculeResponse"]["properties"]
    assert "metadata_" not in str(schemas)
    assert schemas["CalculationResponse"]["properties"]["energy"]["unit"] == "hartree"
