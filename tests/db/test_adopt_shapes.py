"""Old tables that hands have changed: other types, other keys, objects around them, settings of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

import qforge_sdk as qf
from qforge_sdk.db.adopt import adopt, run, structures
from tests.fixtures.catalog import TABLES
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.old_module import OldModule, connected, engine_of, fetch
from tests.fixtures.tenants import ALICE

Make = Callable[..., str]
ORM = OldModule("orm")


@pytest.fixture
def make(databases_of: DatabasesOf) -> Iterator[Make]:
    """Factory: URL of a database of the classes' shape, changed by some statements, as the owner or as superuser."""
    databases = databases_of()
    with databases.clone(migrated=False) as name:

        def build(*statements: str, molecules: int = 9, as_superuser: tuple[str, ...] = ()) -> str:
            ORM.create(databases, name)
            ORM.fill(databases.url(name), molecules=molecules)
            with connected(databases.url(name)) as cursor:
                for statement in statements:
                    cursor.execute(statement)
            databases.server.execute("SELECT", *(one.format(name=name) for one in as_superuser), database=name)
            return databases.url(name)

        yield build


def test_owners_written_as_text(make: Make) -> None:
    url = make(
        "ALTER TABLE public.molecules ALTER COLUMN user_id TYPE text",
        f"UPDATE public.molecules SET user_id = '{str(ALICE).upper()}' WHERE id = 1",
        "UPDATE public.molecules SET user_id = 'alice' WHERE id = 2",
        f"UPDATE public.molecules SET user_id = '{ALICE.hex}' WHERE id = 3",
        "ALTER TABLE public.atomic_properties ALTER COLUMN user_id TYPE text",
        "UPDATE public.atomic_properties SET user_id = 'bob' WHERE id = 1",
    )
    report = adopt(engine_of(url), dry_run=False)
    found = dict(fetch(url, "SELECT id, user_id FROM molecules WHERE id <= 3"))  # type: ignore[arg-type]
    assert found == {1: ALICE, 2: None, 3: ALICE}
    wrong = report.doubts[report.doubts.code == "wrong_type"]
    assert wrong[["table", "id", "column", "value"]].to_numpy().tolist() == [
        ["molecules", 2, "user_id", "alice"],
        ["atomic_properties", 1, "user_id", "bob"],
    ]
    kept = fetch(url, "SELECT metadata->'adopted'->'doubts'->0->>'value' FROM atomic_properties LIMIT 1")
    assert kept[0][0] == "bob"


def test_numbers_of_other_types_and_domains(make: Make) -> None:
    url = make(
        "CREATE DOMAIN public.electronvolt AS numeric(12, 4) CHECK (VALUE > -1000)",
        "ALTER TABLE public.calculations ALTER COLUMN homo TYPE public.electronvolt, ALTER COLUMN gap TYPE real, "
        "ALTER COLUMN total_charge TYPE smallint, ALTER COLUMN molecule_id TYPE bigint",
        "UPDATE public.calculations SET homo = -9.1234, gap = 0.1 WHERE id = 1",
    )
    adopt(engine_of(url), dry_run=False)
    row = fetch(url, "SELECT homo, gap, total_charge FROM calculations WHERE id = 1")[0]
    # A real is widened to the double that it is.
    assert tuple(row) == (-9.1234, 0.10000000149011612, 0.0)


def test_extra_columns_of_any_name_and_type(make: Make) -> None:
    odd = 'odd {x} %s "" name'
    url = make(
        f'ALTER TABLE public.molecules ADD COLUMN "{odd}" text[], ADD COLUMN raw json, ADD COLUMN score real',
        f"UPDATE public.molecules SET \"{odd}\" = '{{a,b}}', score = 'NaN' WHERE id = 1",
        r"""UPDATE public.molecules SET raw = '{"a": "\u0000"}' WHERE id = 1""",
        "UPDATE public.molecules SET raw = '[1, 2]' WHERE id = 2",
    )
    report = adopt(engine_of(url), dry_run=False)
    kept = dict(fetch(url, "SELECT id, metadata->'adopted' FROM molecules ORDER BY id"))  # type: ignore[arg-type]
    assert kept[1] == {
        "columns": {odd.replace('""', '"'): ["a", "b"], "raw": '{"a": "\\u0000"}', "score": "NaN"}
    }  # fmt: skip
    assert kept[2] == {"columns": {"raw": [1, 2]}}
    assert kept[3] is None
    told = report.doubts[report.doubts.code == "extra_column"].set_index("column").value
    assert told.to_dict() == {odd.replace('""', '"'): "1", "raw": "2", "score": "1"}


def test_keys_by_identity_go_on(make: Make) -> None:
    url = make(
        "ALTER TABLE public.calculations ALTER COLUMN id DROP DEFAULT, "
        "ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME public.other_name START WITH 1000)",
        "SELECT nextval('public.other_name')",
        "DELETE FROM public.calculations WHERE id > 5",
    )
    adopt(engine_of(url), dry_run=False)
    following = "SELECT nextval(pg_get_serial_sequence('public.calculations', 'id'))"
    assert fetch(url, following)[0][0] == 1001


def test_only_some_of_the_tables(make: Make) -> None:
    url = make("DROP TABLE public.batch_items, public.batch_jobs, public.atomic_properties, public.event_logs")
    report = adopt(engine_of(url), dry_run=False)
    assert report.tables[["table", "adopted"]].to_numpy().tolist() == [["molecules", 9], ["calculations", 18]]
    with qf.connect(url) as client:
        assert (client.calculations.count(), client.atoms.count()) == (18, 0)
        assert client.events.query().event_type.tolist()[0] == "database_adopted"


def test_a_publication_is_told(make: Make) -> None:
    url = make("CREATE PUBLICATION realtime FOR TABLE public.calculations")
    report = adopt(engine_of(url), dry_run=False)
    told = report.doubts[report.doubts.code == "publication_dropped"]
    assert told[["table", "column", "value"]].to_numpy().tolist() == [
        ["calculations", "realtime", "ALTER PUBLICATION realtime ADD TABLE public.calculations"]
    ]


def test_a_materialized_view_and_its_options_are_told(make: Make) -> None:
    url = make(
        "CREATE MATERIALIZED VIEW public.counts AS SELECT count(*) AS n FROM public.molecules",
        "CREATE VIEW public.careful WITH (security_invoker=true) AS SELECT id FROM public.molecules",
    )
    report = adopt(engine_of(url), dry_run=False)
    views = report.doubts[report.doubts.code == "view_dropped"].set_index("table").value
    assert views["public.counts"].startswith("CREATE MATERIALIZED VIEW public.counts AS")
    assert views["public.careful"].startswith("CREATE VIEW public.careful WITH (security_invoker=true) AS")
    with connected(url) as cursor:
        for definition in views:
            cursor.execute(definition)


def test_a_foreign_key_on_atoms_is_told(make: Make) -> None:
    url = make(
        "CREATE TABLE public.notes (atom integer REFERENCES public.atomic_properties (id), molecule integer "
        "REFERENCES public.molecules (id) ON DELETE SET NULL)",
        "INSERT INTO public.notes VALUES (1, 1)",
    )
    report = adopt(engine_of(url), dry_run=False)
    told = report.doubts[report.doubts.code == "foreign_key_dropped"]
    assert told.value.tolist() == [
        "ALTER TABLE public.notes ADD CONSTRAINT notes_atom_fkey FOREIGN KEY (atom) "
        "REFERENCES public.atomic_properties(id)"
    ]
    keys = fetch(url, "SELECT conname, pg_get_constraintdef(oid) AS rule FROM pg_constraint "
                      "WHERE conrelid = 'public.notes'::regclass AND contype = 'f'")  # fmt: skip
    assert [row.conname for row in keys] == ["notes_molecule_fkey"]
    assert keys[0].rule.endswith("ON DELETE SET NULL")


def test_timeouts_of_the_server_do_not_end_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make(as_superuser=("ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '150ms'",
                             "ALTER DATABASE {name} SET transaction_timeout = '300ms'",
                             "ALTER DATABASE {name} SET search_path = 'nowhere'",
                             "ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'"))  # fmt: skip
    inside = run.provide_molecules

    def slowly(*arguments: Any) -> int:
        time.sleep(0.5)
        return inside(*arguments)

    monkeypatch.setattr(run, "provide_molecules", slowly)
    assert adopt(engine_of(url), dry_run=False).tables.adopted.sum() > 1_000


def test_a_pooled_connection_keeps_nothing_of_it(make: Make) -> None:
    url = make()
    engine = create_engine(url, pool_size=1, max_overflow=0)
    ask = (
        "SELECT current_setting('search_path'), current_setting('row_security'), current_setting('work_mem'), "
        "(SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()), "
        "(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())"
    )
    with engine.connect() as connection:
        before = connection.exec_driver_sql(ask).one()
    adopt(engine)
    adopt(engine, dry_run=False)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(ask).one() == before
    engine.dispose()


def test_an_adopted_database_is_exported_and_restored(make: Make, database_url: str, tmp_path: Path) -> None:
    url = make("UPDATE public.molecules SET smiles = 'broken((' WHERE id = 4")
    adopt(engine_of(url), dry_run=False)
    with qf.connect(url) as client:
        client.export(tmp_path / "export")
        event = client.events.get(1)
    assert (event.service, event.event_type) == ("xTB_runner", "calculation_completed")
    with qf.connect(database_url) as client:
        client.restore(tmp_path / "export")
        assert client.molecules.unresolved().id.tolist() == [4]
    for table in TABLES[:-1]:
        query = f"SELECT t::text FROM {table} AS t ORDER BY 1"
        assert fetch(url, query) == fetch(database_url, query)


def test_smiles_are_validated_chunk_by_chunk(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "_CHUNK", 7)
    url = make(molecules=60)
    report = adopt(engine_of(url), dry_run=False)
    assert report.tables.adopted[0] == 60
    assert fetch(url, "SELECT count(DISTINCT smiles), count(*) FROM molecules")[0] == (60, 60)
