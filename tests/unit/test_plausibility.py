"""Rules, one by one, on columns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qforge_sdk.chem.element_sum import Compositions
from qforge_sdk.chem.plausibility import (
    SUSPICIONS,
    AtomRows,
    CalculationRows,
    Limits,
    Suspicion,
    judge_atoms,
    judge_numbers,
)
from qforge_sdk.errors import InvalidInput

WATER = np.array([[0.0, 0.0, 0.119], [0.0, 0.7594, -0.4753], [0.0, -0.7594, -0.4753]])


def one(formula: str = "H2O", **values) -> CalculationRows:
    """One calculation."""
    columns = {"energy": math.nan, "gap": 14.0, "charge": 0.0, "unpaired": 0.0} | values
    rearranged = np.array([bool(columns.pop("rearranged", False))])
    return CalculationRows(
        **{name: np.array([value], float) for name, value in columns.items()},
        counts=Compositions().table([formula]),
        rearranged=rearranged,
    )


def numbers(these: CalculationRows, **limits: float) -> list[Suspicion]:
    return list(judge_numbers(these, [None], Limits(**limits)))


def atoms(these: CalculationRows, elements=(8, 1, 1), positions=WATER, charges=(-0.5, 0.25, 0.25)) -> list[Suspicion]:
    rows = AtomRows(np.zeros(len(elements), np.int64), np.array(elements), positions, np.array(charges, float))
    return list(judge_atoms(these, rows, Limits()))


@pytest.mark.parametrize(
    ("gap", "unpaired", "codes"),
    [
        (0.117, 0, ["gap_tiny"]),
        (0.31, 0, []),
        (0.0, 0, ["gap_tiny"]),
        (-0.2, 0, ["gap_negative"]),
        (0.117, 1, []),
        (0.0, 2, []),
        (-1e-9, 1, []),
        (-0.2, 1, ["gap_negative"]),
        (math.nan, 0, []),
    ],
)
def test_a_gap_is_judged_by_the_shell(gap: float, unpaired: int, codes: list[str]) -> None:
    assert [found.code for found in numbers(one(gap=gap, unpaired=unpaired))] == codes


def test_limits_can_be_moved() -> None:
    assert [found.code for found in numbers(one(gap=1.0), min_gap=1.5)] == ["gap_tiny"]
    assert [found.code for found in numbers(one(gap=1.0, unpaired=1), min_gap_open_shell=1.5)] == ["gap_tiny"]
    assert numbers(one(gap=0.1), min_gap=0) == []


def test_a_sentence_names_the_numbers() -> None:
    (found,) = numbers(one(gap=0.1172))
    assert found.sentence == "gap 0.117 eV, below 0.3 eV"
    assert found.severity == pytest.approx(0.3 / 0.1172)


def test_ordinary_water_raises_nothing() -> None:
    assert numbers(one()) == []
    assert atoms(one()) == []


def test_a_rearranged_run_is_named() -> None:
    assert [found.code for found in numbers(one(rearranged=True))] == ["rearranged"]


def test_atoms_of_another_molecule_are_named() -> None:
    (found,) = atoms(one("CH4"))
    assert (found.code, found.sentence) == ("formula_differs", "the stored atoms are H2O, the molecule is CH4")


def test_an_unreadable_formula_differs_from_nothing() -> None:
    assert atoms(one("?")) == []


def test_charges_that_miss_the_total_are_named() -> None:
    (found,) = atoms(one(charge=1))
    assert found.code == "charge_sum_off"
    assert found.sentence == "the atomic charges sum to 0.000 e, the total charge is 1 e"
    assert atoms(one(charge=1), charges=(0.5, 0.25, 0.26)) == []


def test_missing_charges_sum_to_nothing() -> None:
    assert atoms(one(charge=1), charges=(math.nan, 0.25, 0.25)) == []


def test_atoms_closer_than_a_bond_are_named() -> None:
    close = np.array([[0.0, 0.0, 0.119], [0.0, 0.7594, -0.4753], [0.0, 0.7594, -0.1]])
    (found,) = atoms(one(), positions=close)
    assert (found.code, found.sentence) == ("atoms_close", "atoms H 1 and H 2 are 0.375 angstrom apart")


def test_every_code_is_described() -> None:
    found = {suspicion.code for suspicion in [*numbers(one(gap=-1, rearranged=True)), *numbers(one(gap=0))]}
    found |= {suspicion.code for suspicion in atoms(one("CH4", charge=2), positions=WATER * 0.1)}
    assert found | {"energy_off"} == set(SUSPICIONS)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.3", None, True])
def test_a_limit_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="min_gap is a number, 0 or more") as caught:
        Limits(min_gap=value)
    assert caught.value.field == "min_gap"
