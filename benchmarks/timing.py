"""Interleaved runs and their medians."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: bool = True,
    afterwards: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Median seconds of each contestant, run in turn so that a slow minute of the machine meets them all.

    Parameters
    ----------
    contestants
        Name to what is timed; its result is thrown away.
    repeats
        Rounds that count.
    warm_up
        Run one round before that is not counted.
    afterwards
        Called after each run, not timed.

    Returns
    -------
    dict[str, float]
        Name to median, s.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(0 if warm_up else 1, repeats + 1):
        for name, run in contestants.items():
            gc.collect()
            started = perf_counter()
            result = run()
            seconds = perf_counter() - started
            del result
            if turn:
                times[name].append(seconds)
            if afterwards is not None:
                afterwards()
    return {name: median(values) for name, values in times.items()}


def print_table(title: str, seconds: Mapping[str, float], *, base: str, rows: int) -> None:
    """Print medians, rates, and each one's time as a multiple of ``base``."""
    print(f"\n{title}")
    print(f"{'':44} {'seconds':>9} {'rows/s':>12} {'x ' + base:>24}")
    for name, value in seconds.items():
        print(f"{name:44} {value:9.3f} {rows / value:12,.0f} {value / seconds[base]:24.2f}")
