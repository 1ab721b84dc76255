"""crud: molecules."""

from __future__ import annotations

import threading
import uuid

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from qforge_sdk.db import crud
from qforge_sdk.db.fingerprint import bytes_of_text
from qforge_sdk.db.models import PUBLIC_USER_ID, Molecule
from qforge_sdk.errors import AccessDenied, DuplicateMolecule, InvalidInput, InvalidSmiles
from qforge_sdk.schemas import MoleculeCreate, MoleculeUpdate
from tests.fixtures.tenants import ALICE, BOB, TenantSession


def ethanol(**values: object) -> MoleculeCreate:
    return MoleculeCreate.model_validate({"smiles": "OCC", **values})


def test_what_is_stored_is_computed_from_the_smiles(session: Session):
    molecule = crud.create_molecule(session, ethanol(name="ethanol", metadata={"source": "lab"}))

    assert molecule.smiles == "CCO"
    assert molecule.input_smiles == "OCC"
    assert molecule.formula == "C2H6O"
    assert molecule.inchikey == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    assert molecule.metadata_ == {"source": "lab"}
    assert molecule.charge == 0


def test_the_fingerprint_is_stored_bit_for_bit(session: Session):
    molecule = crud.create_molecule(session, ethanol())
    assert molecule.fingerprint is not None
    stored = session.scalar(select(func.bit_count(Molecule.fingerprint)).where(Molecule.id == molecule.id))
    assert stored == molecule.fingerprint_popcount
    assert int.from_bytes(bytes_of_text(molecule.fingerprint)).bit_count() == molecule.fingerprint_popcount


def test_the_database_hashes_as_we_do(session: Session):
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="C/C=C\\C"))
    assert molecule.smiles is not None
    assert molecule.identity_hash == crud.molecules.identity_hash(molecule.smiles)


@pytest.mark.parametrize(
    ("smiles", "formula"),
    [("OCC", "C2H6O"), ("OCC", "CH3CH2OH"), ("N", "NH3"), ("Cl", " HCl "), ("[NH4+]", "NH4+"), ("[NH4+]", "NH4")],
)
def test_a_formula_that_agrees_is_taken_in_any_order(session: Session, smiles: str, formula: str):
    molecule = crud.create_molecule(session, MoleculeCreate(smiles=smiles, formula=formula))
    assert molecule.input_smiles == smiles


@pytest.mark.parametrize("formula", ["C2H6", "C2H5O", "CxHy", "c2h6o", "", "?", "C2H6O)"])
def test_a_formula_that_disagrees_is_refused(session: Session, formula: str):
    with pytest.raises(InvalidInput, match="C2H6O") as caught:
        crud.create_molecule(session, ethanol(formula=formula))
    assert (caught.value.field, caught.value.value, caught.value.code) == ("formula", formula, "formula_mismatch")


def test_text_that_is_no_smiles_is_refused(session: Session):
    with pytest.raises(InvalidSmiles):
        crud.create_molecule(session, MoleculeCreate(smiles="C1CC"))


@pytest.mark.parametrize("owner", [None, ALICE, PUBLIC_USER_ID])
def test_a_second_spelling_names_the_stored_molecule_and_the_session_goes_on(
    session: Session, owner: uuid.UUID | None
):
    stored = crud.create_molecule(session, ethanol(), owner)

    with pytest.raises(DuplicateMolecule) as caught:
        crud.create_molecule(session, MoleculeCreate(smiles="C(O)C"), owner)

    assert caught.value.existing_id == stored.id
    assert crud.create_molecule(session, MoleculeCreate(smiles="C"), owner).id > stored.id


def test_a_tenants_second_spelling_names_its_own_molecule(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        crud.create_molecule(service, ethanol())
        crud.create_molecule(service, ethanol(), PUBLIC_USER_ID)
    alice = tenant_session(ALICE)
    stored = crud.create_molecule(alice, ethanol())

    with pytest.raises(DuplicateMolecule) as caught:
        crud.create_molecule(alice, MoleculeCreate(smiles="C(O)C"))

    assert caught.value.existing_id == stored.id


def test_of_two_that_store_the_same_at_once_the_second_learns_the_first_ones_id(engine: Engine):
    failures: list[DuplicateMolecule] = []

    def late() -> None:
        with Session(engine) as session, session.begin():
            try:
                crud.create_molecule(session, MoleculeCreate(smiles="C(O)C"))
            except DuplicateMolecule as exc:
                failures.append(exc)

    with Session(engine) as session, session.begin():
        first = crud.create_molecule(session, ethanol()).id
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive(), "the second waits for the first to commit"
    thread.join(timeout=30)

    assert [failure.existing_id for failure in failures] == [first]


def test_two_tenants_may_store_the_same(tenant_session: TenantSession):
    alice, bob = tenant_session(ALICE), tenant_session(BOB)
    hers = crud.create_molecule(alice, ethanol())
    alice.commit()
    his = crud.create_molecule(bob, ethanol())
    assert (hers.user_id, his.user_id) == (ALICE, BOB)
    assert hers.id != his.id


def test_a_tenant_stores_nothing_for_another(tenant_session: TenantSession):
    with pytest.raises(AccessDenied):
        crud.create_molecule(tenant_session(ALICE), ethanol(), BOB)


@pytest.mark.parametrize("user_id", ["no uuid", str(PUBLIC_USER_ID)])
def test_a_user_id_from_outside_is_checked(session: Session, user_id: str):
    with pytest.raises(InvalidInput, match="uuid"):
        crud.create_molecule(session, ethanol(), user_id)


def test_a_reader_sees_its_own_and_the_public_ones(session: Session):
    own = crud.create_molecule(session, ethanol(), ALICE)
    others = crud.create_molecule(session, ethanol(), BOB)
    public = crud.create_molecule(session, ethanol(), PUBLIC_USER_ID)
    services = crud.create_molecule(session, ethanol())

    seen = [crud.get_molecule(session, row.id, str(ALICE)) for row in (own, others, public, services)]

    assert seen == [own, None, public, None]


def test_without_a_user_the_service_sees_all(session: Session):
    others = crud.create_molecule(session, ethanol(), BOB)
    assert crud.get_molecule(session, others.id) is others


def test_what_is_absent_is_none(session: Session):
    assert crud.get_molecule(session, 10**30) is None
    assert crud.get_molecule_by_smiles(session, "CCO") is None
    assert crud.update_molecule(session, -1, MoleculeUpdate(name="x")) is None
    assert crud.delete_molecule(session, -1) is False


def test_a_smiles_finds_ones_own_before_the_public_one(session: Session):
    public = crud.create_molecule(session, ethanol(), PUBLIC_USER_ID)
    assert crud.get_molecule_by_smiles(session, "C(O)C", ALICE) is public
    crud.create_molecule(session, ethanol(), BOB)
    own = crud.create_molecule(session, ethanol(), ALICE)
    assert crud.get_molecule_by_smiles(session, "C(O)C", ALICE) is own


def test_the_services_own_molecule_comes_before_all_others(session: Session):
    tenants = crud.create_molecule(session, ethanol(), BOB)
    assert crud.get_molecule_by_smiles(session, "CCO") is tenants
    public = crud.create_molecule(session, ethanol(), PUBLIC_USER_ID)
    assert crud.get_molecule_by_smiles(session, "CCO") is public
    own = crud.create_molecule(session, ethanol())
    assert crud.get_molecule_by_smiles(session, "CCO") is own


def test_a_tenants_session_finds_its_own_before_the_public_one(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        public = crud.create_molecule(service, ethanol(), PUBLIC_USER_ID).id
        crud.create_molecule(service, ethanol(), BOB)
    alice = tenant_session(ALICE)
    found = crud.get_molecule_by_smiles(alice, "C(O)C")
    assert found is not None
    assert found.id == public
    own = crud.create_molecule(alice, ethanol())
    assert crud.get_molecule_by_smiles(alice, "C(O)C") is own


def test_pages_are_newest_first_and_do_not_overlap(session: Session):
    stored = [crud.create_molecule(session, MoleculeCreate(smiles="C" * n), ALICE).id for n in range(1, 8)]
    crud.create_molecule(session, MoleculeCreate(smiles="O"), BOB)
    stored.append(crud.create_molecule(session, MoleculeCreate(smiles="N"), PUBLIC_USER_ID).id)

    pages = [crud.list_molecules(session, skip=skip, limit=3, user_id=ALICE) for skip in (0, 3, 6, 9)]

    assert [total for _, total in pages] == [8, 8, 8, 8]
    assert [row.id for page, _ in pages for row in page] == stored[::-1]


@pytest.mark.parametrize(("skip", "limit"), [(-1, 1), (0, -1)])
def test_a_negative_page_is_refused(session: Session, skip: int, limit: int):
    with pytest.raises(InvalidInput):
        crud.list_molecules(session, skip=skip, limit=limit)


def test_an_update_changes_what_is_set_and_nothing_else(session: Session):
    molecule = crud.create_molecule(session, ethanol(name="alcohol", metadata={"a": 1}), ALICE)

    crud.update_molecule(session, molecule.id, MoleculeUpdate(metadata={"b": 2}), ALICE)
    assert (molecule.name, molecule.metadata_) == ("alcohol", {"b": 2})

    crud.update_molecule(session, molecule.id, MoleculeUpdate(name=None), ALICE)
    assert (molecule.name, molecule.metadata_) == (None, {"b": 2})


def test_an_update_is_dated_by_the_database(engine: Engine):
    with Session(engine) as session, session.begin():
        molecule_id = crud.create_molecule(session, ethanol()).id
    with Session(engine) as session, session.begin():
        changed = crud.update_molecule(session, molecule_id, MoleculeUpdate(name="x"))
        assert changed is not None
        assert changed.updated_at > changed.created_at


@pytest.mark.parametrize("owner", [BOB, PUBLIC_USER_ID, None])
def test_only_the_owner_changes_or_deletes(session: Session, owner: uuid.UUID | None):
    molecule = crud.create_molecule(session, ethanol(name="before"), owner)
    assert crud.update_molecule(session, molecule.id, MoleculeUpdate(name="after"), ALICE) is None
    assert crud.delete_molecule(session, molecule.id, ALICE) is False
    assert crud.get_molecule(session, molecule.id) is molecule
    assert molecule.name == "before"


def test_a_tenants_session_changes_no_public_molecule(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as service, service.begin():
        public = crud.create_molecule(service, ethanol(), PUBLIC_USER_ID).id
    alice = tenant_session(ALICE)
    assert crud.get_molecule(alice, public) is not None
    assert crud.update_molecule(alice, public, MoleculeUpdate(name="x")) is None
    assert crud.delete_molecule(alice, public) is False


def test_a_deleted_molecule_is_gone(session: Session):
    molecule = crud.create_molecule(session, ethanol(), ALICE)
    assert crud.delete_molecule(session, molecule.id, ALICE) is True
    assert crud.get_molecule(session, molecule.id) is None


def test_nothing_is_committed(engine: Engine):
    with Session(engine) as session:
        crud.create_molecule(session, ethanol())
    with Session(engine) as session:
        assert crud.list_molecules(session) == ([], 0)
