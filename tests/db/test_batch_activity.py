"""``client.batches.activity()``: what is going on in several batches at once."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import text

from qforge_sdk.client import Client
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.work import Work, claim, release
from qforge_sdk.errors import InvalidInput
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

COUNTS = ["pending", "processing", "completed", "failed", "skipped"]


def batch(client: Client, name: str, items: int, *, shared: bool = False) -> int:
    return client.batches.create(name, molecules=["C" * n for n in range(1, items + 1)], shared=shared).id


def take(client: Client, key: int, owner: uuid.UUID | None, *, lease: float = 60.0) -> uuid.UUID:
    token = uuid.uuid4()
    with client.engine.begin() as connection:
        claim(connection, Work(key, owner), token=token, holder="a test", limit=2, lease_seconds=lease, max_retries=2)
    return token


@pytest.mark.parametrize("owner", [None, ALICE], ids=["service", "tenant"])
def test_a_batch_is_computed_as_long_as_a_lease_holds(
    client: Client, tenant_client: TenantClient, owner: uuid.UUID | None
) -> None:
    reader = client if owner is None else tenant_client(owner)
    busy, idle, empty = batch(reader, "busy", 5), batch(reader, "idle", 1), batch(reader, "empty", 0)
    token = take(client, busy, owner)
    with client.engine.begin() as connection:
        connection.execute(
            text("UPDATE batch_items SET status = 'failed' WHERE batch_id = :b AND status = 'pending'"), {"b": busy}
        )

    found = reader.batches.activity([empty, busy, idle])

    assert found["batch_id"].tolist() == [busy, idle, empty]
    assert found[COUNTS].to_numpy().tolist() == [[0, 2, 0, 3, 0], [1, 0, 0, 0, 0], [0] * 5]
    assert found["is_computed"].tolist() == [True, False, False]
    with client.engine.begin() as connection:
        release(connection, Work(busy, owner), token)
    assert not reader.batches.activity([busy])["is_computed"].any()


def test_a_lease_that_ran_out_is_nobody_s_work(client: Client) -> None:
    key = batch(client, "left", 3)
    take(client, key, None, lease=0.0)

    found = client.batches.activity([key]).iloc[0]

    assert (found["processing"], found["is_computed"]) == (2, False)


def test_a_tenant_sees_its_own_and_public_batches(client: Client, tenant_client: TenantClient) -> None:
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    own, foreign = batch(alice, "mine", 2), batch(bob, "his", 1)
    client.molecules.create("O", shared=True)
    public = client.batches.create("everybody's", molecules=["O"], shared=True)
    take(client, public.id, PUBLIC_USER_ID)

    found = alice.batches.activity([own, foreign, public.id])

    assert found["batch_id"].tolist() == [own, public.id]
    assert found["is_computed"].tolist() == [False, True]
    assert alice.batches.may_change(alice.batches.get(own))
    assert not alice.batches.may_change(public)
    assert client.batches.may_change(public)


def test_no_batches_have_a_frame_of_the_same_kind(client: Client) -> None:
    found = client.batches.activity([])
    assert found.empty
    assert found.dtypes.equals(client.batches.activity([batch(client, "one", 1)]).dtypes)
    with pytest.raises(InvalidInput, match="whole number"):
        client.batches.activity(["one"])


def test_failures_among_the_first_are_those_of_the_first(client: Client) -> None:
    key = batch(client, "failed", 6)
    with client.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE batch_items SET status = 'failed', error_code = CASE WHEN id % 2 = 0 THEN 'timeout' END "
                "WHERE batch_id = :b"
            ),
            {"b": key},
        )
    ids = client.batches.items(key)["id"].tolist()
    even, odd = ("timeout", "unknown")
    expected = {code: sum(one % 2 == rest for one in ids[:3]) for code, rest in ((even, 0), (odd, 1))}

    found = client.batches.failures(key, among=3)

    assert dict(zip(found["code"], found["items"], strict=True)) == expected
    assert client.batches.failures(key)["items"].tolist() == [3, 3]
    with pytest.raises(InvalidInput, match="from 1 on, not 0"):
        client.batches.failures(key, among=0)


def all_pages(client: Client, key: int, order: str, **filters: str) -> list[int]:
    """Keys of the items of a batch from the first page to the last, and from the last to the first."""
    there: list[int] = []
    page = client.batches.items_page(key, order_by=order, limit=7, **filters)
    while True:
        there += page.frame["id"].tolist()
        if page.next is None:
            break
        page = client.batches.items_page(key, order_by=order, limit=7, after=page.next, **filters)
    back: list[int] = []
    page = client.batches.items_page(key, order_by=order, limit=7, before="end", **filters)
    while True:
        back = page.frame["id"].tolist() + back
        if page.previous is None:
            break
        page = client.batches.items_page(key, order_by=order, limit=7, before=page.previous, **filters)
    assert back == there
    return there


@pytest.mark.parametrize("reader", ["service", "tenant", "public"])
def test_pages_of_items_are_the_items_in_order(client: Client, tenant_client: TenantClient, reader: str) -> None:
    alice = tenant_client(ALICE)
    owner = client if reader != "tenant" else alice
    client.molecules.bulk_load({"smiles": ["C" * n for n in range(1, 25)]}, shared=True)
    for name in ("before", "screen", "after"):
        key = batch(owner, name, 24, shared=reader == "public")
    with client.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE batch_items SET status = (ARRAY['pending', 'completed', 'failed', 'skipped'])[1 + id % 4], "
                "error_code = CASE WHEN id % 3 = 0 THEN 'timeout' END"
            )
        )
    key = int(owner.batches.query(batch_name="screen")["id"][0])
    look = client if reader == "service" else alice
    frame = look.batches.items(key)

    assert all_pages(look, key, "id") == frame["id"].tolist()
    assert all_pages(look, key, "-id") == frame["id"].tolist()[::-1]
    by_status = frame.sort_values(["status", "id"])["id"].tolist()
    assert all_pages(look, key, "status") == by_status
    assert all_pages(look, key, "-status") == by_status[::-1]
    failed = frame[frame["status"] == "failed"]["id"].tolist()
    assert all_pages(look, key, "id", status="failed") == failed
    assert all_pages(look, key, "status", status="failed") == failed
    assert (
        all_pages(look, key, "-id", error_code="timeout")
        == frame[frame["error_code"] == "timeout"]["id"].tolist()[::-1]
    )
    assert look.batches.items_page(key).count == 24
    assert look.batches.items_page(key, status="failed").count == len(failed)
    assert look.batches.items_page(key, error_code="timeout", limit=2).count == 8
