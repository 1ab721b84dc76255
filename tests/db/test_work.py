"""Items as work: claimed under a lease, stored once, given back."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from qforge_sdk import program_events
from qforge_sdk.compute.engine import Parameters
from qforge_sdk.compute.item import failed
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.link import Link, claim_items, store
from qforge_sdk.compute.tblite import TbliteEngine
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.results import Ended, LeaseLost
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.work import Item, Work, claim, outlook, release, renew
from qforge_sdk.errors import AccessDenied, NotFound
from tests.db.test_batch_counts import DISAGREEING, counts, molecules, put, state
from tests.fixtures.databases import Databases, DatabasesOf
from tests.fixtures.tenants import ALICE, BOB

DOUBLES = (-0.0, 5e-324, 1 / 3, -1.7976931348623157e308)


@pytest.fixture(scope="module")
def engine(databases_of: DatabasesOf) -> Iterator[Engine]:
    """Engine of the service on one database for all tests here; each makes a batch of its own."""
    databases = databases_of()
    with databases.clone() as name:
        engine = create_engine(databases.url(name), poolclass=NullPool)
        yield engine


def tenant(engine: Engine, owner: uuid.UUID) -> Engine:
    scoped = create_engine(engine.url, poolclass=NullPool)
    Scope(owner).attach(scoped)
    return scoped


def new_batch(engine: Engine, items: int, owner: uuid.UUID | None = None) -> Work:
    with engine.begin() as connection:
        statement = text("INSERT INTO public.batch_jobs (user_id, batch_name) VALUES (:owner, :name) RETURNING id")
        key = connection.execute(statement, {"owner": owner, "name": uuid.uuid4().hex}).scalar_one()
        put(connection, key, molecules(connection, items, owner), owner=owner)
        return Work(key, owner)


def job_of(
    engine: Engine, work: Work, *, max_retries: int = 2, lease: float = 60.0, timeout: float | None = None
) -> Job:
    return Job(
        engine.url, Scope(), work, TbliteEngine(), Parameters(), seed=1, n_conformers=1, timeout=timeout,
        max_retries=max_retries, lease_seconds=lease, reconnect_seconds=10.0,
    )  # fmt: skip


def take(engine: Engine, job: Job, limit: int = 10, after: int = 0) -> tuple[uuid.UUID, tuple[Item, ...]]:
    token = uuid.uuid4()
    with engine.begin() as connection:
        return token, claim_items(connection, job, token=token, holder="test", limit=limit, after=after)


def result(item: Item, job: Job, energy: float = -1.5) -> Ended:
    row = {
        "molecule_id": item.molecule_id, "energy": energy, "total_charge": 0.0, "unpaired_electrons": 0,
        "method": "GFN2-xTB", "optimized": False, "convergence_status": "converged",
        "xtb_version": 'a "quoted", {braced} \\ name', "metadata": {"run": {"note": 'NULL, "x" \\n ☃'}},
    }  # fmt: skip
    atoms: dict[str, list[Any]] = {
        "atom_index": [0, 1], "element": ["C", "H"], "atomic_number": [6, 1], "partial_charge": [None, 0.25],
        "position_x": [DOUBLES[0], DOUBLES[1]], "position_y": [DOUBLES[2], DOUBLES[3]], "position_z": [0.0, 1.0],
        "force_x": [None, None], "force_y": [1e-300, 2.0], "force_z": [0.0, 0.0],
    }  # fmt: skip
    return Ended(item.id, program_events.calculation_completed(item.molecule_id, energy=energy), row=row, atoms=atoms)


def end(engine: Engine, job: Job, token: uuid.UUID, ended: list[Ended]) -> frozenset[int]:
    return Link(engine, reconnect_seconds=5).run(lambda connection: store(connection, job, token, ended)).item_ids


def expire(engine: Engine, work: Work) -> None:
    """Let the leases of a batch run out, as if their workers were not heard of any more."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE public.batch_items SET lease_expires_at = now() - interval '1 s' "
                "WHERE batch_id = :b AND status = 'processing'"
            ),
            {"b": work.batch_id},
        )


def rows(engine: Engine, sql: str, **values: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(sql), values).all())


def stored(engine: Engine, work: Work) -> list[tuple[str, int]]:
    """Status of each item, and how many calculations its molecule has."""
    found = rows(
        engine,
        "SELECT i.status, (SELECT count(*) FROM public.calculations AS c WHERE c.molecule_id = i.molecule_id) "
        "FROM public.batch_items AS i WHERE batch_id = :b ORDER BY i.id",
        b=work.batch_id,
    )
    return [(row[0], row[1]) for row in found]


def event_types(engine: Engine, work: Work) -> Counter[str]:
    """Events of the batch itself and of what was computed for it, as programs wrote them."""
    found = rows(
        engine,
        "SELECT event_type FROM public.event_logs WHERE recorded_by = 'program' AND "
        "((entity_type = 'batch_jobs' AND entity_id = :b) OR (entity_type = 'calculations' AND "
        "(context ->> 'molecule_id')::bigint IN (SELECT molecule_id FROM public.batch_items WHERE batch_id = :b)))",
        b=work.batch_id,
    )
    return Counter(row[0] for row in found)


# Claims -----------------------------------------------------------------------------------------------------------


def test_items_are_claimed_in_order_and_by_one_only(engine: Engine) -> None:
    job = job_of(engine, new_batch(engine, 5))
    _, first = take(engine, job, limit=3)
    _, second = take(engine, job, limit=3)
    _, third = take(engine, job, limit=3)
    assert (len(first), len(second), third) == (3, 2, ())
    assert [item.id for item in first + second] == sorted(item.id for item in first + second)
    assert all(item.smiles is not None for item in first)


def test_workers_at_once_get_different_items(engine: Engine) -> None:
    work = new_batch(engine, 200)
    job = job_of(engine, work)
    got: list[int] = []

    def claim_all() -> None:
        after = 0
        while items := take(engine, job, limit=7, after=after)[1]:
            got.extend(item.id for item in items)
            after = items[-1].id

    threads = [threading.Thread(target=claim_all) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    while items := take(engine, job)[1]:
        got.extend(item.id for item in items)

    assert len(got) == len(set(got)) == 200


def test_what_others_hold_is_skipped_not_waited_for(engine: Engine) -> None:
    job = job_of(engine, new_batch(engine, 5))
    # The first claim of all holds the batch itself, which begins with it.
    take(engine, job, limit=1)
    with engine.begin() as holding:
        held = claim_items(holding, job, token=uuid.uuid4(), holder="a", limit=2, after=0)
        _, mine = take(engine, job)
        assert {item.id for item in held}.isdisjoint(item.id for item in mine)
        assert len(mine) == 2


def test_a_lease_that_ran_out_is_claimed_again_counted_and_alone(engine: Engine) -> None:
    work = new_batch(engine, 4)
    job = job_of(engine, work)
    take(engine, job, limit=3)
    expire(engine, work)

    claims = [take(engine, job)[1] for _ in range(5)]

    assert [[item.retry_count for item in items] for items in claims] == [[0], [1], [1], [1], []]


def test_a_lease_that_runs_is_nobody_else_s(engine: Engine) -> None:
    work = new_batch(engine, 1)
    job = job_of(engine, work, lease=0.5)
    token, (item,) = take(engine, job)
    for _ in range(4):
        with engine.begin() as connection:
            assert renew(connection, {token: [item.id]}, lease_seconds=0.5) == {token}
        time.sleep(0.2)
        assert take(engine, job)[1] == ()
    time.sleep(0.5)
    _, (again,) = take(engine, job)
    assert (again.id, again.retry_count) == (item.id, 1)
    with engine.begin() as connection:
        assert renew(connection, {token: [item.id]}, lease_seconds=60) == set()


def test_a_renewal_leaves_no_event(engine: Engine) -> None:
    work = new_batch(engine, 1)
    token, (item,) = take(engine, job_of(engine, work))
    count = "SELECT count(*) FROM public.event_logs WHERE entity_type = 'batch_items' AND entity_id = :i"
    before = rows(engine, count, i=item.id)
    with engine.begin() as connection:
        renew(connection, {token: [item.id]}, lease_seconds=99)
    assert rows(engine, count, i=item.id) == before


def test_an_item_out_of_retries_fails_and_takes_no_other_with_it(engine: Engine) -> None:
    work = new_batch(engine, 2)
    job = job_of(engine, work, max_retries=1)
    take(engine, job)
    expire(engine, work)
    for _ in range(2):
        take(engine, job)
    expire(engine, work)

    assert take(engine, job)[1] == ()

    found = rows(
        engine,
        "SELECT status, error_code, error_message, retry_count FROM public.batch_items WHERE batch_id = :b",
        b=work.batch_id,
    )
    assert {tuple(row) for row in found} == {("failed", "killed", "its worker was not heard of any more, 2 times", 2)}
    assert event_types(engine, work) == {"batch_started": 1, "calculation_failed": 2, "batch_completed": 1}
    with engine.connect() as connection:
        assert (counts(connection, work.batch_id), state(connection, work.batch_id)[0]) == (
            (2, 0, 2, 0, 0),
            "completed",
        )


def set_to_processing(engine: Engine, work: Work) -> None:
    """As a program does that knows no lease: the first item of a batch."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE public.batch_items SET status = 'processing' "
                "WHERE id = (SELECT min(id) FROM public.batch_items WHERE batch_id = :b)"
            ),
            {"b": work.batch_id},
        )


def test_an_item_that_another_program_works_on_is_not_claimed(engine: Engine) -> None:
    work = new_batch(engine, 2)
    set_to_processing(engine, work)
    job = job_of(engine, work, timeout=60.0)
    token, (item,) = take(engine, job)
    with engine.begin() as connection:
        assert outlook(connection, work, limit=5, timeout=60.0)[:2] == (0, True)
    end(engine, job, token, [result(item, job)])
    # Nobody waits for it: there is no lease that could run out.
    with engine.begin() as connection:
        assert outlook(connection, work, limit=5, timeout=60.0)[:2] == (0, False)


def test_an_item_that_no_program_can_still_be_working_on_is_claimed_and_counted(engine: Engine) -> None:
    work = new_batch(engine, 1)
    set_to_processing(engine, work)
    time.sleep(0.2)
    with engine.begin() as connection:
        assert outlook(connection, work, limit=5, timeout=None).claimable == 0
        assert outlook(connection, work, limit=5, timeout=0.1).claimable == 1
    assert take(engine, job_of(engine, work, timeout=None))[1] == ()

    job = job_of(engine, work, timeout=0.1)
    token, (item,) = take(engine, job)

    assert item.retry_count == 1
    assert end(engine, job, token, [result(item, job)]) == {item.id}
    assert stored(engine, work) == [("completed", 1)]


def test_a_released_item_waits_again_and_only_the_blamed_one_is_counted(engine: Engine) -> None:
    work = new_batch(engine, 3)
    job = job_of(engine, work)
    token, items = take(engine, job)
    with engine.begin() as connection:
        assert release(connection, work, token, blamed=items[1].id) == 3
        assert outlook(connection, work, limit=10)[:2] == (3, False)
    assert [len(take(engine, job)[1]) for _ in range(3)] == [2, 1, 0]
    retries = "SELECT retry_count FROM public.batch_items WHERE batch_id = :b ORDER BY id"
    assert [row[0] for row in rows(engine, retries, b=work.batch_id)] == [0, 1, 0]


@pytest.mark.parametrize("owner", [ALICE, None])
def test_neither_a_claim_nor_a_look_reads_more_than_it_takes(engine: Engine, owner: uuid.UUID | None) -> None:
    with engine.begin() as connection:
        # Their keys lie between each other's, and all of the first batch has ended.
        works = [new_batch(engine, 1, owner) for _ in range(3)]
        keys = molecules(connection, 6000, owner)
        for start in range(0, len(keys), 100):
            put(connection, works[start // 100 % 3].batch_id, keys[start : start + 100], owner=owner)
        connection.execute(
            text("UPDATE public.batch_items SET status = 'completed' WHERE batch_id = :b"), {"b": works[0].batch_id}
        )
        connection.execute(text("ANALYZE public.batch_items"))
    asked: list[tuple[str, Any]] = []
    scoped = engine if owner is None else tenant(engine, owner)
    listener = lambda _c, _cursor, statement, parameters, *_: asked.append((statement, parameters))  # noqa: E731
    event.listen(scoped, "before_cursor_execute", listener)
    job = job_of(engine, works[2])
    _, items = take(scoped, job, limit=100)
    take(scoped, job, limit=100, after=items[-1].id)
    with scoped.begin() as connection:
        assert outlook(connection, works[2], limit=10)[0] == 10
    event.remove(scoped, "before_cursor_execute", listener)

    queues = [(statement, values) for statement, values in asked if "BETWEEN" in statement]
    assert len(queues) == 3
    with scoped.begin() as connection:
        for statement, values in queues:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS OFF) {statement}", values).scalars()
            plan = "\n".join(explained)
            assert "Index Scan using batch_items_claim" in plan, plan
            assert "Sort" not in plan, plan
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM public.batch_jobs"))


# Results ----------------------------------------------------------------------------------------------------------


def test_results_are_stored_with_atoms_status_counts_and_events(engine: Engine) -> None:
    work = new_batch(engine, 3)
    job = job_of(engine, work)
    token, items = take(engine, job)

    ended = [result(items[0], job, energy=DOUBLES[3]), failed(items[1], job, "timeout", "too\0 slow", "stderr\0 \\x")]
    assert end(engine, job, token, ended) == {items[0].id, items[1].id}

    assert stored(engine, work) == [("completed", 1), ("failed", 0), ("processing", 0)]
    with engine.connect() as connection:
        assert counts(connection, work.batch_id) == (3, 1, 1, 0, 1)
    (calculation,) = rows(
        engine,
        "SELECT c.id, c.energy, c.xtb_version, c.metadata, c.source_id FROM public.calculations AS c "
        "WHERE c.molecule_id = :m",
        m=items[0].molecule_id,
    )
    assert calculation.energy == DOUBLES[3]
    assert calculation.xtb_version == 'a "quoted", {braced} \\ name'
    assert calculation.metadata == {"run": {"note": 'NULL, "x" \\n ☃'}}
    atoms = rows(
        engine,
        "SELECT element, partial_charge, position_x, position_y, force_y FROM public.atomic_properties "
        "WHERE calculation_id = :c ORDER BY atom_index",
        c=calculation.id,
    )
    assert [tuple(map(repr, row)) for row in atoms] == [
        ("'C'", "None", "-0.0", repr(1 / 3), "1e-300"),
        ("'H'", "0.25", "5e-324", repr(DOUBLES[3]), "2.0"),
    ]
    (item,) = rows(
        engine,
        "SELECT error_code, error_message, metadata, calculation_id FROM public.batch_items WHERE id = :i",
        i=items[1].id,
    )
    assert tuple(item) == ("timeout", "too slow", {"stderr": "stderr \\x"}, None)
    assert event_types(engine, work) == {"batch_started": 1, "calculation_completed": 1, "calculation_failed": 1}
    (event,) = rows(
        engine,
        "SELECT entity_id, context FROM public.event_logs WHERE event_type = 'calculation_completed' "
        "AND entity_id = :c",
        c=calculation.id,
    )
    assert event.context["molecule_id"] == items[0].molecule_id


def test_stored_twice_is_stored_once(engine: Engine) -> None:
    work = new_batch(engine, 2)
    job = job_of(engine, work)
    token, items = take(engine, job)
    ended = [result(item, job) for item in items]
    # The answer to the first commit was lost.
    assert end(engine, job, token, ended) == end(engine, job, token, ended) == {item.id for item in items}
    assert stored(engine, work) == [("completed", 1)] * 2
    assert event_types(engine, work) == {"batch_started": 1, "calculation_completed": 2, "batch_completed": 1}


def test_a_worker_that_lost_its_lease_writes_nothing_of_it(engine: Engine) -> None:
    work = new_batch(engine, 2)
    job = job_of(engine, work)
    late, items = take(engine, job)
    expire(engine, work)
    token, (taken,) = take(engine, job)

    assert end(engine, job, late, [result(item, job, -9.0) for item in items]) == {items[1].id}
    assert end(engine, job, token, [result(taken, job, -2.0)]) == {taken.id}

    assert stored(engine, work) == [("completed", 1)] * 2
    energies = (
        "SELECT c.energy FROM public.batch_items AS i JOIN public.calculations AS c ON c.id = i.calculation_id "
        "WHERE i.batch_id = :b ORDER BY i.id"
    )
    assert [row[0] for row in rows(engine, energies, b=work.batch_id)] == [-2.0, -9.0]
    assert event_types(engine, work)["calculation_completed"] == 2


def test_items_taken_away_in_the_middle_of_it_undo_it_all(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from qforge_sdk.db import results

    work = new_batch(engine, 2)
    job = job_of(engine, work)
    token, items = take(engine, job)
    insert = results._insert_atoms

    def taken_away_now(*arguments: Any) -> None:
        insert(*arguments)
        expire(engine, work)
        take(engine, job)

    monkeypatch.setattr(results, "_insert_atoms", taken_away_now)
    with pytest.raises(LeaseLost), engine.begin() as connection:
        store(connection, job, token, [result(item, job) for item in items])
    assert stored(engine, work) == [("processing", 0)] * 2


def test_an_item_whose_molecule_is_gone_is_nothing_to_store(engine: Engine) -> None:
    work = new_batch(engine, 2)
    job = job_of(engine, work)
    token, items = take(engine, job)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM public.molecules WHERE id = :m"), {"m": items[0].molecule_id})
    assert end(engine, job, token, [result(item, job) for item in items]) == {items[1].id}
    assert stored(engine, work) == [("completed", 1)]


def test_deletions_meet_workers_without_a_deadlock(engine: Engine) -> None:
    """Molecules go whose items are being finished and counted; of two that wait for each other one would be ended."""
    work = new_batch(engine, 120)
    job = job_of(engine, work)
    faults: list[BaseException] = []

    def finish_all() -> None:
        try:
            while items := (taken := take(engine, job, limit=8))[1]:
                with engine.begin() as connection:
                    store(connection, job, taken[0], [result(item, job) for item in items])
        except LeaseLost:
            finish_all()
        except (DBAPIError, AccessDenied) as exc:
            # The molecule went between two statements.
            if "deadlock" in str(exc):
                faults.append(exc)
            else:
                finish_all()

    def delete_some() -> None:
        try:
            for (key,) in rows(
                engine, "SELECT molecule_id FROM public.batch_items WHERE batch_id = :b", b=work.batch_id
            )[::3]:
                with engine.begin() as connection:
                    connection.execute(text("DELETE FROM public.molecules WHERE id = :m"), {"m": key})
        except DBAPIError as exc:
            faults.append(exc)

    threads = [threading.Thread(target=one) for one in (finish_all, finish_all, delete_some)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert faults == []
    with engine.connect() as connection:
        assert connection.execute(text(DISAGREEING)).all() == []


def test_the_batch_ends_once_whoever_is_last(engine: Engine) -> None:
    work = new_batch(engine, 30)
    job = job_of(engine, work)

    def finish_all() -> None:
        while items := (taken := take(engine, job, limit=3))[1]:
            end(engine, job, taken[0], [result(item, job) for item in items])

    threads = [threading.Thread(target=finish_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert stored(engine, work) == [("completed", 1)] * 30
    assert event_types(engine, work) == {"batch_started": 1, "calculation_completed": 30, "batch_completed": 1}
    (event,) = rows(
        engine,
        "SELECT context FROM public.event_logs WHERE event_type = 'batch_completed' AND entity_id = :b",
        b=work.batch_id,
    )
    assert event.context["success_rate"] == 100.0
    assert (event.context["total_molecules"], event.context["failed_count"]) == (30, 0)


def test_a_batch_that_is_deleted_is_not_there_any_more(engine: Engine) -> None:
    work = new_batch(engine, 1)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM public.batch_jobs WHERE id = :b"), {"b": work.batch_id})
    with engine.begin() as connection, pytest.raises(NotFound):
        outlook(connection, work, limit=1)


# Whose ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [ALICE, PUBLIC_USER_ID, None])
def test_what_the_service_computes_belongs_to_the_owner_of_the_batch(engine: Engine, owner: uuid.UUID | None) -> None:
    work = new_batch(engine, 2, owner)
    job = job_of(engine, work)
    token, items = take(engine, job)
    end(engine, job, token, [result(items[0], job), failed(items[1], job, "killed", "it died")])
    owners = (
        "SELECT user_id FROM public.calculations WHERE molecule_id = ANY (:m) UNION ALL "
        "SELECT a.user_id FROM public.atomic_properties AS a JOIN public.calculations AS c "
        "ON c.id = a.calculation_id WHERE c.molecule_id = ANY (:m) UNION ALL "
        "SELECT user_id FROM public.event_logs WHERE recorded_by = 'program' "
        "AND (context ->> 'molecule_id')::bigint = ANY (:m) UNION ALL "
        "SELECT user_id FROM public.event_logs WHERE recorded_by = 'program' "
        "AND entity_type = 'batch_jobs' AND entity_id = :b"
    )
    found = [row[0] for row in rows(engine, owners, m=[item.molecule_id for item in items], b=work.batch_id)]
    assert found == [owner] * (1 + 2 + 2 + 2)


def test_a_tenant_computes_its_own_items_on_public_molecules(engine: Engine) -> None:
    with engine.begin() as connection:
        public = molecules(connection, 2, PUBLIC_USER_ID)
    alice = tenant(engine, ALICE)
    work = new_batch(alice, 0, ALICE)
    with alice.begin() as connection:
        put(connection, work.batch_id, public, owner=ALICE)
    job = job_of(engine, work)
    token, items = take(alice, job)
    assert end(alice, job, token, [result(item, job) for item in items]) == {item.id for item in items}
    owners = rows(engine, "SELECT DISTINCT user_id FROM public.calculations WHERE molecule_id = ANY (:m)", m=public)
    assert [row[0] for row in owners] == [ALICE]


@pytest.mark.parametrize("owner", [BOB, PUBLIC_USER_ID, None])
def test_a_tenant_neither_claims_nor_ends_another_s_items(engine: Engine, owner: uuid.UUID | None) -> None:
    work = new_batch(engine, 2, owner)
    job = job_of(engine, work)
    token, items = take(engine, job, limit=1)
    alice = tenant(engine, ALICE)

    assert take(alice, job)[1] == ()
    assert take(alice, job_of(engine, Work(work.batch_id, ALICE)))[1] == ()
    with alice.begin() as connection:
        assert renew(connection, {token: [items[0].id]}, lease_seconds=1) == set()
        assert release(connection, work, token) == 0
        ids = {"b": work.batch_id}
        changed = connection.execute(
            text("UPDATE public.batch_items SET lease_token = NULL, status = 'completed' WHERE batch_id = :b"), ids
        )
        assert changed.rowcount == 0
    if owner != PUBLIC_USER_ID:
        # What it cannot see is lost to it; of a public item it sees the lease, and may write nothing.
        assert end(alice, job, token, [result(items[0], job)]) == frozenset()
    assert stored(engine, work) == [("processing", 0), ("pending", 0)]


def test_claims_are_the_same_on_every_version(any_version: Databases) -> None:
    with any_version.clone() as name:
        engine = create_engine(any_version.url(name), poolclass=NullPool)
        work = new_batch(engine, 3)
        job = job_of(engine, work)
        token, items = take(engine, job)
        end(engine, job, token, [result(item, job) for item in items[:2]])
        with engine.begin() as connection:
            assert claim(
                connection, work, token=uuid.uuid4(), holder="b", limit=5, lease_seconds=60, max_retries=2
            ).items == ()  # fmt: skip
            release(connection, work, token)
        token, (last,) = take(engine, job)
        end(engine, job, token, [result(last, job)])
        assert event_types(engine, work) == {"batch_started": 1, "calculation_completed": 3, "batch_completed": 1}
