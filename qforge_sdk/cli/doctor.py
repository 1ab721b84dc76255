"""``qforge doctor``: whether a database is well and everything works on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import typer
from sqlalchemy import text
from sqlalchemy.orm import Session

from qforge_sdk.cli import DataDirOption, UrlOption, UserOption, app, console, opened
from qforge_sdk.client import Client
from qforge_sdk.db import crud
from qforge_sdk.db.access import VERBS
from qforge_sdk.db.models import TABLES, Calculation
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import QForgeError
from qforge_sdk.schemas import AccessReport, BatchItemCreate, BatchJobCreate, CalculationCreate, MoleculeCreate

_BENCHMARK_ROWS: Final = 2_000


class CheckFailed(Exception):
    """A check found something wrong; the text says what."""


@app.command()
def doctor(url: UrlOption = None, data_dir: DataDirOption = None, user_id: UserOption = None) -> None:
    """Check connection, schema, row level security, every kind of row, events and speed; leaves no trace."""
    passed = failed = 0
    with opened(url, data_dir, user_id) as client:
        console.print(repr(client), highlight=False, markup=False)
        for name, check in CHECKS.items():
            try:
                found = check(client)
            except (CheckFailed, QForgeError) as exc:
                failed += 1
                console.print(f"[bold red]FAIL[/] {name}:", end=" ")
                console.print(str(exc), markup=False, highlight=False)
            else:
                passed += 1
                console.print(f"[bold green]PASS[/] {name}{': ' + found if found else ''}", highlight=False)
        for line in _access_lines(_access(client)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{passed} passed, {failed} failed", highlight=False)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _rolled_back(client: Client) -> Iterator[Session]:
    """A session whose transaction never commits."""
    with translated(), client.engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(otherwise)


def _connection(client: Client) -> str:
    started = perf_counter()
    version = client.sql("SELECT current_setting('server_version') AS version").version[0]
    return f"PostgreSQL {version}, {1000 * (perf_counter() - started):.0f} ms"


def _schema(client: Client) -> str:
    found = client.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    missing = set(TABLES) - set(found.relname)
    _require(not missing, f"tables are missing: {', '.join(sorted(missing))}")
    return f"{len(TABLES)} tables"


def _isolation(client: Client) -> str:
    access = _access(client)
    _require(not access.problems, "; ".join(access.problems))
    return {
        "boundary": f"boundary: PostgreSQL holds this login to tenant {access.user_id}",
        "scope": f"scope: this package holds the service's login to tenant {access.user_id}",
        "service": "the service: it sees every row; tenants are held by policies on every table, for every verb",
    }[access.strength]


def _access(client: Client) -> AccessReport:
    health = client.health()
    if health.access is None:
        raise CheckFailed(health.message)
    return health.access


def _access_lines(access: AccessReport) -> Iterator[str]:
    """What the catalog says of this connection."""
    held = [name for name, value in access.attributes.items() if value]
    yield f"access: {access.strength}; tenant {access.user_id or '-'}"
    yield f"login {access.login} ({', '.join(held) or 'no attributes'}), acts as {access.role}"
    yield f"can act as: {', '.join(access.memberships) or 'nobody else'}"
    for table in access.tables:
        policies = ", ".join(f"{verb} by {' and '.join(table.policies[verb]) or 'nobody'}" for verb in VERBS)
        secured = "on" if table.row_security else "OFF"
        yield f"table {table.table} of {table.owner}, row security {secured}: {policies}"
    for one in access.functions:
        runs, path = "its owner" if one.security_definer else "its caller", one.search_path or "of its caller"
        yield f"function {one.function} of {one.owner}, runs as {runs}, search_path {path}"


def _molecules(client: Client) -> str:
    with _rolled_back(client) as session:
        row = crud.create_molecule(session, MoleculeCreate(smiles="CC(O)CCCBr"), user_id=client.user_id)
        again = crud.get_molecule_by_smiles(session, "BrCCCC(C)O")
        _require(again is not None and again.id == row.id, "a second spelling did not find the stored molecule")
        _require(crud.delete_molecule(session, row.id), "it could not be deleted")
        _require(crud.get_molecule(session, row.id) is None, "it was still there after it was deleted")
    return ""


def _calculations(client: Client) -> str:
    with _rolled_back(client) as session:
        row = _calculation(session, client)
        atom = {"atom_index": 0, "element": "C", "atomic_number": 6} | dict.fromkeys(
            ("position_x", "position_y", "position_z"), 0.0
        )
        crud.create_atomic_properties(session, row.id, [atom], user_id=client.user_id)
        found = crud.get_calculations_by_energy_range(session, -1e6 - 1, -1e6 + 1)
        _require(row.id in {one.id for one in found}, "the energy range did not find it")
        found = crud.get_calculations_by_gap_range(session, 1e6 - 1, 1e6 + 1)
        _require(row.id in {one.id for one in found}, "the gap range did not find it")
        atoms = crud.get_atomic_properties_for_calculation(session, row.id)
        _require(len(atoms) == 1, f"stored one atom, found {len(atoms)}")
    return ""


def _calculation(session: Session, client: Client) -> Calculation:
    molecule = crud.create_molecule(session, MoleculeCreate(smiles="CC(O)CCCBr"), user_id=client.user_id)
    # No molecule has these numbers, so nothing else is found by them.
    record = CalculationCreate(molecule_id=molecule.id, energy=-1e6, gap=1e6, execution_time_seconds=0.0)
    return crud.create_calculation(session, record, user_id=client.user_id)


def _batches(client: Client) -> str:
    with _rolled_back(client) as session:
        row = _calculation(session, client)
        batch = crud.create_batch_job(session, BatchJobCreate(batch_name="doctor"), user_id=client.user_id)
        item = crud.create_batch_item(
            session, BatchItemCreate(batch_id=batch.id, molecule_id=row.molecule_id), user_id=client.user_id
        )
        crud.update_batch_item_status(session, item.id, "completed", calculation_id=row.id)
        done = crud.get_batch_items(session, batch.id, status="completed")
        _require([one.id for one in done] == [item.id], "the completed item was not found")
    return ""


def _events(client: Client) -> str:
    with _rolled_back(client) as session:
        row = _calculation(session, client)
        crud.log_event(session, "performance_metric", "system", service="doctor", user_id=client.user_id)
        events, _ = crud.get_event_logs(session, entity_type="calculations", entity_id=row.id)
        _require("calculation_created" in {event.event_type for event in events}, "the trigger wrote no event")
    return ""


def _statistics(client: Client) -> str:
    started = perf_counter()
    stats = client.stats()
    seconds = perf_counter() - started
    return (
        f"{stats.total_calculations:,} calculations of {stats.total_molecules:,} molecules, {1000 * seconds:.0f} ms"
    )


def _speed(client: Client) -> str:
    with _rolled_back(client) as session:
        molecule = _calculation(session, client).molecule_id
        started = perf_counter()
        session.execute(
            text(
                "INSERT INTO public.calculations (user_id, molecule_id, energy) "
                "SELECT CAST(:user_id AS uuid), :molecule, -n FROM generate_series(1, :rows) AS n"
            ),
            {"molecule": molecule, "rows": _BENCHMARK_ROWS, "user_id": client.user_id},
        )
        written = perf_counter() - started
    started = perf_counter()
    read = len(client.calculations.query(limit=_BENCHMARK_ROWS))
    seconds = perf_counter() - started
    return f"{_BENCHMARK_ROWS / written:,.0f} rows/s written, {read:,} rows read in {1000 * seconds:.0f} ms"


CHECKS: Final[dict[str, Callable[[Client], str]]] = {
    "connection": _connection,
    "schema": _schema,
    "isolation": _isolation,
    "molecules: create, find by another spelling, delete": _molecules,
    "calculations and atoms: create, find by energy and gap": _calculations,
    "batches: create, complete an item": _batches,
    "events: a trigger records a change, a program adds one": _events,
    "statistics": _statistics,
    "speed": _speed,
}
