"""The embedded server: shared, durable, and closed to everybody else."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import NullPool, create_engine, text

import qforge_sdk as qf
from qforge_sdk.db import cluster, embedded
from qforge_sdk.db.cluster import Cluster

AS_ROOT = os.geteuid() == 0
STRANGER = "qforge_stranger"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that other users of the machine may pass through."""
    path = Path(tempfile.mkdtemp(prefix="qe-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    Cluster.of(path / "data").stop()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data folder that was used and is not in use."""
    path = Path(tempfile.mkdtemp(prefix="qe-", dir="/tmp"))
    path.chmod(0o755)
    embedded.start(path / "data").stop()
    yield path / "data"
    shutil.rmtree(path)


@pytest.fixture
def data(folder: Path, made: Path) -> Path:
    """A copy of that, to spare the test a second of initdb."""
    subprocess.run(["cp", "-a", made, folder], check=True)
    return folder / "data"


@pytest.fixture(scope="module")
def stranger() -> str:
    """Another user of the machine."""
    if AS_ROOT:
        subprocess.run(["useradd", "--system", "--no-create-home", STRANGER], check=False, capture_output=True)
        return STRANGER
    return "nobody"


def query(url: str, sql: str) -> list[tuple]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(sql))
        return [tuple(row) for row in result] if result.returns_rows else []


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HOLD = """
    import sys
    from qforge_sdk.db import embedded
    server = embedded.start(sys.argv[1])
    print(server.url, flush=True)
    sys.stdin.read()
"""


def holding(data: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its standard input ends."""
    process = python(HOLD, data)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql"), process.communicate()
    return process


def is_running(data: Path) -> bool:
    return Cluster.of(data).run("pg_ctl", "-D", str(data / "pgdata"), "status", check=False).returncode == 0


def postmaster_pid(data: Path) -> int:
    return int((data / "pgdata" / "postmaster.pid").read_text().splitlines()[0])


def test_the_sdk_is_an_ordinary_role_on_a_durable_server(folder: Path):
    with embedded.start(folder / "data") as server:
        (found,) = query(
            server.url,
            "SELECT current_user, rolsuper, rolbypassrls, current_setting('fsync'), "
            "current_setting('synchronous_commit'), current_setting('full_page_writes'), "
            "current_setting('data_checksums'), current_setting('listen_addresses'), "
            "current_setting('server_version_num') FROM pg_roles WHERE rolname = current_user",
        )
    assert found[:8] == ("qforge_owner", False, False, "on", "on", "on", "on", "")
    assert found[8].startswith("18")


def test_the_second_start_in_a_process_joins_the_first(data: Path):
    first = embedded.start(data)
    second = embedded.start(str(data))
    assert second is first
    first.stop()
    assert is_running(data)
    second.stop()
    assert not is_running(data)
    second.stop()


def test_the_last_process_stops_it(data: Path):
    other = holding(data)
    server = embedded.start(data)
    other.communicate("")
    assert query(server.url, "SELECT 1") == [(1,)]
    server.stop()
    assert not is_running(data)


def test_a_killed_user_neither_stops_it_nor_keeps_it(data: Path):
    other = holding(data)
    with embedded.start(data) as server:
        other.kill()
        other.communicate()
        assert query(server.url, "SELECT 1") == [(1,)]
    assert not is_running(data)


def test_it_is_found_again_when_its_only_user_was_killed(data: Path):
    other = holding(data)
    other.kill()
    other.communicate()
    pid = postmaster_pid(data)
    with embedded.start(data) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
        assert postmaster_pid(data) == pid


def test_committed_rows_survive_a_killed_server(data: Path):
    server = embedded.start(data)
    query(server.url, "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) AS n")
    os.kill(postmaster_pid(data), signal.SIGKILL)
    time.sleep(0.3)
    server.stop()
    with embedded.start(data) as again:
        assert query(again.url, "SELECT count(*) FROM kept") == [(1000,)]


def test_two_first_starts_at_once_take_turns(folder: Path):
    processes = [python(HOLD, folder / "data") for _ in range(3)]
    urls = {process.stdout.readline().strip() for process in processes}
    assert len(urls) == 1
    assert query(urls.pop(), "SELECT 1") == [(1,)]
    for process in processes:
        process.communicate("")
    assert not is_running(folder / "data")


def test_a_forked_child_does_not_stop_it(data: Path):
    with embedded.start(data) as server:
        done = python(
            """
            import os, sys
            from qforge_sdk.db import embedded
            server = embedded.start(sys.argv[1])
            pid = os.fork()
            if pid == 0:
                server.stop()
                sys.exit(0)
            os.waitpid(pid, 0)
            import psycopg2
            psycopg2.connect(host=str(server.socket_dir), user="qforge_owner", dbname="qforge").close()
            server.stop()
            """,
            data,
        )
        assert (done.communicate()[1], done.returncode) == ("", 0)
        assert query(server.url, "SELECT 1") == [(1,)]


def test_the_first_cell_warns_of_nothing(folder: Path):
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"import qforge_sdk as qf\nqf.connect(data_dir={str(folder / 'data')!r})",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def attempts(socket_dir: Path, binaries: Path, user: str) -> dict[str, str]:
    """What another user of the machine gets for its attempts to connect."""
    found = {}
    for role in ("postgres", "qforge_owner", user):
        for database in ("postgres", "qforge"):
            done = subprocess.run(
                [str(binaries / "psql"), "-h", str(socket_dir), "-U", role, "-d", database, "-Atc", "SELECT 'in'"],
                capture_output=True,
                text=True,
                check=False,
                env={"PATH": os.environ["PATH"], "PGCONNECT_TIMEOUT": "5"},
                **({"user": user, "extra_groups": []} if os.geteuid() == 0 else {}),
            )
            found[f"{role}@{database}"] = done.stdout.strip() or str(done.returncode)
    return found


@pytest.fixture(scope="module")
def psql() -> Iterator[Path]:
    """psql where every user of the machine can run it."""
    if Path("/usr/lib/postgresql/15/bin/psql").exists():
        yield Path("/usr/lib/postgresql/15/bin")
        return
    yield cluster.binaries(18)


@pytest.mark.parametrize("name", ["data", "d" * 120], ids=["short path", "long path"])
def test_no_other_user_of_the_machine_gets_in(folder: Path, stranger: str, psql: Path, name: str):
    with embedded.start(folder / name) as server:
        for path in (folder / name, server.socket_dir, folder):
            # Even with every door on the way open, the rules of the server itself hold.
            path.chmod(0o777)
        for socket in server.socket_dir.glob(".s.PGSQL.*"):
            socket.chmod(0o777)
        found = attempts(server.socket_dir, psql, stranger)
        assert set(found.values()) == {"2"}, found
        assert query(server.url, "SELECT 1") == [(1,)]
    assert server.socket_dir.parent == folder / name or not server.socket_dir.exists()


def test_the_folders_themselves_are_closed(data: Path, stranger: str, psql: Path):
    with embedded.start(data) as server:
        assert server.socket_dir.stat().st_mode & 0o077 == 0
        assert (data / "pgdata").stat().st_mode & 0o077 == 0
        assert set(attempts(server.socket_dir, psql, stranger).values()) == {"2"}


@pytest.mark.parametrize("while_running", [False, True])
def test_a_cluster_that_trusts_everybody_is_closed_at_the_next_start(data: Path, while_running: bool):
    other = holding(data)
    rules = data / "pgdata" / "pg_hba.conf"
    if not while_running:
        other.communicate("")
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    if while_running:
        Cluster.of(data).run("pg_ctl", "-D", str(data / "pgdata"), "reload")
    with embedded.start(data) as server:
        assert "trust" not in rules.read_text()
        assert query(server.admin_url, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'trust'") == [(0,)]
    if while_running:
        other.communicate("")


def test_an_ordinary_user_starts_its_own(folder: Path, psql: Path):
    if not AS_ROOT:
        with embedded.start(folder / "data") as server:
            assert query(server.url, "SELECT 1") == [(1,)]
        return
    subprocess.run(["useradd", "--system", "--no-create-home", "qforge_user"], check=False, capture_output=True)
    entry = pwd.getpwnam("qforge_user")
    data = folder / "data"
    data.mkdir()
    os.chown(data, entry.pw_uid, entry.pw_gid)
    pid = os.fork()
    if pid == 0:
        # A process of that user, which imports nothing any more that it could not read.
        code = 1
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            server = embedded.start(data)
            with psycopg2.connect(host=str(server.socket_dir), user="qforge_owner", dbname="qforge") as connection:
                connection.cursor().execute("CREATE TABLE mine (n int)")
            found = attempts(server.socket_dir, psql, "qforge_user")
            assert found["qforge_owner@qforge"] == "in", found
            server.stop()
            code = 0
        except BaseException:  # noqa: BLE001 - what went wrong shall be seen
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (data / "pgdata").stat().st_uid == entry.pw_uid
    # Root may use it too, and the server still runs as its owner.
    with embedded.start(data) as server:
        assert query(server.url, "SELECT count(*) FROM mine") == [(0,)]


def test_a_folder_with_other_files_is_refused(folder: Path):
    (folder / "data").mkdir()
    (folder / "data" / "thesis.tex").write_text("")
    with pytest.raises(qf.EmbeddedServerError, match=r"thesis\.tex"):
        embedded.start(folder / "data")
    shutil.rmtree(folder / "data")


def test_data_of_a_newer_postgresql_are_refused(data: Path):
    (data / "pgdata" / "PG_VERSION").write_text("19\n")
    with pytest.raises(qf.EmbeddedServerError, match="upgrade qforge-sdk"):
        embedded.start(data)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(data: Path):
    (data / "pgdata" / "global" / "pg_control").unlink()
    with pytest.raises(qf.EmbeddedServerError, match="pg_control"):
        embedded.start(data)


def test_no_statement_reaches_the_log(data: Path):
    with embedded.start(data) as server:
        with pytest.raises(Exception, match="canary_table"):
            query(server.url, "SELECT 'canary' FROM canary_table")
        assert "canary" not in (data / "server.log").read_text()


@pytest.mark.parametrize("checksums", [True, False])
def test_data_of_postgresql_16_are_upgraded_and_kept(folder: Path, checksums: bool):
    data = folder / "data"
    data.mkdir()
    old = Cluster.of(data)
    old._let_pass()
    extra = ("--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", *(["--data-checksums"] if checksums else []))
    old.initialise(data / "pgdata", major=16, extra=extra)
    fill_cluster(old)
    # What a crash half way would leave behind.
    (data / "pgdata.upgrading").mkdir()
    (data / "pgdata.upgrading" / "half").write_text("")
    with embedded.start(data) as server:
        assert query(server.url, "SELECT count(*), sum(n) FROM kept") == [(1000, 500500)]
        assert query(server.url, "SELECT doubled(21)") == [(42,)]
        assert query(server.url, "SELECT relrowsecurity FROM pg_class WHERE relname = 'kept'") == [(True,)]
        assert query(server.url, "SELECT current_setting('server_version_num')::int / 10000") == [(18,)]
    kept = list(data.glob("pgdata.pg16-*"))
    assert len(kept) == 1
    assert (kept[0] / "PG_VERSION").read_text().strip() == "16"
    with embedded.start(data) as server:
        assert query(server.url, "SELECT count(*) FROM kept") == [(1000,)]


def fill_cluster(old: Cluster) -> None:
    """Give a cluster of PostgreSQL 16 the role and database, and a table with row level security."""
    old.make_socket_dir()
    base = ("-D", str(old.pgdata), "-w")
    old.write(old.log, "")
    old.run(
        "pg_ctl", *base, "-l", str(old.log), "-o",
        f"-k '{old.socket_dir}' -c listen_addresses=''", "start", major=16,
    )  # fmt: skip
    try:
        old._bootstrap()
        with old.connect("qforge_owner", "qforge") as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) AS n; "
                "ALTER TABLE kept ENABLE ROW LEVEL SECURITY; "
                "CREATE POLICY all_of_it ON kept USING (true); "
                "CREATE FUNCTION doubled(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'"
            )
        connection.close()
    finally:
        old.run("pg_ctl", *base, "-m", "fast", "stop", major=16)


def test_connect_brings_the_schema_up_and_finds_it_again(folder: Path):
    with qf.connect(data_dir=folder / "data") as client:
        client.molecules.create("CCO")
    with qf.connect(data_dir=folder / "data", user_id="a11ce000-0000-4000-8000-000000000001") as client:
        assert client.molecules.count() == 0
    with qf.connect(data_dir=folder / "data") as client:
        assert client.molecules.count() == 1
        assert "embedded" in repr(client)


def test_start_finds_a_server_that_was_killed_under_this_process(data: Path):
    with embedded.start(data) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
        os.kill(postmaster_pid(data), signal.SIGKILL)
        with embedded.start(data) as again:
            assert again is server
            assert query(server.url, "SELECT n FROM kept") == [(1,)]


def test_a_full_server_is_joined_and_not_stopped(data: Path):
    with embedded.start(data) as server:
        pid = postmaster_pid(data)
        crowd = []
        with pytest.raises(psycopg2.OperationalError, match="connection slots"):
            while True:
                crowd.append(psycopg2.connect(host=str(server.socket_dir), user="qforge_owner", dbname="qforge"))
        holding(data).communicate("")
        for connection in crowd:
            connection.close()
        assert postmaster_pid(data) == pid


def test_a_forked_child_that_lives_on_does_not_keep_it(data: Path):
    server = embedded.start(data)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        server.stop()
        assert not is_running(data)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_number_that_another_program_got_is_not_taken_for_the_server(data: Path):
    user = Cluster.of(data).os_user if AS_ROOT else None
    bystander = subprocess.Popen(["sleep", "60"], user=user)
    pid_file = data / "pgdata" / "postmaster.pid"
    pid_file.write_text(f"{bystander.pid}\n{data / 'pgdata'}\n0\n5432\n{data / 'socket'}\n")
    try:
        with embedded.start(data) as server:
            assert query(server.url, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("name", ["Bob's lab", "a, b", 'a"b', "$(id)", "`id`", "r\u00e9sultats"])
def test_any_name_of_a_folder_will_do(folder: Path, made: Path, name: str):
    subprocess.run(["cp", "-a", made, folder / name], check=True)
    with embedded.start(folder / name) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
    assert [path.name for path in folder.iterdir()] == [name]


def test_root_and_the_owner_share_one_server(data: Path):
    rules = (data / "pgdata" / "pg_ident.conf").read_text()
    assert Cluster(data, "alice").rules()["pg_ident.conf"] != rules
    with embedded.start(data):
        assert rules == (data / "pgdata" / "pg_ident.conf").read_text()
    assert '"root"' in rules


def test_the_upgrade_is_ended_that_was_cut_off_between_its_two_last_steps(data: Path):
    with embedded.start(data) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
    (data / "pgdata").rename(data / "pgdata.upgrading")
    (data / "pgdata.pg16-20260101000000").mkdir()
    with embedded.start(data) as server:
        assert query(server.url, "SELECT n FROM kept") == [(1,)]


@pytest.mark.parametrize("name", ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "qforge.conf"])
def test_a_lost_file_of_settings_is_written_again(data: Path, name: str):
    (data / "pgdata" / name).unlink()
    with embedded.start(data) as server:
        assert query(server.url, "SELECT current_setting('fsync')") == [("on",)]


def test_links_that_the_servers_user_planted_are_not_followed(data: Path, folder: Path):
    treasure = folder / "treasure"
    treasure.write_text("gold")
    (data / "pgdata" / "pg_hba.conf.new").symlink_to(treasure)
    embedded.start(data).stop()
    assert (treasure.read_text(), treasure.stat().st_uid) == ("gold", os.geteuid())
    (data / "socket").rmdir()
    (data / "socket").symlink_to(folder)
    with pytest.raises(qf.EmbeddedServerError, match="does not start"):
        embedded.start(data)
    assert folder.stat().st_uid == os.geteuid()


def test_nobody_gets_in(data: Path, psql: Path):
    with embedded.start(data) as server:
        for path in (data, server.socket_dir, *server.socket_dir.iterdir()):
            path.chmod(0o777)
        assert set(attempts(server.socket_dir, psql, "nobody").values()) == {"2"}


def test_a_server_that_does_not_stop_is_ended_and_recovers(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "_STOP_SECONDS", 1)
    server = embedded.start(data)
    query(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
    (checkpointer,) = query(server.admin_url, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    os.kill(checkpointer[0], signal.SIGSTOP)
    server.stop()
    assert not is_running(data)
    with embedded.start(data) as server:
        assert query(server.url, "SELECT n FROM kept") == [(1,)]


def test_a_crash_of_a_backend_does_not_log_its_statement(data: Path):
    with embedded.start(data) as server:
        connection = psycopg2.connect(host=str(server.socket_dir), user="qforge_owner", dbname="qforge")
        killer = threading.Timer(0.3, os.kill, [connection.info.backend_pid, signal.SIGKILL])
        killer.start()
        with pytest.raises(psycopg2.OperationalError):
            connection.cursor().execute("SELECT pg_sleep(20), 'canary'")
        connection.close()
        killer.join()
        while "terminated by signal 9" not in (data / "server.log").read_text():
            time.sleep(0.05)
    log = (data / "server.log").read_text()
    assert "terminated by signal 9" in log
    assert "canary" not in log
