"""Folders become rows: once, completely, whatever interrupts it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import qforge_sdk as qf
from qforge_sdk import Client
from tests.fixtures.clients import TenantClient
from tests.fixtures.jobs import IRON_CARBONYL, METHANE, WATER, write_job, write_run
from tests.fixtures.tenants import ALICE, BOB


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
    write_job(jobs, "again", 77, atoms=IRON_CARBONYL, energy=-35.9)
    client.migrate(jobs, dry_run=False, jobs=1)
    assert client.calculations.count(molecule_id=known.id) == 2
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
