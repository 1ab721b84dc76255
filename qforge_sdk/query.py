"""Lazy queries: filters to SQL, SQL to Arrow, DataFrames and Parquet."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Select, Subquery, func, select
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from qforge_sdk import display
from qforge_sdk.db.expressions import mentions_other, moved_onto
from qforge_sdk.db.models import PUBLIC_USER_ID, Calculation, Molecule
from qforge_sdk.db.pages import ordered_page
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.errors import InvalidInput, QForgeError
from qforge_sdk.fields import Field, TableFields
from qforge_sdk.filters import condition, smiles_hash, whole
from qforge_sdk.frames import arrow_schema, conform, conversion_factors, to_frame
from qforge_sdk.parquet import file_metadata
from qforge_sdk.progress import progress_bar

__all__ = ["DEFAULT_BATCH_ROWS", "Query", "condition", "smiles_hash"]

DEFAULT_BATCH_ROWS: Final = 65_536
# What a notebook shows of a query that nobody asked to run costs no more than a glance.
_HEAD_ROWS: Final = 5
_COUNTED_ROWS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Query:
    """An immutable query; every method returns a new one, nothing is read until an ending is called.

    Endings are ``df()``, ``arrow()``, ``iter_batches()``, ``count()``, ``to_parquet()``, ``sql()`` and ``explain()``.
    Polars and DuckDB take it as it is, through the Arrow C stream protocol.

    Parameters
    ----------
    reader
        Where it is read.
    table
        What it reads.
    conditions
        SQL expressions, all of which hold.
    order
        Pairs of column name and whether it descends.
    n
        Largest number of rows, None for all.
    columns
        Columns to return, None for the table's usual ones.
    within
        Rows of the table to read instead of all of them, such as a sample.
    """

    reader: ArrowReader
    table: TableFields
    conditions: tuple[ColumnElement[bool], ...] = ()
    order: tuple[tuple[str, bool], ...] = ()
    n: int | None = None
    columns: tuple[str, ...] | None = None
    within: Subquery | None = None

    def where(self, *expressions: ColumnElement[bool], **filters: Any) -> Query:
        """Only the rows that fulfil all of these as well.

        Parameters
        ----------
        *expressions
            SQLAlchemy expressions over the models, such as ``Calculation.gap > 2 * Calculation.lumo``.
        **filters
            Column name to a value (equals), a tuple ``(low, high)`` with None for an open end (both ends included),
            a list (any of these) or None (is null). A ``smiles`` may be in any spelling.

        Returns
        -------
        Query
            The narrower query.

        Raises
        ------
        UnknownField
            No such column; the message names the nearest.
        InvalidInput
            A value that the column cannot be compared with.
        """
        found = [condition(self.table[name], value) for name, value in filters.items()]
        return replace(self, conditions=(*self.conditions, *expressions, *found))

    def order_by(self, *names: str) -> Query:
        """Sort by these columns, the first one foremost; ``-gap`` sorts downwards and nulls come last.

        Raises
        ------
        UnknownField
            No such column.
        """
        order = tuple((name.removeprefix("-"), name.startswith("-")) for name in names)
        for name, _ in order:
            _ = self.table[name]
        return replace(self, order=order)

    def limit(self, n: int | None) -> Query:
        """At most ``n`` rows, None for all.

        Raises
        ------
        InvalidInput
            ``n`` is negative or no integer.
        """
        number = None if n is None else whole(n)
        if n is not None and (number is None or number < 0):
            raise InvalidInput(f"limit must be a whole number, 0 or more, not {n!r}", field="limit", value=n)
        return replace(self, n=number)

    def select(self, columns: Sequence[str]) -> Query:
        """Return these columns, in this order.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            The list is empty or names a column twice.
        """
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        if not names or len(set(names)) != len(names):
            raise InvalidInput("columns: name each column once, and at least one", field="columns", value=columns)
        for name in names:
            _ = self.table[name]
        return replace(self, columns=names)

    def df(self, *, units: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Read it all into a DataFrame.

        Parameters
        ----------
        units
            Column name to the unit wanted, such as ``{"energy": "kcal/mol"}``; others stay as stored.

        Returns
        -------
        pandas.DataFrame
            RangeIndex, dtypes that do not depend on the data, ``attrs["units"]``.

        Raises
        ------
        UnknownField
            A unit or column of ``units`` does not exist.
        QForgeError
            What the server reported.
        """
        kinds = self._kinds()
        conversion_factors(list(kinds), units)
        return to_frame(self.arrow(), kinds, units=units)

    def arrow(self) -> pa.Table:
        """Read it all into an Arrow table with units as field metadata.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        with progress_bar(None, f"reading {self.table.name}"):
            return self._finish(self.reader.read(self.statement()))

    def iter_batches(self, rows: int = DEFAULT_BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Read it as record batches of at most ``rows`` rows, from one snapshot, with flat memory.

        Raises
        ------
        InvalidInput
            ``rows`` is less than 1.
        QForgeError
            What the server reported.
        """
        if rows < 1:
            raise InvalidInput(f"rows must be 1 or more, not {rows!r}", field="rows", value=rows)
        return self._batches(rows)

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with self.reader.stream(self.statement()) as stream:
            for batch in stream:
                yield from self._finish(batch).combine_chunks().to_batches(max_chunksize=rows)

    def count(self, *, most: int | None = None) -> int:
        """Number of rows, counted by the server.

        Parameters
        ----------
        most
            Count no further than this, which is quick however many there are.

        Returns
        -------
        int
            ``most`` where there are so many or more.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        if most is not None and (self.n is None or most < self.n):
            return self.order_by().limit(most).count()
        inner = self._rows(()) if self.n is None else self._rows(self.order)
        counted = select(func.count()).select_from(inner.subquery())
        return int(self.reader.read(counted).column(0)[0].as_py())

    def to_parquet(self, path: str | Path) -> Path:
        """Stream the rows into one Parquet file (zstd), units and schema revision in its metadata.

        Parameters
        ----------
        path
            File to write; it appears only when it is complete.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        QForgeError
            What the server reported; no file is left then.
        """
        target = Path(path).expanduser()
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        schema = arrow_schema(self._kinds()).with_metadata(file_metadata(self.table.name))
        try:
            with (
                pq.ParquetWriter(partial, schema, compression="zstd") as writer,
                progress_bar(None, f"writing {target.name}") as bar,
            ):
                for batch in self._batches(DEFAULT_BATCH_ROWS * 4):
                    writer.write_batch(batch)
                    bar.update(batch.num_rows)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def sql(self) -> str:
        """The SQL that an ending would send."""
        return self.reader.render(self.statement())

    def explain(self, *, analyze: bool = False) -> str:
        """The server's plan.

        Parameters
        ----------
        analyze
            Run the query and show times and row counts.

        Returns
        -------
        str
            As EXPLAIN prints it.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        with self.reader.engine.connect() as connection:
            options = "ANALYZE, BUFFERS" if analyze else "COSTS"
            lines = connection.exec_driver_sql(f"EXPLAIN ({options}) {self.sql().replace('%', '%%')}")
            return "\n".join(row[0] for row in lines)

    def statement(self) -> Select[Any]:
        """The SQLAlchemy statement that an ending would send."""
        return self._rows(self.order)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's C stream, read as it is consumed."""
        schema = arrow_schema(self._kinds())
        stream = pa.RecordBatchReader.from_batches(schema, self._batches(DEFAULT_BATCH_ROWS))
        return stream.__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(pd.DataFrame, name):
            raise AttributeError(f"a Query is lazy and has no {name!r}: call .df() first")
        raise AttributeError(f"Query has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"Query({self.table.name}, {len(self.conditions)} conditions, lazy: call .df())"

    def _repr_html_(self) -> str:
        told = display.paragraph(f"Query of {self.table.name}, lazy: .df() reads it all")
        try:
            head = self.limit(_HEAD_ROWS if self.n is None else min(self.n, _HEAD_ROWS)).df()
            count = len(head) if len(head) < _HEAD_ROWS else self.count(most=_COUNTED_ROWS)
        except QForgeError as exc:
            return display.together(told, display.failure(exc))
        many = f"{count:,}" if count < _COUNTED_ROWS else f"{_COUNTED_ROWS:,} or more"
        rest = display.paragraph(f"{len(head):,} of {many} rows" if count > len(head) else f"{count:,} rows")
        return display.together(told, display.frame_with_structures(head), rest)

    def _fields(self) -> list[Field]:
        return [self.table[name] for name in self.columns or self.table.default_columns()]

    def _kinds(self) -> dict[str, str]:
        return {field.name: field.kind for field in self._fields()}

    def _finish(self, rows: pa.Table | pa.RecordBatch) -> pa.Table:
        return conform(rows, arrow_schema(self._kinds()))

    def _rows(self, order: tuple[tuple[str, bool], ...]) -> Select[Any]:
        """The statement, from a page of ordered branches where an index can serve them."""
        sort = [(self.table[name].attribute, down) for name, down in order]
        source: Any = self.table.model
        conditions = self.conditions
        if self.within is not None:
            source = aliased(self.table.model, self.within)
            conditions = tuple(moved_onto(one, self.table.model, source) for one in conditions)
        elif self._can_page(order):
            page = ordered_page(
                self.table.model,
                list(conditions),
                order_by=sort,
                limit=self.n,
                owners=[self.reader.scope.user_id, PUBLIC_USER_ID],
            )
            source, conditions = aliased(self.table.model, page), ()

        def column(expression: ColumnElement[Any]) -> ColumnElement[Any]:
            return moved_onto(expression, self.table.model, source)

        statement = select(*(column(field.selected()) for field in self._fields())).select_from(source)
        if self._needs_molecule(order):
            statement = statement.outerjoin(Molecule, Molecule.id == source.molecule_id)
        statement = statement.where(*conditions)
        for attribute, down in sort:
            expression = column(attribute.expression)
            statement = statement.order_by((expression.desc() if down else expression.asc()).nulls_last())
        return statement if self.n is None else statement.limit(self.n)

    def _can_page(self, order: tuple[tuple[str, bool], ...]) -> bool:
        """Whether one ordered branch for each owner saves sorting everything that the tenant may read."""
        return (
            self.table.model is Calculation
            and self.n is not None
            and bool(order)
            and self.reader.scope.user_id is not None
            and all(self.table[name].model is Calculation for name, _ in order)
            and not any(mentions_other(expression, self.table.model) for expression in self.conditions)
        )

    def _needs_molecule(self, order: tuple[tuple[str, bool], ...]) -> bool:
        if self.table.model is Molecule or "smiles" not in self.table.fields:
            return False
        return (
            any(field.model is Molecule for field in self._fields())
            or any(self.table[name].model is Molecule for name, _ in order)
            or any(mentions_other(expression, self.table.model) for expression in self.conditions)
        )
