"""No password in anything that a program of a user shows, stores or hands on.

Each scenario is a program of its own with the password in ``DATABASE_URL``. The last test of the run asks whether any
test at all printed the password that the fixtures' URLs carry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

import qforge_sdk as qf
from tests.fixtures.canary import CANARY, Ear
from tests.fixtures.servers import PostgresServer

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]

# What a logger, a notebook or a test runner can make of a failure: the variables of every frame included.
PRELUDE = """
import logging, os, sys, traceback
import qforge_sdk as qf

def tell(name, call):
    try:
        call()
    except Exception as exc:
        print(name, "raised", *traceback.TracebackException.from_exception(exc, capture_locals=True).format())
    else:
        raise SystemExit(f"{name} raised nothing")
"""

# The ways to a connection; each ends where DATABASE_URL leads.
CONNECT = """
from qforge_sdk.config import Settings
from qforge_sdk.db import database, schema
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope

def session():
    with database.get_db_context() as db:
        db.connection()

tell("connect", lambda: qf.connect())
tell("connect to", lambda: qf.connect(os.environ["DATABASE_URL"]))
tell("connect as a tenant", lambda: qf.connect(user_id="a11ce000-0000-4000-8000-000000000001"))
tell("read", lambda: ArrowReader(database.make_engine(Settings().url()), Scope()).read("SELECT 1"))
tell("upgrade", lambda: schema.upgrade(database.make_engine(Settings().url())))
tell("set up", lambda: database.setup_database())
tell("session", session)
try:
    print("health:", database.check_db_health().message)
except qf.ConfigurationError as exc:
    print("health:", exc)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python with arguments in an empty folder; all that it printed and logged."""

    def run(url: str, *arguments: str, code: int = 0, **environment: str) -> str:
        assert CANARY in url.replace("%40", "@").replace("@", "")
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "DATABASE_URL": url, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert CANARY not in done.stdout + logs
        assert done.returncode == code, done.stdout
        return done.stdout + logs

    return run


@pytest.fixture
def guarded_url(database_url: str, server: PostgresServer) -> Iterator[str]:
    """URL of a login that has another password than the one in the URL, on a server that asks for it."""
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    server.execute("CREATE ROLE kept_out LOGIN PASSWORD 'another'")
    rules.write_text(f"host all kept_out 127.0.0.1/32 scram-sha-256\n{before}")
    server.execute("SELECT pg_reload_conf()")
    yield make_url(database_url).set(username="kept_out").render_as_string(hide_password=False)
    rules.write_text(before)
    server.execute("SELECT pg_reload_conf()", "DROP ROLE kept_out")


def misled(url: str, way: str) -> str:
    """A URL that cannot be used, with the password in it."""
    good = make_url(url)
    changed = {
        "no server": good.set(port=1),
        "no host": good.set(host="db.invalid"),
        "no database": good.set(database="nowhere"),
        "no role": good.set(username="nobody"),
        "no TLS": good.set(host="db.example.org").update_query_dict({"hostaddr": "127.0.0.1"}),
        "no such port": good.set(port=99999),
        "unknown argument": good.update_query_dict({"nonsense": "1"}),
        "unknown parameter": good.update_query_dict({"options": "-c nonsense=1"}),
        "wrong sslmode": good.update_query_dict({"sslmode": "nonsense"}),
        "NUL in the password": good.set(password=f"{CANARY}\0"),
    }
    return changed[way].render_as_string(hide_password=False)


# Failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "word"),
    [
        ("no server", "Connection refused"),
        ("no host", "could not translate host name"),
        ("no database", 'database "nowhere" does not exist'),
        ("no role", 'role "nobody" does not exist'),
        ("no TLS", r"?sslmode=disable"),
        ("no such port", "invalid port number"),
        ("unknown argument", "nonsense"),
        ("unknown parameter", "nonsense"),
        ("wrong sslmode", "invalid sslmode value"),
        ("NUL in the password", "cannot take"),
    ],
)
def test_a_connection_that_fails_shows_no_password_in_the_variables_of_its_traceback(
    run: Run, database_url: str, way: str, word: str
):
    printed = run(misled(database_url, way), "-c", PRELUDE + CONNECT)
    assert printed.count("raised") == 7
    assert printed.count(word) >= 8


def test_a_wrong_password_is_not_shown_by_the_failures_it_causes(run: Run, guarded_url: str):
    printed = run(guarded_url, "-c", PRELUDE + CONNECT)
    assert printed.count("raised") == 7
    assert printed.count("password authentication failed") >= 8


def test_a_url_that_cannot_be_split_is_not_shown_by_the_failures_it_causes(run: Run, database_url: str):
    printed = run(database_url.replace(CANARY, f"{CANARY}@"), "-c", PRELUDE + CONNECT)
    assert printed.count("raised") == 7
    assert printed.count("percent-encoded") >= 8


def test_mistakes_of_a_working_client_show_no_password(run: Run, database_url: str):
    printed = run(
        database_url,
        "-c",
        PRELUDE
        + """
client = qf.connect()
client.molecules.create("CCO")
tell("sql", lambda: client.sql("SELECT nonsense"))
tell("placeholder", lambda: client.sql("SELECT %(x)s", {"y": 1}))
tell("write", lambda: client.sql("DROP TABLE molecules"))
tell("duplicate", lambda: client.molecules.create("OCC"))
tell("not found", lambda: client.calculations.get(1))
tell("field", lambda: client.calculations.query(nonsense=1))
tell("export", lambda: client.export("/proc/nowhere"))
tell("lost", lambda: client.session().__enter__().connection().exec_driver_sql(
    "SELECT pg_terminate_backend(pg_backend_pid())"))
client.close()
""",
    )
    assert printed.count("raised") == 8


def test_the_failure_that_was_being_handled_keeps_its_traceback():
    def connect_in_an_emergency() -> None:
        try:
            int("x")
        except ValueError:
            qf.connect("postgresql://me@127.0.0.1:1/none")

    with pytest.raises(qf.ConnectionFailed) as caught:
        connect_in_an_emergency()

    chain: list[BaseException] = [caught.value]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    assert [type(error).__name__ for error in chain] == [
        "ConnectionFailed", "OperationalError", "OperationalError", "ValueError"
    ]  # fmt: skip
    assert [error.__traceback__ is None for error in chain] == [False, True, True, False]


# What is shown, logged, stored, handed on ---------------------------------------------------------------------------


def test_the_command_line_prints_and_logs_no_password(run: Run, database_url: str, tmp_path: Path):
    (tmp_path / "in.csv").write_text("smiles,energy\nCCO,-11.4\nC((,-1\n")
    commands = {
        "db status": 0,
        "db upgrade": 0,
        "load in.csv": 2,
        "load missing.csv": 1,
        "stats": 0,
        "stats --user-id me": 1,
        "doctor": 0,
        "export out": 0,
        "export out --tables nonsense": 2,
        "restore missing": 1,
        "restore out": 0,
        f"stats --url {misled(database_url, 'no server')}": 1,
        f"db upgrade --url {misled(database_url, 'no database')}": 1,
        f"stats --url {database_url.replace(CANARY, f'{CANARY}@')}": 1,
    }
    program = """
import json, os
from qforge_sdk.cli import app
codes = []
for command in json.loads(os.environ["COMMANDS"]):
    try:
        app(command.split())
    except SystemExit as exc:
        codes.append(exc.code)
print("codes:", codes)
"""
    settings = {"COMMANDS": json.dumps(list(commands)), "LOG_LEVEL": "DEBUG", "LOG_FILE": "qforge.log"}
    printed = run(database_url, "-c", program, **settings)
    assert f"codes: {list(commands.values())}" in printed


def test_the_program_itself_shows_no_password_when_it_fails(run: Run, database_url: str):
    printed = run(misled(database_url, "no server"), "-m", "qforge_sdk.cli", "stats", code=1, LOG_LEVEL="DEBUG")
    assert "ConnectionFailed" in printed


def test_debug_logging_of_everything_shows_no_password(run: Run, database_url: str):
    printed = run(
        database_url,
        "-c",
        PRELUDE
        + f"""
logging.basicConfig(filename="all.log", level=1, force=True)
for name in ("sqlalchemy", "sqlalchemy.pool", "sqlalchemy.engine", "qforge_sdk", "alembic"):
    logging.getLogger(name).setLevel(logging.DEBUG)
client = qf.connect()
client.molecules.create("CCO")
client.sql("SELECT 1 AS one")
client.close()
os.environ["DATABASE_URL"] = {misled(database_url, "no server")!r}
try:
    qf.connect()
except qf.ConnectionFailed:
    logging.exception("no connection")
""",
    )
    for word in ("Created new connection", "INSERT INTO", "no connection", "Connection refused"):
        assert word in printed


THINGS = """
from qforge_sdk.config import Settings
client = qf.connect()
client.molecules.create("CCO")
client.sql("SELECT 1")
session = client.session().__enter__()
connection = session.connection()
things = {
    "client": client, "engine": client.engine, "url": client.engine.url, "pool": client.engine.pool,
    "molecules": client.molecules, "calculations": client.calculations, "atoms": client.atoms,
    "batches": client.batches, "events": client.events, "bound query": client.molecules.query,
    "context": client._context, "reader": client._reader, "settings": Settings(), "session": session,
    "connection": connection, "driver": connection.connection.driver_connection,
    "dsn": connection.connection.driver_connection.dsn, "stats": client.stats(), "health": client.health(),
    "record": client.molecules.get_by_smiles("CCO"), "frame": client.molecules.query(),
    "query": client.molecules.query(smiles="CCO"), "idle": client._reader._idle,
}
"""


def test_nothing_shows_a_password_when_it_is_shown(run: Run, database_url: str):
    printed = run(
        database_url,
        "-c",
        PRELUDE
        + THINGS
        + """
for name, thing in things.items():
    print(name, repr(thing), str(thing), f"{thing}", getattr(thing, "_repr_html_", str)())
    print(name, getattr(thing, "__dict__", None), [getattr(thing, slot, None) for slot in
          getattr(type(thing), "__slots__", ())])
print(Settings().model_dump(), Settings().model_dump_json(), len(things), "things shown")
""",
    )
    assert "23 things shown" in printed
    assert "qforge_owner" in printed


def test_no_pickle_holds_a_password(run: Run, database_url: str):
    # SQLAlchemy's URL object is the one thing whose purpose is to carry the password on.
    printed = run(
        database_url,
        "-c",
        PRELUDE
        + THINGS
        + f"""
import io, pickle
del things["url"]
refused = []
for name, thing in things.items():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        written = io.BytesIO()
        try:
            pickle.Pickler(written, protocol).dump(thing)
        except (TypeError, AttributeError, pickle.PicklingError):
            refused.append(name)
        if b{CANARY!r} in written.getvalue():
            print("held by", name, protocol)
print("refused", sorted(set(refused)))
""",
    )
    assert "held by" not in printed
    for name in ("client", "engine", "molecules", "bound query", "reader", "settings", "session"):
        assert f"'{name}'" in printed


def test_an_export_holds_no_password(run: Run, database_url: str, tmp_path: Path):
    run(
        database_url,
        "-c",
        PRELUDE
        + """
with qf.connect() as client:
    client.calculations.create(smiles="CCO", energy=-11.4)
    client.batches.create("screen", molecules=["C"])
    client.export("out")
""",
    )
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    tables = [path for path in files if path.suffix == ".parquet"]
    assert len(tables) >= 4
    assert [path.name for path in files if CANARY.encode() in path.read_bytes()] == []
    for path in tables:
        table = pq.read_table(path)
        assert CANARY not in f"{table.schema.metadata}{table.to_pylist()}"


def test_no_row_of_the_audit_trail_holds_a_password(run: Run, database_url: str):
    run(
        database_url,
        "-c",
        PRELUDE
        + f"""
from qforge_sdk import logger
client = qf.connect()
molecule = client.molecules.create("CCO")
client.molecules.update(molecule.id, name="ethanol")
os.environ["DATABASE_URL"] = {misled(database_url, "no TLS")!r}
try:
    qf.connect()
except qf.ConnectionFailed as exc:
    with client.session() as session:
        logger.log_calculation_failed(
            session, None, molecule.id, str(exc), xtb_stderr="".join(traceback.format_exception(exc))
        )
client.close()
""",
    )
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        rows = connection.scalars(text("SELECT event_logs::text FROM public.event_logs")).all()
    assert len(rows) >= 3
    assert any("server does not support SSL" in row for row in rows)
    assert CANARY not in "".join(rows)


def test_a_notebook_whose_cells_fail_holds_no_password(run: Run, database_url: str, tmp_path: Path):
    cells = [
        "%xmode Verbose\nimport os\nimport qforge_sdk as qf\nfrom qforge_sdk.db.database import get_db_context",
        "client = qf.connect()\nclient",
        "client.molecules.create('CCO')\nclient.molecules.query()",
        "client.sql('SELECT nonsense')",
        "os.environ['DATABASE_URL'] = os.environ['NO_SERVER']\nqf.connect()",
        "with get_db_context() as session:\n    session.connection()",
        "os.environ['DATABASE_URL'] = os.environ['TORN']\nqf.connect()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    run(
        database_url,
        "-c",
        """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read("in.ipynb", as_version=4)
NotebookClient(notebook, allow_errors=True, kernel_name="python3", timeout=120).execute()
nbformat.write(notebook, "out.ipynb")
""",
        NO_SERVER=misled(database_url, "no server"),
        TORN=database_url.replace(CANARY, f"{CANARY}@"),
    )
    stored = (tmp_path / "out.ipynb").read_text()
    assert CANARY not in stored
    raised = [
        output["ename"] for cell in json.loads(stored)["cells"] for output in cell["outputs"] if "ename" in output
    ]
    assert raised == ["DatabaseError", "ConnectionFailed", "ConnectionFailed", "ConfigurationError"]


# The run itself -----------------------------------------------------------------------------------------------------


def test_a_test_that_prints_the_password_is_named(tmp_path: Path):
    loud = tmp_path / "test_loud.py"
    loud.write_text(
        "import sys\n"
        f"def test_output(): print({CANARY!r})\n"
        f"def test_error_output(): print({CANARY!r}, file=sys.stderr)\n"
        f"def test_failure(): assert {CANARY!r} == 1\n"
        "def test_quiet(): print('nothing')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c",
         str(ROOT / "pyproject.toml"), f"{Path(__file__)}::{test_no_test_of_this_run_printed_the_password.__name__}",
         str(loud)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    _, _, named = done.stdout.partition("the password was printed by:\n")
    assert [line.partition("::")[2] for line in named.splitlines()[:3]] == [
        "test_output", "test_error_output", "test_failure"
    ]  # fmt: skip
    assert "2 failed, 3 passed" in done.stdout


@pytest.mark.last
def test_no_test_of_this_run_printed_the_password(ear: Ear):
    if ear.heard:
        pytest.fail("the password was printed by:\n" + "\n".join(ear.heard), pytrace=False)
