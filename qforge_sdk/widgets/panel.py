"""What all widgets share: a heading, a line for what went wrong, pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Final

import ipywidgets as ipw

from qforge_sdk.errors import QForgeError
from qforge_sdk.schemas import Page
from qforge_sdk.widgets.elements import Notice

_LOGGER: Final = logging.getLogger(__name__)
_LONGEST_ERROR: Final = 500


class Panel(ipw.VBox):  # type: ignore[misc]
    """A widget with its heading, what went wrong, and its content.

    Parameters
    ----------
    heading
        What it shows.
    """

    def __init__(self, heading: str) -> None:
        self.notice = Notice()
        self.refresh = ipw.Button(icon="refresh", tooltip="Read again", layout=ipw.Layout(width="36px"))
        self.refresh.on_click(lambda _: self.update())
        # Messages of the browser are handled in threads of their own while a cell runs.
        self._turn = RLock()
        self._failed: str | None = None
        title = ipw.Label(heading)
        title.add_class("qf-heading")
        bar = ipw.HBox([title, self.refresh], layout=ipw.Layout(justify_content="space-between"))
        self.content = ipw.VBox()
        super().__init__([bar, self.notice, self.content])
        self.add_class("qf-panel")

    def __repr__(self) -> str:
        # Instead of ipywidgets' list of all parts: what a notebook shows where no kernel runs.
        return f"<{type(self).__name__}: a notebook with a running kernel shows it>"

    def update(self) -> None:
        """Read again and show it; what goes wrong is shown, not raised."""
        with self.reporting():
            self._show()

    def _show(self) -> None:
        """Read what is to be shown, and show it."""

    def end(self) -> None:
        """Do nothing more by itself: its client is closed."""

    @contextmanager
    def reporting(self, *, what: str = "") -> Iterator[None]:
        """Show in the widget what goes wrong in the block: nobody sees the traceback of a callback.

        Parameters
        ----------
        what
            Names what a widget does by itself: when that goes well, it takes back what it said itself, and not what a
            click led to.
        """
        with self._turn:
            try:
                yield
            except QForgeError as error:
                self._fail(what, str(error))
            except Exception as error:
                _LOGGER.exception("%s", type(self).__name__)
                self._fail(what, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
            else:
                if self.notice.is_error and what in {"", self._failed}:
                    self.notice.say("")

    def _fail(self, what: str, words: str) -> None:
        self._failed = what
        self.notice.say(words, is_error=True)


class Pager(ipw.HBox):  # type: ignore[misc]
    """Buttons for the pages of a long list.

    Parameters
    ----------
    turn
        Called with the options ``after`` or ``before`` of the page that is wanted, none for the first.
    unit
        What is counted, such as ``molecules``.
    """

    def __init__(self, turn: Callable[[dict[str, str]], Any], *, unit: str) -> None:
        self._turn, self._unit = turn, unit
        self._page: Page | None = None
        self._start = 0
        self.first = self._button("fast-backward", "First page", dict)
        self.previous = self._button("step-backward", "Previous page", lambda: {"before": self._shown.previous})
        self.next = self._button("step-forward", "Next page", lambda: {"after": self._shown.next})
        self.where = ipw.Label()
        self.where.add_class("qf-quiet")
        super().__init__([self.first, self.previous, self.next, self.where])

    def show(self, page: Page, way: dict[str, str]) -> None:
        """Say which page it is.

        Parameters
        ----------
        page
            Now shown.
        way
            How it was reached, as ``turn`` was called.
        """
        if "after" in way:
            self._start += len(self._page.frame) if self._page else 0
        elif "before" in way:
            self._start = max(self._start - len(page.frame), 0)
        else:
            self._start = 0
        self.show_from(self._start, page)

    def show_from(self, start: int, page: Page) -> None:
        """Say which page it is, where the number of rows before it is known."""
        self._start, self._page = start, page
        self.first.disabled = self.previous.disabled = page.previous is None
        self.next.disabled = page.next is None
        self.where.value = self._words(page)

    def renew(self, page: Page) -> None:
        """Say what the page that is shown has become.

        Parameters
        ----------
        page
            The same page, read again.
        """
        self.show_from(self._start, page)

    def clear(self) -> None:
        """Show no page."""
        self._page, self._start = None, 0
        self.first.disabled = self.previous.disabled = self.next.disabled = True
        self.where.value = ""

    @property
    def _shown(self) -> Page:
        assert self._page is not None
        return self._page

    def _words(self, page: Page) -> str:
        if page.frame.empty:
            return f"no {self._unit}"
        first, last = self._start + 1, self._start + len(page.frame)
        total = "" if page.count is None else f" of {'' if page.is_exact else 'at least '}{page.count:,}"
        return f"{first:,}{f' to {last:,}' if last > first else ''}{total} {self._unit}"

    def _button(self, icon: str, tooltip: str, way: Callable[[], dict[str, Any]]) -> ipw.Button:
        button = ipw.Button(icon=icon, tooltip=tooltip, disabled=True, layout=ipw.Layout(width="40px"))
        button.on_click(lambda _: self._turn(way()))
        return button
