"""A structure drawn by RDKit, or a word why it is not."""

from __future__ import annotations

import re
from typing import Any, Final

from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

MOST_DRAWN_ATOMS: Final = 250
"""Heavy atoms of the largest structure that is drawn."""

# More than a readable picture has. RDKit tries out double bonds in one system of aromatic rings: 23 rings of a torus
# take it 20 ms, 29 take it minutes.
_LONGEST_SMILES: Final = 2_000
_MOST_RINGS: Final = 100
_MOST_FUSED_RINGS: Final = 24
_TOO_MANY_RINGS: Final = "too many rings to draw"

# RDKit's comments, the names of its atoms and bonds, and what every SVG has by default: a third of the text.
_SURPLUS: Final = re.compile(
    r"<\?xml.*?\?>|<!--.*?-->| class='[^']*'"
    r"|fill-rule:evenodd;|stroke-line(?:cap:butt|join:miter);|;?stroke-opacity:1;?",
    re.DOTALL,
)

# Red, green and blue of elements whose colours in RDKit are too light on white.
_PALETTE: Final = {9: (0.0, 0.5, 0.5), 15: (0.8, 0.4, 0.0), 16: (0.6, 0.5, 0.0), 17: (0.0, 0.55, 0.0)}


class Undrawn(Exception):
    """There is no picture; the message says why in a few words."""


def drawing(smiles: str, width: int, height: int) -> str:
    """What is inside the ``<svg>`` of a structure: paths in RDKit's colours, nothing behind them.

    Parameters
    ----------
    smiles
        In any spelling.
    width, height
        Pixels.

    Returns
    -------
    str
        SVG elements without ids and classes.

    Raises
    ------
    Undrawn
        The SMILES cannot be read, or the structure is too large for a picture.
    """
    with rdBase.BlockLogs():
        try:
            molecule = _molecule(smiles)
            drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
            options: Any = drawer.drawOptions()
            options.clearBackground = False
            options.fixedBondLength = 30.0
            options.padding = 0.08
            options.updateAtomPalette(_PALETTE)
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
        except (ValueError, RuntimeError) as exc:
            raise Undrawn("cannot be drawn") from exc
        drawer.FinishDrawing()
    svg = _SURPLUS.sub("", drawer.GetDrawingText())
    return svg[svg.index(">") + 1 : svg.rindex("</svg>")].strip()


def _molecule(smiles: str) -> Any:
    if len(smiles) > _LONGEST_SMILES:
        raise Undrawn("too large to draw")
    parser: Any = Chem.SmilesParserParams()
    parser.allowCXSMILES = parser.parseName = parser.removeHs = parser.sanitize = False
    # Counted before RDKit searches rings and double bonds, which can take it for ever.
    raw: Any = Chem.MolFromSmiles(smiles, parser)
    if raw is None:
        raise Undrawn("not a SMILES")
    if raw.GetNumHeavyAtoms() > MOST_DRAWN_ATOMS:
        raise Undrawn(f"{raw.GetNumHeavyAtoms():,} heavy atoms")
    if raw.GetNumBonds() - raw.GetNumAtoms() >= _MOST_RINGS or _fused_rings(raw) > _MOST_FUSED_RINGS:
        raise Undrawn(_TOO_MANY_RINGS)
    molecule = Chem.RemoveHs(raw, sanitize=False)
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistry(molecule, cleanIt=True)
    if _fused_rings(molecule) > _MOST_FUSED_RINGS:
        raise Undrawn(_TOO_MANY_RINGS)
    return molecule


def _fused_rings(molecule: Any) -> int:
    """Rings of the largest system of aromatic bonds."""
    aromatic = [bond.GetIdx() for bond in molecule.GetBonds() if bond.GetIsAromatic()]
    if not aromatic:
        return 0
    systems: Any = Chem.GetMolFrags(Chem.PathToSubmol(molecule, aromatic), asMols=True, sanitizeFrags=False)
    rings: list[int] = [one.GetNumBonds() - one.GetNumAtoms() + 1 for one in systems]
    return max(rings)
