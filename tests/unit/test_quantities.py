"""Units: conversions against constants that others publish, and one unit for every measured column."""

from __future__ import annotations

import math

import ase.units
import pytest
import qcelemental
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
    ("e*angstrom", "debye", DEBYE_PER_E_BOHR / ANGSTROM_PER_BOHR),
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


#: CODATA of peers, and how far their hartree, bohr and debye lie from those of 2022, relative.
YEARS = {
    "ase 2014": (ase.units.create_units("2014"), 8.2e-9, 2.5e-10, 1e-8),
    "ase 2018": (ase.units.create_units("2018"), 1e-11, 7e-10, 1e-8),
    "ase 2022": (ase.units.create_units("2022"), 1e-11, 1e-11, 1e-8),
}


@pytest.mark.parametrize("peer", YEARS)
def test_ase_s_units_are_these_but_for_the_year_of_codata(peer: str) -> None:
    units, energy, length, dipole = YEARS[peer]
    assert conversion_factor("eV", "hartree") == pytest.approx(1 / units["Hartree"], rel=energy)
    assert conversion_factor("bohr", "angstrom") == pytest.approx(units["Bohr"], rel=length)
    assert conversion_factor("eV/angstrom", "hartree/bohr") == pytest.approx(
        units["Bohr"] / units["Hartree"], rel=energy + length
    )
    assert conversion_factor("e*angstrom", "debye") == pytest.approx(1 / units["Debye"], rel=dipole)


def test_ase_itself_still_uses_the_year_that_is_tested() -> None:
    assert f"ase {ase.units.__codata_version__}" in YEARS


@pytest.mark.parametrize(
    ("year", "energy", "length"), [("CODATA2014", 8.5e-9, 2.5e-10), ("CODATA2018", 1e-11, 7e-10)]
)
def test_qcelemental_s_constants_are_these_but_for_the_year_of_codata(
    year: str, energy: float, length: float
) -> None:
    constants = qcelemental.PhysicalConstantsContext(year)
    assert conversion_factor("hartree", "eV") == pytest.approx(constants.hartree2ev, rel=energy)
    assert conversion_factor("bohr", "angstrom") == pytest.approx(constants.bohr2angstroms, rel=length)
    assert conversion_factor("e*bohr", "debye") == pytest.approx(constants.dipmom_au2debye, rel=1e-8)
    assert conversion_factor("hartree", "kcal/mol") == pytest.approx(constants.hartree2kcalmol, rel=1.5e-8)


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
