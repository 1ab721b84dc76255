"""What is said of a batch that ran, and of one that runs."""

from __future__ import annotations

from typing import Any

import pytest

from qforge_sdk.compute.worker import Pace
from qforge_sdk.schemas import BatchProgress, BatchReport


def report(**changes: Any) -> BatchReport:
    facts: dict[str, Any] = {
        "batch_id": 7, "batch_name": "<b>screen</b>", "n_items": 1200, "n_completed": 1000,
        "failed": {"timeout": 60, "killed": 40}, "n_skipped": 20, "n_left": 80, "n_run": 500, "seconds": 250.0,
    }  # fmt: skip
    return BatchReport(**facts | changes)


def test_a_report_accounts_for_every_item() -> None:
    assert (report().n_failed, report().items_per_second) == (100, 2.0)
    with pytest.raises(AssertionError, match="not accounted for"):
        report(n_left=81)


def test_a_report_is_one_readable_line() -> None:
    assert repr(report()) == (
        "BatchReport(<b>screen</b>: 1,200 items = 1,000 completed + 100 failed (timeout: 60, killed: 40) + "
        "20 skipped + 80 left; 500 in 250.0 s, 2.0 a second)"
    )
    assert "screen</b>, interrupted: " in repr(report(interrupted=True))


def test_a_report_is_a_table_in_a_notebook_and_no_script() -> None:
    html = report(failed={"<i>": 100}, interrupted=True)._repr_html_()
    assert "<caption>&lt;b&gt;screen&lt;/b&gt;: 500 items interrupted after 250.0 s" in html
    assert "<tr><th>&nbsp; &lt;i&gt;</th><td>100</td></tr>" in html


def progress(**changes: Any) -> BatchProgress:
    facts: dict[str, Any] = {
        "batch_name": "screen", "status": "in_progress", "n_items": 10_000, "n_completed": 990, "n_failed": 10,
        "n_skipped": 0, "items_per_second": 2.0,
    }  # fmt: skip
    return BatchProgress(**facts | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "screen: 1,000 of 10,000 (10 %), 10 failed, 2 a second, 1 h 15 min left"),
        ({"n_items": 1300}, "screen: 1,000 of 1,300 (77 %), 10 failed, 2 a second, 2 min 30 s left"),
        ({"n_items": 1020}, "screen: 1,000 of 1,020 (98 %), 10 failed, 2 a second, 10 s left"),
        ({"items_per_second": None, "n_failed": 0}, "screen: 990 of 10,000 (10 %)"),
        ({"n_items": 1000}, "screen: 1,000 of 1,000 (100 %), 10 failed, 2 a second"),
        ({"n_items": 0, "n_completed": 0, "n_failed": 0}, "screen: 0 of 0 (100 %), 2 a second"),
    ],
)
def test_progress_says_how_far_how_fast_and_how_long(changes: dict[str, Any], said: str) -> None:
    assert str(progress(**changes)) == said


def test_progress_is_no_script_in_a_notebook() -> None:
    assert "<script>" not in progress(batch_name="<script>")._repr_html_()


def test_a_worker_claims_as_many_items_as_take_a_second() -> None:
    pace = Pace()
    assert pace.items == 1
    pace.measured(1, 0.02)
    assert pace.items == 50
    pace.measured(50, 10.0)
    assert pace.items == 9
    pace.measured(5, 3600.0)
    assert pace.items == 1
    for _ in range(30):
        pace.measured(1, 0.001)
    assert pace.items == 64
