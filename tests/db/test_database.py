"""Engines, sessions, and the default database."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, QueuePool, select, text
from sqlalchemy.orm import Session

from qforge_sdk.config import Settings, normalise_url
from qforge_sdk.db import crud, database
from qforge_sdk.db.database import (
    check_db_health,
    close_db,
    get_db,
    get_db_context,
    init_db,
    make_engine,
    session_factory,
    setup_database,
)
from qforge_sdk.db.models import Molecule
from qforge_sdk.db.scope import Scope
from qforge_sdk.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectionFailed,
    InvalidInput,
    SchemaMissing,
    ScopeNotHeld,
)
from qforge_sdk.schemas import MoleculeCreate
from tests.fixtures.tenants import ALICE

NOBODY = "postgresql://me:hunter2@127.0.0.1:1/db"


@pytest.fixture(autouse=True)
def default_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    close_db()


@pytest.fixture
def opened() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def open_engine(url: str, **options: Any) -> Engine:
        engines.append(make_engine(normalise_url(url), **options))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.dispose()


def molecules(engine: Engine) -> list[str | None]:
    with Session(engine) as session:
        return list(session.scalars(select(Molecule.smiles).order_by(Molecule.id)))


def test_the_pool_is_the_old_modules(opened: Callable[..., Engine]):
    pool = opened(NOBODY).pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool._max_overflow, pool._recycle, pool._pre_ping) == (20, 30, 3600, True)


def test_the_server_sees_who_is_connected(database_url: str, opened: Callable[..., Engine]):
    with opened(database_url).connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "qforge_sdk"


def test_the_urls_own_arguments_win(database_url: str, opened: Callable[..., Engine]):
    engine = opened(f"{database_url}?application_name=mine&options=-cstatement_timeout%3D4321")
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "mine"
        assert connection.scalar(text("SHOW statement_timeout")) == "4321ms"


def test_another_pool_takes_its_place(database_url: str, opened: Callable[..., Engine]):
    engine = opened(database_url, poolclass=NullPool)
    assert isinstance(engine.pool, NullPool)
    assert check_db_health(engine).pool_size is None


def test_a_connection_that_the_server_ended_is_replaced(
    database_url: str, admin_url: str, opened: Callable[..., Engine]
):
    engine = opened(database_url)
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with opened(admin_url, poolclass=NullPool).begin() as admin:
        admin.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != pid


def test_a_scoped_engine_acts_as_the_tenant(database_url: str, opened: Callable[..., Engine]):
    with opened(database_url, scope=Scope(ALICE)).connect() as connection:
        assert connection.execute(text("SELECT current_user, qforge.current_user_id()")).one() == (
            "qforge_scope",
            ALICE,
        )


def test_a_scoped_engine_refuses_autocommit(database_url: str, opened: Callable[..., Engine]):
    engine = opened(database_url, scope=Scope(ALICE)).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(ScopeNotHeld, match="autocommit"):
        connection.execute(text("SELECT 1"))


def test_objects_can_be_read_after_the_commit(database_url: str, opened: Callable[..., Engine]):
    with session_factory(opened(database_url)).begin() as session:
        molecule = crud.create_molecule(session, MoleculeCreate(smiles="O"))
    assert molecule.formula == "H2O"


def test_setup_creates_the_tables_and_returns_engine_and_sessions(empty_database_url: str):
    engine, sessions = setup_database(empty_database_url)
    with sessions() as session:
        assert crud.list_molecules(session) == ([], 0)
    assert check_db_health(engine).status == "healthy"


def test_setup_twice_changes_nothing(empty_database_url: str):
    setup_database(empty_database_url)
    engine, sessions = setup_database(empty_database_url)
    with sessions.begin() as session:
        crud.create_molecule(session, MoleculeCreate(smiles="O"))
    assert init_db() is engine
    assert molecules(engine) == ["O"]


def test_the_default_database_is_the_settings(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    with get_db_context() as session:
        crud.create_molecule(session, MoleculeCreate(smiles="O"))
    assert molecules(engine) == ["O"]


def test_the_default_tenant_is_the_settings(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("QFORGE_USER_ID", str(ALICE))
    setup_database()
    with get_db_context() as session:
        assert crud.create_molecule(session, MoleculeCreate(smiles="O")).user_id == ALICE
    with Session(engine) as service:
        assert crud.list_molecules(service)[0][0].user_id == ALICE


def test_a_tenant_of_no_uuid_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QFORGE_USER_ID", "alice")
    with pytest.raises(InvalidInput, match="alice"):
        setup_database(database_url)


def test_without_settings_the_embedded_server_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setenv("QFORGE_DATA_DIR", str(tmp_path / "lab"))
    with get_db_context() as session:
        crud.create_molecule(session, MoleculeCreate(smiles="O"))
    close_db()
    with get_db_context() as session:
        assert crud.get_molecule_by_smiles(session, "[H]O[H]") is not None


def test_an_error_rolls_back(database_url: str, engine: Engine):
    setup_database(database_url)
    with pytest.raises(KeyError), get_db_context() as session:
        crud.create_molecule(session, MoleculeCreate(smiles="O"))
        raise KeyError
    assert molecules(engine) == []


def test_a_commit_in_between_is_allowed(database_url: str, engine: Engine):
    setup_database(database_url)
    with pytest.raises(KeyError), get_db_context() as session:
        crud.create_molecule(session, MoleculeCreate(smiles="O"))
        session.commit()
        crud.create_molecule(session, MoleculeCreate(smiles="N"))
        raise KeyError
    assert molecules(engine) == ["O"]


def test_the_servers_errors_are_ours(database_url: str):
    setup_database(database_url)
    with pytest.raises(SchemaMissing), get_db_context() as session:
        session.execute(text("SELECT * FROM no_such_table"))


def test_connections_go_back_to_the_pool(database_url: str):
    engine, _ = setup_database(database_url)
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    with pytest.raises(KeyError), get_db_context() as session:
        session.execute(text("SELECT 1"))
        raise KeyError
    assert pool.checkedout() == 0


def test_the_dependency_commits_at_the_end(database_url: str, engine: Engine):
    setup_database(database_url)
    dependency = get_db()
    crud.create_molecule(next(dependency), MoleculeCreate(smiles="O"))
    assert molecules(engine) == []
    assert next(dependency, None) is None
    assert molecules(engine) == ["O"]


def test_the_dependency_rolls_back_on_an_error(database_url: str, engine: Engine):
    setup_database(database_url)
    dependency = get_db()
    crud.create_molecule(next(dependency), MoleculeCreate(smiles="O"))
    with pytest.raises(KeyError):
        dependency.throw(KeyError())  # type: ignore[attr-defined]
    assert molecules(engine) == []


def test_health_names_the_server_and_the_revision(database_url: str):
    setup_database(database_url)
    health = check_db_health()
    assert health.status == "healthy"
    assert health.database.startswith("PostgreSQL ")
    assert "schema revision" in health.message
    assert (health.tables_exist, health.pool_size) == (True, "20")
    assert health["status"] == "healthy"


def test_health_of_a_database_without_tables_says_how_to_get_them(
    empty_database_url: str, opened: Callable[..., Engine]
):
    health = check_db_health(opened(empty_database_url))
    assert (health.status, health.tables_exist) == ("unhealthy", False)
    assert "qforge db upgrade" in health.message


def test_health_of_a_server_that_is_down_says_so_soon_and_without_the_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", NOBODY)
    start = time.monotonic()
    health = check_db_health()
    assert time.monotonic() - start < 15
    assert (health.status, health.tables_exist) == ("unhealthy", False)
    assert "127.0.0.1" in health.message
    assert "hunter2" not in repr(health)


def test_health_of_settings_that_cannot_be_used_says_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DB_HOST", "h")
    assert "DB_USER" in check_db_health().message


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"DATABASE_URL": "postgresql://me:hun@ter2@h/db"}, ConfigurationError),
        ({"DB_USER": "me"}, ConfigurationError),
        ({"DATABASE_URL": NOBODY}, ConnectionFailed),
    ],
)
def test_what_cannot_be_opened_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], error: type[Exception]
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error), get_db_context() as session:
        session.execute(text("SELECT 1"))


def test_a_login_that_may_not_create_tables_is_told(
    empty_database_url: str, tenant_login: Callable[..., str], database_url: str
):
    login = normalise_url(tenant_login(database_url, ALICE))
    url = login.set(database=normalise_url(empty_database_url).database)
    with pytest.raises(AccessDenied):
        setup_database(url)


def test_a_tenant_login_uses_a_database_that_is_ready(tenant_login: Callable[..., str], database_url: str):
    setup_database(tenant_login(database_url, ALICE))
    with get_db_context() as session:
        assert crud.create_molecule(session, MoleculeCreate(smiles="O")).user_id == ALICE


def test_closing_twice_is_allowed(database_url: str):
    setup_database(database_url)
    close_db()
    close_db()


def test_importing_connects_to_nothing():
    code = f"import os; os.environ['DATABASE_URL'] = {NOBODY!r}; import {database.__name__}, qforge_sdk.logger"
    subprocess.run([sys.executable, "-c", code], check=True)
