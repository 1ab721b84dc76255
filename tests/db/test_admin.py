"""``client.admin``: logins, ownership, deletion, pruning."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

import qforge_sdk as qf
from qforge_sdk import Client
from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from tests.fixtures.clients import TenantClient
from tests.fixtures.databases import Databases
from tests.fixtures.tenants import ALICE, BOB

ATOM = {"atom_index": 0, "element": "C", "position_x": 0.0, "position_y": 0.0, "position_z": 0.0}


@pytest.fixture
def service(any_version_url: str) -> Iterator[Client]:
    with qf.connect(any_version_url) as client:
        yield client


@pytest.fixture
def login(service: Client, any_version: Databases) -> Iterator[str]:
    """Name of a login that is gone after the test, whatever became of it."""
    yield "admin_alice"
    with contextlib.suppress(psycopg2.Error):
        any_version.server.execute("DROP ROLE IF EXISTS admin_alice")


def url_of(client: Client, login: str, password: str | None = None) -> str:
    return client.engine.url.set(username=login, password=password).render_as_string(hide_password=False)


def rows_of(client: Client) -> dict[str, int]:
    with client.session() as session:
        return {table: session.scalar(text(f"SELECT count(*) FROM public.{table}")) for table in TABLES}


def fill(client: Client, smiles: str = "CCO", source_id: str = "run") -> dict[str, int]:
    """One row of each table; keys."""
    molecule = client.molecules.create(smiles, name="secret", metadata={"note": "secret"})
    calculation = client.calculations.create(molecule_id=molecule.id, energy=-1.0, source_id=source_id)
    client.atoms.bulk_load([{"calculation_id": calculation.id, **ATOM}])
    batch = client.batches.create("screen", molecules=[molecule.id])
    with client.session() as session:
        session.execute(
            text("UPDATE public.batch_items SET calculation_id = :c WHERE batch_id = :b"),
            {"c": calculation.id, "b": batch.id},
        )
    return {"molecules": molecule.id, "calculations": calculation.id, "batches": batch.id}


# Logins -------------------------------------------------------------------------------------------------------------


def test_a_login_is_its_tenant_in_any_program(service: Client, login: str):
    service.molecules.create("O", shared=True)
    service.molecules.create("N")
    password = service.admin.create_login(ALICE, login)
    assert "secret" not in repr(password)
    with qf.connect(url_of(service, login)) as alice:
        assert alice.user_id == ALICE
        assert alice.health().access.strength == "boundary"
        assert alice.molecules.create("CCO").user_id == str(ALICE)
        assert alice.molecules.query().smiles.tolist() == ["O", "CCO"]
    plain = make_url(url_of(service, login)).set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg2.connect(plain)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET request.jwt.claim.sub = '{BOB}'; SELECT count(*) FROM public.molecules")
        assert cursor.fetchone() == (2,)


def test_the_server_gets_a_verifier_and_no_password(service: Client, login: str, any_version: Databases):
    password = service.admin.create_login(ALICE, login).reveal()
    ((stored,),) = any_version.server.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'admin_alice'")
    assert stored.startswith("SCRAM-SHA-256$")
    assert password not in stored
    events = service.events.query(columns=["event_type", "context"])
    assert password not in events.to_string()
    assert events.event_type.tolist() == ["login_created"]


def test_a_password_is_shown_once_and_never_by_itself(service: Client, login: str):
    password = service.admin.create_login(ALICE, login)
    shown = password.reveal()
    assert len(shown) > 20
    assert shown not in f"{password!r} {password} {getattr(password, '__dict__', '')}"
    with pytest.raises(LookupError, match="reset_password"):
        password.reveal()
    with pytest.raises(TypeError):
        pickle.dumps(service.admin.reset_password(login))


def test_the_server_s_log_sees_no_password(service: Client, login: str, any_version: Databases, any_version_url: str):
    name = make_url(any_version_url).database
    any_version.server.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    with qf.connect(any_version_url) as client:
        passwords = [client.admin.create_login(ALICE, login).reveal(), client.admin.reset_password(login).reveal()]
    logged = (any_version.server.folder / "log").read_text(errors="replace")
    assert f'ALTER ROLE "{login}" PASSWORD' in logged
    assert not any(password in logged for password in passwords)


@pytest.mark.parametrize(
    "name", ["", "Alice", "1a", "pg_alice", "public", "none", "qforge_scope", "a b", 'a"b', "a" * 64]
)
def test_a_name_that_is_no_login_is_refused(client: Client, name: str):
    with pytest.raises(qf.InvalidInput, match="a login cannot be called"):
        client.admin.create_login(ALICE, name)


def test_a_role_that_exists_is_not_taken_over(client: Client):
    with pytest.raises(qf.Conflict, match="has a role 'qforge_owner' already"):
        client.admin.create_login(ALICE, "qforge_owner")


@pytest.mark.parametrize("user_id", ["alice", str(PUBLIC_USER_ID), None])
def test_a_tenant_is_a_uuid(client: Client, user_id: str | None):
    with pytest.raises(qf.InvalidInput):
        client.admin.create_login(user_id, "somebody")


def test_a_service_that_may_not_create_roles_is_told_the_cure(database_url: str, admin_url: str):
    with create_engine(admin_url, poolclass=NullPool).connect() as connection:
        connection.execute(text("ALTER ROLE qforge_owner NOCREATEROLE"))
        connection.commit()
        try:
            with qf.connect(database_url) as client, pytest.raises(qf.AccessDenied, match="CREATEROLE") as refused:
                client.admin.create_login(ALICE, "nobody_new")
        finally:
            connection.execute(text("ALTER ROLE qforge_owner CREATEROLE"))
            connection.commit()
    assert "SCRAM" not in f"{refused.value} {refused.value.__cause__} {refused.value.__context__}"


def test_a_login_that_is_dropped_reads_nothing_any_more(service: Client, login: str):
    service.molecules.create("O", shared=True)
    service.admin.create_login(ALICE, login)
    with qf.connect(url_of(service, login)) as alice:
        alice.molecules.create("CCO")
        raw = alice.engine.raw_connection()
        raw.cursor().execute("SELECT 1")
        service.admin.drop_login(login)
        with pytest.raises(psycopg2.Error):
            raw.cursor().execute("SELECT smiles FROM public.molecules")
        raw.invalidate()
    with pytest.raises(qf.ConnectionFailed):
        qf.connect(url_of(service, login))
    assert service.molecules.count(user_id=ALICE) == 1
    with pytest.raises(qf.NotFound):
        service.admin.drop_login(login)


def test_a_login_that_owns_large_objects_is_dropped_with_them(service: Client, login: str):
    service.admin.create_login(ALICE, login)
    with create_engine(url_of(service, login), poolclass=NullPool).begin() as connection:
        connection.execute(text("SELECT lo_create(0)"))
    service.admin.drop_login(login)
    assert service.sql("SELECT count(*) AS n FROM pg_largeobject_metadata").n[0] == 0


def test_a_role_that_was_dropped_by_hand_is_forgotten(service: Client, login: str, any_version: Databases):
    service.admin.create_login(ALICE, login)
    any_version.server.execute(f"DROP ROLE {login}")
    assert any("is no role of this server" in problem for problem in service.health().access.problems)
    service.admin.drop_login(login)
    assert service.health().status == "healthy"
    assert service.admin.tenants().empty


def test_only_the_service_administers(tenant_client: TenantClient):
    with pytest.raises(qf.AccessDenied, match="service"):
        _ = tenant_client(ALICE).admin


def test_a_login_on_the_embedded_server_needs_its_password():
    with (
        tempfile.TemporaryDirectory(prefix="qf-admin-", dir="/tmp") as folder,
        qf.connect(data_dir=Path(folder) / "data") as client,
    ):
        password = client.admin.create_login(ALICE, "alice").reveal()
        with qf.connect(url_of(client, "alice", password)) as alice:
            assert alice.user_id == ALICE
            assert alice.molecules.create("CCO").user_id == str(ALICE)
        for wrong in ("wrong", None):
            with pytest.raises(qf.ConnectionFailed):
                qf.connect(url_of(client, "alice", wrong))
        again = client.admin.reset_password("alice").reveal()
        with pytest.raises(qf.ConnectionFailed):
            qf.connect(url_of(client, "alice", password))
        qf.connect(url_of(client, "alice", again)).close()


# Who there is, and their end ----------------------------------------------------------------------------------------


def test_tenants_are_counted(client: Client, tenant_client: TenantClient):
    assert client.admin.tenants().empty
    fill(tenant_client(ALICE))
    client.molecules.create("O", shared=True)
    client.molecules.create("N")
    frame = client.admin.tenants()
    assert frame.user_id.tolist() == [str(ALICE)]
    line = frame.iloc[0]
    assert {table: line[table] for table in TABLES if table != "event_logs"} == dict.fromkeys(
        [table for table in TABLES if table != "event_logs"], 1
    )
    assert line.event_logs > 0


def test_a_tenant_is_deleted_with_everything(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    fill(alice)
    fill(bob)
    before = rows_of(bob)
    counted = client.admin.delete_tenant(ALICE)
    assert rows_of(alice)["molecules"] == 1
    deleted = client.admin.delete_tenant(ALICE, dry_run=False)
    assert deleted.equals(counted)
    assert dict(zip(deleted.table, deleted.rows, strict=True)).items() >= {"molecules": 1, "batch_items": 1}.items()
    assert rows_of(alice) == dict.fromkeys(TABLES, 0)
    assert rows_of(bob) == before
    left = client.events.query(columns=["event_type", "user_id", "context"])
    mine = left[left.context.astype(str).str.contains(str(ALICE))]
    assert mine.event_type.tolist() == ["events_pruned", "tenant_deleted"]
    assert "secret" not in mine.to_string()


def test_a_tenant_with_a_login_loses_it(service: Client, login: str):
    service.admin.create_login(ALICE, login)
    deleted = service.admin.delete_tenant(ALICE, dry_run=False)
    assert deleted.set_index("table").rows["tenant_logins"] == 1
    with pytest.raises(qf.ConnectionFailed):
        qf.connect(url_of(service, login))


def test_a_tenant_is_not_deleted_from_under_others(client: Client, tenant_client: TenantClient):
    keys = fill(tenant_client(ALICE))
    # This package would not write it; the owner of the tables can.
    with client.session() as session:
        session.execute(
            text("INSERT INTO public.calculations (user_id, molecule_id, energy) VALUES (:owner, :molecule, -2)"),
            {"owner": PUBLIC_USER_ID, "molecule": keys["molecules"]},
        )
    before = rows_of(client)
    for dry_run in (True, False):
        with pytest.raises(qf.Conflict, match="1 calculations"):
            client.admin.delete_tenant(ALICE, dry_run=dry_run)
    assert rows_of(client) == before


# Rows that change their owner ---------------------------------------------------------------------------------------


def account(report) -> dict[str, tuple[int, int, int, int]]:
    assert (report.requested == report.moved + report.unchanged + report.kept).all()
    return {row.table: (row.moved, row.unchanged, row.kept, row.copied) for row in report.itertuples()}


def test_a_published_calculation_takes_its_atoms_and_a_copy_of_its_molecule(
    client: Client, tenant_client: TenantClient
):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    keys = fill(alice)
    found = account(client.admin.publish(calculations=[keys["calculations"]]))
    assert found["calculations"] == (1, 0, 0, 0)
    assert found["atomic_properties"][0] == 1
    assert found["molecules"] == (0, 0, 0, 1)
    seen = bob.calculations.query(columns=["id", "smiles", "user_id"])
    assert seen.values.tolist() == [[keys["calculations"], "CCO", str(PUBLIC_USER_ID)]]
    copy = bob.molecules.query(columns=["name", "metadata", "user_id"]).iloc[0]
    assert (copy["name"], copy.metadata, copy.user_id) == ("secret", {}, str(PUBLIC_USER_ID))
    assert alice.molecules.get(keys["molecules"]).user_id == str(ALICE)
    assert len(bob.atoms.query()) == 1
    again = account(client.admin.publish(calculations=[keys["calculations"]]))
    assert again["calculations"] == (0, 1, 0, 0)


def test_a_whole_set_is_published_and_taken_back(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    keys = fill(alice)
    selection = {name: [key] for name, key in keys.items()}
    found = account(client.admin.publish(**selection))
    assert {table: counts[0] for table, counts in found.items()} == {
        "molecules": 1, "calculations": 1, "atomic_properties": 1, "batch_jobs": 1, "batch_items": 1,
    }  # fmt: skip
    assert rows_of(bob) == {**dict.fromkeys(TABLES, 1), "event_logs": 0}
    client.admin.unpublish(ALICE, **selection)
    assert rows_of(bob) == dict.fromkeys(TABLES, 0)
    assert rows_of(alice).items() >= {table: 1 for table in TABLES if table != "event_logs"}.items()


def test_a_public_row_that_others_use_stays_public(client: Client, tenant_client: TenantClient):
    public = client.molecules.create("CCO", shared=True)
    tenant_client(BOB).calculations.create(molecule_id=public.id, energy=-1.0)
    with pytest.raises(qf.Conflict, match="1 calculations of other owners"):
        client.admin.unpublish(ALICE, molecules=[public.id])
    assert client.molecules.get(public.id).user_id == str(PUBLIC_USER_ID)


def test_a_public_batch_on_private_rows_is_refused(client: Client, tenant_client: TenantClient):
    keys = fill(tenant_client(ALICE))
    before = client.sql("SELECT id, user_id FROM molecules ORDER BY id")
    with pytest.raises(qf.Conflict, match="batch items whose calculation"):
        client.admin.publish(batches=[keys["batches"]])
    assert client.sql("SELECT id, user_id FROM molecules ORDER BY id").equals(before)


def test_everything_is_transferred_and_equal_molecules_become_one(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    fill(alice)
    alice.calculations.create(smiles="CCN", energy=-3.0)
    own = bob.molecules.create("OCC")
    found = account(client.admin.transfer(ALICE, BOB))
    assert found["molecules"] == (1, 0, 1, 0)
    assert found["calculations"][0] == 2
    assert rows_of(bob).items() >= {"molecules": 2, "calculations": 2, "batch_jobs": 1, "batch_items": 1}.items()
    assert set(bob.calculations.query().molecule_id) >= {own.id}
    assert rows_of(alice).items() >= {"molecules": 1, "calculations": 0, "batch_jobs": 0}.items()


def test_a_laptop_s_rows_become_a_tenant_s(client: Client, tenant_client: TenantClient):
    fill(client)
    client.admin.transfer(None, ALICE)
    assert rows_of(tenant_client(ALICE)).items() >= {table: 1 for table in TABLES if table != "event_logs"}.items()


def test_a_source_id_that_the_target_has_stops_the_transfer(client: Client, tenant_client: TenantClient):
    fill(tenant_client(ALICE), "CCO", "same")
    fill(tenant_client(BOB), "CCC", "same")
    with pytest.raises(qf.Conflict, match="source_id"):
        client.admin.transfer(ALICE, BOB)
    assert client.calculations.count(user_id=ALICE) == 1


@pytest.mark.parametrize("name", ["molecules", "calculations", "batches"])
def test_keys_that_are_not_there_or_not_the_source_s_stop_everything(
    client: Client, tenant_client: TenantClient, name: str
):
    mine, other = fill(tenant_client(ALICE)), fill(tenant_client(BOB), "CCC", "other")
    for key in (10**12, other[name]):
        with pytest.raises(qf.NotFound, match="nothing was moved"):
            client.admin.transfer(ALICE, "c0c00000-0000-4000-8000-000000000003", **{name: [mine[name], key]})
    assert client.admin.tenants().user_id.tolist() == [str(ALICE), str(BOB)]


def test_keys_are_whole_numbers_of_any_sequence(client: Client, tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    fill(alice)
    assert account(client.admin.publish(calculations=alice.calculations.query().id))["calculations"][0] == 1
    assert account(client.admin.publish(molecules=alice.molecules.query(user_id=str(ALICE)).id.to_numpy()))
    for bad in (["1"], [1.5], "12", [None]):
        with pytest.raises(qf.InvalidInput, match="whole number"):
            client.admin.publish(calculations=bad)


def test_a_transfer_to_oneself_is_a_mistake(client: Client):
    with pytest.raises(qf.InvalidInput, match="same owner"):
        client.admin.transfer(ALICE, ALICE)


def test_both_owners_have_the_move_on_record_and_learn_nothing_else(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    keys = fill(alice)
    own = bob.molecules.create("CCO")
    client.admin.transfer(ALICE, BOB)
    (given,) = alice.events.query(event_type="calculation_updated").context
    (taken,) = bob.events.query(event_type="calculation_updated").context
    assert given["before"]["molecule_id"] == keys["molecules"]
    assert given["after"] == {"user_id": str(BOB)}
    assert taken["before"] == {"user_id": str(ALICE)}
    assert taken["after"]["molecule_id"] == own.id


WAYS: dict[str, str] = {"read committed": "READ COMMITTED", "repeatable read": "REPEATABLE READ"}


@pytest.mark.parametrize("level", WAYS.values(), ids=WAYS.keys())
def test_nobody_gets_in_while_a_molecule_becomes_private(
    client: Client, database_url: str, tenant_client: TenantClient, level: str
):
    bob = tenant_client(BOB)
    left: list[object] = []
    for turn in range(8):
        key = client.molecules.create("C" * (turn + 3), shared=True).id
        ready = threading.Barrier(2)

        def insert(key: int = key, ready: threading.Barrier = ready) -> None:
            with contextlib.suppress(Exception), bob.engine.connect() as plain:
                connection = plain.execution_options(isolation_level=level)
                connection.execute(text("SELECT count(*) FROM public.molecules"))
                ready.wait()
                connection.execute(
                    text("INSERT INTO public.calculations (molecule_id, energy) VALUES (:key, -1)"), {"key": key}
                )
                connection.commit()

        thread = threading.Thread(target=insert)
        thread.start()
        ready.wait()
        with contextlib.suppress(qf.Conflict):
            client.admin.unpublish(ALICE, molecules=[key])
        thread.join()
        left += client.sql(
            "SELECT c.id FROM calculations AS c JOIN molecules AS m ON m.id = c.molecule_id "
            "WHERE c.user_id = %(bob)s AND m.user_id = %(alice)s",
            {"bob": str(BOB), "alice": str(ALICE)},
        ).id.tolist()
    assert left == []


# Events -------------------------------------------------------------------------------------------------------------

CHANGES = {
    "update": "UPDATE public.event_logs SET status = 'warning'",
    "delete": "DELETE FROM public.event_logs",
    "truncate": "TRUNCATE public.event_logs",
    "update of no row": "UPDATE public.event_logs SET status = 'warning' WHERE false",
}


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_events_are_append_only_for_the_owner_too(client: Client, statement: str):
    client.molecules.create("CCO")
    with pytest.raises(qf.AccessDenied, match=r"events are append-only .*prune_events"), client.session() as session:
        session.execute(text(statement))
    assert client.events.count() == 1


def test_pruning_leaves_an_event(client: Client, tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    fill(alice)
    now = client.sql("SELECT clock_timestamp() AS t").t[0]
    client.molecules.create("N")
    before = client.events.count(created_at=(None, now))
    assert client.admin.prune_events(before=now.to_pydatetime()) == before
    events = client.events.query(order_by="id")
    assert events.event_type.tolist() == ["molecule_created", "events_pruned"]
    assert events.context[1]["rows"] == before
    assert events.recorded_by[1] == "trigger"
    assert alice.events.count() == 0
    assert client.admin.prune_events(before="2020-01-01") == 0


@pytest.mark.parametrize("before", ["soon", 7, None])
def test_pruning_asks_for_a_time(client: Client, before: object):
    with pytest.raises(qf.InvalidInput, match="no time"):
        client.admin.prune_events(before=before)


def test_a_tenant_prunes_nothing(tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    fill(alice)
    before = alice.events.count()
    with pytest.raises(qf.AccessDenied), alice.session() as session:
        session.execute(text("SELECT qforge.prune_events('infinity')"))
    assert alice.events.count() == before


def test_a_timeline_counts_events_and_the_rows_of_loads(client: Client, tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    alice.molecules.bulk_load([{"smiles": "C" * n} for n in range(1, 202)])
    alice.molecules.create("O")
    frame = alice.events.timeline("hour", by=["event_type", "actor"])
    assert frame.set_index("event_type").rows.to_dict() == {"molecules_loaded": 201, "molecule_created": 1}
    assert set(frame.actor) == {"qforge_owner"}
    assert client.events.timeline(by=[]).events.tolist() == [2]
    assert alice.events.timeline(event_type="nothing").empty
    for bad in ({"bucket": "fortnight"}, {"by": "context"}):
        with pytest.raises(qf.InvalidInput):
            alice.events.timeline(**bad)


@pytest.fixture
def supabase_client(supabase_url: str) -> Iterator[Client]:
    with qf.connect(supabase_url) as client:
        yield client


def test_it_works_in_the_shape_of_supabase(supabase_client: Client, supabase: Databases):
    supabase_client.admin.create_login(ALICE, "shaped_alice")
    try:
        with qf.connect(url_of(supabase_client, "shaped_alice")) as alice:
            keys = fill(alice)
        supabase_client.admin.publish(calculations=[keys["calculations"]])
        supabase_client.admin.transfer(ALICE, BOB)
        assert supabase_client.admin.tenants().set_index("user_id").molecules[str(BOB)] == 1
        supabase_client.admin.delete_tenant(ALICE, dry_run=False)
        assert supabase_client.admin.tenants().user_id.tolist() == [str(BOB)]
    finally:
        supabase.server.execute("DROP ROLE IF EXISTS shaped_alice")
