"""The command line, as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from sqlalchemy import NullPool, create_engine, text
from typer.testing import CliRunner

import qforge_sdk as qf
from qforge_sdk.cli import app
from qforge_sdk.config import normalise_url
from qforge_sdk.data import load_sample
from qforge_sdk.db import embedded
from qforge_sdk.db.database import make_engine
from qforge_sdk.db.schema import head_revision
from tests.fixtures import old_module
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.old_module import OldModule
from tests.fixtures.tenants import ALICE

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(wide_terminal: None) -> Run:
    """Run ``qforge`` with arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def demo_dir() -> Iterator[Path]:
    """Data folder that ``qforge demo`` left behind, run once as a program of its own."""
    with tempfile.TemporaryDirectory(prefix="qforge-cli-") as folder:
        path = Path(folder) / "demo"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "qforge_sdk.cli", "demo", "--data-dir", str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        (Path(folder) / "demo.txt").write_text(done.stdout)
        yield path


def test_demo_loads_looks_and_exports(demo_dir: Path):
    printed = (demo_dir.parent / "demo.txt").read_text()
    n_rows = load_sample().calculations.num_rows
    assert f"{n_rows:,}" in printed
    assert re.search(rf"calculations read back\s*│\s*{n_rows:,}", printed)
    for word in ("PostgreSQL is up", "median gap (eV)", "hartree", "COPY", "qf.connect(data_dir="):
        assert word in printed


def test_demo_twice_inserts_nothing_again(demo_dir: Path, run: Run):
    again = run("demo", "--data-dir", demo_dir)
    assert again.exit_code == 0, again.output
    assert re.findall(r"inserted\s*│\s*([\d,]+)", again.output) == ["0", "0", "0"]


def test_doctor_passes_and_leaves_no_trace(demo_dir: Path, run: Run):
    def rows() -> list[int]:
        with qf.connect(data_dir=demo_dir) as client:
            return [client.sql(f"SELECT count(*) AS n FROM {table}").n[0] for table in ("molecules", "event_logs")]

    before = rows()
    found = run("doctor", "--data-dir", demo_dir)
    assert found.exit_code == 0, found.output
    assert "9 passed, 0 failed" in found.output
    assert rows() == before


def test_doctor_fails_when_row_level_security_is_off(database_url: str, admin_url: str, run: Run):
    with create_engine(admin_url, poolclass=NullPool).begin() as connection:
        connection.execute(text("ALTER TABLE public.calculations DISABLE ROW LEVEL SECURITY"))
    found = run("doctor", "--url", database_url)
    assert found.exit_code == 1
    assert "FAIL isolation: row level security of public.calculations is off: ALTER TABLE" in found.output
    assert "table calculations of qforge_owner, row security OFF" in found.output
    assert "8 passed, 1 failed" in found.output


def test_doctor_tells_who_one_is_and_what_holds_it(database_url: str, run: Run):
    found = run("doctor", "--url", database_url, "--user-id", str(ALICE))
    assert found.exit_code == 0, found.output
    assert f"access: scope; tenant {ALICE}" in found.output
    assert "login qforge_owner (createrole, inherit), acts as qforge_scope" in found.output
    assert "table event_logs of qforge_owner, row security on: select by tenant_select" in found.output
    assert "function qforge.current_user_id() of qforge_owner, runs as its owner, search_path pg_c" in found.output


def test_doctor_fails_when_a_trigger_is_gone(database_url: str, run: Run):
    with create_engine(database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text("DROP TRIGGER audit_insert ON public.calculations"))
    found = run("doctor", "--url", database_url)
    assert "FAIL events" in found.output
    assert found.exit_code == 1


def test_stats_prints_the_statistics(demo_dir: Path, run: Run):
    found = run("stats", "--data-dir", demo_dir)
    assert re.search(rf"total_calculations\s*│\s*{load_sample().calculations.num_rows:,}", found.output)


def test_load_reports_every_row_and_writes_the_rejected_ones(database_url: str, run: Run, tmp_path: Path):
    pd.DataFrame({"smiles": ["CCO", "C((", "O"], "energy": [-11.4, -1, "low"]}).to_csv(
        tmp_path / "in.csv", index=False
    )
    with pytest.warns(qf.LoadWarning):
        found = run("load", tmp_path / "in.csv", "--url", database_url, "--rejects", tmp_path / "bad.csv")
    assert found.exit_code == 2
    assert re.search(r"inserted\s*│\s*1 ", found.output)
    assert pd.read_csv(tmp_path / "bad.csv")["code"].tolist() == ["syntax", "wrong_type"]


def test_run_computes_a_batch_and_tells_what_failed(database_url: str, run: Run):
    with qf.connect(database_url) as client:
        key = client.batches.create("screen", molecules=["O", "[Og]"]).id
    done = run("run", "screen", "--workers", 1, "--seed", 7, "--n-conformers", 2, "--url", database_url)
    assert done.exit_code == 2, done.output
    assert re.search(r"completed\s*│\s*1 ", done.output)
    assert "no parameters for Og" in done.output
    with qf.connect(database_url) as client:
        (origin,) = client.batches.results("screen").select(["metadata"]).df()["metadata"]
        conformer = origin["run"]["conformer"]
        assert client.batches.retry(key) == 1
        client.batches.cancel(key)
    assert (conformer["seed"], conformer["n_conformers"]) == (7, 2)
    again = run("run", key, "--optimize", "--url", database_url)
    assert again.exit_code == 0, again.output
    assert re.search(r"ended in this run\s*│\s*0 ", again.output)
    with qf.connect(database_url) as client:
        client.batches.create("2024", molecules=["O"])
    assert "2024" in run("run", 2024, "--url", database_url).output
    wrong = run("run", "scren", "--url", database_url)
    assert (wrong.exit_code, "no batch 'scren'" in wrong.stderr) == (1, True)


@contextmanager
def running(url: str, client: qf.Client, *before: str) -> Iterator[subprocess.Popen[str]]:
    """``qforge run`` at work on an item that takes long."""
    key = client.batches.create("screen", molecules=["C" * 120]).id
    # Whoever runs the tests may have told them to outlive their terminal.
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(
        [*before, sys.executable, "-m", "qforge_sdk.cli", "run", "screen", "--workers", "1", "--url", url],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        signal.signal(signal.SIGHUP, ours)
        deadline = time.monotonic() + 60
        while client.batches.progress(key)["processing"] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
        process.kill()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_terminated_gives_its_items_back(database_url: str, ending: signal.Signals):
    with qf.connect(database_url) as client, running(database_url, client) as process:
        process.send_signal(ending)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "screen, interrupted" in said
        assert client.batches.progress(1)["pending"] == 1


def test_a_run_outlives_its_terminal_where_nohup_says_so(database_url: str):
    with qf.connect(database_url) as client, running(database_url, client, "nohup") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        assert client.batches.progress(1)["processing"] == 1


def test_load_of_another_table_and_as_a_tenant(database_url: str, run: Run, tmp_path: Path):
    user_id = "a11ce000-0000-4000-8000-000000000001"
    pd.DataFrame({"smiles": ["CCO"], "name": ["ethanol"]}).to_parquet(tmp_path / "m.parquet")
    done = run("load", tmp_path / "m.parquet", "--into", "molecules", "--url", database_url, "--user-id", user_id)
    assert done.exit_code == 0, done.output
    with qf.connect(database_url) as client:
        assert client.molecules.query(columns=["name", "user_id"]).to_dict("records") == [
            {"name": "ethanol", "user_id": user_id}
        ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("load", "no.csv"), "there is no file"),
        (("load", "x.csv", "--into", "events"), "calculations, molecules, atoms"),
        (("load", "x.csv", "--on-error", "ignore"), "'collect', 'raise'"),
        (("export", "/proc/nowhere"), "nowhere"),
        (("restore", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_line(database_url: str, run: Run, arguments: tuple[str, ...], word: str):
    found = run(*arguments, "--url", database_url)
    assert found.exit_code != 0
    assert word in found.output + found.stderr
    assert "Traceback" not in found.output + found.stderr


def test_a_server_that_is_not_there_is_one_line_without_the_password(run: Run):
    found = run("stats", "--url", "postgresql://me:canary-4711@127.0.0.1:1/none")
    assert found.exit_code == 1
    assert "ConnectionFailed" in found.stderr
    assert "canary-4711" not in found.output + found.stderr


def test_export_and_restore_bring_the_rows_over(database_url: str, empty_database_url: str, run: Run, tmp_path: Path):
    with qf.connect(database_url) as client:
        client.calculations.create(smiles="CCO", energy=-11.4)
    assert run("db", "upgrade", "--url", empty_database_url).exit_code == 0
    exported = run("export", tmp_path / "out", "--url", database_url)
    assert exported.exit_code == 0, exported.output
    restored = run("restore", tmp_path / "out", "--url", empty_database_url)
    assert restored.exit_code == 0, restored.output
    with qf.connect(empty_database_url) as client:
        assert client.calculations.query()["energy"].tolist() == [-11.4]


def test_db_upgrade_status_and_sql(empty_database_url: str, run: Run):
    before = run("db", "status", "--url", empty_database_url)
    assert (before.exit_code, "no qforge tables" in before.output) == (1, True)
    done = run("db", "upgrade", "--url", empty_database_url)
    assert f"an empty database to revision {head_revision()}" in done.output
    assert f"already at revision {head_revision()}" in run("db", "upgrade", "--url", empty_database_url).output
    assert run("db", "status", "--url", empty_database_url).exit_code == 0
    assert "CREATE POLICY tenant_select ON public.molecules" in run("db", "sql").output


def test_db_upgrade_keeps_an_embedded_server(run: Run, tmp_path: Path):
    with tempfile.TemporaryDirectory(prefix="qforge-cli-") as folder:
        assert f"revision {head_revision()}" in run("db", "upgrade", "--data-dir", Path(folder) / "data").output


@pytest.fixture
def old_database_url(databases_of: DatabasesOf) -> Iterator[str]:
    """URL of a database of the old module, with two spellings of one molecule."""
    databases, old = databases_of(), OldModule("orm")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        old.fill(url, molecules=30)
        with old.opened(url) as cursor:
            old.insert(cursor, "molecules", [{"id": 31, "name": "again", "smiles": "OC[H]", "formula": "CH4O"}])
            cursor.execute("UPDATE public.molecules SET user_id = NULL")
        yield url


def test_db_adopt_plans_reports_and_adopts_once(old_database_url: str, run: Run, tmp_path: Path):
    url = ("--url", old_database_url)
    status = run("db", "status", *url)
    assert (status.exit_code, "tables of the old database module" in status.output) == (1, True)
    assert "run: qforge db adopt" in status.output
    upgrade = run("db", "upgrade", *url)
    assert (upgrade.exit_code, "qforge db adopt" in upgrade.stderr) == (1, True)

    planned = run("db", "adopt", "--dry-run", *url)
    assert planned.exit_code == 0, planned.output
    assert "dry run" in planned.output
    assert re.search(r"molecules\s*│\s*31\s*│\s*31\s*│\s*0\s*│", planned.output)
    assert run("db", "status", *url).exit_code == 1

    done = run("db", "adopt", "--report", tmp_path / "doubts.parquet", *url)
    assert done.exit_code == 0, done.output
    assert re.search(r"same_structure\s*│\s*1 ", done.output)
    assert re.search(
        r"^molecules 31, smiles: molecule \d+ is the same structure \(same_structure\)$", done.output, re.M
    )
    doubts = pd.read_parquet(tmp_path / "doubts.parquet")
    assert doubts.columns.tolist() == ["table", "id", "column", "value", "code", "reason"]
    assert doubts[doubts.code == "same_structure"].value.tolist() == ["OC[H]"]
    assert run("db", "status", *url).exit_code == 0

    again = run("db", "adopt", *url)
    assert (again.exit_code, "there is nothing to adopt" in again.stderr) == (1, True)


def test_db_adopt_works_on_an_embedded_server(run: Run):
    script = Path(old_module.__file__).with_name("orm.sql").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="qforge-cli-") as folder:
        server = embedded.start(Path(folder) / "data")
        try:
            with make_engine(normalise_url(server.url), poolclass=NullPool).begin() as connection:
                connection.exec_driver_sql(script)
                connection.exec_driver_sql(
                    "INSERT INTO public.molecules (name, smiles, formula) VALUES ('water', '[H]O[H]', 'H2O')"
                )
            with pytest.raises(qf.SchemaMissing, match="qforge db adopt"):
                qf.connect(data_dir=Path(folder) / "data")
            done = run("db", "adopt", "--data-dir", Path(folder) / "data")
            assert done.exit_code == 0, done.output + done.stderr
            with qf.connect(data_dir=Path(folder) / "data") as client:
                assert client.molecules.get(1).smiles == "O"
        finally:
            server.stop()


def test_version_and_help_name_every_command(run: Run):
    assert run("--version").output.strip() == f"qforge_sdk {qf.__version__}"
    shown = run("--help").output
    for command in ("demo", "doctor", "load", "run", "export", "restore", "stats", "db"):
        assert command in shown
