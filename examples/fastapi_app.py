"""A small HTTP API over the database: ``python examples/fastapi_app.py``, then open http://127.0.0.1:8000/docs.

It uses the session dependency, the functions and the records that the SDK offers to any FastAPI program. Who the caller
is must come from a checked token in a real one; here everything happens as the tenant of QFORGE_USER_ID, or as the login.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

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
    BatchItemUpdate,
    BatchJobCreate,
    BatchJobDetail,
    BatchJobResponse,
    BatchJobUpdate,
    CalculationCreate,
    CalculationDetail,
    CalculationResponse,
    DatabaseStatsResponse,
    EventLogCreate,
    EventLogResponse,
    HealthCheckResponse,
    MoleculeCreate,
    MoleculeResponse,
    MoleculeUpdate,
    Record,
)

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


def found[Row](row: Row | None, table: str, key: int) -> Row:
    if row is None:
        raise NotFound(f"{table} has no row {key}", entity=table, key=key)
    return row
