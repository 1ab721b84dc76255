"""The example application, over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from qforge_sdk.config import Settings
from qforge_sdk.db import crud
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.schemas import MoleculeCreate
from tests.fixtures.tenants import ALICE, BOB

APP = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(client: httpx.Client, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        try:
            client.get("/health")
        except httpx.ConnectError:
            assert process.poll() is None, "the application ended"
            time.sleep(0.1)
        else:
            return
    pytest.fail("the application does not answer")


@pytest.fixture
def http(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """Client of the application, which runs as ALICE on this test's database."""
    port = _free_port()
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"DATABASE_URL": database_url, "API_PORT": str(port), "QFORGE_USER_ID": str(ALICE)}
    process = subprocess.Popen([sys.executable, str(APP)], cwd=tmp_path, env=environment, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            _wait_for(client, process)
            yield client
    finally:
        process.terminate()
        assert process.wait(timeout=30) in (0, -15)


def _store(http: httpx.Client, path: str, **values: object) -> int:
    answer = http.post(path, json=values)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_a_screen_from_molecule_to_statistics(http: httpx.Client, engine: Engine):
    assert http.get("/health").json()["status"] == "healthy"

    molecule = _store(http, "/molecules", smiles="OCC", name="ethanol", metadata={"source": "test"})
    with Session(engine) as session:
        assert crud.get_molecule(session, molecule, ALICE) is not None, "committed before the answer"
    stored = http.get(f"/molecules/{molecule}").json()
    assert (stored["smiles"], stored["formula"], stored["metadata"]) == ("CCO", "C2H6O", {"source": "test"})
    assert stored["user_id"] == str(ALICE)
    assert http.get("/molecules/by-smiles", params={"smiles": "C(O)C"}).json()["id"] == molecule
    assert http.patch(f"/molecules/{molecule}", json={"name": "alcohol"}).json()["name"] == "alcohol"
    assert http.get("/molecules").json()["total"] == 1

    calculation = _store(http, "/calculations", molecule_id=molecule, energy=-11.39, gap=9.1)
    atoms = [{"atom_index": 0, "element": "C", "atomic_number": 6, "position_x": 0, "position_y": 0, "position_z": 0}]
    assert http.post(f"/calculations/{calculation}/atoms", json=atoms).status_code == 201
    detail = http.get(f"/calculations/{calculation}").json()
    assert detail["molecule"]["id"] == molecule
    assert [atom["element"] for atom in detail["atomic_properties"]] == ["C"]
    assert http.get(f"/calculations/{calculation}/atoms").json() == detail["atomic_properties"]
    for found in (
        http.get("/calculations", params={"molecule_id": molecule}).json()["calculations"],
        http.get("/calculations/by-gap", params={"low": 9, "high": 10}).json(),
        http.get("/calculations/by-energy", params={"high": 0}).json(),
    ):
        assert [row["id"] for row in found] == [calculation]

    batch = _store(http, "/batches", batch_name="screen")
    item = _store(http, "/batch-items", batch_id=batch, molecule_id=molecule)
    assert http.patch(f"/batches/{batch}", json={"status": "in_progress"}).json()["started_at"]
    done = http.patch(f"/batch-items/{item}", json={"status": "completed", "calculation_id": calculation})
    assert done.json()["calculation_id"] == calculation
    assert http.get(f"/batches/{batch}").json()["batch_items"][0]["status"] == "completed"
    assert [row["id"] for row in http.get(f"/batches/{batch}/items").json()] == [item]
    assert http.get("/batches", params={"status": "completed"}).json()["total"] == 1

    stats = http.get("/stats").json()
    assert (stats["total_molecules"], stats["median_gap"], stats["success_rate"]) == (1, 9.1, 100.0)

    event = _store(http, "/events", event_type="batch_completed", entity_type="batch_jobs", entity_id=batch)
    events = http.get("/events", params={"entity_type": "batch_jobs", "entity_id": batch}).json()["events"]
    assert events[0]["id"] == event

    assert http.delete(f"/molecules/{molecule}").status_code == 204
    assert http.get(f"/calculations/{calculation}").status_code == 404


def test_errors_have_the_right_codes(http: httpx.Client, engine: Engine):
    with Session(engine) as service, service.begin():
        bobs = crud.create_molecule(service, MoleculeCreate(smiles="N"), BOB).id
        public = crud.create_molecule(service, MoleculeCreate(smiles="C"), PUBLIC_USER_ID).id
    stored = _store(http, "/molecules", smiles="CCO")

    duplicate = http.post("/molecules", json={"smiles": "OCC"})
    assert (duplicate.status_code, duplicate.json()["existing_id"]) == (409, stored)
    smiles = http.post("/molecules", json={"smiles": "C1CC"})
    assert smiles.status_code == 422
    assert smiles.json()["error"] == "InvalidSmiles"
    assert smiles.json()["code"]
    for answer in (
        http.get(f"/molecules/{bobs}"),
        http.patch(f"/molecules/{public}", json={"name": "mine"}),
        http.delete(f"/molecules/{bobs}"),
        http.post("/calculations", json={"molecule_id": bobs, "energy": -1}),
        http.get("/molecules/by-smiles", params={"smiles": "N"}),
    ):
        assert answer.status_code == 404
    for answer in (
        http.post("/molecules", json={"smiles": "C", "formla": "CH4"}),
        http.post("/calculations", json={"molecule_id": stored}),
        http.get("/batches", params={"status": "done"}),
        http.get("/molecules", params={"limit": -1}),
        http.post("/events", json={"event_type": "error", "entity_type": "molecule"}),
    ):
        assert answer.status_code == 422
    assert http.get("/molecules").json()["total"] == 2


def test_the_api_is_documented(http: httpx.Client):
    document = http.get("/openapi.json").json()
    assert document["components"]["schemas"]["CalculationCreate"]["properties"]["gap"]["unit"] == "eV"
    assert {"/molecules", "/calculations", "/batches", "/events", "/stats", "/health"} <= set(document["paths"])
