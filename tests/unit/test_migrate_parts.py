"""Parts of a migration that need no server: known numbers, storable values, the search, lines of a report."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qforge_sdk.chem.run_folder import Run
from qforge_sdk.migrate import known
from qforge_sdk.migrate.folders import _count, read_all
from qforge_sdk.migrate.known import NumberByText
from qforge_sdk.migrate.read import Found
from qforge_sdk.migrate.report import COLUMNS, Lines, MigrationReport
from qforge_sdk.migrate.scan import Ahead, Unreadable, scan
from qforge_sdk.migrate.storable import one_line, path_text, plain
from qforge_sdk.progress import progress_bar
from tests.fixtures.jobs import write_job

TEXTS = st.sampled_from([f"text {number}" for number in range(40)]) | st.text(max_size=5)


class NumbersLikeADict(RuleBasedStateMachine):
    """Whatever is set, forgotten and merged: it answers as a dict does."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, int] = {}
        self.numbers = NumberByText()

    @rule(text=TEXTS, number=st.integers(0, 2**62))
    def put(self, text: str, number: int) -> None:
        self.model[text] = self.numbers[text] = number

    @rule(text=TEXTS)
    def discard(self, text: str) -> None:
        self.model.pop(text, None)
        self.numbers.discard(text)

    @rule()
    def merge(self) -> None:
        self.numbers._merge()

    @invariant()
    def answers(self) -> None:
        for number in range(40):
            text = f"text {number}"
            assert self.numbers.get(text) == self.model.get(text)
            assert (text in self.numbers) == (text in self.model)


TestNumbersLikeADict = NumbersLikeADict.TestCase
TestNumbersLikeADict.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_hundred_thousand_numbers_take_a_few_bytes_each():
    numbers = NumberByText()
    for number in range(100_000):
        numbers[f"job:{number}"] = number
    arrays = (numbers._high, numbers._low, numbers._values)
    assert sum(array.nbytes for array in arrays) <= 24 * 100_000
    assert len(numbers._recent) < 20_000
    assert [numbers.get(f"job:{number}") for number in (0, 4096, 99_999)] == [0, 4096, 99_999]
    assert numbers.get("job:100000") is None


def test_texts_whose_hashes_begin_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known, "_digest", lambda text: (7, int(text)))
    numbers = NumberByText()
    for number in range(50):
        numbers[str(number)] = number
    numbers._merge()
    assert [numbers.get(str(number)) for number in range(51)] == [*range(50), None]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
), max_leaves=20))  # fmt: skip
def test_any_json_becomes_storable_and_storable_json_stays(value: Any):
    text = json.dumps(plain(value), allow_nan=False)
    assert "\\u0000" not in text
    assert plain(json.loads(text)) == json.loads(text)


def test_what_can_be_stored_is_not_changed():
    value = {"a": [1, 2.5, True, None, "é\n\t"], "b": {"c": {"d": {"e": [1]}}}}
    assert plain(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"), (2**63, "0x8000000000000000"), ("a\0b\ud800", "a\\x00b\\ud800"),
        ([[[[[[[1]]]]]]], [[[[[[None]]]]]]), ((1, 2), [1, 2]),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_written_otherwise(value: Any, expected: Any):
    assert plain(value) == expected


def test_lines_and_paths_are_printable():
    assert one_line("a\nb\0\ud800é") == "a\\nb\\x00\\ud800é"
    assert path_text(os.fsdecode(b"/x/caf\xe9\n")) == "/x/caf\\xe9\\n"


# The search ---------------------------------------------------------------------------------------------------------


def test_the_search_goes_in_the_order_of_paths(tmp_path: Path):
    for name in ("b", "a/z", "a/b", "c", "a"):
        write_job(tmp_path / name, "water", 1)
    found = [str(one.folder.relative_to(tmp_path)) for one in scan(tmp_path) if isinstance(one, Run)]
    assert found == [f"{name}/water_20251121_133039_00000001" for name in ("a/b", "a", "a/z", "b", "c")]


def test_a_deep_tree_is_searched_to_its_end(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "xtbout.json").write_text("{}")
    assert [one.folder for one in scan(tmp_path)] == [deep]


def test_links_that_lead_back_are_not_followed(tmp_path: Path):
    write_job(tmp_path / "a", "water", 1)
    for name, target in (("a/up", ".."), ("a/self", "self"), ("b", "a"), ("c", "nowhere")):
        (tmp_path / name).symlink_to(target)
    assert len(list(scan(tmp_path))) == 1


def test_a_folder_that_vanishes_is_told(tmp_path: Path):
    for number in range(3):
        write_job(tmp_path / str(number), "water", number)
    found = scan(tmp_path)
    next(found)
    shutil.rmtree(tmp_path / "1")
    missing, last = found
    assert missing == Unreadable(tmp_path / "1", "No such file or directory")
    assert isinstance(last, Run)


def test_what_is_ahead_waits_packed():
    taken = 0

    def items() -> Iterator[Run]:
        nonlocal taken
        for taken in range(1, 20_001):
            yield Run(Path(f"/somewhere/far/away/jobs/water_20251121_133039_{taken:08x}"), "xtb_stdout.log")

    with Ahead(items()) as ahead:
        first = next(iter(ahead))
        ahead._thread.join()
        assert first.folder.name.endswith("00000001")
        assert (taken, ahead.count) == (20_000, 20_000)
        assert sum(map(len, ahead._packed)) < 30 * 20_000


def test_the_bar_ends_where_the_search_is_and_says_so():
    going_on = threading.Event()

    def items() -> Iterator[int]:
        yield from range(20)
        going_on.wait(10)

    with Ahead(items()) as ahead, progress_bar(False, "migrating") as bar:
        next(iter(ahead))
        _count(bar, ahead)
        assert (bar.total, bar.text) == (16, "still searching")
        going_on.set()
        ahead._thread.join()
        _count(bar, ahead)
        assert (bar.total, bar.text) == (20, "")


def test_one_that_stops_reading_stops_the_search():
    running = threading.Event()

    def endless() -> Iterator[int]:
        running.set()
        while True:
            yield 1

    with Ahead(endless()) as ahead:
        assert running.wait(10)
    assert not ahead._thread.is_alive()


def test_readers_take_no_more_than_they_need_to_be_ahead():
    taken: list[int] = []

    def items() -> Iterator[str]:
        for number in range(10_000):
            taken.append(number)
            yield "one"

    found = read_all(items(), 1, task="tests.fixtures.deadly_tasks:ask_all", lost=lambda *_: Found("", ""))
    assert next(found).path == "one"
    assert len(taken) <= 250
    found.close()  # type: ignore[attr-defined]


# Lines --------------------------------------------------------------------------------------------------------------


def test_lines_become_a_frame_of_one_dtype_each():
    lines = Lines()
    for start in (0, 2):
        lines.add(
            [(f"path {n}", "new", "insert", None, n or None, "id", None, None, None) for n in (start, start + 1)]
        )
    assert len(lines) == 4
    assert [lines.path(n) for n in range(4)] == ["path 0", "path 1", "path 2", "path 3"]
    frame = lines.frame()
    assert frame.calculation_id.tolist() == [pd.NA, 1, 2, 3]
    assert frame.smiles.isna().all()
    assert frame.dtypes.astype(str).to_dict() == Lines().frame().dtypes.astype(str).to_dict()
    assert list(frame) == list(COLUMNS)


def test_a_report_of_nothing_counts_nothing(tmp_path: Path):
    report = MigrationReport(Lines().frame(), 0.0, True)
    assert set(report.counts.values()) == {0}
    assert pd.read_parquet(report.to_parquet(tmp_path / "report.parquet")).empty
