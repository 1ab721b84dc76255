"""A bar on what takes long, where somebody looks, and nowhere else."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from qforge_sdk.progress import progress_bar

PACKAGE = Path(__file__).parents[2] / "qforge_sdk"

SCRIPT = """
import sys, time
from qforge_sdk.progress import progress_bar

begun = time.monotonic()
with progress_bar(None, "counting", 100, unit=" rows") as bar:
    while time.monotonic() - begun < float(sys.argv[1]):
        bar.update(1)
        time.sleep(0.05)
print("done")
"""


def at_a_terminal(script: str, *arguments: str, **environment: str) -> str:
    """What a script writes to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL, stderr=theirs,
        env=os.environ | environment, cwd=PACKAGE.parent,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65_536):
            seen += part
    except OSError:  # Linux says so where the other end is closed.
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0, seen.decode()
    return seen.decode()


def test_a_script_without_a_terminal_prints_nothing():
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, "2.6"], capture_output=True, text=True, check=True, timeout=60,
        cwd=PACKAGE.parent,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_a_bar_appears_at_a_terminal_after_two_seconds_and_goes():
    seen = at_a_terminal(SCRIPT, "2.6")
    first = re.search(r"counting: +(\d+)%", seen)
    assert first is not None
    assert int(first[1]) >= 20, "it counts what ended before it appeared"
    assert seen.rsplit("\r", 2)[1].strip() == ""


def test_the_bar_appears_and_its_clock_runs_while_one_statement_does():
    seen = at_a_terminal(
        "import time\nfrom qforge_sdk.progress import progress_bar\n"
        "with progress_bar(None, 'reading molecules'): time.sleep(3.6)"
    )
    assert re.findall(r"reading molecules: (\d\d:\d\d)", seen)[:1] == ["00:02"]
    assert "reading molecules: 00:03" in seen


def test_no_thread_is_left_and_none_begun_where_nobody_looks():
    before = threading.active_count()
    with progress_bar(False, "hidden"):
        assert threading.active_count() == before
    with progress_bar(True, "shown"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_what_ends_sooner_shows_no_bar():
    assert at_a_terminal(SCRIPT, "1.5") == ""


def test_tqdm_disable_switches_every_bar_off():
    assert at_a_terminal(SCRIPT, "2.6", TQDM_DISABLE="1") == ""


def test_a_notebook_is_looked_at_though_it_has_no_terminal(tmp_path: Path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(SCRIPT.replace("float(sys.argv[1])", "2.6"))]
    )
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(PACKAGE.parent)}}).execute()
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert ["application/vnd.jupyter.widget-view+json" in output.data for output in shown] == [True]


def test_true_and_false_say_it_outright(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qforge_sdk.progress.DELAY_SECONDS", 0.0)
    with progress_bar(False, "hidden") as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""
    with progress_bar(True, "shown", 10) as bar:
        bar.update(5)
        time.sleep(0.8)
    assert "shown:  50%" in capsys.readouterr().err


def test_what_others_did_before_says_nothing_about_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qforge_sdk.progress.DELAY_SECONDS", 0.0)
    with progress_bar(True, "screen", unit=" molecules") as bar:
        time.sleep(0.2)
        bar.reach(900, total=1000, text="3 failed")
        time.sleep(0.2)
        bar.reach(901, total=1000, text="3 failed")
    seen = capsys.readouterr().err
    assert "90%" in seen
    assert "3 failed" in seen
    assert max(map(float, re.findall(r"([\d.]+) molecules/s", seen)), default=0.0) < 20


def test_there_is_one_bar_for_all():
    users = [
        path.name for path in PACKAGE.rglob("*.py") if re.search(r"^\s*(from|import) tqdm", path.read_text(), re.M)
    ]
    assert users == ["progress.py"]
