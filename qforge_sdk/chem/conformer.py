"""From a SMILES to a geometry: conformers of RDKit, relaxed by a force field, the lowest of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final, NamedTuple

import numpy as np
import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from qforge_sdk.chem.electrons import LANTHANIDES
from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.smiles import validate_here
from qforge_sdk.errors import ComputationFailed, InvalidInput

SEED: Final = 42
"""Seed of RDKit's random numbers where none is given."""

DECIMALS: Final = 6
"""Of positions in angstrom: a millionth of one changes an energy by less than 1e-7 hartree."""

_EMBED_SECONDS: Final = 60
_FORCE_FIELD_STEPS: Final = 5000
_STRETCHED_ANGSTROM: Final = 0.15
# Distances in units of the sum of covalent radii. Bonds of sound molecules lie between 0.78 (CO) and 1.13 (H2), the
# closest atoms of a molecule without a bond, across bicyclobutane, are at 1.23, and NaCl as two ions is at 0.90.
_BOND_RANGE: Final = (0.65, 1.5)
_CLOSEST_UNBOUND: Final = 1.12
_CLOSEST_FRAGMENTS: Final = 0.65
_FRAGMENT_GAP_ANGSTROM: Final = 3.0
_TABLE: Final = Chem.GetPeriodicTable()
_TETRAHEDRAL: Final = {Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW}
_BY_NEIGHBOURS: Final = {5: Chem.ChiralType.CHI_TRIGONALBIPYRAMIDAL, 6: Chem.ChiralType.CHI_OCTAHEDRAL}


@dataclass(frozen=True, slots=True, eq=False)
class Conformer:
    """A geometry that was made of a SMILES, and how.

    Parameters
    ----------
    geometry
        Angstrom; atoms in the order of the canonical SMILES, hydrogens behind.
    charge
        Sum of formal charges, e.
    unpaired_electrons
        Sum of radical electrons; of a bare lanthanide ion only those outside its f shell, which belongs to the core.
    provenance
        JSON: ``generator`` (ETKDGv3, or DG for distance geometry without torsions), ``random_coordinates``, ``seed``,
        ``n_conformers`` (asked for), ``n_embedded``, ``chosen`` (from 0), ``force_field`` (MMFF94, UFF or null),
        ``energy`` of the chosen one in ``energy_unit``, ``relaxed`` (whether the force field reached its minimum),
        ``rdkit_version``.
    """

    geometry: Geometry
    charge: int
    unpaired_electrons: int
    provenance: Mapping[str, Any]


class _Attempt(NamedTuple):
    """One way to embed a molecule."""

    knowledge: bool
    random_coordinates: bool
    tries: int

    @property
    def generator(self) -> str:
        return "ETKDGv3" if self.knowledge else "DG"

    def parameters(self, seed: int) -> Any:
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        parameters.numThreads = 1
        parameters.timeout = _EMBED_SECONDS
        parameters.trackFailures = True
        parameters.useRandomCoords = self.random_coordinates
        parameters.useExpTorsionAnglePrefs = self.knowledge
        parameters.useBasicKnowledge = self.knowledge
        parameters.maxIterations = self.tries
        return parameters


# Nearly every molecule needs the first only, long chains the second. What is bent against all experience, such as
# fullerenes and paracyclophanes, needs distance geometry without torsions. 0 tries are ten for each atom.
_ATTEMPTS: Final = (
    _Attempt(knowledge=True, random_coordinates=False, tries=150),
    _Attempt(knowledge=True, random_coordinates=True, tries=50),
    _Attempt(knowledge=False, random_coordinates=False, tries=50),
    _Attempt(knowledge=False, random_coordinates=True, tries=50),
    _Attempt(knowledge=True, random_coordinates=True, tries=0),
)


class _Relaxed(NamedTuple):
    """Conformers of one molecule and their energies in one force field, kcal/mol."""

    molecule: Chem.Mol
    force_field: str | None
    energies: list[float]
    converged: list[bool]


def geometry_from_smiles(
    smiles: str, *, seed: int = SEED, n_conformers: int = 1, decimals: int = DECIMALS
) -> Conformer:
    """A three-dimensional structure of a molecule; the same SMILES and seed give the same bits.

    ETKDGv3 makes the conformers, from random coordinates or by plain distance geometry where it finds none otherwise.
    MMFF94 relaxes them, or UFF where MMFF94 has no parameters; where neither has, they stay as they are. The one of
    lowest energy is taken whose atoms do not clash and whose stereochemistry is that of the SMILES. Molecules joined
    by dots are put side by side before they are relaxed together.

    Parameters
    ----------
    smiles
        One molecule or several joined by dots, in any spelling.
    seed
        Of RDKit's random numbers, 0 or more.
    n_conformers
        How many to choose from.
    decimals
        To which positions in angstrom are rounded, so that the last bits of another machine do not show.

    Returns
    -------
    Conformer
        With charge, unpaired electrons and provenance.

    Raises
    ------
    ComputationFailed
        ``no_geometry``: the message says why.
    InvalidSmiles
        RDKit refuses the SMILES.
    InvalidInput
        ``seed`` is below 0, ``n_conformers`` below 1, or ``decimals`` below 3.

    References
    ----------
    * S. Wang, J. Witek, G. A. Landrum, S. Riniker, J. Chem. Inf. Model. 2020, 60, 2044, doi:10.1021/acs.jcim.0c00025
    * T. A. Halgren, J. Comput. Chem. 1996, 17, 490,
      doi:10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.CO;2-P
    * A. K. Rappé et al., J. Am. Chem. Soc. 1992, 114, 10024, doi:10.1021/ja00051a040
    """
    for name, value, least in (("seed", seed, 0), ("n_conformers", n_conformers, 1), ("decimals", decimals, 3)):
        _require_whole(name, value, least)
    valid = validate_here(smiles)
    with rdBase.BlockLogs():
        # Every spelling gives the same geometry.
        molecule = _with_polyhedra(Chem.AddHs(Chem.MolFromSmiles(valid.smiles)))
        embedded, attempt = _embed(molecule, int(seed), int(n_conformers))
        found, chosen = _choose(_side_by_side(embedded))
    positions = found.molecule.GetConformer(chosen).GetPositions()
    symbols = tuple(atom.GetSymbol() for atom in found.molecule.GetAtoms())
    return Conformer(
        # Adding zero turns -0.0 into 0.0, which prints differently.
        Geometry(symbols, np.round(positions, int(decimals)) + 0.0, comment=valid.smiles),
        charge=valid.charge,
        unpaired_electrons=_unpaired(found.molecule),
        provenance={
            "generator": attempt.generator,
            "random_coordinates": attempt.random_coordinates,
            "seed": int(seed),
            "n_conformers": int(n_conformers),
            "n_embedded": found.molecule.GetNumConformers(),
            "chosen": chosen,
            "force_field": found.force_field,
            "energy": found.energies[chosen] if found.force_field else None,
            "energy_unit": "kcal/mol",
            "relaxed": found.converged[chosen],
            "rdkit_version": rdkit.__version__,
        },
    )


def _require_whole(name: str, value: object, least: int) -> None:
    # RDKit keeps them in 32 bits.
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 2**31:
        raise InvalidInput(
            f"{name} is a whole number from {least} to 2147483647, not {value!r}", field=name, value=value
        )


def _with_polyhedra(molecule: Chem.Mol) -> Chem.Mol:
    """Five and six neighbours at the corners of a polyhedron: RDKit would squeeze them into a tetrahedron."""
    for atom in molecule.GetAtoms():
        polyhedron = _BY_NEIGHBOURS.get(atom.GetDegree())
        if polyhedron is not None and atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            atom.SetChiralTag(polyhedron)
            atom.SetIntProp("_chiralPermutation", 1)
    return molecule


def _unpaired(molecule: Chem.Mol) -> int:
    return sum(
        max(3 - atom.GetFormalCharge(), 0) % 2
        if atom.GetAtomicNum() in LANTHANIDES and not atom.GetDegree()
        else atom.GetNumRadicalElectrons()
        for atom in molecule.GetAtoms()
    )


def _embed(molecule: Chem.Mol, seed: int, n_conformers: int) -> tuple[Chem.Mol, _Attempt]:
    """The molecule with its conformers, and the attempt that gave them."""
    reason = ""
    for attempt in _ATTEMPTS:
        parameters = attempt.parameters(seed)
        try:
            rdDistGeom.EmbedMultipleConfs(molecule, n_conformers, parameters)
        except (RuntimeError, ValueError) as exc:
            reason = str(exc).strip().partition("\n")[0]
            continue
        if molecule.GetNumConformers():
            return molecule, attempt
        reason = _most_frequent(parameters.GetFailureCounts())
    raise ComputationFailed(f"RDKit found no conformer: {reason}", code="no_geometry")


def _most_frequent(counts: Any) -> str:
    """What stood in the way of most attempts."""
    causes = {int(cause): name for name, cause in rdDistGeom.EmbedFailureCauses.names.items()}
    number = max(range(len(counts)), key=counts.__getitem__, default=0)
    if counts[int(rdDistGeom.EmbedFailureCauses.EXCEEDED_TIMEOUT)]:
        return f"it took longer than {_EMBED_SECONDS} s"
    return f"most attempts failed at {causes.get(number, 'unknown').lower().replace('_', ' ')}"


def _side_by_side(molecule: Chem.Mol) -> Chem.Mol:
    """Fragments, which RDKit embeds on top of each other, at a distance: around the largest one."""
    fragments = sorted((list(one) for one in Chem.GetMolFrags(molecule)), key=len, reverse=True)
    if len(fragments) == 1:
        return molecule
    directions = _directions(len(fragments) - 1)
    for conformer in molecule.GetConformers():
        positions = conformer.GetPositions()
        placed = positions[fragments[0]] - positions[fragments[0]].mean(axis=0)
        positions[fragments[0]] = placed
        for fragment, direction in zip(fragments[1:], directions, strict=True):
            shape = positions[fragment] - positions[fragment].mean(axis=0)
            positions[fragment] = _beside(placed, shape, direction)
            placed = np.concatenate([placed, positions[fragment]])
        conformer.SetPositions(positions)
    return molecule


def _beside(placed: FloatArray, shape: FloatArray, direction: FloatArray) -> FloatArray:
    distance = 0.0
    while True:
        moved = shape + distance * direction
        if np.linalg.norm(moved[:, None] - placed[None], axis=-1).min() >= _FRAGMENT_GAP_ANGSTROM:
            return moved
        distance += 0.1


def _directions(count: int) -> FloatArray:
    """Unit vectors spread over the sphere by the golden angle."""
    steps = np.arange(count)
    z = 1.0 - (2.0 * steps + 1.0) / count
    angle = steps * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def _choose(embedded: Chem.Mol) -> tuple[_Relaxed, int]:
    """The lowest sound conformer of the first force field that gives one."""
    fault = ""
    for found in _relaxed(embedded):
        for index in sorted(range(len(found.energies)), key=found.energies.__getitem__):
            fault = _fault(found.molecule, index)
            if not fault:
                return found, index
    raise ComputationFailed(f"no conformer is sound: {fault}", code="no_geometry")


def _relaxed(embedded: Chem.Mol) -> Iterator[_Relaxed]:
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(embedded) and _mmff_knows_bonds(embedded):
        yield _relax(embedded, "MMFF94", rdForceFieldHelpers.MMFFOptimizeMoleculeConfs)
    if rdForceFieldHelpers.UFFHasAllMoleculeParams(embedded):
        yield _relax(embedded, "UFF", rdForceFieldHelpers.UFFOptimizeMoleculeConfs)
    nothing = [0.0] * embedded.GetNumConformers()
    yield _Relaxed(embedded, None, nothing, [False] * len(nothing))


def _relax(embedded: Chem.Mol, name: str, optimize: Any) -> _Relaxed:
    molecule = Chem.Mol(embedded)
    # By default fragments would not feel each other.
    results = optimize(molecule, numThreads=1, maxIters=_FORCE_FIELD_STEPS, ignoreInterfragInteractions=False)
    return _Relaxed(molecule, name, [energy for _, energy in results], [flag == 0 for flag, _ in results])


def _mmff_knows_bonds(molecule: Chem.Mol) -> bool:
    return not any(map(_is_stretched_by_mmff, molecule.GetBonds()))


def _is_stretched_by_mmff(bond: Chem.Bond) -> bool:
    # Without a bond of its own, MMFF94 as RDKit has it takes single-bond radii: 1.46 A in N2, 1.41 A in CO2.
    # P=S is the one where MMFF94 (1.95 A) is right and UFF (1.73 A) is not.
    atoms = bond.GetBeginAtom(), bond.GetEndAtom()
    if "P" in {atom.GetSymbol() for atom in atoms}:
        return False
    molecule, (first, second) = bond.GetOwningMol(), (atom.GetIdx() for atom in atoms)
    mmff = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule).GetMMFFBondStretchParams(molecule, first, second)
    uff = rdForceFieldHelpers.GetUFFBondStretchParams(molecule, first, second)
    return bool(mmff and uff and mmff[2] - uff[1] > _STRETCHED_ANGSTROM)


def _fault(molecule: Chem.Mol, conformer: int) -> str:
    """Why a conformer is not the molecule, empty where it is."""
    positions = molecule.GetConformer(conformer).GetPositions()
    if not np.isfinite(positions).all():
        return "a position is not finite"
    return _clash(molecule, positions) or _other_stereo(molecule, conformer)


def _clash(molecule: Chem.Mol, positions: FloatArray) -> str:
    radii = np.array([_TABLE.GetRcovalent(atom.GetAtomicNum()) for atom in molecule.GetAtoms()])
    first, second = np.triu_indices(len(radii), 1)
    ratio = np.linalg.norm(positions[first] - positions[second], axis=1) / (radii[first] + radii[second])
    # How many bonds lie between two atoms; huge where there is no way.
    steps = Chem.GetDistanceMatrix(molecule)[first, second]
    bonded, apart = steps == 1, steps > len(radii)
    lowest = np.select([bonded, apart], [_BOND_RANGE[0], _CLOSEST_FRAGMENTS], _CLOSEST_UNBOUND)
    wrong = np.flatnonzero((ratio < lowest) | (bonded & (ratio > _BOND_RANGE[1])))
    if not len(wrong):
        return ""
    one, other = int(first[wrong[0]]), int(second[wrong[0]])
    names = [f"{molecule.GetAtomWithIdx(index).GetSymbol()}{index}" for index in (one, other)]
    distance = float(np.linalg.norm(positions[one] - positions[other]))
    return f"{names[0]} and {names[1]} are {distance:.2f} angstrom apart"


def _other_stereo(molecule: Chem.Mol, conformer: int) -> str:
    seen = Chem.Mol(molecule)
    Chem.AssignStereochemistryFrom3D(seen, conformer)
    for atom, found in zip(molecule.GetAtoms(), seen.GetAtoms(), strict=True):
        # RDKit does not see every stereocentre in three dimensions, such as a phosphine's.
        tags = {atom.GetChiralTag(), found.GetChiralTag()}
        if tags == _TETRAHEDRAL:
            return f"the stereocentre {atom.GetSymbol()}{atom.GetIdx()} came out inverted"
    for bond, found in zip(molecule.GetBonds(), seen.GetBonds(), strict=True):
        if bond.GetStereo() > Chem.BondStereo.STEREOANY and found.GetStereo() != bond.GetStereo():
            return f"the double bond {bond.GetBeginAtomIdx()}={bond.GetEndAtomIdx()} came out inverted"
    return ""
