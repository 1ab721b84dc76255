"""How to cite what a DataFrame of calculations holds: a methods paragraph and BibTeX."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pandas as pd

from qforge_sdk import display
from qforge_sdk.errors import InvalidInput

_NEEDED: Final = ("method", "solvation", "xtb_version")
_TEX: Final = str.maketrans({character: f"\\{character}" for character in "%_&#$"})


class Reference(NamedTuple):
    """One publication.

    Parameters
    ----------
    authors
        As BibTeX takes them, joined by "and".
    title, journal, year, volume, pages, doi
        Empty where there is none.
    """

    authors: str
    title: str
    journal: str
    year: int
    volume: str
    pages: str
    doi: str

    def bibtex(self, key: str) -> str:
        """The BibTeX entry of that key."""
        kind = "article" if self.journal else "misc"
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "journal": self.journal,
            "year": str(self.year) if self.year else "",
            "volume": self.volume,
            "pages": self.pages.replace("-", "--"),
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{kind}{{{key},", *lines, "}"])

    def __str__(self) -> str:
        names = self.authors.replace(" and others", " et al.").replace(" and ", "; ")
        parts = [names, self.journal or self.title, str(self.year or ""), self.volume, self.pages, f"doi:{self.doi}"]
        return ", ".join(filter(None, parts))


REFERENCES: Final[dict[str, Reference]] = {
    "bannwarth2019": Reference(
        "Bannwarth, C. and Ehlert, S. and Grimme, S.",
        "GFN2-xTB - An Accurate and Broadly Parametrized Self-Consistent Tight-Binding Quantum Chemical Method with "
        "Multipole Electrostatics and Density-Dependent Dispersion Contributions",
        "J. Chem. Theory Comput.", 2019, "15", "1652-1671", "10.1021/acs.jctc.8b01176",
    ),
    "grimme2017": Reference(
        "Grimme, S. and Bannwarth, C. and Shushkov, P.",
        "A Robust and Accurate Tight-Binding Quantum Chemical Method for Structures, Vibrational Frequencies, and "
        "Noncovalent Interactions of Large Molecular Systems Parametrized for All spd-Block Elements (Z = 1-86)",
        "J. Chem. Theory Comput.", 2017, "13", "1989-2009", "10.1021/acs.jctc.7b00118",
    ),
    "pracht2019": Reference(
        "Pracht, P. and Caldeweyher, E. and Ehlert, S. and Grimme, S.",
        "A Robust Non-Self-Consistent Tight-Binding Quantum Chemistry Method for large Molecules",
        "ChemRxiv", 2019, "", "", "10.26434/chemrxiv.8326202.v1",
    ),
    "spicher2020": Reference(
        "Spicher, S. and Grimme, S.",
        "Robust Atomistic Modeling of Materials, Organometallic, and Biochemical Systems",
        "Angew. Chem. Int. Ed.", 2020, "59", "15665-15673", "10.1002/anie.202004239",
    ),
    "asgeirsson2017": Reference(
        "Asgeirsson, V. and Bauer, C. A. and Grimme, S.",
        "Quantum chemical calculation of electron ionization mass spectra for general organic and inorganic "
        "molecules",
        "Chem. Sci.", 2017, "8", "4879-4895", "10.1039/c7sc00601b",
    ),
    "bannwarth2021": Reference(
        "Bannwarth, C. and Caldeweyher, E. and Ehlert, S. and Hansen, A. and Pracht, P. and Seibert, J. and "
        "Spicher, S. and Grimme, S.",
        "Extended tight-binding quantum chemistry methods",
        "WIREs Comput. Mol. Sci.", 2021, "11", "e1493", "10.1002/wcms.1493",
    ),
    "katbashev2025": Reference(
        "Katbashev, A. and Stahn, M. and Rose, T. and Alizadeh, V. and Friede, M. and Plett, C. and Steinbach, P. "
        "and Ehlert, S.",
        "Overview on Building Blocks and Applications of Efficient and Robust Extended Tight Binding",
        "J. Phys. Chem. A", 2025, "129", "", "10.1021/acs.jpca.4c08263",
    ),
    "ehlert2021": Reference(
        "Ehlert, S. and Stahn, M. and Spicher, S. and Grimme, S.",
        "Robust and Efficient Implicit Solvation Model for Fast Semiempirical Methods",
        "J. Chem. Theory Comput.", 2021, "17", "4250-4261", "10.1021/acs.jctc.1c00471",
    ),
    "klamt1993": Reference(
        "Klamt, A. and Schüürmann, G.",
        "COSMO: a new approach to dielectric screening in solvents with explicit expressions for the screening "
        "energy and its gradient",
        "J. Chem. Soc., Perkin Trans. 2", 1993, "", "799-805", "10.1039/P29930000799",
    ),
    "nottoli2024": Reference(
        "Nottoli, M. and others",
        "ddX: Polarizable continuum solvation from small molecules to proteins",
        "WIREs Comput. Mol. Sci.", 2024, "14", "e1726", "10.1002/wcms.1726",
    ),
    "larsen2017": Reference(
        "Larsen, A. H. and others",
        "The atomic simulation environment - a Python library for working with atoms",
        "J. Phys.: Condens. Matter", 2017, "29", "273002", "10.1088/1361-648X/aa680e",
    ),
    "wang2020": Reference(
        "Wang, S. and Witek, J. and Landrum, G. A. and Riniker, S.",
        "Improving Conformer Generation for Small Rings and Macrocycles Based on Distance Geometry and Experimental "
        "Torsional-Angle Preferences",
        "J. Chem. Inf. Model.", 2020, "60", "2044-2058", "10.1021/acs.jcim.0c00025",
    ),
    "halgren1996": Reference(
        "Halgren, T. A.",
        "Merck molecular force field. I. Basis, form, scope, parameterization, and performance of MMFF94",
        "J. Comput. Chem.", 1996, "17", "490-519", "10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.CO;2-P",
    ),
    "rappe1992": Reference(
        "Rappé, A. K. and Casewit, C. J. and Colwell, K. S. and Goddard, W. A. and Skiff, W. M.",
        "UFF, a full periodic table force field for molecular mechanics and molecular dynamics simulations",
        "J. Am. Chem. Soc.", 1992, "114", "10024-10035", "10.1021/ja00051a040",
    ),
    "rdkit": Reference("Landrum, G. and others", "RDKit: Open-source cheminformatics", "", 0, "", "",
                       "10.5281/zenodo.591637"),
}  # fmt: skip
"""Publications by BibTeX key."""

_MARK: Final = re.compile(rf" ?\{{({'|'.join(REFERENCES)})\}}")

_METHODS: Final = {
    "GFN2-xTB": "bannwarth2019",
    "GFN1-xTB": "grimme2017",
    "GFN0-xTB": "pracht2019",
    "GFN-FF": "spicher2020",
    "IPEA1-xTB": "asgeirsson2017",
}
_SOLVATIONS: Final = {"ALPB": "ehlert2021", "GBSA": "ehlert2021", "COSMO": "klamt1993", "ddCOSMO": "nottoli2024",
                      "ddCPCM": "nottoli2024", "ddPCM": "nottoli2024"}  # fmt: skip
_PROGRAMS: Final = {"xtb": "bannwarth2021", "tblite": "katbashev2025"}
_GENERATORS: Final = {"ETKDGv3": "ETKDGv3 {wang2020}", "DG": "distance geometry"}
_FORCE_FIELDS: Final = {"MMFF94": "halgren1996", "UFF": "rappe1992"}


@dataclass(frozen=True, slots=True)
class Citation:
    """A methods paragraph and what it cites; made by :func:`cite`.

    Parameters
    ----------
    paragraph
        With BibTeX keys in braces behind what they belong to.
    notes
        What could not be cited, and why.
    """

    paragraph: str
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """BibTeX keys in the order of their first mention."""
        return list(dict.fromkeys(_MARK.findall(self.paragraph)))

    @property
    def text(self) -> str:
        """The paragraph with numbers in brackets, and the list of references."""
        numbers = {key: number for number, key in enumerate(self.keys, start=1)}
        body = _MARK.sub(lambda mark: f" [{numbers[mark[1]]}]", self.paragraph)
        return "\n".join([body, "", *(f"[{number}] {REFERENCES[key]}" for key, number in numbers.items())])

    @property
    def latex(self) -> str:
        r"""The paragraph with ``\cite``, for :attr:`bibtex`."""
        return _MARK.sub(lambda mark: rf"~\cite{{{mark[1]}}}", self.paragraph.translate(_TEX))

    @property
    def bibtex(self) -> str:
        """BibTeX entries of all references."""
        return "\n\n".join(REFERENCES[key].bibtex(key) for key in self.keys) + "\n"

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"Note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        body = (display.paragraph(line) for line in self.text.splitlines() if line)
        notes = (display.paragraph(display.element("i", note)) for note in self.notes)
        bibtex = display.details("BibTeX", display.preformatted(self.bibtex))
        return display.together(*body, *notes, bibtex)


def cite(df: pd.DataFrame) -> Citation:
    """Methods paragraph and BibTeX for the calculations of a DataFrame.

    Parameters
    ----------
    df
        Rows of calculations with the columns ``method``, ``solvation`` and ``xtb_version``. Used where they are
        there: ``solvent``, ``optimized``, ``molecule_id``, and ``metadata``, which knows how geometries were made.

    Returns
    -------
    Citation
        Its ``text``, ``latex`` and ``bibtex``.

    Raises
    ------
    InvalidInput
        It is no DataFrame, has no row, or lacks a column; the message names it.
    """
    if not isinstance(df, pd.DataFrame):
        raise InvalidInput("cite takes a DataFrame of calculations; of a Query, call .df()", field="df")
    missing = [name for name in _NEEDED if name not in df]
    if missing:
        raise InvalidInput(f"cite needs the columns {', '.join(missing)} of calculations too", field=missing[0])
    if df.empty:
        raise InvalidInput("there is nothing to cite: the DataFrame has no row", field="df")
    notes: list[str] = []
    sentences = [_levels(df, notes), _optimised(df), _geometries(df, notes)]
    return Citation(" ".join(filter(None, sentences)), tuple(dict.fromkeys(notes)))


def _levels(df: pd.DataFrame, notes: list[str]) -> str:
    methods = _counted(df["method"], lambda name: f"{name}{_mark(name, _METHODS, notes)}")
    media = _counted(_media(df), lambda name: _medium(name, notes))
    programs = _counted(df["xtb_version"].map(_program), lambda name: _with_reference(name, notes))
    molecules = f" of {_number(df['molecule_id'].nunique(), 'molecule')}" if "molecule_id" in df else ""
    verb = "was" if len(df) == 1 else "were"
    what = f"{_number(len(df), 'calculation')}{molecules}"
    return f"{what} {verb} carried out with {methods}, {media}, using {programs}."


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _optimised(df: pd.DataFrame) -> str:
    if "optimized" not in df:
        return ""
    optimized = df["optimized"].fillna(value=False).astype(bool)
    programs = {_program(version).partition(" ")[0] for version in df.loc[optimized, "xtb_version"]}
    if not programs:
        return "Geometries were not optimised."
    how = {"tblite": " by BFGS as implemented in ASE {larsen2017}", "xtb": " by the optimiser of xtb"}
    ways = " and".join(how[program] for program in sorted(programs) if program in how)
    count = int(optimized.sum())
    all_or_some = "All" if count == len(df) else f"{count:,}"
    return f"{all_or_some} geometries were optimised{ways}."


def _geometries(df: pd.DataFrame, notes: list[str]) -> str:
    if "metadata" not in df:
        notes.append("Select the column metadata as well to have the origin of the geometries cited.")
        return ""
    recipes = Counter(recipe for recipe in map(_recipe, df["metadata"]) if recipe)
    if not recipes:
        return ""
    described = _listed(
        (f"{_GENERATORS[generator]}{_relaxed(force_field)} in {program} {{rdkit}}", count)
        for (generator, force_field, program), count in sorted(recipes.items(), key=lambda item: -item[1])
    )
    return f"Geometries were generated with {described}."


def _relaxed(force_field: str) -> str:
    return f" and {force_field} {{{_FORCE_FIELDS[force_field]}}}" if force_field else ""


def _recipe(metadata: Any) -> tuple[str, str, str] | None:
    """Generator, force field and version of RDKit, as a batch or the sample data notes them."""
    if not isinstance(metadata, Mapping):
        return None
    run = metadata.get("run")
    conformer = run.get("conformer") if isinstance(run, Mapping) else None
    if isinstance(conformer, Mapping):
        words = [str(conformer.get("generator")), str(conformer.get("force_field"))]
        version = conformer.get("rdkit_version")
    else:
        words, version = str(metadata.get("geometry", "")).split(", "), metadata.get("rdkit")
    generator = next((name for name in _GENERATORS if name in words), None)
    if generator is None:
        return None
    force_field = next((name for name in _FORCE_FIELDS if name in words), "")
    return generator, force_field, f"RDKit {version}" if version else "RDKit"


def _media(df: pd.DataFrame) -> pd.Series[Any]:
    solvent = df["solvent"] if "solvent" in df else pd.Series([None] * len(df), index=df.index)
    pairs = zip(df["solvation"], solvent, strict=True)
    return pd.Series([(None if pd.isna(model) else model, None if pd.isna(name) else name) for model, name in pairs])


def _medium(medium: tuple[str | None, str | None], notes: list[str]) -> str:
    model, solvent = medium
    if model is None:
        return "in the gas phase"
    name = f" ({solvent})" if solvent else ""
    return f"in implicit solvent by {model}{_mark(model, _SOLVATIONS, notes)}{name}"


def _program(version: Any) -> str:
    if not isinstance(version, str) or not version:
        return "a program whose version is not stored"
    return version if " " in version else f"xtb {version}"


def _with_reference(program: str, notes: list[str]) -> str:
    if program.startswith("a program"):
        return program
    return f"{program}{_mark(program.partition(' ')[0], _PROGRAMS, notes)}"


def _mark(name: Any, known: Mapping[str, str], notes: list[str]) -> str:
    if name in known:
        return f" {{{known[name]}}}"
    notes.append(f"No reference for {name} is known here.")
    return ""


def _counted(values: Iterable[Any], describe: Callable[[Any], str]) -> str:
    return _listed((describe(value), count) for value, count in Counter(values).most_common())


def _listed(parts: Iterable[tuple[str, int]]) -> str:
    """``a (3), b (2) and c (1)``; a single part without its number."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0][0]
    words = [f"{text} ({count:,})" for text, count in parts]
    return f"{', '.join(words[:-1])} and {words[-1]}"
