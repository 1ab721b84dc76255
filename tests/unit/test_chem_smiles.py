"""One SMILES: what is refused and why, and what is stored of the others."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import Any

import pytest
import rdkit
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.inchi import MolToInchiKey

from qforge_sdk import chem
from qforge_sdk.chem import SMILES_CODES, ValidatedMolecule, validate_smiles
from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.smiles import LONGEST_TEXT, MOST_HEAVY_ATOMS, looks_heavy, validate_here
from qforge_sdk.errors import InvalidSmiles

MOLECULES = (
    "C",
    "CCO",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "N[C@@H](C)C(=O)O",
    "C[C@H](N)C(=O)[O-]",
    "[NH3+]CC(=O)[O-]",
    "F/C=C/F",
    "F/C=C\\F",
    "C/C=C/C=C\\C",
    "C/C(=C\\C(=O)O)/C(=O)O",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C[C@]12CC[C@H]3[C@H]([C@@H]1CC[C@@H]2O)CCC4=CC(=O)CC[C@]34C",
    "C1C[C@H]2CC[C@@H]1C2",
    "c1ccc2ccccc2c1",
    "c1ccc2c(c1)[nH]c1ccccc12",
    "c1cc[nH]c1",
    "c1ccoc1",
    "c1ccsc1",
    "c1cc[se]c1",
    "c1ccncc1",
    "C[n+]1ccccc1",
    "[O-][n+]1ccccc1",
    "C[N+](=O)[O-]",
    "C[N+](C)(C)C.[Cl-]",
    "[Na+].[Cl-]",
    "CC(=O)[O-].[Na+]",
    "O=S(=O)(O)O",
    "CS(C)=O",
    "C[S@](=O)c1ccccc1",
    "OP(=O)(O)O",
    "F[P-](F)(F)(F)(F)F",
    "[O-][Cl+3]([O-])([O-])[O-]",
    "[13CH4]",
    "[2H]C([2H])([2H])[2H]",
    "[CH3]",
    "[O][O]",
    "[C-]#[O+]",
    "N#N",
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1",
    "N->[Pt](<-N)(Cl)Cl",
    "C1CC2(C1)CC2",
    "BrC(Cl)(F)I",
    "Br[C@](Cl)(F)I",
    "C[Si](C)(C)C",
    "OB(O)c1ccccc1",
    "C1=CC=CC=CC=C1",
)

# Code, text, position.
REFUSED = [
    ("empty", "", None),
    ("missing", "nan", None),
    ("missing", "NaN", None),
    ("missing", "None", None),
    ("missing", "NULL", None),
    ("missing", "N/A", None),
    ("missing", "<NA>", None),
    ("missing", "NaT", None),
    ("missing", "-", None),
    ("whitespace", " ", 0),
    ("whitespace", "\t", 0),
    ("whitespace", " CCO", 0),
    ("whitespace", "CCO ", 3),
    ("whitespace", "CCO\n", 3),
    ("whitespace", "CCO\r\n", 3),
    ("whitespace", "CCO ethanol", 3),
    ("whitespace", "CCO\tethanol", 3),
    ("whitespace", "C C O", 1),
    ("whitespace", "C'; DROP TABLE molecules;--", 3),
    ("control_character", "C\x00O", 1),
    ("control_character", "CCO\x00", 3),
    ("control_character", "CC\x1b[0m", 2),
    ("control_character", "C\x7f", 1),
    ("not_ascii", "\ufeffCCO", 0),
    ("not_ascii", "CC\u041e", 2),
    ("not_ascii", "C\uff1dC", 1),
    ("not_ascii", "C\u2261C", 1),
    ("not_ascii", "C\u200bCO", 1),
    ("not_ascii", "CCO\xa0", 3),
    ("not_ascii", "C\u2028C", 1),
    ("not_ascii", "\U0001f600", 0),
    ("not_ascii", "C\ud800", 1),
    ("too_long", "C" * (LONGEST_TEXT + 1), None),
    ("too_many_atoms", "C" * (MOST_HEAVY_ATOMS + 1), None),
    ("inchi", "InChI=1S/CH4/h1H4", None),
    ("inchi", "VNWKTOKETHGBQD-UHFFFAOYSA-N", None),
    ("reaction", "CCO>>CC=O", 3),
    ("reaction", "CCO.O>[Pd]>CC=O", 5),
    ("reaction", "N->[Fe]>>C", 7),
    ("reaction", ">>", 0),
    ("cxsmiles", "CO |$;_AP1$|", 3),
    ("cxsmiles", "CCO |bad|", 4),
    ("cxsmiles", "CCO|", 3),
    ("query_atoms", "*", 0),
    ("query_atoms", "[*]", 1),
    ("query_atoms", "[1*]CC", 2),
    ("query_atoms", "C1~C~C1", 2),
    ("query_atoms", "[#0]C", 0),
    ("query_atoms", "C[#6]", 1),
    ("query_atoms", "[$(CC)]", 0),
    ("query_atoms", "[C&H1]", 2),
    ("query_atoms", "CCO;CCN", 3),
    ("query_atoms", "CCO,CCN", 3),
    ("query_atoms", "[!C]", 1),
    ("query_atoms", "C[*:1]", 2),
    ("atom_map", "[CH3:1][OH:2]", 4),
    ("atom_map", "c1:c:c:c:c:c1[CH3:1]", 17),
    ("atom_map", "[CH3:0]C", 4),
    ("syntax", "C(", 1),
    ("syntax", "CC)", 2),
    ("syntax", "C(C(C)", 1),
    ("syntax", "C1CC", 1),
    ("syntax", "C1CC2CC1", 4),
    ("syntax", "C%01CC", 1),
    ("syntax", "C%(123)CC", 1),
    ("syntax", "[CH]12->[Fe]", 4),
    ("syntax", "C[C@H", 1),
    ("syntax", "C]", 1),
    ("syntax", "[]", 0),
    ("syntax", "C[Xx]", 1),
    ("syntax", "[R1]C", 0),
    ("syntax", "methane", 0),
    ("syntax", "%CCO%", 0),
    ("syntax", "C_O", 1),
    ("syntax", '"CCO"', 0),
    ("syntax", "CC{-}", 2),
    ("syntax", "C==C", None),
    ("syntax", "CC=", None),
    ("syntax", "C11", None),
    ("syntax", "C12CC12", None),
    ("syntax", "C((C))C", None),
    ("syntax", "C\\", None),
    ("syntax", ".", None),
    ("syntax", "[0013CH4]", None),
    ("valence", "C#O", 2),
    ("valence", "CC(C)(C)(C)C", 1),
    ("valence", "Cl[CH20]", 2),
    ("valence", "F(F)F", 0),
    ("valence", "C1=CC=CN1(C)C", 7),
    ("valence", "[H]C([H])([C+9])O", 10),
    ("valence", "[H+2]", 0),
    ("kekulization", "n1cccc1", 0),
    ("kekulization", "Cc1cccc1", 1),
    ("kekulization", "c1ccccc1c", 8),
    ("sanitization", "C[1000C]", 1),
    ("sanitization", "[999999C]", 0),
    (
        "no_canonical_form",
        "[C@H]2[C@@H]4[C@H]1[C@H]3[C@@H]2[C@H]4[C@H]1[C@H]3",
        None,
    ),
    (
        "no_canonical_form",
        "ClC1([C@]2([C@@]3([C@@]4(C(Cl)([C@]5([C@@]([C@]1(Cl)[C@@]53Cl)(Cl)[C@@]42Cl)Cl)Cl)Cl)Cl)Cl)Cl",
        None,
    ),
]


@pytest.mark.parametrize(
    ("code", "smiles", "position"), REFUSED, ids=[ascii(f"{code}:{smiles[:30]}") for code, smiles, _ in REFUSED]
)
def test_refusal_has_a_code_and_a_position(code: str, smiles: str, position: int | None) -> None:
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles(smiles)
    assert (caught.value.code, caught.value.position) == (code, position)
    assert caught.value.smiles in {smiles, f"{smiles[:50]}..."}
    assert caught.value.field == "smiles"


@pytest.mark.parametrize("value", [None, 7, 1.5, float("nan"), b"CCO", ["CCO"], object(), Chem.MolFromSmiles("C")])
def test_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidSmiles, match=f"not {type(value).__name__}") as caught:
        validate_smiles(value)
    assert (caught.value.code, caught.value.position) == ("not_text", None)


def test_every_code_that_input_can_cause_is_tested() -> None:
    by_dead_process = {"timeout", "memory", "crashed"}
    assert set(SMILES_CODES) - by_dead_process == {code for code, _, _ in REFUSED} | {"not_text"}


@pytest.mark.parametrize("smiles", ["C" * 50_000, "[" * 900, "x" * 200, ["C" * 10_000] * 10])
def test_message_stays_short(smiles: object) -> None:
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles(smiles)
    assert len(str(caught.value)) < 400


def test_message_names_what_is_wrong_and_what_to_do() -> None:
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles("n1cccc1")
    assert str(caught.value).startswith("'n1cccc1': Can't kekulize mol.")
    assert str(caught.value).endswith("an aromatic N may want its hydrogen: [nH]")


def test_message_gives_no_advice_on_nitrogen_where_there_is_none() -> None:
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles("c1cccc1")
    assert "[nH]" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "canonical", "formula", "charge", "unpaired", "n_atoms"),
    [
        ("OCC", "CCO", "C2H6O", 0, 0, 9),
        ("C1=CC=CC=C1", "c1ccccc1", "C6H6", 0, 0, 12),
        ("[H]C([H])([H])[H]", "C", "CH4", 0, 0, 5),
        ("N(=O)(=O)C", "C[N+](=O)[O-]", "CH3NO2", 0, 0, 7),
        ("[Na+].CC(=O)[O-]", "CC(=O)[O-].[Na+]", "C2H3NaO2", 0, 0, 8),
        ("F[P-](F)(F)(F)(F)F", "F[P-](F)(F)(F)(F)F", "F6P", -1, 0, 7),
        ("[NH4+]", "[NH4+]", "H4N", 1, 0, 5),
        ("[Fe+2]", "[Fe+2]", "Fe", 2, 0, 1),
        ("[O-2]", "[O-2]", "O", -2, 0, 1),
        ("[13CH4]", "[13CH4]", "CH4", 0, 0, 5),
        ("[2H]O[2H]", "[2H]O[2H]", "H2O", 0, 0, 3),
        ("[CH3]", "[CH3]", "CH3", 0, 1, 4),
        ("[O][O]", "[O][O]", "O2", 0, 2, 2),
        ("[H]", "[H]", "H", 0, 1, 1),
        ("[H+]", "[H+]", "H", 1, 0, 1),
        ("[H][H]", "[H][H]", "H2", 0, 0, 2),
        ("[He]", "[He]", "He", 0, 0, 1),
        ("C[C@H](C)C", "CC(C)C", "C4H10", 0, 0, 14),
        ("C%(100)CCCCC%(100)", "C1CCCCC1", "C6H12", 0, 0, 18),
        ("C1.C1", "CC", "C2H6", 0, 0, 8),
    ],
)
def test_stored_form(given: str, canonical: str, formula: str, charge: int, unpaired: int, n_atoms: int) -> None:
    found = validate_smiles(given)
    assert (found.smiles, found.formula, found.charge) == (canonical, formula, charge)
    assert (found.unpaired_electrons, found.n_atoms) == (unpaired, n_atoms)
    assert (found.input_smiles, found.rdkit_version) == (given, rdkit.__version__)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("F/C=C/F", "F/C=C\\F"),
        ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"),
        ("FC=CF", "F/C=C/F"),
        ("[13CH4]", "C"),
        ("Oc1ccccn1", "O=c1cccc[nH]1"),
        ("[O][O]", "O=O"),
        ("CC(=O)[O-]", "CC(=O)O"),
    ],
)
def test_different_molecules_stay_different(one: str, other: str) -> None:
    assert validate_smiles(one).smiles != validate_smiles(other).smiles


@pytest.mark.parametrize("smiles", MOLECULES)
def test_fingerprint_is_bit_by_bit_that_of_rdkit(smiles: str) -> None:
    found = validate_smiles(smiles)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = generator.GetFingerprint(Chem.MolFromSmiles(smiles)).ToBitString()
    assert "".join(f"{byte:08b}" for byte in found.fingerprint) == bits
    assert found.fingerprint_popcount == bits.count("1")


@pytest.mark.parametrize("smiles", MOLECULES)
def test_inchikey_and_atoms_are_those_of_rdkit(smiles: str) -> None:
    found = validate_smiles(smiles)
    with rdBase.BlockLogs():
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert found.inchikey == (MolToInchiKey(molecule) or None)
    atoms = composition(found.formula)
    assert atoms is not None
    assert sum(atoms.values()) == found.n_atoms == molecule.GetNumAtoms()
    assert {a.GetSymbol() for a in molecule.GetAtoms()} == set(atoms)


def test_molecule_without_inchi_has_no_inchikey() -> None:
    assert validate_smiles("C$C").inchikey is None


def _identity(found: ValidatedMolecule) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ValidatedMolecule.__slots__ if name != "input_smiles"}


@given(smiles=st.sampled_from(MOLECULES), seed=st.integers(0, 2**31 - 1))
def test_second_spelling_is_the_same_molecule(smiles: str, seed: int) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    order = list(range(molecule.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    spelling = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False, doRandom=seed % 2 == 0)
    assert _identity(validate_smiles(spelling)) == _identity(validate_smiles(smiles))


@given(smiles=st.sampled_from(MOLECULES))
def test_kekule_spelling_with_all_hydrogens_is_the_same_molecule(smiles: str) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    spelling = Chem.MolToSmiles(molecule, kekuleSmiles=True, allBondsExplicit=True, allHsExplicit=True)
    assert _identity(validate_smiles(spelling)) == _identity(validate_smiles(smiles))


@given(smiles=st.sampled_from(MOLECULES))
def test_canonical_form_is_its_own_canonical_form(smiles: str) -> None:
    found = validate_smiles(smiles)
    assert _identity(validate_smiles(found.smiles)) == _identity(found)


@given(text=st.text(max_size=40) | st.text("CNOPSFclnosp123%()[]=#+-@/\\.:*>$~|H", max_size=40))
def test_any_text_is_a_molecule_or_a_refusal(text: str) -> None:
    found = _outcome(text)
    if isinstance(found, InvalidSmiles):
        assert found.code in SMILES_CODES
        assert found.position is None or 0 <= found.position < len(text)
    else:
        assert validate_smiles(found.smiles).smiles == found.smiles
        assert len(found.fingerprint) == 256


def _outcome(text: str) -> ValidatedMolecule | InvalidSmiles:
    try:
        return validate_smiles(text)
    except InvalidSmiles as exc:
        return exc


@pytest.mark.parametrize("smiles", ["CCO", "C(", "C#O", "n1cccc1", "[U]$[U]", "F[C@H](Cl)[C@@H](F)Cl", "C" * 400])
def test_nothing_is_printed(smiles: str, capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(InvalidSmiles):
        validate_smiles(smiles)
    assert capfd.readouterr() == ("", "")


def test_logging_of_rdkit_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = rdBase.LogStatus()
    for smiles in ("CCO", "C#O"):
        with suppress(InvalidSmiles):
            validate_here(smiles)
    assert rdBase.LogStatus() == before
    assert Chem.MolFromSmiles("C#O") is None
    assert "Explicit valence" in capfd.readouterr().err


@pytest.mark.parametrize("smiles", [*MOLECULES, "C" * 300, "C1CCCCC1" * 18])
def test_ordinary_molecule_needs_no_process(smiles: str) -> None:
    assert not looks_heavy(smiles)


@pytest.mark.parametrize(
    ("smiles", "code"),
    [
        ("C" * 100_000, "too_long"),
        ("C" * LONGEST_TEXT, "too_many_atoms"),
        ("C(" * 4_900, "syntax"),
        ("C(" * 2_400 + "C" + ")" * 2_400, "too_many_atoms"),
        ("[" * 9_000, "syntax"),
        (")" * 9_000, "syntax"),
        ("C1" * 2_000, "syntax"),
        ("C=1" * 3_000, "syntax"),
        ("%(99999)" * 1_000, "syntax"),
        ("C#" * 2_000, "syntax"),
        ("." * 10_000, "syntax"),
        (".".join("C" * 2_001), "too_many_atoms"),
        ("[C@]" * 2_001, "too_many_atoms"),
    ],
    ids=lambda value: value[:12],
)
def test_hostile_text_is_refused_within_seconds(smiles: str, code: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles(smiles)
    assert caught.value.code == code
    assert time.monotonic() - begun < 8


def test_large_molecule_is_taken() -> None:
    found = validate_smiles("C" * MOST_HEAVY_ATOMS)
    assert (found.formula, found.n_atoms) == ("C2000H4002", 6002)


def test_package_names_what_it_has() -> None:
    assert dir(chem) == sorted(chem.__all__)
    assert all(getattr(chem, name) is not None for name in chem.__all__)
    with pytest.raises(AttributeError, match="no attribute 'valid8'"):
        _ = chem.valid8


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("C2H6O", {"C": 2, "H": 6, "O": 1}),
        ("NH3", {"N": 1, "H": 3}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("H4N+", {"H": 4, "N": 1}),
        ("SO4-2", {"S": 1, "O": 4}),
        (" CO ", {"C": 1, "O": 1}),
        ("Co", {"Co": 1}),
        ("", None),
        ("c6h6", None),
        ("C6H6!", None),
        ("2H", None),
    ],
)
def test_composition(formula: str, counts: dict[str, int] | None) -> None:
    assert composition(formula) == counts
