"""``client.widgets.batches()`` in JupyterLab: a batch that runs, fails in part, is retried and run again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from playwright.sync_api import Locator, expect

from qforge_sdk.client import Client
from tests.fixtures.lab import Lab, Notebook

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script><b>bold</b>"
# Ten iterations are too few for these four; all of them need less than fifteen.
DRUGS = ["CC(=O)Nc1ccc(O)cc1", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(C)Cc1ccc(C(C)C(=O)O)cc1"]
MOLECULES = [*("C" * n for n in range(6, 10)), "[Og]", *DRUGS, *("C" * n for n in range(10, 15)), "O"]

CONNECT = """
import qforge_sdk as qf
client = qf.connect("{url}")
"""
SHOW = "board = client.widgets.batches()\nboard"
RUN = 'print(client.batches.run("screen", workers=1, progress=False))'
SELECTED = 'print(board.selected[["name", "error_code"]].values.tolist())'
ENDED = "print(old.refresher.is_running, board.refresher.is_running)"
CLOSE = """
import threading
client.close()
print([thread.name for thread in threading.enumerate() if thread.name == "qforge widget"])
"""


def store_batches(client: Client) -> None:
    """One to run, one with a hostile name, one that has nothing."""
    for n, smiles in enumerate(DRUGS):
        client.molecules.create(smiles, name=[HOSTILE, CLOSING, "caffeine", "ibuprofen"][n])
    client.batches.create(HOSTILE, molecules=["C#N", "CN"], description=CLOSING)
    client.batches.create("nothing")
    client.batches.create(
        "screen", molecules=MOLECULES, parameters={"method": "GFN2-xTB", "optimize": True, "max_iterations": 10}
    )


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
    while is_busy(notebook, place):
        seen.add(int(cells(row)[3].split()[0]))
        time.sleep(0.1)
    return seen


def run_elsewhere(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "qforge_sdk.cli", "run", "screen", "--workers", "1"],
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_batch_runs_fails_is_retried_and_run_again(lab: Lab, database_url: str, client: Client) -> None:
    store_batches(client)
    notebook = lab.open([CONNECT.format(url=database_url), SHOW, RUN, SELECTED], height=1400)
    notebook.run(0)
    shown = notebook.run(1)
    row = row_of(shown, "screen")
    expect(row).to_be_visible()
    assert cells(row)[2:10] == ["pending", "0 %", *"––––", "15", "–"]
    row.click()
    expect(shown.get_by_text('15 items wait and nobody computes: client.batches.run("screen") does.')).to_be_visible()

    notebook.start(2)
    seen = watch_percents(notebook, row, 2)

    assert "BatchReport(screen: 15 items = 10 completed + 5 failed" in notebook.finish(2).inner_text()
    assert {percent for percent in seen if 0 < percent < 100}, seen
    expect(row).to_contain_text("100 %", timeout=10_000)
    assert cells(row)[2:9] == ["completed", "100 %", "10", "5", *"–––"]
    notebook.picture(shown, "batches")
    notebook.assert_quiet()
