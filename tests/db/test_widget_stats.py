"""The statistics without a browser: totals, time, histograms."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from qforge_sdk import Client
from qforge_sdk.widgets.stats import StatsPanel
from qforge_sdk.widgets.stats_state import EMPTY, facts, histogram, overview, timeline
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

HOSTILE = "<b>bold</b> & %{x}"


@pytest.fixture
def filled(client: Client) -> Client:
    for n, method in enumerate(["GFN2-xTB"] * 5 + ["GFN1-xTB"] * 2):
        client.calculations.create(smiles="C" * (n + 1), energy=-10.0 - n, gap=5.0 + n / 2, method=method)
    client.calculations.create(smiles="O", convergence_status="error")
    return client


def days(counts: dict[str, int], by: str = "method", group: str = "GFN2-xTB") -> pd.DataFrame:
    dates = pd.to_datetime(list(counts), utc=True).as_unit("us")
    return pd.DataFrame({"day": dates, by: [group] * len(dates), "count": list(counts.values())})


def shown_facts(client: Client) -> dict[str, str]:
    return {fact.label: fact.value for fact in facts(client.stats())}


def bars(panel: StatsPanel, axis: str) -> dict[str, int]:
    return {trace.name: int(sum(trace.y)) for trace in panel.figure.data if trace.xaxis == axis}


def test_totals_carry_units_and_say_what_is_missing(filled: Client):
    found = shown_facts(filled)
    assert found["molecules"] == "8"
    assert found["converged"] == "87.5 %"
    assert found["median gap"] == "6.500 eV"
    assert found["average energy"] == "\N{MINUS SIGN}13.0000 hartree"
    assert found["latest"] == f"{filled.stats().latest_calculation_at:%Y-%m-%d %H:%M}"


def test_only_all_of_them_is_a_hundred_percent(client: Client):
    stats = client.stats().model_copy(update={"total_calculations": 10**6, "success_rate": 99.9999})
    assert next(fact.value for fact in facts(stats) if fact.label == "converged") == "> 99.99 %"
    assert next(fact.value for fact in facts(stats) if fact.label == "calculations") == "1,000,000"


def test_days_without_calculations_are_zero():
    found = timeline(days({"2026-03-01": 3, "2026-03-20": 4}), "method")
    assert found is not None
    assert (found.period, len(found.starts)) == ("day", 20)
    assert found.counts["GFN2-xTB"].tolist() == [3, *[0] * 18, 4]


def test_a_single_day_stands_among_others():
    found = timeline(days({"2026-03-20": 4}), "method")
    assert found is not None
    assert (len(found.starts), found.counts["GFN2-xTB"].sum(), str(found.starts[-1].date())) == (14, 4, "2026-03-20")


@pytest.mark.parametrize(
    ("last", "period"), [("2027-06-01", "week"), ("2036-06-01", "month"), ("2226-06-01", "year")]
)
def test_a_long_time_is_told_in_longer_periods(last: str, period: str):
    found = timeline(days({"2026-03-04": 1, "2026-03-06": 1, last: 5}), "method")
    assert found is not None
    assert (found.period, found.counts["GFN2-xTB"][0], found.counts["GFN2-xTB"][-1]) == (period, 2, 5)
    assert len(found.starts) < 400


def test_many_methods_are_told_apart_by_the_ten_most_used(client: Client):
    with client.session() as session:
        session.execute(text("INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4')"))
        session.execute(
            text(
                "INSERT INTO public.calculations (molecule_id, method, energy, gap) "
                "SELECT (SELECT id FROM public.molecules), 'm' || n, -n, n FROM generate_series(1, 120) AS n "
                "UNION ALL SELECT (SELECT id FROM public.molecules), 'most', -5, 5 FROM generate_series(1, 7)"
            )
        )
    found = overview(client.widgets._sources)
    assert found.methods[0] == "most"
    assert found.timeline is not None
    for counts in (found.timeline.counts, *(one.counts for one in found.histograms)):
        assert (len(counts), int(sum(one.sum() for one in counts.values()))) == (11, 127)


def test_histograms_count_every_number_by_method(filled: Client):
    found = histogram(filled.calculations, "gap", ["GFN2-xTB", "GFN1-xTB"])
    assert {name: int(counts.sum()) for name, counts in found.counts.items()} == {"GFN2-xTB": 5, "GFN1-xTB": 2}
    assert found.edges[0] <= 5.0
    assert found.edges[-1] > 8.0
    assert (found.outside, found.sample) == (0, None)


def test_a_few_outliers_do_not_squeeze_the_rest_into_one_bin(client: Client):
    with client.session() as session:
        session.execute(text("INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4')"))
        session.execute(
            text(
                "INSERT INTO public.calculations (molecule_id, energy, gap) "
                "SELECT (SELECT id FROM public.molecules), "
                "CASE n WHEN 1 THEN -65000 ELSE -10 - n / 100.0 END, 5 FROM generate_series(1, 1000) AS n"
            )
        )
    found = histogram(client.calculations, "energy", ["GFN2-xTB"])
    counts = found.counts["GFN2-xTB"]
    assert (counts > 0).sum() >= 20
    assert found.outside >= 1
    assert counts.sum() + found.outside == 1000
    panel = client.widgets.stats()
    assert panel.figure.layout.xaxis3.title.text == f"energy (hartree), {found.outside} lie outside"


def test_the_panel_shows_the_numbers_by_method_and_by_status(filled: Client):
    panel = filled.widgets.stats()
    assert bars(panel, "x") == {"GFN2-xTB": 6, "GFN1-xTB": 2}
    assert bars(panel, "x2") == bars(panel, "x3") == {"GFN2-xTB": 5, "GFN1-xTB": 2}
    panel.by.value = "status"
    assert bars(panel, "x") == {"converged": 7, "error": 1}
    assert bars(panel, "x2") == {"GFN2-xTB": 5, "GFN1-xTB": 2}
    assert not panel.notice.is_error


def test_one_legend_entry_stands_for_a_method_in_all_charts(filled: Client):
    panel = filled.widgets.stats()
    for by, expected in (("method", 2), ("status", 4)):
        panel.by.value = by
        told = [trace.legendgroup for trace in panel.figure.data if trace.showlegend]
        assert len(told) == len(set(told)) == expected
        assert {trace.legendgroup for trace in panel.figure.data} == set(told)


def test_reading_again_shows_what_came_meanwhile(filled: Client):
    panel = filled.widgets.stats()
    filled.calculations.create(smiles="N", energy=-5.0, gap=12.0)
    panel.refresh.click()
    assert bars(panel, "x")["GFN2-xTB"] == 7
    assert {fact["label"]: fact["value"] for fact in panel.facts.facts}["calculations"] == "9"


def test_one_calculation_is_a_statistic_too(client: Client):
    client.calculations.create(smiles="CCO", energy=-11.39, gap=9.1)
    panel = client.widgets.stats()
    assert bars(panel, "x") == bars(panel, "x2") == bars(panel, "x3") == {"GFN2-xTB": 1}
    low, high = panel.figure.layout.xaxis2.range
    assert low < 9.1 < high
    assert panel.figure.layout.yaxis.dtick == 1


def test_failures_alone_have_no_histogram(client: Client):
    client.calculations.create(smiles="CCO", convergence_status="error")
    panel = client.widgets.stats()
    assert panel.figure.layout.xaxis2.title.text == "gap (eV): none stored"
    assert bars(panel, "x") == {"GFN2-xTB": 1}


def test_an_empty_database_says_how_to_fill_it(client: Client):
    panel = client.widgets.stats()
    assert panel.notice.text == EMPTY
    assert panel._charts.children == ()
    assert {fact["value"] for fact in panel.facts.facts} == {"0", "\N{EN DASH}"}
    client.calculations.create(smiles="CCO", energy=-11.39, gap=9.1)
    panel.update()
    assert (panel.notice.text, panel._charts.children) == ("", (panel.by, panel.figure))


def test_a_tenant_counts_own_and_public_rows(client: Client, tenant_client: TenantClient):
    client.calculations.create(smiles="O", energy=-5.0, gap=14.0, shared=True)
    client.calculations.create(smiles="N", energy=-4.0, gap=12.0)
    tenant_client(BOB).calculations.create(smiles="C", energy=-4.0, gap=13.0, method="secret")
    alice = tenant_client(ALICE)
    alice.calculations.create(smiles="CC", energy=-7.0, gap=11.0)
    panel = alice.widgets.stats()
    assert bars(panel, "x") == bars(panel, "x2") == {"GFN2-xTB": 2}
    assert "secret" not in json.dumps(panel.figure.to_plotly_json(), default=np.ndarray.tolist)


def test_a_hostile_method_is_text(client: Client):
    client.calculations.create(smiles="O", energy=-5.0, gap=14.0, method=HOSTILE)
    panel = client.widgets.stats()
    assert {trace.name for trace in panel.figure.data} == {"&lt;b&gt;bold&lt;/b&gt; &amp; %{x}"}
    assert not any("bold" in str(trace.hovertemplate) for trace in panel.figure.data)


def test_the_charts_follow_the_theme(filled: Client):
    panel = filled.widgets.stats()
    light = panel.figure.layout.template.layout.font.color
    panel.notice.is_dark = True
    assert panel.figure.layout.template.layout.font.color != light
    assert panel.figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_a_method_that_was_hidden_stays_so(filled: Client):
    panel = filled.widgets.stats()
    for trace in panel.figure.data:
        trace.visible = "legendonly" if trace.name == "GFN1-xTB" else True
    panel.update()
    panel.by.value = "status"
    shown = {trace.name for trace in panel.figure.data if trace.visible is True}
    assert shown == {"GFN2-xTB", "converged", "error"}


def test_a_day_whose_calculations_moved_to_another_is_no_day(filled: Client):
    with filled.session() as session:
        session.execute(text("UPDATE public.calculations SET created_at = '2020-01-05', energy = -5, gap = 3"))
    assert filled.calculations.per_day()["day"].dt.date.astype(str).tolist() == ["2020-01-05"]
    assert len(filled.calculations.histogram("gap", bins=60)) == 1


def test_large_counts_have_short_ticks(client: Client):
    with client.session() as session:
        session.execute(text("INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4')"))
        session.execute(
            text(
                "INSERT INTO public.calculations (molecule_id, energy, gap) "
                "SELECT (SELECT id FROM public.molecules), -5, 5 FROM generate_series(1, 12000) AS n"
            )
        )
    panel = client.widgets.stats()
    assert panel.figure.layout.yaxis.tickformat == "~s"


def test_a_line_stands_for_it_where_no_kernel_runs(client: Client):
    bundle = client.widgets.stats()._repr_mimebundle_()
    assert bundle["text/plain"] == "<StatsPanel: a notebook with a running kernel shows it>"
