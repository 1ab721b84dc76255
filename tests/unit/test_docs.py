"""Pages that repeat what the code knows."""

import re
from inspect import signature
from pathlib import Path

from typer.main import get_command

from qforge_sdk.accessors import Batches
from qforge_sdk.chem.result import DOUBT_CODES, SETTLED_CODES
from qforge_sdk.cli import app
from qforge_sdk.compute import ENGINES, Parameters, get_engine
from qforge_sdk.db.batches import ABANDONED, CANCELLED
from qforge_sdk.errors import COMPUTATION_CODES
from qforge_sdk.migrate.report import OUTCOMES
from qforge_sdk.quantities import QUANTITIES

ROOT = Path(__file__).parents[2]


def test_the_units_page_lists_every_quantity():
    page = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    table = page.split("<!-- quantities -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    expected = [f"| {q.name} | {q.unit} | {q.description} |" for q in QUANTITIES.values()]
    assert table == expected


def test_the_migration_page_explains_every_doubt_and_outcome():
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    explained = {word for row in page.splitlines() if row.startswith("| `") for word in re.findall(r"`(\w+)`", row)}
    assert explained >= {*DOUBT_CODES, *OUTCOMES}
    assert DOUBT_CODES.keys() >= SETTLED_CODES


def test_the_page_on_computing_names_what_engines_have_and_how_they_fail():
    page = (ROOT / "docs" / "computing.md").read_text(encoding="utf-8")
    assert [code for code in COMPUTATION_CODES if f"`{code}`" not in page] == []
    for name in ENGINES:
        engine = get_engine(name)
        assert [word for word in (*engine.methods, *engine.solvations) if word not in page] == []
    assert [field for field in Parameters.__dataclass_fields__ if field not in page] == []


def test_the_page_on_batches_names_every_code_and_option():
    page = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
    assert [code for code in (*COMPUTATION_CODES, CANCELLED, ABANDONED) if code not in page] == []
    options = {option for parameter in get_command(app).commands["run"].params for option in parameter.opts}
    assert [option for option in options if option.startswith("--") and f"`{option}`" not in page] == []
    arguments = [name for name in signature(Batches.run).parameters if name not in ("self", "batch")]
    assert [name for name in arguments if f"`{name}`" not in page] == []
