"""crud: batches and their items."""

from __future__ import annotations

import threading
import uuid

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from qforge_sdk.db import crud
from qforge_sdk.db.models import PUBLIC_USER_ID, BatchItem, BatchJob
from qforge_sdk.errors import Conflict, InvalidInput, NotFound
from qforge_sdk.schemas import BatchItemCreate, BatchJobCreate, CalculationCreate, MoleculeCreate
from tests.fixtures.tenants import ALICE, BOB, TenantSession


def molecule_id(session: Session, owner: uuid.UUID | None = None, smiles: str = "O") -> int:
    return crud.create_molecule(session, MoleculeCreate(smiles=smiles), owner).id


def batch_of(session: Session, owner: uuid.UUID | None = None, name: str = "screen") -> BatchJob:
    return crud.create_batch_job(session, BatchJobCreate(batch_name=name), owner)


def item_of(session: Session, owner: uuid.UUID | None = None) -> BatchItem:
    batch = batch_of(session, owner)
    return crud.create_batch_item(
        session, BatchItemCreate(batch_id=batch.id, molecule_id=molecule_id(session, owner)), owner
    )


def calculation_id(session: Session, molecule: int, owner: uuid.UUID | None = None) -> int:
    return crud.create_calculation(session, CalculationCreate(molecule_id=molecule, energy=-1), owner).id


def test_a_batch_waits_with_what_it_was_given(session: Session):
    record = BatchJobCreate(
        batch_name="screen", description="d", total_molecules=5, parameters={"method": "GFN2-xTB"}, metadata={"a": 1}
    )
    batch = crud.create_batch_job(session, record, ALICE)
    session.expire(batch)
    assert (batch.status, batch.total_molecules, batch.user_id) == ("pending", 5, ALICE)
    assert (batch.parameters, batch.metadata_) == ({"method": "GFN2-xTB"}, {"a": 1})


def test_two_batches_may_have_one_name(session: Session):
    assert batch_of(session).id != batch_of(session).id


def test_batches_are_listed_newest_first_and_by_status(session: Session):
    first, second, third = (batch_of(session, ALICE) for _ in range(3))
    batch_of(session, BOB)
    crud.update_batch_job_status(session, second.id, "failed", ALICE)

    assert crud.list_batch_jobs(session, user_id=ALICE) == ([third, second, first], 3)
    assert crud.list_batch_jobs(session, "failed", user_id=ALICE) == ([second], 1)
    assert crud.list_batch_jobs(session, "pending", 1, 1, ALICE) == ([first], 2)


def test_a_batch_is_found_by_its_readers(session: Session):
    batch = batch_of(session, ALICE)
    assert [crud.get_batch_job(session, batch.id, who) for who in (ALICE, BOB, None)] == [batch, None, batch]


def test_a_batch_knows_when_it_began_and_ended(session: Session):
    batch = batch_of(session)

    crud.update_batch_job_status(session, batch.id, "in_progress")
    began = batch.started_at
    assert began is not None
    assert batch.completed_at is None

    crud.update_batch_job_status(session, batch.id, "completed")
    ended = batch.completed_at
    assert ended is not None
    assert batch.created_at <= began < ended

    crud.update_batch_job_status(session, batch.id, "completed")
    assert (batch.started_at, batch.completed_at) == (began, ended)


def test_a_failed_batch_ended_too(session: Session):
    batch = batch_of(session)
    crud.update_batch_job_status(session, batch.id, "failed")
    assert batch.completed_at is not None


def test_a_batch_that_runs_again_has_not_ended(session: Session):
    batch = batch_of(session)
    for status in ("in_progress", "failed", "in_progress"):
        crud.update_batch_job_status(session, batch.id, status)
    assert batch.started_at is not None
    assert batch.completed_at is None
    crud.update_batch_job_status(session, batch.id, "pending")
    assert batch.started_at is None


@pytest.mark.parametrize("word", ["in progress", "done", "", "processing"])
def test_an_unknown_batch_status_is_refused_with_the_known_ones(session: Session, word: str):
    batch = batch_of(session)
    with pytest.raises(InvalidInput, match="pending, in_progress, completed, failed") as caught:
        crud.update_batch_job_status(session, batch.id, word)
    assert (caught.value.field, caught.value.value) == ("status", word)
    with pytest.raises(InvalidInput):
        crud.list_batch_jobs(session, word)


def test_only_the_owner_sets_a_status(session: Session):
    batch, item = batch_of(session, BOB), item_of(session, BOB)
    assert crud.update_batch_job_status(session, batch.id, "failed", ALICE) is None
    assert crud.update_batch_item_status(session, item.id, "failed", user_id=ALICE) is None
    assert crud.update_batch_job_status(session, 10**12, "failed") is None
    assert crud.update_batch_item_status(session, 10**12, "failed") is None


def test_an_item_belongs_to_the_owner_of_its_batch(session: Session):
    batch = batch_of(session, ALICE)
    item = crud.create_batch_item(
        session, BatchItemCreate(batch_id=batch.id, molecule_id=molecule_id(session, PUBLIC_USER_ID))
    )
    assert item.user_id == ALICE


def test_the_total_is_what_was_announced_until_there_are_more_items(session: Session):
    announced = crud.create_batch_job(session, BatchJobCreate(batch_name="b", total_molecules=2))
    totals = []
    for smiles in ("C", "N", "O"):
        crud.create_batch_item(
            session, BatchItemCreate(batch_id=announced.id, molecule_id=molecule_id(session, smiles=smiles))
        )
        totals.append(announced.total_molecules)
    assert totals == [2, 2, 3]


def test_items_that_come_at_once_are_all_counted(engine: Engine):
    with Session(engine) as session, session.begin():
        batch = batch_of(session).id
        molecules = [molecule_id(session, smiles="C" * n) for n in range(1, 9)]

    def put(molecule: int) -> None:
        with Session(engine) as session, session.begin():
            crud.create_batch_item(session, BatchItemCreate(batch_id=batch, molecule_id=molecule))

    threads = [threading.Thread(target=put, args=(molecule,)) for molecule in molecules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    with Session(engine) as session:
        stored = crud.get_batch_job(session, batch)
        assert stored is not None
        assert stored.total_molecules == 8


def test_a_molecule_is_in_a_batch_once_and_the_session_goes_on(session: Session):
    item = item_of(session)
    with pytest.raises(Conflict) as caught:
        crud.create_batch_item(session, BatchItemCreate(batch_id=item.batch_id, molecule_id=item.molecule_id))
    assert caught.value.existing_id == item.id
    assert crud.get_batch_items(session, item.batch_id) == [item]


@pytest.mark.parametrize("foreign", ["batch_id", "molecule_id", "calculation_id"])
def test_what_an_item_points_at_must_be_there_for_its_owner(
    engine: Engine, tenant_session: TenantSession, foreign: str
):
    with Session(engine) as service, service.begin():
        bobs = molecule_id(service, BOB)
        keys = {
            "batch_id": batch_of(service, BOB).id,
            "molecule_id": bobs,
            "calculation_id": calculation_id(service, bobs, BOB),
        }
        mine = {"batch_id": batch_of(service, ALICE).id, "molecule_id": molecule_id(service, ALICE)}
    messages = set()
    for session, owner in ((tenant_session(ALICE), None), (Session(engine), ALICE)):
        for key in (keys[foreign], 10**12):
            with session, pytest.raises(NotFound) as caught:
                crud.create_batch_item(session, BatchItemCreate.model_validate({**mine, foreign: key}), owner)
            messages.add(str(caught.value).replace(str(key), "N"))
    assert len(messages) == 1


def test_the_service_gives_a_tenant_no_item_that_the_tenant_cannot_read(session: Session):
    batch, bobs = batch_of(session, ALICE), molecule_id(session, BOB)
    with pytest.raises(NotFound):
        crud.create_batch_item(session, BatchItemCreate(batch_id=batch.id, molecule_id=bobs))


def test_a_calculation_of_another_molecule_is_refused(session: Session):
    item = item_of(session)
    other = calculation_id(session, molecule_id(session, smiles="C"))
    with pytest.raises(InvalidInput, match="the item of"):
        crud.update_batch_item_status(session, item.id, "completed", other)


def test_items_are_read_in_order_and_by_status(session: Session):
    batch = batch_of(session, ALICE)
    items = [
        crud.create_batch_item(
            session, BatchItemCreate(batch_id=batch.id, molecule_id=molecule_id(session, ALICE, smiles))
        )
        for smiles in ("C", "N", "O")
    ]
    crud.update_batch_item_status(session, items[1].id, "skipped")
    assert crud.get_batch_items(session, batch.id) == items
    assert crud.get_batch_items(session, batch.id, "pending") == [items[0], items[2]]
    assert crud.get_batch_items(session, batch.id, user_id=BOB) == []
    with pytest.raises(InvalidInput, match="skipped"):
        crud.get_batch_items(session, batch.id, "in_progress")


def test_an_item_goes_from_failed_to_completed(session: Session):
    item = item_of(session, ALICE)

    crud.update_batch_item_status(session, item.id, "processing", user_id=ALICE)
    crud.update_batch_item_status(session, item.id, "failed", error_message="no convergence", user_id=ALICE)
    assert (item.error_message, item.calculation_id) == ("no convergence", None)
    assert item.completed_at is not None

    crud.update_batch_item_status(session, item.id, "processing", user_id=ALICE)
    assert item.completed_at is None

    result = calculation_id(session, item.molecule_id, ALICE)
    crud.update_batch_item_status(session, item.id, "completed", result, user_id=ALICE)
    assert (item.error_message, item.calculation_id, item.status) == (None, result, "completed")


def test_a_tenants_session_runs_a_batch(tenant_session: TenantSession):
    alice = tenant_session(ALICE)
    item = item_of(alice)
    result = calculation_id(alice, item.molecule_id)
    crud.update_batch_job_status(alice, item.batch_id, "in_progress")
    done = crud.update_batch_item_status(alice, item.id, "completed", result)
    assert done is not None
    assert (done.user_id, done.calculation_id) == (ALICE, result)
