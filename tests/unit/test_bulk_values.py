"""What a bulk load makes of the values of one column."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qforge_sdk.chem.formula import composition
from qforge_sdk.db.bulk.columns import ATOM_RULES, CALCULATION_RULES, MOLECULE_KEY_RULES, MOLECULE_RULES
from qforge_sdk.db.bulk.values import apply

RULES = ATOM_RULES | MOLECULE_RULES | CALCULATION_RULES | MOLECULE_KEY_RULES
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def read(name: str, values: Any) -> tuple[list[Any], dict[int, str]]:
    """What is taken, and the code of each value that is refused."""
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    array, faults = apply(RULES[name], column)
    codes: dict[int, str] = {}
    for mask, code, reason in faults:
        assert reason
        for place in np.flatnonzero(mask).tolist():
            assert codes.setdefault(place, code) == code
    return array.to_pylist(), codes


@pytest.mark.parametrize(
    ("column", "taken"),
    [
        (pa.array([1.5, None]), [1.5, None]),
        (pa.array([1, None], pa.int8()), [1.0, None]),
        (pa.array([2**64 - 1], pa.uint64()), [float(2**64 - 1)]),
        (pa.array([0.5], pa.float32()), [0.5]),
        (pa.array([np.float16(0.5)], pa.float16()), [0.5]),
        (pa.array([decimal.Decimal("-1.25")]), [-1.25]),
        (pa.array([" 1e3 ", "-0.0", "NA", "", "None", " nan ", "n/a"]), [1000.0, -0.0, *[None] * 5]),
        (pa.array(["0.1"], pa.large_string()), [0.1]),
        (pa.array(["0.1"], pa.string_view()), [0.1]),
        (pa.array(["0.1", None, "0.1"]).dictionary_encode(), [0.1, None, 0.1]),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.null()), []),
        (pa.array(["", ""]), [None, None]),
        (pa.chunked_array([[1.0], [2.0]]), [1.0, 2.0]),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else "",
)
def test_numbers_of_every_kind_are_taken(column: pa.Array, taken: list[float | None]):
    found, codes = read("energy", column)
    assert codes == {}
    assert [repr(value) for value in found] == [repr(value) for value in taken]


@pytest.mark.parametrize("text", ["1_000", "one", "0x1F", "1,5", "--1", "1 2", "true", "1e"])
def test_text_that_is_no_number_is_refused_alone(text: str):
    assert read("energy", ["1.5", text, None]) == ([1.5, None, None], {1: "wrong_type"})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, None]),
        pa.array([NOON, None]),
        pa.array([NOON, None], pa.timestamp("ns")),
        pa.array([datetime.timedelta(1), None]),
        pa.array([[1.0], None]),
        pa.array([{"a": 1}, None]),
        pa.array([b"1", None]),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["energy", "unpaired_electrons"])
def test_another_type_is_refused_and_its_nulls_are_not(name: str, column: pa.Array):
    assert read(name, column)[1] == {0: "wrong_type"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "inf", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(value: Any):
    assert read("gap", pa.array([value])) == ([None], {0: "not_finite"})


def test_a_number_below_the_least_is_refused_once():
    found, codes = read("dipole", [0.0, -0.0, -1e-9, -math.inf, 1.0])
    assert codes == {2: "too_small", 3: "not_finite"}
    assert found == [0.0, -0.0, None, None, 1.0]


def test_a_default_stands_for_what_is_missing():
    assert read("total_charge", [None, 1.0])[0] == [0.0, 1.0]
    assert read("unpaired_electrons", pa.nulls(1))[0] == [0]
    assert read("method", ["", "GFN1-xTB"])[0] == ["GFN2-xTB", "GFN1-xTB"]
    assert read("convergence_status", [None, "error"])[0] == ["converged", "error"]
    assert read("optimized", pa.array([None, True]))[0] == [False, True]


def test_a_required_value_is_missed_unless_it_is_refused_for_another_fault():
    assert read("position_x", [None, 1.0, math.nan])[1] == {0: "missing", 2: "not_finite"}
    assert read("position_x", pa.nulls(2))[1] == {0: "missing", 1: "missing"}


@pytest.mark.parametrize(
    ("column", "taken", "codes"),
    [
        (pa.array([3.0, None]), [3, 0], {}),
        (pa.array([3.5, math.nan, math.inf]), [0, 0, 0], dict.fromkeys(range(3), "wrong_type")),
        (pa.array(["3", "3.0", "x"]), [3, 3, 0], {2: "wrong_type"}),
        (pa.array([3, 2**63], pa.uint64()), [3, 0], {1: "out_of_range"}),
        (pa.array([-1, 10_000, 10_001]), [0, 10_000, 0], {0: "out_of_range", 2: "out_of_range"}),
        (pa.array([1e30, -1e30]), [0, 0], {0: "out_of_range", 1: "out_of_range"}),
        (pa.array([3], pa.int8()), [3], {}),
        (pa.array([decimal.Decimal("3.00"), decimal.Decimal("3.5")]), [3, 0], {1: "wrong_type"}),
    ],
)
def test_whole_numbers(column: pa.Array, taken: list[int], codes: dict[int, str]):
    assert read("unpaired_electrons", column) == (taken, codes)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string(), pa.decimal128(38)])
def test_large_keys_keep_every_digit(kind: pa.DataType):
    keys = [2**53 + 1, 2**63 - 1]
    column = pa.array([str(key) for key in keys]) if kind == pa.string() else pa.array(keys, pa.int64()).cast(kind)
    assert read("molecule_id", column) == (keys, {})


def test_keys_outside_the_range_are_refused():
    assert read("molecule_id", [0, -1, 1])[1] == {0: "out_of_range", 1: "out_of_range"}
    assert read("molecule_id", [str(2**63), "1"])[1] == {0: "out_of_range"}


@pytest.mark.parametrize(
    ("column", "taken", "codes"),
    [
        (pa.array(["a", "", None, "é" * 50, "x" * 51]), ["a", None, None, "é" * 50, None], {4: "too_long"}),
        (pa.array(["a\x00b", "\x00" + "x" * 60]), [None, None], {0: "control_character", 1: "control_character"}),
        (pa.array([7, None]), ["7", None], {}),
        (pa.array([1.5, None]), [None, None], {0: "wrong_type"}),
        (pa.array([b"a"]), [None], {0: "wrong_type"}),
        (pa.array([NOON], pa.timestamp("ns")), [None], {0: "wrong_type"}),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], {}),
        (pa.array(["a"], pa.large_string()), ["a"], {}),
        (pa.array(["a"], pa.string_view()), ["a"], {}),
        (pa.nulls(1), [None], {}),
    ],
)
def test_text(column: pa.Array, taken: list[str | None], codes: dict[int, str]):
    assert read("solvent", column) == (taken, codes)


def test_a_hash_has_its_length():
    assert read("xyz_file_hash", ["a" * 64, "a" * 63, None])[1] == {1: "wrong_length"}


@pytest.mark.parametrize("value", ["Converged", " converged", "done", 1])
def test_another_status_word_is_refused(value: Any):
    assert read("convergence_status", pa.array([value]))[1] == {0: "unknown_word"}


@pytest.mark.parametrize(
    ("column", "taken"),
    [
        (pa.array([True, False, None]), [True, False, False]),
        (pa.array(["true", "F", "YES", "no", "", None]), [True, False, True, False, False, False]),
        (pa.array([1, 0, None]), [True, False, False]),
        (pa.array([1.0, 0.0, None]), [True, False, False]),
        (pa.array([True, None]).dictionary_encode(), [True, False]),
    ],
)
def test_flags(column: pa.Array, taken: list[bool]):
    assert read("optimized", column) == (taken, {})


@pytest.mark.parametrize("column", [pa.array([2, 1]), pa.array(["maybe", "yes"]), pa.array([0.5, 1.0])])
def test_what_is_no_flag_is_refused(column: pa.Array):
    assert read("optimized", column) == ([False, True], {0: "wrong_type"})


@pytest.mark.parametrize(
    "value",
    ["[1]", "1", "null", "{", '{"a": NaN}', '{"a": Infinity}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "text"],
)
def test_what_is_no_json_object_is_refused(value: str):
    assert read("metadata", [value, '{"a": 1}', None, ""]) == ([None, '{"a": 1}', None, None], {0: "not_json"})


@pytest.mark.parametrize("kind", ["struct", "map", "null", "text"])
def test_json_objects_of_every_type(kind: str):
    columns = {
        "struct": pa.array([{"a": [1, None]}, None]),
        "map": pa.array([[("a", [1, None])], None], pa.map_(pa.string(), pa.list_(pa.int64()))),
        "null": pa.nulls(2),
        "text": pa.array(['{"a": [1, null]}', None]),
    }
    taken, codes = read("metadata", columns[kind])
    assert codes == {}
    assert [text and json.loads(text) for text in taken] == (
        [None, None] if kind == "null" else [{"a": [1, None]}, None]
    )


@pytest.mark.parametrize("value", [{"when": NOON}, {"x": math.nan}, {"x": decimal.Decimal(1)}, {"x": b"1"}])
def test_a_struct_that_json_cannot_hold_is_refused(value: dict[str, Any]):
    assert read("metadata", pa.array([value]))[1] == {0: "not_json"}


def test_a_backslash_before_u0000_is_text_and_no_nul():
    assert read("metadata", ['{"a": "\\\\u0000"}'])[1] == {}


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("column", [pa.nulls(0), pa.array([], pa.string()), pa.array([], pa.float64())])
def test_no_rows_have_no_faults(name: str, column: pa.Array):
    assert read(name, column) == ([], {})


@pytest.mark.parametrize("name", list(RULES))
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_column_is_taken_or_refused_place_by_place(name: str, data: st.DataObject):
    kinds = [st.floats(), st.integers(-(2**63), 2**63 - 1), st.text(), st.booleans(), st.binary()]
    values = data.draw(st.lists(st.none() | data.draw(st.sampled_from(kinds)), max_size=5))
    try:
        column = pa.array(values)
    except UnicodeEncodeError:
        return
    taken, codes = read(name, column)
    for place in range(len(values)):
        alone = read(name, column[place : place + 1])
        assert alone[1].get(0) == codes.get(place)
        assert repr(alone[0][0]) == repr(taken[place])


def test_extension_types_are_what_they_store():
    column = pa.array(["1.5"], pa.string())
    wrapped = pa.ExtensionArray.from_storage(pa.json_(), column)
    assert read("energy", wrapped) == ([1.5], {})


def test_pandas_categories_are_their_values():
    column = pa.array(pd.Categorical(["converged", None, "bad"]), from_pandas=True)
    assert read("convergence_status", column) == (["converged", "converged", "converged"], {2: "unknown_word"})


@pytest.mark.parametrize(
    ("one", "other"), [("NH3", "H3N"), ("H4N+", "NH4"), (" CH3CH2OH ", "C2H6O"), ("C1H4", "CH4")]
)
def test_formulas_of_the_same_atoms_agree(one: str, other: str):
    assert composition(one) == composition(other) is not None


@pytest.mark.parametrize("formula", ["", "ch4", "C2H6O)", "?", "4C"])
def test_what_is_no_formula_has_no_composition(formula: str):
    assert composition(formula) is None
