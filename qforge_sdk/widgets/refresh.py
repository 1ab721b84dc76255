"""A widget that looks again by itself, as long as somebody looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event, Lock, Thread, current_thread
from typing import Any, Final

from qforge_sdk.widgets.elements import Notice

_LONGEST_LOOK_SECONDS: Final = 10.0


class Refresher:
    """Looks again and again in a thread of its own, while the browser shows the widget.

    Each view sends a sign of life every 5 s and says goodbye when it is removed. The thread ends when none came for a
    while, and the next one starts it again. A kernel that is busy handles no messages, or only in subshells: silence
    counts only while its loop is free.

    Parameters
    ----------
    look
        Reads and shows, and returns whether something goes on. It does not raise.
    notice
        Whose messages tell that somebody looks.
    busy_seconds, idle_seconds
        Between two looks while something goes on, and while nothing does.
    silence_seconds
        After which nobody looks any more.
    goodbye_seconds
        The same after a goodbye: another view has time for its next sign of life.
    """

    def __init__(
        self,
        look: Callable[[], bool],
        notice: Notice,
        *,
        busy_seconds: float = 2.0,
        idle_seconds: float = 5.0,
        silence_seconds: float = 30.0,
        goodbye_seconds: float = 8.0,
    ) -> None:
        self._look = look
        self._seconds = {True: busy_seconds, False: idle_seconds}
        self._most, self._after_goodbye = silence_seconds, silence_seconds - goodbye_seconds
        self._silent = 0.0
        self._loop = _loop_of_kernel()
        self._answered = self._loop is None
        self._lock = Lock()
        self._stop = Event()
        self._thread: Thread | None = None
        notice.on_msg(self._hear)

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Look again and again from now on, unless that was ended for good."""
        with self._lock:
            if self.is_running or self._stop.is_set():
                return
            self._silent = 0.0
            self._thread = Thread(target=self._run, name="qforge widget", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Never look again; a look that has begun is waited for."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(_LONGEST_LOOK_SECONDS)

    def _run(self) -> None:
        seconds = self._seconds[True]
        while not self._stop.wait(seconds):
            if self._is_free():
                self._silent += seconds
            if self._silent >= self._most:
                return
            seconds = self._seconds[self._look()]

    def _hear(self, _notice: Notice, content: Any, _buffers: Any) -> None:
        alive = content.get("alive") if isinstance(content, dict) else None
        if alive is True:
            self._silent = 0.0
            self.start()
        elif alive is False:
            self._silent = max(self._silent, self._after_goodbye)

    def _is_free(self) -> bool:
        """Whether the kernel's loop has come round since this was last asked."""
        answered = self._answered
        if self._loop is not None:
            self._answered = False
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                # The loop is closed: the kernel ends.
                self._stop.set()
        return answered

    def _answer(self) -> None:
        self._answered = True


def _loop_of_kernel() -> asyncio.AbstractEventLoop | None:
    """The loop that runs a notebook's cells; None in a script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
