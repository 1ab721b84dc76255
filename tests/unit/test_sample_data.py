"""The shipped sample: complete, consistent, and what tblite gives for the stored positions."""

import json
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem.inchi import MolToInchiKey
from tblite.interface import Calculator

from qforge_sdk.chem import Geometry
from qforge_sdk.chem.conformer import Conformer
from qforge_sdk.chem.electrons import frontier_orbitals
from qforge_sdk.compute import sample as sample_module
from qforge_sdk.compute.sample import build, compute, read_named
from qforge_sdk.compute.sample_tables import atoms_table, calculations_table
from qforge_sdk.data import SampleData, load_sample, sample_path, xyz_text
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM, HARTREE_IN_EV, QUANTITIES

TABLES = ("molecules", "calculations", "atoms")
NUMBERS = ["energy", "homo", "lumo", "gap", "dipole", "execution_time_seconds"]
POSITION = ["position_x", "position_y", "position_z"]
FORCE = ["force_x", "force_y", "force_z"]
RECOMPUTED = ["water", "caffeine", "tetramethylammonium", "TEMPO", "L-tryptophan", "pentacene"]


@pytest.fixture(scope="module")
def sample() -> SampleData:
    return load_sample()


@pytest.fixture(scope="module")
def molecules(sample):
    return sample.molecules.to_pandas()


@pytest.fixture(scope="module")
def calculations(sample):
    return sample.calculations.to_pandas()


@pytest.fixture(scope="module")
def converged(calculations):
    return calculations[calculations.convergence_status == "converged"]


@pytest.fixture(scope="module")
def atoms(sample):
    return sample.atoms.to_pandas()


@pytest.fixture(scope="module")
def geometries(atoms):
    return {source: group.sort_values("atom_index") for source, group in atoms.groupby("source_id", sort=False)}


def row_of(name, molecules, calculations):
    (smiles,) = molecules.loc[molecules.name == name, "smiles"]
    (row,) = calculations[calculations.smiles == smiles].itertuples()
    return row


def test_sample_has_at_least_two_thousand_molecules(molecules):
    assert len(molecules) >= 2300
    assert molecules.name.notna().sum() >= 600


def test_every_smiles_is_canonical_and_comes_once(molecules):
    assert molecules.smiles.is_unique
    assert [Chem.CanonSmiles(smiles) for smiles in molecules.smiles] == molecules.smiles.to_list()


def test_no_name_comes_twice(molecules):
    assert molecules.name.dropna().is_unique


def test_no_molecule_has_more_than_45_heavy_atoms_or_two_components(molecules):
    assert max(Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() for smiles in molecules.smiles) <= 45
    assert not molecules.smiles.str.contains(".", regex=False).any()


def test_files_together_are_smaller_than_three_megabytes():
    assert sum(sample_path(name).stat().st_size for name in TABLES) < 3_000_000


def test_unknown_table_names_the_nearest_one():
    with pytest.raises(InvalidInput, match="did you mean 'atoms'"):
        sample_path("atom")


def test_every_molecule_has_one_calculation_in_the_same_order(molecules, calculations):
    assert calculations.smiles.to_list() == molecules.smiles.to_list()
    assert calculations.source_id.to_list() == [f"sample:{n:04d}" for n in range(1, len(molecules) + 1)]


def test_atom_rows_are_numbered_from_zero_in_each_calculation(atoms):
    assert (atoms.groupby("source_id").cumcount() == atoms.atom_index).all()


def test_atoms_are_those_of_the_molecule(calculations, geometries):
    for source, smiles in zip(calculations.source_id, calculations.smiles, strict=True):
        if source in geometries:
            molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
            expected = [(atom.GetSymbol(), atom.GetAtomicNum()) for atom in molecule.GetAtoms()]
            stored = geometries[source]
            assert list(zip(stored.element, stored.atomic_number, strict=True)) == expected


def test_charge_and_spin_are_those_of_the_molecule(calculations):
    for smiles, charge, unpaired in zip(
        calculations.smiles, calculations.total_charge, calculations.unpaired_electrons, strict=True
    ):
        molecule = Chem.MolFromSmiles(smiles)
        assert charge == Chem.GetFormalCharge(molecule)
        assert unpaired == sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())


def test_converged_rows_have_every_number(converged):
    assert np.isfinite(converged[NUMBERS].to_numpy()).all()
    assert (converged.energy < 0).all()
    assert (converged.execution_time_seconds > 0).all()
    assert (converged.gap >= 0).all()


def test_almost_every_calculation_converged(calculations, converged):
    assert len(converged) >= 0.99 * len(calculations)


def test_failed_rows_have_no_number_and_say_why(calculations, converged):
    failed = calculations.drop(converged.index)
    assert set(failed.convergence_status) <= {"error", "not_converged"}
    assert failed[NUMBERS].isna().to_numpy().all()
    assert all(json.loads(text)["reason"] for text in failed.metadata)


def test_gap_is_lumo_minus_homo(converged):
    assert (converged.gap == converged.lumo - converged.homo).all()


def test_charges_sum_to_the_total_charge(converged, atoms):
    sums = atoms.groupby("source_id").partial_charge.sum()
    np.testing.assert_allclose(sums[converged.source_id], converged.total_charge, atol=1e-3)


def test_forces_of_a_molecule_sum_to_zero(converged, atoms):
    sums = atoms.groupby("source_id")[FORCE].sum().loc[converged.source_id]
    np.testing.assert_allclose(sums, 0.0, atol=1e-4)


def test_stored_positions_reproduce_the_xyz_hash(calculations, geometries):
    for source, smiles, expected in zip(
        calculations.source_id, calculations.smiles, calculations.xyz_file_hash, strict=True
    ):
        if source in geometries:
            geometry = geometries[source]
            text = xyz_text(smiles, geometry.element.to_list(), geometry[POSITION].to_numpy().tolist())
            assert sha256(text.encode()).hexdigest() == expected


def test_a_row_has_a_hash_exactly_when_it_has_atoms(calculations, geometries):
    assert (calculations.source_id.isin(geometries) == calculations.xyz_file_hash.notna()).all()


def test_xyz_text_is_counted_commented_and_aligned():
    text = xyz_text("O", ["O", "H"], [[0.0, 0.5, -1.25], [10.0, 0.0, 0.0]])
    assert text.splitlines() == [
        "2",
        "O",
        "O          0.0000         0.5000        -1.2500",
        "H         10.0000         0.0000         0.0000",
    ]


@pytest.mark.parametrize(("columns", "decimals"), [(POSITION, 4), (["partial_charge"], 5), (FORCE, 6)])
def test_atom_numbers_are_the_decimals_they_were_rounded_to(sample, columns, decimals):
    for column in columns:
        values = sample.atoms[column]
        assert values.type == pa.float64()
        assert values.drop_null().to_pylist() == [round(value, decimals) for value in values.drop_null().to_pylist()]


def test_every_field_with_a_unit_says_so(sample):
    for table in (sample.calculations, sample.atoms):
        units = {column.name: column.metadata[b"unit"].decode() for column in table.schema if column.metadata}
        assert units == {name: QUANTITIES[name].unit for name in table.column_names if name in QUANTITIES}


def test_method_version_and_recipe_are_on_every_row(sample):
    assert pc.unique(sample.calculations["method"]).to_pylist() == ["GFN2-xTB"]
    assert not any(sample.calculations["optimized"].to_pylist())
    (version,) = pc.unique(sample.calculations["xtb_version"]).to_pylist()
    for text in sample.calculations["metadata"].to_pylist():
        recipe = json.loads(text)
        assert recipe["program"] == version
        assert recipe["seed"] == 42
        assert recipe["rdkit"]


@pytest.mark.parametrize("name", RECOMPUTED)
def test_tblite_gives_the_stored_results_for_the_stored_positions(name, molecules, calculations, geometries):
    row = row_of(name, molecules, calculations)
    geometry = geometries[row.source_id]
    calculator = Calculator(
        "GFN2-xTB",
        geometry.atomic_number.to_numpy(),
        geometry[POSITION].to_numpy() / BOHR_IN_ANGSTROM,
        row.total_charge,
        row.unpaired_electrons,
    )
    calculator.set("verbosity", 0)
    results = calculator.singlepoint()
    orbitals = HARTREE_IN_EV * results.get("orbital-energies")
    lumo = int((round(results.get("orbital-occupations").sum()) + row.unpaired_electrons) // 2)
    dipole = ATOMIC_DIPOLE_IN_DEBYE * np.linalg.norm(results.get("dipole"))
    assert results.get("energy") == pytest.approx(row.energy, abs=1e-6)
    assert orbitals[lumo] - orbitals[lumo - 1] == pytest.approx(row.gap, abs=1e-4)
    assert dipole == pytest.approx(row.dipole, abs=1e-4)
    np.testing.assert_allclose(results.get("charges"), geometry.partial_charge, atol=1e-4)
    np.testing.assert_allclose(-results.get("gradient"), geometry[FORCE], atol=1e-4)


def test_names_stand_on_the_right_structure(molecules):
    smiles = molecules.dropna().set_index("name").smiles
    assert smiles["benzene"] == "c1ccccc1"
    assert smiles["caffeine"] == Chem.CanonSmiles("CN1C=NC2=C1C(=O)N(C)C(=O)N2C")
    assert smiles["aspirin"] == Chem.CanonSmiles("O=C(C)Oc1ccccc1C(=O)O")
    assert smiles["Ala-Gly"] == Chem.CanonSmiles("C[C@@H](C(=O)NCC(=O)O)N")
    assert smiles["n-hexadecane"] == "C" * 16


@pytest.mark.parametrize(
    ("name", "inchikey"),
    [
        ("lindane", "JLYXXMFPNIAWKQ-GNIYUCBRSA-N"),
        ("tetracycline", "OFVLGDICTFRJMM-WESIUVDSSA-N"),
        ("beta-caryophyllene", "NPNUFJAVOOONJE-GFUGXAQUSA-N"),
    ],
)
def test_names_that_mean_one_stereoisomer_stand_on_it(name, inchikey, molecules):
    (smiles,) = molecules.loc[molecules.name == name, "smiles"]
    assert MolToInchiKey(Chem.MolFromSmiles(smiles)) == inchikey


def test_build_stops_at_the_limit_and_continues_from_its_cache(tmp_path):
    command = [sys.executable, "-m", "qforge_sdk.compute.sample", "--limit", "5", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    first = [pq.read_table(tmp_path / f"{name}.parquet") for name in TABLES]
    subprocess.run(command, check=True, capture_output=True)
    second = [pq.read_table(tmp_path / f"{name}.parquet") for name in TABLES]
    assert first[1].num_rows == 5
    assert first[1]["convergence_status"].to_pylist() == ["converged"] * 5
    # Equal times too: the second run read every molecule from the cache.
    assert all(before.equals(after) for before, after in zip(first, second, strict=True))


def test_build_gives_the_shipped_energies(tmp_path, sample):
    _, calculations, atoms = (pq.read_table(path) for path in build(tmp_path, workers=1, limit=3))
    shipped = sample.calculations.slice(0, 3)
    assert calculations["xyz_file_hash"] == shipped["xyz_file_hash"]
    assert calculations["energy"].to_pylist() == pytest.approx(shipped["energy"].to_pylist(), abs=1e-6)
    assert atoms["element"] == sample.atoms["element"].slice(0, atoms.num_rows)


def test_a_molecule_without_a_conformer_is_an_error_row_without_atoms():
    bridge_across_both_faces = "O[C@@H]1[C@@H](O)[C@H]2OC[C@@H](O2)[C@H]1O"
    outcome = compute(bridge_across_both_faces)
    (row,) = calculations_table([outcome]).to_pylist()
    assert row["convergence_status"] == "error"
    assert row["xyz_file_hash"] is None
    assert json.loads(row["metadata"])["reason"].startswith("RDKit found no conformer")
    assert atoms_table([outcome]).num_rows == 0


@pytest.mark.parametrize(
    ("n_electrons", "unpaired", "expected"), [(4, 0, (2.0, 3.0)), (3, 1, (2.0, 3.0)), (4, 2, (3.0, 4.0))]
)
def test_homo_of_an_open_shell_is_the_highest_singly_occupied_orbital(n_electrons, unpaired, expected):
    assert frontier_orbitals(np.array([1.0, 2.0, 3.0, 4.0]), n_electrons, unpaired) == expected


@pytest.mark.parametrize("smiles", ["[H+]", "[H]"])
def test_an_atom_without_homo_or_lumo_is_an_error_row(smiles):
    outcome = compute(smiles)
    assert outcome.convergence_status == "error"
    assert outcome.reason.startswith("no homo or no lumo")
    assert outcome.result is None


def test_two_nuclei_at_one_place_are_a_failure_and_not_an_exception(monkeypatch):
    made = {"generator": "nobody", "random_coordinates": False, "force_field": None}
    all_at_the_origin = Conformer(Geometry(("O", "H", "H"), np.zeros((3, 3))), 0, 0, made)
    monkeypatch.setattr(sample_module, "geometry_from_smiles", lambda smiles, **options: all_at_the_origin)
    outcome = compute("O")
    assert outcome.convergence_status in {"error", "not_converged"}
    assert outcome.reason
    assert outcome.result is None


def test_a_wrong_formula_is_refused(tmp_path):
    path = tmp_path / "molecules.csv"
    path.write_text("name,category,smiles,formula\nwater,solvent,O,H2O2\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="water"):
        list(read_named(path))
