"""``qforge migrate``, as a user runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import qforge_sdk as qf
from qforge_sdk.cli import app
from tests.fixtures.tenants import ALICE, BOB
from tests.fixtures.xtb_runs import RUNS


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    shutil.copytree(RUNS, tmp_path / "runs")
    return tmp_path / "runs"


def migrate(*arguments: object, code: int = 0) -> str:
    """What it prints, on both streams."""
    done = CliRunner().invoke(app, ["migrate", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_plan_then_migrate_as_a_tenant_with_a_report(database_url: str, runs: Path, tmp_path: Path):
    options = ("--url", database_url, "--user-id", ALICE, "--jobs", 2)
    planned = migrate(runs, *options, "--dry-run", "--report", tmp_path / "plan.parquet")
    assert "24 new + 0 changed + 4 doubtful + 0 already_there + 0 unreadable, dry run" in planned
    with qf.connect(database_url, user_id=ALICE) as client:
        assert client.calculations.count() == 0
    done = migrate(runs, *options, "--report", tmp_path / "done.parquet")
    assert "MigrationReport(28 runs = 24 new" in done
    assert "doubtful: " in done
    assert "charge_differs" in done
    plan, rows = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("plan", "done"))
    assert plan.drop(columns="calculation_id").equals(rows.drop(columns="calculation_id"))
    assert rows.reason.notna().all()
    with qf.connect(database_url, user_id=ALICE) as client:
        assert set(client.calculations.query(columns=["id"]).id) == set(rows.calculation_id)
    with qf.connect(database_url, user_id=BOB) as client:
        assert client.calculations.count() == 0
    assert "28 already_there" in migrate(runs, *options)


def test_a_limit_and_one_process(database_url: str, runs: Path):
    done = migrate(runs, "--url", database_url, "--user-id", ALICE, "--limit", 3, "--jobs", 1)
    assert "MigrationReport(3 runs" in done


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere",), 1, "is no folder"),
        (("{runs}", "--limit", "0"), 2, "--limit"),
        (("{runs}", "--jobs", "0"), 2, "--jobs"),
        (("{runs}", "--report", "/nowhere/report.parquet"), 2, "there is no folder /nowhere"),
    ],
)
def test_a_mistake_is_told_before_anything_happens(
    database_url: str, runs: Path, arguments: tuple[str, ...], code: int, words: str
):
    given = [argument.format(runs=runs) for argument in arguments]
    assert words in migrate(*given, "--url", database_url, "--user-id", ALICE, code=code)
    with qf.connect(database_url) as client:
        assert client.calculations.count() == 0
