"""What the readers of other programs' files share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from qforge_sdk.chem.peer import finite, plain_facts, program_of, solvation_in, stored, vectors
from qforge_sdk.chem.result import Doubt
from qforge_sdk.chem.xtb_files import Unreadable
from qforge_sdk.errors import UnknownField


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ({}, (None, None)),
        ({"accuracy": 1.0, "alpb-solvation": "Water"}, ("ALPB", "water")),
        ({"gbsa-solvation": ["water", "gsolv"]}, ("GBSA", "water")),
        ({"cpcm-solvation": 78.4}, ("CPCM", None)),
        ({"solvation": ("alpb", "water")}, ("ALPB", "water")),
        ({"solvation": None}, (None, None)),
        ({"solvent": "none"}, (None, None)),
        ({"solvent": "toluene"}, ("implicit", "toluene")),
        ({"pcm": True}, ("PCM", None)),
        ({"pcm": False}, (None, None)),
    ],
)
def test_solvation_is_found_in_keywords(keywords: dict[str, Any], found: tuple[str | None, str | None]) -> None:
    assert solvation_in(keywords) == found


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("xtb", "6.5.1", ("xtb 6.5.1", "6.5.1")),
        ("tblite", "0.8.0", ("tblite 0.8.0", "tblite 0.8.0")),
        ("tblite", None, ("tblite", "tblite")),
        ("Psi4", "1.9.1", ("Psi4 1.9.1", None)),
        ("unknown", None, (None, None)),
        (None, "1", (None, None)),
    ],
)
def test_only_xtb_s_programs_have_a_version_of_xtb(name: Any, version: Any, found: tuple[Any, Any]) -> None:
    assert program_of(name, version) == found


def test_facts_are_what_json_can_hold() -> None:
    pairs = {
        "text": "a", "nul": "a\x00", "line": "a\nb", "long": "x" * 1001, "nan": math.nan, "inf": np.inf, "one": 1,
        "numpy": np.float32(0.5), "truth": np.bool_(True), "array": np.zeros(3), "list": [1], "none": None,
        "na\x00me": 1,
    }  # fmt: skip
    assert plain_facts(pairs.items()) == {"text": "a", "one": 1, "numpy": 0.5, "truth": True}


@pytest.mark.parametrize("value", ["-1.0", math.nan, np.inf, [1.0], True, {"a": 1}])
def test_what_is_no_finite_number_is_named(value: Any) -> None:
    with pytest.raises(Unreadable, match="energy is no finite number"):
        finite("energy", value)


def test_numbers_of_any_kind_are_numbers() -> None:
    assert [finite("energy", value) for value in (1, np.float64(2), np.int64(3), np.array(4.0), None)] == [
        1, 2, 3, 4, None,
    ]  # fmt: skip


def test_arrays_are_reshaped_or_doubted() -> None:
    doubts: list[Doubt] = []
    flat = vectors("forces", [0.0, -0.0, 1.0, 2.0, 3.0, 4.0], 2, doubts)
    assert flat is not None
    assert flat.tolist() == [[0, 0, 1], [2, 3, 4]]
    assert doubts == []
    for wrong in ([1.0], [math.nan] * 6, "six", {"a": 1}):
        assert vectors("forces", wrong, 2, doubts) is None
    assert [doubt.code for doubt in doubts] == ["bad_field"] * 4


def test_a_unit_of_something_else_is_refused() -> None:
    assert stored("energy", 1.0, "hartree") == 1.0
    with pytest.raises(UnknownField, match="cannot be converted"):
        stored("energy", 1.0, "angstrom")
