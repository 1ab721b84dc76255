"""What stands in a migration's way: other runs of a job_id, values that are refused, links, deadly items."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection, text

import qforge_sdk as qf
from qforge_sdk import Client
from qforge_sdk.db import runs as stored_runs
from qforge_sdk.migrate import folders
from qforge_sdk.migrate.plan import Plan
from qforge_sdk.migrate.read import Found
from qforge_sdk.migrate.scan import Ahead
from tests.fixtures.jobs import IRON_CARBONYL, METHANE, write_job, write_run


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Water twice, methane, and a metal complex."""
    root = tmp_path / "jobs"
    write_job(root, "water", 1, energy=-5.0705)
    write_job(root / "2024" / "deep", "water", 2, energy=-5.0701, metadata={"smiles": "[H]O[H]"})
    write_run(root / "plain", atoms=METHANE, energy=-4.1752)
    write_job(root, "iron", 3, atoms=IRON_CARBONYL, energy=-31.5)
    return root


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


def test_a_row_that_no_migration_stored_is_left_alone(client: Client, jobs: Path):
    source_id = "job:water_20251121_133039_00000001"
    client.calculations.create(smiles="CC", energy=-7.3, source_id=source_id)
    for dry_run in (True, False):
        rows = client.migrate(jobs, dry_run=dry_run, jobs=1).rows.set_index("source_id")
        assert rows.outcome[source_id] == "unreadable"
        assert "no migration stored" in rows.reason[source_id]
    assert client.calculations.query(source_id=source_id).energy.tolist() == [-7.3]


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


def test_no_process_stays_behind_an_error(client: Client, jobs: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise qf.DatabaseError("the disk is full", sqlstate="53100")

    monkeypatch.setattr(Plan, "settle", fail)
    with pytest.raises(qf.QForgeError, match="the disk is full") as caught:
        client.migrate(jobs, dry_run=False, jobs=2)
    assert caught.traceback
    children = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not any("migrate.read" in command for command in children)


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
