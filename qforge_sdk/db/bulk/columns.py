"""Which columns each bulk load takes and what they may hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.source import Source
from qforge_sdk.db.bulk.values import BoolArray, Rule, apply, flag, integer, json_object, number, plain, text, word
from qforge_sdk.db.models import CONVERGENCE_STATUSES
from qforge_sdk.errors import UnknownField
from qforge_sdk.quantities import QUANTITIES, did_you_mean

_KEY: Final = Rule(integer(least=1, most=2**63 - 1))
_JSON: Final = Rule(json_object)
_BY_DATABASE: Final = ("id", "user_id", "created_at", "updated_at")


def _quantity(name: str, *, least: float | None = None, required: bool = False, default: float | None = None) -> Rule:
    return Rule(number(least=least, unit=QUANTITIES[name].unit), required=required, default=default)


MOLECULE_RULES: Final[dict[str, Rule]] = {
    "name": Rule(text(longest=255)),
    "formula": Rule(text(longest=255)),
    "metadata": _JSON,
}

CALCULATION_RULES: Final[dict[str, Rule]] = {
    "energy": _quantity("energy"),
    "homo": _quantity("homo"),
    "lumo": _quantity("lumo"),
    "gap": _quantity("gap"),
    "dipole": _quantity("dipole", least=0),
    "total_charge": _quantity("total_charge", default=0.0),
    "unpaired_electrons": Rule(integer(least=0, most=10_000, type_=pa.int32()), default=0),
    "execution_time_seconds": _quantity("execution_time_seconds", least=0),
    "xtb_version": Rule(text(longest=50)),
    "method": Rule(text(longest=50), default="GFN2-xTB"),
    "solvation": Rule(text(longest=50)),
    "solvent": Rule(text(longest=50)),
    "optimized": Rule(flag, default=False),
    "convergence_status": Rule(word(CONVERGENCE_STATUSES), default="converged"),
    "xyz_file_hash": Rule(text(exactly=64)),
    "output_json_path": Rule(text()),
    "source_id": Rule(text(longest=255)),
    "metadata": _JSON,
}

MOLECULE_KEY_RULES: Final[dict[str, Rule]] = {"molecule_id": _KEY}

ATOM_RULES: Final[dict[str, Rule]] = {
    "atom_index": Rule(integer(least=0, most=1_000_000, type_=pa.int32()), required=True),
    "element": Rule(text(longest=3)),
    "atomic_number": Rule(integer(least=1, most=118, type_=pa.int16())),
    "partial_charge": _quantity("partial_charge"),
    **{name: _quantity(name, required=True) for name in ("position_x", "position_y", "position_z")},
    **{name: _quantity(name) for name in ("force_x", "force_y", "force_z", "orbital_energy")},
    "metadata": _JSON,
}
ATOM_KEY_RULES: Final[dict[str, Rule]] = {"calculation_id": _KEY, "source_id": Rule(text(longest=255))}


def check_names(source: Source, known: list[str], entity: str) -> None:
    """Refuse columns that the table does not take.

    Parameters
    ----------
    source
        The input.
    known
        What it takes.
    entity
        Its name.

    Raises
    ------
    UnknownField
        A column is unknown, or the database fills it.
    """
    for name in source.names:
        if name in _BY_DATABASE:
            raise UnknownField(
                f"{entity}: the database fills {name!r}; leave it out: df.drop(columns=[{name!r}])", field=name
            )
        if name not in known:
            raise UnknownField(f"{entity}: no column {name!r}{did_you_mean(name, known)}", field=name)


class Chunk:
    """Rows of the input, checked; a row with a fault is out for all that follows.

    Parameters
    ----------
    table
        At most some ten thousand rows.
    first_row
        Number of its first row in the input.
    """

    def __init__(self, table: pa.Table, first_row: int) -> None:
        self.first_row = first_row
        self.n_rows = table.num_rows
        self.columns: dict[str, pa.Array] = {}
        self.good: BoolArray = np.ones(table.num_rows, bool)
        self._raw = table

    def check(self, rules: Mapping[str, Rule], account: Account) -> None:
        """Take the columns that have a rule; each bad value refuses its row."""
        for name, rule in rules.items():
            raw = self.raw(name)
            self.columns[name], faults = apply(rule, raw)
            for mask, code, reason in faults:
                self.reject(mask, account, name, raw, code, reason)

    def raw(self, name: str) -> pa.Array:
        """A column as it came, nulls when it is not there."""
        if name not in self._raw.column_names:
            return pa.nulls(self.n_rows)
        return plain(self._raw[name])

    def reject(
        self, mask: BoolArray, account: Account, column: str, values: pa.Array, code: str, reason: str
    ) -> None:
        """Refuse the rows of the mask that are still good."""
        bad = mask & self.good
        if bad.any():
            account.reject_where(bad, self.first_row, column, values, code, reason)
            self.good &= ~bad

    @property
    def rows(self) -> pa.Array:
        """Numbers of its rows in the input."""
        return pa.array(np.arange(self.first_row, self.first_row + self.n_rows, dtype=np.int64))

    def table(self, names: list[str], where: BoolArray | None = None) -> pa.Table:
        """The good rows of some columns, ``row`` among them."""
        arrays = [self.rows if name == "row" else self.columns[name] for name in names]
        table = pa.table(arrays, names=names)
        mask = self.good if where is None else self.good & where
        return table if mask.all() else table.filter(pa.array(mask))


def chunks(source: Source, columns: list[str]) -> Iterator[Chunk]:
    """The input in pieces, with those of the columns that it has."""
    present = [name for name in columns if name in source.names]
    first_row = 0
    if not present:
        return
    for table in source.read(present):
        yield Chunk(table, first_row)
        first_row += table.num_rows


def is_null(array: pa.Array) -> BoolArray:
    """Mask of the nulls."""
    return np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False), dtype=bool)
