"""Energies as a sum over elements: recovered from numbers, and blind to nothing but what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from qforge_sdk.chem.element_sum import N_NUMBERS, Compositions, ElementSum, EnergySample
from qforge_sdk.data import load_sample
from qforge_sdk.quantities import conversion_factor

TERMS = {1: -0.5, 6: -2.1, 8: -4.0}


class Rows:
    """Energies with what they are of."""

    def __init__(self, energy, counts, charge=None, unpaired=None) -> None:
        self.energy, self.counts = np.array(energy, float), counts
        self.charge, self.unpaired = (
            np.zeros(len(self.energy)) if values is None else np.array(values, float) for values in (charge, unpaired)
        )

    def fitted(self, **options) -> ElementSum | str:
        sample = EnergySample(**options)
        keys = np.arange(len(self.energy))
        sample.add(keys, self.energy, self.counts, self.charge, self.unpaired)
        return sample.fit(floor=0.0)

    def ratios(self, fitted: ElementSum) -> np.ndarray:
        """Deviation over limit, NaN where the fit cannot tell."""
        deviation, limit = fitted.deviations(
            self.energy, self.counts, self.charge, self.unpaired, times=12.0, floor=0.005
        )
        return np.abs(deviation) / limit


@pytest.fixture(scope="module")
def sample() -> Rows:
    """The sample data's converged energies."""
    rows = load_sample().calculations.to_pandas().dropna(subset="energy")
    formulas = [CalcMolFormula(Chem.MolFromSmiles(smiles)) for smiles in rows.smiles]
    return Rows(rows.energy, Compositions().table(formulas), rows.total_charge, rows.unpaired_electrons)


def invented(n: int, *, seed: int = 0, noise: float = 0.0) -> Rows:
    """Molecules of three elements whose energies are sums with noise."""
    random = np.random.default_rng(seed)
    counts = np.zeros((n, N_NUMBERS), np.int16)
    for number in TERMS:
        counts[:, number] = random.integers(1, 20, n)
    terms = np.array([TERMS.get(number, 0.0) for number in range(N_NUMBERS)])
    error = random.normal(0, noise, n) * np.sqrt(counts.sum(axis=1)) if noise else 0
    return Rows(counts @ terms + error, counts)


def test_formulas_become_counts():
    table = Compositions().table(["C2H6O", "H4N+", "C2H6O", None, "no formula", "Xx3", "C99999"])
    assert [table[0][number] for number in (1, 6, 8)] == [6, 2, 1]
    assert (table[1][7], table[1][1]) == (1, 4)
    assert (table[2] == table[0]).all()
    assert not table[3:].any()


def test_more_formulas_than_are_remembered_are_read_as_well():
    compositions = Compositions(most=2)
    for n in range(1, 9):
        assert compositions.table([f"C{n}", f"H{n}"])[:, [6, 1]].tolist() == [[n, 0], [0, n]]


def test_an_exact_sum_is_recovered():
    rows = invented(200)
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert {number: pytest.approx(term, abs=1e-9) for number, term in TERMS.items()} == {
        number: fitted.terms[number] for number in TERMS
    }
    assert fitted.rows == 200


def test_the_spread_is_that_of_an_atom():
    fitted = invented(5000, noise=0.01).fitted()
    assert isinstance(fitted, ElementSum)
    assert fitted.spread == pytest.approx(0.01, rel=0.05)


def test_less_than_one_in_a_hundred_of_the_sample_deviates(sample: Rows):
    fitted = sample.fitted()
    assert isinstance(fitted, ElementSum)
    ratios = sample.ratios(fitted)
    assert 0 < np.count_nonzero(ratios > 1) < len(ratios) / 150
    assert np.count_nonzero(np.isnan(ratios)) < 10


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "in eV": lambda energy: energy * conversion_factor("hartree", "eV"),
    "zero": lambda energy: energy * 0,
    "one hartree too high": lambda energy: energy + 1,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("share", "least"), [(0.01, 0.99), (0.1, 0.99), (0.2, 0.95)])
def test_faults_are_found_among_as_many(sample: Rows, fault: str, share: float, least: float):
    bad = np.random.default_rng(5).random(len(sample.energy)) < share
    rows = Rows(
        np.where(bad, FAULTS[fault](sample.energy), sample.energy), sample.counts, sample.charge, sample.unpaired
    )
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    ratios = rows.ratios(fitted)
    judged = ~np.isnan(ratios)
    assert (ratios[bad & judged] > 1).mean() >= least
    assert (ratios[~bad & judged] > 1).mean() < 0.01


def test_too_few_energies_give_a_sentence():
    assert invented(29).fitted() == "29 converged energies, 30 are needed"
    assert isinstance(invented(30).fitted(), ElementSum)


def test_more_terms_need_more_energies():
    rows = invented(40)
    rows.counts[0, 20:31] = 1
    assert rows.fitted() == "40 converged energies, 42 are needed"


def test_an_element_that_few_energies_hold_is_not_judged():
    rows = invented(100)
    rows.counts[:4, 54] = 1
    rows.energy[:4] += 50
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    ratios = rows.ratios(fitted)
    assert np.isnan(ratios[:4]).all()
    assert (ratios[4:] < 1).all()


def test_one_fault_among_six_of_an_element_is_found():
    rows = invented(100, noise=0.001)
    rows.counts[:6, 54] = 1
    rows.energy[:6] -= 3.7
    rows.energy[2] += 5
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert np.flatnonzero(rows.ratios(fitted) > 1).tolist() == [2]


def test_ions_and_radicals_are_judged_by_ions_and_radicals():
    rows = invented(100, noise=0.001)
    rows.charge[:10], rows.charge[10:20], rows.unpaired[20:30] = 1, -1, 1
    rows.energy[:10] += 0.4
    rows.energy[10:20] -= 0.2
    rows.energy[20:30] += 0.1
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert fitted.terms[N_NUMBERS:].tolist() == pytest.approx([0.4, -0.2, 0.1], abs=0.01)
    assert (rows.ratios(fitted) < 1).all()


def test_a_lone_ion_is_not_judged():
    rows = invented(100)
    rows.charge[7] = 1
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert np.flatnonzero(np.isnan(rows.ratios(fitted))).tolist() == [7]


def test_conformers_of_one_molecule_are_compared_with_each_other():
    counts = np.zeros((50, N_NUMBERS), np.int16)
    counts[:, [1, 6, 8]] = 6, 2, 1
    energy = -11.39 + np.random.default_rng(1).normal(0, 0.001, 50)
    energy[3] = -10.2
    rows = Rows(energy, counts)
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert np.flatnonzero(rows.ratios(fitted) > 1).tolist() == [3]


def test_what_has_no_formula_is_neither_fitted_nor_judged():
    rows = invented(100)
    rows.counts[5] = 0
    fitted = rows.fitted()
    assert isinstance(fitted, ElementSum)
    assert fitted.rows == 99
    assert np.flatnonzero(np.isnan(rows.ratios(fitted))).tolist() == [5]


def test_a_sample_is_the_same_in_whatever_order_and_pieces_it_came():
    rows = invented(5000, noise=0.01)
    rows.counts[::900, 54] = 1
    fits = []
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        order = random.permutation(5000)
        sample = EnergySample(most=300, each=10)
        for part in np.array_split(order, random.integers(3, 9)):
            sample.add(part, rows.energy[part], rows.counts[part], rows.charge[part], rows.unpaired[part])
        fits.append(sample.fit(floor=0.0))
    one, two = fits
    assert isinstance(one, ElementSum)
    assert isinstance(two, ElementSum)
    assert (one.terms == two.terms).all()
    assert one.rows == two.rows < 400
    assert one.judged[54]


def test_a_sample_holds_no_more_than_it_should():
    sample = EnergySample(most=100, each=5)
    rows = invented(1000)
    for start in range(0, 100_000, 1000):
        sample.add(np.arange(start, start + 1000), rows.energy, rows.counts, rows.charge, rows.unpaired)
        assert len(sample._rows) <= 300
