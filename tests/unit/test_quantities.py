"""Units: conversions against constants that others publish, and one unit for every measured column."""

from __future__ import annotations

import math

import pytest
import scipy.constants
from scipy.constants import physical_constants
from sqlalchemy import Double

from qforge_sdk.db.models import TABLES
from qforge_sdk.errors import UnknownField
from qforge_sdk.quantities import QUANTITIES, conversion_factor, did_you_mean, units_of

EV_PER_HARTREE = physical_constants["Hartree energy in eV"][0]
KJ_PER_HARTREE = physical_constants["Hartree energy"][0] * scipy.constants.Avogadro / 1000
ANGSTROM_PER_BOHR = physical_constants["Bohr radius"][0] / scipy.constants.angstrom
# A debye is 1e-18 statcoulomb centimetre, that is 1e-21/c coulomb metre.
DEBYE_PER_E_BOHR = physical_constants["atomic unit of electric dipole mom."][0] * scipy.constants.c / 1e-21

FACTORS = [
    ("hartree", "eV", EV_PER_HARTREE),
    ("hartree", "kJ/mol", KJ_PER_HARTREE),
    ("hartree", "kcal/mol", KJ_PER_HARTREE / (scipy.constants.calorie)),
    ("eV", "kcal/mol", KJ_PER_HARTREE / scipy.constants.calorie / EV_PER_HARTREE),
    ("kcal/mol", "kJ/mol", 4.184),
    ("bohr", "angstrom", ANGSTROM_PER_BOHR),
    ("nm", "angstrom", 10.0),
    ("e*bohr", "debye", DEBYE_PER_E_BOHR),
    ("hartree/bohr", "eV/angstrom", EV_PER_HARTREE / ANGSTROM_PER_BOHR),
    ("hartree/bohr", "hartree/angstrom", 1 / ANGSTROM_PER_BOHR),
    ("hartree/bohr", "kcal/mol/angstrom", KJ_PER_HARTREE / scipy.constants.calorie / ANGSTROM_PER_BOHR),
    ("h", "s", 3600.0),
    ("min", "s", 60.0),
    ("s", "ms", 1000.0),
    ("e", "e", 1.0),
]


@pytest.mark.parametrize(("source", "target", "factor"), FACTORS)
def test_a_factor_is_the_published_one(source: str, target: str, factor: float) -> None:
    assert conversion_factor(source, target) == pytest.approx(factor, rel=1e-8)


@pytest.mark.parametrize(("source", "target", "_factor"), FACTORS)
def test_there_and_back_is_the_same_number(source: str, target: str, _factor: float) -> None:
    assert math.isclose(conversion_factor(source, target) * conversion_factor(target, source), 1.0, rel_tol=1e-15)


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
def test_the_unit_of_a_quantity_is_known_to_the_conversions(quantity) -> None:
    assert conversion_factor(quantity.unit, quantity.unit) == 1.0


def test_an_unknown_unit_suggests_the_nearest() -> None:
    with pytest.raises(UnknownField, match="unknown unit 'hartre'; did you mean 'hartree'") as caught:
        conversion_factor("hartre", "eV")

    assert (caught.value.field, caught.value.value) == ("units", "hartre")


def test_an_unknown_target_names_what_there_is() -> None:
    with pytest.raises(UnknownField, match="hartree, eV, kcal/mol, kJ/mol"):
        conversion_factor("hartree", "kcal")


def test_an_energy_is_not_converted_to_a_length() -> None:
    with pytest.raises(UnknownField, match="hartree cannot be converted to 'bohr'"):
        conversion_factor("hartree", "bohr")


def test_a_word_like_nothing_lists_what_is_known() -> None:
    assert did_you_mean("zzz", ["gap", "energy"]) == "; known: gap, energy"


def test_units_leave_out_what_has_none() -> None:
    assert units_of(["id", "energy", "gap", "smiles"]) == {"energy": "hartree", "gap": "eV"}


def table_of(name: str) -> str:
    return "atomic_properties" if QUANTITIES[name].shape else "calculations"


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_quantity_is_a_column_that_knows_its_unit(name: str) -> None:
    column = TABLES[table_of(name)].__table__.columns[name]

    assert column.info["unit"] == QUANTITIES[name].unit
    assert column.info["description"] == QUANTITIES[name].description


def test_every_measured_column_is_a_quantity() -> None:
    measured = {
        column.name
        for model in TABLES.values()
        for column in model.__table__.columns
        if isinstance(column.type, Double)
    }

    assert measured == QUANTITIES.keys()
