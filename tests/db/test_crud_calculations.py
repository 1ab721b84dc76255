"""crud: calculations and their atoms."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from qforge_sdk.db import crud
from qforge_sdk.db.models import PUBLIC_USER_ID, Calculation, EventLog
from qforge_sdk.errors import Conflict, InvalidInput, NotFound
from qforge_sdk.schemas import AtomicPropertyCreate, CalculationCreate, MoleculeCreate
from tests.fixtures.tenants import ALICE, BOB, TenantSession


def molecule_id(session: Session, owner: uuid.UUID | None = None, smiles: str = "O") -> int:
    return crud.create_molecule(session, MoleculeCreate(smiles=smiles), owner).id


def store(session: Session, molecule: int, owner: uuid.UUID | None = None, **values: Any) -> Calculation:
    record = CalculationCreate.model_validate({"molecule_id": molecule, "energy": -5.0, **values})
    return crud.create_calculation(session, record, owner)


def atom(index: int, **values: Any) -> dict[str, Any]:
    place = {"position_x": 0.0, "position_y": 0.5, "position_z": -1.0}
    return {"atom_index": index, "element": "O", "atomic_number": 8, **place, **values}


def test_every_field_is_stored(session: Session):
    values = {
        "homo": -12.0, "lumo": -3.0, "gap": 9.0, "dipole": 1.5, "total_charge": 1.0, "unpaired_electrons": 2,
        "execution_time_seconds": 0.25, "xtb_version": "6.7.1", "method": "GFN1-xTB", "solvation": "ALPB",
        "solvent": "water", "optimized": True, "convergence_status": "not_converged", "xyz_file_hash": "a" * 64,
        "output_json_path": "/out.json", "source_id": "run-1",
    }  # fmt: skip
    calculation = store(session, molecule_id(session), metadata={"a": [1, None]}, **values)
    session.expire_all()
    assert {name: getattr(calculation, name) for name in values} == values
    assert calculation.metadata_ == {"a": [1, None]}


def test_a_failed_run_has_no_energy(session: Session):
    calculation = store(session, molecule_id(session), energy=None, convergence_status="error")
    assert calculation.energy is None


@pytest.mark.parametrize("owner", [None, ALICE])
def test_an_unknown_molecule_is_not_found(session: Session, owner: uuid.UUID | None):
    with pytest.raises(NotFound) as caught:
        store(session, 10**12, owner)
    assert (caught.value.entity, caught.value.key) == ("molecules", 10**12)


def test_anothers_molecule_and_an_absent_one_give_the_same_error(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        bobs = molecule_id(service, BOB)
    messages = []
    for session, owner in ((tenant_session(ALICE), None), (Session(engine), ALICE)):
        for key in (bobs, 10**12):
            with session, pytest.raises(NotFound) as caught:
                store(session, key, owner)
            messages.append(re.sub(r"\d+", "N", str(caught.value)))
    assert len(set(messages)) == 1


def test_a_public_molecule_can_be_computed_by_a_tenant(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        public = molecule_id(service, PUBLIC_USER_ID)
    assert store(tenant_session(ALICE), public).user_id == ALICE


def test_a_molecule_that_goes_in_between_is_not_found(engine: Engine):
    with Session(engine) as session, session.begin():
        key = molecule_id(session)
    with Session(engine) as session:

        @event.listens_for(session, "before_flush", once=True)
        def _delete(*_: object) -> None:
            with Session(engine) as other, other.begin():
                crud.delete_molecule(other, key)

        with pytest.raises(NotFound) as caught:
            store(session, key)
    assert isinstance(caught.value.__cause__, InvalidInput)


def test_a_source_can_be_stored_once(session: Session):
    key = molecule_id(session)
    store(session, key, source_id="run-1")
    with pytest.raises(Conflict) as caught:
        store(session, key, source_id="run-1")
    assert caught.value.constraint == "calculations_source"


def test_a_calculation_is_found_by_its_readers(session: Session):
    key = molecule_id(session, PUBLIC_USER_ID)
    hers, public = store(session, key, ALICE), store(session, key, PUBLIC_USER_ID)
    assert [crud.get_calculation(session, hers.id, who) for who in (ALICE, BOB, None)] == [hers, None, hers]
    assert [crud.get_calculation(session, public.id, who) for who in (ALICE, BOB, None)] == [public] * 3


def test_pages_of_one_molecule_are_newest_first(session: Session):
    one, other = molecule_id(session, PUBLIC_USER_ID), molecule_id(session, PUBLIC_USER_ID, "C")
    stored = [store(session, one, owner).id for owner in (ALICE, PUBLIC_USER_ID, ALICE, ALICE)]
    store(session, other, ALICE)
    store(session, one, BOB)

    pages = [crud.list_calculations(session, one, skip, 2, ALICE) for skip in (0, 2, 4)]

    assert [[row.id for row in rows] for rows, _ in pages] == [stored[:1:-1], stored[1::-1], []]
    assert {total for _, total in pages} == {4}


def test_all_calculations_are_listed_for_the_service(session: Session):
    key = molecule_id(session, PUBLIC_USER_ID)
    stored = [store(session, key, owner).id for owner in (ALICE, BOB, None, PUBLIC_USER_ID)]
    rows, total = crud.list_calculations(session)
    assert ([row.id for row in rows], total) == (stored[::-1], 4)


RANGES = [
    (crud.get_calculations_by_energy_range, "energy"),
    (crud.get_calculations_by_gap_range, "gap"),
]


@pytest.mark.parametrize(("search", "column"), RANGES)
def test_a_range_is_closed_and_ordered(session: Session, search: Any, column: str):
    key = molecule_id(session, PUBLIC_USER_ID)
    numbers = [(3.0, ALICE), (1.0, PUBLIC_USER_ID), (2.0, ALICE), (2.0, PUBLIC_USER_ID), (4.0, ALICE), (2.5, BOB)]
    for number, owner in numbers:
        store(session, key, owner, **{column: number})

    found = search(session, 1.0, 3.0, user_id=ALICE)

    assert [getattr(row, column) for row in found] == [1.0, 2.0, 2.0, 3.0]
    assert [row.user_id for row in found] == [PUBLIC_USER_ID, ALICE, PUBLIC_USER_ID, ALICE]
    assert search(session, 1.0, 3.0, 2, ALICE) == found[:2]


@pytest.mark.parametrize(("search", "column"), RANGES)
def test_a_range_may_be_open(session: Session, search: Any, column: str):
    key = molecule_id(session)
    for number in (1.0, 2.0, 3.0):
        store(session, key, **{column: number})
    store(session, key, energy=None, gap=None, convergence_status="error")
    assert [getattr(row, column) for row in search(session, None, 2.0)] == [1.0, 2.0]
    assert [getattr(row, column) for row in search(session, 2.0, None)] == [2.0, 3.0]
    assert len(search(session, None, None)) == 3


@pytest.mark.parametrize(("search", "column"), RANGES)
def test_a_tenants_session_searches_what_it_may_read(
    engine: Engine, tenant_session: TenantSession, search: Any, column: str
):
    with Session(engine) as service, service.begin():
        key = molecule_id(service, PUBLIC_USER_ID)
        for number, owner in ((1.0, ALICE), (2.0, PUBLIC_USER_ID), (3.0, BOB), (4.0, None)):
            store(service, key, owner, **{column: number})
    assert [getattr(row, column) for row in search(tenant_session(ALICE), None, None)] == [1.0, 2.0]


def test_atoms_come_back_in_the_order_given_and_are_read_by_index(session: Session):
    calculation = store(session, molecule_id(session, ALICE), ALICE)

    made = crud.create_atomic_properties(
        session,
        calculation.id,
        [atom(1, partial_charge=-0.5, metadata={"a": 1}), AtomicPropertyCreate.model_validate(atom(0))],
    )

    assert [one.atom_index for one in made] == [1, 0]
    assert (made[0].partial_charge, made[0].metadata_) == (-0.5, {"a": 1})
    assert {one.user_id for one in made} == {ALICE}
    session.expire_all()
    read = crud.get_atomic_properties_for_calculation(session, calculation.id, ALICE)
    assert [one.atom_index for one in read] == [0, 1]
    assert crud.get_atomic_properties_for_calculation(session, calculation.id, BOB) == []


def test_the_atoms_of_a_calculation_are_one_statement(session: Session):
    calculation = store(session, molecule_id(session))
    crud.create_atomic_properties(session, calculation.id, [atom(index) for index in range(30)])
    events = session.query(EventLog).filter_by(entity_type="atomic_properties").all()
    assert [one.context["rows"] for one in events] == [30]


def test_no_atoms_are_no_rows(session: Session):
    assert crud.create_atomic_properties(session, store(session, molecule_id(session)).id, []) == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"element": None}, "element"),
        ({"atomic_number": 0}, "atomic_number"),
        ({"position_x": float("nan")}, "position_x"),
        ({"calculation_id": 10**9}, "calculation_id"),
        ({"charge": 1}, "charge"),
    ],
)
def test_an_atom_that_cannot_be_taken_is_refused_by_field(session: Session, wrong: dict[str, Any], field: str):
    calculation = store(session, molecule_id(session))
    with pytest.raises(InvalidInput, match=field.removesuffix("_id")) as caught:
        crud.create_atomic_properties(session, calculation.id, [atom(0, **wrong)])
    assert caught.value.field == field


def test_an_index_stands_once_in_the_list(session: Session):
    calculation = store(session, molecule_id(session))
    with pytest.raises(InvalidInput, match="atom_index 3 stands twice"):
        crud.create_atomic_properties(session, calculation.id, [atom(3), atom(3)])


def test_an_index_is_stored_once(session: Session):
    calculation = store(session, molecule_id(session))
    crud.create_atomic_properties(session, calculation.id, [atom(0)])
    with pytest.raises(Conflict) as caught:
        crud.create_atomic_properties(session, calculation.id, [atom(0)])
    assert caught.value.constraint == "atomic_properties_key"


@pytest.mark.parametrize("owner", [BOB, PUBLIC_USER_ID, None])
def test_atoms_are_added_by_the_owner_of_the_calculation(
    engine: Engine, tenant_session: TenantSession, owner: uuid.UUID | None
):
    with Session(engine) as service, service.begin():
        calculation = store(service, molecule_id(service, owner), owner).id
    for session, who in ((tenant_session(ALICE), None), (Session(engine), ALICE)):
        with session, pytest.raises(NotFound) as caught:
            crud.create_atomic_properties(session, calculation, [atom(0)], who)
        assert caught.value.entity == "calculations"


def test_a_tenants_session_adds_atoms(tenant_session: TenantSession):
    alice = tenant_session(ALICE)
    calculation = store(alice, molecule_id(alice))
    assert crud.create_atomic_properties(alice, calculation.id, [atom(0)])[0].user_id == ALICE


def test_a_negative_limit_is_refused(session: Session):
    with pytest.raises(InvalidInput):
        crud.get_calculations_by_gap_range(session, 0, 1, -1)
