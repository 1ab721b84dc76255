"""``client.calculations.suspicious()``: one pass to fit, one to judge, both in one snapshot and with flat memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import func

from qforge_sdk.accessors.base import Context
from qforge_sdk.chem.element_sum import Compositions, ElementSum, EnergySample
from qforge_sdk.chem.plausibility import (
    AtomRows,
    CalculationRows,
    IntArray,
    Limits,
    Suspicion,
    judge_atoms,
    judge_numbers,
)
from qforge_sdk.db.models import AtomicProperty, Calculation
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.snapshot import exported_snapshot
from qforge_sdk.fields import ATOMS, CALCULATIONS
from qforge_sdk.frames import arrow_schema, conform, to_frame
from qforge_sdk.progress import progress_bar
from qforge_sdk.query import Query

#: Method and solvation: energies of one sum over elements.
Group: TypeAlias = tuple[str, str | None]
Fits: TypeAlias = dict[Group, ElementSum | str]

SHOWN: Final = ("id", "molecule_id", "smiles", "name", "formula", "method", "energy", "gap")
_JUDGED: Final = (*SHOWN, "solvation", "total_charge", "unpaired_electrons")
_FITTED: Final = ("id", "formula", "method", "solvation", "energy", "total_charge", "unpaired_electrons")
_ATOMS: Final = ("calculation_id", "atomic_number", "position_x", "position_y", "position_z", "partial_charge")
_TABLES: Final = ("molecules", "calculations", "atomic_properties")
_ROWS_AT_ONCE: Final = 4096
_REARRANGED: Final = '$.run.doubts[*] ? (@.code == "rearranged")'


def find_suspicious(context: Context, query: Query, limits: Limits) -> pd.DataFrame:
    """Calculations that look wrong, the worst first.

    Parameters
    ----------
    context
        Of the client; the sums are fitted on every converged energy that it may read.
    query
        Which calculations are judged.
    limits
        From where on a number is suspicious.

    Returns
    -------
    pandas.DataFrame
        As ``client.calculations.suspicious`` describes it.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    with exported_snapshot(context.engine, context.scope, _TABLES) as snapshot:
        compositions = Compositions()
        fits = _fit(context.reader, snapshot.name, compositions, limits)
        search = _Search(fits, compositions, limits)
        with (
            closing(_stream(context.reader, _judged(query), snapshot.name)) as batches,
            closing(_stream(context.reader, _atoms_of(query), snapshot.name)) as atom_batches,
            progress_bar(None, "judging calculations") as bar,
        ):
            atoms = _Atoms(atom_batches)
            for rows in batches:
                search.judge(rows, atoms)
                bar.update(rows.num_rows)
    return search.frame()


class _Search:
    """Judges batches and keeps what is suspicious.

    Parameters
    ----------
    fits
        Sum of each group, or why there is none.
    compositions
        Reads formulas.
    limits
        From where on.
    """

    def __init__(self, fits: Fits, compositions: Compositions, limits: Limits) -> None:
        self._fits = fits
        self._compositions = compositions
        self._limits = limits
        self._kinds = {name: CALCULATIONS[name].kind for name in SHOWN}
        self._found: list[pa.Table] = []
        self._reasons: list[list[Suspicion]] = []
        self._counts: Counter[str] = Counter(calculations=0, without_fit=0, without_atoms=0)

    def judge(self, rows: pa.RecordBatch, atoms: _Atoms) -> None:
        keys = _numbers(rows, "id", np.int64)
        these = _calculations(rows, self._compositions)
        groups = _groups(rows)
        sums = [fit if isinstance(fit := self._fits.get(group), ElementSum) else None for group in groups]
        their_atoms = atoms.of(keys)
        by_row: dict[int, list[Suspicion]] = defaultdict(list)
        for one in judge_numbers(these, sums, self._limits):
            by_row[one.row].append(one)
        for one in judge_atoms(these, their_atoms, self._limits):
            by_row[one.row].append(one)
        self._counts["calculations"] += len(keys)
        self._counts["without_fit"] += sums.count(None)
        self._counts["without_atoms"] += len(keys) - len(np.unique(their_atoms.rows))
        where = sorted(by_row)
        shown = pa.Table.from_batches([rows]).select(SHOWN).take(pa.array(where, pa.int64()))
        self._found.append(conform(shown, arrow_schema(self._kinds)))
        self._reasons += [sorted(by_row[row], key=lambda one: -one.severity) for row in where]

    def frame(self) -> pd.DataFrame:
        schema = arrow_schema(self._kinds)
        frame = to_frame(pa.concat_tables([schema.empty_table(), *self._found]), self._kinds)
        frame["reasons"] = pd.Series([", ".join(s.code for s in one) for one in self._reasons], dtype="str")
        frame["explanation"] = pd.Series(["; ".join(s.sentence for s in one) for one in self._reasons], dtype="str")
        frame["severity"] = pd.Series([sum(s.severity for s in one) for one in self._reasons], dtype="float64")
        units = frame.attrs["units"]
        frame = frame.sort_values(["severity", "id"], ascending=[False, True], ignore_index=True)
        frame.attrs = {
            "units": units,
            "judged": dict(self._counts),
            "energy_fits": [_told(group, fit) for group, fit in self._fits.items()],
        }
        return frame


class _Atoms:
    """Atoms in the order of their calculations, handed out as far as these have come.

    Parameters
    ----------
    batches
        Ordered by calculation.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: pa.RecordBatch | None = next(batches, None)

    def of(self, keys: IntArray) -> AtomRows:
        """Atoms of calculations whose keys rise, and are above those of the last call."""
        parts = list(self._up_to(int(keys[-1])))
        columns = [np.concatenate([_numbers(part, name) for part in parts] or [np.empty(0)]) for name in _ATOMS]
        owner = columns[0].astype(np.int64)
        place = np.minimum(np.searchsorted(keys, owner), len(keys) - 1)
        known = keys[place] == owner
        numbers, x, y, z, charges = (column[known] for column in columns[1:])
        return AtomRows(place[known], numbers.astype(np.int64), np.column_stack([x, y, z]), charges)

    def _up_to(self, key: int) -> Iterator[pa.RecordBatch]:
        while self._held is not None:
            end = int(np.searchsorted(_numbers(self._held, "calculation_id"), key, side="right"))
            yield self._held.slice(0, end)
            if end < self._held.num_rows:
                self._held = self._held.slice(end)
                return
            self._held = next(self._batches, None)


def _fit(reader: ArrowReader, snapshot: str, compositions: Compositions, limits: Limits) -> Fits:
    """Fit a sum for each group on everything that may be read."""
    query = Query(reader, CALCULATIONS).where(Calculation.energy.is_not(None), convergence_status="converged")
    samples: dict[Group, EnergySample] = defaultdict(EnergySample)
    with progress_bar(None, "fitting energies") as bar:
        for rows in _stream(reader, query.select(_FITTED).statement(), snapshot):
            keys, these = _numbers(rows, "id", np.int64), _calculations(rows, compositions)
            groups = _groups(rows)
            for group in dict.fromkeys(groups):
                its = np.array([one == group for one in groups])
                samples[group].add(
                    keys[its], these.energy[its], these.counts[its], these.charge[its], these.unpaired[its]
                )
            bar.update(rows.num_rows)
    ordered = sorted(samples, key=lambda group: (group[0], group[1] or ""))
    return {group: samples[group].fit(floor=limits.min_deviation) for group in ordered}


def _judged(query: Query) -> Any:
    rearranged = func.jsonb_path_exists(Calculation.metadata_, _REARRANGED).label("rearranged")
    return query.select(_JUDGED).order_by("id").statement().add_columns(rearranged)


def _atoms_of(query: Query) -> Any:
    atoms = Query(query.reader, ATOMS).select(_ATOMS).order_by("calculation_id", "atom_index")
    if query.conditions:
        wanted = query.select(["id"]).statement()
        atoms = atoms.where(AtomicProperty.calculation_id.in_(wanted))
    return atoms.statement()


def _stream(reader: ArrowReader, statement: Any, snapshot: str) -> Generator[pa.RecordBatch]:
    with reader.stream(statement, snapshot=snapshot) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield batch.slice(start, _ROWS_AT_ONCE)


def _calculations(rows: pa.RecordBatch, compositions: Compositions) -> CalculationRows:
    formulas = rows["formula"].dictionary_encode()
    table = compositions.table(formulas.dictionary.to_pylist())
    names = set(rows.schema.names)
    nothing = np.full(rows.num_rows, np.nan)
    return CalculationRows(
        energy=_numbers(rows, "energy"),
        gap=_numbers(rows, "gap") if "gap" in names else nothing,
        charge=_numbers(rows, "total_charge"),
        unpaired=_numbers(rows, "unpaired_electrons"),
        counts=table[formulas.indices.to_numpy(zero_copy_only=False)],
        rearranged=_numbers(rows, "rearranged", np.bool_) if "rearranged" in names else np.zeros(rows.num_rows, bool),
    )


def _groups(rows: pa.RecordBatch) -> list[Group]:
    return list(zip(rows["method"].to_pylist(), rows["solvation"].to_pylist(), strict=True))


def _numbers(rows: pa.RecordBatch, name: str, kind: Any = np.float64) -> Any:
    return np.asarray(rows[name].to_numpy(zero_copy_only=False)).astype(kind)


def _told(group: Group, fit: ElementSum | str) -> dict[str, Any]:
    told: dict[str, Any] = {"method": group[0], "solvation": group[1]}
    if isinstance(fit, str):
        return told | {"applies": False, "why_not": fit}
    return told | {"applies": True, "rows": fit.rows, "spread": fit.spread}
