"""The paragraph counts what is in the frame, and every reference that it names is in the BibTeX."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

import qforge_sdk as qf
from qforge_sdk import citations
from qforge_sdk.citations import REFERENCES
from qforge_sdk.compute import ENGINES, get_engine
from qforge_sdk.errors import InvalidInput


def frame(*rows: tuple[Any, ...], **columns: list[Any]) -> pd.DataFrame:
    """Method, solvation, solvent, version."""
    return pd.DataFrame(rows, columns=["method", "solvation", "solvent", "xtb_version"]).assign(**columns)


GAS = ("GFN2-xTB", None, None, "tblite 0.8.0")
WATER = ("GFN2-xTB", "ALPB", "water", "6.5.1")


def test_one_level_of_theory_is_one_plain_sentence():
    found = qf.cite(frame(GAS, GAS, optimized=[False, False], molecule_id=[1, 1]))
    assert found.text.splitlines()[0] == (
        "2 calculations of 1 molecule were carried out with GFN2-xTB [1], in the gas phase, using tblite 0.8.0 [2]. "
        "Geometries were not optimised."
    )
    assert found.keys == ["bannwarth2019", "katbashev2025"]


def test_several_levels_are_counted_the_most_frequent_first():
    rows = [GAS, GAS, WATER, ("GFN-FF", None, None, "6.7.1")]
    found = qf.cite(frame(*rows, optimized=[True, False, True, False]))
    assert found.text.splitlines()[0] == (
        "4 calculations were carried out with GFN2-xTB [1] (3) and GFN-FF [2] (1), in the gas phase (3) and in "
        "implicit solvent by ALPB [3] (water) (1), using tblite 0.8.0 [4] (2), xtb 6.5.1 [5] (1) and xtb 6.7.1 [5] "
        "(1). 2 geometries were optimised by BFGS as implemented in ASE [6] and by the optimiser of xtb."
    )


def test_metadata_tells_how_geometries_were_made():
    conformer = {"generator": "ETKDGv3", "force_field": "UFF", "rdkit_version": "2026.09.1"}
    metadata = [{"run": {"conformer": conformer}}, {"geometry": "AddHs, ETKDGv3, MMFF94", "rdkit": "2026.09.1"}, None]
    found = qf.cite(frame(GAS, GAS, GAS, metadata=metadata))
    assert found.text.splitlines()[0].endswith(
        "Geometries were generated with ETKDGv3 [3] and UFF [4] in RDKit 2026.09.1 [5] (1) and ETKDGv3 [3] and "
        "MMFF94 [6] in RDKit 2026.09.1 [5] (1)."
    )
    assert found.notes == ()


def test_plain_distance_geometry_is_called_so():
    conformer = {"generator": "DG", "force_field": None, "rdkit_version": None}
    found = qf.cite(frame(GAS, metadata=[{"run": {"conformer": conformer}}]))
    assert "Geometries were generated with distance geometry in RDKit [3]." in found.text


def test_without_metadata_a_note_says_what_is_left_out():
    assert "column metadata" in str(qf.cite(frame(GAS)))


def test_numbers_and_references_belong_together():
    found = qf.cite(frame(GAS, WATER))
    body, _, listed = found.text.partition("\n\n")
    numbers = list(dict.fromkeys(re.findall(r"\[(\d+)\]", body)))
    assert numbers == [line[1 : line.index("]")] for line in listed.splitlines()]
    assert [f"[{n}] {REFERENCES[key]}" for n, key in enumerate(found.keys, 1)] == listed.splitlines()


def test_latex_cites_what_the_bibtex_holds():
    found = qf.cite(frame(GAS, WATER, ("GFN1-xTB", "ddPCM", "dmso", "tblite 0.8.0"), optimized=[True] * 3))
    cited = set(re.findall(r"\\cite\{(\w+)\}", found.latex))
    assert cited == set(re.findall(r"@\w+\{(\w+),", found.bibtex)) == set(found.keys)
    assert "[" not in found.latex


def test_a_bibtex_entry_is_whole():
    assert qf.cite(frame(GAS)).bibtex.startswith(
        "@article{bannwarth2019,\n  author = {Bannwarth, C. and Ehlert, S. and Grimme, S.},\n  title = {{GFN2-xTB"
    )
    for key, reference in REFERENCES.items():
        entry = reference.bibtex(key)
        assert entry.count("{") == entry.count("}")
        assert re.fullmatch(r"10\.\d{4,5}/\S+", reference.doi)


@pytest.mark.parametrize("name", ENGINES)
def test_all_that_an_engine_computes_can_be_cited(name: str):
    engine: Any = get_engine(name)
    assert set(engine.methods) <= set(citations._METHODS)
    assert set(engine.solvations) <= set(citations._SOLVATIONS)
    assert name in citations._PROGRAMS


def test_what_has_no_reference_is_named_in_a_note():
    found = qf.cite(frame(("PBE0", "SMD", None, "orca 6.0")))
    assert "PBE0, in implicit solvent by SMD, using orca 6.0" in found.text
    assert {"No reference for PBE0 is known here.", "No reference for SMD is known here.",
            "No reference for orca is known here."} <= set(found.notes)  # fmt: skip


def test_a_version_that_is_not_stored_is_said_to_be_so():
    assert "a program whose version is not stored" in qf.cite(frame(("GFN2-xTB", None, None, None))).text


def test_braces_and_percent_signs_of_a_name_do_no_harm():
    found = qf.cite(frame(("100%_{method}", None, None, "6.5.1")))
    assert "100%_{method}" in found.text
    assert r"100\%\_{method}" in found.latex


def test_the_html_escapes_names():
    assert "<script>" not in qf.cite(frame(("<script>", None, None, "6.5.1")))._repr_html_()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pd.DataFrame({"method": ["GFN2-xTB"]}), "columns solvation, xtb_version"),
        (frame(), "has no row"),
        ([GAS], r"call \.df\(\)"),
    ],
)
def test_what_cannot_be_cited_is_refused(given: Any, words: str):
    with pytest.raises(InvalidInput, match=words):
        qf.cite(given)
