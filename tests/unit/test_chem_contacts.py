"""The closest pair of atoms, against every pair taken one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from qforge_sdk.chem import contacts
from qforge_sdk.chem.contacts import closest_contacts

TABLE = Chem.GetPeriodicTable()


def slowly(numbers: np.ndarray, positions: np.ndarray) -> float:
    """Smallest distance over the sum of the radii."""
    found = [
        np.linalg.norm(positions[one] - positions[two])
        / (TABLE.GetRcovalent(int(numbers[one])) + TABLE.GetRcovalent(int(numbers[two])))
        for one in range(len(numbers))
        for two in range(one)
    ]
    return min(found, default=np.inf)


@pytest.mark.parametrize("at_once", [1, 7, 50, 1_000_000])
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_the_closest_pair_is_found_in_each_molecule(at_once: int, sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    total = sum(sizes)
    numbers, positions = random.integers(1, 119, total), random.normal(100, 3, (total, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contacts, "_AT_ONCE", at_once)
        found = closest_contacts(np.array(sizes), numbers, positions)
    end = 0
    for at, size in enumerate(sizes):
        start, end = end, end + size
        assert found.ratio[at] == pytest.approx(slowly(numbers[start:end], positions[start:end]), abs=1e-6)
        if size > 1:
            pair = [start + int(found.first[at]), start + int(found.second[at])]
            assert pair[0] != pair[1]
            apart = np.linalg.norm(positions[pair[0]] - positions[pair[1]])
            assert found.distance[at] == pytest.approx(apart, abs=1e-6)


def test_two_atoms_in_one_place_have_no_distance() -> None:
    found = closest_contacts(np.array([3]), np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 1]]))
    assert (found.ratio[0], found.distance[0]) == (0, 0)
    assert {int(found.first[0]), int(found.second[0])} == {1, 2}


def test_a_single_atom_is_close_to_nothing() -> None:
    assert np.isinf(closest_contacts(np.array([1]), np.array([2]), np.zeros((1, 3))).ratio).all()
