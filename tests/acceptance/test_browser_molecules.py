"""The grid of molecules and the statistics in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk.data import load_sample
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.lab import Lab

IMAGE, SCRIPT = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
HOSTILE_METHOD = "<b onclick=alert(1)>GFN1</b> & %{x}"
SAMPLE = 700
CONNECT = "import qforge_sdk as qf\nclient = qf.connect(open('address').read())"
# Bulk loads arrive at once; a screening takes weeks.
SPREAD = """
UPDATE public.calculations SET created_at = timestamptz '2026-03-02' + (id / 12) * interval '13 hours'
"""


@pytest.fixture(scope="module")
def url(databases_of: DatabasesOf):
    """A database of sample results and of names that try to be more than names."""
    databases = databases_of()
    with databases.clone() as name:
        url = databases.url(name)
        with qf.connect(url) as client:
            sample = load_sample()
            client.molecules.bulk_load(sample.molecules.select(["smiles", "name"]).slice(0, SAMPLE))
            client.calculations.bulk_load(sample.calculations.slice(0, SAMPLE))
            with client.session() as session:
                session.execute(text(SPREAD))
            client.molecules.create("[Xe]", name=IMAGE)
            client.molecules.create("[Kr]", name=SCRIPT)
        yield url


def card(shown: Locator, title: str) -> Locator:
    return shown.locator(".qf-card").filter(has=shown.page.get_by_text(title, exact=True))


def test_look(lab: Lab, url: str):
    (lab.folder / "address").write_text(url)
    for dark in (False, True):
        for width in (1300, 800):
            nb = lab.open(
                [CONNECT, "w = client.widgets.molecules(page_size=12)\nw", "s = client.widgets.stats()\ns"],
                dark=dark,
                width=width,
                height=1400,
            )
            nb.run(0)
            out = nb.run(1)
            expect(out.locator(".qf-card").first).to_be_visible()
            nb.page.wait_for_timeout(1500)
            nb.picture(out, f"molecules-{width}")
            out = nb.run(2)
            nb.page.wait_for_timeout(3000)
            nb.page.wait_for_timeout(1500)
            nb.picture(out, f"stats-{width}")
            out.locator("select").select_option("status")
            nb.page.wait_for_timeout(1500)
            nb.picture(out, f"stats-status-{width}")
            print(nb.complaints, nb.foreign)
