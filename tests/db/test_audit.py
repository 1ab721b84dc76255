"""The audit trail: whatever changes a row, and by whatever way, leaves an event."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, Row, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from qforge_sdk.db.models import PUBLIC_USER_ID, Molecule
from qforge_sdk.db.scope import Scope
from tests.fixtures.databases import OWNER, Databases
from tests.fixtures.rows import UPDATES, Rows, insert_row, store_rows
from tests.fixtures.tenants import ALICE, BOB

NOUNS = {
    "molecules": "molecule",
    "calculations": "calculation",
    "atomic_properties": "atomic_properties",
    "batch_jobs": "batch_job",
    "batch_items": "batch_item",
}
ONE_BY_ONE = [table for table in NOUNS if table != "atomic_properties"]


@pytest.fixture(scope="module")
def connections(any_version: Databases) -> Iterator[dict[str, Connection]]:
    """On one database: the service, and Alice by a login of her own."""
    with any_version.clone() as name:
        url = make_url(any_version.url(name))
        service = create_engine(url, poolclass=NullPool, connect_args={"application_name": "bench"}).connect()
        with service.begin():
            service.execute(text("CREATE ROLE audit_alice LOGIN IN ROLE qforge_tenant"))
            service.execute(
                text("INSERT INTO qforge.tenant_logins (login, user_id) VALUES ('audit_alice', :alice)"),
                {"alice": ALICE},
            )
        alice = create_engine(url.set(username="audit_alice"), poolclass=NullPool).connect()
        yield {"service": service, "alice": alice}
        service.close()
        alice.close()
    any_version.server.execute("DROP ROLE audit_alice")


@pytest.fixture
def service(connections: dict[str, Connection]) -> Iterator[Connection]:
    """The service in a transaction that is rolled back."""
    with connections["service"].begin() as transaction:
        yield connections["service"]
        transaction.rollback()


@pytest.fixture
def alice(connections: dict[str, Connection]) -> Iterator[Connection]:
    """Alice's login in a transaction that is rolled back."""
    with connections["alice"].begin() as transaction:
        yield connections["alice"]
        transaction.rollback()


def newest(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM public.event_logs").scalar_one())


def events(connection: Connection, *, after: int = 0, by: str = "trigger") -> list[Row[Any]]:
    statement = "SELECT * FROM public.event_logs WHERE id > :after AND recorded_by = :by ORDER BY id"
    return list(connection.execute(text(statement), {"after": after, "by": by}))


def summary(connection: Connection, *, after: int = 0) -> list[tuple[str, str, int | None]]:
    return [(event.event_type, event.entity_type, event.entity_id) for event in events(connection, after=after)]


def molecules(connection: Connection, count: int, *, owner: object = ALICE, prefix: str = "C") -> None:
    connection.execute(
        text(
            "INSERT INTO public.molecules (user_id, smiles, formula) "
            "SELECT :owner, :prefix || i, 'CH4' FROM generate_series(1, :count) AS i"
        ),
        {"owner": owner, "count": count, "prefix": prefix},
    )


# One row ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ONE_BY_ONE)
def test_an_insert_leaves_the_row_as_it_became(alice: Connection, table: str) -> None:
    rows = store_rows(alice, ALICE)

    event = next(event for event in events(alice) if event.entity_type == table)

    if table == "batch_jobs":
        # It counts its items, as it did not yet when it was inserted.
        alice.exec_driver_sql("DELETE FROM public.batch_items")
    stored = alice.exec_driver_sql(
        f"SELECT to_jsonb(t) FROM public.{table} AS t WHERE {rows.where(table)}"
    ).scalar_one()
    assert event.event_type == f"{NOUNS[table]}_created"
    assert event.entity_id == rows.keys[table]
    assert event.context == {"after": without_hashes(stored)}


def test_atoms_are_summarised(alice: Connection) -> None:
    rows = store_rows(alice, ALICE)

    event = next(event for event in events(alice) if event.entity_type == "atomic_properties")

    calculation = rows.keys["calculations"]
    assert (event.event_type, event.entity_id) == ("atomic_properties_loaded", calculation)
    assert event.context == {"rows": 1, "first_calculation_id": calculation, "last_calculation_id": calculation}


@pytest.mark.parametrize("table", NOUNS)
def test_an_update_leaves_before_and_after(alice: Connection, table: str) -> None:
    rows = store_rows(alice, ALICE)
    mark = newest(alice)
    column, value = (part.strip("' ") for part in UPDATES[table].split("="))

    alice.exec_driver_sql(f"UPDATE public.{table} SET {UPDATES[table]} WHERE {rows.where(table)}")

    (event,) = (event for event in events(alice, after=mark) if event.entity_type == table)
    assert (event.event_type, event.entity_id) == (f"{NOUNS[table]}_updated", rows.keys[table])
    assert str(event.context["before"].pop(column)) != value
    assert str(event.context["after"].pop(column)) == value
    assert event.context["before"] == event.context["after"]


@pytest.mark.parametrize("table", ["batch_items", "atomic_properties"])
def test_a_delete_leaves_the_row_as_it_was(alice: Connection, table: str) -> None:
    rows = store_rows(alice, ALICE)
    mark = newest(alice)
    stored = alice.exec_driver_sql(
        f"SELECT to_jsonb(t) FROM public.{table} AS t WHERE {rows.where(table)}"
    ).scalar_one()

    alice.exec_driver_sql(f"DELETE FROM public.{table} WHERE {rows.where(table)}")

    (event,) = events(alice, after=mark)
    assert (event.event_type, event.entity_id) == (f"{NOUNS[table]}_deleted", rows.keys[table])
    # An atom is part of its calculation: one event holds all that were deleted there.
    assert event.context == {"before": [stored] if table == "atomic_properties" else stored}


def without_hashes(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {"fingerprint", "identity_hash"}}


# Ways to write ----------------------------------------------------------------------------------------------------


def test_the_orm_leaves_events(alice: Connection) -> None:
    with Session(alice, join_transaction_mode="create_savepoint") as session:
        molecule = Molecule(smiles="CCO", formula="C2H6O")
        session.add(molecule)
        session.flush()
        molecule.name = "ethanol"
        session.flush()
        session.delete(molecule)
        session.commit()
        key = molecule.id

    assert summary(alice) == [
        ("molecule_created", "molecules", key),
        ("molecule_updated", "molecules", key),
        ("molecule_deleted", "molecules", key),
    ]


def test_copy_leaves_events(service: Connection) -> None:
    mark = newest(service)

    with service.connection.cursor() as cursor:
        cursor.copy_expert("COPY public.molecules (smiles, formula) FROM STDIN", io.StringIO("C\tCH4\nCC\tC2H6\n"))

    assert [event.context["after"]["smiles"] for event in events(service, after=mark)] == ["C", "CC"]


def test_cascades_leave_events(alice: Connection) -> None:
    rows = store_rows(alice, ALICE)
    mark = newest(alice)

    alice.exec_driver_sql(f"DELETE FROM public.molecules WHERE {rows.where('molecules')}")

    assert set(summary(alice, after=mark)) == {
        (f"{NOUNS[table]}_deleted", table, rows.keys[table]) for table in NOUNS if table != "batch_jobs"
    }
    assert {event.actor for event in events(alice, after=mark)} == {"audit_alice"}


def test_the_calculation_that_an_item_loses_leaves_an_update(alice: Connection) -> None:
    rows = store_rows(alice, ALICE)
    calculation = rows.keys["calculations"]
    alice.exec_driver_sql(f"UPDATE public.batch_items SET calculation_id = {calculation}")
    mark = newest(alice)

    alice.exec_driver_sql(f"DELETE FROM public.calculations WHERE {rows.where('calculations')}")

    event = next(event for event in events(alice, after=mark) if event.entity_type == "batch_items")
    assert event.context["before"]["calculation_id"] == calculation
    assert event.context["after"]["calculation_id"] is None


def test_on_conflict_leaves_an_insert_and_an_update(alice: Connection) -> None:
    molecules(alice, 1)
    mark = newest(alice)

    alice.exec_driver_sql(
        "INSERT INTO public.molecules (smiles, formula) VALUES ('C1', 'CH4'), ('N', 'H3N') "
        "ON CONFLICT (user_id, identity_hash) DO UPDATE SET name = 'seen twice'"
    )

    found = {event.event_type: event.context for event in events(alice, after=mark)}
    assert found["molecule_created"]["after"]["smiles"] == "N"
    assert found["molecule_updated"]["before"]["name"] is None
    assert found["molecule_updated"]["after"]["name"] == "seen twice"
    assert len(events(alice, after=mark)) == 2


def test_on_conflict_do_nothing_leaves_only_what_was_stored(alice: Connection) -> None:
    molecules(alice, 1)
    mark = newest(alice)

    alice.exec_driver_sql(
        "INSERT INTO public.molecules (smiles, formula) VALUES ('C1', 'CH4'), ('N', 'H3N') ON CONFLICT DO NOTHING"
    )

    assert [event.context["after"]["smiles"] for event in events(alice, after=mark)] == ["N"]


def test_merge_leaves_each_of_its_actions(alice: Connection) -> None:
    molecules(alice, 2)
    mark = newest(alice)

    alice.exec_driver_sql(
        "MERGE INTO public.molecules AS m USING (VALUES ('C1'), ('C2'), ('N')) AS v (smiles) ON m.smiles = v.smiles "
        "WHEN MATCHED AND m.smiles = 'C1' THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET name = 'merged' "
        "WHEN NOT MATCHED THEN INSERT (smiles, formula) VALUES (v.smiles, 'H3N')"
    )

    assert sorted(event.event_type for event in events(alice, after=mark)) == [
        "molecule_created",
        "molecule_deleted",
        "molecule_updated",
    ]


def test_a_data_modifying_cte_leaves_events(alice: Connection) -> None:
    molecules(alice, 2)
    mark = newest(alice)

    alice.exec_driver_sql(
        "WITH gone AS (DELETE FROM public.molecules WHERE smiles = 'C1' RETURNING smiles) "
        "INSERT INTO public.molecules (smiles, formula) SELECT smiles || 'N', 'CH5N' FROM gone"
    )

    assert sorted(event.event_type for event in events(alice, after=mark)) == ["molecule_created", "molecule_deleted"]


def test_what_is_rolled_back_leaves_nothing(alice: Connection) -> None:
    savepoint = alice.begin_nested()
    molecules(alice, 1)
    savepoint.rollback()

    assert events(alice) == []


@pytest.mark.parametrize("table", NOUNS)
@pytest.mark.parametrize("verb", ["UPDATE public.{table} SET {change} WHERE false", "DELETE FROM public.{table}"])
def test_a_statement_that_touches_no_row_leaves_nothing(alice: Connection, table: str, verb: str) -> None:
    alice.exec_driver_sql(verb.format(table=table, change=UPDATES[table]))

    assert events(alice) == []


def test_a_repeated_value_of_an_atom_leaves_nothing(alice: Connection) -> None:
    store_rows(alice, ALICE)
    mark = newest(alice)

    alice.exec_driver_sql("UPDATE public.atomic_properties SET element = element")

    assert events(alice, after=mark) == []


# Many rows --------------------------------------------------------------------------------------------------------


def test_a_hundred_rows_leave_a_hundred_events(alice: Connection) -> None:
    molecules(alice, 100)

    assert [event.event_type for event in events(alice)] == ["molecule_created"] * 100


def test_more_than_a_hundred_rows_leave_one_event_for_each_owner(service: Connection) -> None:
    mark = newest(service)

    stored = service.execute(
        text(
            "INSERT INTO public.molecules (user_id, smiles, formula) "
            "SELECT CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN CAST(:alice AS uuid) ELSE CAST(:bob AS uuid) END, "
            "'C' || i, 'CH4' FROM generate_series(1, 300) AS i RETURNING user_id, id"
        ),
        {"alice": ALICE, "bob": BOB},
    ).all()

    found = {event.user_id: (event.event_type, event.context) for event in events(service, after=mark)}
    for owner in (ALICE, BOB, None):
        keys = [row.id for row in stored if row.user_id == owner]
        assert found.pop(owner) == ("molecules_loaded", {"rows": 100, "first_id": min(keys), "last_id": max(keys)})
    assert found == {}


@pytest.mark.parametrize(
    ("table", "kind"), [("batch_jobs", "batch_jobs_loaded"), ("batch_items", "batch_items_loaded")]
)
def test_a_large_load_is_named_for_its_table(alice: Connection, table: str, kind: str) -> None:
    molecules(alice, 101)
    alice.exec_driver_sql(
        "INSERT INTO public.batch_jobs (batch_name) SELECT 'b' || i FROM generate_series(1, 101) AS i"
    )
    alice.exec_driver_sql(
        "INSERT INTO public.batch_items (batch_id, molecule_id) "
        "SELECT (SELECT min(id) FROM public.batch_jobs WHERE batch_name = 'b1'), id FROM public.molecules"
    )

    assert [event.event_type for event in events(alice) if event.entity_type == table] == [kind]


def test_an_update_of_many_rows_keeps_every_row_as_it_was(alice: Connection) -> None:
    molecules(alice, 500)
    mark = newest(alice)

    alice.exec_driver_sql("UPDATE public.molecules SET name = smiles, formula = 'changed'")

    found = events(alice, after=mark)
    assert len(found) == 500
    assert {event.context["before"]["formula"] for event in found} == {"CH4"}
    assert {event.context["after"]["name"] for event in found} == {f"C{i}" for i in range(1, 501)}


def test_a_delete_of_many_rows_keeps_every_row_as_it_was(alice: Connection) -> None:
    molecules(alice, 500)
    mark = newest(alice)

    alice.exec_driver_sql("DELETE FROM public.molecules")

    assert {event.context["before"]["smiles"] for event in events(alice, after=mark)} == {
        f"C{i}" for i in range(1, 501)
    }


def test_a_fingerprint_is_not_repeated_in_events(alice: Connection) -> None:
    alice.exec_driver_sql(
        "INSERT INTO public.molecules (smiles, formula, fingerprint) "
        "VALUES ('C', 'CH4', repeat('1', 2048)::bit(2048))"
    )
    alice.exec_driver_sql("UPDATE public.molecules SET name = 'methane'")
    alice.exec_driver_sql("DELETE FROM public.molecules")

    images = [image for event in events(alice) for image in event.context.values()]
    assert len(images) == 4
    assert all("fingerprint" not in image and "identity_hash" not in image for image in images)


# Who, when, for whom ----------------------------------------------------------------------------------------------


def test_an_event_names_its_writer(alice: Connection) -> None:
    molecules(alice, 1)

    (event,) = events(alice)

    transaction = alice.exec_driver_sql("SELECT pg_current_xact_id()::text::bigint").scalar_one()
    assert (event.actor, event.service, event.transaction_id) == ("audit_alice", "database", transaction)
    began, now = alice.exec_driver_sql("SELECT now(), clock_timestamp()").one()
    assert began <= event.created_at <= now


def test_a_scope_s_event_names_the_service_s_login_and_its_program(service: Connection) -> None:
    for statement in Scope(ALICE).statements():
        service.exec_driver_sql(statement)
    molecules(service, 1)

    (event,) = events(service)

    assert (event.actor, event.application, event.user_id) == (OWNER, "bench", ALICE)


@pytest.mark.parametrize("owner", [ALICE, PUBLIC_USER_ID, None], ids=["a tenant", "the public", "nobody"])
def test_an_event_belongs_to_the_owner_of_its_row(service: Connection, owner: object) -> None:
    mark = newest(service)

    molecules(service, 1, owner=owner)

    assert [event.user_id for event in events(service, after=mark)] == [owner]


def test_an_update_dates_the_row(service: Connection) -> None:
    service.exec_driver_sql(
        "INSERT INTO public.molecules (smiles, formula, updated_at) VALUES ('C', 'CH4', '2001-01-01')"
    )

    service.exec_driver_sql("UPDATE public.molecules SET name = 'methane', updated_at = '2002-02-02'")

    assert service.exec_driver_sql("SELECT updated_at = now() FROM public.molecules").scalar_one() is True


FORGED = {
    "recorded_by": "'trigger'",
    "actor": "'somebody'",
    "application": "'something'",
    "transaction_id": "1",
    "created_at": "'2001-01-01'",
    "id": "1",
}


@pytest.mark.parametrize("column", FORGED)
def test_a_tenant_cannot_forge(alice: Connection, column: str) -> None:
    with pytest.raises(DBAPIError, match="permission denied for table event_logs"):
        alice.exec_driver_sql(
            f"INSERT INTO public.event_logs (event_type, entity_type, {column}) "
            f"VALUES ('error', 'system', {FORGED[column]})"
        )


def test_a_program_s_event_says_so_even_if_it_claims_the_database_s_name(alice: Connection) -> None:
    alice.exec_driver_sql(
        "INSERT INTO public.event_logs (event_type, entity_type, service) VALUES ('error', 'system', 'database')"
    )

    (event,) = events(alice, by="program")
    assert (event.recorded_by, event.actor, event.user_id) == ("program", "audit_alice", ALICE)


# What a program adds to a trigger's event -------------------------------------------------------------------------

ENRICH = "SELECT qforge.enrich_event('molecules', {}, 'molecule_created', '{{\"seconds\": 2}}')"


def last_molecule(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT max(id) FROM public.molecules").scalar_one())


def test_a_program_enriches_the_event_of_its_transaction(alice: Connection) -> None:
    molecules(alice, 1)
    (before,) = events(alice)

    enriched = alice.exec_driver_sql(ENRICH.format(last_molecule(alice))).scalar_one()

    (after,) = events(alice)
    assert enriched == before.id
    assert after.context == before.context | {"program": {"seconds": 2}}
    assert without_context(after) == without_context(before)


def without_context(event: Row[Any]) -> dict[str, Any]:
    return {name: value for name, value in event._mapping.items() if name != "context"}


def test_enriching_never_replaces_what_the_trigger_recorded(alice: Connection) -> None:
    molecules(alice, 1)
    key = last_molecule(alice)

    alice.exec_driver_sql(
        f"""SELECT qforge.enrich_event('molecules', {key}, 'molecule_created', '{{"after": "forged"}}')"""
    )

    (event,) = events(alice)
    assert event.context["after"]["smiles"] == "C1"
    assert event.context["program"] == {"after": "forged"}


def test_an_event_of_an_earlier_transaction_is_not_enriched(any_version: Databases) -> None:
    with any_version.clone() as name:
        engine = create_engine(any_version.url(name), poolclass=NullPool)
        Scope(ALICE).attach(engine)
        with engine.begin() as connection:
            molecules(connection, 1)
            key = last_molecule(connection)

        with engine.begin() as connection:
            assert connection.exec_driver_sql(ENRICH.format(key)).scalar_one() is None


def test_another_s_event_is_not_enriched(service: Connection) -> None:
    molecules(service, 1, owner=BOB)
    key = last_molecule(service)
    for statement in Scope(ALICE).statements():
        service.exec_driver_sql(statement)

    assert service.exec_driver_sql(ENRICH.format(key)).scalar_one() is None


def test_a_program_s_own_event_is_not_enriched(alice: Connection) -> None:
    alice.exec_driver_sql(
        "INSERT INTO public.event_logs (event_type, entity_type, entity_id) "
        "VALUES ('molecule_created', 'molecules', 1)"
    )

    assert alice.exec_driver_sql(ENRICH.format(1)).scalar_one() is None


@pytest.mark.parametrize("owner", [PUBLIC_USER_ID, None], ids=["the public", "nobody"])
def test_the_service_enriches_events_of(service: Connection, owner: object) -> None:
    molecules(service, 1, owner=owner)

    assert service.exec_driver_sql(ENRICH.format(last_molecule(service))).scalar_one() == newest(service)


def test_the_service_without_a_tenant_enriches_a_tenant_s_event(service: Connection) -> None:
    molecules(service, 1, owner=ALICE)

    assert service.exec_driver_sql(ENRICH.format(last_molecule(service))).scalar_one() == newest(service)


def test_a_molecule_stands_once_in_a_batch(alice: Connection) -> None:
    rows: Rows = store_rows(alice, ALICE)

    with pytest.raises(DBAPIError, match="batch_items_key"):
        insert_row(alice, "batch_items", owner=ALICE, **rows.parents())
