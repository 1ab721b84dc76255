"""The logger: events of programs, and Python's own log messages."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

import qforge_sdk.logger
from qforge_sdk.config import Settings
from qforge_sdk.db import crud
from qforge_sdk.db.models import EventLog
from qforge_sdk.errors import ConfigurationError, InvalidInput
from qforge_sdk.logger import (
    log_batch_completed,
    log_batch_failed,
    log_batch_started,
    log_calculation_completed,
    log_calculation_failed,
    log_calculation_started,
    log_error,
    log_molecule_created,
    log_molecule_deleted,
    log_performance_metric,
    setup_logging,
)
from qforge_sdk.schemas import MoleculeCreate
from tests.fixtures.tenants import ALICE, BOB, TenantSession

ROOT = Path(__file__).parents[2]
Log = Callable[..., EventLog]

CASES: list[tuple[Log, dict[str, Any], tuple[str, str, int | None, str], dict[str, Any]]] = [
    (
        log_calculation_started,
        {"calculation_id": 1, "molecule_id": 2, "xtb_version": "6.7.1", "method": "GFN2-xTB", "solvation": "ALPB"},
        ("calculation_started", "calculations", 1, "success"),
        {"molecule_id": 2, "xtb_version": "6.7.1", "method": "GFN2-xTB", "solvation": "ALPB"},
    ),
    (
        log_calculation_completed,
        {"calculation_id": 1, "molecule_id": 2, "energy": -5.0, "gap": 0.0, "execution_time_seconds": 2},
        ("calculation_completed", "calculations", 1, "success"),
        {"molecule_id": 2, "energy": -5.0, "gap": 0.0, "execution_time_seconds": 2.0},
    ),
    (
        log_calculation_failed,
        {"calculation_id": 1, "molecule_id": 2, "error_message": "broke", "error_code": "X", "xtb_stderr": "a\0b"},
        ("calculation_failed", "calculations", 1, "error"),
        {"molecule_id": 2, "xtb_stderr": "ab"},
    ),
    (
        log_batch_started,
        {"batch_id": 3, "batch_name": "b", "molecule_count": 9},
        ("batch_started", "batch_jobs", 3, "success"),
        {"batch_name": "b", "molecule_count": 9},
    ),
    (
        log_batch_completed,
        {"batch_id": 3, "batch_name": "b", "total_molecules": 8, "successful_count": 6, "failed_count": 2},
        ("batch_completed", "batch_jobs", 3, "success"),
        {
            "batch_name": "b",
            "total_molecules": 8,
            "successful_count": 6,
            "failed_count": 2,
            "success_rate": 75.0,
            "execution_time_seconds": 0.0,
        },
    ),
    (
        log_batch_failed,
        {"batch_id": 3, "batch_name": "b", "error_message": "disk", "processed_count": 1, "total_molecules": 8},
        ("batch_failed", "batch_jobs", 3, "error"),
        {"batch_name": "b", "processed_count": 1, "total_molecules": 8},
    ),
    (
        log_error,
        {"error_message": "no", "error_code": "DB", "entity_type": "molecules", "entity_id": 4},
        ("error", "molecules", 4, "error"),
        {},
    ),
    (
        log_performance_metric,
        {"metric_name": "query_time", "value": 0, "unit": "s"},
        ("performance_metric", "system", None, "success"),
        {"metric_name": "query_time", "value": 0.0, "unit": "s"},
    ),
    (
        log_molecule_created,
        {"molecule_id": 5, "name": "water", "smiles": "O"},
        ("molecule_created", "molecules", 5, "success"),
        {"name": "water", "smiles": "O"},
    ),
    (
        log_molecule_deleted,
        {"molecule_id": 5, "name": "water"},
        ("molecule_deleted", "molecules", 5, "success"),
        {"name": "water"},
    ),
]
IDS = [case[0].__name__ for case in CASES]
CONTEXTUAL = [case for case in CASES if not case[0].__name__.startswith("log_molecule")]


@pytest.mark.parametrize(("log", "values", "told", "context"), CASES, ids=IDS)
def test_an_event_says_what_the_program_knows(
    session: Session,
    log: Log,
    values: dict[str, Any],
    told: tuple[str, str, int | None, str],
    context: dict[str, Any],
):
    event = log(db=session, user_id=ALICE, **values)
    session.expire(event)
    assert (event.event_type, event.entity_type, event.entity_id, event.status) == told
    assert event.context == context
    assert event.error_message == values.get("error_message")
    assert event.error_code == values.get("error_code")
    assert event.user_id == ALICE


@pytest.mark.parametrize(("log", "values", "told", "context"), CONTEXTUAL, ids=[c[0].__name__ for c in CONTEXTUAL])
def test_the_callers_context_is_kept_and_not_changed(
    session: Session, log: Log, values: dict[str, Any], told: object, context: dict[str, Any]
):
    given = {"step": 3}
    name = "error_details" if log is log_error else "context"
    event = log(db=session, **values, **{name: given})
    assert event.context == {"step": 3, **context}
    assert given == {"step": 3}


def test_calculations_are_told_by_the_runner_and_batches_by_the_api(session: Session):
    assert log_calculation_started(session, 1, 2).service == "xTB_runner"
    assert log_batch_started(session, 1, "b", 2).service == "api"
    assert log_error(session, "no", "DB", "system", service="worker").service == "worker"


def test_the_end_of_what_xtb_printed_is_kept(session: Session):
    event = log_calculation_failed(session, 1, 2, "broke", xtb_stderr="x" * 10_000 + "the reason")
    assert event.context["xtb_stderr"].endswith("the reason")
    assert len(event.context["xtb_stderr"]) == 4000


def test_a_number_that_is_not_finite_is_refused(session: Session):
    with pytest.raises(InvalidInput) as caught:
        log_calculation_completed(session, 1, 2, float("nan"))
    assert caught.value.field == "context"


def molecule_events(session: Session) -> list[EventLog]:
    return list(session.scalars(select(EventLog).where(EventLog.entity_type == "molecules").order_by(EventLog.id)))


def test_a_created_molecule_has_one_event_with_both_sides(session: Session):
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="O", name="water"))

    event = log_molecule_created(session, molecule.id, "water", "O")

    assert molecule_events(session) == [event]
    assert event.recorded_by == "trigger"
    assert event.context["after"]["smiles"] == "O"
    assert event.context["program"] == {"name": "water", "smiles": "O"}


def test_a_deleted_molecule_has_one_more_event_with_both_sides(session: Session):
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="O", name="water")).id
    crud.delete_molecule(session, molecule)

    event = log_molecule_deleted(session, molecule, "water")

    assert [one.event_type for one in molecule_events(session)] == ["molecule_created", "molecule_deleted"]
    assert event.context["before"]["name"] == "water"
    assert event.context["program"] == {"name": "water"}


def test_a_tenants_session_adds_to_its_own_event(tenant_session: TenantSession):
    alice = tenant_session(ALICE)
    molecule = crud.create_molecule(alice, MoleculeCreate(smiles="O"))
    assert log_molecule_created(alice, molecule.id, "water", "O").recorded_by == "trigger"
    assert len(molecule_events(alice)) == 1


def test_an_event_of_an_earlier_transaction_stays_as_it_is(engine: Engine):
    with Session(engine) as session, session.begin():
        molecule = crud.create_molecule(session, MoleculeCreate(smiles="O")).id
    with Session(engine) as session, session.begin():
        event = log_molecule_created(session, molecule, "water", "O")
        assert event.recorded_by == "program"
        first, second = molecule_events(session)
        assert "program" not in first.context
        assert second is event


def test_one_tenants_event_is_not_anothers_to_add_to(engine: Engine, tenant_session: TenantSession):
    with Session(engine) as session, session.begin():
        molecule = crud.create_molecule(session, MoleculeCreate(smiles="O"), BOB).id
    alice = tenant_session(ALICE)
    assert log_molecule_created(alice, molecule, "mine", "O").user_id == ALICE


@pytest.fixture
def package_logger() -> Iterator[logging.Logger]:
    package = logging.getLogger("qforge_sdk")
    before = (package.level, list(package.handlers))
    yield package
    for handler in set(package.handlers) - set(before[1]):
        package.removeHandler(handler)
        handler.close()
    package.setLevel(before[0])


def test_log_messages_go_to_the_file_from_the_level_on(
    package_logger: logging.Logger, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "logs" / "app.log"
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("LOG_FILE", str(file))

    assert setup_logging() is package_logger
    log_batch_started(session, 1, "quiet", 2)
    log_batch_failed(session, 1, "loud", "disk", 0, 2)

    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("ERROR qforge_sdk.logger: batch 1 (loud) failed: disk")


def test_a_second_setup_replaces_the_first(package_logger: logging.Logger, tmp_path: Path):
    before = len(package_logger.handlers)
    setup_logging(Settings(log_file=tmp_path / "one.log"))
    setup_logging(Settings(log_level="DEBUG"))
    assert len(package_logger.handlers) == before + 1
    assert package_logger.level == logging.DEBUG


def test_a_file_that_cannot_be_written_is_named(package_logger: logging.Logger, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="LOG_FILE"):
        setup_logging(Settings(log_file=tmp_path))


def test_importing_configures_no_logging():
    code = "import logging, qforge_sdk.logger as m; p = logging.getLogger('qforge_sdk'); print(p.handlers, p.level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 0"


@pytest.mark.parametrize("name", [*crud.__all__, *qforge_sdk.logger.__all__])
def test_the_page_for_users_of_the_backend_names(name: str):
    assert f"`{name}`" in (ROOT / "docs" / "from-the-backend.md").read_text(encoding="utf-8")
