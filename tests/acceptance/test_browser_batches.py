"""``client.widgets.batches()`` in JupyterLab: a batch that runs, fails in part, is retried and run again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from playwright.sync_api import Locator, expect

from qforge_sdk.client import Client
from tests.fixtures.lab import Lab, Notebook

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script><b>bold</b>"
# Ten iterations are too few for these four; all of them need less than fifteen.
DRUGS = {
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "ibuprofen": "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
}
# They keep a fast machine busy for several looks of a board that has been idle.
ALKANES = (
    "dodecane", "tridecane", "tetradecane", "pentadecane", "hexadecane", "heptadecane", "octadecane", "nonadecane",
    "icosane",
)  # fmt: skip
CHAINS = {name: "C" * n for n, name in enumerate(ALKANES, 12)}
MOLECULES = {**dict(list(CHAINS.items())[:4]), "oganesson": "[Og]", **DRUGS, "water": "O", **CHAINS}

CONNECT = """
from pathlib import Path
import qforge_sdk as qf
client = qf.connect(Path("database").read_text())
old = None
"""
SHOW = "board = client.widgets.batches()\nboard"
RUN = 'print(client.batches.run("screen", workers=1, progress=False))'
SELECTED = 'print(sorted(board.selected["name"]), set(board.selected["error_code"]))'
KEEP = "old = board"
LOOKING = "print([one.refresher.is_running for one in (old, board)])"
CLOSE = """
import threading
client.close()
print([thread.name for thread in threading.enumerate() if thread.name == "qforge widget"])
"""


def store_batches(client: Client) -> None:
    """One that waits and one to run."""
    molecules = {name: client.molecules.create(smiles, name=name).id for name, smiles in MOLECULES.items()}
    client.batches.create("alkanes", molecules=[molecules[name] for name in ALKANES])
    client.batches.create(
        "screen",
        molecules=list(molecules.values()),
        parameters={"method": "GFN2-xTB", "optimize": True, "max_iterations": 10},
    )


def store_a_hostile_batch(client: Client) -> None:
    molecules = [
        client.molecules.create(smiles, name=name).id for smiles, name in (("C#N", HOSTILE), ("CN", CLOSING))
    ]
    client.batches.create(HOSTILE, molecules=molecules, description=CLOSING)


def row_of(shown: Locator, name: str) -> Locator:
    return shown.get_by_role("grid", name="Batches").get_by_role("row").filter(has_text=name)


def cells(row: Locator) -> list[str]:
    return row.get_by_role("gridcell").or_(row.locator("td")).all_inner_texts()


def is_busy(notebook: Notebook, place: int) -> bool:
    cell = notebook.page.locator(".jp-Notebook .jp-Cell").nth(place)
    return "[*]" in cell.locator(".jp-InputPrompt").first.inner_text()


def watch_percents(notebook: Notebook, row: Locator, place: int) -> set[int]:
    """Percents that a row shows while a cell runs; nothing is clicked."""
    seen: set[int] = set()
    has_picture = False
    while is_busy(notebook, place):
        seen.add(int(cells(row)[3].split()[0]))
        if max(seen) > 30 and not has_picture:
            has_picture = bool(notebook.picture(row.locator("xpath=ancestor::table"), "batches-running"))
        time.sleep(0.1)
    return seen


def run_elsewhere(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "qforge_sdk.cli", "run", "screen", "--workers", "1"],
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def open_board(lab: Lab, url: str, *, cells: tuple[str, ...] = (), **options: Any) -> tuple[Notebook, Locator]:
    """A notebook whose second cell shows the batches."""
    (lab.folder / "database").write_text(url)
    notebook = lab.open([CONNECT, SHOW, *cells], **options)
    notebook.run(0)
    return notebook, notebook.run(1)


def counts(shown: Locator, name: str) -> list[str]:
    """Status, percent, completed, failed, skipped, processing, pending."""
    return cells(row_of(shown, name))[2:9]


def expect_counts(shown: Locator, name: str, expected: list[str], seconds: float = 30) -> None:
    """Without a click."""
    deadline = time.monotonic() + seconds
    while counts(shown, name) != expected:
        assert time.monotonic() < deadline, counts(shown, name)
        time.sleep(0.1)


def see_it_run(notebook: Notebook, shown: Locator) -> None:
    """The bar moves while a cell of the same kernel computes."""
    row = row_of(shown, "screen")
    assert counts(shown, "screen") == ["pending", "0 %", "0", "0", "0", "0", "15"]
    row.click()
    expect(shown.get_by_text('15 items wait and nobody computes: client.batches.run("screen") does.')).to_be_visible()
    notebook.start(2)
    seen = watch_percents(notebook, row, 2)
    assert "15 items = 10 completed + 5 failed" in notebook.finish(2).inner_text()
    assert [percent for percent in seen if 0 < percent < 100], seen
    expect_counts(shown, "screen", ["completed", "100 %", "10", "5", "0", "0", "0"])


def see_what_failed(notebook: Notebook, shown: Locator) -> None:
    failures = shown.get_by_role("table", name="Failures by code").locator("tbody tr")
    expect(failures).to_have_count(2)
    assert cells(failures.nth(0))[:2] == ["scf_not_converged", "4"]
    assert cells(failures.nth(1))[1:4] == ["1", "[Og]", "no parameters for Og: the GFN methods end at radon"]
    expect(shown.get_by_role("button", name="Cancel the batch")).to_be_disabled()
    notebook.picture(shown, "batches")


def choose_items(notebook: Notebook, shown: Locator) -> None:
    """By status, by mouse and by keyboard; the next cell has them."""
    shown.get_by_label("Items", exact=True).select_option("failed")
    expect(shown.get_by_text("1 to 5 of 5 items")).to_be_visible()
    items = shown.get_by_role("grid", name="Items of the batch").locator("tbody tr")
    items.filter(has_text="caffeine").click()
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Space")
    expect(shown.get_by_role("button", name="Retry the 2 chosen")).to_be_enabled()
    assert notebook.run(3).inner_text().strip() == "['caffeine', 'ibuprofen'] {'scf_not_converged'}"


def cancel_another(notebook: Notebook, shown: Locator, client: Client) -> None:
    """Appears by itself; opened by keyboard; asked before anything is skipped."""
    store_a_hostile_batch(client)
    expect(row_of(shown, HOSTILE)).to_be_visible(timeout=15_000)
    row_of(shown, "screen").focus()
    notebook.page.keyboard.press("ArrowUp")
    notebook.page.keyboard.press("Enter")
    expect(shown.get_by_text("2 items wait and nobody computes")).to_be_visible()
    items = shown.get_by_role("grid", name="Items of the batch").locator("tbody tr")
    expect(items).to_contain_text([HOSTILE, CLOSING])
    assert [cells(items.nth(n))[2] for n in (0, 1)] == [HOSTILE, CLOSING]
    expect(shown.get_by_text(f"{CLOSING} · usual parameters")).to_be_visible()
    shown.get_by_role("button", name="Cancel the batch").click()
    shown.get_by_role("button", name="Keep them").click()
    expect(shown.get_by_role("button", name="Skip them")).to_be_hidden()
    assert counts(shown, HOSTILE)[-1] == "2"
    shown.get_by_role("button", name="Cancel the batch").click()
    expect(shown.get_by_text("Skip the 2 items that have not ended?")).to_be_visible()
    shown.get_by_role("button", name="Skip them").click()
    expect(shown.get_by_text("2 items were skipped.")).to_be_visible()
    assert counts(shown, HOSTILE) == ["failed", "100 %", "0", "0", "2", "0", "0"]


def retry_and_run_again(shown: Locator, client: Client, url: str) -> None:
    """What runs in another process is noticed by itself."""
    row_of(shown, "screen").click()
    failures = shown.get_by_role("table", name="Failures by code").locator("tbody tr")
    failures.filter(has_text="scf_not_converged").get_by_role("button", name="Retry these").click()
    expect(shown.get_by_text("4 items wait again.")).to_be_visible()
    expect(shown.get_by_text('4 items wait and nobody computes: client.batches.run("screen") does.')).to_be_visible()
    assert counts(shown, "screen") == ["pending", "73 %", "10", "1", "0", "0", "4"]
    expect(failures).to_have_count(1)
    client.batches.update(client.batches.query(batch_name="screen")["id"][0], parameters={"method": "GFN2-xTB"})
    with run_elsewhere(url) as process:
        expect_counts(shown, "screen", ["completed", "100 %", "14", "1", "0", "0", "0"], 60)
        assert process.wait(30) == 2
    expect(shown.get_by_text("4 items wait again.")).to_be_hidden()


def test_a_batch_runs_fails_is_retried_and_run_again(lab: Lab, database_url: str, client: Client) -> None:
    store_batches(client)
    notebook, shown = open_board(
        lab, database_url, cells=(RUN, SELECTED, KEEP, LOOKING, CLOSE), width=1200, height=1700
    )

    see_it_run(notebook, shown)
    see_what_failed(notebook, shown)
    choose_items(notebook, shown)
    cancel_another(notebook, shown, client)
    notebook.run(4)
    shown = notebook.run(1)
    retry_and_run_again(shown, client, database_url)

    # The view of the first one is gone, and so is its thread a while after.
    deadline = time.monotonic() + 60
    while notebook.run(5).inner_text().strip() != "[False, True]":
        assert time.monotonic() < deadline, notebook.output(5).inner_text()
        time.sleep(0.5)
    assert notebook.run(6).inner_text().strip() == "[]"
    shown.get_by_title("Read again").click()
    expect(shown.get_by_role("alert")).to_have_text("this client is closed: open another one by qforge_sdk.connect()")
    notebook.assert_quiet()

    dark, shown = open_board(lab, database_url, dark=True, width=1200, height=1700)
    row_of(shown, "screen").click()
    expect(shown.get_by_text("1 to 10 of 15 items")).to_be_visible()
    shown.get_by_title("Next page").nth(1).click()
    expect(shown.get_by_text("11 to 15 of 15 items")).to_be_visible()
    dark.picture(shown, "batches")
    dark.assert_quiet()
