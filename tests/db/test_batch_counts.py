"""The counts and the status of a batch follow its items, whatever changes these."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import ProgrammingError

from qforge_sdk.db import schema
from qforge_sdk.db.models import ITEM_STATUSES
from tests.fixtures.databases import Databases
from tests.fixtures.tenants import ALICE, TenantEngine

DISAGREEING = """
    SELECT b.id FROM public.batch_jobs AS b LEFT JOIN public.batch_items AS i ON i.batch_id = b.id
    GROUP BY b.id
    HAVING b.total_molecules < count(i.id)
        OR b.successful_count <> count(*) FILTER (WHERE i.status = 'completed')
        OR b.failed_count <> count(*) FILTER (WHERE i.status = 'failed')
        OR b.skipped_count <> count(*) FILTER (WHERE i.status = 'skipped')
        OR b.waiting_count <> count(*) FILTER (WHERE i.status IN ('pending', 'processing'))
"""


def molecules(connection: Connection, count: int, owner: uuid.UUID | None = None) -> list[int]:
    statement = text(
        "INSERT INTO public.molecules (user_id, smiles, formula) "
        "SELECT :owner, :word || n, 'C' FROM generate_series(1, :count) AS n RETURNING id"
    )
    return list(connection.execute(statement, {"owner": owner, "count": count, "word": uuid.uuid4().hex}).scalars())


def batch(connection: Connection, items: int = 0, owner: uuid.UUID | None = None, status: str = "pending") -> int:
    statement = text("INSERT INTO public.batch_jobs (user_id, batch_name) VALUES (:owner, 'screen') RETURNING id")
    key = int(connection.execute(statement, {"owner": owner}).scalar_one())
    put(connection, key, molecules(connection, items, owner), status, owner)
    return key


def put(
    connection: Connection, key: int, keys: list[int], status: str = "pending", owner: uuid.UUID | None = None
) -> None:
    connection.execute(
        text(
            "INSERT INTO public.batch_items (user_id, batch_id, molecule_id, status) "
            "SELECT :owner, :batch, m, :status FROM unnest(CAST(:molecules AS bigint[])) AS m"
        ),
        {"owner": owner, "batch": key, "molecules": keys, "status": status},
    )


def set_status(connection: Connection, key: int, status: str, count: int | None = None, was: str = "pending") -> None:
    connection.execute(
        text(
            "UPDATE public.batch_items SET status = :status WHERE id IN (SELECT id FROM public.batch_items "
            "WHERE batch_id = :batch AND status = :was ORDER BY id LIMIT :count)"
        ),
        {"status": status, "batch": key, "count": count, "was": was},
    )


def counts(connection: Connection, key: int) -> tuple[int, ...]:
    """Total, successful, failed, skipped, waiting."""
    statement = text(
        "SELECT total_molecules, successful_count, failed_count, skipped_count, waiting_count "
        "FROM public.batch_jobs WHERE id = :id"
    )
    return tuple(connection.execute(statement, {"id": key}).one())


def state(connection: Connection, key: int) -> tuple[str, bool, bool]:
    """Status, whether it began, whether it ended."""
    statement = text("SELECT status, started_at, completed_at FROM public.batch_jobs WHERE id = :id")
    status, began, ended = connection.execute(statement, {"id": key}).one()
    return status, began is not None, ended is not None


@pytest.fixture
def service(any_version: Databases, any_version_engine: Engine) -> Iterator[Connection]:
    """The service in a transaction that is rolled back."""
    with any_version_engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


@pytest.fixture(scope="module")
def any_version_engine(any_version: Databases) -> Iterator[Engine]:
    with any_version.clone() as name:
        yield create_engine(any_version.url(name), poolclass=NullPool)


# Counts -----------------------------------------------------------------------------------------------------------


def test_items_are_counted_when_they_come_change_and_go(service: Connection) -> None:
    key = batch(service, 6)
    assert counts(service, key) == (6, 0, 0, 0, 6)

    set_status(service, key, "processing", 3)
    assert counts(service, key) == (6, 0, 0, 0, 6)
    set_status(service, key, "completed", 2, was="processing")
    set_status(service, key, "failed", 1, was="processing")
    set_status(service, key, "skipped", 1)
    assert counts(service, key) == (6, 2, 1, 1, 2)

    service.execute(text("DELETE FROM public.batch_items WHERE batch_id = :b AND status = 'failed'"), {"b": key})
    assert counts(service, key) == (5, 2, 0, 1, 2)


def test_items_go_with_their_molecules(service: Connection) -> None:
    key = batch(service, 4, status="completed")

    service.execute(text("DELETE FROM public.molecules WHERE id IN (SELECT max(id) FROM public.molecules)"))

    assert counts(service, key) == (3, 3, 0, 0, 0)


def test_a_batch_goes_with_its_items(service: Connection) -> None:
    key = batch(service, 4, status="completed")
    service.execute(text("DELETE FROM public.batch_jobs WHERE id = :b"), {"b": key})
    assert service.execute(text("SELECT count(*) FROM public.batch_items")).scalar_one() == 0


def test_an_item_that_moves_to_another_batch_is_counted_there(service: Connection) -> None:
    first, second = batch(service, 3), batch(service, 1)

    service.execute(
        text("UPDATE public.batch_items SET batch_id = :new WHERE batch_id = :old"), {"new": second, "old": first}
    )

    assert (counts(service, first), counts(service, second)) == ((0, 0, 0, 0, 0), (4, 0, 0, 0, 4))


ALL_IN_ONE = {
    "MERGE": """
        MERGE INTO public.batch_items AS i USING (SELECT id FROM public.molecules) AS m
        ON i.molecule_id = m.id AND i.batch_id = {batch}
        WHEN MATCHED AND m.id % 2 = 0 THEN DELETE
        WHEN MATCHED THEN UPDATE SET status = 'completed'
        WHEN NOT MATCHED THEN INSERT (batch_id, molecule_id) VALUES ({batch}, m.id)
    """,
    "ON CONFLICT": """
        INSERT INTO public.batch_items (batch_id, molecule_id) SELECT {batch}, id FROM public.molecules
        ON CONFLICT ON CONSTRAINT batch_items_key DO UPDATE SET status = 'failed'
    """,
    "WITH": """
        WITH gone AS (DELETE FROM public.batch_items WHERE status = 'completed' AND batch_id = {batch}),
             done AS (UPDATE public.batch_items SET status = 'skipped'
                      WHERE status = 'pending' AND batch_id = {batch})
        INSERT INTO public.batch_items (batch_id, molecule_id, status)
        SELECT {batch}, id, 'failed' FROM public.molecules
        WHERE id NOT IN (SELECT molecule_id FROM public.batch_items)
    """,
}


@pytest.mark.parametrize("statement", ALL_IN_ONE)
def test_what_one_statement_inserts_updates_and_deletes_is_counted_once(service: Connection, statement: str) -> None:
    key = batch(service, 6)
    set_status(service, key, "completed", 3)
    molecules(service, 4)

    service.execute(text(ALL_IN_ONE[statement].format(batch=key)))

    assert service.execute(text(DISAGREEING)).all() == []
    assert counts(service, key)[0] == service.execute(text("SELECT count(*) FROM public.batch_items")).scalar_one()


def test_random_changes_leave_counts_that_agree(service: Connection, seed: int) -> None:
    choose = random.Random(seed)
    keys = [batch(service, choose.randrange(8)) for _ in range(4)]
    for _ in range(60):
        key = choose.choice(keys)
        change = choose.choice(["put", "set", "delete", "molecule", "savepoint"])
        if change == "put":
            put(service, key, molecules(service, choose.randrange(4)), choose.choice(ITEM_STATUSES))
        elif change == "set":
            set_status(service, key, choose.choice(ITEM_STATUSES), choose.randrange(5), choose.choice(ITEM_STATUSES))
        elif change == "delete":
            one = "DELETE FROM public.batch_items WHERE batch_id = :b AND id % 3 = :n"
            service.execute(text(one), {"b": key, "n": choose.randrange(3)})
        elif change == "molecule":
            service.execute(text("DELETE FROM public.molecules WHERE id % 11 = :n"), {"n": choose.randrange(11)})
        else:
            with service.begin_nested() as savepoint:
                put(service, key, molecules(service, 2), "completed")
                savepoint.rollback()
        assert service.execute(text(DISAGREEING)).all() == []


def test_changes_at_once_are_all_counted_and_end_the_batch_once(any_version_engine: Engine) -> None:
    with any_version_engine.begin() as connection:
        keys = [batch(connection, 40) for _ in range(2)]
        items = {
            key: list(
                connection.execute(
                    text("SELECT id FROM public.batch_items WHERE batch_id = :b ORDER BY id"), {"b": key}
                ).scalars()
            )
            for key in keys
        }
    failures: list[BaseException] = []

    def end(part: int) -> None:
        try:
            for start in range(0, 40, 10):
                chosen = [items[key][start + part] for key in keys] + [items[key][start + part + 5] for key in keys]
                # One statement over both batches, in every order.
                with any_version_engine.begin() as connection:
                    connection.execute(
                        text("UPDATE public.batch_items SET status = :word WHERE id = ANY (:ids)"),
                        {"word": "failed" if part == 0 else "completed", "ids": chosen[:: 1 if part % 2 else -1]},
                    )
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=end, args=(part,)) for part in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert failures == []
    with any_version_engine.begin() as connection:
        for key in keys:
            assert counts(connection, key) == (40, 32, 8, 0, 0)
            assert state(connection, key) == ("completed", True, True)
            ends = connection.execute(
                text(
                    "SELECT count(*) FROM public.event_logs WHERE entity_type = 'batch_jobs' AND entity_id = :b "
                    "AND context -> 'after' ->> 'status' = 'completed'"
                ),
                {"b": key},
            )
            assert ends.scalar_one() == 1
        connection.execute(text("DELETE FROM public.batch_jobs"))


def test_nobody_writes_a_count_by_hand(service: Connection, tenant_engine: TenantEngine) -> None:
    key = batch(service, 2)
    for statement in (
        f"UPDATE public.batch_jobs SET successful_count = 2 WHERE id = {key}",
        f"UPDATE public.batch_jobs SET waiting_count = 0 WHERE id = {key}",
        f"UPDATE public.batch_jobs SET total_molecules = 1 WHERE id = {key}",
        "INSERT INTO public.batch_jobs (batch_name, failed_count) VALUES ('x', 1)",
    ):
        with pytest.raises(ProgrammingError, match="follow its items"), service.begin_nested():
            service.exec_driver_sql(statement)
    service.exec_driver_sql(f"UPDATE public.batch_jobs SET total_molecules = 7 WHERE id = {key}")
    assert counts(service, key) == (7, 0, 0, 0, 2)

    for statement in (
        "UPDATE public.batch_jobs SET failed_count = 1",
        "INSERT INTO public.batch_jobs (batch_name, skipped_count) VALUES ('x', 1)",
    ):
        with tenant_engine(ALICE).connect() as alice, pytest.raises(ProgrammingError, match="permission denied"):
            alice.exec_driver_sql(statement)


def test_a_tenant_cannot_switch_the_counting_off(tenant_engine: TenantEngine) -> None:
    with tenant_engine(ALICE).begin() as alice:
        alice.exec_driver_sql("SELECT set_config('qforge.restoring', 'on', true)")
        key = batch(alice, 3, ALICE)
        assert counts(alice, key) == (3, 0, 0, 0, 3)


def test_a_count_alone_leaves_no_event_and_no_date(any_version_engine: Engine) -> None:
    with any_version_engine.begin() as connection:
        key = batch(connection, 3)
        set_status(connection, key, "processing", 3)
    with any_version_engine.begin() as connection:
        row = text("SELECT updated_at FROM public.batch_jobs WHERE id = :b")
        events = text(
            "SELECT count(*) FROM public.event_logs WHERE entity_type = 'batch_jobs' AND entity_id = :b "
            "AND event_type = 'batch_job_updated'"
        )
        before = connection.execute(row, {"b": key}).one(), connection.execute(events, {"b": key}).one()
        set_status(connection, key, "completed", 1, was="processing")
        after = connection.execute(row, {"b": key}).one(), connection.execute(events, {"b": key}).one()
        assert after == before
        # The last one ends the batch, which is news.
        set_status(connection, key, "failed", 2, was="processing")
        assert connection.execute(row, {"b": key}).one() != before[0]
        assert connection.execute(events, {"b": key}).scalar_one() == before[1][0] + 1
        connection.execute(text("DELETE FROM public.batch_jobs"))


# Status -----------------------------------------------------------------------------------------------------------


def test_a_batch_begins_with_its_first_item_and_ends_with_its_last(service: Connection) -> None:
    key = batch(service, 3)
    assert state(service, key) == ("pending", False, False)
    set_status(service, key, "processing", 1)
    assert state(service, key) == ("in_progress", True, False)
    set_status(service, key, "completed", 1, was="processing")
    set_status(service, key, "failed", 1)
    assert state(service, key) == ("in_progress", True, False)
    set_status(service, key, "skipped", 1)
    assert state(service, key) == ("completed", True, True)


def test_a_batch_that_ended_waits_again_with_an_item_that_does(service: Connection) -> None:
    key = batch(service, 2, status="failed")
    assert state(service, key) == ("completed", True, True)
    set_status(service, key, "pending", 1, was="failed")
    assert state(service, key) == ("pending", True, False)
    set_status(service, key, "processing", 1)
    assert state(service, key) == ("in_progress", True, False)
    set_status(service, key, "completed", 1, was="processing")
    assert state(service, key) == ("completed", True, True)


def test_a_batch_waits_for_the_items_that_it_announced(service: Connection) -> None:
    key = batch(service, 0)
    service.execute(text("UPDATE public.batch_jobs SET total_molecules = 2 WHERE id = :b"), {"b": key})
    put(service, key, molecules(service, 1), "completed")
    assert (counts(service, key)[0], state(service, key)) == (2, ("in_progress", True, False))
    put(service, key, molecules(service, 1), "completed")
    assert (counts(service, key)[0], state(service, key)) == (2, ("completed", True, True))


def test_items_that_are_deleted_leave_the_rest_complete(service: Connection) -> None:
    key = batch(service, 3)
    set_status(service, key, "completed", 2)
    service.execute(text("DELETE FROM public.batch_items WHERE status = 'pending'"))
    assert (counts(service, key), state(service, key)) == ((2, 2, 0, 0, 0), ("completed", True, True))


def test_a_batch_whose_items_are_all_deleted_keeps_its_status(service: Connection) -> None:
    key = batch(service, 3)
    set_status(service, key, "processing", 1)
    service.execute(text("DELETE FROM public.batch_items"))
    assert (counts(service, key), state(service, key)) == ((0, 0, 0, 0, 0), ("in_progress", True, False))


# Upgrades ---------------------------------------------------------------------------------------------------------


def test_an_upgrade_corrects_what_was_only_hoped(any_version: Databases) -> None:
    with any_version.clone(migrated=False) as name:
        engine = create_engine(any_version.url(name), poolclass=NullPool)
        with engine.begin() as connection:
            config: Any = schema._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0003")
            key = batch(connection, 5)
            set_status(connection, key, "completed", 2)
            connection.execute(text("UPDATE public.batch_jobs SET total_molecules = 1, failed_count = 9"))

        schema.upgrade(engine)

        with engine.begin() as connection:
            assert counts(connection, key) == (5, 2, 0, 0, 3)
            assert connection.execute(text("SELECT qforge.recount_batches()")).scalar_one() == 0
