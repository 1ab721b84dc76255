"""Owners in the old database: what hung on another's row hangs on one's own; nothing gets visible by accident."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Final

import pytest

import qforge_sdk as qf
from qforge_sdk.db.adopt import adopt
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.schemas import AdoptionReport
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.old_module import OldModule, Row, engine_of, fetch
from tests.fixtures.servers import MAIN
from tests.fixtures.tenants import ALICE, BOB

TIMES: Final = {"created_at": "2025-01-01", "updated_at": "2025-02-01"}
MOLECULES: Final = [
    (1, ALICE, "CCO", "ethanol"),
    (2, BOB, "OCC", "his ethanol"),
    (3, None, "C(C)O", "everybody's ethanol"),
    (4, ALICE, "C(O)C", "her second"),
    (5, ALICE, "CCC", "her secret"),
    (6, None, "CCN", "everybody's amine"),
    (7, ALICE, "C1CC", "her broken one"),
    (8, PUBLIC_USER_ID, "CCl", "zeros"),
    (9, None, "CC=O", "nobody's"),
]
# calculation, owner, molecule
CALCULATIONS: Final = [
    (1, ALICE, 1), (2, BOB, 1), (3, BOB, 4), (4, BOB, 5), (5, BOB, 6), (6, BOB, 7), (7, None, 1), (8, None, 9),
    (9, ALICE, 5), (10, BOB, 3), (11, ALICE, 6), (12, BOB, 5), (13, PUBLIC_USER_ID, 8),
]  # fmt: skip
ITEMS: Final = [(1, 1, 1, 2), (2, 1, 2, None), (3, 1, 5, 1), (4, 2, 5, 9), (5, 3, 1, 7)]


def rows() -> dict[str, list[Row]]:
    atom = {"element": "C", "atomic_number": 6, "position_x": 0, "position_y": 0, "position_z": 0}
    return {
        "molecules": [
            {"id": key, "user_id": owner, "smiles": smiles, "name": name, "formula": "Unknown",
             "metadata": {"note": name}, **TIMES}
            for key, owner, smiles, name in MOLECULES
        ],
        "calculations": [
            {"id": key, "user_id": owner, "molecule_id": molecule, "energy": -float(key), "execution_time_seconds": 1,
             "convergence_status": "converged", "method": "GFN2-xTB", "total_charge": 0, **TIMES}
            for key, owner, molecule in CALCULATIONS
        ],
        "atomic_properties": [
            {"id": 1, "user_id": ALICE, "calculation_id": 1, "atom_index": 0, **atom, "created_at": "2025-01-01"},
            {"id": 2, "user_id": BOB, "calculation_id": 1, "atom_index": 1, **atom, "created_at": "2025-01-01"},
            {"id": 3, "user_id": None, "calculation_id": 1, "atom_index": 2, **atom, "created_at": "2025-01-01"},
            {"id": 4, "user_id": None, "calculation_id": 7, "atom_index": 0, **atom, "created_at": "2025-01-01"},
        ],
        "batch_jobs": [
            {"id": key, "user_id": owner, "batch_name": f"batch {key}", "status": "completed", "total_molecules": 3,
             "successful_count": completed, "failed_count": 0, **TIMES}
            for key, owner, completed in ((1, BOB, 2), (2, ALICE, 1), (3, None, 1))
        ],
        "batch_items": [
            {"id": key, "user_id": None, "batch_id": batch, "molecule_id": molecule, "calculation_id": calculation,
             "status": "completed", "retry_count": 0, **TIMES}
            for key, batch, molecule, calculation in ITEMS
        ],
        "event_logs": [
            {"id": 1, "user_id": BOB, "event_type": "error", "entity_type": "system", "status": "error",
             "service": "api", "created_at": "2025-01-01"},
            {"id": 2, "user_id": None, "event_type": "error", "entity_type": "system", "status": "error",
             "service": "api", "created_at": "2025-01-01"},
        ],
    }  # fmt: skip


def adopted_database(databases_of: DatabasesOf, version: int, **options: Any) -> Iterator[tuple[str, AdoptionReport]]:
    databases, old = databases_of(version), OldModule("orm")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        with old.opened(url) as cursor:
            for table, some in rows().items():
                old.insert(cursor, table, some)
        yield url, adopt(engine_of(url), dry_run=False, **options)


@pytest.fixture(scope="module", params=(15, MAIN), ids=lambda version: f"pg{version}")
def shared(request: pytest.FixtureRequest, databases_of: DatabasesOf) -> Iterator[tuple[str, AdoptionReport]]:
    yield from adopted_database(databases_of, request.param)


def molecules(url: str) -> dict[int, Any]:
    return {row.id: row for row in fetch(url, "SELECT * FROM molecules ORDER BY id")}


def hung(url: str) -> dict[int, int]:
    return dict(fetch(url, "SELECT id, molecule_id FROM calculations ORDER BY id"))  # type: ignore[arg-type]


def seen_by(url: str, tenant: uuid.UUID | None, part: str) -> list[int]:
    with qf.connect(url, user_id=tenant) as client:
        return getattr(client, part).query(order_by="id", columns=["id"]).id.tolist()


def test_one_structure_may_stand_once_for_each_owner(shared: tuple[str, AdoptionReport]) -> None:
    found = molecules(shared[0])
    assert [found[key].smiles for key in (1, 2, 3)] == ["CCO"] * 3
    # Only a second one of the same owner is in the way.
    assert (found[4].smiles, found[4].metadata["adopted"]["same_as"]) == (None, 1)


def test_a_calculation_on_another_s_molecule_gets_its_owner_s_own(shared: tuple[str, AdoptionReport]) -> None:
    url = shared[0]
    onto, found = hung(url), molecules(url)
    # Bob's on Alice's ethanol, also on her second spelling, and on everybody's: his own is there.
    assert (onto[2], onto[3], onto[10]) == (2, 2, 2)
    # Where he had none, one is made; two calculations share it.
    assert onto[4] == onto[12] > 9
    copied = found[onto[4]]
    assert (copied.user_id, copied.smiles, copied.formula) == (BOB, "CCC", "C3H8")
    assert copied.fingerprint == found[5].fingerprint
    # The service's too: Alice may delete her molecule with all that hangs on it.
    assert onto[7] == 3
    assert [onto[key] for key in (1, 8, 9)] == [1, 9, 5]
    told = shared[1].doubts[shared[1].doubts.code == "molecule_copied"]
    assert told[told.table == "calculations"].id.tolist() == [2, 3, 4, 5, 6, 7, 10, 11, 12]


def test_a_copy_tells_nothing_of_another_tenant_s_row(shared: tuple[str, AdoptionReport]) -> None:
    url = shared[0]
    onto, found = hung(url), molecules(url)
    hers = found[onto[4]]
    assert (hers.name, hers.metadata) == (None, {"adopted": {"copy_of": 5}})
    # What had no owner everybody could read.
    everybodys = found[onto[5]]
    assert (everybodys.user_id, everybodys.name) == (BOB, "everybody's amine")
    assert everybodys.metadata == {"note": "everybody's amine", "adopted": {"copy_of": 6}}
    assert found[onto[11]].user_id == ALICE
    assert onto[11] != onto[5]


def test_a_copy_of_what_is_no_smiles_can_be_settled_by_its_owner(shared: tuple[str, AdoptionReport]) -> None:
    url = shared[0]
    key = hung(url)[6]
    with qf.connect(url, user_id=BOB) as bob:
        assert bob.molecules.unresolved().id.tolist() == [key]
        metadata = bob.molecules.get(key).metadata
    assert metadata["adopted"]["unknown"] == ["formula", "charge"]
    assert [one["code"] for one in metadata["adopted"]["doubts"]] == ["syntax"]


def test_every_tenant_reads_what_its_rows_hang_on(shared: tuple[str, AdoptionReport]) -> None:
    url = shared[0]
    for tenant, mine in ((ALICE, [1, 9, 11]), (BOB, [2, 3, 4, 5, 6, 10, 12])):
        with qf.connect(url, user_id=tenant) as client:
            found = client.calculations.query(order_by="id")
            assert found.id.tolist() == mine
            assert found.formula.notna().all()
    broken = """
        SELECT count(*) FROM calculations AS c JOIN molecules AS m ON m.id = c.molecule_id
        WHERE m.user_id IS DISTINCT FROM c.user_id
    """
    assert fetch(url, broken)[0][0] == 0


def test_rows_without_an_owner_are_the_service_s(shared: tuple[str, AdoptionReport]) -> None:
    url, report = shared
    assert seen_by(url, None, "calculations") == list(range(1, 14))
    assert not {7, 8, 13} & {*seen_by(url, ALICE, "calculations"), *seen_by(url, BOB, "calculations")}
    notes = report.doubts[report.doubts.code == "no_owner"].set_index("table").value
    assert notes.to_dict() == {"molecules": "3", "calculations": "2", "batch_jobs": "1", "event_logs": "1"}


def test_the_owner_of_public_rows_is_nobody_s_by_accident(shared: tuple[str, AdoptionReport]) -> None:
    url, report = shared
    assert molecules(url)[8].user_id is None
    assert fetch(url, "SELECT count(*) FROM molecules WHERE user_id = :zeros", zeros=PUBLIC_USER_ID)[0][0] == 0
    reserved = report.doubts[report.doubts.code == "reserved_owner"]
    assert list(zip(reserved.table, reserved.id, strict=True)) == [("molecules", 8), ("calculations", 13)]


def test_atoms_and_items_belong_to_whom_their_parent_belongs(shared: tuple[str, AdoptionReport]) -> None:
    url, report = shared
    atoms = fetch(url, "SELECT calculation_id, atom_index, user_id FROM atomic_properties ORDER BY 1, 2")
    assert [tuple(row) for row in atoms] == [(1, 0, ALICE), (1, 1, ALICE), (1, 2, ALICE), (7, 0, None)]
    changed = report.doubts[report.doubts.code == "owner_changed"]
    assert changed[["table", "id", "value"]].to_numpy().tolist() == [["atomic_properties", 1, str(BOB)]]
    filled = report.doubts[report.doubts.code == "owner_filled"].set_index("table").value
    assert filled.to_dict() == {"atomic_properties": "1", "batch_items": "3"}


def test_items_hang_on_what_their_owner_may_read(shared: tuple[str, AdoptionReport]) -> None:
    url, report = shared
    items = fetch(url, "SELECT id, user_id, molecule_id, calculation_id FROM batch_items ORDER BY id")
    copied = hung(url)[4]
    assert [tuple(row) for row in items] == [
        (1, BOB, 2, 2), (3, BOB, copied, None), (4, ALICE, 5, 9), (5, None, 3, 7),
    ]  # fmt: skip
    told = report.doubts[(report.doubts.table == "batch_items") & report.doubts.id.notna()]
    assert list(zip(told.id, told.code, strict=True)) == [
        (1, "molecule_copied"), (2, "duplicate"), (3, "foreign_calculation"), (3, "molecule_copied"),
        (5, "molecule_copied"),
    ]  # fmt: skip
    aside = fetch(url, "SELECT user_id FROM event_logs WHERE event_type = 'row_set_aside'")
    assert [row.user_id for row in aside] == [BOB]


def test_each_tenant_gets_an_event_with_its_own_counts(shared: tuple[str, AdoptionReport]) -> None:
    with qf.connect(shared[0], user_id=BOB) as bob:
        events = bob.events.query(order_by="id")
    assert events.event_type.tolist() == ["error", "row_set_aside", "database_adopted"]
    assert events.context.iloc[2] == {
        "rows": {"molecules": 4, "calculations": 7, "batch_jobs": 1, "batch_items": 2}
    }  # fmt: skip


def test_rows_without_an_owner_can_become_public(databases_of: DatabasesOf) -> None:
    for url, report in adopted_database(databases_of, MAIN, unowned="public"):
        assert set(seen_by(url, ALICE, "molecules")) >= {3, 6, 8, 9}
        assert seen_by(url, BOB, "calculations") == [2, 3, 4, 5, 6, 7, 8, 10, 12, 13]
        found, onto = molecules(url), hung(url)
        # What is public hangs on what is public; of Alice's ethanol everybody's row is the public one.
        assert (onto[7], onto[5], onto[11]) == (3, 6, 6)
        assert found[onto[8]].user_id == PUBLIC_USER_ID
        atoms = fetch(url, "SELECT user_id FROM atomic_properties WHERE calculation_id = 7")
        assert [row.user_id for row in atoms] == [PUBLIC_USER_ID]
        assert fetch(url, "SELECT user_id FROM event_logs WHERE id = 2")[0].user_id is None
        reasons = report.doubts[report.doubts.code == "no_owner"].set_index("table").reason
        assert reasons["molecules"] == "rows without an owner are public"
        assert reasons["event_logs"] == "rows without an owner are the service's"
