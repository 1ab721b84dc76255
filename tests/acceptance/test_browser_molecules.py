"""The grid of molecules and the statistics in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from playwright.sync_api import Locator, expect
from sqlalchemy import text
from tblite.interface import Calculator

import qforge_sdk as qf
from qforge_sdk.chem.geometry import BOHR_IN_ANGSTROM
from qforge_sdk.data import load_sample
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.lab import Lab, Notebook

# A chart brings 5 MB of JavaScript, which a busy machine takes its time to read.
expect.set_options(timeout=40_000)

SAMPLE, WITH_GFN1 = 700, 150
IMAGE, SCRIPT = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
HOSTILE_METHOD = "<b>GFN</b> & %{x}"
# A load arrives at once, a screening takes weeks.
SPREAD = """
UPDATE public.calculations SET created_at = timestamptz '2026-03-02 08:00Z'
    + (id % 700 / 41) * interval '1 day' + (id % 700 / 205) * interval '2 days'
"""
CELLS = [
    "import qforge_sdk as qf\nclient = qf.connect(open('address').read())",
    "molecules = client.widgets.molecules(page_size=12)\nmolecules",
    "print(molecules.selected['formula'].tolist())",
    "stats = client.widgets.stats()\nstats",
]


def gfn1() -> pd.DataFrame:
    """The smallest molecules of the sample by another method, at the same geometries."""
    sample = load_sample()
    rows = []
    for source, atoms in sample.atoms.slice(0, 6000).to_pandas().groupby("source_id", sort=True):
        positions = atoms[["position_x", "position_y", "position_z"]].to_numpy() / BOHR_IN_ANGSTROM
        if len(atoms) > 12 or len(rows) == WITH_GFN1:
            continue
        calculator = Calculator("GFN1-xTB", atoms["atomic_number"].to_numpy(), positions)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
        energies, filled = result.get("orbital-energies"), result.get("orbital-occupations") > 1
        gap = (energies[~filled].min() - energies[filled].max()) * qf.quantities.HARTREE_IN_EV
        rows.append({"source": source, "energy": float(result.get("energy")), "gap": float(gap)})
    smiles = sample.calculations.to_pandas().set_index("source_id")["smiles"]
    found = pd.DataFrame(rows)
    return found.assign(smiles=found["source"].map(smiles), method="GFN1-xTB").drop(columns="source")


@pytest.fixture(scope="module")
def url(databases_of: DatabasesOf) -> Iterator[str]:
    """A database of real results by two methods."""
    databases = databases_of()
    with databases.clone() as name:
        url = databases.url(name)
        with qf.connect(url) as client:
            sample = load_sample()
            client.molecules.bulk_load(sample.molecules.select(["smiles", "name"]).slice(0, SAMPLE))
            client.calculations.bulk_load(gfn1())
            client.calculations.bulk_load(sample.calculations.slice(0, SAMPLE))
            with client.session() as session:
                session.execute(text(SPREAD))
        yield url


def opened(lab: Lab, url: str, *, dark: bool, width: int = 1300) -> Notebook:
    """A notebook that has connected; the address, which holds a password, stands in no cell."""
    (lab.folder / "address").write_text(str(url))
    notebook = lab.open(CELLS, dark=dark, width=width, height=1200)
    notebook.run(0)
    return notebook


def card(shown: Locator, title: str) -> Locator:
    return shown.locator(".qf-card").filter(has=shown.page.get_by_text(title, exact=True))


def search(shown: Locator, words: str) -> None:
    field = shown.get_by_placeholder("part of a name")
    field.fill(words)
    field.press("Enter")


def test_molecules_are_looked_through_searched_and_picked(lab: Lab, url: str):
    notebook = opened(lab, url, dark=False)
    shown = notebook.run(1)
    keys = shown.page.keyboard
    expect(shown.locator(".qf-card")).to_have_count(12)
    assert shown.locator(".qf-card img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    shown.locator(".qf-card").first.click()
    keys.press("ArrowRight")
    keys.press("ArrowDown")
    keys.press("Enter")
    expect(shown.locator(".qf-card[aria-selected=true]")).to_have_count(2)
    notebook.picture(shown.locator(".qf-panel"), "molecules")

    shown.get_by_title("Next page").click()
    expect(shown.get_by_text(f"13 to 24 of {SAMPLE} molecules")).to_be_visible()
    expect(shown.locator(".qf-card[aria-selected=true]")).to_have_count(0)
    search(shown, "OCC")
    expect(shown.get_by_text("Searched for the SMILES OCC (stored as CCO).")).to_be_visible()
    expect(shown.locator(".qf-card")).to_have_count(1)
    card(shown, "ethanol").focus()
    keys.press("Space")
    expect(shown.get_by_text("3 picked")).to_be_visible()
    assert notebook.run(2).inner_text().strip() == "['C14H10', 'C16H10', 'C2H6O']"

    search(shown, "OC2H6")
    expect(shown.get_by_text("Searched for the formula C2H6O.")).to_be_visible()
    expect(card(shown, "ethanol")).to_have_attribute("aria-selected", "true")
    shown.locator("select").first.select_option("SMILES")
    expect(shown.get_by_role("alert")).to_contain_text("'OC2H6': ")
    expect(shown.locator(".qf-card")).to_have_count(0)
    shown.get_by_role("button", name="Reset").click()
    expect(shown.get_by_text(f"1 to 12 of {SAMPLE} molecules")).to_be_visible()
    handle = shown.locator(".noUi-handle-lower").first
    handle.focus()
    keys.press("PageUp")
    expect(shown.get_by_text("Molecules without these numbers are left out.")).to_be_visible()
    shown.get_by_role("button", name="Clear picks").click()
    expect(shown.get_by_text("none picked")).to_be_visible()
    assert notebook.run(2).inner_text().strip() == "[]"
    notebook.assert_quiet()


def test_statistics_are_drawn_told_apart_and_hidden(lab: Lab, url: str):
    notebook = opened(lab, url, dark=False)
    shown = notebook.run(3)
    # A second legend's parts are called legend2text and so on.
    names, panel = shown.locator("[class^=legend][class$=text]"), shown.locator(".qf-panel")
    expect(shown.locator(".qf-fact").nth(1)).to_contain_text(str(SAMPLE + WITH_GFN1))
    expect(names).to_have_text(["GFN2-xTB", "GFN1-xTB"])
    expect(shown.locator(".trace.bars")).to_have_count(6)
    assert_fits(shown)
    notebook.picture(panel, "stats")
    shown.locator(".legendtoggle").last.click()
    expect(shown.locator(".trace.bars")).to_have_count(3)
    shown.locator("select").select_option("status")
    expect(names).to_have_text(["converged", "GFN2-xTB", "GFN1-xTB"])
    expect(shown.locator(".trace.bars")).to_have_count(3)
    notebook.picture(panel, "stats-status")
    assert_fits(shown)
    notebook.page.set_viewport_size({"width": 800, "height": 1200})
    assert_fits(shown)
    notebook.assert_quiet()


def test_a_dark_page_and_names_that_try_to_be_more(lab: Lab, url: str):
    notebook = opened(lab, url, dark=True)
    grid, stats = notebook.run(1), notebook.run(3)
    expect(stats.locator(".trace.bars")).to_have_count(6)
    expect(stats.locator(".legendtext").first).to_have_css("fill", "rgb(242, 245, 250)")
    expect(grid.locator(".qf-card")).to_have_count(12)
    notebook.picture(grid.locator(".qf-panel"), "molecules")
    notebook.picture(stats.locator(".qf-panel"), "stats")

    with qf.connect(url) as client:
        client.molecules.create("[Xe]", name=IMAGE)
        client.molecules.create("[Kr]", name=SCRIPT)
        client.calculations.create(smiles="O", energy=-5, gap=14, method=HOSTILE_METHOD)
    for shown in (grid, stats):
        shown.get_by_title("Read again").click()
    expect(card(grid, IMAGE).locator(".qf-line").first).to_have_text("Xe")
    expect(card(grid, SCRIPT)).to_be_visible()
    expect(stats.locator(".legendtext")).to_have_text(["GFN2-xTB", "GFN1-xTB", HOSTILE_METHOD])
    assert stats.locator(".legendtext").last.evaluate("text => text.querySelector('[style*=bold]')") is None
    notebook.assert_quiet()


def assert_fits(shown: Locator) -> None:
    """The charts get as wide as the panel that they are in."""
    shown.page.wait_for_function(
        """() => {
            const [whole, part] = [".qf-panel", ".qf-panel .main-svg"].map(
                name => document.querySelector(name)?.getBoundingClientRect().width);
            return whole - 40 < part && part < whole;
        }"""
    )
