"""Random tenants do random things; a model that knows who owns what says what each of them sees afterwards."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

import qforge_sdk as qf
from qforge_sdk.db.models import PUBLIC_USER_ID
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.tenants import ALICE, BOB

CARA = uuid.UUID("ca7a0000-0000-4000-8000-000000000003")
TENANTS = {ALICE: "model_alice", BOB: "model_bob", CARA: "model_cara"}
SMILES = ["C", "CC", "CCC", "CO", "CCO", "N"]
TABLES = ("molecules", "calculations", "batch_jobs", "batch_items")
Owner = uuid.UUID | None

tenants = st.sampled_from(list(TENANTS))
owners = st.sampled_from([*TENANTS, PUBLIC_USER_ID, None])
picks = st.integers(0, 10**6)


@dataclass
class World:
    """A database, the service and the tenants' two ways in."""

    admin: Engine
    service: qf.Client
    scopes: dict[uuid.UUID, qf.Client]
    logins: dict[uuid.UUID, Engine]


@pytest.fixture(scope="module")
def world(databases_of: DatabasesOf) -> Iterator[World]:
    databases = databases_of()
    with databases.clone() as name, contextlib.ExitStack() as stack:
        url = databases.url(name)
        service = stack.enter_context(qf.connect(url))
        logins = {}
        for tenant, login in TENANTS.items():
            service.admin.create_login(tenant, login)
            logins[tenant] = create_engine(make_url(url).set(username=login))
            stack.callback(logins[tenant].dispose)
        scopes = {tenant: stack.enter_context(qf.connect(url, user_id=tenant)) for tenant in TENANTS}
        admin = create_engine(databases.url(name, user=databases.server.superuser), poolclass=NullPool)
        yield World(admin, service, scopes, logins)
        for engine in logins.values():
            engine.dispose()
        for login in TENANTS.values():
            service.admin.drop_login(login)


@dataclass
class Model:
    """Who owns what, by key; a calculation, batch or item also knows its parents."""

    molecules: dict[int, Owner] = field(default_factory=dict)
    smiles: dict[int, str] = field(default_factory=dict)
    calculations: dict[int, tuple[Owner, int]] = field(default_factory=dict)
    batches: dict[int, Owner] = field(default_factory=dict)
    items: dict[int, tuple[Owner, int, int]] = field(default_factory=dict)

    def owned(self, table: str) -> dict[int, Owner]:
        found: dict[str, dict[int, Any]] = {
            "molecules": self.molecules,
            "calculations": {key: row[0] for key, row in self.calculations.items()},
            "batch_jobs": self.batches,
            "batch_items": {key: row[0] for key, row in self.items.items()},
        }
        return found[table]

    def delete_molecule(self, key: int) -> None:
        del self.molecules[key], self.smiles[key]
        self.calculations = {k: row for k, row in self.calculations.items() if row[1] != key}
        self.items = {k: row for k, row in self.items.items() if row[2] != key}

    def readable(self, tenant: Owner, owner: Owner) -> bool:
        return tenant is None or owner in {tenant, PUBLIC_USER_ID}


class Machine(RuleBasedStateMachine):
    """One sequence of operations."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        with self.world.admin.begin() as connection:
            connection.execute(text("ALTER TABLE public.event_logs DISABLE TRIGGER guard"))
            connection.execute(text("TRUNCATE public.molecules, public.batch_jobs, public.event_logs CASCADE"))
            connection.execute(text("ALTER TABLE public.event_logs ENABLE TRIGGER guard"))

    def client(self, owner: Owner) -> qf.Client:
        return self.world.scopes.get(owner, self.world.service) if owner is not None else self.world.service

    def pick(self, keys: dict[int, Any], number: int) -> int:
        return sorted(keys)[number % len(keys)]

    @rule(owner=owners, smiles=st.sampled_from(SMILES))
    def create_molecule(self, owner: Owner, smiles: str) -> None:
        has = any(o == owner and self.model.smiles[k] == smiles for k, o in self.model.molecules.items())
        try:
            key = self.client(owner).molecules.create(smiles, shared=owner == PUBLIC_USER_ID).id
        except qf.DuplicateMolecule:
            assert has
        else:
            assert not has
            self.model.molecules[key], self.model.smiles[key] = owner, smiles

    @precondition(lambda self: self.model.molecules)
    @rule(owner=tenants, number=picks)
    def create_calculation(self, owner: uuid.UUID, number: int) -> None:
        parent = self.pick(self.model.molecules, number)
        allowed = self.model.readable(owner, self.model.molecules[parent])
        try:
            key = self.client(owner).calculations.create(molecule_id=parent, energy=-1.0).id
        except (qf.NotFound, qf.AccessDenied):
            assert not allowed
        else:
            assert allowed
            self.model.calculations[key] = (owner, parent)

    @precondition(lambda self: self.model.molecules)
    @rule(owner=tenants, number=picks)
    def create_calculation_by_login(self, owner: uuid.UUID, number: int) -> None:
        parent = self.pick(self.model.molecules, number)
        allowed = self.model.readable(owner, self.model.molecules[parent])
        try:
            with self.world.logins[owner].begin() as connection:
                key = connection.execute(
                    text("INSERT INTO public.calculations (molecule_id, energy) VALUES (:m, -2) RETURNING id"),
                    {"m": parent},
                ).scalar_one()
        except ProgrammingError:  # the class of a refusal by row level security
            assert not allowed
        else:
            assert allowed
            self.model.calculations[key] = (owner, parent)

    @rule(owner=tenants, smiles=st.lists(st.sampled_from(SMILES), min_size=1, max_size=4))
    def load(self, owner: uuid.UUID, smiles: list[str]) -> None:
        report = self.client(owner).calculations.bulk_load([{"smiles": one, "energy": -3.0} for one in smiles])
        frame = self.client(owner).sql("SELECT id, smiles, user_id FROM molecules")
        for row in frame.itertuples():
            self.model.molecules.setdefault(int(row.id), owner)
            self.model.smiles.setdefault(int(row.id), row.smiles)
        parents = self.client(owner).sql("SELECT id, molecule_id FROM calculations").set_index("id").molecule_id
        for key, one in zip(report.ids, smiles, strict=True):
            parent = int(parents[key])
            assert self.model.smiles[parent] == one
            assert self.model.readable(owner, self.model.molecules[parent])
            self.model.calculations[int(key)] = (owner, parent)

    @precondition(lambda self: self.model.molecules)
    @rule(owner=tenants, number=picks)
    def create_batch(self, owner: uuid.UUID, number: int) -> None:
        parent = self.pick(self.model.molecules, number)
        try:
            key = (
                self.client(owner).batches.create(f"batch {len(self.model.batches)} {number}", molecules=[parent]).id
            )
        except (qf.NotFound, qf.AccessDenied):
            assert not self.model.readable(owner, self.model.molecules[parent])
        except qf.DuplicateBatch:
            return
        else:
            assert self.model.readable(owner, self.model.molecules[parent])
            self.model.batches[key] = owner
            with self.world.admin.begin() as connection:
                (item,) = connection.execute(
                    text("SELECT id FROM public.batch_items WHERE batch_id = :b"), {"b": key}
                ).one()
            self.model.items[item] = (owner, key, parent)

    @precondition(lambda self: self.model.molecules)
    @rule(owner=tenants, number=picks)
    def delete_molecule(self, owner: uuid.UUID, number: int) -> None:
        key = self.pick(self.model.molecules, number)
        try:
            self.client(owner).molecules.delete(key)
        except qf.NotFound:
            assert self.model.molecules[key] != owner
        else:
            assert self.model.molecules[key] == owner
            self.model.delete_molecule(key)

    @precondition(lambda self: self.model.molecules)
    @rule(owner=tenants, number=picks)
    def rename_by_login(self, owner: uuid.UUID, number: int) -> None:
        key = self.pick(self.model.molecules, number)
        with self.world.logins[owner].begin() as connection:
            done = connection.execute(text("UPDATE public.molecules SET name = 'x' WHERE id = :k"), {"k": key})
        assert (done.rowcount == 1) is (self.model.molecules[key] == owner)

    @rule(owner=tenants)
    def steal_by_login(self, owner: uuid.UUID) -> None:
        for statement in (
            f"UPDATE public.molecules SET user_id = '{owner}'",
            f"UPDATE public.calculations SET user_id = '{PUBLIC_USER_ID}'",
            "SET ROLE qforge_owner",
            "SET ROLE qforge_scope",
        ):
            with contextlib.suppress(Exception), self.world.logins[owner].begin() as connection:
                connection.execute(text(statement))
                raise AssertionError(statement)

    @precondition(lambda self: self.model.calculations)
    @rule(number=picks, to=st.sampled_from([*TENANTS, PUBLIC_USER_ID]))
    def move_calculation(self, number: int, to: uuid.UUID) -> None:
        key = self.pick(self.model.calculations, number)
        owner, _ = self.model.calculations[key]
        admin = self.world.service.admin
        try:
            if to == PUBLIC_USER_ID:
                admin.publish(calculations=[key])
            elif owner == PUBLIC_USER_ID:
                admin.unpublish(to, calculations=[key])
            else:
                admin.transfer(owner, to, calculations=[key])
        except qf.InvalidInput:
            assert owner == to
            return
        self.take_over()
        assert self.model.calculations[key][0] == to

    @precondition(lambda self: self.model.molecules)
    @rule(number=picks, to=st.sampled_from([*TENANTS, PUBLIC_USER_ID]))
    def move_molecule(self, number: int, to: uuid.UUID) -> None:
        key = self.pick(self.model.molecules, number)
        owner = self.model.molecules[key]
        admin = self.world.service.admin
        try:
            if to == PUBLIC_USER_ID:
                admin.publish(molecules=[key])
            elif owner == PUBLIC_USER_ID:
                admin.unpublish(to, molecules=[key])
            else:
                admin.transfer(owner, to, molecules=[key])
        except qf.InvalidInput:
            assert owner == to
        except qf.Conflict:
            children = {row[0] for row in self.model.calculations.values() if row[1] == key}
            children |= {row[0] for row in self.model.items.values() if row[2] == key}
            assert children - {to, None}
        else:
            self.take_over()

    @rule(source=tenants, to=tenants)
    def move_everything(self, source: uuid.UUID, to: uuid.UUID) -> None:
        with contextlib.suppress(qf.InvalidInput):
            self.world.service.admin.transfer(source, to)
            self.take_over()
            assert source not in {owner for owner, _ in self.model.calculations.values()}

    @rule(tenant=tenants)
    def count_what_a_deletion_would_take(self, tenant: uuid.UUID) -> None:
        counted = self.world.service.admin.delete_tenant(tenant).set_index("table").rows
        for table in TABLES:
            assert counted[table] == list(self.model.owned(table).values()).count(tenant)

    def take_over(self) -> None:
        """After a move by the service: who owns what now, as the server itself says it."""
        with self.world.admin.begin() as connection:
            rows = connection.execute(text("SELECT id, user_id, smiles FROM public.molecules")).all()
            self.model.molecules = {row.id: row.user_id for row in rows}
            self.model.smiles = {row.id: row.smiles for row in rows}
            rows = connection.execute(text("SELECT id, user_id, molecule_id FROM public.calculations")).all()
            self.model.calculations = {row.id: (row.user_id, row.molecule_id) for row in rows}
            rows = connection.execute(text("SELECT id, user_id FROM public.batch_jobs")).all()
            self.model.batches = {row.id: row.user_id for row in rows}
            rows = connection.execute(text("SELECT id, user_id, batch_id, molecule_id FROM public.batch_items")).all()
            self.model.items = {row.id: (row.user_id, row.batch_id, row.molecule_id) for row in rows}

    @invariant()
    def everybody_sees_its_own_and_the_public_rows(self) -> None:
        for tenant in TENANTS:
            with self.client(tenant).session() as session, self.world.logins[tenant].begin() as login:
                for table in TABLES:
                    query = text(f"SELECT id FROM public.{table}")
                    expected = {k for k, o in self.model.owned(table).items() if o in {tenant, PUBLIC_USER_ID}}
                    assert set(session.scalars(query)) == expected
                    assert set(login.scalars(query)) == expected
            assert set(self.client(tenant).sql("SELECT id FROM calculations").id) == {
                k for k, row in self.model.calculations.items() if row[0] in {tenant, PUBLIC_USER_ID}
            }

    @invariant()
    def nobody_hangs_on_what_it_may_not_read(self) -> None:
        for owner, parent in self.model.calculations.values():
            assert self.model.readable(owner, self.model.molecules[parent])
        for owner, batch, molecule in self.model.items.values():
            assert self.model.batches[batch] == owner
            assert self.model.readable(owner, self.model.molecules[molecule])

    @invariant()
    def the_server_holds_what_the_model_holds(self) -> None:
        with self.world.admin.begin() as connection:
            for table in TABLES:
                rows = connection.execute(text(f"SELECT id, user_id FROM public.{table}")).all()
                assert {row.id: row.user_id for row in rows} == self.model.owned(table)

    @invariant()
    def events_are_of_what_one_owns_or_owned(self) -> None:
        for tenant, engine in self.world.logins.items():
            with engine.begin() as login:
                assert set(login.scalars(text("SELECT DISTINCT user_id FROM public.event_logs"))) <= {tenant}
        with self.world.admin.begin() as connection:
            # Every calculation that is there was recorded when it came.
            missing = connection.execute(
                text(
                    "SELECT count(*) FROM public.calculations AS c "
                    "WHERE NOT EXISTS (SELECT FROM public.event_logs AS e WHERE e.entity_type = 'calculations' "
                    "AND e.entity_id = c.id AND e.recorded_by = 'trigger')"
                )
            ).scalar_one()
            assert missing == 0


def test_random_operations_keep_to_the_model(world: World, long: bool) -> None:
    Machine.world = world
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=300 if long else 12,
            stateful_step_count=40 if long else 15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
