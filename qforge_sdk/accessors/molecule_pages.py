"""Pages of molecules with the numbers of their newest converged calculation."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import ColumnElement, true

from qforge_sdk.accessors.base import Accessor
from qforge_sdk.accessors.paging import COUNTED, KEY, VALUE, Request, Turn, counted, named_owners
from qforge_sdk.db import statistics
from qforge_sdk.db.models import Calculation, Molecule
from qforge_sdk.db.molecule_pages import MoleculeSearch
from qforge_sdk.db.pages import Position, Way, column_of
from qforge_sdk.db.reader import Read
from qforge_sdk.db.statistics import GRIDS, INDEXED
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import CALCULATIONS, MOLECULES, TableFields
from qforge_sdk.filters import condition
from qforge_sdk.schemas import Page

_SORTED_BY: Final = ("id", "name", "formula", "gap", "energy")
_SHOWN: Final = ("id", "smiles", "name", "formula", "charge", "inchikey", "created_at")
_NUMBERS: Final = ("method", "energy", "homo", "lumo", "gap", "dipole", "total_charge")
_KINDS: Final = {
    **{name: MOLECULES[name].kind for name in _SHOWN},
    "calculation_id": "key",
    **{name: CALCULATIONS[name].kind for name in _NUMBERS},
}
_FIELDS: Final = TableFields(
    Molecule,
    MOLECULES.fields
    | {
        name: field
        for name, field in CALCULATIONS.fields.items()
        if field.model is Calculation and name not in MOLECULES.fields
    },
)
# Of so many molecules each is looked at, in 50 ms; of more, one goes through them in order until the page is full.
_FEW: Final = 5_000
_LONGEST_STEP: Final = 20_000
# Of so many the first are looked at to say how many there are at least.
_COUNTED: Final = 2_000


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the kept counts say before anything is looked at.

    Parameters
    ----------
    molecules, calculations
        How many one reads.
    owners
        Whose they are; None where they are too many to name.
    ranges
        For each counted column that is filtered, how many calculations lie in the range.
    """

    molecules: int
    calculations: int
    owners: list[uuid.UUID | None] | None
    ranges: dict[str, int]

    @classmethod
    def of(cls, read: Read, tenant: uuid.UUID | None, on_numbers: Mapping[str, Any]) -> _Survey:
        ranges = {
            name: cells
            for name, value in on_numbers.items()
            if name in GRIDS and (cells := _cells(name, value)) is not None
        }
        (row,) = read(statistics.survey(ranges)).to_pylist()
        owners = named_owners(tenant, row["owners"] or [])
        return cls(row["molecules"], row["calculations"], owners, {name: row[name] for name in ranges})

    @property
    def share(self) -> float:
        """Which part of the calculations fulfils the filters, were they independent."""
        return prod((n / max(self.calculations, 1) for n in self.ranges.values()), start=1.0)

    def first_step(self, rows: int, *, by_number: bool) -> int:
        """How many to look at first, so that ``rows`` of them are likely to be what is looked for."""
        for_each = max(self.calculations / max(self.molecules, 1), 1.0) if by_number else 1.0
        return int(min(max(2 * rows * for_each / max(1.0 if by_number else self.share, 1e-6), 100), _LONGEST_STEP))

    def narrowest(self) -> str | None:
        """The filtered column that holds few calculations, if there is one; best if an index finds them."""
        few = {name: (name not in INDEXED, n) for name, n in self.ranges.items() if n <= 4 * _FEW}
        return min(few, key=few.__getitem__) if few else None


class MoleculePages(Accessor):
    """Pages for looking at molecules."""

    def page(
        self,
        *,
        order_by: str = "-id",
        limit: int = 24,
        after: str | None = None,
        before: str | None = None,
        count: bool = True,
        units: Mapping[str, str] | None = None,
        name_contains: str | None = None,
        **filters: Any,
    ) -> Page:
        """One page of molecules with their key numbers, as fast anywhere among millions.

        The numbers of a molecule are those of its newest converged calculation; they are null where it has none.

        Parameters
        ----------
        order_by
            ``id``, ``name``, ``formula``, ``gap`` or ``energy``; ``-`` sorts downwards. The newest come first by
            default. Sorted by a number, molecules without it are left out.
        limit
            Rows of a page, at most 1,000.
        after
            ``next`` of the page before.
        before
            ``previous`` of the page after, or ``"end"`` for the last page.
        count
            Whether to count the rows of all pages.
        units
            Column name to the unit wanted, such as ``{"energy": "kcal/mol"}``.
        name_contains
            Part of the name, in upper or lower case. No index helps to find a rare one: among a million names that
            takes a second.
        **filters
            As in :meth:`query`, on columns of molecules (``smiles`` in any spelling, ``formula``, ``charge``, ...)
            and of that calculation: ``gap=(1, 3)``, ``dipole=(None, 2)``, ``method="GFN2-xTB"``, ...

        Returns
        -------
        Page
            ``frame`` with id, smiles, name, formula, charge, inchikey, created_at, calculation_id, method, energy,
            homo, lumo, gap, dipole, total_charge; ``next`` and ``previous`` to go on with; ``count``, which is exact
            without filters and for few rows, and a lower bound otherwise.

        Raises
        ------
        UnknownField
            No such column.
        InvalidSmiles
            RDKit refuses the SMILES.
        InvalidInput
            A filter or option cannot be used, or a token is not of a page sorted like this.
        """
        request = Request(order_by, limit, after, before, count, units)
        turn = request.turn(_FIELDS, _SORTED_BY)
        on_numbers = {name: value for name, value in filters.items() if _FIELDS[name].model is Calculation}
        on_molecules = [condition(_FIELDS[name], value) for name, value in filters.items() if name not in on_numbers]
        if name_contains is not None:
            on_molecules.append(_contains(name_contains))
        with self._context.reader.together() as read:
            survey = _Survey.of(read, self._context.tenant, on_numbers)
            search = MoleculeSearch(
                molecules=tuple(on_molecules),
                numbers=tuple(condition(_FIELDS[name], value) for name, value in on_numbers.items()),
                sort=column_of(turn.field.attribute),
                owners=survey.owners,
            )
            finder = _Finder(read, search, survey, on_numbers, turn)
            found = finder.find()
            page = turn.page(_rows(read, search, found), _KINDS, units)
            return finder.counted(page, found) if count else page


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds the keys of one page, beginning where little has to be looked at."""

    read: Read
    search: MoleculeSearch
    survey: _Survey
    on_numbers: Mapping[str, Any]
    turn: Turn

    def find(self) -> _Found:
        """The keys of the page, and of one row more."""
        candidates = self._candidates() if self.search.needs_numbers else None
        if candidates is None:
            return self._walk()
        found = self.read(self.search.among(candidates, self.turn.way, self.turn.limit + 1))
        total = found["total"][0].as_py() if found.num_rows else 0 if self.turn.way.start is None else None
        return _Found(found, total)

    def _candidates(self) -> ColumnElement[bool] | None:
        """Condition for few molecules that hold all that are looked for; None where there is none."""
        if self.survey.molecules <= _FEW:
            return true()
        if self.search.molecules:
            keys = self.read(self.search.keys(_FEW + 1)).column(0).to_pylist()
            if len(keys) <= _FEW:
                return Molecule.id.in_(keys)
        name = self.survey.narrowest()
        if name is None:
            return None
        return self.search.having(condition(_FIELDS[name], self.on_numbers[name]), indexed=name in INDEXED)

    def _walk(self) -> _Found:
        """Go on from step to longer step until the page is full."""
        wanted = self.turn.limit + 1
        by_number, needs_numbers = self.search.by_number, self.search.needs_numbers
        n = self.survey.first_step(wanted, by_number=by_number) if needs_numbers else wanted
        way = self.turn.way
        parts: list[pa.Table] = []
        while True:
            step = self.read(self.search.step(way, n))
            parts.append(step.filter(step["matched"]))
            if step.num_rows < n or sum(part.num_rows for part in parts) >= wanted:
                return _Found(pa.concat_tables(parts).slice(0, wanted))
            last = step.slice(step.num_rows - 1).to_pylist()[0]
            way, n = replace(way, start=Position(last["value"], last["key"])), min(4 * n, _LONGEST_STEP)

    def counted(self, page: Page, found: _Found) -> Page:
        """The page with the number of all that match, as far as it is cheap to know."""
        if found.total is not None:
            return replace(page, count=found.total, is_exact=True)
        if page.next is None and page.previous is None:
            return replace(page, count=len(page.frame), is_exact=True)
        if not self.search.needs_numbers:
            if not self.search.molecules:
                return replace(page, count=self.survey.molecules, is_exact=True)
            return counted(self.read, page, self.search.keys(COUNTED + 1))
        step = self.read(self.search.step(Way(self.turn.way.descending), _COUNTED))
        n = step.filter(step["matched"]).num_rows
        return replace(page, count=max(n, len(page.frame)), is_exact=step.num_rows < _COUNTED)


@dataclass(frozen=True, slots=True)
class _Found:
    """Keys of the rows of a page, and the number of all that match where it came along."""

    keys: pa.Table
    total: int | None = None


def _rows(read: Read, search: MoleculeSearch, found: _Found) -> pa.Table:
    """What a page shows of the rows that were found, and its marks."""
    molecules = [MOLECULES[name].selected() for name in _SHOWN]
    numbers = [Calculation.id.label("calculation_id"), *(CALCULATIONS[name].selected() for name in _NUMBERS)]
    keys = zip(found.keys["molecule_id"].to_pylist(), found.keys["calculation_id"].to_pylist(), strict=True)
    rows = read(search.read(list(keys), molecules, numbers))
    return rows.append_column(VALUE, found.keys["value"]).append_column(KEY, found.keys["key"])


def _contains(text: object) -> ColumnElement[bool]:
    """Condition on the name; what is a wildcard to LIKE stands for itself."""
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInput(f"name_contains is a part of a name, not {text!r}", field="name_contains", value=text)
    found: ColumnElement[bool] = Molecule.name.icontains(text, autoescape=True)
    return found


def _cells(name: str, value: Any) -> tuple[int, int] | None:
    """First and last cell that a filter on a counted column reaches."""
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    if not all(end is None or isinstance(end, (int, float)) for end in (low, high)) or low is high is None:
        return None
    grid, beyond = GRIDS[name], statistics.BEYOND
    return -beyond if low is None else grid.cell(low), beyond if high is None else grid.cell(high)
