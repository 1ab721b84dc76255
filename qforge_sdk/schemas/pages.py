"""One page of sorted rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from qforge_sdk import display


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, and how to go on.

    Parameters
    ----------
    frame
        The rows, in order.
    count
        Rows on all pages, if ``is_exact``; there are at least so many otherwise. None where nobody asked.
    is_exact
        Whether ``count`` is the number.
    next
        For ``after=``, None on the last page.
    previous
        For ``before=``, None on the first page.
    """

    frame: pd.DataFrame = field(repr=False)
    count: int | None
    is_exact: bool
    next: str | None = field(repr=False)
    previous: str | None = field(repr=False)

    def _repr_html_(self) -> str:
        more = [name for name in ("previous", "next") if getattr(self, name) is not None]
        of_all = "" if self.count is None or not more else f" of {'' if self.is_exact else 'at least '}{self.count:,}"
        ways = f"; there is a {' and a '.join(more)} page" if more else ""
        told = display.paragraph(f"{len(self.frame):,}{of_all} rows{ways}")
        return display.together(display.frame_with_structures(self.frame), told)
