"""The tree of real runs becomes rows: as planned, whatever interrupts it, as a tenant, and damaged."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk import Client
from qforge_sdk.migrate import folders
from tests.fixtures.clients import TenantClient
from tests.fixtures.jobs import write_job
from tests.fixtures.tenants import ALICE, BOB, TenantLogin
from tests.fixtures.xtb_runs import RUNS, run_folders

DOUBTFUL = {
    "water": "energy_differs, gap_differs",
    "formaldehyde_cation": "charge_differs",
    "glycine": "rearranged",
    "methanol": "log_truncated",
}


def name_of(path: str) -> str:
    name = Path(path).name
    return re.sub(r"_20240301_\d+_[0-9a-f]{8}$", "", name)


def test_the_tree_of_examples(client: Client, tmp_path: Path):
    shutil.copytree(RUNS, tmp_path / "runs")
    report = client.migrate(tmp_path / "runs", dry_run=False, jobs=1)
    rows = report.rows.assign(name=report.rows.path.map(name_of)).set_index("name")
    assert report.counts == {"new": 24, "changed": 0, "doubtful": 4, "already_there": 0, "unreadable": 0}
    doubtful = rows[rows.outcome == "doubtful"]
    assert set(doubtful.index) == set(DOUBTFUL)
    for name, codes in DOUBTFUL.items():
        assert codes in doubtful.doubts[name].replace("dipole_stale, ", "")
    assert rows.status[rows.status != "converged"].to_dict() == {
        "ethanol": "not_converged", "methane": "error", "methanol": "error"
    }  # fmt: skip
    assert "not parametrized" in rows.reason["methane"]
    assert rows.smiles.isna()[rows.smiles.isna()].index.tolist() == ["ferrocene", "oxygen"]
    assert rows.smiles["formaldehyde_cation"] == "C=O"
    stored = client.calculations.query(columns=["id", "source_id", "name", "smiles", "method", "solvation", "gap"])
    assert stored.name[stored.smiles == "C=O"].tolist()[0].startswith("Formald")
    assert set(stored.method) == {"GFN0-xTB", "GFN1-xTB", "GFN2-xTB", "GFN-FF"}
    assert set(stored.solvation.dropna()) == {"ALPB", "GBSA"}
    assert sorted(client.molecules.unresolved().formula) == ["C10H10Fe", "O2"]


def test_each_row_tells_the_hash_of_its_input(client: Client, tmp_path: Path):
    shutil.copytree(RUNS, tmp_path / "runs")
    client.migrate(tmp_path / "runs", dry_run=False, jobs=1)
    stored = client.calculations.query(columns=["xyz_file_hash", "metadata", "output_json_path"])
    for row in stored.itertuples():
        folder = Path(row.metadata["run"]["path"])
        inputs = [path for path in folder.glob("*.xyz") if not path.name.startswith("xtb")]
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs] == [row.xyz_file_hash]
        has_json = (folder / "xtbout.json").exists()
        assert row.output_json_path == str(folder / "xtbout.json") if has_json else pd.isna(row.output_json_path)


def nasty(root: Path) -> Path:
    """The examples, copies, two runs of one job_id, what is no run, what is damaged."""
    shutil.copytree(RUNS, root)
    shutil.copytree(RUNS / "plain", root / "copies")
    for place, energy in (("a", -5.0), ("z", -5.1)):
        write_job(root / place, "water", 1, energy=energy)
    chance = random.Random(7)
    for number in range(12):
        source = chance.choice(run_folders())
        target = root / "damaged" / str(number)
        shutil.copytree(source, target)
        path = chance.choice(sorted(target.iterdir()))
        data = bytearray(path.read_bytes())
        for _ in range(len(data) // 20):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
    (root / "nothing").mkdir()
    (root / "nothing" / "metadata.json").write_text("{}")
    (root / "nothing" / "loop").symlink_to("loop")
    os.mkfifo(root / "nothing" / "xtb.out")
    return root


def test_the_plan_and_what_is_done_agree_on_every_run(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Copies and clashes within a chunk and across chunks.
    monkeypatch.setattr(folders, "CHUNK_RUNS", 7)
    root = nasty(tmp_path / "nasty")
    planned = client.migrate(root, jobs=2).rows
    done = client.migrate(root, dry_run=False, jobs=2).rows
    assert planned.drop(columns="calculation_id").equals(done.drop(columns="calculation_id"))
    assert len(done) == 28 + 18 + 2 + 12 + 1
    assert done.outcome.value_counts()["already_there"] >= 18
    (clash,) = done[done.reason.str.contains("same job_id", na=False)].itertuples()
    assert clash.path == str(root / "z" / "water_20251121_133039_00000001")
    assert clash.reason.endswith(str(root / "a" / "water_20251121_133039_00000001"))
    assert done.reason.notna().all()
    stored = done[done.action == "insert"]
    assert stored.calculation_id.notna().all()
    assert client.calculations.count() == len(stored)
    copies = done[done.path.str.startswith(f"{root}/copies")]
    originals = done[done.path.str.startswith(f"{root}/plain")]
    assert set(copies.calculation_id) == set(originals.calculation_id)
    again = client.migrate(root, jobs=2).rows
    assert set(again.outcome) == {"already_there", "unreadable"}
    assert client.migrate(root, dry_run=False, jobs=2).rows.equals(again)


def test_a_tenant_s_login_migrates_its_own_under_row_level_security(
    client: Client, database_url: str, tenant_login: TenantLogin, tmp_path: Path
):
    root = nasty(tmp_path / "nasty")
    with qf.connect(tenant_login(database_url, ALICE)) as alice, qf.connect(tenant_login(database_url, BOB)) as bob:
        planned = alice.migrate(root, jobs=2).rows
        done = alice.migrate(root, dry_run=False, jobs=2).rows
        assert planned.drop(columns="calculation_id").equals(done.drop(columns="calculation_id"))
        assert bob.calculations.count() == 0
        assert (
            bob.migrate(root, jobs=2)
            .rows.drop(columns="calculation_id")
            .equals(planned.drop(columns="calculation_id"))
        )
        assert alice.migrate(root, dry_run=False, jobs=2).counts["new"] == 0
        assert alice.calculations.count() == (done.action == "insert").sum()
        kinds = alice.events.timeline(by="event_type").set_index("event_type").events.to_dict()
        assert kinds["runs_migrated"] >= 1
    assert set(client.calculations.query(columns=["user_id"]).user_id) == {str(ALICE)}
    assert set(client.molecules.query(columns=["user_id"]).user_id) == {str(ALICE)}


def test_damaged_folders_never_stop_a_migration(client: Client, tmp_path: Path, long: bool):
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    for number in range(2000 if long else 60):
        target = tmp_path / str(number)
        shutil.copytree(chance.choice(run_folders()), target)
        for path in chance.sample(sorted(target.iterdir()), 2):
            data = bytearray(path.read_bytes())
            for _ in range(chance.choice((1, 3, 30, len(data) // 5)) if data else 0):
                data[chance.randrange(len(data))] = chance.choice((0, 10, 32, 42, 45, 57, chance.randrange(256)))
            path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))])
    report = client.migrate(tmp_path, dry_run=False, jobs=2)
    assert not report.rows.reason.str.contains("refuses|Error|ended the process", na=False).any()
    assert client.calculations.count() == (report.rows.action == "insert").sum()
    again = client.migrate(tmp_path, dry_run=False, jobs=2)
    assert (again.rows.action == "none").all()


def everything(client: Client, owner: uuid.UUID) -> list[tuple[object, ...]]:
    """All rows of an owner, without keys and times."""
    molecules = "SELECT smiles, name, formula, charge, graph_hash, metadata::text FROM public.molecules"
    calculations = (
        "SELECT m.smiles, m.graph_hash, c.energy, c.homo, c.lumo, c.gap, c.dipole, c.total_charge, c.solvent, "
        "c.unpaired_electrons, c.execution_time_seconds, c.xtb_version, c.solvation, c.method, c.optimized, "
        "c.convergence_status, c.xyz_file_hash, c.output_json_path, c.source_id, c.metadata::text "
        "FROM public.calculations c JOIN public.molecules m ON m.id = c.molecule_id"
    )
    atoms = (
        "SELECT c.source_id, a.atom_index, a.element, a.atomic_number, a.partial_charge, a.position_x, a.position_y, "
        "a.position_z, a.force_x, a.force_y, a.force_z FROM public.atomic_properties a "
        "JOIN public.calculations c ON c.id = a.calculation_id"
    )
    rows: list[tuple[object, ...]] = []
    with client.engine.connect() as connection:
        for query, table in ((molecules, "molecules"), (calculations, "c"), (atoms, "a")):
            found = connection.execute(text(f"{query} WHERE {table}.user_id = :owner"), {"owner": owner})
            rows += sorted((tuple(row) for row in found), key=repr)
    return rows


# It says when it begins to store a chunk, so that it can be killed while it does.
KILLED = """
import sys
import qforge_sdk as qf
from qforge_sdk.migrate import folders
from qforge_sdk.migrate.plan import Plan
folders.CHUNK_RUNS = 20
store = Plan._store
Plan._store = lambda *arguments: (print("storing", flush=True), store(*arguments))[1]
with qf.connect(sys.argv[1], user_id=sys.argv[3]) as client:
    client.migrate(sys.argv[2], dry_run=False, jobs=2)
"""


def test_killed_anywhere_and_run_again_it_ends_the_same(
    client: Client, tenant_client: TenantClient, database_url: str, tmp_path: Path, long: bool
):
    jobs = 600 if long else 120
    for number in range(jobs):
        write_job(tmp_path / f"{number % 3}", "water", number, energy=-5 - number / 1000)
    shutil.copytree(RUNS, tmp_path / "real")
    shutil.copytree(RUNS / "plain", tmp_path / "copies")
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    committed = []
    for _ in range(20 if long else 3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, database_url, str(tmp_path), str(ALICE)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 2)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        committed.append(client.calculations.count(user_id=str(ALICE)))
        with client.engine.connect() as connection:
            without_atoms = connection.execute(
                text(
                    "SELECT count(*) FROM public.calculations c WHERE source_id LIKE 'job:water_2025%' "
                    "AND NOT EXISTS (SELECT FROM public.atomic_properties a WHERE a.calculation_id = c.id)"
                )
            ).scalar_one()
        assert without_atoms == 0
    print("committed", committed)
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    done = alice.migrate(tmp_path, dry_run=False, jobs=2)
    undisturbed = bob.migrate(tmp_path, dry_run=False, jobs=2)
    assert len(done.rows) == len(undisturbed.rows) == jobs + 28 + 18
    assert alice.calculations.count() == jobs + 28
    assert everything(client, ALICE) == everything(client, BOB)
    assert alice.migrate(tmp_path, dry_run=False, jobs=2).counts["already_there"] == jobs + 28 + 18
