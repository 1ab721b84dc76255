"""TLS on the way to a server that is not this machine, to one that has it and to one that has not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from sqlalchemy import NullPool, make_url, text

import qforge_sdk as qf
from qforge_sdk.config import normalise_url
from qforge_sdk.db.database import make_engine
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from tests.fixtures.databases import OWNER, Databases
from tests.fixtures.servers import PostgresServer

# The servers of the wheel (16 and 18) are built without TLS, Debian's is built with it.
WITH_TLS = 15
# The name of a host elsewhere, the address of this machine.
HOST = "db.example.org"
CURE = r"server has no TLS.*\?sslmode=disable"
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "root.crt"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def tls_server(authority: trustme.CA) -> Iterator[PostgresServer]:
    server = PostgresServer(WITH_TLS)
    certificate = authority.issue_cert(HOST)
    files = {"server.key": certificate.private_key_pem, "server.crt": certificate.cert_chain_pems[0]}
    for name, content in files.items():
        path = server.folder / name
        content.write_to_path(path)
        path.chmod(0o600)
        shutil.chown(path, server.os_user)
    server.start(
        ssl="on", ssl_key_file=str(server.folder / "server.key"), ssl_cert_file=str(server.folder / "server.crt")
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tls_url(tls_server: PostgresServer) -> Iterator[str]:
    """URL of a migrated database with the server's name in it, without arguments on TLS."""
    databases = Databases(tls_server, owner=OWNER, roles=f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
    with databases.clone() as name:
        yield elsewhere(databases.url(name))


@pytest.fixture
def plain_url(database_url: str) -> str:
    """URL of a migrated database on a server without TLS, as a host elsewhere."""
    return elsewhere(database_url)


def elsewhere(url: str, **arguments: str) -> str:
    """The same database reached as a host that is not this machine."""
    changed = make_url(url).set(host=HOST, drivername="postgresql")
    return changed.update_query_dict({"hostaddr": "127.0.0.1", **arguments}).render_as_string(hide_password=False)


def encryption_of(client: qf.Client) -> list[bool]:
    """Whether psycopg2's connection and ADBC's are encrypted, as the server sees them."""
    with client.session() as session:
        written = session.scalar(text(ENCRYPTED))
    return [written, bool(client.sql(ENCRYPTED)["ssl"][0])]


def test_writes_and_reads_are_encrypted_on_the_way_to_another_host(tls_url: str, monkeypatch: pytest.MonkeyPatch):
    # libpq would try TLS first by itself.
    monkeypatch.setenv("PGSSLMODE", "disable")
    with qf.connect(tls_url) as client:
        assert encryption_of(client) == [True, True]


def test_the_url_may_say_that_a_trusted_network_needs_no_tls(tls_url: str):
    with qf.connect(elsewhere(tls_url, sslmode="disable")) as client:
        assert encryption_of(client) == [False, False]


def test_the_variables_of_the_environment_ask_for_tls_too(
    tls_url: str, tls_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
):
    name = make_url(tls_url).database or ""
    parts = {"DB_HOST": HOST, "DB_USER": OWNER, "DB_PORT": str(tls_server.port), "DB_NAME": name}
    for variable, value in {**parts, "PGHOSTADDR": "127.0.0.1", "PGSSLMODE": "disable"}.items():
        monkeypatch.setenv(variable, value)
    with qf.connect() as client:
        assert encryption_of(client) == [True, True]


def test_a_server_with_the_right_certificate_is_verified(tls_url: str, authority_file: Path):
    with qf.connect(elsewhere(tls_url, sslmode="verify-full", sslrootcert=str(authority_file))) as client:
        assert encryption_of(client) == [True, True]


def test_a_server_of_another_authority_is_refused(tls_url: str, tmp_path: Path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "root.crt")
    with pytest.raises(qf.ConnectionFailed, match="certificate verify failed"):
        qf.connect(elsewhere(tls_url, sslmode="verify-full", sslrootcert=str(tmp_path / "root.crt")))


def test_a_server_of_another_name_is_refused(tls_url: str, authority_file: Path):
    url = elsewhere(tls_url, sslmode="verify-full", sslrootcert=str(authority_file))
    with pytest.raises(qf.ConnectionFailed, match="does not match host name"):
        qf.connect(url.replace(HOST, "other.example.org"))


def test_a_server_without_tls_is_refused_with_the_cure(plain_url: str):
    with pytest.raises(qf.ConnectionFailed, match=CURE):
        qf.connect(plain_url)


def test_a_reader_refuses_a_server_without_tls_with_the_cure(plain_url: str):
    reader = ArrowReader(make_engine(normalise_url(plain_url), poolclass=NullPool), Scope())
    with pytest.raises(qf.ConnectionFailed, match=CURE):
        reader.read("SELECT 1")


def test_the_cure_works(plain_url: str):
    with qf.connect(elsewhere(plain_url, sslmode="disable")) as client:
        assert encryption_of(client) == [False, False]
