"""The chart of calculations without a browser: what is drawn, selected, shown and picked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qforge_sdk import Client, InvalidInput
from qforge_sdk.client import connect
from qforge_sdk.widgets import calculations_state as state
from qforge_sdk.widgets.calculations import EMPTY, CalculationsPanel
from qforge_sdk.widgets.calculations_figure import DENSITY, MARKS, POINTS
from tests.fixtures.clients import TenantClient
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.tenants import ALICE, BOB

FEW = {
    "CCO": {"gap": 9.1, "energy": -11.39, "dipole": 1.9},
    "c1ccccc1": {"gap": 4.6, "energy": -15.88, "dipole": 0.0, "method": "GFN1-xTB"},
    "[NH4+]": {"gap": 15.5, "energy": -4.65, "dipole": 0.0, "total_charge": 1},
    "O": {"gap": 14.4, "energy": -5.07, "dipole": 2.2},
    "C#N": {"gap": None, "energy": -6.0, "convergence_status": "not_converged"},
}
HOSTILE = "<b onclick=alert(1)>GFN1</b>"
MANY = state.MOST_POINTS + 5_000


@pytest.fixture
def few(client: Client) -> Client:
    for smiles, numbers in FEW.items():
        client.calculations.create(smiles=smiles, **numbers)
    return client


@pytest.fixture
def chart(few: Client) -> CalculationsPanel:
    return few.widgets.calculations()


@pytest.fixture(scope="module")
def many(databases_of: DatabasesOf) -> Iterator[Client]:
    """More calculations than are drawn as points: gap and energy are known of all but two."""
    databases = databases_of()
    with databases.clone() as name, connect(databases.url(name)) as client:
        random = np.random.default_rng(7)
        gap = random.uniform(1, 9, MANY).round(3)
        gap[:2] = np.nan
        columns = {
            "molecule_id": np.full(MANY, client.molecules.create("C").id),
            "energy": random.uniform(-50, -5, MANY).round(4),
            "gap": pa.array(gap, from_pandas=True),
            "dipole": random.uniform(0, 4, MANY).round(3),
        }
        client.calculations.bulk_load(pa.table(columns))
        yield client


def drag(panel: CalculationsPanel, *shapes: dict[str, Any]) -> None:
    """Tell the chart what the browser tells it when a shape is drawn."""
    panel.figure._js2py_relayout = {"relayout_data": {"selections": list(shapes)}, "source_view_id": "view"}


def box(x0: float, x1: float, y0: float, y1: float) -> dict[str, Any]:
    return {"type": "rect", "xref": "x", "yref": "y", "x0": x0, "x1": x1, "y0": y0, "y1": y1}


def lasso(*corners: tuple[float, float]) -> dict[str, Any]:
    path = "M" + "L".join(f"{x},{y}" for x, y in corners) + "Z"
    return {"type": "path", "xref": "x", "yref": "y", "path": path}


def zoom(panel: CalculationsPanel, x: tuple[float, float], y: tuple[float, float]) -> None:
    ends = {f"{axis}axis.range[{n}]": one[n] for axis, one in (("x", x), ("y", y)) for n in (0, 1)}
    panel.figure._js2py_relayout = {"relayout_data": ends, "source_view_id": "view"}


def column(panel: CalculationsPanel, place: int) -> list[str]:
    cells = [row["cells"][place] for row in panel.table.rows]
    return [cell["text"] if isinstance(cell, dict) else cell for cell in cells]


# What is drawn


def test_few_calculations_are_points(chart: CalculationsPanel):
    assert sorted(chart.figure.data[POINTS].x) == [4.6, 9.1, 14.4, 15.5]
    assert chart.figure.data[POINTS].visible is True
    assert chart.figure.data[DENSITY].visible is False
    assert chart.figure.layout.xaxis.title.text == "gap (eV)"
    assert chart.notice.text == "4 calculations by gap and energy, a point each; 1 more has no gap or no energy."
    assert len(chart.table.rows) == 5


def test_any_two_quantities_are_the_axes(chart: CalculationsPanel):
    chart.x.value = "dipole"
    assert chart.figure.layout.xaxis.title.text == "dipole (debye)"
    assert sorted(chart.figure.data[POINTS].x) == [0.0, 0.0, 1.9, 2.2]
    chart.x.value = "energy"
    assert (chart.x.value, chart.y.value) == ("energy", "dipole"), "axes that would be the same are swapped"
    assert sorted(chart.figure.data[POINTS].y) == [0.0, 0.0, 1.9, 2.2]


def test_points_are_coloured_by_charge_and_method(few: Client):
    few.calculations.create(smiles="N", energy=-4.4, gap=10.0, method=HOSTILE)
    chart = few.widgets.calculations()
    chart.color.value = "charge"
    marker = chart.figure.data[POINTS].marker
    assert sorted(marker.color) == [0, 0, 0, 0, 1]
    assert list(marker.colorbar.ticktext) == ["0", "1"]
    chart.color.value = "method"
    assert marker.colorbar.ticktext[0].startswith("&lt;b onclick")
    assert marker.colorbar.ticktext[1:] == ("GFN1-xTB", "GFN2-xTB")
    chart.color.value = "nothing"
    assert marker.showscale is False


def test_rare_values_share_a_colour(client: Client):
    for n in range(12):
        for _ in range(1 + (n < 8)):
            client.calculations.create(smiles="C", energy=-4.0, gap=1.0 * n, method=f"method {n:02}")
    chart = client.widgets.calculations()
    chart.color.value = "method"
    names = list(chart.figure.data[POINTS].marker.colorbar.ticktext)
    assert names == [*(f"method {n:02}" for n in range(8)), "others"]
    assert (np.asarray(chart.figure.data[POINTS].marker.color) == 8).sum() == 4


def test_method_and_status_filter(chart: CalculationsPanel):
    assert list(chart.method.options) == ["all methods", "GFN1-xTB", "GFN2-xTB"]
    assert list(chart.status.options) == ["all statuses", "converged", "not_converged"]
    chart.method.value = "GFN1-xTB"
    assert list(chart.figure.data[POINTS].x) == [4.6]
    assert column(chart, 2) == ["C6H6"]
    chart.method.value = "all methods"
    chart.status.value = "not_converged"
    assert len(chart.figure.data[POINTS].x) == 0
    assert column(chart, 2) == ["CHN"]


def test_an_empty_database_says_what_fills_it(client: Client):
    chart = client.widgets.calculations()
    assert chart.notice.text == EMPTY
    assert not chart.notice.is_error
    assert chart.selected.empty
    client.calculations.create(smiles="O", energy=-5.07, gap=14.4)
    chart.refresh.click()
    assert list(chart.figure.data[POINTS].x) == [14.4]
    assert chart.table.layout.display is None


def test_a_tenant_sees_its_own_and_the_public_ones(client: Client, tenant_client: TenantClient):
    client.calculations.create(smiles="O", energy=-5.0, gap=1.0, shared=True)
    tenant_client(ALICE).calculations.create(smiles="O", energy=-5.0, gap=2.0)
    tenant_client(BOB).calculations.create(smiles="O", energy=-5.0, gap=3.0)
    assert sorted(tenant_client(ALICE).widgets.calculations().figure.data[POINTS].x) == [1.0, 2.0]


def test_an_error_is_said_in_the_widget(chart: CalculationsPanel):
    chart.edges[0].value = "ten"
    chart.select.click()
    assert chart.notice.is_error
    assert chart.notice.text == "an edge of a box is a number, not 'ten'"
    chart.edges[0].value, chart.edges[1].value = "10", "5"
    chart.select.click()
    assert "gap: the range from 10 to 5 is upside down" in chart.notice.text


# What is selected


def test_a_box_selects(chart: CalculationsPanel):
    drag(chart, box(8, 15, -12, -5))
    assert sorted(chart.selected["formula"]) == ["C2H6O", "H2O"]
    assert sorted(column(chart, 2)) == ["C2H6O", "H2O"]
    assert chart.selection.value == "2 selected."
    assert list(chart.selected.columns) == list(chart._sources.calculations.query().columns)


def test_a_lasso_selects_what_is_inside_it(chart: CalculationsPanel):
    # A "U" whose hollow holds ethanol.
    drag(chart, lasso((3, -18), (16, -18), (16, -3), (13, -3), (13, -13), (6, -13), (6, -10), (3, -10)))
    assert sorted(chart.selected["formula"]) == ["C6H6", "H2O", "H4N"]


def test_several_shapes_add_up(chart: CalculationsPanel):
    drag(chart, box(4, 5, -20, 0), lasso((15, -6), (16, -6), (16, -3), (15, -3)))
    assert sorted(chart.selected["formula"]) == ["C6H6", "H4N"]


def test_a_selection_of_nothing_is_empty(chart: CalculationsPanel):
    drag(chart, box(100, 101, 0, 1))
    assert chart.selected.empty
    assert chart.selected.dtypes.equals(chart._sources.calculations.query().dtypes)
    assert chart.table.nothing == "The selection is empty."
    assert chart.figure.data[POINTS].unselected.marker.opacity < 0.2
    chart.clear.click()
    assert len(chart.table.rows) == 5
    assert chart.figure.data[POINTS].unselected.marker.opacity == chart.figure.data[POINTS].marker.opacity


def test_a_typed_box_selects_as_a_drawn_one(chart: CalculationsPanel):
    for edge, text in zip(chart.edges, ("8", "", "", "-5"), strict=True):
        edge.value = text
    chart.select.click()
    assert sorted(chart.selected["formula"]) == ["C2H6O", "H2O"]
    (shape,) = chart.figure._layout["selections"]
    assert (shape["x0"], shape["x1"], shape["y1"]) == (8.0, 15.5, -5.0)


def test_where_nothing_is_drawn_the_picked_rows_are_selected(chart: CalculationsPanel):
    keys = chart._sources.calculations.query(order_by="gap", gap=(None, None))["id"].tolist()
    chart.table.picked = keys[:2]
    assert sorted(chart.selected["gap"]) == [4.6, 9.1]
    assert sorted(chart.figure.data[MARKS].x) == [4.6, 9.1], "they are ringed in the chart"
    drag(chart, box(14, 15, -10, 0))
    assert chart.selected["formula"].tolist() == ["H2O"]
    assert sorted(chart.picked["gap"]) == [4.6, 9.1]


def test_the_structure_of_what_is_picked_or_focused_is_shown(chart: CalculationsPanel):
    key = int(chart._sources.calculations.query(formula="C6H6")["id"][0])
    chart.table._handle_custom_msg({"focused": key}, [])
    assert chart.details.title == "C6H6"
    assert chart.details.image.startswith("data:image/svg+xml;base64,")
    assert {"label": "gap", "value": "4.600 eV", "hint": "", "tone": ""} in chart.details.facts
    other = int(chart._sources.calculations.query(formula="H2O")["id"][0])
    chart.table.picked = [other]
    assert chart.details.title == "H2O"
    chart._sources.calculations.delete(key)
    chart.refresh.click()
    chart.table._handle_custom_msg({"focused": key}, [])
    assert chart.notice.text == f"calculation {key} is no longer there"


def test_pointing_at_a_point_shows_and_clicking_picks_it(chart: CalculationsPanel):
    points = chart.figure.data[POINTS]
    place = list(points.x).index(14.4)
    told = {"trace_indexes": [POINTS], "point_indexes": [place], "xs": [14.4], "ys": [-5.07]}
    for event in ("plotly_hover", "plotly_click"):
        chart.figure._js2py_pointsCallback = {
            "event_type": event,
            "points": told,
            "device_state": {},
            "selector": None,
        }
    assert chart.details.title == "H2O"
    assert chart.picked["formula"].tolist() == ["H2O"]


def test_the_table_sorts_and_turns_pages(many: Client):
    chart = many.widgets.calculations()
    chart.table.sort = "-dipole"
    shown = [float(text) for text in column(chart, 5)]
    assert shown == sorted(shown, reverse=True)
    chart.pager.next.click()
    assert chart.pager.where.value == f"11 to 20 of {MANY:,} calculations"
    assert float(column(chart, 5)[0]) <= shown[-1]


# Too many for points


def test_too_many_points_are_a_density(many: Client):
    chart = many.widgets.calculations()
    assert chart.figure.data[POINTS].visible is False
    assert chart.figure.data[DENSITY].visible is True
    assert int(np.sum(chart.figure.data[DENSITY].customdata)) == MANY - 2
    assert chart.notice.text.startswith(f"A density of {MANY - 2:,} calculations by gap and energy")
    chart.color.value = "method"
    assert "Colours need points." in chart.notice.text


def test_a_box_over_a_density_selects_by_its_ranges(many: Client):
    chart = many.widgets.calculations()
    drag(chart, box(2.0, 2.5, -20.0, -10.0))
    expected = many.calculations.count(gap=(2.0, 2.5), energy=(-20.0, -10.0))
    assert chart.selection.value == f"The box holds {expected:,} calculations."
    assert len(chart.selected) == chart.query.count() == expected
    assert [edge.value for edge in chart.edges] == ["2", "2.5", "-20", "-10"]
    chart.closer.click()
    assert isinstance(chart._drawing, state.Points)
    assert len(chart.figure.data[POINTS].x) == expected
    assert chart.figure.layout.xaxis.range == (2.0, 2.5)
    drag(chart, box(2.2, 9.0, -20.0, -10.0))
    assert chart.selected["gap"].between(2.2, 2.5).all()
    chart.everything.click()
    assert isinstance(chart._drawing, state.Density)


def test_a_lasso_over_a_density_asks_for_points(many: Client):
    chart = many.widgets.calculations()
    drag(chart, lasso((2, -20), (3, -20), (3, -10)))
    assert "A lasso needs points" in chart.selection.value
    assert chart.selected.empty


def test_zooming_into_a_density_leads_to_points(many: Client):
    chart = many.widgets.calculations()
    zoom(chart, (1.0, 9.0), (-49.0, -6.0))
    assert isinstance(chart._drawing, state.Density)
    assert chart._drawing.total == many.calculations.count(gap=(1.0, 9.0), energy=(-49.0, -6.0))
    zoom(chart, (4.0, 5.0), (-30.0, -20.0))
    expected = many.calculations.count(gap=(4.0, 5.0), energy=(-30.0, -20.0))
    assert len(chart.figure.data[POINTS].x) == expected
    assert "gap from 4 to 5 and energy from \N{MINUS SIGN}30 to \N{MINUS SIGN}20" in chart.notice.text
    assert chart.pager.where.value == f"1 to 10 of {expected:,} calculations"


def test_more_than_are_read_at_once_is_an_error_and_not_a_part(many: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state, "MOST_SELECTED", 1_000)
    chart = many.widgets.calculations()
    drag(chart, box(1.0, 9.0, -50.0, -5.0))
    assert "more than 20,000 calculations" in chart.selection.value
    with pytest.raises(InvalidInput, match=r"more than 1,000 calculations are selected.*\.query"):
        _ = chart.selected
    assert chart.query.count() == MANY - 2


def test_a_density_is_counted_in_a_sample_where_that_says_enough(many: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state, "_SAMPLE", 1_000)
    monkeypatch.setattr(state, "_LEAST_SAMPLED", 500)
    sources = many.widgets._sources
    whole = state.read_drawing(sources, state.Choice())
    assert isinstance(whole, state.Density)
    assert whole.sample == 1_000
    assert whole.total == pytest.approx(MANY, rel=0.05)
    monkeypatch.setattr(state, "_LEAST_SAMPLED", 2_000)
    counted = state.read_drawing(sources, state.Choice())
    assert isinstance(counted, state.Density)
    assert (counted.sample, counted.total) == (None, MANY - 2)
