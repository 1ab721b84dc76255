"""Whatever holds rows, as Arrow tables that can be read twice with flat memory."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds

from qforge_sdk.errors import InvalidInput

CHUNK_ROWS: Final = 32_768


@dataclass(frozen=True)
class Source:
    """Rows to load.

    Parameters
    ----------
    names
        Columns, in the order of the input.
    n_rows
        Number of rows.
    index
        The input's own index, where it has one.
    read
        Called with column names: tables of at most :data:`CHUNK_ROWS` rows, in order; may be called again.
    """

    names: list[str]
    n_rows: int
    index: pd.Index[Any] | None
    read: Callable[[list[str]], Iterator[pa.Table]]

    @property
    def is_nothing(self) -> bool:
        """Whether there are neither rows nor columns, as in a list of no records."""
        return not self.names and not self.n_rows


def open_source(source: Any) -> Source:
    """Make rows readable.

    Parameters
    ----------
    source
        DataFrame, Arrow table or reader, anything with an Arrow C stream, dict of columns, list of dicts, path of a
        Parquet or CSV file, folder or list of Parquet files, an iterator of any of these tables, or a Source.

    Returns
    -------
    Source
        One-pass inputs are copied to a temporary file first.

    Raises
    ------
    InvalidInput
        It is none of these, a file cannot be read, or a column stands twice.
    """
    if isinstance(source, Source):
        found = source
    elif isinstance(source, (str, Path)):
        found = _of_path(Path(source).expanduser())
    elif isinstance(source, pd.DataFrame):
        found = _of_frame(source)
    elif isinstance(source, (pa.Table, pa.RecordBatch)):
        found = _of_table(source if isinstance(source, pa.Table) else pa.Table.from_batches([source]))
    elif isinstance(source, pa.RecordBatchReader):
        found = _spooled(source)
    elif isinstance(source, Mapping):
        found = _of_frame(_frame_of(source))
    elif hasattr(source, "__arrow_c_stream__"):
        found = _spooled(pa.RecordBatchReader.from_stream(source))
    elif isinstance(source, Sequence) and source and all(isinstance(item, Mapping) for item in source):
        found = _of_frame(pd.DataFrame(list(source)))
    elif isinstance(source, Sequence) and source and all(isinstance(item, (str, Path)) for item in source):
        found = _of_parquet([Path(item).expanduser() for item in source])
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        found = _spooled(source)
    else:
        raise InvalidInput(
            f"cannot load rows from {type(source).__name__}; give a DataFrame, an Arrow table or reader, a path of a "
            "Parquet or CSV file, or an iterator of batches",
            field="source",
        )
    repeated = {name for name in found.names if found.names.count(name) > 1}
    if repeated:
        raise InvalidInput(f"columns stand twice: {', '.join(sorted(repeated))}", field="source")
    return found


def _frame_of(columns: Mapping[Any, Any]) -> pd.DataFrame:
    try:
        return pd.DataFrame(dict(columns))
    except ValueError as exc:
        raise InvalidInput(
            f"a dict holds columns of one length each, and this one does not: {exc}; give rows as a list of dicts",
            field="source",
        ) from exc


def _of_frame(frame: pd.DataFrame) -> Source:
    names = [str(name) for name in frame.columns]

    def read(columns: list[str]) -> Iterator[pa.Table]:
        for start in range(0, len(frame), CHUNK_ROWS):
            part = frame.iloc[start : start + CHUNK_ROWS]
            yield pa.table([_of_series(name, part.iloc[:, names.index(name)]) for name in columns], names=columns)

    return Source(names, len(frame), frame.index, read)


def _of_series(name: str, series: pd.Series[Any]) -> pa.Array:
    """A column as Arrow; NaN, None and NaT are missing values, mixed objects become text."""
    if name == "metadata" and series.dtype == object:
        return pa.array([_json(value) for value in series], pa.string())
    try:
        array = pa.array(series, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        missing = series.isna().tolist()
        return pa.array(
            [None if gone else _as_text(value) for value, gone in zip(series, missing, strict=True)], pa.string()
        )


def _as_text(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


def _json(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        # No JSON: the check of values refuses this text and shows it.
        return _as_text(value)


def _of_table(table: pa.Table) -> Source:
    def read(columns: list[str]) -> Iterator[pa.Table]:
        part = table.select(columns)
        for start in range(0, table.num_rows, CHUNK_ROWS):
            yield part.slice(start, CHUNK_ROWS)

    return Source(table.column_names, table.num_rows, None, read)


def _of_path(path: Path) -> Source:
    if not path.exists():
        raise InvalidInput(f"there is no file {path}", field="source", value=str(path))
    if path.is_dir():
        return _of_parquet([path])
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".csv" in suffixes or ".tsv" in suffixes:
        return _of_csv(path, "\t" if ".tsv" in suffixes else ",")
    if ".parquet" in suffixes or ".pq" in suffixes:
        return _of_parquet([path])
    raise InvalidInput(f"{path.name}: only .parquet, .csv and .tsv files are read", field="source", value=str(path))


def _of_parquet(paths: list[Path]) -> Source:
    places: Any = [str(path) for path in paths]
    try:
        dataset = ds.dataset(places[0] if len(places) == 1 else places, format="parquet")
        n_rows = dataset.count_rows()
    except (pa.ArrowInvalid, OSError) as exc:
        raise InvalidInput(f"{paths[0]} is no Parquet that can be read: {exc}", field="source") from exc
    if not dataset.files:
        raise InvalidInput(f"{paths[0]} holds no Parquet files", field="source", value=str(paths[0]))

    def read(columns: list[str]) -> Iterator[pa.Table]:
        for batch in dataset.to_batches(
            columns=columns, batch_size=CHUNK_ROWS, batch_readahead=2, fragment_readahead=1
        ):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])

    return Source(dataset.schema.names, n_rows, None, read)


def _of_csv(path: Path, delimiter: str) -> Source:
    # Everything as text: types guessed from the first block would refuse later rows all at once.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline().encode()
        columns = pa.csv.read_csv(pa.BufferReader(header), parse_options=_csv_parse(delimiter)).column_names
    except (pa.ArrowInvalid, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} has no header line that can be read: {exc}", field="source") from exc

    def stream() -> Iterator[pa.RecordBatch]:
        options = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns}, null_values=[""], strings_can_be_null=True
        )
        try:
            yield from pa.csv.open_csv(path, parse_options=_csv_parse(delimiter), convert_options=options)
        except pa.ArrowInvalid as exc:
            raise InvalidInput(f"{path}: {exc}", field="source") from exc

    return _spooled(stream(), names=columns)


def _csv_parse(delimiter: str) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _spooled(batches: Iterable[Any], names: list[str] | None = None) -> Source:
    """Batches written to a temporary file, each with the types that it has."""
    file = tempfile.TemporaryFile(prefix="qforge-load-")  # noqa: SIM115 - lives as long as the source
    offsets: list[int] = []
    n_rows = 0
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with contextlib.ExitStack() as on_error:
        on_error.callback(file.close)
        for batch in batches:
            part = open_source(batch)
            if names is None:
                names = part.names
            elif set(part.names) != set(names):
                raise InvalidInput(
                    f"batches differ in their columns: {', '.join(names)} and {', '.join(part.names)}", field="source"
                )
            for table in part.read(names):
                offsets.append(file.tell())
                with pa.ipc.new_stream(file, table.schema, options=options) as writer:
                    writer.write_table(table)
                n_rows += table.num_rows
        on_error.pop_all()

    def read(columns: list[str]) -> Iterator[pa.Table]:
        for offset in offsets:
            file.seek(offset)
            with pa.ipc.open_stream(file) as reader:
                yield reader.read_all().select(columns)

    source = Source(names or [], n_rows, None, read)
    weakref.finalize(source, file.close)
    return source
