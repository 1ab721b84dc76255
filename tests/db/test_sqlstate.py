"""Errors of real servers become the classes of ``errors.py``."""

from __future__ import annotations

import threading
from collections.abc import Callable

import adbc_driver_postgresql.dbapi as adbc
import psycopg2
import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.orm import Session

from qforge_sdk.db.models import Molecule
from qforge_sdk.db.sqlstate import redact, translate, translated
from qforge_sdk.errors import (
    AccessDenied,
    Conflict,
    ConnectionFailed,
    DatabaseError,
    InvalidInput,
    QForgeError,
    SchemaMissing,
    StatementTimeout,
)
from tests.fixtures.servers import PostgresServer
from tests.fixtures.tenants import ALICE, TenantEngine

MOLECULE = "INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4')"

# Statement, class, what the message names.
STATEMENTS: dict[str, tuple[str, type[QForgeError], str]] = {
    "a duplicate": (f"{MOLECULE}; {MOLECULE}", Conflict, "molecules_identity"),
    "a missing parent": (
        "INSERT INTO public.calculations (molecule_id, energy) VALUES (0, -1)",
        InvalidInput,
        "no such parent row",
    ),
    "a missing value": ("INSERT INTO public.molecules (smiles) VALUES ('C')", InvalidInput, "formula"),
    "a refused value": (
        "INSERT INTO public.batch_jobs (batch_name, status) VALUES ('b', 'done')",
        InvalidInput,
        "batch_jobs_status",
    ),
    "too long a text": (
        "INSERT INTO public.batch_jobs (batch_name) VALUES (repeat('x', 300))",
        InvalidInput,
        "too long",
    ),
    "no number": ("SELECT 'C'::int", InvalidInput, "integer"),
    "a division by zero": ("SELECT 1/0", InvalidInput, "division by zero"),
    "a write in a reader": ("SET TRANSACTION READ ONLY; DELETE FROM public.molecules", AccessDenied, "read-only"),
    "another's relation": ("SELECT * FROM pg_authid", AccessDenied, "permission denied"),
    "a missing relation": ("SELECT * FROM public.nothing", SchemaMissing, "qforge db upgrade"),
    "too slow a statement": (
        "SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)",
        StatementTimeout,
        "statement_timeout",
    ),
    "bad SQL": ("SELEC 1", DatabaseError, "syntax error"),
    "a lock that is not free": (
        "SELECT pg_advisory_lock(1); DO $$ BEGIN RAISE lock_not_available; END $$",
        DatabaseError,
        "lock_not_available",
    ),
}


@pytest.mark.parametrize(("statement", "kind", "said"), STATEMENTS.values(), ids=STATEMENTS.keys())
def test_the_orm_s_error_is_translated(session: Session, statement: str, kind: type[QForgeError], said: str) -> None:
    with pytest.raises(QForgeError, match=said) as caught, translated():
        session.connection().exec_driver_sql(statement)

    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, sqlalchemy.exc.DBAPIError)


@pytest.mark.parametrize(("statement", "kind", "said"), STATEMENTS.values(), ids=STATEMENTS.keys())
def test_psycopg2_s_error_is_translated(session: Session, statement: str, kind: type[QForgeError], said: str) -> None:
    with (
        session.connection().connection.cursor() as cursor,
        pytest.raises(QForgeError, match=said) as caught,
        translated(),
    ):
        cursor.execute(statement)

    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, psycopg2.Error)


QUERIES = {
    "no number": ("SELECT 'C'::int", InvalidInput),
    "a division by zero": ("SELECT 1/0", InvalidInput),
    "another's relation": ("SELECT * FROM pg_authid", AccessDenied),
    "a missing relation": ("SELECT * FROM public.nothing", SchemaMissing),
    "bad SQL": ("SELEC 1", DatabaseError),
    "a session that is ended": ("SELECT pg_terminate_backend(pg_backend_pid())", ConnectionFailed),
}


@pytest.mark.parametrize(("query", "kind"), QUERIES.values(), ids=QUERIES.keys())
def test_adbc_s_error_is_translated(database_url: str, query: str, kind: type[QForgeError]) -> None:
    with (
        adbc.connect(database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
        pytest.raises(QForgeError) as caught,
        translated(),
    ):
        cursor.execute(query)
        cursor.fetchall()

    assert type(caught.value) is kind


def test_adbc_s_timeout_is_translated(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"options": "-c statement_timeout=50"})
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False).replace("+", "%20")

    with (
        adbc.connect(plain) as connection,
        connection.cursor() as cursor,
        pytest.raises(StatementTimeout),
        translated(),
    ):
        cursor.execute("SELECT pg_sleep(5)")
        cursor.fetchall()


# Facts --------------------------------------------------------------------------------------------------------------


def error_of(session: Session, statement: str) -> QForgeError:
    with pytest.raises(QForgeError) as caught, translated():
        session.connection().exec_driver_sql(statement)
    return caught.value


def test_a_conflict_names_its_constraint(session: Session) -> None:
    error = error_of(session, f"{MOLECULE}; {MOLECULE}")

    assert isinstance(error, Conflict)
    assert error.constraint == "molecules_identity"


@pytest.mark.parametrize(
    ("statement", "field", "code"),
    [
        ("INSERT INTO public.molecules (smiles) VALUES ('C')", "formula", "23502"),
        ("INSERT INTO public.molecules (smiles, formula) VALUES ('', 'C')", "molecules_smiles_not_empty", "23514"),
        ("SELECT 'C'::int", None, "22P02"),
    ],
)
def test_invalid_input_names_its_field(session: Session, statement: str, field: str | None, code: str) -> None:
    error = error_of(session, statement)

    assert isinstance(error, InvalidInput)
    assert (error.field, error.code) == (field, code)


def test_a_database_error_names_its_sqlstate(session: Session) -> None:
    error = error_of(session, "SELEC 1")

    assert isinstance(error, DatabaseError)
    assert error.sqlstate == "42601"


def test_a_tenant_s_missing_parent_is_an_access_that_was_denied(tenant_engine: TenantEngine) -> None:
    with tenant_engine(ALICE).connect() as connection, pytest.raises(AccessDenied, match="parent row"), translated():
        connection.exec_driver_sql("INSERT INTO public.calculations (molecule_id, energy) VALUES (0, -1)")


def test_a_serialization_failure_is_a_database_error(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(MOLECULE)
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as first, pytest.raises(DatabaseError) as caught, translated():
        first.exec_driver_sql("SELECT * FROM public.molecules")
        with engine.begin() as second:
            second.exec_driver_sql("UPDATE public.molecules SET name = 'second'")
        first.exec_driver_sql("UPDATE public.molecules SET name = 'first'")

    assert caught.value.sqlstate == "40001"


# Connections --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ways_to_connect(database_url: str) -> Callable[..., list[Callable[[], object]]]:
    """Connecting by SQLAlchemy, psycopg2 and ADBC to the database with parts of its URL changed."""

    def make(**changes: object) -> list[Callable[[], object]]:
        url = make_url(database_url).set(**changes)
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return [
            create_engine(url, poolclass=NullPool).connect,
            lambda: psycopg2.connect(plain),
            lambda: adbc.connect(plain),
        ]

    return make


@pytest.mark.parametrize(
    "changes",
    [{"database": "nowhere"}, {"username": "nobody"}, {"port": 1}, {"host": "no-such-host.invalid"}],
    ids=["no database", "no role", "no server", "no host"],
)
@pytest.mark.parametrize("way", [0, 1, 2], ids=["sqlalchemy", "psycopg2", "adbc"])
def test_a_connection_that_cannot_be_made_has_failed(
    ways_to_connect: Callable[..., list[Callable[[], object]]], changes: dict[str, object], way: int
) -> None:
    with pytest.raises(ConnectionFailed) as caught, translated():
        ways_to_connect(password="hunter2", **changes)[way]()

    assert "hunter2" not in str(caught.value)


def test_a_refused_password_is_not_shown(database_url: str, server: PostgresServer) -> None:
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right-password'")
    rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}")
    server.execute("SELECT pg_reload_conf()")
    url = make_url(database_url).set(username="guarded", password="wrong-password")

    with pytest.raises(ConnectionFailed, match="password authentication failed") as caught, translated():
        create_engine(url, poolclass=NullPool).connect()

    rules.write_text(before)
    server.execute("SELECT pg_reload_conf()", "DROP ROLE guarded")
    assert "wrong-password" not in str(caught.value)


def test_a_server_that_ends_the_session_is_a_lost_connection(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(ConnectionFailed), translated():
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_full_server_is_a_failed_connection(database_url: str, server: PostgresServer) -> None:
    server.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    url = make_url(database_url).set(username="crowded")

    with (
        create_engine(url, poolclass=NullPool).connect(),
        pytest.raises(ConnectionFailed, match="too many connections"),
        translated(),
    ):
        create_engine(url, poolclass=NullPool).connect()

    server.execute("DROP ROLE crowded")


def test_an_empty_pool_is_a_failed_connection(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)

    with engine.connect(), pytest.raises(ConnectionFailed, match="no free connection"), translated():
        engine.connect()

    engine.dispose()


def test_a_cancelled_statement_ends_as_a_timeout(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(StatementTimeout), translated():
        driver = connection.connection.driver_connection
        threading.Timer(0.1, driver.cancel).start()
        connection.exec_driver_sql("SELECT pg_sleep(5)")


# What is left alone -------------------------------------------------------------------------------------------------


def test_an_error_of_ours_passes_as_it_is() -> None:
    with pytest.raises(Conflict) as caught, translated():
        raise Conflict("mine")

    assert caught.value.__cause__ is None


def test_an_error_that_is_not_the_database_s_is_not_translated() -> None:
    assert translate(ValueError("mine")) is None


def test_an_error_of_sqlalchemy_s_own_stays_sqlalchemy_s(session: Session) -> None:
    with pytest.raises(sqlalchemy.exc.InvalidRequestError), translated():
        session.get_one(Molecule, -1)


# Passwords ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = secret", "host=h password = ***"),
        ("host=h PASSWORD=secret", "host=h PASSWORD=***"),
        ("host=h password='se cret' dbname=d", "host=h password=*** dbname=d"),
        (r"host=h password='se\'cret' dbname=d", "host=h password=*** dbname=d"),
        ("postgresql://user:secret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se:cret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se/cret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se@cret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user@host/db?password=secret&x=1", "postgresql://user@host/db?password=***&x=1"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("password authentication failed", "password authentication failed"),
    ],
)
def test_a_password_is_taken_out_of_a_message(message: str, expected: str) -> None:
    assert redact(message) == expected
