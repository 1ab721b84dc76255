"""Pages that repeat what the code knows."""

from pathlib import Path

from qforge_sdk.compute import ENGINES, Parameters, get_engine
from qforge_sdk.errors import COMPUTATION_CODES
from qforge_sdk.quantities import QUANTITIES

ROOT = Path(__file__).parents[2]


def test_the_units_page_lists_every_quantity():
    page = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    table = page.split("<!-- quantities -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    expected = [f"| {q.name} | {q.unit} | {q.description} |" for q in QUANTITIES.values()]
    assert table == expected


def test_the_page_on_computing_names_what_engines_have_and_how_they_fail():
    page = (ROOT / "docs" / "computing.md").read_text(encoding="utf-8")
    assert [code for code in COMPUTATION_CODES if f"`{code}`" not in page] == []
    for name in ENGINES:
        engine = get_engine(name)
        assert [word for word in (*engine.methods, *engine.solvations) if word not in page] == []
    assert [field for field in Parameters.__dataclass_fields__ if field not in page] == []
