"""Structures of the sample data that follow a rule: substituted rings, homologous series, dipeptides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Final, NamedTuple


class Structure(NamedTuple):
    """One molecule before any calculation.

    Parameters
    ----------
    name
        What a chemist calls it; None where a systematic name would have to be derived.
    smiles
        As written, not yet canonical.
    category
        Group that it belongs to.
    """

    name: str | None
    smiles: str
    category: str


_COMMON: Final = (
    "F", "Cl", "Br", "C#N", "[N+](=O)[O-]", "N", "O", "OC", "C", "C(F)(F)F", "C=O", "C(=O)O", "N(C)C",
)  # fmt: skip
_SUBSTITUENTS: Final = (
    *_COMMON, "S(N)(=O)=O", "CC", "C(C)=O", "C(C)C", "C=C", "C#C", "C(N)=O", "C(=O)OC", "SC", "S(C)(=O)=O",
)  # fmt: skip
_DONORS: Final = ("N", "N(C)C", "O", "OC", "SC", "C")
_ACCEPTORS: Final = ("[N+](=O)[O-]", "C#N", "C=O", "C(F)(F)F", "C(C)=O", "S(C)(=O)=O")

_ONE_SITE: Final = (
    ("substituted benzene", "c1ccccc1{}"),
    ("substituted pyridine", "n1ccccc1{}"),
    ("substituted pyridine", "c1nccc({})c1"),
    ("substituted pyridine", "c1cncc({})c1"),
    ("substituted thiophene", "s1cccc1{}"),
    ("substituted thiophene", "c1sccc1{}"),
    ("substituted naphthalene", "c1ccc2c({})cccc2c1"),
    ("substituted naphthalene", "c1ccc2cc({})ccc2c1"),
    ("substituted cyclohexane", "C1CCCCC1{}"),
    ("substituted toluene", "c1ccccc1C{}"),
)
_ONE_SITE_COMMON: Final = (
    ("substituted furan", "o1cccc1{}"),
    ("substituted pyrrole", "[nH]1cccc1{}"),
    ("substituted imidazole", "c1[nH]cnc1{}"),
    ("substituted pyrimidine", "c1ncc({})cn1"),
    ("substituted pyrazine", "n1ccncc1{}"),
    ("substituted indole", "c1cc2[nH]ccc2cc1{}"),
    ("substituted quinoline", "c1ccc2nccc({})c2c1"),
    ("substituted benzothiophene", "c1ccc2sc({})cc2c1"),
    ("substituted carbazole", "c1ccc2c(c1)[nH]c1ccc({})cc12"),
    ("substituted anthracene", "c1ccc2c({})c3ccccc3cc2c1"),
    ("substituted uracil", "O=c1[nH]cc({})c(=O)[nH]1"),
    ("substituted coumarin", "O=c1ccc2ccc({})cc2o1"),
    ("substituted aniline", "CNc1ccc({})cc1"),
    ("substituted aniline", "c1ccccc1Nc1ccc({})cc1"),
    ("substituted aniline", "CC(=O)Nc1ccc({})cc1"),
)
_TWO_EQUAL_SITES: Final = (
    ("substituted benzene", "c1({})ccc({})cc1", _SUBSTITUENTS),
    ("substituted benzene", "c1({})cccc({})c1", _SUBSTITUENTS),
    ("substituted benzene", "c1({})ccccc1{}", _COMMON[:10]),
    ("substituted thiophene", "s1c({})ccc1{}", _COMMON),
    ("substituted naphthalene", "c1({})ccc({})c2ccccc12", _COMMON),
    ("substituted naphthalene", "c1({})ccc2cc({})ccc2c1", _COMMON),
    ("substituted biphenyl", "c1({})ccc(cc1)-c1ccc({})cc1", _COMMON[:9]),
)
_TWO_SITES: Final = (
    ("substituted pyridine", "n1cc({})ccc1{}", _COMMON, _COMMON),
    ("push-pull stilbene", "c1({})ccc(cc1)/C=C/c1ccc({})cc1", _DONORS, _ACCEPTORS),
    ("push-pull azobenzene", "c1({})ccc(cc1)/N=N/c1ccc({})cc1", _DONORS, _ACCEPTORS),
    ("push-pull bithiophene", "s1c({})ccc1-c1ccc({})s1", _DONORS, _ACCEPTORS),
)

_STEMS: Final = (
    "meth", "eth", "prop", "but", "pent", "hex", "hept", "oct", "non", "dec",
    "undec", "dodec", "tridec", "tetradec", "pentadec", "hexadec",
)  # fmt: skip
# Smallest number of carbon atoms, name, and what stands before and after the chain of the other carbon atoms.
_HOMOLOGUES: Final = (
    ("alkane", 1, "n-{}ane", "C", ""),
    ("alkene", 3, "1-{}ene", "C=C", ""),
    ("alkyne", 3, "1-{}yne", "C#C", ""),
    ("alcohol", 3, "1-{}anol", "C", "O"),
    ("amine", 3, "{}an-1-amine", "C", "N"),
    ("thiol", 3, "{}ane-1-thiol", "C", "S"),
    ("carboxylic acid", 3, "{}anoic acid", "C", "C(=O)O"),
    ("aldehyde", 3, "{}anal", "C", "C=O"),
    ("nitrile", 3, "{}anenitrile", "C", "C#N"),
    ("amide", 3, "{}anamide", "C", "C(N)=O"),
    ("haloalkane", 3, "1-fluoro{}ane", "C", "F"),
    ("haloalkane", 3, "1-chloro{}ane", "C", "Cl"),
    ("haloalkane", 3, "1-bromo{}ane", "C", "Br"),
    ("nitroalkane", 3, "1-nitro{}ane", "C", "[N+](=O)[O-]"),
)
_OLIGOMERS: Final = (
    ("cycloalkane", "C1{}C1", "C", range(1, 11)),
    ("polyene", "C{}=C", "=C/C=C/C", range(1, 4)),
    ("polyyne", "C{}#C", "#CC#CC", range(1, 4)),
    ("perfluoroalkane", "FC(F)(F){}F", "C(F)(F)", range(1, 9)),
    ("oligo(ethylene glycol)", "O{}CCO", "CCO", range(1, 7)),
    ("oligo(dimethylsiloxane)", "C[Si](C)(C){}C", "O[Si](C)(C)", range(1, 6)),
    ("oligothiophene", "c1ccsc1{}-c1cccs1", "-c1ccc(s1)", range(5)),
    ("oligophenylene", "c1ccccc1{}-c1ccccc1", "-c1ccc(cc1)", range(4)),
    ("oligoglycine", "N{}CC(=O)O", "CC(=O)N", range(1, 7)),
)
_RESIDUES: Final = {
    "Gly": "C", "Ala": "[C@@H](C)", "Val": "[C@@H](C(C)C)", "Leu": "[C@@H](CC(C)C)", "Ser": "[C@@H](CO)",
    "Thr": "[C@@H]([C@H](O)C)", "Cys": "[C@@H](CS)", "Met": "[C@@H](CCSC)", "Asp": "[C@@H](CC(=O)O)",
    "Asn": "[C@@H](CC(N)=O)", "Glu": "[C@@H](CCC(=O)O)", "Gln": "[C@@H](CCC(N)=O)", "Lys": "[C@@H](CCCCN)",
    "His": "[C@@H](Cc1c[nH]cn1)", "Phe": "[C@@H](Cc1ccccc1)", "Tyr": "[C@@H](Cc1ccc(O)cc1)",
    "Trp": "[C@@H](Cc1c[nH]c2ccccc12)",
}  # fmt: skip


def _substituted_rings() -> Iterator[Structure]:
    for category, core in _ONE_SITE:
        yield from (Structure(None, core.format(group), category) for group in _SUBSTITUENTS)
    for category, core in _ONE_SITE_COMMON:
        yield from (Structure(None, core.format(group), category) for group in _COMMON)
    for category, core, groups in _TWO_EQUAL_SITES:
        for pair in combinations_with_replacement(groups, 2):
            yield Structure(None, core.format(*pair), category)
    for category, core, first, second in _TWO_SITES:
        yield from (Structure(None, core.format(*pair), category) for pair in product(first, second))


def _homologous_series() -> Iterator[Structure]:
    for category, smallest, name, head, tail in _HOMOLOGUES:
        fixed = head.count("C") + (tail.startswith("C") and tail != "Cl")
        for n_carbons, stem in enumerate(_STEMS, start=1):
            if n_carbons >= smallest:
                yield Structure(name.format(stem), head + "C" * (n_carbons - fixed) + tail, category)


def _oligomers() -> Iterator[Structure]:
    for category, frame, unit, lengths in _OLIGOMERS:
        yield from (Structure(None, frame.format(unit * length), category) for length in lengths)


def _dipeptides() -> Iterator[Structure]:
    for (first, left), (second, right) in product(_RESIDUES.items(), repeat=2):
        yield Structure(f"{first}-{second}", f"N{left}C(=O)N{right}C(=O)O", "dipeptide")


def systematic_structures() -> Iterator[Structure]:
    """Every structure that follows a rule, in a fixed order; one molecule can come more than once.

    Yields
    ------
    Structure
        Substituted rings, homologous series, oligomers, then dipeptides of L-amino acids.
    """
    yield from _substituted_rings()
    yield from _homologous_series()
    yield from _oligomers()
    yield from _dipeptides()
