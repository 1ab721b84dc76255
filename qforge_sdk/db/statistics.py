"""What triggers keep counted, and how it is read: exact in every snapshot, in milliseconds at a million rows.

``qforge.read_statistics(kinds)`` returns the cells of the rows that the caller may read. Columns of calculations are
counted on a grid; extremes and medians are found by probing the index of the column inside its cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import TextClause, Uuid, bindparam, text

from qforge_sdk.db.models import PUBLIC_USER_ID

#: Outermost cells: numbers that the grid does not reach. Its lower end is the same below zero.
BEYOND: Final = 2**62
#: An energy of one hartree in the units of the sums.
ENERGY_UNITS: Final = 2**46


@dataclass(frozen=True, slots=True)
class Grid:
    """How a column of calculations is divided into cells, the lower edge of each belonging to it.

    Parameters
    ----------
    per_unit
        Cells in one unit of the quantity; a power of two, so that no edge is rounded.
    points
        Whole numbers have cells of their own: cell ``2 k`` is ``k`` itself, ``2 k + 1`` what lies between ``k`` and
        ``k + 1``.
    """

    per_unit: int
    points: bool = False

    def cell(self, number: float) -> int:
        """The cell of a number."""
        scaled = number * self.per_unit
        if not -1e9 * self.per_unit <= scaled < 1e9 * self.per_unit:
            return BEYOND if number > 0 else -BEYOND
        step = math.floor(scaled)
        return 2 * step + (scaled != step) if self.points else step

    def index(self, cell: int) -> int:
        """Number of the step of width ``1 / per_unit`` that a cell lies in."""
        return cell >> 1 if self.points else cell

    def low(self, cell: int) -> float:
        """No number of the cell is smaller."""
        return self.index(cell) / self.per_unit

    def high(self, cell: int) -> float:
        """No number of the cell is greater."""
        return (cell + 1 >> 1 if self.points else cell + 1) / self.per_unit


GRIDS: Final[dict[str, Grid]] = {
    "gap": Grid(64),
    "energy": Grid(16),
    "dipole": Grid(16),
    "total_charge": Grid(1, points=True),
}
"""Columns of calculations that are counted, by name; the migration has the same numbers."""

INDEXED: Final = ("energy", "gap")
"""Those of them whose extremes an index knows."""

SURVEY: Final = """
    SELECT coalesce(sum(n) FILTER (WHERE kind = 'molecules'), 0)::bigint AS molecules,
           coalesce(sum(n) FILTER (WHERE kind = 'calculations'), 0)::bigint AS calculations,
           array_agg(DISTINCT user_id::text) FILTER (WHERE kind IN ('molecules', 'calculations')) AS owners{ranges}
    FROM qforge.read_statistics(ARRAY['molecules', 'calculations'{kinds}])
"""
"""How much there is and whose, and how many calculations lie in ranges of cells."""

FILTERS: Final[dict[str, dict[str, str]]] = {
    "molecules": {},
    "calculations": {"method": "method", "convergence_status": "status"},
    "batch_jobs": {"status": "status"},
    "batch_items": {"status": "status"},
}
"""Columns that rows are counted by, for each table, and what they are called among the cells."""

_PUBLIC: Final = f"'{PUBLIC_USER_ID}'::uuid"

CELLS: Final = """
    SELECT kind, method, status, cell, sum(n)::bigint AS n FROM qforge.read_statistics(%(kinds)s)
    GROUP BY kind, method, status, cell HAVING sum(n) > 0 ORDER BY kind, cell
"""

COUNT: Final = """
    SELECT coalesce(sum(n), 0)::bigint FROM qforge.read_statistics(ARRAY[%(kind)s])
    WHERE (%(method)s::text[] IS NULL OR method = ANY (%(method)s::text[]))
          AND (%(status)s::text[] IS NULL OR status = ANY (%(status)s::text[]))
          AND (%(cell)s::bigint IS NULL OR cell = %(cell)s::bigint)
"""

OWNERS: Final = """
    SELECT user_id::text AS user_id, sum(n)::bigint AS n FROM qforge.read_statistics(ARRAY[%(kind)s])
    GROUP BY user_id HAVING sum(n) > 0 ORDER BY user_id
"""


def _of_owners(column: str, condition: str, order: str = "OFFSET 0") -> str:
    """SELECT of a column of every owner's calculations, each owner's part by an index that user_id leads.

    OFFSET 0 keeps the planner from joining, for which it might read a whole index.
    """
    part = f"SELECT {column} FROM public.calculations AS c WHERE c.user_id {{owner}} AND {condition} {order}"
    return f"""
        SELECT c.{column} FROM owners AS o
        CROSS JOIN LATERAL ({part.format(owner="= o.user_id")}) AS c
        UNION ALL
        SELECT c.{column} FROM owners AS o
        CROSS JOIN LATERAL ({part.format(owner="IS NULL")}) AS c WHERE o.user_id IS NULL
    """


def _extreme(end: str, column: str, condition: str = "true") -> str:
    """The least or greatest of every owner's calculations, by an index."""
    # Sorted by user_id too: of rows whose user_id is null PostgreSQL does not see that they are in order without.
    order = {"min": "ORDER BY c.user_id, c.{0} LIMIT 1", "max": "ORDER BY c.user_id DESC, c.{0} DESC LIMIT 1"}[end]
    known = f"c.{column} IS NOT NULL AND {condition}"
    return f"(SELECT {end}({column}) FROM ({_of_owners(column, known, order.format(column))}) AS c)"


_IN_CELL: Final = "c.gap >= m.low AND c.gap < m.high"
_EDGE: Final = f"CASE WHEN abs(g.cell{{next}}) < {2**53} THEN (g.cell{{next}}) / 64.0::float8 ELSE {{beyond}} END"

# percentile_cont(0.5) is half way between the two numbers in the middle, which are one if their number is odd. A cell
# may hold one number a million times: then nothing is counted.
_TOTALS: Final = f"""
    WITH cells AS MATERIALIZED (
        SELECT * FROM qforge.read_statistics(ARRAY['molecules', 'calculations', 'batch_jobs', 'no_energy', 'gap'])
        WHERE CAST(:owner AS uuid) IS NULL OR user_id IN (CAST(:owner AS uuid), {_PUBLIC})
    ), owners AS MATERIALIZED (
        SELECT DISTINCT user_id FROM cells WHERE kind = 'calculations'
    ), totals AS (
        SELECT coalesce(sum(n) FILTER (WHERE kind = 'molecules'), 0)::bigint AS molecules,
               coalesce(sum(n) FILTER (WHERE kind = 'calculations'), 0)::bigint AS calculations,
               coalesce(sum(n) FILTER (WHERE kind = 'calculations' AND status = 'converged'), 0)::bigint AS converged,
               coalesce(sum(n) FILTER (WHERE kind = 'batch_jobs'), 0)::bigint AS batches,
               (sum(n) FILTER (WHERE kind = 'calculations')
                - coalesce(sum(n) FILTER (WHERE kind = 'no_energy'), 0))::bigint AS energies,
               sum(energy) FILTER (WHERE kind = 'calculations') AS energy,
               sum(n) FILTER (WHERE kind = 'gap')::bigint AS gaps
        FROM cells
    ), gaps AS MATERIALIZED (
        SELECT cell, sum(n) AS n, sum(sum(n)) OVER (ORDER BY cell) AS upto FROM cells WHERE kind = 'gap' GROUP BY cell
        HAVING sum(n) > 0
    ), middle AS (
        SELECT position, {_EDGE.format(next="", beyond="CASE WHEN g.cell > 0 THEN 1e9 ELSE '-Infinity' END")} AS low,
               {_EDGE.format(next=" + 1", beyond="CASE WHEN g.cell > 0 THEN 'Infinity' ELSE -1e9 END")} AS high,
               (position - (g.upto - g.n))::bigint AS skip
        FROM totals, unnest(ARRAY[(gaps - 1) / 2, gaps / 2]) AS position
        CROSS JOIN LATERAL (SELECT * FROM gaps AS g WHERE g.upto > position ORDER BY g.cell LIMIT 1) AS g
    ), found AS MATERIALIZED (
        SELECT m.position, CASE WHEN ends.least = ends.greatest THEN ends.least ELSE (
                   SELECT gap FROM ({_of_owners("gap", _IN_CELL)}) AS c ORDER BY gap OFFSET m.skip LIMIT 1) END AS gap
        FROM middle AS m
        CROSS JOIN LATERAL (SELECT {_extreme("min", "gap", _IN_CELL)} AS least,
                                   {_extreme("max", "gap", _IN_CELL)} AS greatest) AS ends
    )
    SELECT molecules AS total_molecules, calculations AS total_calculations, batches AS total_batches,
           ((energy / {ENERGY_UNITS}
             + (SELECT coalesce(sum(energy::numeric), 0) FROM ({_of_owners("energy", "c.energy >= 65536")}) AS c)
             + (SELECT coalesce(sum(energy::numeric), 0) FROM ({_of_owners("energy", "c.energy <= -65536")}) AS c))
            / nullif(energies, 0))::double precision AS average_energy,
           (SELECT min(gap) FROM found) AS gap_below, (SELECT max(gap) FROM found) AS gap_above,
           coalesce(100.0 * converged::double precision / nullif(calculations, 0), 0.0) AS success_rate,
           {_extreme("max", "created_at")} AS latest_calculation_at
    FROM totals
"""

#: Ends of the columns that are counted: of the indexed ones as numbers, of the others as cells.
LIMITS: Final = f"""
    WITH cells AS MATERIALIZED (
        SELECT kind, user_id, cell FROM qforge.read_statistics(ARRAY['calculations', 'dipole', 'total_charge'])
        GROUP BY kind, user_id, cell HAVING sum(n) > 0
    ), owners AS MATERIALIZED (
        SELECT DISTINCT user_id FROM cells WHERE kind = 'calculations'
    )
    SELECT {", ".join(f"{_extreme(end, column)} AS {column}_{end}" for column in INDEXED for end in ("min", "max"))},
           {
    ", ".join(
        f"{end}(cell) FILTER (WHERE kind = '{column}') AS {column}_{end}"
        for column in GRIDS
        if column not in INDEXED
        for end in ("min", "max")
    )
}
    FROM cells
"""


def survey(ranges: Mapping[str, tuple[int, int]]) -> str:
    """The statement of :data:`SURVEY`.

    Parameters
    ----------
    ranges
        Counted column to its first and last cell; the answer has a column of that name.
    """
    among = "coalesce(sum(n) FILTER (WHERE kind = '{0}' AND cell BETWEEN {1:d} AND {2:d}), 0)::bigint AS {0}"
    counted = "".join(f", {among.format(name, *cells)}" for name, cells in ranges.items())
    return SURVEY.format(ranges=counted, kinds="".join(f", '{name}'" for name in ranges))


def totals() -> TextClause:
    """The statement of ``get_database_stats``; ``owner`` narrows what the session reads, None leaves it.

    Returns
    -------
    sqlalchemy.TextClause
        One row with the fields of :class:`~qforge_sdk.schemas.DatabaseStatsResponse`; for the median the two numbers
        that it lies between, since SQL refuses to halve the smallest ones.
    """
    return text(_TOTALS.replace("::", "\\:\\:")).bindparams(bindparam("owner", type_=Uuid()))
