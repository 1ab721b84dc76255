"""The progress bar of everything that may take long."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from typing import Any, Final, Self

DELAY_SECONDS: Final = 2.0
"""What ends sooner shows no bar."""

_TICK_SECONDS: Final = 0.5
# From here on 12.3k says enough.
_LARGE: Final = 10_000
_ONLY_TIME: Final = "{desc}: {elapsed}{postfix}"


class ProgressBar:
    """A bar of tqdm that appears only where the work takes long, and goes when it has ended.

    It appears and its clock runs while a single statement runs as well, from a thread that is there only where
    somebody looks.

    Parameters
    ----------
    description
        What is going on.
    total
        How many are expected, None when nobody knows; it may be set while the bar runs, as may ``text``, which stands
        behind the bar.
    unit
        What is counted, with a blank before it.
    shown
        Whether it ever appears.
    """

    def __init__(self, description: str, total: int | None, *, unit: str, shown: bool) -> None:
        self.total = total
        self._description = description
        self._unit = unit
        self._shown = shown
        self._done = self._skipped = 0
        self.text = ""
        self._began = time.time()
        self._bar: Any = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # A notebook shows what a thread draws under the cell whose context it has.
        self._clock = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), daemon=True)

    def update(self, n: int = 1) -> None:
        """Count ``n`` more.

        Parameters
        ----------
        n
            How many ended since the last call.
        """
        with self._lock:
            self._done += n
            self._refresh()

    def reach(self, done: int, *, total: int | None, text: str = "") -> None:
        """Say how many have ended, whoever did it.

        Parameters
        ----------
        done
            How many. Those of the first call were there before and say nothing about how fast it goes.
        total
            Of how many.
        text
            What else there is to say.
        """
        with self._lock:
            if self.total is None and not self._done:
                self._skipped = done
            self._done, self.total, self.text = done, total, text
            self._refresh()

    def _run(self) -> None:
        while not self._ended.wait(_TICK_SECONDS if self._bar is not None else DELAY_SECONDS):
            with self._lock:
                self._refresh()
                if self._bar is not None:
                    self._bar.refresh()

    def _refresh(self) -> None:
        if not self._shown or time.time() - self._began < DELAY_SECONDS:
            return
        if self._bar is None:
            self._bar = self._appear()
        elif self.total is not None and self._bar.total != self.total:
            self._bar.reset(total=self.total)
            self._bar.start_t, self._bar.initial = self._began, self._skipped
            self._bar.n = self._bar.last_print_n = self._skipped
        for name, value in self._format().items():
            setattr(self._bar, name, value)
        self._bar.set_postfix_str(self.text, refresh=False)
        self._bar.update(self._done - self._bar.n)

    def _format(self) -> dict[str, Any]:
        """How the numbers are written, options of tqdm."""
        is_counted = self._done or self.total is not None
        return {
            "bar_format": None if is_counted else _ONLY_TIME,
            "unit_scale": max(self._done, self.total or 0) >= _LARGE,
        }

    def _appear(self) -> Any:
        from tqdm.auto import tqdm

        # With a delay it draws nothing before it knows what ended meanwhile.
        bar: Any = tqdm(
            total=self.total, initial=self._skipped, desc=self._description, unit=self._unit, leave=False,
            delay=1e-9, **self._format(),
        )  # fmt: skip
        bar.start_t, bar.n = self._began, self._done
        bar.set_postfix_str(self.text)
        return bar

    def __enter__(self) -> Self:
        if self._shown:
            self._clock.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        if self._clock.is_alive():
            self._clock.join()
        self._shown = False
        if self._bar is not None:
            self._bar.close()


def progress_bar(
    progress: bool | None, description: str, total: int | None = None, *, unit: str = " rows"
) -> ProgressBar:
    """A bar that shows itself after 2 s.

    Parameters
    ----------
    progress
        Whether to show it; None where somebody looks: in a notebook, or where standard error is a terminal, unless
        the environment variable ``TQDM_DISABLE`` is set.
    description
        What is going on.
    total
        How many are expected, None when nobody knows.
    unit
        What is counted, with a blank before it.

    Returns
    -------
    ProgressBar
        A context manager with ``update(n)``.
    """
    return ProgressBar(description, total, unit=unit, shown=_somebody_looks() if progress is None else progress)


def _somebody_looks() -> bool:
    if os.environ.get("TQDM_DISABLE"):
        return False
    # The standard error of a notebook's kernel is no terminal.
    ipython: Any = sys.modules.get("IPython")
    is_notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return is_notebook or (sys.stderr is not None and sys.stderr.isatty())
