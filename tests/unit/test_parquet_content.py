"""The content hash against a second implementation, written from its definition."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qforge_sdk.parquet.content import Content, content_of

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("energy", pa.float64()),
        ("optimized", pa.bool_()),
        ("name", pa.string()),
        ("fingerprint", pa.binary()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
WORD = st.integers(-(2**63), 2**63 - 1)
ROW = st.fixed_dictionaries(
    {
        "id": st.none() | WORD,
        "energy": st.none() | st.floats(allow_nan=False),
        "optimized": st.none() | st.booleans(),
        "name": st.none() | st.text(max_size=40),
        "fingerprint": st.none() | st.binary(max_size=40),
        "created_at": st.none() | WORD,
    }
)
ROWS = st.lists(ROW, max_size=30)
GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def word(value: Any) -> int:
    if isinstance(value, float):
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    if isinstance(value, int):
        return value & MASK
    data = value.encode() if isinstance(value, str) else value
    padded = data + bytes(-len(data) % 8)
    parts = [int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)]
    return len(data) + sum(mix((part + (n + 1) * GOLDEN) & MASK) for n, part in enumerate(parts))


def by_definition(rows: list[dict[str, Any]]) -> str:
    high = low = 0
    for row in rows:
        seeds = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in row}
        r = sum(mix((word(v) + seeds[name]) & MASK) for name, v in row.items() if v is not None) & MASK
        high, low = (high + mix(r)) & MASK, (low + mix(r ^ GOLDEN)) & MASK
    return f"{high:016x}{low:016x}"


@given(ROWS)
def test_the_hash_is_the_one_that_is_defined(rows: list[dict[str, Any]]) -> None:
    assert content_of(table_of(rows)).digest == by_definition(rows)


@given(ROWS, st.integers(0, 30))
def test_order_and_files_do_not_matter(rows: list[dict[str, Any]], at: int) -> None:
    whole = table_of(rows)
    parts = content_of(table_of(rows[::-1]).slice(at)) + content_of(table_of(rows[::-1]).slice(0, at))
    assert parts == content_of(whole)


@given(ROWS)
def test_slices_of_larger_arrays_hash_like_copies(rows: list[dict[str, Any]]) -> None:
    table = table_of([*rows, *rows])
    assert content_of(table.slice(len(rows) // 2, len(rows))) == content_of(
        table_of([*rows, *rows][len(rows) // 2 :][: len(rows)])
    )


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("energy", 0.0, -0.0),
        ("energy", 0.0, None),
        ("name", "", None),
        ("name", "a", "a\x00"),
        ("name", "12345678abcdefgh", "abcdefgh12345678"),
        ("id", 0, None),
        ("optimized", False, None),
    ],
)
def test_values_that_look_alike_hash_differently(column: str, one: Any, other: Any) -> None:
    row = dict.fromkeys(SCHEMA.names)
    assert content_of(table_of([row | {column: one}])) != content_of(table_of([row | {column: other}]))


def test_a_column_of_nulls_changes_nothing() -> None:
    table = pa.table({"id": [1, 2]})
    assert content_of(table) == content_of(table.append_column("later", pa.array([None, None], pa.string())))


def test_equal_rows_do_not_cancel() -> None:
    once = content_of(pa.table({"id": [1]}))
    assert {once.digest, (once + once).digest, Content().digest} == {once.digest, (once + once).digest, "0" * 32}
    assert once != once + once


def test_long_texts_are_hashed_in_slices_that_fit_into_memory() -> None:
    texts = ["x" * 3_000_000 + str(n) for n in range(8)]
    whole = content_of(pa.table({"name": texts}))
    assert whole == sum((content_of(pa.table({"name": [one]})) for one in texts), Content())
