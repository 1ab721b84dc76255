"""``client.widgets.batches()``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import ipywidgets as ipw
import pandas as pd

from qforge_sdk.db.models import ITEM_STATUSES
from qforge_sdk.errors import NotFound
from qforge_sdk.schemas import Page
from qforge_sdk.widgets import batches_rows as rows
from qforge_sdk.widgets import batches_state as state
from qforge_sdk.widgets.elements import Table, Words
from qforge_sdk.widgets.panel import Pager, Panel
from qforge_sdk.widgets.refresh import Refresher
from qforge_sdk.widgets.sources import Sources

_NONE_YET: Final = (
    'There is no batch yet: client.batches.create("screen", molecules=["CCO", "O"]) makes one, '
    'client.batches.run("screen") computes it.'
)
_LOOK: Final = "look"


class BatchBoard(Panel):
    """All batches as they go on; made by ``client.widgets.batches()``.

    Parameters
    ----------
    sources
        Where it reads.
    """

    def __init__(self, sources: Sources) -> None:
        super().__init__("Batches")
        self._batches = sources.batches
        self._view = state.View()
        self._paces = state.Paces()
        self._opened: state.Opened | None = None
        self._is_moving = False
        self.table = Table(label="Batches", pick="one", sort=self._view.sort, nothing=_NONE_YET)
        self.pager = Pager(self._turn_batches, unit="batches")
        self._make_details()
        self.content.children = [self.table, self.pager, self.details]
        self._listen()
        self.refresher = Refresher(self._look, self.notice)
        self.update()

    @property
    def selected(self) -> pd.DataFrame:
        """The chosen items of the opened batch as they are now, with the columns of ``client.batches.items``.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        return state.chosen_items(self._batches, self._view, self.items.picked)

    def show_batch(self, batch: int) -> None:
        """Show the items of a batch.

        Parameters
        ----------
        batch
            Its key.
        """
        with self.reporting():
            self.notice.say("")
            self._open(batch)

    def end(self) -> None:
        """Do nothing more by itself: its client is closed."""
        self.refresher.end()

    def close(self) -> None:
        """Remove it from the page."""
        if hasattr(self, "refresher"):
            self.refresher.end()
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.refresher.start()
        return super()._repr_mimebundle_(**options)

    # Parts ----------------------------------------------------------------------------------------------------------

    def _make_details(self) -> None:
        self.heading, self.advice, self.reasons = Words(), Words(), Words()
        self.retry_all = ipw.Button(icon="repeat", layout=ipw.Layout(width="auto"))
        self.retry_chosen = ipw.Button(icon="repeat", layout=ipw.Layout(width="auto"))
        self.cancel = ipw.Button(icon="ban", layout=ipw.Layout(width="auto"), description="Cancel the batch")
        self.question = Words()
        self.yes = ipw.Button(description="Skip them", button_style="danger", layout=ipw.Layout(width="auto"))
        self.no = ipw.Button(description="Keep them", layout=ipw.Layout(width="auto"))
        self.confirmation = _row(self.question, self.yes, self.no)
        self.failures = Table(label="Failures by code")
        self.status = ipw.Dropdown(
            description="Items",
            options=[("all", ""), *((word, word) for word in ITEM_STATUSES)],
            layout=ipw.Layout(width="auto"),
            style={"description_width": "auto"},
        )
        self.items = Table(label="Items of the batch", pick="many", sort=self._view.item_sort)
        self.item_pager = Pager(self._turn_items, unit="items")
        actions = _row(self.retry_all, self.retry_chosen, self.cancel)
        self.details = ipw.VBox(
            [
                self.heading,
                self.advice,
                actions,
                self.confirmation,
                self.reasons,
                self.failures,
                _row(self.status),
                self.items,
                self.item_pager,
            ]
        )
        self.details.add_class("qf-details")
        _hide(self.details, self.confirmation)

    def _listen(self) -> None:
        self.table.observe(self._sort_batches, "sort")
        self.table.observe(lambda change: self.show_batch(change["new"][0]) if change["new"] else None, "picked")
        self.items.observe(self._sort_items, "sort")
        self.items.observe(lambda _: self._say_chosen(), "picked")
        self.status.observe(self._filter_items, "value")
        self.failures.on_msg(self._on_failure)
        self.retry_all.on_click(lambda _: self._retry())
        self.retry_chosen.on_click(lambda _: self._retry(items=list(self.items.picked)))
        self.cancel.on_click(lambda _: self._ask())
        self.no.on_click(lambda _: _hide(self.confirmation))
        self.yes.on_click(lambda _: self._cancel())

    # What the browser asks for --------------------------------------------------------------------------------------

    def _sort_batches(self, change: Any) -> None:
        self._turn_batches({}, sort=change["new"])

    def _turn_batches(self, way: dict[str, str], **changed: Any) -> None:
        with self.reporting():
            self._view = replace(self._view, way=way, **changed)
            self._show_batches(way)

    def _sort_items(self, change: Any) -> None:
        self._turn_items({}, item_sort=change["new"])

    def _filter_items(self, change: Any) -> None:
        if change["new"] != self._view.status:
            self._turn_items({}, status=change["new"])

    def _turn_items(self, way: dict[str, str], **changed: Any) -> None:
        with self.reporting():
            self._view = replace(self._view, item_way=way, **changed)
            if self._view.opened is not None:
                self._show_opened(way=way)

    def _open(self, batch: int) -> None:
        self._view = replace(self._view, opened=int(batch), status="", item_way={})
        self.status.value = ""
        self.items.picked = []
        _hide(self.confirmation)
        self._show_opened(afresh=True, way={})
        _show(self.details)

    def _on_failure(self, _table: Table, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict) and content.get("action") == "retry":
            self._retry(where=content.get("key"))

    def _retry(self, **chosen: Any) -> None:
        with self.reporting():
            n = self._batches.retry(self._opened_key, **chosen)
            self.items.picked = []
            self._show_again(afresh=True)
            self.notice.say("1 item waits again." if n == 1 else f"{n:,} items wait again.")

    def _ask(self) -> None:
        with self.reporting():
            line = self._show_opened(afresh=True).line
            n = line.pending + line.processing
            self.question.show(
                f"Skip {'the item that has' if n == 1 else f'the {n:,} items that have'} not ended? What is being "
                "computed of them is thrown away."
            )
            _show(self.confirmation)

    def _cancel(self) -> None:
        with self.reporting():
            _hide(self.confirmation)
            n = self._batches.cancel(self._opened_key)
            self._show_again(afresh=True)
            self.notice.say("1 item was skipped." if n == 1 else f"{n:,} items were skipped.")

    # Showing --------------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        self._is_moving = False
        with self.reporting(what=_LOOK):
            self._show_again()
        return self._is_moving

    def _show(self) -> None:
        self._show_again(afresh=True)

    def _show_again(self, *, afresh: bool = False) -> None:
        """Read the same pages again; what nothing has happened to is not read unless ``afresh``."""
        self._show_batches()
        if self._view.opened is None:
            return
        try:
            self._show_opened(afresh=afresh)
        except NotFound:
            self._view, self._opened = replace(self._view, opened=None), None
            _hide(self.details)
            self.table.picked = []
            raise

    def _show_batches(self, way: dict[str, str] | None = None) -> None:
        """Show a page of batches, reached by ``way``; without one, that which is shown already."""
        page, lines = state.read_batches(self._batches, self._view, self._paces, time.monotonic())
        if page.frame.empty and self._view.way:
            # Those of this page were deleted.
            self._view, way = replace(self._view, way={}), {}
            page, lines = state.read_batches(self._batches, self._view, self._paces, time.monotonic())
        self._is_moving = any(line.is_moving for line in lines)
        self.table.show(rows.BATCH_COLUMNS, [rows.batch_row(line) for line in lines])
        _turn(self.pager, page, way)

    def _show_opened(self, *, afresh: bool = False, way: dict[str, str] | None = None) -> state.Opened:
        before = None if afresh else self._opened
        opened = state.read_opened(self._batches, self._view, self._paces, time.monotonic(), before=before)
        if opened.view != self._view:
            self._view, way = opened.view, {}
        self._opened = opened
        self._is_moving |= opened.line.is_moving
        if before is not None and before.record != opened.record and not self.notice.is_error:
            # What was said of the last click is no longer so.
            self.notice.say("")
        self._show_facts(opened)
        self._say_what_can_be_done(opened)
        self.items.show(rows.ITEM_COLUMNS, rows.item_rows(opened.items.frame))
        _turn(self.item_pager, opened.items, way)
        return opened

    def _show_facts(self, opened: state.Opened) -> None:
        self.heading.show((opened.record.batch_name, "strong"), (state.facts(opened), "quiet"))
        self.advice.show(*state.advice(opened))
        self.reasons.show(state.failures_heading(opened))
        failures = rows.failure_rows(opened)
        self.failures.show(rows.FAILURE_COLUMNS, failures)
        (_show if failures else _hide)(self.failures)

    def _say_what_can_be_done(self, opened: state.Opened) -> None:
        failed = opened.line.progress.n_failed
        which = "the one" if failed == 1 else f"all {failed:,}" if failed else "all"
        self.retry_all.description = f"Retry {which} that failed"
        self.retry_all.disabled = not (failed and opened.may_change)
        self.cancel.disabled = not (opened.line.pending + opened.line.processing and opened.may_change)
        self._say_chosen()

    def _say_chosen(self) -> None:
        n = len(self.items.picked)
        self.retry_chosen.description = f"Retry the {n:,} chosen" if n else "Retry the chosen"
        self.retry_chosen.disabled = not (n and self._opened is not None and self._opened.may_change)

    @property
    def _opened_key(self) -> int:
        assert self._opened is not None
        return self._opened.record.id


def _row(*parts: ipw.Widget) -> ipw.HBox:
    row = ipw.HBox(parts)
    row.add_class("qf-controls")
    return row


def _turn(pager: Pager, page: Page, way: dict[str, str] | None) -> None:
    if way is None:
        pager.renew(page)
    else:
        pager.show(page, way)


def _hide(*parts: ipw.Widget) -> None:
    for part in parts:
        part.layout.display = "none"


def _show(part: ipw.Widget) -> None:
    part.layout.display = None
