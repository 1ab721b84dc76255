"""From a text to a validated molecule, or to the reason why not."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from dataclasses import dataclass
from typing import Final

import rdkit
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.rdinchi import MolToInchiKey
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from qforge_sdk.errors import InvalidSmiles

FINGERPRINT_RADIUS: Final = 2
FINGERPRINT_BITS: Final = 2048
LONGEST_TEXT: Final = 10_000
MOST_HEAVY_ATOMS: Final = 2_000

SMILES_CODES: Final[dict[str, str]] = {
    "not_text": "the value is no text",
    "empty": "the text is empty",
    "missing": "the text stands for a missing value, such as nan or None",
    "whitespace": "there is a blank in the text or around it",
    "control_character": "there is a control character in the text, such as NUL",
    "not_ascii": "there is a character that no SMILES has, such as a Cyrillic letter or a byte-order mark",
    "too_long": f"the text is longer than {LONGEST_TEXT:,} characters",
    "too_many_atoms": f"the molecule has more than {MOST_HEAVY_ATOMS:,} heavy atoms",
    "inchi": "the text is an InChI or an InChIKey",
    "reaction": "the text is a reaction",
    "cxsmiles": "the text carries a CXSMILES extension",
    "query_atoms": "the text has query atoms, dummy atoms or any-bonds and so describes no single molecule",
    "atom_map": "atoms carry map numbers, which would make another molecule of the same structure",
    "syntax": "RDKit cannot parse the text",
    "valence": "an atom has more bonds than its element allows",
    "kekulization": "the aromatic bonds do not fit a Kekulé structure",
    "sanitization": "RDKit refuses the structure for another reason",
    "no_canonical_form": "RDKit writes the structure in ways that it reads as other structures",
    "timeout": "RDKit took too long",
    "memory": "RDKit took too much memory",
    "crashed": "RDKit crashed",
}
"""Stable codes of refusals and what each means."""

_MISSING: Final = frozenset({"nan", "none", "null", "na", "n/a", "-", "<na>", "nat"})
_INCHI: Final = re.compile(r"InChI=|[A-Z]{14}-[A-Z]{10}-[A-Z]$")
_CHARGE_SUFFIX: Final = re.compile(r"[+-]\d*$")
_TOKEN: Final = re.compile(r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFI]|[bcnops]|->|<-|[-=#$:/\\.~]|%\(\d+\)|%\d\d|\d|[()]|\*")
_ATOM_MAP: Final = re.compile(r":\d+\]")
_HUGE_ISOTOPE: Final = re.compile(r"\[0*[1-9]\d{3,}")
_ATOM_TOKEN: Final = re.compile(r"\[|[A-Za-z*]")
_ELEMENT: Final = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2}|\*)")

# PostgreSQL prints bit 0 of bit(2048) first, as the highest bit of the first byte; RDKit's text has it lowest.
_REVERSED_BITS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_GENERATOR: Final = rdFingerprintGenerator.GetMorganGenerator(radius=FINGERPRINT_RADIUS, fpSize=FINGERPRINT_BITS)


def _parser(**options: bool) -> Chem.SmilesParserParams:
    parser = Chem.SmilesParserParams()
    for name, value in (options | {"allowCXSMILES": False, "parseName": False}).items():
        setattr(parser, name, value)
    return parser


_PARSER: Final = _parser()
_RAW_PARSER: Final = _parser(sanitize=False, removeHs=False)


@dataclass(frozen=True, slots=True)
class ValidatedMolecule:
    """What the database stores of a structure.

    Parameters
    ----------
    smiles
        Canonical isomeric SMILES.
    inchikey
        Standard InChIKey, None where InChI has none.
    formula
        Molecular formula in Hill order, hydrogens included, without charge and isotopes.
    charge
        Sum of formal charges, e.
    unpaired_electrons
        Sum of radical electrons.
    n_atoms
        Number of atoms, hydrogens included.
    fingerprint
        Morgan fingerprint of radius 2, 2048 bits in 256 bytes; bit 0 is the highest bit of the first byte.
    fingerprint_popcount
        Number of bits set.
    input_smiles
        The text as it was given.
    rdkit_version
        Version that made all this.
    """

    smiles: str
    inchikey: str | None
    formula: str
    charge: int
    unpaired_electrons: int
    n_atoms: int
    fingerprint: bytes
    fingerprint_popcount: int
    input_smiles: str
    rdkit_version: str


def validate_here(smiles: object) -> ValidatedMolecule:
    """Validate one SMILES in this process, without a limit on time or memory.

    Parameters
    ----------
    smiles
        One molecule or several joined by dots, in any spelling.

    Returns
    -------
    ValidatedMolecule
        In its canonical form.

    Raises
    ------
    InvalidSmiles
        With a code of :data:`SMILES_CODES` and, where it is known, the position.
    """
    text = check_text(smiles)
    with rdBase.BlockLogs():
        molecule = _parse(text, _PARSER)
        if molecule is None:
            raise _diagnose(text)
        _check_structure(text, molecule)
        canonical, molecule = _canonical(text, molecule)
        fingerprint = _GENERATOR.GetFingerprint(molecule)
        return ValidatedMolecule(
            smiles=canonical,
            inchikey=MolToInchiKey(molecule) or None,
            formula=_CHARGE_SUFFIX.sub("", CalcMolFormula(molecule)),
            charge=Chem.GetFormalCharge(molecule),
            unpaired_electrons=_unpaired(canonical, molecule),
            n_atoms=molecule.GetNumAtoms(onlyExplicit=False),
            fingerprint=DataStructs.BitVectToBinaryText(fingerprint).translate(_REVERSED_BITS),
            fingerprint_popcount=fingerprint.GetNumOnBits(),
            input_smiles=text,
            rdkit_version=rdkit.__version__,
        )


def check_text(smiles: object) -> str:
    """Everything that can be said of a SMILES without parsing it.

    Parameters
    ----------
    smiles
        What was given.

    Returns
    -------
    str
        The same, known to be printable ASCII of a reasonable length.

    Raises
    ------
    InvalidSmiles
        It cannot be a SMILES of a molecule.
    """
    if not isinstance(smiles, str):
        raise _refusal(smiles, "not_text", f"a SMILES is text, not {type(smiles).__name__}")
    if not smiles:
        raise _refusal(smiles, "empty", "the SMILES is empty")
    if len(smiles) > LONGEST_TEXT:
        raise _refusal(
            f"{smiles[:50]}...", "too_long", f"{len(smiles):,} characters; at most {LONGEST_TEXT:,} are taken"
        )
    _check_characters(smiles)
    if smiles.lower() in _MISSING:
        raise _refusal(smiles, "missing", f"{smiles!r} stands for a missing value; leave the row out")
    if _INCHI.match(smiles):
        raise _refusal(smiles, "inchi", "this is an InChI or InChIKey; convert it to SMILES first")
    if ">" in smiles.replace("->", ""):
        position = smiles.replace("->", "--").index(">")
        raise _refusal(smiles, "reaction", "this is a reaction; give one molecule", position)
    return smiles


def looks_heavy(text: str) -> bool:
    """Whether a text might crash RDKit or hold it for long; ordinary drug-sized molecules do not."""
    return len(text) > 300 or sum(map(str.isdigit, text)) > 40 or text.count("(") > 60


def _check_characters(text: str) -> None:
    # One pass in C for the usual case.
    if text.isascii() and text.isprintable() and " " not in text and "|" not in text:
        return
    for position, character in enumerate(text):
        if character in " \t\r\n\v\f":
            raise (
                _refusal(text, "whitespace", _blank_message(text, position), position)
                if "|" not in text
                else _cxsmiles(text)
            )
        if ord(character) < 32 or ord(character) == 127:
            raise _refusal(
                text,
                "control_character",
                f"control character U+{ord(character):04X} at position {position}",
                position,
            )
        if not character.isascii():
            name = unicodedata.name(character, "unnamed")
            raise _refusal(
                text,
                "not_ascii",
                f"{name} (U+{ord(character):04X}) at position {position}; a SMILES has ASCII characters only",
                position,
            )
    raise _cxsmiles(text)


def _blank_message(text: str, position: int) -> str:
    if not text.strip():
        return "the SMILES is blank"
    if position == 0 or not text[position:].strip():
        return "there are blanks around the SMILES; strip them"
    return f"there is a blank at position {position}; a name belongs into the column name, not behind the SMILES"


def _cxsmiles(text: str) -> InvalidSmiles:
    return _refusal(text, "cxsmiles", "CXSMILES extensions (|...|) are not taken; remove them", text.index("|"))


def _refusal(smiles: object, code: str, reason: str, position: int | None = None) -> InvalidSmiles:
    shown = smiles if not isinstance(smiles, str) or len(smiles) <= 80 else f"{smiles[:77]}..."
    text = repr(shown) if isinstance(shown, str) else reprlib.repr(shown)
    return InvalidSmiles(f"{text}: {reason}", smiles=smiles, code=code, position=position)


def _parse(text: str, parser: Chem.SmilesParserParams) -> Chem.Mol | None:
    return Chem.MolFromSmiles(text, parser)


def _check_structure(text: str, molecule: Chem.Mol) -> None:
    if molecule.GetNumHeavyAtoms() > MOST_HEAVY_ATOMS:
        raise _refusal(
            text,
            "too_many_atoms",
            f"{molecule.GetNumHeavyAtoms():,} heavy atoms; at most {MOST_HEAVY_ATOMS:,} are taken",
        )
    position = next((text.index(sign) for sign in ("*", "~", "[#") if sign in text), None)
    # Only brackets can hold an element, isotope, charge or number that no molecule has.
    bracketed = list(molecule.GetAtoms()) if "[" in text else []
    if position is not None or any(atom.GetAtomicNum() == 0 for atom in bracketed):
        raise _refusal(
            text, "query_atoms", "dummy atoms (*), any-bonds (~) and [#6] describe no single molecule", position
        )
    if any(atom.GetFormalCharge() > atom.GetAtomicNum() for atom in bracketed):
        raise _bare_nucleus(text)
    mapped = _ATOM_MAP.search(text)
    if mapped is not None:
        raise _refusal(text, "atom_map", "atoms carry map numbers (:1); remove them", mapped.start())
    isotope = _HUGE_ISOTOPE.search(text)
    if isotope is not None:
        # RDKit keeps 16 bits of it and says nothing.
        raise _refusal(text, "sanitization", f"{isotope[0][1:]} is the mass of no isotope", isotope.start())


def _bare_nucleus(text: str) -> InvalidSmiles:
    atoms = Chem.MolFromSmiles(text, _RAW_PARSER).GetAtoms()
    atom = next(atom for atom in atoms if atom.GetFormalCharge() > atom.GetAtomicNum())
    reason = f"{atom.GetSymbol()} has {atom.GetAtomicNum()} electrons and cannot lose {atom.GetFormalCharge()}"
    return _refusal(text, "valence", reason, _position_of_atom(text, atom.GetIdx()))


def _canonical(text: str, molecule: Chem.Mol) -> tuple[str, Chem.Mol]:
    """The canonical text and its molecule. RDKit's is not always a fixed point where there is stereochemistry."""
    canonical = Chem.MolToSmiles(molecule)
    if "@" not in canonical and "/" not in canonical and "\\" not in canonical:
        return canonical, molecule
    first = True
    for _ in range(5):
        stored = _parse(canonical, _PARSER)
        if stored is None:
            break
        again = Chem.MolToSmiles(stored)
        if again == canonical:
            # After the first round it may be a fixed point of another stereoisomer.
            if first or MolToInchiKey(stored) == MolToInchiKey(molecule):
                return canonical, stored
            break
        canonical, first = again, False
    raise _refusal(text, "no_canonical_form", "RDKit finds no stable canonical form; simplify its stereochemistry")


def _unpaired(canonical: str, molecule: Chem.Mol) -> int:
    # A radical is always written in brackets.
    if "[" not in canonical:
        return 0
    return sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())


def _diagnose(text: str) -> InvalidSmiles:
    """Why RDKit refused a text."""
    raw = _parse(text, _RAW_PARSER)
    if raw is None:
        return _syntax(text)
    problems = Chem.DetectChemistryProblems(raw)
    if not problems:
        return _refusal(text, "sanitization", "RDKit refuses the structure")
    problem = problems[0]
    kind = problem.GetType()
    if kind == "AtomValenceException":
        position = _position_of_atom(text, problem.GetAtomIdx())
        return _refusal(text, "valence", f"{problem.Message()}; check its bonds and charge", position)
    if "Kekulize" in kind:
        atoms = problem.GetAtomIndices() if kind == "KekulizeException" else (problem.GetAtomIdx(),)
        position = _position_of_atom(text, min(atoms, default=0))
        hint = "; an aromatic N may want its hydrogen: [nH]" if "n" in text else ""
        return _refusal(text, "kekulization", f"{problem.Message()}{hint}", position)
    return _refusal(text, "sanitization", problem.Message())


def _tokens(text: str) -> tuple[list[tuple[str, int]], int | None]:
    """Tokens with their positions, and the position of the first thing that is none."""
    tokens: list[tuple[str, int]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return tokens, position
        tokens.append((match[0], position))
        position = match.end()
    return tokens, None


def _position_of_atom(text: str, index: int) -> int | None:
    atoms = [position for token, position in _tokens(text)[0] if _ATOM_TOKEN.match(token)]
    return atoms[index] if index < len(atoms) else None


def _syntax(text: str) -> InvalidSmiles:
    """Where the fault of a text is that RDKit cannot read."""
    query = [text.index(sign) for sign in ("[$", "$(", "!", "[#", ";", "&", ",") if sign in text]
    if query:
        position = min(query)
        return _refusal(
            text, "query_atoms", f"SMARTS or a list near position {position}; give one molecule", position
        )
    tokens, stop = _tokens(text)
    found = _stray_character(text, stop) or _unpaired_sign(tokens)
    if found is None:
        return _refusal(text, "syntax", "RDKit cannot parse it; check bonds and branches")
    position, reason = found
    return _refusal(text, "syntax", reason, position)


def _stray_character(text: str, position: int | None) -> tuple[int, str] | None:
    if position is None:
        return None
    if text[position] == "[":
        return position, f"the [ at position {position} is not closed"
    return position, f"{text[position]!r} at position {position} is no part of a SMILES"


def _unpaired_sign(tokens: list[tuple[str, int]]) -> tuple[int, str] | None:
    """The first bracket, branch or ring that does not close, or element that does not exist."""
    branches: list[int] = []
    rings: dict[str, int] = {}
    for sign, position in tokens:
        if sign == "(":
            branches.append(position)
        elif sign == ")":
            if not branches:
                return position, f"the ) at position {position} closes nothing"
            branches.pop()
        elif sign[0] in "%0123456789":
            label = sign.strip("%()").lstrip("0")
            if rings.pop(label, None) is None:
                rings[label] = position
        elif sign[0] == "[":
            element = _ELEMENT.match(sign)
            if element is None or not _is_element(element[1]):
                return position, f"{sign} at position {position} names no element"
    for label, position in rings.items():
        return position, f"ring {label or 0} opened at position {position} is not closed"
    return (branches[-1], f"the ( at position {branches[-1]} is not closed") if branches else None


def _is_element(symbol: str) -> bool:
    try:
        return bool(Chem.GetPeriodicTable().GetAtomicNumber(symbol.capitalize()) > 0)
    except RuntimeError:
        return False
