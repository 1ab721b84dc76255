"""Structures as pictures, DataFrames with structures, and HTML that holds nothing but our own tags."""

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qforge_sdk import display
from qforge_sdk.drawing import MOST_DRAWN_ATOMS, Undrawn, drawing
from qforge_sdk.errors import InvalidInput, UnknownField
from qforge_sdk.wording import NOTHING
from tests.fixtures.html import ATTACKS, tags_of, text_of
from tests.unit.test_chem_pool import carbon_torus

PACKAGE = Path(display.__file__).parent


def words(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


# Structures


def test_a_structure_is_svg_on_a_card_of_the_size_that_was_asked_for():
    root = ET.fromstring(display.structure_svg("OCC", size=(300, 200)))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("300", "200", "0 0 300 200")
    card, *paths = root
    assert (card.get("fill"), card.get("rx")) == ("#ffffff", "8")
    assert len(paths) >= 3
    assert root.get("aria-label") == "OCC"


def test_many_structures_fit_one_page():
    svg = display.structure_svg("C[C@H](N)C(=O)O") + display.structure_svg("c1ccccc1")
    assert "<?xml" not in svg
    assert re.findall(r"\s(?:id|class)=", svg) == []
    assert svg.count("<svg ") == 2


def test_stereochemistry_and_charges_are_drawn():
    assert display.structure_svg("C[C@H](N)C(=O)O") != display.structure_svg("C[C@@H](N)C(=O)O")
    assert display.structure_svg("C[NH3+]") != display.structure_svg("CN")


@pytest.mark.parametrize("spelling", ["OCC", "C(C)O", "[CH3][CH2][OH]", "[H]OC([H])([H])C([H])([H])[H]"])
def test_every_spelling_draws_an_atom_once(spelling: str):
    assert display.structure_svg(spelling).count("#FF0000") == display.structure_svg("CCO").count("#FF0000")


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        (None, "no SMILES"),
        (pd.NA, "no SMILES"),
        (float("nan"), "no SMILES"),
        ("", "no SMILES"),
        ("C1=CC", "not a SMILES"),
        ("C=C(F)(F)F", "cannot be drawn"),
        ("c1cccc1", "cannot be drawn"),
        ("C" * (MOST_DRAWN_ATOMS + 1), "251 heavy atoms"),
        ("C(" * 2_000 + "C" + ")" * 2_000, "too large to draw"),
        ("C\ud800", "cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_shows_its_formula_and_why(smiles: Any, reason: str):
    assert words(display.structure_svg(smiles, formula="C2<H6>")) == ["C2<H6>", reason]
    assert words(display.structure_svg(smiles)) == [reason]
    assert words(display.structure_svg(smiles, formula=pd.NA)) == [reason]


def test_the_largest_structure_that_is_drawn():
    assert words(display.structure_svg("C" * MOST_DRAWN_ATOMS)) == []


def test_rings_that_hold_rdkit_for_minutes_are_not_drawn():
    with pytest.raises(Undrawn, match="too many rings"):
        drawing(carbon_torus(4, 14), 220, 150)
    assert words(display.structure_svg("c1cc2ccc3ccc4ccc5ccc6ccc1c1c2c3c4c5c61")) == [], "coronene"


def test_a_long_formula_fits_its_card():
    (name, _) = ET.fromstring(display.structure_svg(None, formula="C" * 500)).iter("{http://www.w3.org/2000/svg}text")
    assert len(name.text or "") == 40
    assert 40 * 0.6 * int(name.get("font-size") or 0) < 220


@pytest.mark.parametrize("size", [(19, 100), (100, 4001), (100,), 100, "ab", (100.0, 100.0), (True, 100)])
def test_a_size_that_is_none_is_refused(size: Any):
    with pytest.raises(InvalidInput, match="two whole numbers from 20 to 4,000"):
        display.structure_svg("CCO", size=size)


def test_a_uri_holds_the_same_picture():
    head, _, data = display.structure_uri("CCO", size=(100, 80)).partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data).decode() == display.structure_svg("CCO", size=(100, 80))


@given(st.text(max_size=30))
def test_no_text_makes_a_picture_fail(text: str):
    ET.fromstring(display.structure_svg(text, formula=text))
    assert tags_of(display.structure(text, formula=text)) == ["img"]


def test_rdkit_loads_with_the_first_picture_only():
    code = (
        "import sys; from qforge_sdk import display; display.table({'a': 'b'}); print('rdkit' in sys.modules); "
        "display.structure_svg('C'); print('rdkit' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert ran.stdout.split() == ["False", "True"]


# DataFrames


FRAME = pd.DataFrame(
    {"smiles": ["CCO", None, "nonsense"], "formula": ["C2H6O", "FeCl2", None], "gap": [9.1, np.nan, 2.0]},
    index=pd.Index(["a", "b", "c"], name="key"),
)


def rows_of(html: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", html)]


def test_structures_stand_beside_the_other_columns():
    shown = display.structures(FRAME)
    head, first, second, third = rows_of(shown._repr_html_())
    assert head == ["key", "structure", "smiles", "formula", "gap"]
    assert [first[0], *first[2:]] == ["<b>a</b>", "CCO", "C2H6O", "9.1"]
    assert first[1] == display.structure("CCO", formula="C2H6O")
    assert second[1:] == [display.structure(None, formula="FeCl2"), NOTHING, "FeCl2", NOTHING]
    assert third[1] == display.structure("nonsense")


def test_the_dataframe_stays_as_it_was():
    before = FRAME.copy()
    shown = display.structures(FRAME)
    shown._repr_html_()
    assert shown.data is FRAME
    pd.testing.assert_frame_equal(FRAME, before)
    assert repr(shown) == "StructureTable(3 rows, structures of 'smiles'; .data is the DataFrame)"


def test_only_the_first_rows_are_shown_and_the_others_are_told_of():
    html = display.structures(pd.DataFrame({"smiles": ["C"] * 1_234}))._repr_html_()
    assert html.count("<img ") == display.SHOWN_ROWS == 50
    assert html.endswith("<p>50 of 1,234 rows</p>")
    assert display.structures(FRAME, rows=2)._repr_html_().endswith("<p>2 of 3 rows</p>")
    assert "rows</p>" not in display.structures(FRAME, rows=3)._repr_html_()


def test_an_empty_frame_has_its_columns():
    assert rows_of(display.structures(FRAME.iloc[:0])._repr_html_()) == [
        ["key", "structure", "smiles", "formula", "gap"]
    ]
    assert rows_of(display.frame_table(pd.DataFrame())) == [[]]


def test_of_columns_of_one_name_the_first_counts_and_all_are_shown():
    frame = pd.DataFrame([["CCO", "N", 1]], columns=["smiles", "smiles", "id"])
    head, line = rows_of(display.structures(frame)._repr_html_())
    assert head == ["structure", "smiles", "smiles", "id"]
    assert line == [display.structure("CCO"), "CCO", "N", "1"]


def test_columns_and_indexes_of_several_levels_are_shown():
    columns = pd.MultiIndex.from_tuples([("mol", "smiles"), ("result", "gap")])
    frame = pd.DataFrame(
        [["CCO", 1.5]], columns=columns, index=pd.MultiIndex.from_tuples([("a", 1)], names=["x", None])
    )
    head, line = rows_of(display.structures(frame, ("mol", "smiles"))._repr_html_())
    assert head == ["x, ", "structure", "mol, smiles", "result, gap"]
    assert line[0] == "<b>a, 1</b>"


def test_a_categorical_column_is_drawn_too():
    frame = pd.DataFrame({"structure": pd.Categorical(["CCO", None])})
    assert display.structures(frame, "structure")._repr_html_().count("<img ") == 2


def test_a_missing_column_is_named_with_the_nearest():
    with pytest.raises(UnknownField, match=r"no column 'smile'; did you mean 'smiles'\?"):
        display.structures(FRAME, "smile")


@pytest.mark.parametrize(("rows", "size"), [(-1, (100, 100)), (2.5, (100, 100)), (True, (100, 100)), (5, (1, 1))])
def test_options_that_mean_nothing_are_refused(rows: Any, size: Any):
    with pytest.raises(InvalidInput):
        display.structures(FRAME, rows=rows, size=size)


def test_something_else_than_a_dataframe_is_refused():
    with pytest.raises(InvalidInput, match="takes a DataFrame, not list; of a Query, call"):
        display.structures(["CCO"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-11.394337, "-11.394337"), (2.0, "2"), (0.0, "0"), (1e-7, "1e-07"), (6.02214076e23, "6.02214e+23"),
        (12345678, "12345678"), (True, "yes"), (np.int64(7), "7"), (float("inf"), "inf"), (None, NOTHING),
        (pd.NaT, NOTHING),
        (pd.Timestamp("2026-05-01 12:00:00.123456", tz="UTC"), "2026-05-01 12:00:00 UTC"),
        ({"a": "é", "b": [1]}, "{&quot;a&quot;: &quot;é&quot;, &quot;b&quot;: [1]}"), ({(1, 2): 3}, "{(1, 2): 3}"),
        (b"\x01\xff", "01ff"), ("x" * 300, "x" * 199 + "…"), ("a\0b\ud800", "a\ufffdb\ufffd"),
    ],
)  # fmt: skip
def test_values_are_written_for_people(value: Any, shown: str):
    assert rows_of(display.table({"it": value})) == [["it", shown]]


def test_numbers_stand_to_the_right_with_the_gaps_among_them():
    html = display.frame_table(pd.DataFrame({"n": pd.array([1, None], "Int64"), "t": ["x", "y"]}))
    styles = re.findall(r'<t[hd] style="text-align:(\w+)">', html)
    assert styles == ["right", "left"] * 3


# Escaping


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_builder_lets_markup_through(attack: str):
    frame = pd.DataFrame(
        [[attack, attack, {attack: attack}]], columns=["smiles", attack, "formula"],
        index=pd.Index([attack], name=attack),
    )  # fmt: skip
    html = display.together(
        attack, display.paragraph(attack), display.preformatted(attack), display.details(attack, attack),
        display.failure(ValueError(attack)), display.table({attack: attack}, caption=attack),
        display.counts_table({attack: 1}, caption=attack), display.frame_table(frame, caption=attack),
        display.record(attack, {attack: attack}, picture=display.structure(attack, formula=attack)),
        display.structures(frame)._repr_html_(), display.structure_svg(attack, formula=attack),
        display.element("p", attack, title=attack),
    )  # fmt: skip
    tags = "b caption details div img p pre rect summary svg table tbody td text th thead tr"
    assert sorted(set(tags_of(html))) == tags.split()
    assert text_of(html).count(attack) > 10


def test_no_attribute_is_left_by_a_quote():
    seen: list[list[tuple[str, str | None]]] = []

    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(attrs)

    Attributes().feed(display.element("p", title="\" onmouseover='alert(1)' x=\""))
    assert seen == [[("title", "\" onmouseover='alert(1)' x=\"")]]


def test_what_is_html_already_stays_and_what_is_joined_to_it_does_not():
    assert display.paragraph(display.element("b", "<")) == "<p><b>&lt;</b></p>"
    assert display.paragraph(display.element("b", "x") + "<i>") == "<p>&lt;b&gt;x&lt;/b&gt;&lt;i&gt;</p>"


def test_no_other_module_builds_html():
    found = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(
            r"^\s*(from html|import html)\b|to_html\(|['\"]</?(table|tr|td|th|p|div|span|pre|img|b|i)\b",
            path.read_text(),
            re.M,
        )
    }
    assert found == {"display.py"}
