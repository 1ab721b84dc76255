"""The widget of batches without a browser: what it shows, and what its buttons do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk.client import Client, connect
from qforge_sdk.db.work import Work, claim
from qforge_sdk.widgets import batches_state as state
from qforge_sdk.widgets.batches import BatchBoard
from qforge_sdk.widgets.elements import Notice
from qforge_sdk.widgets.refresh import Refresher
from tests.fixtures.clients import TenantClient
from tests.fixtures.engines import Repulsion
from tests.fixtures.tenants import ALICE, BOB

MOLECULES = ["C", "CC", "CCC", "CCCC", "O", "N"]
PARAMETERS = {"method": "repulsion"}


@pytest.fixture
def board(client: Client) -> Iterator[BatchBoard]:
    board = client.widgets.batches()
    yield board
    board.close()


def batch(client: Client, name: str = "screen", smiles: list[str] = MOLECULES, **options: Any) -> int:
    return client.batches.create(name, molecules=smiles, parameters=PARAMETERS, **options).id


def run(client: Client, key: int, **faults: str) -> None:
    client.batches.run(key, engine=Repulsion(**faults), workers=1, lease_seconds=5.0, timeout=60.0, progress=False)


def words(cell: Any) -> str:
    return str(cell.get("text", "")) if isinstance(cell, dict) else cell


def shown(table: Any) -> list[dict[str, str]]:
    """Rows of a table: heading to what it says."""
    names = [column["name"] for column in table.columns]
    return [dict(zip(names, map(words, row["cells"]), strict=True)) for row in table.rows]


def line(board: BatchBoard, key: int) -> list[str]:
    (row,) = [row for row in shown(board.table) if row["id"] == str(key)]
    return [row[name] for name in ("status", "progress", "completed", "failed", "skipped", "processing", "pending")]


def said(board: BatchBoard) -> list[str]:
    return [text for text, _ in board.advice.lines]


def send(widget: Any, **content: Any) -> None:
    """A message as the browser sends it."""
    widget._handle_custom_msg(content, [])


def wait_until(holds: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "qforge widget"]


# What it shows ----------------------------------------------------------------------------------------------------


def test_an_empty_database_says_how_to_begin(board: BatchBoard) -> None:
    assert board.notice.text == ""
    assert board.table.rows == []
    assert "client.batches.create(" in board.table.nothing
    assert board.pager.where.value == "no batches"
    assert board.selected.empty


def test_batches_are_shown_page_by_page_newest_first(client: Client) -> None:
    for n in range(10):
        batch(client, f"batch {n}", [])
    board = client.widgets.batches()

    assert [row["batch_name"] for row in shown(board.table)] == [f"batch {n}" for n in range(9, 1, -1)]
    assert board.pager.where.value == "1 to 8 of 10 batches"
    board.pager.next.click()
    assert [row["batch_name"] for row in shown(board.table)] == ["batch 1", "batch 0"]
    assert board.pager.where.value == "9 to 10 of 10 batches"
    board.update()
    assert board.pager.where.value == "9 to 10 of 10 batches"
    board.table.sort = "batch_name"
    assert [row["batch_name"] for row in shown(board.table)] == [f"batch {n}" for n in range(8)]
    for key in client.batches.query()["id"]:
        client.batches.delete(key)
    board.update()
    assert (board.table.rows, board.notice.text) == ([], "")


def test_a_batch_that_ran_in_part_shows_its_counts_and_failures(client: Client, board: BatchBoard) -> None:
    key = batch(client, description="all of <b>them</b>")
    board.update()
    assert line(board, key) == ["pending", "0 %", "0", "0", "0", "0", "6"]
    board.table.picked = [key]
    assert said(board) == ['6 items wait and nobody computes: client.batches.run("screen") does.']
    assert board.heading.lines == [["screen", "strong"], ["all of <b>them</b> · method repulsion", "quiet"]]
    assert board.failures.layout.display == "none"

    run(client, key, fails_on="CC", breaks_on="O")
    board.update()

    assert line(board, key) == ["completed", "100 %", "4", "2", "0", "0", "0"]
    assert board.table.rows[0]["cells"][3]["bar"] == [(4 / 6, "good"), (2 / 6, "bad")]
    failed = shown(board.failures)
    assert [(row["code"], row["items"], row["example"]) for row in failed] == [
        ("engine_error", "1", "O"),
        ("scf_not_converged", "1", "CC"),
    ]
    assert board.reasons.lines[0][0].endswith('client.batches.run("screen") computes them.')
    items = shown(board.items)
    assert [row["smiles"] for row in items] == MOLECULES
    assert items[1]["error"] == "scf_not_converged: it does not converge"
    assert items[1]["calculation_id"] == "\N{EN DASH}"
    linked = client.batches.items(key)["calculation_id"]
    assert items[0]["calculation_id"] == str(linked[0])
    assert all(row["cells"][1]["image"].startswith("data:image/svg+xml;base64,") for row in board.items.rows)


def test_items_are_filtered_sorted_and_chosen(client: Client, board: BatchBoard) -> None:
    key = batch(client, smiles=["C" * n for n in range(1, 16)])
    run(client, key, fails_on="CC")
    board.table.picked = [key]
    assert board.item_pager.where.value == "1 to 10 of 15 items"
    board.item_pager.next.click()
    assert [len(row["smiles"]) for row in shown(board.items)] == [11, 12, 13, 14, 15]
    board.items.sort = "-status"
    assert shown(board.items)[0]["status"] == "failed"
    board.status.value = "failed"
    assert [row["smiles"] for row in shown(board.items)] == ["CC"]
    assert board.item_pager.where.value == "1 of 1 items"

    assert board.selected.empty
    assert board.selected.dtypes.equals(client.batches.items(key).dtypes)
    board.items.picked = [board.items.rows[0]["key"]]
    found = board.selected
    assert found[["smiles", "error_code"]].to_numpy().tolist() == [["CC", "scf_not_converged"]]
    assert found.columns.tolist() == client.batches.items(key).columns.tolist()


def test_rows_without_names_smiles_or_codes_are_shown(client: Client, board: BatchBoard) -> None:
    key = batch(client, smiles=["C"])
    with client.session() as session:
        graph = qf.Molecule(graph_hash="f" * 64, formula="Fe")
        session.add(graph)
        session.flush()
        session.add(qf.BatchItem(batch_id=key, molecule_id=graph.id, status="failed"))
    board.show_batch(key)

    assert board.notice.text == ""
    assert [row["smiles"] for row in shown(board.items)] == ["C", ""]
    assert board.items.rows[1]["cells"][1]["alt"] == "Fe"
    assert shown(board.failures)[0] | {"retry": ""} == {
        "code": "unknown", "items": "1", "example": "", "message": "", "retry": ""
    }  # fmt: skip


def test_a_namesake_is_called_by_its_key(client: Client, tenant_client: TenantClient) -> None:
    batch(tenant_client(ALICE))
    key = batch(client)
    board = client.widgets.batches()
    board.show_batch(key)
    assert said(board) == [f"6 items wait and nobody computes: client.batches.run({key}) does."]


def test_only_the_first_of_many_failures_are_grouped(
    client: Client, board: BatchBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "FAILURES_LOOKED_AT", 2)
    key = batch(client)
    with client.session() as session:
        session.execute(text("UPDATE batch_items SET status = 'failed', error_code = 'timeout'"))
    board.show_batch(key)
    assert shown(board.failures)[0]["items"] == "2"
    assert board.reasons.lines[0][0].startswith("6 failed (of the first 2).")


def test_a_batch_that_is_gone_is_closed_with_a_word(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    board.show_batch(key)
    client.batches.delete(key)
    board.update()
    assert (board.notice.is_error, board.notice.text) == (True, f"batch_jobs has no row {key}")
    assert board.details.layout.display == "none"
    board.update()
    assert board.notice.text == ""


# What its buttons do ----------------------------------------------------------------------------------------------


def test_failures_are_retried_by_code_by_choice_and_all(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    faults = {"fails_on": "CC", "breaks_on": "O", "overflows_on": "N"}
    run(client, key, **faults)
    board.show_batch(key)

    send(board.failures, action="retry", key="engine_error")
    assert board.notice.text == "2 items wait again."
    assert line(board, key) == ["pending", "67 %", "3", "1", "0", "0", "2"]
    assert said(board) == ['2 items wait and nobody computes: client.batches.run("screen") does.']
    run(client, key, **faults)
    board._look()
    assert board.notice.text == ""

    failed = [row["key"] for row in board.items.rows if words(row["cells"][4]) == "failed"]
    assert board.retry_chosen.disabled
    board.items.picked = failed[:1]
    assert (board.retry_chosen.description, board.retry_chosen.disabled) == ("Retry the 1 chosen", False)
    board.retry_chosen.click()
    assert board.notice.text == "1 item waits again."
    assert board.items.picked == []

    board.retry_all.click()
    assert line(board, key) == ["pending", "50 %", "3", "0", "0", "0", "3"]
    assert board.retry_all.disabled
    run(client, key)
    board.update()
    assert line(board, key) == ["completed", "100 %", "6", "0", "0", "0", "0"]


def test_an_item_with_a_result_is_not_retried_and_the_widget_says_so(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    run(client, key)
    board.show_batch(key)
    board.items.picked = [board.items.rows[0]["key"]]
    board.retry_chosen.click()
    assert board.notice.is_error
    assert "is completed" in board.notice.text
    board._look()
    assert board.notice.is_error, "a look takes back what a click led to"
    board.update()
    assert board.notice.text == ""


def test_the_last_page_of_failures_gives_way_to_the_first_when_they_are_retried(
    client: Client, board: BatchBoard
) -> None:
    key = batch(client, smiles=["C" * n for n in range(1, 14)])
    with client.session() as session:
        session.execute(text("UPDATE batch_items SET status = 'failed', error_code = 'timeout'"))
    board.show_batch(key)
    board.status.value = "failed"
    board.item_pager.next.click()
    assert board.item_pager.where.value == "11 to 13 of 13 items"
    client.batches.retry(key, items=client.batches.items(key)["id"][10:])
    board._look()
    assert board.item_pager.where.value == "1 to 10 of 10 items"


def test_a_batch_is_cancelled_after_a_question(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    board.show_batch(key)
    assert board.confirmation.layout.display == "none"
    board.cancel.click()
    assert board.confirmation.layout.display is None
    assert board.question.lines[0][0].startswith("Skip the 6 items that have not ended?")
    board.no.click()
    assert board.confirmation.layout.display == "none"
    assert client.batches.get(key).waiting_count == 6

    board.cancel.click()
    board.yes.click()

    assert board.notice.text == "6 items were skipped."
    assert line(board, key) == ["failed", "100 %", "0", "0", "6", "0", "0"]
    assert 'client.batches.retry("screen", "cancelled")' in said(board)[0]
    assert board.cancel.disabled


def test_a_tenant_looks_at_public_batches_and_changes_its_own(client: Client, tenant_client: TenantClient) -> None:
    client.molecules.create("O", shared=True)
    public = client.batches.create("everybody's", molecules=["O"], shared=True).id
    with client.session() as session:
        session.execute(text("UPDATE batch_items SET status = 'failed', error_code = 'timeout'"))
    alice = tenant_client(ALICE)
    own = batch(alice, "mine")
    foreign = batch(tenant_client(BOB), "his")
    board = alice.widgets.batches()

    assert [row["id"] for row in shown(board.table)] == [str(own), str(public)]
    board.show_batch(public)
    assert said(board) == ["This batch is public: only its owner can run, retry or cancel it."]
    assert shown(board.failures)[0]["retry"] == ""
    board.items.picked = [board.items.rows[0]["key"]]
    assert all(button.disabled for button in (board.retry_all, board.retry_chosen, board.cancel))
    send(board.failures, action="retry", key="timeout")
    assert (board.notice.is_error, board.notice.text) == (True, f"batch_jobs has no row {public}")
    board.show_batch(foreign)
    assert board.notice.text == f"batch_jobs has no row {foreign}"
    board.show_batch(own)
    assert (board.notice.text, board.cancel.disabled) == ("", False)


# What it does by itself -------------------------------------------------------------------------------------------


def test_it_follows_a_batch_that_runs_and_stops_when_that_has_ended(client: Client) -> None:
    key = batch(client, smiles=["C" * n for n in range(1, 9)])
    board = client.widgets.batches()
    board.refresher = Refresher(board._look, board.notice, busy_seconds=0.05, idle_seconds=0.05)
    board.refresher.start()
    board.show_batch(key)
    seen: list[list[str]] = []
    moving: list[bool] = []
    board.table.observe(lambda _: (seen.append(line(board, key)), moving.append(board._is_moving)), "rows")

    client.batches.run(key, engine=Repulsion(seconds=0.2), workers=1, progress=False)

    wait_until(lambda: line(board, key) == ["completed", "100 %", "8", "0", "0", "0", "0"])
    between = [one for one in seen if one[0] == "in progress"]
    assert between
    assert any(0 < int(one[2]) < 8 for one in between), seen
    assert any(moving)
    wait_until(lambda: not board._is_moving)
    board.close()
    assert not board.refresher.is_running


def test_a_lease_makes_it_look_more_often_and_its_end_less(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    assert not board._look()
    with client.engine.begin() as connection:
        claim(connection, Work(key, None), token=uuid.uuid4(), holder="x", limit=2, lease_seconds=0.5, max_retries=1)
    assert board._look()
    assert line(board, key) == ["in progress", "0 %", "0", "0", "0", "2", "4"]
    time.sleep(0.5)
    assert not board._look()
    # A program without leases has ended an item.
    with client.session() as session:
        session.execute(text("UPDATE batch_items SET status = 'failed' WHERE status = 'processing'"))
    assert board._look()
    assert not board._look()


def test_a_look_that_goes_wrong_is_shown_until_one_goes_right(client: Client, board: BatchBoard) -> None:
    batch(client)
    with client.session() as session:
        session.execute(text("ALTER TABLE batch_jobs RENAME TO jobs"))
    assert not board._look()
    assert board.notice.is_error
    with client.session() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO batch_jobs"))
    board._look()
    assert (board.notice.text, len(board.table.rows)) == ("", 1)


def test_what_nothing_has_happened_to_is_not_read_again(client: Client, board: BatchBoard) -> None:
    key = batch(client)
    board.show_batch(key)
    before = board._opened
    board._look()
    assert board._opened is not None
    assert before is not None
    assert board._opened.items is before.items
    client.batches.cancel(key)
    board._look()
    assert board._opened.items is not before.items


def refresher(notice: Notice, **options: float) -> tuple[Refresher, list[float]]:
    looks: list[float] = []

    def look() -> bool:
        looks.append(time.monotonic())
        return False

    return Refresher(look, notice, busy_seconds=0.02, idle_seconds=0.02, **options), looks


def test_without_a_sign_of_life_the_thread_ends_and_the_next_one_starts_it() -> None:
    notice = Notice()
    one, looks = refresher(notice, silence_seconds=0.2)
    send(notice, alive=True)
    wait_until(lambda: looks)
    wait_until(lambda: not one.is_running)
    assert 5 <= len(looks) <= 12
    send(notice, alive=True)
    assert one.is_running
    one.end()
    assert not one.is_running
    send(notice, alive=True)
    assert not one.is_running, "ended for good"


def test_after_a_goodbye_another_view_keeps_it_alive() -> None:
    notice = Notice()
    one, looks = refresher(notice, silence_seconds=100.0, goodbye_seconds=0.2)
    one.start()
    send(notice, alive=False)
    send(notice, alive=True)
    wait_until(lambda: len(looks) > 30)
    assert one.is_running

    send(notice, alive=False)
    wait_until(lambda: not one.is_running)


def test_silence_does_not_count_while_the_kernel_is_busy() -> None:
    async def kernel() -> None:
        one, looks = refresher(Notice(), silence_seconds=0.1)
        one.start()
        time.sleep(0.5)
        assert one.is_running
        assert len(looks) > 5, "it looks nevertheless"
        for _ in range(500):
            await asyncio.sleep(0.01)
            if not one.is_running:
                return
        raise AssertionError("nobody looks and it goes on")

    asyncio.run(kernel())


def test_a_closed_client_leaves_no_thread_and_opens_no_connection(database_url: str) -> None:
    client = connect(database_url)
    batch(client)
    board = client.widgets.batches()
    board._repr_mimebundle_()
    assert watchers()

    client.close()

    assert watchers() == []
    send(board.notice, alive=True)
    board._repr_mimebundle_()
    assert watchers() == []
    board.update()
    assert board.notice.text.startswith("this client is closed")
    assert client.engine.pool.checkedin() == 0


def test_a_look_that_has_begun_is_waited_for(database_url: str) -> None:
    client = connect(database_url)
    batch(client)
    board = client.widgets.batches()
    board.refresher = Refresher(board._look, board.notice, busy_seconds=0.0, idle_seconds=0.0)
    for _ in range(20):
        board.refresher.start()
    time.sleep(0.2)
    client.close()
    assert (watchers(), board.notice.text) == ([], "")
    assert client.engine.pool.checkedin() == 0


def test_an_interpreter_with_a_board_on_show_exits_at_once_and_silently(database_url: str) -> None:
    script = textwrap.dedent("""
        import sys, time
        import qforge_sdk as qf
        client = qf.connect(sys.stdin.read())
        board = client.widgets.batches()
        board._repr_mimebundle_()
        assert board.refresher.is_running
        print(time.time())
    """)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=str(database_url), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    # Machines are slow at times; the thread would look for 30 s.
    assert time.time() - float(done.stdout) < 15
