"""One calculation as a widget shows it, without a browser."""

from __future__ import annotations

import pytest

from qforge_sdk import Client, InvalidInput, Molecule, NotFound
from qforge_sdk.logger import log_calculation_failed
from qforge_sdk.widgets.calculation import CalculationPanel
from qforge_sdk.widgets.calculation_state import ATOMS_SHOWN, read_calculation
from qforge_sdk.widgets.numbers import NOTHING
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

WATER = [
    {"element": "O", "position_x": 0.0, "position_y": 0.0, "position_z": 0.1, "partial_charge": -0.56},
    {"element": "H", "position_x": 0.0, "position_y": 0.76, "position_z": -0.5, "partial_charge": 0.28},
    {"element": "H", "position_x": 0.0, "position_y": -0.76, "position_z": -0.5, "partial_charge": 0.28},
]
FORCE = {"force_x": 0.0, "force_y": 0.03, "force_z": -0.04}
MINUS = "\N{MINUS SIGN}"
HOSTILE = "<img src=x onerror=alert(1)>"


def stored(client: Client, atoms: list[dict[str, object]], **values: object) -> CalculationPanel:
    key = client.calculations.create(**({"smiles": "O", "energy": -5.07, "gap": 14.4} | values)).id
    if atoms:
        client.atoms.create(key, atoms)
    return client.widgets.calculation(key)


def facts(panel: CalculationPanel) -> dict[str, str]:
    return {fact["label"]: fact["value"] for fact in panel.details.facts}


def test_numbers_come_with_their_units(client: Client):
    shown = facts(stored(client, WATER, dipole=1.9, total_charge=0, method="GFN1-xTB"))
    assert shown["energy"] == f"{MINUS}5.0700 hartree"
    assert shown["gap"] == "14.400 eV"
    assert shown["dipole"] == "1.90 debye"
    assert shown["method"] == "GFN1-xTB"
    assert shown["homo"] == NOTHING
    assert "error" not in shown


def test_the_picture_has_charges_and_forces(client: Client):
    panel = stored(client, [WATER[0] | FORCE, *WATER[1:]])
    assert panel.viewer.atoms["element"] == ["O", "H", "H"]
    assert panel.viewer.atoms["charge"] == [-0.56, 0.28, 0.28]
    assert panel.viewer.atoms["position"][1] == [0.0, 0.76, -0.5]
    assert panel.viewer.atoms["force"] == [[0.0, 0.03, -0.04], None, None]
    assert panel.viewer.color_by == "charge"
    assert panel.viewer.charge_limit == pytest.approx(0.56)
    assert panel.viewer.force_limit == pytest.approx(0.05)
    assert "longest arrow: 0.05 hartree/bohr, on O 0" in panel._controls.words.lines[0][0]


def test_the_table_of_atoms_has_the_norm_of_the_force(client: Client):
    panel = stored(client, [WATER[0] | FORCE, *WATER[1:]])
    assert panel.table.rows[0]["cells"] == ["0", "O", f"{MINUS}0.5600", "0.0000", "0.0000", "0.1000", "0.05000"]
    assert panel.table.rows[1]["cells"][-1] == NOTHING
    assert panel.atoms["force_norm"].tolist()[0] == pytest.approx(0.05)


def test_without_forces_or_charges_the_switches_are_off(client: Client):
    bare = [{name: value for name, value in atom.items() if name != "partial_charge"} for atom in WATER]
    panel = stored(client, bare)
    assert panel.viewer.color_by == "element"
    assert panel._controls.color.disabled
    assert panel._controls.arrows.disabled
    assert panel.remark.text == "The stored atoms have no charges and no forces."


def test_without_atoms_it_says_how_they_come_there(client: Client):
    panel = stored(client, [])
    assert f"client.atoms.create({panel._id}, [...])" in panel.remark.text
    assert panel._picture.layout.display == "none"
    assert panel.selected.empty


def test_a_picked_row_picks_the_atom_and_back(client: Client):
    panel = stored(client, WATER)
    panel.table.picked = [2]
    assert panel.viewer.picked == 2
    panel.viewer.picked = 1
    assert panel.table.picked == [1]
    assert panel.selected["element"].tolist() == ["H"]
    assert panel.selected["atom_index"].tolist() == [1]
    panel.viewer.picked = None
    assert panel.table.picked == []


def test_many_atoms_come_in_pages_and_the_picked_one_is_shown(client: Client):
    n = ATOMS_SHOWN + 320
    chain = [{"element": "C", "position_x": 1.4 * place, "position_y": 0.0, "position_z": 0.0} for place in range(n)]
    panel = stored(client, chain)
    assert len(panel.viewer.atoms["element"]) == n
    assert len(panel.table.rows) == ATOMS_SHOWN
    assert panel.pager.where.value == f"1 to {ATOMS_SHOWN} of {n} atoms"
    panel.viewer.picked = ATOMS_SHOWN + 1
    assert panel.table.rows[0]["key"] == ATOMS_SHOWN
    assert panel.table.picked == [ATOMS_SHOWN + 1]
    panel.pager.next.click()
    assert panel.pager.where.value == f"{2 * ATOMS_SHOWN + 1} to {n} of {n} atoms"
    panel.pager.first.click()
    assert panel.table.rows[0]["key"] == 0


def test_a_failed_calculation_says_why(client: Client):
    failed = {"energy": None, "gap": None, "convergence_status": "error"}
    panel = stored(client, [], **failed, metadata={"run": {"reason": f"no convergence {HOSTILE}"}})
    assert facts(panel)["error"] == f"no convergence {HOSTILE}"
    assert facts(panel)["status"] == "error"


def test_the_last_event_says_why_where_the_run_does_not(client: Client):
    key = client.calculations.create(smiles="O", convergence_status="error").id
    assert "error" not in facts(client.widgets.calculation(key))
    with client.session() as session:
        log_calculation_failed(session, key, 1, "the disk is full")
    assert facts(client.widgets.calculation(key))["error"] == "the disk is full"


def test_events_are_shown_with_what_changed(client: Client):
    panel = stored(client, [])
    client.calculations.update(panel._id, output_json_path=HOSTILE)
    panel.update()
    assert [row["cells"][1] for row in panel.events.rows] == ["calculation created", "calculation updated"]
    assert panel.events.rows[1]["cells"][-1] == f"output_json_path: null → {HOSTILE}"


def test_what_was_stored_meanwhile_is_read_again(client: Client):
    panel = stored(client, [])
    client.atoms.create(panel._id, WATER)
    panel.refresh.click()
    assert panel._picture.layout.display is None
    assert len(panel.table.rows) == 3
    client.calculations.delete(panel._id)
    panel.refresh.click()
    assert panel.notice.is_error
    assert f"no row {panel._id}" in panel.notice.text


def test_a_molecule_without_smiles_or_name_is_called_by_its_formula(client: Client):
    with client.session() as session:
        molecule = Molecule(graph_hash="f" * 64, formula="CFeO")
        session.add(molecule)
        session.flush()
    key = client.calculations.create(molecule_id=molecule.id, energy=-20.0).id
    panel = client.widgets.calculation(key)
    assert panel.details.title == "CFeO"
    assert facts(panel)["SMILES"] == NOTHING
    assert panel.details.image.startswith("data:image/svg+xml;base64,")


def test_another_tenants_is_not_found(client: Client, tenant_client: TenantClient):
    key = tenant_client(ALICE).calculations.create(smiles="O", energy=-5.07).id
    with pytest.raises(NotFound, match=f"no row {key}"):
        tenant_client(BOB).widgets.calculation(key)
    with pytest.raises(NotFound):
        client.widgets.calculation(10**12)
    with pytest.raises(InvalidInput, match="whole number"):
        client.widgets.calculation("seven")
    assert read_calculation(tenant_client(ALICE).widgets._sources, key).title == "H2O"


def test_the_drawing_program_is_sent_when_it_is_asked_for(client: Client):
    panel = stored(client, WATER)
    sent: list[list[bytes]] = []
    panel.viewer.send = lambda content, buffers=None: sent.append(buffers)
    panel.viewer._handle_custom_msg({"library": True}, [])
    assert b"createViewer" in sent[0][0]
    assert "createViewer({" not in panel.viewer._esm
    assert len(panel.viewer._esm) < 20_000
