"""Pages that repeat what the code knows."""

from pathlib import Path

from qforge_sdk.quantities import QUANTITIES

ROOT = Path(__file__).parents[2]


def test_the_units_page_lists_every_quantity():
    page = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    table = page.split("<!-- quantities -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    expected = [f"| {q.name} | {q.unit} | {q.description} |" for q in QUANTITIES.values()]
    assert table == expected
