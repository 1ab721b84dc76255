"""crud: events and statistics."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from qforge_sdk.db import crud
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.errors import InvalidInput
from qforge_sdk.schemas import BatchJobCreate, CalculationCreate, DatabaseStatsResponse, MoleculeCreate
from tests.fixtures.tenants import ALICE, BOB, TenantSession


def test_an_event_is_stored_as_it_was_told(session: Session):
    told = crud.log_event(
        session, "error", "calculations", 7, "error", "it broke", "XTB_CRASH", {"step": 3}, "runner", ALICE
    )
    session.expire(told)
    assert (told.event_type, told.entity_type, told.entity_id, told.status) == ("error", "calculations", 7, "error")
    assert (told.error_message, told.error_code, told.context) == ("it broke", "XTB_CRASH", {"step": 3})
    assert (told.service, told.user_id, told.recorded_by) == ("runner", ALICE, "program")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"status": "fine"}, "status"),
        ({"entity_type": "molecule"}, "entity_type"),
        ({"event_type": ""}, "event_type"),
        ({"error_code": "x" * 51}, "error_code"),
        ({"context": {"a": float("nan")}}, "context"),
        ({"context": {"a": object()}}, "context"),
        ({"error_message": "a\0b"}, "error_message"),
    ],
)
def test_an_event_that_cannot_be_taken_is_refused_by_field(session: Session, values: dict[str, Any], field: str):
    with pytest.raises(InvalidInput) as caught:
        crud.log_event(session, **{"event_type": "error", "entity_type": "system", **values})
    assert caught.value.field == field


def test_a_key_that_no_column_holds_is_refused(session: Session):
    with pytest.raises(InvalidInput, match="out of range"):
        crud.log_event(session, "error", "system", 10**30)


def test_a_wrong_word_is_answered_with_the_nearest(session: Session):
    with pytest.raises(InvalidInput, match="did you mean 'molecules'"):
        crud.get_event_logs(session, "molecule")


def test_events_are_read_newest_first_by_what_they_concern(session: Session):
    told = [
        crud.log_event(session, "error", entity, key, status, user_id=ALICE)
        for entity, key, status in (("molecules", 1, "error"), ("molecules", 2, "error"), ("system", 1, "warning"))
    ]
    crud.log_event(session, "error", "molecules", 1, user_id=BOB)

    assert crud.get_event_logs(session, user_id=ALICE) == (told[::-1], 3)
    assert crud.get_event_logs(session, "molecules", user_id=ALICE) == ([told[1], told[0]], 2)
    assert crud.get_event_logs(session, "molecules", 1, user_id=ALICE) == ([told[0]], 1)
    assert crud.get_event_logs(session, status="warning", user_id=ALICE) == ([told[2]], 1)
    assert crud.get_event_logs(session, None, None, None, 1, 1, ALICE) == ([told[1]], 3)


def test_the_events_of_public_rows_are_the_services(session: Session):
    crud.log_event(session, "error", "system", user_id=PUBLIC_USER_ID)
    assert crud.get_event_logs(session, user_id=ALICE) == ([], 0)
    assert crud.get_event_logs(session)[1] == 1


def test_a_tenants_session_reads_and_adds_its_own(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        for owner in (BOB, PUBLIC_USER_ID, None):
            crud.log_event(service, "error", "system", user_id=owner)
    alice = tenant_session(ALICE)
    told = crud.log_event(alice, "error", "system")
    assert crud.get_event_logs(alice) == ([told], 1)


def fill(session: Session, owner: uuid.UUID | None = None) -> None:
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="O"), owner).id
    crud.create_batch_job(session, BatchJobCreate(batch_name="b"), owner)
    for energy, gap in ((-1.0, 1.0), (-2.0, 2.0), (-6.0, 9.0)):
        record = CalculationCreate(molecule_id=molecule, energy=energy, gap=gap)
        crud.create_calculation(session, record, owner)
    failed = CalculationCreate(molecule_id=molecule, convergence_status="error")
    crud.create_calculation(session, failed, owner)


def test_an_empty_database_has_statistics(session: Session):
    assert crud.get_database_stats(session) == DatabaseStatsResponse(
        total_molecules=0, total_calculations=0, total_batches=0, success_rate=0.0
    )


def test_statistics_leave_out_what_has_no_number(session: Session):
    fill(session)
    stats = crud.get_database_stats(session)
    assert (stats.total_molecules, stats.total_calculations, stats.total_batches) == (1, 4, 1)
    assert (stats.average_energy, stats.median_gap, stats.success_rate) == (-3.0, 2.0, 75.0)
    assert stats.latest_calculation_at is not None
    assert abs((datetime.now(UTC) - stats.latest_calculation_at).total_seconds()) < 600


def test_the_median_of_an_even_number_lies_between(session: Session):
    fill(session)
    molecule = crud.get_molecule_by_smiles(session, "O")
    assert molecule is not None
    crud.create_calculation(session, CalculationCreate(molecule_id=molecule.id, energy=-1, gap=3.0))
    assert crud.get_database_stats(session).median_gap == 2.5


def test_a_zero_is_a_number(session: Session):
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="O"))
    crud.create_calculation(session, CalculationCreate(molecule_id=molecule.id, energy=0.0, gap=0.0))
    stats = crud.get_database_stats(session)
    assert (stats.average_energy, stats.median_gap) == (0.0, 0.0)


def test_a_reader_gets_the_statistics_of_what_it_sees(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        fill(service, BOB)
        fill(service, PUBLIC_USER_ID)
        fill(service)
        counted = crud.get_database_stats(service, ALICE)
        assert crud.get_database_stats(service).total_calculations == 12
    assert counted.total_calculations == 4
    assert crud.get_database_stats(tenant_session(ALICE)) == counted


def test_statistics_are_one_statement_of_one_row(session: Session):
    fill(session)
    statements: list[str] = []
    bind = session.connection()
    event.listen(bind, "before_cursor_execute", lambda _c, _u, statement, *_: statements.append(statement))
    crud.get_database_stats(session)
    assert len(statements) == 1
