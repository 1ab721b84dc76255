"""Arrow tables to DataFrames whose dtypes do not depend on the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qforge_sdk.errors import UnknownField
from qforge_sdk.quantities import QUANTITIES, conversion_factor, did_you_mean, units_of

ARROW_TYPES: Final[dict[str, pa.DataType]] = {
    "key": pa.int64(),
    "Int64": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
    "str": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "json": pa.string(),
    "bytes": pa.binary(),
}
"""Arrow type of each kind of column."""

PANDAS_TYPES: Final[dict[str, Any]] = {
    "key": "Int64",
    "Int64": "Int64",
    "int64": "int64",
    "float64": "float64",
    "boolean": "boolean",
    "str": "str",
    "time": "datetime64[us, UTC]",
    "json": "object",
    "bytes": "object",
}
"""Pandas dtype of each kind of column."""

# numpy would turn null integers into floats and null booleans into objects; the nullable types keep both.
_NULLABLE: Final = {
    pa.int16(): pd.Int64Dtype(),
    pa.int32(): pd.Int64Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def arrow_schema(kinds: Mapping[str, str]) -> pa.Schema:
    """Arrow schema of columns, with units as field metadata.

    Parameters
    ----------
    kinds
        Column name to kind, a key of :data:`ARROW_TYPES`.

    Returns
    -------
    pyarrow.Schema
        Fields in the same order.
    """
    return pa.schema(
        [pa.field(name, ARROW_TYPES[kind], metadata=_field_metadata(name, kind)) for name, kind in kinds.items()]
    )


def _field_metadata(name: str, kind: str) -> dict[str, str] | None:
    if name in QUANTITIES:
        return {"unit": QUANTITIES[name].unit, "description": QUANTITIES[name].description}
    return {"format": "json"} if kind == "json" else None


def conform(table: pa.Table | pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """The server's types cast to ``schema``, column by column.

    Parameters
    ----------
    table
        As ADBC returned it; columns in the order of ``schema``.
    schema
        From :func:`arrow_schema`.

    Returns
    -------
    pyarrow.Table
        Of exactly that schema.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    columns = [_storage(column) for column in table.columns]
    cast = [
        column if column.type == field.type else pc.cast(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(cast, schema=schema)


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Extension types (json, uuid, what Arrow has no type for) as what they are stored in."""
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        return pa.chunked_array(chunks, type=column.type.storage_type)
    return column


def to_frame(table: pa.Table, kinds: Mapping[str, str], *, units: Mapping[str, str] | None = None) -> pd.DataFrame:
    """DataFrame with a dtype for each column that depends on its kind only.

    Parameters
    ----------
    table
        Of the schema that :func:`arrow_schema` makes of ``kinds``.
    kinds
        Column name to kind.
    units
        Column name to the unit wanted, for columns that have one.

    Returns
    -------
    pandas.DataFrame
        With a RangeIndex; ``attrs["units"]`` names the unit of each column that has one.

    Raises
    ------
    UnknownField
        A column of ``units`` is not there or has no unit, or the unit does not fit.
    """
    factors = conversion_factors(list(kinds), units)
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    for name, kind in kinds.items():
        if kind == "int64":
            frame[name] = frame[name].astype("int64")
        elif kind == "json":
            parsed = [None if text is None else json.loads(text) for text in table[name].to_pylist()]
            frame[name] = pd.Series(parsed, index=frame.index, dtype="object")
        elif kind in {"str", "float64"} and frame[name].dtype == object:
            frame[name] = frame[name].astype(PANDAS_TYPES[kind])
        if name in factors:
            frame[name] = frame[name] * factors[name]
    frame.attrs["units"] = units_of(list(kinds)) | dict(units or {})
    return frame


def conversion_factors(names: list[str], units: Mapping[str, str] | None) -> dict[str, float]:
    """Factor for each column that is to be converted.

    Parameters
    ----------
    names
        Columns that are there.
    units
        Column name to the unit wanted.

    Returns
    -------
    dict[str, float]
        Column name to factor.

    Raises
    ------
    UnknownField
        A column is not there or has no unit, or the unit does not fit.
    """
    factors = {}
    for name, unit in (units or {}).items():
        if name not in QUANTITIES or name not in names:
            known = [n for n in names if n in QUANTITIES]
            raise UnknownField(
                f"units: {name!r} is no column with a unit here{did_you_mean(name, known)}", field="units", value=name
            )
        factors[name] = conversion_factor(QUANTITIES[name].unit, unit)
    return factors


def sql_frame(table: pa.Table) -> pd.DataFrame:
    """DataFrame of any SQL result, by the types that the server named.

    Parameters
    ----------
    table
        As ADBC returned it: numeric comes as text, uuid and json as extension types.

    Returns
    -------
    pandas.DataFrame
        Integers Int64, numeric float64, uuid str, jsonb as Python objects.
    """
    names = [(field.metadata or {}).get(b"POSTGRESQL:type", b"").decode() for field in table.schema]
    columns = [_sql_column(column, name) for column, name in zip(table.columns, names, strict=True)]
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index(table.column_names, dtype="str")
    frame.attrs["units"] = units_of(table.column_names)
    return frame


def _sql_column(column: pa.ChunkedArray, server_type: str) -> pd.Series[Any]:
    if server_type == "uuid":
        return pd.Series([None if v is None else str(v) for v in column.to_pylist()], dtype="str")
    stored = _storage(column)
    if server_type in {"json", "jsonb"}:
        return pd.Series([None if v is None else json.loads(v) for v in stored.to_pylist()], dtype="object")
    if server_type == "numeric" or pa.types.is_floating(stored.type):
        stored = pc.cast(stored, pa.float64())
    elif server_type == "bit":
        # The binary form begins with the number of bits.
        stored = pc.binary_slice(stored, 4)
    series: pd.Series[Any] = stored.to_pandas(types_mapper=_NULLABLE.get)
    return series
