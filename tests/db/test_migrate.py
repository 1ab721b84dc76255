"""Folders become rows: once, completely, whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Connection, text

import qforge_sdk as qf
from qforge_sdk import Client
from qforge_sdk.db import runs as stored_runs
from qforge_sdk.migrate import folders
from qforge_sdk.migrate.read import Found
from qforge_sdk.migrate.scan import Ahead
from tests.fixtures.clients import TenantClient
from tests.fixtures.jobs import IRON_CARBONYL, METHANE, WATER, write_job, write_run
from tests.fixtures.tenants import ALICE, BOB, TenantLogin
from tests.fixtures.xtb_runs import RUNS, run_folders


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Water twice, methane, and a metal complex."""
    root = tmp_path / "jobs"
    write_job(root, "water", 1, energy=-5.0705)
    write_job(root / "2024" / "deep", "water", 2, energy=-5.0701, metadata={"smiles": "[H]O[H]"})
    write_run(root / "plain", atoms=METHANE, energy=-4.1752)
    write_job(root, "iron", 3, atoms=IRON_CARBONYL, energy=-31.5)
    return root


def stored(client: Client) -> list[tuple[object, ...]]:
    frame = client.calculations.query(order_by="source_id")
    return [
        tuple(row) for row in frame[["smiles", "energy", "source_id", "convergence_status"]].itertuples(index=False)
    ]


def test_every_run_becomes_a_row_with_atoms_and_events(client: Client, jobs: Path):
    report = client.migrate(jobs, dry_run=False, jobs=1)
    assert report.counts == {"new": 4, "changed": 0, "doubtful": 0, "already_there": 0, "unreadable": 0}
    assert len(report.rows) == 4
    frame = client.calculations.query(order_by="energy")
    assert frame.energy.tolist() == [-31.5, -5.0705, -5.0701, -4.1752]
    assert frame.smiles.tolist()[1:] == ["O", "O", "C"]
    assert frame.smiles.isna().tolist() == [True, False, False, False]
    assert set(frame.id) == set(report.rows.calculation_id)
    assert frame.gap.tolist() == [14.39] * 4
    assert frame.optimized.all()
    assert client.atoms.count() == 11 + 3 + 3 + 5
    kinds = client.events.timeline(by="event_type").set_index("event_type").events.to_dict()
    assert kinds["calculation_created"] == 4
    assert kinds["runs_migrated"] == 1


def test_a_row_tells_where_it_came_from(client: Client, jobs: Path):
    client.migrate(jobs, dry_run=False, jobs=1)
    row = client.calculations.query(columns=["source_id", "metadata", "xyz_file_hash"], energy=-5.0705).iloc[0]
    assert row.source_id == "job:water_20251121_133039_00000001"
    assert row.metadata["run"]["path"] == str(jobs / "water_20251121_133039_00000001")
    assert row.metadata["run"]["program_call"].startswith("xtb molecule.xyz --opt")
    assert row.metadata["job"]["molecule_name"] == "water"
    assert len(row.xyz_file_hash) == 64


def test_a_dry_run_writes_nothing_and_plans_the_same(client: Client, jobs: Path):
    planned = client.migrate(jobs, jobs=1)
    assert planned.dry_run
    assert client.calculations.count() == 0
    assert client.events.count() == 0
    done = client.migrate(jobs, dry_run=False, jobs=1)
    assert planned.rows.drop(columns="calculation_id").equals(done.rows.drop(columns="calculation_id"))


def test_a_second_time_changes_nothing(client: Client, jobs: Path, tmp_path: Path):
    client.migrate(jobs, dry_run=False, jobs=1)
    before, events = stored(client), client.events.count()
    moved = tmp_path / "moved"
    shutil.copytree(jobs, moved)
    for root in (jobs, moved):
        report = client.migrate(root, dry_run=False, jobs=1)
        assert report.counts["already_there"] == 4
    assert stored(client) == before
    assert client.events.count() == events


def test_a_copy_in_the_same_migration_counts_once(client: Client, jobs: Path):
    shutil.copytree(jobs / "plain", jobs / "plain copy")
    report = client.migrate(jobs, dry_run=False, jobs=1)
    assert report.counts["already_there"] == 1
    assert client.calculations.count() == 4


def test_a_folder_that_changed_updates_its_row_and_atoms(client: Client, jobs: Path):
    folder = jobs / "water_20251121_133039_00000001"
    whole = (folder / "xtb_stdout.log").read_text()
    (folder / "xtb_stdout.log").write_text(whole[: len(whole) // 2])
    first = client.migrate(jobs, dry_run=False, jobs=1)
    row = first.rows[first.rows.source_id == "job:water_20251121_133039_00000001"].iloc[0]
    assert (row.outcome, row.status) == ("doubtful", "error")
    (folder / "xtb_stdout.log").write_text(whole)
    second = client.migrate(jobs, dry_run=False, jobs=1)
    assert second.counts == {"new": 0, "changed": 1, "doubtful": 0, "already_there": 3, "unreadable": 0}
    assert client.calculations.count() == 4
    changed = client.calculations.get(int(row.calculation_id))
    assert (changed.convergence_status, changed.energy) == ("converged", -5.0705)
    assert client.atoms.count(calculation_id=int(row.calculation_id)) == 3
    assert "calculation_updated" in set(client.events.query(entity_id=int(row.calculation_id)).event_type)


def test_two_folders_of_one_job_id_are_told_apart(client: Client, tmp_path: Path):
    for place in ("a", "b"):
        write_job(tmp_path / place, "water", 1, energy=-5.0 if place == "a" else -5.1)
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert report.rows.outcome.tolist() == ["new", "unreadable"]
    assert "same job_id" in report.rows.reason[1]


def test_a_structure_without_a_smiles_is_listed_and_settled(client: Client, jobs: Path):
    client.migrate(jobs, dry_run=False, jobs=1)
    unresolved = client.molecules.unresolved()
    assert unresolved.formula.tolist() == ["C5FeO5"]
    key = int(unresolved.id[0])
    smiles = "[Fe].[C-]#[O+].[C-]#[O+].[C-]#[O+].[C-]#[O+].[C-]#[O+]"
    with pytest.raises(qf.InvalidInput, match="formula"):
        client.molecules.assign_smiles(key, "CCO")
    row = client.molecules.assign_smiles(key, smiles)
    assert row.id == key
    assert row.smiles is not None
    assert client.molecules.unresolved().empty
    assert client.calculations.count(molecule_id=key) == 1
    with pytest.raises(qf.InvalidInput, match="has a SMILES"):
        client.molecules.assign_smiles(key, smiles)
    again = client.migrate(jobs, dry_run=False, jobs=1)
    assert again.counts["already_there"] == 4


def test_a_smiles_that_is_stored_already_takes_the_rows_over(client: Client, jobs: Path):
    client.migrate(jobs, dry_run=False, jobs=1)
    smiles = "[Fe].[C-]#[O+].[C-]#[O+].[C-]#[O+].[C-]#[O+].[C-]#[O+]"
    known = client.molecules.create(smiles)
    key = int(client.molecules.unresolved().id[0])
    with pytest.raises(qf.DuplicateMolecule) as caught:
        client.molecules.assign_smiles(key, smiles)
    assert caught.value.existing_id == known.id
    assert client.molecules.assign_smiles(key, smiles, merge=True).id == known.id
    assert client.calculations.count(molecule_id=known.id) == 1
    assert client.molecules.unresolved().empty


def test_a_job_s_smiles_of_another_charge_is_a_doubt(client: Client, tmp_path: Path):
    write_job(tmp_path, "ionised", 1, charge=1, metadata={"smiles": "O"})
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert report.rows.smiles.tolist() == ["O"]
    assert "charge_differs" in report.rows.doubts[0]


def test_a_job_s_smiles_of_another_molecule_is_not_taken(client: Client, tmp_path: Path):
    write_job(tmp_path, "wrong", 1, metadata={"smiles": "CCO"})
    write_job(tmp_path, "broken", 2, energy=-5.06, metadata={"smiles": "C1CC"})
    report = client.migrate(tmp_path, dry_run=False, jobs=1).rows.set_index("path")
    assert report.smiles.tolist() == ["O", "O"]
    assert sorted(report.doubts) == ["formula_differs", "smiles_refused"]


def test_a_rearranged_geometry_is_a_doubt(client: Client, tmp_path: Path):
    apart = (*WATER[:2], ("H", 0.0, -3.5, -0.5))
    write_job(tmp_path, "split", 1, atoms=apart, start=WATER)
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert "rearranged" in report.rows.doubts[0]


def test_what_names_no_molecule_is_reported_and_not_stored(client: Client, tmp_path: Path):
    folder = tmp_path / "failed"
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps({"job_id": "x", "status": "FAILED", "error_message": "no xtb"}))
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert report.rows.outcome.tolist() == ["unreadable"]
    assert "no xtb" in report.rows.reason[0]
    assert client.calculations.count() == 0


def test_links_in_a_circle_end(client: Client, jobs: Path):
    (jobs / "plain" / "up").symlink_to(jobs, target_is_directory=True)
    (jobs / "dangling").symlink_to(jobs / "nowhere")
    assert len(client.migrate(jobs, jobs=1).rows) == 4


def test_a_folder_that_cannot_be_listed_is_reported(client: Client, jobs: Path, monkeypatch: pytest.MonkeyPatch):
    # Root may read everything, so the system's answer is given in its place.
    closed = jobs / "plain"
    listed = os.scandir

    def scandir(path: os.PathLike[str] | str):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = client.migrate(jobs, dry_run=False, jobs=1)
    line = report.rows[report.rows.path == str(closed)].iloc[0]
    assert (line.outcome, line.reason) == ("unreadable", "Permission denied")
    assert report.counts["new"] == 3


@pytest.mark.parametrize(("option", "value"), [("limit", 0), ("jobs", 0)])
def test_a_number_below_one_is_refused(client: Client, jobs: Path, option: str, value: int):
    with pytest.raises(qf.InvalidInput, match=option):
        client.migrate(jobs, **{option: value})


def test_a_root_that_is_no_folder_is_refused(client: Client, tmp_path: Path):
    with pytest.raises(qf.InvalidInput, match="no folder"):
        client.migrate(tmp_path / "nowhere")


def test_a_limit_takes_the_first_runs(client: Client, jobs: Path):
    assert len(client.migrate(jobs, limit=2, jobs=1).rows) == 2


def test_tenants_migrate_apart(client: Client, tenant_client: TenantClient, jobs: Path):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    assert alice.migrate(jobs, dry_run=False, jobs=1).counts["new"] == 4
    assert bob.calculations.count() == 0
    assert bob.migrate(jobs, dry_run=False, jobs=1).counts["new"] == 4
    assert (alice.calculations.count(), bob.calculations.count(), client.calculations.count()) == (4, 4, 8)
    assert alice.molecules.unresolved().user_id.tolist() == [str(ALICE)]


def test_several_processes_give_the_same(client: Client, tenant_client: TenantClient, tmp_path: Path):
    for number in range(130):
        write_job(tmp_path, "water", number, energy=-5 - number / 1000)
    one = tenant_client(ALICE).migrate(tmp_path, dry_run=False, jobs=1)
    three = tenant_client(BOB).migrate(tmp_path, dry_run=False, jobs=3)
    assert one.rows.drop(columns="calculation_id").equals(three.rows.drop(columns="calculation_id"))


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


KILLED = """
import sys
import qforge_sdk as qf
from qforge_sdk.migrate import folders
folders.CHUNK_RUNS = 20
with qf.connect(sys.argv[1], user_id=sys.argv[3]) as client:
    print(client.migrate(sys.argv[2], dry_run=False, jobs=2), flush=True)
"""


def test_killed_anywhere_and_run_again_it_ends_the_same(
    client: Client, tenant_client: TenantClient, database_url: str, tmp_path: Path, long: bool
):
    for number in range(200):
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
            time.sleep(chance.uniform(0.5, 4))
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
    assert len(done.rows) == len(undisturbed.rows) == 200 + 28 + 18
    assert alice.calculations.count() == 228
    assert everything(client, ALICE) == everything(client, BOB)
    assert alice.migrate(tmp_path, dry_run=False, jobs=2).counts["already_there"] == 246


# Real runs ----------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("chunk", [7, 500])
def test_the_plan_and_what_is_done_agree_on_every_run(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(folders, "CHUNK_RUNS", chunk)
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
    for number in range(2000 if long else 120):
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


# What stands in the way ---------------------------------------------------------------------------------------------


def test_a_run_is_not_replaced_by_another_of_its_job_id_while_it_is_there(client: Client, tmp_path: Path):
    first = write_job(tmp_path / "b", "water", 1, energy=-5.0)
    client.migrate(tmp_path, dry_run=False, jobs=1)
    second = write_job(tmp_path / "a", "water", 1, energy=-5.1)
    for dry_run in (True, False):
        report = client.migrate(tmp_path, dry_run=dry_run, jobs=1)
        assert report.rows.outcome.tolist() == ["unreadable", "already_there"]
        assert report.rows.reason[0].endswith(str(first))
    assert client.calculations.query().energy.tolist() == [-5.0]
    shutil.rmtree(first)
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert (report.rows.path[0], report.rows.outcome[0]) == (str(second), "changed")
    assert client.calculations.query().energy.tolist() == [-5.1]


def test_a_tree_that_was_moved_and_changed_updates_its_rows(client: Client, jobs: Path, tmp_path: Path):
    client.migrate(jobs, dry_run=False, jobs=1)
    moved = tmp_path / "moved"
    jobs.rename(moved)
    log = moved / "water_20251121_133039_00000001" / "xtb_stdout.log"
    log.write_text(log.read_text().replace("-5.0705", "-5.0706"))
    report = client.migrate(moved, dry_run=False, jobs=1)
    assert report.counts == {"new": 0, "changed": 0, "doubtful": 1, "already_there": 3, "unreadable": 0}
    assert client.calculations.count() == 4


def test_a_value_that_the_server_refuses_costs_its_run_only(
    client: Client, jobs: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(connection: Connection, calculation_ids: list[int]) -> None:
        stored = connection.execute(text("SELECT max(energy) FROM public.calculations")).scalar_one()
        if stored > -4.5:
            connection.execute(text("SELECT 1 / 0"))

    monkeypatch.setattr(stored_runs, "delete_atoms", refuse)
    report = client.migrate(jobs, dry_run=False, jobs=1)
    (line,) = report.rows[report.rows.outcome == "unreadable"].itertuples()
    assert line.path == str(jobs / "plain")
    assert "division by zero" in line.reason
    assert client.calculations.count() == 3
    assert client.atoms.count() == 11 + 3 + 3


def test_links_to_other_places_are_followed_once(client: Client, jobs: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    write_job(elsewhere / "deep", "water", 9, energy=-5.06)
    (elsewhere / "back").symlink_to(jobs, target_is_directory=True)
    for name in ("a", "b"):
        (jobs / name).symlink_to(elsewhere, target_is_directory=True)
    (jobs / "c").symlink_to(elsewhere / "deep", target_is_directory=True)
    (jobs / "plain" / "loop.log").symlink_to("loop.log")
    report = client.migrate(jobs, jobs=1)
    assert report.counts["new"] == 5
    assert len(report.rows) == 5


def test_a_huge_log_takes_no_time(client: Client, tmp_path: Path):
    folder = write_job(tmp_path, "water", 1, energy=-5.0705)
    path = folder / "xtb_stdout.log"
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(2**30)
        file.seek(2**30)
        file.write(whole[whole.index(b" iter ") :])
    started = time.perf_counter()
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    assert time.perf_counter() - started < 20
    assert report.rows.doubts.tolist() == ["log_cut"]
    assert client.calculations.query().energy.tolist() == [-5.0705]


def test_what_ends_its_process_is_tried_again_with_less(tmp_path: Path):
    items = ["one", "deadly", "two", "deadlier", "three"]
    found = folders.read_all(
        items,
        2,
        task="tests.fixtures.deadly_tasks:ask_all",
        again="tests.fixtures.deadly_tasks:ask_less",
        lost=lambda item, reason: Found(path=item, source_id="lost", unreadable=reason),
    )
    lines = [(one.path, one.source_id) for one in found]
    answers = ["first", "again", "first", "lost", "first"]
    assert lines == list(zip(items, answers, strict=True))


def test_the_search_runs_ahead_and_its_count_ends_at_the_number_of_runs():
    started = threading.Event()

    def slowly() -> Iterator[int]:
        yield from range(1000)
        started.wait(10)
        yield from range(1000, 3000)

    with Ahead(slowly()) as ahead:
        items = iter(ahead)
        assert next(items) == 0
        assert not ahead.is_complete
        started.set()
        assert list(items) == list(range(1, 3000))
        assert (ahead.count, ahead.is_complete) == (3000, True)


def test_an_error_of_the_search_reaches_who_reads():
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with Ahead(failing()) as ahead, pytest.raises(OSError, match="the disk is gone"):
        list(ahead)
