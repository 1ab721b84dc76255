"""What is said of a batch that ran, and of one that runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from qforge_sdk.accessors.watch import Pace
from qforge_sdk.compute.worker import Pace as WorkerPace
from qforge_sdk.schemas import BatchJobResponse, BatchProgress, BatchReport, duration_words, rate_words
from tests.fixtures.html import tags_of, text_of


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
    assert set(tags_of(html)) == {"table", "caption", "tbody", "tr", "th", "td"}
    assert text_of(html).startswith("<b>screen</b>: 500 items interrupted after 250.0 s, 2.0 a second")
    assert "\N{NO-BREAK SPACE} <i>100skipped" in text_of(html)


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
    pace = WorkerPace()
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


# How fast ----------------------------------------------------------------------------------------------------------


def look(pace: Pace, seconds: float, completed: int, failed: int = 0, skipped: int = 0) -> BatchProgress:
    now = datetime.now(UTC)
    batch = BatchJobResponse(
        id=1, user_id=None, batch_name="screen", status="in_progress", total_molecules=10_000, created_at=now,
        updated_at=now, successful_count=completed, failed_count=failed, skipped_count=skipped, waiting_count=0,
    )  # fmt: skip
    return pace.progress(batch, 1e6 + seconds)


def test_the_rate_is_unknown_until_an_item_ended_between_two_looks() -> None:
    pace = Pace()
    assert look(pace, 0, 500).items_per_second is None
    assert look(pace, 9, 500).seconds_left is None
    # Cancelled items were not computed.
    assert look(pace, 9, 500, skipped=100).items_per_second is None
    now = look(pace, 10, 500, failed=2)
    assert (now.items_per_second, now.n_left, now.seconds_left) == (0.2, 9_498, 47_490.0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    pace = Pace()
    for second in range(1000):
        now = look(pace, second, 2 * second)
    assert now.items_per_second == 2.0
    rates = [look(pace, second, 2000 + 7 * (second - 1000)).items_per_second for second in range(1000, 1100)]
    assert rates[0] == pytest.approx(2.0, rel=0.02)
    assert rates == sorted(rates)
    assert set(rates[65:]) == {7.0}
    # Nothing of what went before is kept.
    assert len(pace._looks) < 70


def test_slow_items_are_measured_over_as_long_as_ten_of_them_take() -> None:
    pace = Pace()
    # An item every five minutes, looked at every ten seconds.
    rates = [look(pace, second, second // 300).items_per_second for second in range(0, 20_000, 10)]
    known = [rate for rate in rates if rate is not None]
    assert rates[:30] == [None] * 30
    assert 1 / 301 < known[0] <= 1 / 300
    assert all(0.9 / 300 <= rate <= 1 / 300 for rate in known[300:])


def test_a_batch_that_stands_still_slows_down() -> None:
    pace = Pace()
    for second in range(100):
        look(pace, second, 50 * second)
    rates = [look(pace, second, 4950).items_per_second for second in range(100, 4000, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1


def test_items_that_wait_again_begin_another_measurement() -> None:
    pace = Pace()
    for second in range(100):
        look(pace, second, 5 * second)
    assert look(pace, 100, 20).items_per_second is None
    assert look(pace, 102, 24).items_per_second == 2.0


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (12345.6, "12,346 a second"),
        (2, "2 a second"),
        (0.5, "30 a minute"),
        (1 / 600, "6 an hour"),
        (1e-5, "0.036 an hour"),
    ],
)
def test_a_slow_batch_is_counted_by_the_minute_or_hour(rate: float, words: str) -> None:
    assert rate_words(rate) == words


def test_a_long_time_is_told_in_days() -> None:
    assert [duration_words(seconds) for seconds in (59.6, 3600, 180_000)] == ["1 min 0 s", "1 h 0 min", "2 d 2 h"]
