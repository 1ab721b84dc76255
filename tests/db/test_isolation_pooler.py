"""Tenants through a pooler in transaction mode: many clients, two server connections, nobody meets anybody."""

from __future__ import annotations

import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

import qforge_sdk as qf
from qforge_sdk.db.models import PUBLIC_USER_ID
from tests.fixtures.pooler import SERVER_CONNECTIONS, Pooled
from tests.fixtures.tenants import ALICE, BOB

SMILES = {ALICE: ["CC", "CCC"], BOB: ["CO", "CCO", "CCCO"], PUBLIC_USER_ID: ["O"]}

EXPORTING = threading.Lock()


@pytest.fixture
def filled(database_url: str) -> str:
    """Rows of both tenants and public ones; URL of the server itself."""
    with qf.connect(database_url) as client:
        client.molecules.bulk_load([{"smiles": smiles} for smiles in SMILES[PUBLIC_USER_ID]], shared=True)
    for tenant in (ALICE, BOB):
        with qf.connect(database_url, user_id=tenant) as client:
            client.calculations.bulk_load([{"smiles": smiles, "energy": -1.0} for smiles in SMILES[tenant]])
    return database_url


def seen(client: qf.Client, tmp_path: Path, turn: int) -> list[set[str]]:
    """What a tenant is shown, by each way that reads."""
    molecules = client.molecules
    with client.session() as session:
        by_orm = set(session.scalars(text("SELECT smiles FROM public.molecules")))
    exported = tmp_path / f"{client.user_id}-{turn}"
    # An export holds a server connection for its snapshot and one for each reader.
    with EXPORTING:
        client.export(exported, tables=["molecules"], progress=False)
    by_file = {smiles for path in exported.rglob("*.parquet") for smiles in _column(path)}
    return [
        set(molecules.query().smiles),
        {smiles for batch in molecules.where().iter_batches(2) for smiles in batch.column("smiles").to_pylist()},
        set(client.sql("SELECT smiles FROM public.molecules").smiles),
        by_orm,
        by_file,
    ]


def _column(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["smiles"]).column("smiles").to_pylist()


def test_clients_of_several_tenants_share_two_connections(filled: str, pooled: Pooled, tmp_path: Path):
    url = pooled(filled)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(qf.connect(url, user_id=tenant)) for tenant in (ALICE, BOB) for _ in range(3)]

        def work(turn: int) -> None:
            client = clients[turn % len(clients)]
            own = {*SMILES[client.user_id], *SMILES[PUBLIC_USER_ID]}
            if random.random() < 0.3:
                with contextlib.suppress(qf.QForgeError), client.session() as session:
                    session.execute(text("SELECT 1/0"))
            assert seen(client, tmp_path, turn) == [own] * 5

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(36)))
    with qf.connect(filled) as client:
        found = client.sql(
            "SELECT count(*) AS n FROM pg_stat_activity "
            "WHERE usename = 'qforge_owner' AND datname = current_database()"
        )
    # The pooler's, and the one that asks.
    assert found.n[0] <= SERVER_CONNECTIONS + 2


def test_loads_through_a_pooler_belong_to_who_loads(filled: str, pooled: Pooled):
    url = pooled(filled)

    def load(number: int) -> None:
        tenant = (ALICE, BOB)[number % 2]
        with qf.connect(url, user_id=tenant) as client:
            rows = [
                {"smiles": "C" * (10 + n), "energy": -float(number), "source_id": f"{number}-{n}"} for n in range(20)
            ]
            assert client.calculations.bulk_load(rows).n_inserted == 20

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(load, range(8)))
    with qf.connect(filled) as client:
        frame = client.calculations.query(energy=(-7.0, -0.0))
        loaded = frame[frame.source_id.notna()]
        owners = loaded.groupby("energy").user_id.unique().to_dict()
    assert {energy: set(users) for energy, users in owners.items()} == {
        -float(n): {str((ALICE, BOB)[n % 2])} for n in range(8)
    }


def test_a_server_connection_that_dies_takes_no_tenant_along(filled: str, pooled: Pooled):
    with qf.connect(pooled(filled), user_id=ALICE) as alice, qf.connect(pooled(filled), user_id=BOB) as bob:
        stop = threading.Event()

        def kill() -> None:
            engine = create_engine(filled, poolclass=NullPool)
            while not stop.wait(0.05):
                with engine.begin() as connection:
                    connection.execute(
                        text(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        )
                    )

        killer = threading.Thread(target=kill)
        killer.start()
        answered = 0
        try:
            for turn in range(60):
                client, tenant = ((alice, ALICE), (bob, BOB))[turn % 2]
                with contextlib.suppress(qf.ConnectionFailed, qf.DatabaseError):
                    with client.session() as session:
                        found = set(session.scalars(text("SELECT smiles FROM public.molecules")))
                    assert found == {*SMILES[tenant], *SMILES[PUBLIC_USER_ID]}
                    answered += 1
        finally:
            stop.set()
            killer.join()
        assert answered > 0


LOST = [
    "COMMIT; SELECT smiles FROM public.molecules",
    "COMMIT; BEGIN; SELECT smiles FROM public.molecules",
    "RESET ROLE; SELECT smiles FROM public.molecules",
    "DISCARD ALL",
    "SET LOCAL ROLE NONE; SELECT smiles FROM public.molecules",
]


@pytest.mark.parametrize("statement", LOST)
def test_a_tenant_that_is_lost_reads_nothing(filled: str, pooled: Pooled, statement: str):
    with qf.connect(pooled(filled), user_id=ALICE) as alice:
        rows: list[object] = []
        with pytest.raises((qf.ScopeNotHeld, qf.DatabaseError)), alice.session() as session:
            rows += session.execute(text(statement)).all()
        assert rows == []
        assert set(alice.molecules.query().smiles) == {*SMILES[ALICE], *SMILES[PUBLIC_USER_ID]}


def test_nothing_stays_on_the_pooler_s_connections(filled: str, pooled: Pooled):
    with qf.connect(pooled(filled), user_id=ALICE) as alice:
        alice.molecules.query()
        with qf.connect(pooled(filled)) as service:
            found = service.sql(
                "SELECT current_user::text AS role, "
                "coalesce(current_setting('request.jwt.claims', true), '') AS claims"
            )
            assert found.iloc[0].tolist() == ["qforge_owner", ""]
            assert len(service.molecules.query()) == 6


def test_a_tenant_s_own_login_is_a_boundary_through_a_pooler_too(filled: str, pooled: Pooled):
    with qf.connect(filled) as client:
        client.admin.create_login(ALICE, "pooled_alice")
        try:
            url = pooled(filled).replace("//qforge_owner", "//pooled_alice")
            with qf.connect(url) as alice:
                assert alice.health().access.strength == "boundary"
                assert set(alice.molecules.query().smiles) == {*SMILES[ALICE], *SMILES[PUBLIC_USER_ID]}
            with pytest.raises(qf.ScopeNotHeld):
                qf.connect(url, user_id=BOB)
        finally:
            client.admin.drop_login("pooled_alice")
