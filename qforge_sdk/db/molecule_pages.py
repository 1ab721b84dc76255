"""Pages of molecules, each with the numbers of its newest converged calculation.

Nothing is kept for this: the newest calculation is looked up for each molecule that is come by (10 us). How many that
are depends on where one begins: with the molecules in their order, with the calculations in the order of a number, or
with few candidates, all of which are looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    and_,
    cast,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
    union_all,
)

from qforge_sdk.db.expressions import moved_onto
from qforge_sdk.db.models import Calculation, Molecule
from qforge_sdk.db.pages import OwnersRows, Segment, Way, directed, of_each, one_after_another, segments

Owners = Sequence[uuid.UUID | None] | None
Conditions = tuple[ColumnElement[bool], ...]

# One look-up for each owner of calculations; of more owners those of a molecule are sorted instead.
_MANY_OWNERS: Final = 8
_MOLECULES: Final[Any] = Molecule.__table__
_CALCULATIONS: Final[Any] = Calculation.__table__


@dataclass(frozen=True, slots=True)
class MoleculeSearch:
    """What is looked for. Its methods find keys: ``molecule_id``, ``calculation_id``, ``value``, ``key``.

    Parameters
    ----------
    molecules
        Conditions on molecules.
    numbers
        Conditions on the newest converged calculation.
    sort
        Column of either table. Sorted by a number, molecules without it are left out.
    owners
        Whose rows are read; None for everybody's.
    """

    molecules: Conditions
    numbers: Conditions
    sort: Any
    owners: Owners

    @property
    def by_number(self) -> bool:
        """Whether a number of the calculation is sorted by."""
        return self.sort.table is _CALCULATIONS

    @property
    def needs_numbers(self) -> bool:
        """Whether the calculations decide which molecules there are, or in which order."""
        return self.by_number or bool(self.numbers)

    def step(self, way: Way, n: int) -> Select[Any]:
        """The next ``n`` molecules, or calculations, on the way, and whether each is looked for, as ``matched``."""
        rows = self._calculations() if self.by_number else self._molecules()
        # Materialized: a planner that trusts its guess at how many match would go through all of them.
        step = self._page(*rows, way, n).cte("step").prefix_with("MATERIALIZED")
        found = select(step.c.molecule_id, step.c.value, step.c.key).order_by(*_order(step, way))
        if not self.needs_numbers:
            return found.add_columns(cast(null(), BigInteger).label("calculation_id"), true().label("matched"))
        newest = self._newest("step.molecule_id")
        matched = [moved_onto(one, Calculation, newest) for one in self.numbers]
        if self.by_number:
            same = exists().where(_MOLECULES.c.id == step.c.molecule_id, *self.molecules).correlate(step)
            matched = [newest.c.id == step.c.key, same]
        return found.select_from(step.outerjoin(newest, true())).add_columns(
            newest.c.id.label("calculation_id"), func.coalesce(and_(*matched), false()).label("matched")
        )

    def among(self, candidates: ColumnElement[bool], way: Way, n: int) -> Select[Any]:
        """The next ``n`` on the way of those candidates that are looked for; their number comes as ``total``.

        Parameters
        ----------
        candidates
            Condition on molecules; all that fulfil it are looked at.
        way, n
            Where one is, and how far one goes.
        """
        newest = self._newest("molecules.id")
        value = newest.c[self.sort.key] if self.by_number else self.sort
        known = (value.is_not(None),) if self.by_number else ()
        found = (
            select(
                _MOLECULES.c.id.label("molecule_id"),
                newest.c.id.label("calculation_id"),
                value.label("value"),
                (newest.c.id if self.by_number else _MOLECULES.c.id).label("key"),
            )
            .select_from(_MOLECULES.join(newest, true()))
            .where(candidates, *self.molecules, *known)
            .where(*(moved_onto(one, Calculation, newest) for one in self.numbers))
            .cte("found")
            .prefix_with("MATERIALIZED")
        )
        total = select(func.count()).select_from(found).scalar_subquery().label("total")
        return self._page([OwnersRows(select(*found.c, total))], found.c.value, found.c.key, way, n)

    def keys(self, n: int) -> Select[Any]:
        """Keys of at most ``n`` molecules that fulfil the conditions on molecules, in no order."""
        rows = select(_MOLECULES.c.id).where(*self.molecules)
        every = [one.rows.limit(n) for one in of_each(self.owners, rows, _MOLECULES)]
        return select(union_all(*every).subquery()).limit(n)

    def having(self, numbers: ColumnElement[bool], *, indexed: bool) -> ColumnElement[bool]:
        """Condition for the molecules of those calculations that fulfil another.

        Parameters
        ----------
        numbers
            Condition on calculations.
        indexed
            Whether an index finds them, for one owner after the other.
        """
        rows = select(_CALCULATIONS.c.molecule_id).where(numbers)
        every = [one.rows for one in of_each(self.owners if indexed else None, rows, _CALCULATIONS)]
        wanted: ColumnElement[bool] = _MOLECULES.c.id.in_(union_all(*every))
        return wanted

    def read(
        self,
        keys: Sequence[tuple[int, int | None]],
        molecules: Sequence[ColumnElement[Any]],
        numbers: Sequence[ColumnElement[Any]],
    ) -> Select[Any]:
        """Columns of rows that were found, in the same order.

        Parameters
        ----------
        keys
            Molecule and calculation of each; without the latter the newest is looked up, if there is one.
        molecules
            Labelled expressions over molecules.
        numbers
            Labelled expressions over calculations.
        """
        lists = [cast(literal([key[n] for key in keys], ARRAY(BigInteger)), ARRAY(BigInteger)) for n in (0, 1)]
        columns = [column(name, BigInteger) for name in ("molecule_id", "calculation_id")]
        wanted = func.unnest(*lists).table_valued(*columns, with_ordinality="n").render_derived(name="wanted")
        source: Any = _CALCULATIONS.alias("newest") if self.needs_numbers else self._newest("wanted.molecule_id")
        same = source.c.id == wanted.c.calculation_id if self.needs_numbers else true()
        shown = [moved_onto(one, Calculation, source) for one in numbers]
        joined = wanted.join(_MOLECULES, _MOLECULES.c.id == wanted.c.molecule_id).outerjoin(source, same)
        return select(*molecules, *shown).select_from(joined).order_by(wanted.c.n)

    def _molecules(self) -> _Rows:
        """Molecules in order, of each owner."""
        key = _MOLECULES.c.id
        rows = select(key.label("molecule_id"), self.sort.label("value"), key.label("key")).where(*self.molecules)
        return of_each(self.owners, rows, _MOLECULES), self.sort, key

    def _calculations(self) -> _Rows:
        """Calculations that have the number, in order, of each owner."""
        key = _CALCULATIONS.c.id
        rows = select(_CALCULATIONS.c.molecule_id, self.sort.label("value"), key.label("key")).where(
            self.sort.is_not(None), _CALCULATIONS.c.convergence_status == "converged", *self.numbers
        )
        return of_each(self.owners, rows, _CALCULATIONS), self.sort, key

    def _newest(self, molecule_id: str) -> Any:
        """The newest converged calculation of a molecule.

        Its key is given as text: SQLAlchemy correlates no subquery inside a UNION inside a LATERAL.
        """

        def rows(*owner: ColumnElement[bool]) -> Select[Any]:
            of_molecule = _CALCULATIONS.c.molecule_id == literal_column(molecule_id)
            found = select(*_CALCULATIONS.c).where(
                of_molecule, _CALCULATIONS.c.convergence_status == "converged", *owner
            )
            return found.order_by(_CALCULATIONS.c.id.desc()).limit(1)

        if self.owners is None or len(self.owners) > _MANY_OWNERS:
            return rows().lateral("newest")
        merged = union_all(*(rows(_CALCULATIONS.c.user_id == owner) for owner in self.owners)).subquery()
        return select(*merged.c).order_by(merged.c.id.desc()).limit(1).lateral("newest")

    def _page(
        self, rows: Sequence[OwnersRows], value: ColumnElement[Any], key: ColumnElement[Any], way: Way, n: int
    ) -> Select[Any]:
        parts = self._parts(value, key, way)
        merged = union_all(*(branch for one in rows for branch in one_after_another(one, parts, way, n))).subquery()
        return select(merged).order_by(*_order(merged, way)).limit(n)

    def _parts(self, value: ColumnElement[Any], key: ColumnElement[Any], way: Way) -> list[Segment]:
        nullable = not self.by_number and bool(self.sort.nullable)
        return segments(None if self.sort is _MOLECULES.c.id else value, key, way, nullable=nullable)


_Rows = tuple[list[OwnersRows], ColumnElement[Any], ColumnElement[Any]]


def _order(page: Any, way: Way) -> list[Any]:
    return [page.c.segment.asc(), directed(page.c.value, way.is_down), directed(page.c.key, way.is_down)]
