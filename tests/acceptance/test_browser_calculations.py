"""The chart of calculations and a single calculation in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as NotInTime

import qforge_sdk as qf
from qforge_sdk.data import load_sample
from qforge_sdk.widgets.calculations_state import MOST_POINTS
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.lab import Lab, Notebook

IMAGE, SCRIPT = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
HOSTILE_METHOD = "<b onclick=alert(1)>GFN1</b> & %{x}"
SAMPLE, DENSE = 400, MOST_POINTS + 4_000
DRAWN = 30_000
CONNECT = "import qforge_sdk as qf\nclient = qf.connect(open({file!r}).read())"


Corner = tuple[float, float]
# Where the point of the largest gap is, as shares of the chart's width and height.
OUTERMOST = """one => {
    const { xaxis, yaxis } = one._fullLayout;
    const { x, y } = one._fullData[1];
    const place = x.indexOf(Math.max(...x));
    return [xaxis.d2p(x[place]) / xaxis._length, yaxis.d2p(y[place]) / yaxis._length];
}"""


@pytest.fixture(scope="module")
def url(databases_of: DatabasesOf) -> Iterator[str]:
    """A database of sample results with atoms, and of names that try to be more than names."""
    databases = databases_of()
    with databases.clone() as name:
        with qf.connect(databases.url(name)) as client:
            sample = load_sample()
            client.molecules.bulk_load(sample.molecules.select(["smiles", "name"]).slice(0, SAMPLE))
            calculations = sample.calculations.slice(0, SAMPLE)
            client.calculations.bulk_load(calculations)
            known = pa.compute.is_in(sample.atoms["source_id"], calculations["source_id"].combine_chunks())
            client.atoms.bulk_load(sample.atoms.filter(known))
            client.molecules.create("[Xe]", name=IMAGE)
            client.calculations.create(
                smiles="[Xe]",
                convergence_status="error",
                method=HOSTILE_METHOD,
                metadata={"error": SCRIPT},
                energy=-3.9,
                gap=12.0,
            )
        yield databases.url(name)


@pytest.fixture(scope="module")
def dense_url(databases_of: DatabasesOf) -> Iterator[str]:
    """A database of more calculations than are drawn as points."""
    databases = databases_of()
    with databases.clone() as name:
        with qf.connect(databases.url(name)) as client:
            random = np.random.default_rng(11)
            gap = random.normal(6, 1.5, DENSE).clip(0.1, 12)
            columns = {
                "molecule_id": np.full(DENSE, client.molecules.create("CCO", name="ethanol").id),
                "energy": -3 * gap - random.gamma(4, 4, DENSE),
                "gap": gap,
            }
            client.calculations.bulk_load(pa.table(columns))
        yield databases.url(name)


def connect(lab: Lab, url: str, name: str) -> str:
    (lab.folder / name).write_text(url)
    return CONNECT.format(file=name)


def drag(page: Page, plot: Locator, corners: Sequence[Corner]) -> None:
    """Draw over a chart; corners are shares of its width and height."""
    plot.scroll_into_view_if_needed()
    area = plot.bounding_box()
    assert area is not None
    places = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def drag_until(page: Page, plot: Locator, corners: Sequence[Corner], expected: Locator) -> None:
    """Draw over a chart, as people do, again if it came to nothing: a drag while the chart is drawn anew is lost."""
    for _ in range(3):
        drag(page, plot, corners)
        with suppress(NotInTime):
            expected.wait_for(timeout=10_000)
            return
    expect(expected).to_be_visible(timeout=DRAWN)


def point_at(notebook: Notebook, plot: Locator, place: Corner) -> None:
    """Rest the pointer at a place of a chart."""
    plot.scroll_into_view_if_needed()
    area = plot.bounding_box()
    assert area is not None
    x, y = area["x"] + place[0] * area["width"], area["y"] + place[1] * area["height"]
    notebook.page.mouse.move(x + 30, y + 30)
    notebook.page.mouse.move(x, y, steps=4)


def title(shown: Locator) -> Locator:
    return shown.locator(".qf-portrait .qf-title")


def settled(shown: Locator) -> Locator:
    """The area of a chart that is drawn."""
    expect(shown.locator(".xtitle")).to_be_visible(timeout=DRAWN)
    return shown.locator(".nsewdrag").first


def select_by_lasso(notebook: Notebook, shown: Locator) -> None:
    plot = settled(shown)
    shown.get_by_title("Drag to select with a lasso").click()
    corners = [(0.02, 0.02), (0.6, 0.02), (0.6, 0.98), (0.02, 0.98), (0.02, 0.1)]
    drag_until(notebook.page, plot, corners, shown.get_by_text(re.compile(r"\d+ selected\.")))


def until(notebook: Notebook, condition: str) -> None:
    """Wait for what is true of a chart's traces: the density, the points and the rings."""
    plot = "document.querySelector('.js-plotly-plot')"
    notebook.page.wait_for_function(f"() => (([, points, rings]) => {condition})({plot}.data)", timeout=DRAWN)


def test_points_are_selected_pointed_at_and_picked(lab: Lab, url: str):
    cells = [connect(lab, url, "few"), "w = client.widgets.calculations()\nw"]
    notebook = lab.open([*cells, "print(len(w.selected))", "print(len(w.picked))"], height=1500)
    notebook.run(0)
    shown = notebook.run(1)
    plot = settled(shown)
    expect(shown.get_by_text(f"{SAMPLE + 1:,} calculations by gap and energy, a point each.")).to_be_visible()

    shown.get_by_label("colour").select_option("method")
    expect(shown.locator(".infolayer").get_by_text("<b onclick=alert(1)>")).to_be_visible(timeout=DRAWN)
    select_by_lasso(notebook, shown)
    counted = re.search(r"([\d,]+) selected", shown.inner_text())
    assert counted is not None
    assert 0 < int(counted[1].replace(",", "")) <= SAMPLE
    assert notebook.run(2).inner_text().strip() == counted[1].replace(",", "")

    point_at(notebook, plot, shown.locator(".js-plotly-plot").evaluate(OUTERMOST))
    expect(title(shown)).not_to_be_empty()
    expect(shown.locator(".qf-portrait img")).to_have_attribute("src", re.compile("^data:image/svg"))

    shown.get_by_placeholder("x from").fill("4")
    shown.get_by_role("button", name="Select box").click()
    expect(shown.get_by_text(f"{counted[1]} selected.")).to_be_hidden(timeout=DRAWN)
    until(notebook, f"points.selectedpoints?.length > 0 && points.selectedpoints.length < {SAMPLE}")
    shown.get_by_role("button", name="Clear selection").click()
    expect(shown.get_by_text("Drag a box or a lasso to select")).to_be_visible(timeout=DRAWN)
    until(notebook, "points.unselected.marker.opacity === points.marker.opacity")
    first = shown.locator("tbody tr").first
    expect(first).to_contain_text(IMAGE)
    first.focus()
    expect(title(shown)).to_have_text(IMAGE)
    notebook.page.keyboard.press("ArrowDown")
    expect(title(shown)).not_to_have_text(IMAGE)
    notebook.page.keyboard.press("Enter")
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Space")
    expect(shown.locator("tbody tr[aria-selected=true]")).to_have_count(2)
    until(notebook, "rings.x.length === 2")
    assert notebook.run(3).inner_text().strip() == "2"
    shown.get_by_role("button", name="dipole (debye)").click()
    expect(shown.locator("th[aria-sort=ascending]")).to_contain_text("dipole")
    # A click while the rows are put in place is lost with the button that it hit.
    expect(first).not_to_contain_text(IMAGE)
    shown.get_by_title("Next page").click()
    expect(shown.get_by_text(f"11 to 20 of {SAMPLE + 1:,} calculations")).to_be_visible()
    notebook.assert_quiet()


def test_a_density_leads_to_points(lab: Lab, dense_url: str):
    cells = [connect(lab, dense_url, "many"), "w = client.widgets.calculations()\nw", "print(len(w.selected))"]
    notebook = lab.open(cells, height=1500)
    notebook.run(0)
    shown = notebook.run(1)
    plot = settled(shown)
    expect(shown.get_by_text(f"A density of {DENSE:,} calculations")).to_be_visible()
    box = shown.get_by_text(re.compile(r"The box holds [\d,]+ calculations\."))
    drag_until(notebook.page, plot, [(0.3, 0.3), (0.7, 0.7)], box)
    n = re.sub(r"\D", "", box.inner_text())
    assert notebook.run(2).inner_text().strip() == n
    shown.get_by_role("button", name=f"Show these {int(n):,} as points").click()
    expect(shown.get_by_text(f"{int(n):,} calculations by gap from")).to_be_visible(timeout=DRAWN)
    shown.get_by_role("button", name="Show all").click()
    expect(shown.get_by_text(f"A density of {DENSE:,} calculations")).to_be_visible(timeout=DRAWN)
    shown.get_by_title("Drag to zoom in").click()
    until(notebook, "points.visible === false")
    is_zooming = "() => document.querySelector('.js-plotly-plot')._fullLayout.dragmode === 'zoom'"
    notebook.page.wait_for_function(is_zooming, timeout=DRAWN)
    points = shown.get_by_text(re.compile(r"^[\d,]+ calculations by gap from .* a point each"))
    drag_until(notebook.page, plot, [(0.4, 0.4), (0.6, 0.6)], points)
    expect(shown).not_to_contain_text("Warning")
    notebook.assert_quiet()


def test_a_calculation_in_3d(lab: Lab, url: str):
    cells = [
        connect(lab, url, "few"),
        "found = client.calculations.query(name='caffeine')\nw = client.widgets.calculation(found.id[0])\nw",
        "print(w.selected['atom_index'].tolist())",
        f"client.widgets.calculation(client.calculations.query(name={IMAGE!r}).id[0])",
        "client.widgets.calculation(10**9)",
    ]
    notebook = lab.open(cells, height=1500)
    notebook.run(0)
    shown = notebook.run(1)
    expect(shown.locator(".qf-viewer[data-drawn]")).to_be_visible(timeout=DRAWN)
    expect(shown.locator(".qf-viewer canvas").first).to_be_visible()
    expect(shown.locator(".qf-legend")).to_contain_text("charge (e)")
    expect(shown.get_by_text(re.compile("longest arrow: .* hartree/bohr"))).to_be_visible()

    shown.get_by_label("forces").check()
    shown.get_by_label("atom numbers").check()
    row = shown.get_by_role("grid", name="atoms").locator("tbody tr").nth(2)
    row.focus()
    notebook.page.keyboard.press("Enter")
    expect(row).to_have_attribute("aria-selected", "true")
    assert notebook.run(2).inner_text().strip() == "[2]"
    pick_in_the_picture(notebook, shown)
    before = shown.locator(".qf-viewer").screenshot()
    shown.locator(".qf-viewer-canvas").focus()
    notebook.page.keyboard.press("ArrowLeft")
    notebook.page.keyboard.press("+")
    assert shown.locator(".qf-viewer").screenshot() != before
    shown.get_by_title("Colour the atoms by element").click()
    expect(shown.locator(".qf-legend")).to_be_hidden()

    failed = notebook.run(3)
    expect(title(failed)).to_have_text(IMAGE)
    expect(failed.get_by_text(SCRIPT)).to_be_visible()
    expect(failed.get_by_text("No atoms are stored with this calculation")).to_be_visible()
    expect(notebook.run(4)).to_contain_text("NotFound")
    notebook.assert_quiet()


def pick_in_the_picture(notebook: Notebook, shown: Locator) -> None:
    """Click where an atom is: the picked atom of the table is another one then."""
    canvas = shown.locator(".qf-viewer-canvas")
    area = canvas.bounding_box()
    assert area is not None
    rows = shown.get_by_role("grid", name="atoms").locator("tbody tr")
    for step in range(30):
        x, y = (
            area["x"] + area["width"] * (0.3 + 0.4 * (step % 6) / 5),
            area["y"] + area["height"] * (0.35 + step / 100),
        )
        notebook.page.mouse.click(x, y)
        notebook.page.wait_for_timeout(150)
        if rows.nth(2).get_attribute("aria-selected") == "false":
            return
    raise AssertionError("no atom was hit")


def test_without_webgl_the_tables_are_there(lab: Lab, url: str):
    cells = [connect(lab, url, "few"), "client.widgets.calculation(client.calculations.query(name='caffeine').id[0])"]
    notebook = lab.open(cells)
    notebook.page.evaluate("() => { HTMLCanvasElement.prototype.getContext = () => null; }")
    notebook.run(0)
    shown = notebook.run(1)
    expect(shown.get_by_text("This browser offers no WebGL")).to_be_visible()
    expect(shown.get_by_role("grid", name="atoms").locator("tbody tr")).to_have_count(24)


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_on_light_and_dark_pages(lab: Lab, url: str, dense_url: str, dark: bool):
    cells = [
        connect(lab, url, "few"),
        "w = client.widgets.calculations()\nw",
        "client.widgets.calculation(client.calculations.query(name='caffeine').id[0])",
        connect(lab, dense_url, "many").replace("client =", "dense ="),
        "dense.widgets.calculations()",
    ]
    notebook = lab.open(cells, dark=dark, width=1200, height=1700)
    notebook.run(0)
    shown = notebook.run(1)
    select_by_lasso(notebook, shown)
    shown.get_by_label("colour").select_option("charge")
    shown.locator("select").nth(3).select_option("GFN2-xTB")
    expect(shown.locator(".infolayer").get_by_text("total charge (e)")).to_be_visible(timeout=DRAWN)
    for place in (2, 4):
        shown.locator("tbody tr").nth(place).click()
    expect(title(shown)).not_to_be_empty()
    ink = shown.locator(".js-plotly-plot").evaluate("one => one._fullLayout.font.color")
    assert (int(ink[1:3], 16) > 128) == dark, "the chart is dressed for the page's theme"
    notebook.page.wait_for_timeout(1000)
    notebook.picture(shown.locator(".qf-panel"), "calculations")
    single = notebook.run(2)
    expect(single.locator(".qf-viewer[data-drawn]")).to_be_visible(timeout=DRAWN)
    single.get_by_label("forces").check()
    single.locator("tbody tr").nth(3).click()
    expect(single.locator("tbody tr[aria-selected=true]")).to_have_count(1)
    notebook.page.wait_for_timeout(500)
    notebook.picture(single.locator(".qf-panel"), "calculation")
    notebook.run(3)
    dense = notebook.run(4)
    settled(dense)
    notebook.page.wait_for_timeout(500)
    notebook.picture(dense.locator(".qf-panel"), "density")
    notebook.assert_quiet()
