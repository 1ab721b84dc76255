"""A database of the old module becomes one of this package's: the same rows, the same schema as a new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

import qforge_sdk as qf
from qforge_sdk.chem import validate_many
from qforge_sdk.db import schema
from qforge_sdk.db.adopt import adopt
from qforge_sdk.schemas import AdoptionReport
from tests.fixtures.catalog import EVERYTHING, TABLES, catalog
from tests.fixtures.databases import Databases, DatabasesOf
from tests.fixtures.old_module import SHAPES, OldModule, connected, engine_of, fetch, owner_of
from tests.fixtures.servers import MAIN
from tests.fixtures.tenants import ALICE, BOB

# What an old database holds besides the tables of the old module, and keeps.
KEPT = ("calculation_errors", "set_updated_at", "auth.users", "auth.uid", "schemas: auth", "auth | users")
PLACES = [(version, shape, False) for version in (15, MAIN) for shape in SHAPES] + [
    (version, "policies", True) for version in (15, MAIN)
]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A database before and after.

    Parameters
    ----------
    old
        Its shape.
    url
        As its owner.
    databases
        Of its server.
    before
        Its rows, before.
    undone
        Catalog before and after the dry run.
    planned, done
        Reports of the dry run and of the other.
    """

    old: OldModule
    url: str
    databases: Databases
    before: dict[str, list[dict[str, Any]]]
    undone: tuple[dict[str, set[str]], dict[str, set[str]]]
    planned: AdoptionReport
    done: AdoptionReport


def old_catalog(url: str) -> dict[str, set[str]]:
    """Catalog of a database that has no schema qforge yet."""
    return catalog(url, {name: query for name, query in EVERYTHING.items() if name not in {"revision", "comments"}})


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[1]}-{place[0]}{'-supabase' * place[2]}")
def adopted(request: pytest.FixtureRequest, databases_of: DatabasesOf) -> Iterator[Adopted]:
    version, shape, is_supabase = request.param
    databases, old = databases_of(version, supabase=is_supabase), OldModule(shape)
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        old.fill(url)
        before, shape_before = old.read(url), old_catalog(url)
        planned = adopt(engine_of(url))
        undone = (shape_before, old_catalog(url))
        assert old.read(url) == before
        done = adopt(engine_of(url), dry_run=False)
        yield Adopted(old, url, databases, before, undone, planned, done)


def test_a_dry_run_changes_nothing_and_reports_the_same(adopted: Adopted) -> None:
    assert adopted.undone[0] == adopted.undone[1]
    assert (adopted.planned.dry_run, adopted.done.dry_run) == (True, False)
    pd.testing.assert_frame_equal(adopted.planned.tables, adopted.done.tables)
    pd.testing.assert_frame_equal(adopted.planned.doubts, adopted.done.doubts)


def test_the_report_counts_every_row(adopted: Adopted) -> None:
    rows = [len(adopted.before[table]) for table in TABLES]
    assert min(rows) >= 300
    assert adopted.done.tables.to_dict("list") == {
        "table": list(TABLES), "found": rows, "adopted": rows, "set_aside": [0] * 6, "added": [0] * 6,
    }  # fmt: skip
    assert adopted.done.doubts.id.isna().all()


def test_the_schema_is_that_of_a_new_database(adopted: Adopted) -> None:
    found = catalog(adopted.url, EVERYTHING)
    with adopted.databases.clone() as name:
        expected = catalog(adopted.databases.url(name), EVERYTHING)
    for kind, lines in expected.items():
        more = {line for line in found[kind] - lines if not any(word in f"{kind}: {line}" for word in KEPT)}
        less = {line for line in lines - found[kind] if not any(word in f"{kind}: {line}" for word in KEPT)}
        assert (kind, more, less) == (kind, set(), set())


def stored(url: str, table: str) -> list[dict[str, Any]]:
    """Rows of a new table, the events about the adoption left out."""
    keys = "calculation_id, atom_index" if table == "atomic_properties" else "id"
    with connected(url) as cursor:
        cursor.execute(f"SELECT * FROM public.{table} ORDER BY {keys}")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return [row for row in rows if row.get("event_type") != "database_adopted"]


def without_account(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.get("metadata", row.get("context")).items() if key != "adopted"}


@pytest.mark.parametrize("table", TABLES)
def test_rows_keep_keys_times_and_values(adopted: Adopted, table: str) -> None:
    found, before = stored(adopted.url, table), adopted.before[table]
    if table == "atomic_properties":
        before = sorted(before, key=lambda row: (row["calculation_id"], row["atom_index"]))
    kept = set(found[0]) & set(before[0]) - {"smiles", "user_id", "metadata", "context"}
    assert {"created_at", "id" if table != "atomic_properties" else "atom_index"} <= kept
    assert len(kept) >= 5
    assert [{name: row[name] for name in kept} for row in found] == [
        {name: row[name] for name in kept} for row in before
    ]
    assert [without_account(row) for row in found] == [row.get("metadata", row.get("context")) for row in before]


def test_molecules_get_what_rdkit_computes(adopted: Adopted) -> None:
    found = stored(adopted.url, "molecules")
    assert [row["input_smiles"] for row in found] == [row["smiles"] for row in adopted.before["molecules"]]
    valid = validate_many([row["input_smiles"] for row in found], workers=0)
    for name in ("smiles", "inchikey", "formula", "charge", "fingerprint_popcount", "rdkit_version"):
        assert [row[name] for row in found] == valid[name].to_pylist()
    assert {len(row["fingerprint"]) for row in found} == {2048}
    with qf.connect(adopted.url) as client:
        assert client.molecules.unresolved().empty
        spelled = client.molecules.get_by_smiles(found[7]["smiles"])
    assert spelled.id == found[7]["id"]


def test_owners_stay_and_children_get_their_parent_s(adopted: Adopted) -> None:
    for table in ("molecules", "calculations", "batch_jobs"):
        found = fetch(adopted.url, f"SELECT user_id FROM public.{table} ORDER BY id")
        assert [row.user_id for row in found] == [
            None if row.get("user_id") is None else row["user_id"] for row in adopted.before[table]
        ]
    for child, parent, key in (
        ("atomic_properties", "calculations", "calculation_id"),
        ("batch_items", "batch_jobs", "batch_id"),
    ):
        query = (
            f"SELECT count(*) FROM {child} AS c JOIN {parent} AS p ON p.id = c.{key} "
            "WHERE c.user_id IS NOT DISTINCT FROM p.user_id"
        )
        assert fetch(adopted.url, query)[0][0] == len(adopted.before[child])


def test_columns_that_the_new_tables_lack_are_kept_in_metadata(adopted: Adopted) -> None:
    found = dict(fetch(adopted.url, "SELECT id, metadata->'adopted'->'columns'->'quality_score' FROM calculations"))
    scores = {row["id"]: row.get("quality_score") for row in adopted.before["calculations"]}
    assert found == scores
    assert any(scores.values()) == (adopted.old.shape == "policies")


def test_keys_go_on_where_the_old_sequences_were(adopted: Adopted) -> None:
    # The loose shape has no sequence but one that no column owns.
    with_gap = TABLES if adopted.old.has_owners else ("molecules",)
    with engine_of(adopted.url).connect() as connection:
        for table in TABLES:
            if table == "atomic_properties":
                continue
            query = f"SELECT nextval(pg_get_serial_sequence('public.{table}', 'id')), max(id) FROM public.{table}"
            following, last = connection.execute(text(query)).one()
            old_last = len(adopted.before[table])
            if table != "event_logs":
                assert (following, last) == (old_last + (6 if table in with_gap else 1), old_last)
            else:
                assert following > last > old_last


def test_the_audit_trail_goes_on_with_an_event_about_the_adoption(adopted: Adopted) -> None:
    new = fetch(adopted.url, "SELECT * FROM event_logs WHERE id > :last ORDER BY id", last=500)
    assert {row.event_type for row in new} == {"database_adopted"}
    assert next(row.user_id for row in new) is None
    assert {row.user_id for row in new[1:]} == ({ALICE, BOB} if adopted.old.has_owners else set())
    assert new[0].context["tables"]["calculations"] == {"found": 600, "adopted": 600, "set_aside": 0}
    codes = adopted.done.doubts.code.value_counts().to_dict()
    assert new[0].context["doubts"] == codes
    if adopted.old.has_owners:
        assert sorted(row.context["rows"]["calculations"] for row in new[1:]) == [200, 200]
    old = fetch(
        adopted.url, "SELECT DISTINCT actor, application, transaction_id, recorded_by FROM event_logs WHERE id <= 500"
    )
    assert [tuple(row) for row in old] == [("", None, 0, "program")]


def test_triggers_write_events_again(adopted: Adopted) -> None:
    with qf.connect(adopted.url) as client:
        made = client.molecules.create("C1CC1C#N")
        client.molecules.update(made.id, name="changed")
        events = client.events.query(entity_type="molecules", entity_id=made.id, order_by="id").event_type.tolist()
        client.molecules.delete(made.id)
    assert events == ["molecule_created", "molecule_updated"]


def test_the_service_and_each_tenant_find_their_rows(adopted: Adopted) -> None:
    def visible(user_id: Any) -> list[int]:
        with qf.connect(adopted.url, user_id=user_id) as client:
            parts = (client.molecules, client.calculations, client.atoms, client.batches)
            return [part.count() for part in parts]

    everything = [len(adopted.before[table]) for table in TABLES[:4]]
    assert visible(None) == everything
    owners = {key: [row.get("user_id") for row in adopted.before["calculations"]].count(key) for key in (ALICE, BOB)}
    assert [visible(ALICE)[1], visible(BOB)[1]] == [owners[ALICE], owners[BOB]]


def test_a_tenant_works_on_its_rows_and_on_nobody_else_s(adopted: Adopted) -> None:
    if not adopted.old.has_owners:
        with qf.connect(adopted.url) as client:
            assert client.calculations.query(columns=["user_id"]).user_id.isna().all()
        return
    with qf.connect(adopted.url, user_id=ALICE) as client:
        mine = next(n for n in range(1, 300) if owner_of(n) == ALICE)
        others = next(n for n in range(1, 300) if owner_of(n) == BOB)
        assert client.molecules.get(mine).user_id == str(ALICE)
        with pytest.raises(qf.NotFound):
            client.molecules.get(others)
        made = client.calculations.create(molecule_id=mine, energy=-1.0)
        assert client.calculations.for_molecule(mine).id.tolist()[-1] == made.id
        assert client.calculations.query().smiles.notna().all()
        client.calculations.delete(made.id)


def test_foreign_keys_and_policies_of_other_tables_hold_on(adopted: Adopted) -> None:
    if adopted.old.shape != "policies":
        assert fetch(adopted.url, "SELECT to_regclass('public.calculation_errors') IS NULL")[0][0]
        return
    assert fetch(adopted.url, "SELECT count(*) FROM calculation_errors")[0][0] == 12
    with pytest.raises(Exception, match="calculation_errors_calculation_id_fkey"):
        fetch(
            adopted.url, "INSERT INTO calculation_errors (calculation_id, error_message) VALUES (0, 'x') RETURNING 1"
        )
    policy = fetch(
        adopted.url, "SELECT policyname, cmd, qual FROM pg_policies WHERE tablename = 'calculation_errors'"
    )
    assert [(row.policyname, row.cmd) for row in policy] == [("errors of own calculations", "SELECT")]
    assert "calculations c" in policy[0].qual


def test_what_went_with_the_old_tables_is_told(adopted: Adopted) -> None:
    doubts = adopted.done.doubts
    gone = set(doubts.code[doubts.code.str.endswith("_dropped")])
    if adopted.old.shape == "loose":
        assert gone == set()
        return
    if adopted.old.shape == "orm":
        assert gone == {"constraint_dropped", "index_dropped"}
        return
    on_supabase = {"grant_dropped"} if adopted.databases.owner == "postgres" else set()
    assert gone == on_supabase | {
        "comment_dropped", "constraint_dropped", "index_dropped", "policy_dropped", "trigger_dropped", "view_dropped",
    }  # fmt: skip
    views = doubts[doubts.code == "view_dropped"]
    assert views.table.tolist() == ["public.wide_gaps", "public.widest_gap"]
    assert "JOIN public.molecules m" in views.value.iloc[0]
    keys = doubts[(doubts.code == "constraint_dropped") & doubts.value.str.contains("auth.users")]
    assert sorted(keys.table) == sorted(TABLES)
    event = fetch(
        adopted.url, "SELECT context FROM event_logs WHERE event_type = 'database_adopted' AND user_id IS NULL"
    )
    kept = [one["definition"] for one in event[0].context["dropped"] if one["kind"] == "view"]
    assert kept[::-1] == views.value.tolist()


def test_a_second_time_it_refuses(adopted: Adopted) -> None:
    for dry_run in (True, False):
        with pytest.raises(qf.Conflict, match=f"has schema revision {schema.head_revision()} already"):
            adopt(engine_of(adopted.url), dry_run=dry_run)
