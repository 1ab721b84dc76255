"""What a notebook shows of a database, hostile names included, and which bars it shows meanwhile."""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk import display
from qforge_sdk.client import Client
from qforge_sdk.db.models import Calculation
from qforge_sdk.logger import log_error
from qforge_sdk.schemas import CalculationDetail, Page
from tests.fixtures.html import ATTACKS, tags_of, text_of
from tests.unit.test_progress import at_a_terminal

OURS = {
    "b", "caption", "details", "div", "i", "img", "p", "pre", "progress", "summary", "table", "tbody", "td", "th",
    "thead", "tr",
}  # fmt: skip


def shown(thing: Any) -> str:
    html: str = thing._repr_html_()
    assert set(tags_of(html)) <= OURS
    return html


@pytest.fixture
def lab(client: Client) -> Client:
    """A small database."""
    client.molecules.bulk_load(pd.DataFrame({"smiles": ["CCO", "c1ccccc1", "N", "O", "C", "CC", "CCC"]}))
    client.calculations.bulk_load(
        pd.DataFrame(
            {"molecule_id": [1, 2, 3, 4, 5, 6, 7], "energy": [-11.0] * 7, "gap": [9.0, 5.0, 7, 8, 9, 8, 8.5]}
        )
    )
    return client


# Records


def test_a_molecule_shows_its_structure_and_what_is_known_of_it(client: Client):
    html = shown(client.molecules.create("OCC", name="ethanol"))
    assert html.startswith('<div style="display:flex')
    assert tags_of(html)[:3] == ["div", "img", "table"]
    assert text_of(html).startswith("molecule 1id1nameethanolsmilesCCOformulaC2H6Ocharge (e)0inchikeyLFQ")
    assert "graph_hash" not in html, "what is not known is left out"


def test_a_calculation_shows_its_units(client: Client):
    calculation = client.calculations.create(smiles="CCO", energy=-11.394337, gap=9.1, execution_time_seconds=0.25)
    assert text_of(shown(calculation)).startswith(
        "calculation 1id1molecule_id1energy (hartree)-11.394337gap (eV)9.1total_charge (e)0"
    )


def test_a_calculation_that_knows_its_molecule_shows_the_structure(client: Client):
    molecule = client.molecules.create("CCO")
    calculation = client.calculations.create(molecule_id=molecule.id, energy=-11.4)
    detail = CalculationDetail(**calculation.model_dump(), molecule=molecule)
    html = shown(detail)
    assert tags_of(html)[:2] == ["div", "img"]
    assert "moleculemolecule 1" in text_of(html)


def test_statistics_and_health_are_tables(lab: Client):
    assert text_of(shown(lab.stats())).startswith("database statstotal_molecules7total_calculations7total_batches0")
    assert "statushealthy" in text_of(shown(lab.health()))


# Lazy queries


def test_a_query_shows_its_head_and_how_many_there_are(lab: Client):
    html = shown(lab.calculations.where(gap=(7.5, None)).order_by("-gap"))
    assert text_of(html).startswith("Query of calculations, lazy: .df() reads it all")
    assert html.count("<img ") == 5
    assert html.endswith("<p>5 rows</p>")
    assert shown(lab.calculations.where()).endswith("<p>5 of 7 rows</p>")
    assert shown(lab.calculations.where().limit(2)).endswith("<p>2 rows</p>")
    assert shown(lab.calculations.where(gap=(100, None))).endswith("<p>0 rows</p>")


def test_a_query_counts_no_further_than_ten_thousand(lab: Client, monkeypatch: pytest.MonkeyPatch):
    assert lab.calculations.where().count(most=3) == 3
    assert lab.calculations.where().count(most=7) == 7
    assert lab.calculations.where().count(most=8) == 7
    assert lab.calculations.where().limit(2).count(most=5) == 2
    monkeypatch.setattr("qforge_sdk.query._COUNTED_ROWS", 6)
    assert shown(lab.calculations.where()).endswith("<p>5 of 6 or more rows</p>")


def test_a_query_that_fails_shows_why_instead_of_a_traceback(lab: Client):
    query = lab.calculations.where(1 / (Calculation.molecule_id - 1) > 0)
    with pytest.raises(qf.QForgeError):
        query.df()
    html = shown(query)
    assert "division by zero" in text_of(html)
    assert 'role="alert"' in html


def test_a_query_without_structures_is_a_plain_table(lab: Client):
    assert "<img" not in shown(lab.calculations.where().select(["id", "energy"]))
    assert text_of(shown(lab.events.where())).startswith("Query of event_logs")


def test_an_accessor_says_what_it_is_and_how_many_rows_there_are(lab: Client, monkeypatch: pytest.MonkeyPatch):
    html = text_of(shown(lab.molecules))
    assert html.startswith("molecules: Structures, validated by RDKit and unique for their owner.rows7methods")
    assert "bulk_load" in html
    assert "rows0" in text_of(shown(lab.batches))
    monkeypatch.setattr("qforge_sdk.accessors.base._COUNTED_ROWS", 5)
    assert "rows5 or more" in text_of(shown(lab.molecules))


def test_an_accessor_that_cannot_count_shows_why(client: Client):
    with client.session() as session:
        session.execute(text("ALTER TABLE public.molecules RENAME TO elsewhere"))
    assert 'relation "public.molecules" does not exist' in text_of(shown(client.molecules))


def test_a_page_shows_how_to_go_on():
    frame = pd.DataFrame({"smiles": ["CCO", "C"], "id": [1, 2]})
    assert text_of(shown(Page(frame, 1_000, True, "x", None))).endswith("2 of 1,000 rows; there is a next page")
    assert text_of(shown(Page(frame, 1_000, False, "x", "y"))).endswith(
        "2 of at least 1,000 rows; there is a previous and a next page"
    )
    assert text_of(shown(Page(frame, 2, True, None, None))).endswith("2 rows")


# Hostile names


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_was_stored_becomes_markup(client: Client, tmp_path: Path, attack: str):
    molecule = client.molecules.create("CCO", name=attack, metadata={attack: [attack]})
    calculation = client.calculations.create(
        molecule_id=molecule.id, energy=-11.4, solvent=attack[:50], xtb_version=f"tblite {attack}"[:50],
        source_id=attack, output_json_path=attack, metadata={"note": attack},
    )  # fmt: skip
    client.atoms.create(
        calculation.id,
        [{"atom_index": 0, "element": "C", "atomic_number": 6, "position_x": 0, "position_y": 0, "position_z": 0,
          "metadata": {attack: attack}}],
    )  # fmt: skip
    batch = client.batches.create(attack, molecules=[molecule.id], description=attack)
    with client.session() as session:
        logged = log_error(
            session, attack, attack[:50], "molecules", molecule.id, {attack: attack}, service=attack[:50]
        )
        event_id = logged.id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = client.molecules.bulk_load(pd.DataFrame({"smiles": [attack], "name": [attack]}))
    pieces = [
        client, molecule, calculation, client.batches.get(batch.id), client.events.get(event_id),
        client.atoms.get((calculation.id, 0)), client.molecules.where(), client.calculations.where(),
        client.batches.where(), client.events.where().order_by("-id"), client.atoms.where(), report, client.stats(),
        client.health(), client.molecules.page(), client.export(tmp_path / f"{attack.replace('/', '_')}"[:80]),
        display.structures(client.calculations.query()), client.calculations.reproduce(calculation.id),
        next(iter(client.batches.watch(batch.id))),
    ]  # fmt: skip
    html = "".join(map(shown, pieces))
    assert text_of(html).count(attack[:50]) >= 15


# Bars


BARS = """
import sys, warnings
from pathlib import Path
import pandas as pd
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk import display
import qforge_sdk.progress
from qforge_sdk.chem import validate_many

qforge_sdk.progress.DELAY_SECONDS = float(sys.argv[3])
url, folder = sys.argv[1], Path(sys.argv[2])
with qf.connect(url) as client:
    validate_many(["C", "CC"])
    client.molecules.bulk_load(pd.DataFrame({"smiles": ["CCO", "C", "N"]}))
    client.calculations.bulk_load(
        pd.DataFrame({"molecule_id": [1, 2, 3], "energy": [-11.0, -4.0, -4.5], "source_id": ["a", "b", "c"]})
    )
    client.atoms.bulk_load(
        pd.DataFrame({"calculation_id": [1], "atom_index": [0], "element": ["C"],
                      "position_x": [0.0], "position_y": [0.0], "position_z": [0.0]})
    )
    client.calculations.query()
    client.calculations.where().to_parquet(folder / "all.parquet")
    client.calculations.suspicious()
    client.export(folder / "export")
    client.restore(folder / "export")
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "metadata.json").write_text("{}")
    client.migrate(folder / "runs")
    client.batches.create("screen", molecules=[1])
    client.batches.run("screen", workers=1)
"""

WORK = [
    "validating", "loading molecules", "loading calculations", "loading atoms", "reading calculations",
    "writing all.parquet", "fitting energies", "judging calculations", "export", "restore", "migrating", "screen",
]  # fmt: skip


def test_everything_that_may_take_long_shows_a_bar_at_a_terminal(database_url: str, tmp_path: Path):
    seen = at_a_terminal(BARS, database_url, str(tmp_path), "0")
    assert [work for work in WORK if f"\r{work}: " not in seen] == []


def test_what_is_quick_shows_none(database_url: str, tmp_path: Path):
    assert at_a_terminal(BARS, database_url, str(tmp_path), "1000") == ""
