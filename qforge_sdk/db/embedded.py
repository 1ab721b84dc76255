"""The embedded PostgreSQL: started with its first user, stopped with its last, closed to everybody else.

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
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import platformdirs
import psycopg2

from qforge_sdk.db.cluster import DATABASE, MAJOR, OWNER, PORT, SUPERUSER, Cluster, name_of
from qforge_sdk.db.cluster_upgrade import upgrade_cluster
from qforge_sdk.errors import EmbeddedServerError


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
                _unlock(self._users)
                with _alone(self.data_dir / "users") as alone:
                    if alone:
                        Cluster.of(self.data_dir).stop()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _url(self, role: str) -> str:
        return f"postgresql+psycopg2://{role}@/{DATABASE}?host={quote(str(self.socket_dir), safe='/')}&port={PORT}"


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
    folder = Path(data_dir if data_dir is not None else default_data_dir()).expanduser().resolve()
    with _REGISTRY_LOCK:
        _make_folder(folder)
        try:
            return _join(folder)
        except EmbeddedServerError:
            raise
        except (OSError, psycopg2.Error) as exc:
            raise EmbeddedServerError(f"the server of {folder} does not start: {exc}") from exc


def _join(folder: Path) -> EmbeddedServer:
    with _locked(folder / "lock"):
        cluster = Cluster.of(folder)
        # Checked even by a process that holds it: the server may have been killed.
        if not cluster.is_open():
            found = cluster.prepare()
            if found < MAJOR:
                upgrade_cluster(cluster, found)
            cluster.start()
        held = _REGISTRY.get(folder)
        if held is not None and held._pid == os.getpid():
            held._holds += 1
            return held
        users = _open_lock(folder / "users")
        fcntl.flock(users, fcntl.LOCK_SH)
        server = _REGISTRY[folder] = EmbeddedServer(folder, cluster.socket_dir, users)
        return server


@atexit.register
def _stop_all() -> None:
    for server in list(_REGISTRY.values()):
        server._holds = min(server._holds, 1)
        with contextlib.suppress(EmbeddedServerError):
            server.stop()


def _make_folder(folder: Path) -> None:
    known = {"pgdata", "pgdata.new", "socket", "lock", "users", "server.log", "socket_dir"}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        strangers = [
            path.name for path in folder.iterdir() if path.name not in known and not path.name.startswith("pgdata.")
        ]
    except OSError as exc:
        raise EmbeddedServerError(
            f"{folder} cannot be used as data folder: {exc.strerror}; name another by QFORGE_DATA_DIR or data_dir="
        ) from exc
    owner = folder.stat().st_uid
    if os.geteuid() != 0 and owner not in {0, os.geteuid()}:
        raise EmbeddedServerError(f"{folder} belongs to {name_of(owner)}; name another folder by QFORGE_DATA_DIR")
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
        _unlock(handle)


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
        _unlock(handle)


def _unlock(handle: int) -> None:
    # Closing alone would leave the lock with a forked child that inherited the handle.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
