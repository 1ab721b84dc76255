"""COPY between Arrow and a table, inside a transaction that is open already.

In goes the binary form, out comes CSV: ADBC reads Arrow faster but only what is committed, and a restore has to see
its own rows before it commits.
"""

from __future__ import annotations

import binascii
import io
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pgpq import ArrowToPostgresBinaryEncoder
from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names its class in lower case)
from psycopg2.sql import SQL, Composable, Identifier
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Integer, LargeBinary, SmallInteger
from sqlalchemy.dialects.postgresql import BIT, JSONB, UUID
from sqlalchemy.types import TypeEngine

from qforge_sdk.db.models import FINGERPRINT_BITS

_READ_BYTES: Final = 1024 * 1024
_PARSE_BYTES: Final = 8 * 1024 * 1024
_WIRE_TYPES: Final[tuple[tuple[type[TypeEngine[Any]], pa.DataType], ...]] = (
    (BigInteger, pa.int64()),
    (SmallInteger, pa.int16()),
    (Integer, pa.int32()),
    (Double, pa.float64()),
    (Boolean, pa.bool_()),
    (DateTime, pa.timestamp("us", tz="UTC")),
    (UUID, pa.binary()),
    (JSONB, pa.binary()),
    (BIT, pa.binary()),
    (LargeBinary, pa.binary()),
)
# Version 1 of jsonb's binary form is its text after this byte; bit's begins with the number of bits.
_JSONB_VERSION: Final = b"\x01"
_BIT_LENGTH: Final = struct.pack(">i", FINGERPRINT_BITS)


def copy_in(
    cursor: Cursor,
    target: Composable,
    columns: Sequence[Column[Any]],
    tables: Iterable[pa.Table],
    *,
    freeze: bool = False,
) -> int:
    """Load Arrow tables by binary COPY.

    Parameters
    ----------
    cursor
        In an open transaction.
    target
        The table, quoted.
    columns
        What the tables hold: their names and, for the binary form, the types that ``target`` has.
    tables
        All of the same schema, with these columns.
    freeze
        The table was truncated in this transaction: its rows need not be visited again by VACUUM.

    Returns
    -------
    int
        Rows loaded.

    Raises
    ------
    psycopg2.Error
        The server refused them.
    """
    names = SQL(", ").join(Identifier(column.name) for column in columns)
    options = SQL("FORMAT binary, FREEZE" if freeze else "FORMAT binary")
    statement = SQL("COPY {} ({}) FROM STDIN ({})").format(target, names, options)
    source = _Source(_encoded(columns, tables))
    try:
        cursor.copy_expert(statement, io.BufferedReader(source, _READ_BYTES), size=_READ_BYTES)
    except psycopg2.Error:
        # The driver puts an error of its own in place of the one that reading raised.
        if source.failure is not None:
            raise source.failure from None
        raise
    return int(cursor.rowcount)


def copy_out(cursor: Cursor, query: Composable, schema: pa.Schema, take: Callable[[pa.Table], None]) -> None:
    """Hand the rows of a query on as Arrow tables of some MB each.

    Parameters
    ----------
    cursor
        In an open transaction; its own changes are seen.
    query
        SELECT of :func:`readable` columns.
    schema
        Types and names of the columns, in the same order.
    take
        Called with each table.

    Raises
    ------
    psycopg2.Error
        The server refused the query.
    """
    # More digits than a role may ask for: only then does every double come back as it is.
    cursor.execute("SET LOCAL extra_float_digits = 1")
    sink = _Sink(schema, take)
    cursor.copy_expert(SQL("COPY ({}) TO STDOUT (FORMAT csv, ENCODING 'UTF8')").format(query), sink)
    sink.flush()


def readable(column: Column[Any], alias: str) -> Composable:
    """Expression for a column in a query of :func:`copy_out`."""
    name = Identifier(alias, column.name)
    if isinstance(column.type, DateTime):
        return SQL("(extract(epoch FROM {}) * 1000000)::bigint").format(name)
    if isinstance(column.type, BIT):
        return SQL("encode(substring(bit_send({}), 5), 'hex')").format(name)
    return name


class _Source(io.RawIOBase):
    """Chunks of bytes as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._left:
                self._left = memoryview(next(self._chunks))
        except StopIteration:
            return 0
        except BaseException as exc:
            self.failure = exc
            raise
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


class _Sink:
    """A file to write CSV to, which parses it in pieces; the driver writes one row at a time."""

    def __init__(self, schema: pa.Schema, take: Callable[[pa.Table], None]) -> None:
        self._schema = schema
        self._take = take
        self._rows = bytearray()
        self._options = pa.csv.ConvertOptions(
            column_types={field.name: _csv_type(field.type) for field in schema},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )

    def write(self, row: bytes) -> None:
        self._rows += row
        if len(self._rows) >= _PARSE_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        table = pa.csv.read_csv(
            io.BytesIO(self._rows),
            # One block, since a row may be longer than the usual ones.
            read_options=pa.csv.ReadOptions(
                column_names=self._schema.names, block_size=len(self._rows) + 1, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=self._options,
        )
        self._rows = bytearray()
        columns = [_from_csv(column, field.type) for column, field in zip(table.columns, self._schema, strict=True)]
        self._take(pa.Table.from_arrays(columns, schema=self._schema))


def _csv_type(wanted: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(wanted):
        return pa.int64()
    return pa.string() if pa.types.is_binary(wanted) else wanted


def _from_csv(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_binary(wanted):
        return pa.chunked_array([_unhex(chunk) for chunk in column.chunks], type=wanted)
    return column.cast(wanted)


def _unhex(column: pa.Array) -> pa.Array:
    filled = pc.fill_null(column, "")
    _, offsets, data = filled.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[filled.offset : filled.offset + len(filled) + 1]
    decoded = binascii.unhexlify(memoryview(data)[ends[0] : ends[-1]]) if data is not None else b""
    halved = pa.py_buffer(((ends - ends[0]) // 2).astype(np.int32))
    whole = pa.Array.from_buffers(pa.binary(), len(filled), [None, halved, pa.py_buffer(decoded)])
    return pc.if_else(column.is_valid(), whole, pa.scalar(None, pa.binary()))


def _encoded(columns: Sequence[Column[Any]], tables: Iterable[pa.Table]) -> Iterator[bytes]:
    schema = pa.schema([(column.name, _wire_type(column)) for column in columns])
    encoder = ArrowToPostgresBinaryEncoder(schema)
    yield encoder.write_header()
    for table in tables:
        arrays = [_wire(column, table[column.name]) for column in columns]
        for batch in pa.Table.from_arrays(arrays, schema=schema).to_batches():
            yield encoder.write_batch(batch)
    yield encoder.finish()


def _wire_type(column: Column[Any]) -> pa.DataType:
    for sql_type, arrow_type in _WIRE_TYPES:
        if isinstance(column.type, sql_type):
            return arrow_type
    return pa.string()


def _wire(column: Column[Any], values: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, UUID):
        return _uuid_bytes(values)
    if isinstance(column.type, JSONB):
        return pc.binary_join_element_wise(_JSONB_VERSION, values.cast(pa.binary()), b"")
    if isinstance(column.type, BIT):
        return pc.binary_join_element_wise(_BIT_LENGTH, values, b"")
    return values.cast(_wire_type(column))


def _uuid_bytes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The 16 bytes of each uuid; there are few owners and many rows."""
    chunks = []
    for chunk in values.dictionary_encode().chunks:
        known = pa.array([uuid.UUID(text).bytes for text in chunk.dictionary.to_pylist()], pa.binary())
        chunks.append(known.take(chunk.indices))
    return pa.chunked_array(chunks, type=pa.binary())
