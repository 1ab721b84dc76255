"""Folders of runs: removed by whoever made them, or by the next process when that one was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from qforge_sdk.chem import Geometry, geometry_from_smiles
from qforge_sdk.compute import get_engine
from qforge_sdk.compute.scratch import scratch_folder, sweep

RUN = """
import sys
from qforge_sdk.chem import geometry_from_smiles
from qforge_sdk.compute import get_engine

get_engine("xtb", program=sys.argv[1]).run(geometry_from_smiles("O").geometry)
"""


@pytest.fixture
def water() -> Geometry:
    return geometry_from_smiles("O").geometry


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def program(folder: Path, body: str) -> str:
    """Something in xtb's place that takes long and says so by a file in its folder."""
    path = folder / "xtb"
    path.write_text(f"#!/bin/sh\ntouch begun\n{body}\n")
    path.chmod(0o755)
    return str(path)


def begun(scratch: Path) -> list[Path]:
    return [path.parent for path in scratch.glob("*/begun")]


@contextmanager
def running(scratch: Path, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose xtb is at work."""
    before = begun(scratch)
    with subprocess.Popen([sys.executable, "-c", RUN, path]) as process:
        deadline = time.monotonic() + 60
        while begun(scratch) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline, "it did not begin"
            time.sleep(0.02)
        yield process
        process.kill()


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_lives_is_not(
    scratch: Path, tmp_path: Path, water: Geometry
):
    sleeper = program(tmp_path, "exec sleep 600")
    with running(scratch, sleeper) as killed:
        pass
    assert killed.returncode == -signal.SIGKILL
    (left,) = scratch.iterdir()
    with running(scratch, sleeper):
        (living,) = scratch.iterdir()
        assert living != left
        get_engine("xtb").run(water)
        assert list(scratch.iterdir()) == [living]


def test_a_folder_is_held_as_long_as_a_program_works_in_it(scratch: Path, tmp_path: Path):
    # Whatever the program started outlives it, and the process that started that.
    with running(scratch, program(tmp_path, "sleep 600 & echo $! >pid; wait")) as killed:
        (left,) = scratch.iterdir()
        while not (left / "pid").exists() or not (left / "pid").read_text().strip():
            time.sleep(0.02)
    assert killed.returncode == -signal.SIGKILL
    orphan = psutil.Process(int((left / "pid").read_text()))
    try:
        sweep(str(scratch))
        assert left.exists()
    finally:
        orphan.kill()
    psutil.wait_procs([orphan], timeout=10)

    sweep(str(scratch))

    assert not left.exists()


def test_other_folders_files_and_links_are_left_alone(scratch: Path, tmp_path: Path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("42")
    (scratch / "qforge-xtb-link").symlink_to(tmp_path / "precious")
    (scratch / "qforge-xtb-file").write_text("a file")
    (scratch / "xtb-of-somebody").mkdir()
    (scratch / "qforge-xtb-dead").mkdir()

    sweep(str(scratch))

    assert sorted(path.name for path in scratch.iterdir()) == [
        "qforge-xtb-file",
        "qforge-xtb-link",
        "xtb-of-somebody",
    ]
    assert (tmp_path / "precious" / "data").read_text() == "42"


def test_another_user_s_folders_are_left_alone(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    (scratch / "qforge-xtb-theirs").mkdir()
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    sweep(str(scratch))
    assert (scratch / "qforge-xtb-theirs").exists()


def test_a_folder_that_is_swept_before_it_is_held_is_replaced(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    real, made = os.open, []

    def sweeping(path: str, *arguments: int, dir_fd: int | None = None) -> int:
        if not made:
            made.append(path)
            shutil.rmtree(path)
        return real(path, *arguments, dir_fd=dir_fd)

    with scratch_folder():
        pass
    monkeypatch.setattr(os, "open", sweeping)
    with scratch_folder() as (folder, _):
        assert folder.is_dir()
        assert made != [str(folder)]
    assert list(scratch.iterdir()) == []
