"""A small HTTP API over the database: ``python examples/fastapi_app.py``, then open http://127.0.0.1:8000/docs.

It uses the session dependency, the functions and the records that the SDK offers to any FastAPI program. Who the
caller is must come from a checked token in a real one; here everything happens as the tenant of QFORGE_USER_ID, or as
the login itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from qforge_sdk.config import Settings
from qforge_sdk.db import crud
from qforge_sdk.db.database import check_db_health, close_db, get_db, setup_database
from qforge_sdk.errors import AccessDenied, Conflict, ConnectionFailed, InvalidInput, NotFound, QForgeError
from qforge_sdk.schemas import (
    AtomicPropertyCreate,
    AtomicPropertyResponse,
    BatchItemCreate,
    BatchItemResponse,
    BatchJobCreate,
    BatchJobDetail,
    BatchJobResponse,
    BatchStatus,
    CalculationCreate,
    CalculationDetail,
    CalculationResponse,
    DatabaseStatsResponse,
    EventLogCreate,
    EventLogResponse,
    HealthCheckResponse,
    ItemStatus,
    MoleculeCreate,
    MoleculeResponse,
    MoleculeUpdate,
    Record,
)

Row = TypeVar("Row")

# FastAPI commits before it answers only with scope="function".
Database = Annotated[Session, Depends(get_db, scope="function")]
Skip = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=1000)]

STATUS_CODES: dict[type[QForgeError], int] = {
    NotFound: 404,
    Conflict: 409,
    InvalidInput: 422,
    AccessDenied: 403,
    ConnectionFailed: 503,
}


class MoleculePage(Record):
    """Molecules, newest first."""

    molecules: list[MoleculeResponse]
    total: int


class CalculationPage(Record):
    """Calculations, newest first."""

    calculations: list[CalculationResponse]
    total: int


class BatchPage(Record):
    """Batches, newest first."""

    batches: list[BatchJobResponse]
    total: int


class EventPage(Record):
    """Events, newest first."""

    events: list[EventLogResponse]
    total: int


class StatusUpdate(Record):
    """A batch's new status."""

    status: BatchStatus


class ItemStatusUpdate(Record):
    """An item's new status, and its result or the reason why there is none."""

    status: ItemStatus
    calculation_id: int | None = None
    error_message: str | None = None


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    setup_database()
    yield
    close_db()


app = FastAPI(title="qforge", lifespan=lifespan)


@app.exception_handler(QForgeError)
def report(_request: Request, error: QForgeError) -> JSONResponse:
    status = next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), 500)
    facts = {name: getattr(error, name, None) for name in ("code", "field", "existing_id")}
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return JSONResponse({"detail": str(error), "error": type(error).__name__, **known}, status_code=status)


def found(row: Row | None, table: str, key: int) -> Row:
    if row is None:
        raise NotFound(f"{table} has no row {key}", entity=table, key=key)
    return row


@app.get("/health")
def health() -> HealthCheckResponse:
    return check_db_health()


@app.get("/stats")
def stats(db: Database) -> DatabaseStatsResponse:
    return crud.get_database_stats(db)


@app.post("/molecules", status_code=201, response_model=MoleculeResponse)
def create_molecule(molecule: MoleculeCreate, db: Database) -> Any:
    return crud.create_molecule(db, molecule)


@app.get("/molecules", response_model=MoleculePage)
def list_molecules(db: Database, skip: Skip = 0, limit: Limit = 100) -> Any:
    molecules, total = crud.list_molecules(db, skip=skip, limit=limit)
    return {"molecules": molecules, "total": total}


@app.get("/molecules/by-smiles", response_model=MoleculeResponse)
def get_molecule_by_smiles(smiles: str, db: Database) -> Any:
    molecule = crud.get_molecule_by_smiles(db, smiles)
    if molecule is None:
        raise NotFound(f"no molecule {smiles!r}", entity="molecules", key=smiles)
    return molecule


@app.get("/molecules/{molecule_id}", response_model=MoleculeResponse)
def get_molecule(molecule_id: int, db: Database) -> Any:
    return found(crud.get_molecule(db, molecule_id), "molecules", molecule_id)


@app.patch("/molecules/{molecule_id}", response_model=MoleculeResponse)
def update_molecule(molecule_id: int, update: MoleculeUpdate, db: Database) -> Any:
    return found(crud.update_molecule(db, molecule_id, update), "molecules", molecule_id)


@app.delete("/molecules/{molecule_id}", status_code=204)
def delete_molecule(molecule_id: int, db: Database) -> Response:
    if not crud.delete_molecule(db, molecule_id):
        raise NotFound(f"molecules has no row {molecule_id}", entity="molecules", key=molecule_id)
    return Response(status_code=204)


@app.post("/calculations", status_code=201, response_model=CalculationResponse)
def create_calculation(calculation: CalculationCreate, db: Database) -> Any:
    return crud.create_calculation(db, calculation)


@app.get("/calculations", response_model=CalculationPage)
def list_calculations(db: Database, molecule_id: int | None = None, skip: Skip = 0, limit: Limit = 100) -> Any:
    calculations, total = crud.list_calculations(db, molecule_id, skip=skip, limit=limit)
    return {"calculations": calculations, "total": total}


@app.get("/calculations/by-gap", response_model=list[CalculationResponse])
def by_gap(db: Database, low: float | None = None, high: float | None = None, limit: Limit = 1000) -> Any:
    return crud.get_calculations_by_gap_range(db, low, high, limit=limit)


@app.get("/calculations/by-energy", response_model=list[CalculationResponse])
def by_energy(db: Database, low: float | None = None, high: float | None = None, limit: Limit = 1000) -> Any:
    return crud.get_calculations_by_energy_range(db, low, high, limit=limit)


@app.get("/calculations/{calculation_id}", response_model=CalculationDetail)
def get_calculation(calculation_id: int, db: Database) -> Any:
    row = found(crud.get_calculation(db, calculation_id), "calculations", calculation_id)
    return CalculationDetail.model_validate(row)


@app.post("/calculations/{calculation_id}/atoms", status_code=201, response_model=list[AtomicPropertyResponse])
def create_atoms(calculation_id: int, atoms: list[AtomicPropertyCreate], db: Database) -> Any:
    return crud.create_atomic_properties(db, calculation_id, atoms)


@app.get("/calculations/{calculation_id}/atoms", response_model=list[AtomicPropertyResponse])
def get_atoms(calculation_id: int, db: Database) -> Any:
    return crud.get_atomic_properties_for_calculation(db, calculation_id)


@app.post("/batches", status_code=201, response_model=BatchJobResponse)
def create_batch(batch: BatchJobCreate, db: Database) -> Any:
    return crud.create_batch_job(db, batch)


@app.get("/batches", response_model=BatchPage)
def list_batches(db: Database, status: str | None = None, skip: Skip = 0, limit: Limit = 100) -> Any:
    batches, total = crud.list_batch_jobs(db, status, skip=skip, limit=limit)
    return {"batches": batches, "total": total}


@app.get("/batches/{batch_id}", response_model=BatchJobDetail)
def get_batch(batch_id: int, db: Database) -> Any:
    return BatchJobDetail.model_validate(found(crud.get_batch_job(db, batch_id), "batch_jobs", batch_id))


@app.patch("/batches/{batch_id}", response_model=BatchJobResponse)
def set_batch_status(batch_id: int, update: StatusUpdate, db: Database) -> Any:
    return found(crud.update_batch_job_status(db, batch_id, update.status), "batch_jobs", batch_id)


@app.post("/batch-items", status_code=201, response_model=BatchItemResponse)
def create_batch_item(item: BatchItemCreate, db: Database) -> Any:
    return crud.create_batch_item(db, item)


@app.get("/batches/{batch_id}/items", response_model=list[BatchItemResponse])
def get_batch_items(batch_id: int, db: Database, status: str | None = None) -> Any:
    return crud.get_batch_items(db, batch_id, status)


@app.patch("/batch-items/{item_id}", response_model=BatchItemResponse)
def set_item_status(item_id: int, update: ItemStatusUpdate, db: Database) -> Any:
    item = crud.update_batch_item_status(db, item_id, update.status, update.calculation_id, update.error_message)
    return found(item, "batch_items", item_id)


@app.post("/events", status_code=201, response_model=EventLogResponse)
def create_event(event: EventLogCreate, db: Database) -> Any:
    return crud.log_event(db, **event.model_dump())


@app.get("/events", response_model=EventPage)
def list_events(
    db: Database,
    entity_type: str | None = None,
    entity_id: int | None = None,
    status: str | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Any:
    events, total = crud.get_event_logs(db, entity_type, entity_id, status, skip=skip, limit=limit)
    return {"events": events, "total": total}


if __name__ == "__main__":
    settings = Settings()
    uvicorn.run(app, host=settings.api_host, port=settings.api_port)
