"""From a geometry to a molecule: bonds perceived by RDKit, checked by formula, charge and spin."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.geometry import Geometry, unconnected
from qforge_sdk.chem.smiles import validate_here
from qforge_sdk.errors import InvalidSmiles

_SINGLE, _DOUBLE = Chem.BondType.SINGLE, Chem.BondType.DOUBLE
# Forms that nobody draws: the charges in them, and the bonds and charges that are drawn instead.
_REDRAWN: Final = (
    (Chem.MolFromSmarts("[S,P,Se;+1]-[O,S;-1]"), (1, -1), (_DOUBLE,), (0, 0)),
    (Chem.MolFromSmarts("[S,O;+1]=[P]-[O,S;-1]"), (1, 0, -1), (_SINGLE, _DOUBLE), (0, 0, 0)),
    (Chem.MolFromSmarts("[N,C;-1]-[N;+1]#[N;+0]"), (-1, 1, 0), (_DOUBLE, _DOUBLE), (0, 1, -1)),
)
_NITRO: Final = Chem.MolFromSmarts("[*;!O]~[N;D3](~[O;D1])~[O;D1]")
#: Ways to place double bonds that are tried; more than an oligophosphate needs, and some tenths of a second.
_MOST_WAYS: Final = 50_000
# Of these a SMILES draws all bonds; of a metal complex it may draw none.
_DRAWN: Final = frozenset({"H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"})


@dataclass(frozen=True, slots=True)
class Perceived:
    """What was made of a geometry.

    Parameters
    ----------
    smiles
        Canonical SMILES, None where no bond orders fit.
    graph
        Canonical text of the connected atoms without bond orders: equal for two geometries of one graph.
    reason
        Why there is no SMILES.
    """

    smiles: str | None
    graph: str
    reason: str | None = None

    def graph_hash(self, charge: int) -> str:
        """sha256 that identifies a structure without a SMILES by its graph and charge."""
        return hashlib.sha256(f"{self.graph}|{charge}".encode()).hexdigest()


def perceive(geometry: Geometry, charge: int, unpaired_electrons: int = 0) -> Perceived:
    """Perceive the molecule of a geometry; may take long on large cages, so run it in a process of its own.

    Parameters
    ----------
    geometry
        With all hydrogens, angstrom.
    charge
        Of the whole, e.
    unpaired_electrons
        What the perceived structure must have.

    Returns
    -------
    Perceived
        A SMILES only where formula, charge and unpaired electrons agree with what was given.

    References
    ----------
    Y. Kim, W. Y. Kim, Bull. Korean Chem. Soc. 2015, 36, 1769, doi:10.1002/bkcs.10334, as RDKit implements it
    """
    with rdBase.BlockLogs():
        try:
            bare = _connected(geometry)
        except (RuntimeError, ValueError) as exc:
            return Perceived(None, geometry.formula, _first_line(exc))
        graph = _graph(bare)
        if len(geometry.symbols) == 1:
            return _atom(geometry, charge, unpaired_electrons, graph)
        # S=O before [S+]-[O-]: charges on atoms only where nothing fits without them.
        reason = "no bond orders fit"
        nitro = bare.GetSubstructMatches(_NITRO)
        for charged, groups in ((False, ()), (True, ()), *([(True, nitro)] if nitro else [])):
            try:
                molecule = (
                    _ordered(bare, charge, charged=charged) if not groups else _with_nitro(bare, charge, groups)
                )
                smiles, problem = _checked(molecule, geometry, charge, unpaired_electrons)
            except (RuntimeError, ValueError) as exc:
                reason = _first_line(exc)
                continue
            if smiles is not None:
                return Perceived(smiles, graph)
            reason = problem or reason
        return Perceived(None, graph, reason)


def connection_graph(geometry: Geometry) -> str:
    """Canonical text of the connected atoms, without bond orders, as in :class:`Perceived`.

    Parameters
    ----------
    geometry
        With all hydrogens, angstrom.

    Returns
    -------
    str
        The formula where no bonds can be perceived.
    """
    with rdBase.BlockLogs():
        try:
            return _graph(_connected(geometry))
        except (RuntimeError, ValueError):
            return geometry.formula


def stored_formula(geometry: Geometry) -> str:
    """Molecular formula as RDKit writes it, which is how molecules with a SMILES have it: HCl, not ClH.

    Parameters
    ----------
    geometry
        Of any atoms.
    """
    return str(CalcMolFormula(unconnected(geometry)))


def is_rearranged(first: Geometry, last: Geometry) -> bool:
    """Whether two geometries of the same atoms are different molecules: their bonds make different graphs.

    Parameters
    ----------
    first, last
        Angstrom, atoms in the same order.
    """
    with rdBase.BlockLogs():
        try:
            ends = [_connected(geometry) for geometry in (first, last)]
        except (RuntimeError, ValueError):
            return False
        # The same bonds between the same atoms, as nearly always, need no canonical order.
        return _bonds(ends[0]) != _bonds(ends[1]) and _graph(ends[0]) != _graph(ends[1])


def draws(smiles: str, graph: str) -> bool:
    """Whether a SMILES may be of a graph: it connects the atoms in the same way, or is of a metal complex.

    Parameters
    ----------
    smiles
        Valid.
    graph
        From :func:`connection_graph`.
    """
    with rdBase.BlockLogs():
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        is_drawn = {atom.GetSymbol() for atom in molecule.GetAtoms()} <= _DRAWN
        return not is_drawn or _graph(molecule) == graph


def _connected(geometry: Geometry) -> Chem.Mol:
    molecule = unconnected(geometry)
    rdDetermineBonds.DetermineConnectivity(molecule)
    return molecule


def _bonds(molecule: Chem.Mol) -> set[tuple[int, ...]]:
    return {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in molecule.GetBonds()}


def _atom(geometry: Geometry, charge: int, unpaired_electrons: int, graph: str) -> Perceived:
    smiles, problem = _checked_text(f"[{geometry.symbols[0]}{charge:+d}]", geometry, charge, unpaired_electrons)
    return Perceived(smiles, graph, problem)


def _ordered(bare: Chem.Mol, charge: int, *, charged: bool) -> Chem.Mol:
    molecule = Chem.Mol(bare)
    rdDetermineBonds.DetermineBondOrders(
        molecule, charge=charge, allowChargedFragments=charged, embedChiral=False, maxIterations=_MOST_WAYS
    )
    return molecule


def _with_nitro(bare: Chem.Mol, charge: int, groups: tuple[tuple[int, ...], ...]) -> Chem.Mol:
    """RDKit finds the charges of one nitro group and not of two: they stand aside as if they were fluorine."""
    rest = Chem.RWMol(bare)
    for atom in rest.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    for _, nitrogen, *_ in groups:
        rest.GetAtomWithIdx(nitrogen).SetAtomicNum(9)
    for oxygen in sorted((place for group in groups for place in group[2:]), reverse=True):
        rest.RemoveAtom(oxygen)
    ordered = _ordered(rest.GetMol(), charge, charged=True)
    whole = Chem.RWMol(bare)
    places = [atom.GetIntProp("place") for atom in ordered.GetAtoms()]
    for atom in ordered.GetAtoms():
        drawn = whole.GetAtomWithIdx(places[atom.GetIdx()])
        drawn.SetFormalCharge(atom.GetFormalCharge())
        drawn.SetNumRadicalElectrons(atom.GetNumRadicalElectrons())
    for bond in ordered.GetBonds():
        ends = (places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()])
        whole.GetBondBetweenAtoms(*ends).SetBondType(bond.GetBondType())
    for _, nitrogen, doubly, singly in groups:
        whole.GetAtomWithIdx(nitrogen).SetFormalCharge(1)
        whole.GetAtomWithIdx(singly).SetFormalCharge(-1)
        whole.GetBondBetweenAtoms(nitrogen, doubly).SetBondType(_DOUBLE)
    return whole.GetMol()


def _checked(
    molecule: Chem.Mol, geometry: Geometry, charge: int, unpaired_electrons: int
) -> tuple[str | None, str | None]:
    molecule = _redrawn(molecule)
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistryFrom3D(molecule)
    # Nobody draws on which side the hydrogen of an amidine is, as it would otherwise be.
    removal: Any = Chem.RemoveHsParameters()
    removal.removeDefiningBondStereo = True
    return _checked_text(Chem.MolToSmiles(Chem.RemoveHs(molecule, removal)), geometry, charge, unpaired_electrons)


def _redrawn(molecule: Chem.Mol) -> Chem.Mol:
    """S=O, P=S and azides as chemists write them, where charges were put on other neighbours."""
    edited = Chem.RWMol(molecule)
    for pattern, before, order, after in _REDRAWN:
        for match in edited.GetSubstructMatches(pattern):
            atoms = [edited.GetAtomWithIdx(index) for index in match]
            # A group that overlaps with one that was redrawn has other charges by now.
            if tuple(atom.GetFormalCharge() for atom in atoms) != before:
                continue
            for first, second, bond in zip(match, match[1:], order, strict=False):
                edited.GetBondBetweenAtoms(first, second).SetBondType(bond)
            for atom, charge in zip(atoms, after, strict=True):
                atom.SetFormalCharge(charge)
    return edited.GetMol()


def _checked_text(
    smiles: str, geometry: Geometry, charge: int, unpaired_electrons: int
) -> tuple[str | None, str | None]:
    try:
        found = validate_here(smiles)
    except InvalidSmiles as exc:
        return None, str(exc)
    wanted = {"charge": charge, "unpaired electrons": unpaired_electrons}
    got = {"charge": found.charge, "unpaired electrons": found.unpaired_electrons}
    apart = [f"{name} {got[name]} instead of {wanted[name]}" for name in wanted if got[name] != wanted[name]]
    if composition(found.formula) != composition(geometry.formula):
        apart.append(f"formula {found.formula} instead of {geometry.formula}")
    return (None, f"the perceived structure has {', '.join(apart)}") if apart else (found.smiles, None)


def _graph(bare: Chem.Mol) -> str:
    graph = Chem.RWMol(bare)
    for atom in graph.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetFormalCharge(0)
        atom.SetNumRadicalElectrons(0)
        # Of a SMILES; a geometry has none of these.
        atom.SetIsAromatic(False)
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in graph.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
        bond.SetStereo(Chem.BondStereo.STEREONONE)
    return str(Chem.MolToSmiles(graph.GetMol(), canonical=True, allHsExplicit=True))


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
