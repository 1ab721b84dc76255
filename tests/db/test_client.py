"""connect(), the client's own methods, and the accessors' verbs."""

from __future__ import annotations

import pickle
import uuid

import pytest

import qforge_sdk as qf
from qforge_sdk import Client
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB, TenantLogin


def test_public_names_resolve():
    assert all(hasattr(qf, name) for name in qf.__all__)


def test_a_database_without_tables_says_what_to_run(empty_database_url: str):
    with pytest.raises(qf.SchemaMissing, match="qforge db upgrade"):
        qf.connect(empty_database_url)


def test_url_and_data_dir_exclude_each_other(database_url: str, tmp_path):
    with pytest.raises(qf.ConfigurationError, match="not both"):
        qf.connect(database_url, data_dir=tmp_path)


def test_the_environment_names_the_database_and_the_tenant(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("QFORGE_USER_ID", str(ALICE))
    with qf.connect() as client:
        assert client.user_id == ALICE


def test_a_server_that_is_not_there_is_a_connection_failure():
    with pytest.raises(qf.ConnectionFailed, match=r"127\.0\.0\.1"):
        qf.connect("postgresql://nobody:canary@127.0.0.1:1/none")


@pytest.mark.parametrize("user_id", ["me", str(uuid.UUID(int=0))])
def test_a_tenant_is_a_uuid_and_not_the_public_one(database_url: str, user_id: str):
    with pytest.raises(qf.InvalidInput):
        qf.connect(database_url, user_id=user_id)


def test_a_tenant_login_is_that_tenant_and_no_other(database_url: str, tenant_login: TenantLogin):
    url = tenant_login(database_url, ALICE)
    with qf.connect(url) as client:
        assert client.user_id == ALICE
        row = client.molecules.create("CCO", name="ethanol")
        assert uuid.UUID(row.user_id) == ALICE
    with pytest.raises(qf.ScopeNotHeld, match="cannot act as another"):
        qf.connect(url, user_id=BOB)


def test_a_login_that_is_nobody_is_refused(database_url: str, tenant_login: TenantLogin):
    with pytest.raises(qf.ScopeNotHeld, match="neither a tenant's nor"):
        qf.connect(tenant_login(database_url, None))


def test_repr_names_everything_but_a_password(database_url: str, client: Client):
    shown = repr(client) + client._repr_html_()
    assert client.engine.url.database in shown
    assert "none (service login)" in shown
    assert "qforge_owner" in shown


def test_a_client_does_not_pickle(client: Client):
    with pytest.raises(TypeError, match="connect"):
        pickle.dumps(client)


def test_closing_twice_is_fine(database_url: str):
    client = qf.connect(database_url)
    client.close()
    client.close()


def test_a_closed_client_opens_no_connection_again(database_url: str):
    client = qf.connect(database_url)
    accessors = client.molecules, client.batches
    client.close()
    for read in (
        lambda: accessors[0].query(name="x"),
        lambda: accessors[1].get(1),
        lambda: client.sql("SELECT 1"),
        client.stats,
    ):
        with pytest.raises(qf.ConnectionFailed, match="this client is closed"):
            read()
    assert client.engine.pool.checkedin() == 0


def test_session_commits_at_the_end_and_rolls_back_on_an_error(client: Client):
    with client.session() as session:
        session.add(qf.Molecule(smiles="C", formula="CH4"))
    with pytest.raises(RuntimeError, match="stop"), client.session() as session:
        session.add(qf.Molecule(smiles="CC", formula="C2H6"))
        session.flush()
        raise RuntimeError("stop")
    assert client.molecules.query()["smiles"].tolist() == ["C"]


def test_sql_returns_a_frame_with_nullable_types(client: Client):
    frame = client.sql(
        "SELECT 1::smallint AS a, NULL::int AS b, 1.5::numeric AS c, 'x' AS d, true AS e, "
        "'{\"k\": [1]}'::jsonb AS f, '11111111-1111-1111-1111-111111111111'::uuid AS g, 2.5::float4 AS h"
    )
    assert frame.dtypes.astype(str).to_dict() == {
        "a": "Int64", "b": "Int64", "c": "float64", "d": "str", "e": "boolean", "f": "object", "g": "str",
        "h": "float64",
    }  # fmt: skip
    assert frame["f"][0] == {"k": [1]}
    assert frame["g"][0] == "11111111-1111-1111-1111-111111111111"


def test_sql_takes_parameters_and_leaves_bare_percent_signs_alone(client: Client):
    client.molecules.create("CCO", name="100% ethanol")
    assert client.sql("SELECT count(*) AS n FROM molecules WHERE name LIKE '100%'")["n"][0] == 1
    found = client.sql(
        "SELECT name FROM molecules WHERE name LIKE %(pattern)s AND 5 %% 2 = 1", {"pattern": "%ethanol"}
    )
    assert found["name"].tolist() == ["100% ethanol"]
    with pytest.raises(qf.InvalidInput, match="placeholders"):
        client.sql("SELECT %(missing)s", {"other": 1})
    with pytest.raises(qf.InvalidInput, match="placeholders"):
        client.sql("SELECT %(one)s, %(missing)s", {"one": 1})
    with pytest.raises(qf.InvalidInput, match=r"no %\(n\)s for 'n'"):
        client.sql("SELECT :n", {"n": 1})


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM molecules",
        "WITH gone AS (DELETE FROM molecules RETURNING 1) SELECT * FROM gone",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT nextval('molecules_id_seq')",
        "DROP TABLE molecules",
        "SELECT 1; DELETE FROM molecules",
        "COMMIT; DELETE FROM molecules",
        "SELECT lo_create(0)",
    ],
)
def test_sql_cannot_write(client: Client, statement: str):
    client.molecules.create("CCO")
    with pytest.raises(qf.QForgeError):
        client.sql(statement)
    assert client.molecules.count() == 1
    assert client.molecules.create("CCCO").smiles == "CCCO"


def test_a_mistake_in_sql_is_told_without_the_query_around_it(client: Client):
    with pytest.raises(qf.DatabaseError, match='column "nonsense" does not exist') as caught:
        client.sql("SELECT nonsense FROM molecules")
    assert caught.value.sqlstate == "42703"


def test_second_spelling_is_a_duplicate_and_exist_ok_returns_the_stored_record(client: Client):
    first = client.molecules.create("OCC", name="ethanol")
    assert (first.smiles, first.formula, first.name) == ("CCO", "C2H6O", "ethanol")
    with pytest.raises(qf.DuplicateMolecule) as caught:
        client.molecules.create("C(O)C")
    assert caught.value.existing_id == first.id
    assert client.molecules.create("C(O)C", exist_ok=True) == first
    assert client.molecules.get_by_smiles("C(O)C") == first


def test_absent_and_foreign_rows_raise_the_same_not_found(tenant_client: TenantClient):
    foreign = tenant_client(BOB).calculations.create(smiles="CCO", energy=-11.4)
    alice = tenant_client(ALICE)
    messages = set()
    for key in (foreign.id, 10**12):
        for call in (
            alice.calculations.get,
            alice.calculations.delete,
            lambda k: alice.calculations.update(k, metadata={}),
        ):
            with pytest.raises(qf.NotFound) as caught:
                call(key)
            messages.add(str(caught.value).replace(str(key), "KEY"))
    assert messages == {"calculations has no row KEY"}


@pytest.mark.parametrize("key", [None, "x", 1.5, True])
def test_a_key_is_a_whole_number(client: Client, key: object):
    with pytest.raises(qf.InvalidInput, match="whole number"):
        client.molecules.get(key)


def test_create_registers_the_molecule_of_a_calculation_once(client: Client):
    first = client.calculations.create(smiles="CCO", energy=-11.39, gap=9.1, execution_time_seconds=0.2)
    second = client.calculations.create(smiles="OCC", energy=-11.38)
    assert first.molecule_id == second.molecule_id
    assert client.molecules.count() == 1
    assert client.calculations.for_molecule(first.molecule_id)["energy"].tolist() == [-11.39, -11.38]


def test_a_source_id_is_stored_once(client: Client):
    first = client.calculations.create(smiles="CCO", energy=-11.39, source_id="run-1")
    assert client.calculations.create(smiles="CCO", energy=-11.39, source_id="run-1", exist_ok=True) == first
    with pytest.raises(qf.Conflict, match="run-1"):
        client.calculations.create(smiles="CCO", energy=-11.39, source_id="run-1")


def test_update_and_delete_change_one_row(client: Client):
    row = client.molecules.create("CCO", name="ethanol")
    changed = client.molecules.update(row.id, name="alcohol", metadata={"grade": "p.a."})
    assert (changed.name, changed.metadata) == ("alcohol", {"grade": "p.a."})
    assert changed.updated_at > row.updated_at
    client.molecules.delete(row.id)
    with pytest.raises(qf.NotFound):
        client.molecules.get(row.id)


def test_public_rows_are_read_by_tenants_and_written_by_the_service_only(client: Client, tenant_client: TenantClient):
    public = client.molecules.create("CCO", name="ethanol", shared=True)
    private = client.molecules.create("CCC")
    alice = tenant_client(ALICE)
    assert alice.molecules.query()["smiles"].tolist() == ["CCO"]
    with pytest.raises(qf.NotFound):
        alice.molecules.get(private.id)
    for forbidden in (lambda: alice.molecules.update(public.id, name="x"), lambda: alice.molecules.delete(public.id)):
        with pytest.raises(qf.NotFound):
            forbidden()
    with pytest.raises(qf.AccessDenied, match="shared"):
        alice.molecules.create("CCCC", shared=True)
    assert alice.calculations.create(smiles="OCC", energy=-11.4).molecule_id == public.id


def test_ranges_come_sorted(client: Client):
    for energy, gap in ((-3.0, 1.0), (-1.0, 3.0), (-2.0, 2.0)):
        client.calculations.create(smiles="CCO", energy=energy, gap=gap)
    assert client.calculations.by_energy_range(-10, 0)["energy"].tolist() == [-3.0, -2.0, -1.0]
    assert client.calculations.by_gap_range(1.5, None, limit=1)["gap"].tolist() == [2.0]


WATER = [
    {"element": "O", "position_x": 0.0, "position_y": 0.0, "position_z": 0.119, "partial_charge": -0.56,
     "force_x": 0.0, "force_y": 0.0, "force_z": 0.01},
    {"element": "H", "position_x": 0.0, "position_y": 0.763, "position_z": -0.477, "partial_charge": 0.28,
     "force_x": 0.0, "force_y": 0.0, "force_z": -0.005},
    {"element": "H", "position_x": 0.0, "position_y": -0.763, "position_z": -0.477, "partial_charge": 0.28,
     "force_x": 0.0, "force_y": 0.0, "force_z": -0.005},
]  # fmt: skip


@pytest.fixture
def water(client: Client) -> int:
    row = client.calculations.create(smiles="O", energy=-5.07, gap=14.5)
    frame = client.atoms.create(row.id, WATER)
    assert frame["element"].tolist() == ["O", "H", "H"]
    assert frame["atomic_number"].tolist() == [8, 1, 1]
    return row.id


def test_a_calculation_goes_to_ase_in_ase_units(client: Client, water: int):
    atoms = client.calculations.to_ase(water)
    assert atoms.get_chemical_formula() == "H2O"
    assert atoms.get_potential_energy() == pytest.approx(-5.07 * 27.211386, rel=1e-6)
    assert atoms.get_forces()[0, 2] == pytest.approx(0.01 * 27.211386 / 0.529177, rel=1e-5)
    assert atoms.get_charges().tolist() == [-0.56, 0.28, 0.28]
    assert atoms.info["calculation_id"] == water


def test_a_calculation_goes_to_xyz_and_back(client: Client, water: int):
    from qforge_sdk.chem import read_xyz

    text = client.calculations.to_xyz(water)
    geometry = read_xyz(text)
    assert geometry.formula == "H2O"
    assert geometry.positions[1].tolist() == pytest.approx([0.0, 0.763, -0.477])


def test_calculations_go_to_sdf_with_bonds_and_numbers(client: Client, water: int, tmp_path):
    from rdkit import Chem

    path = client.calculations.to_sdf(client.calculations.query(), tmp_path / "out.sdf")
    (mol,) = Chem.SDMolSupplier(str(path), removeHs=False)
    assert mol.GetNumAtoms() == 3
    assert mol.GetNumBonds() == 2
    assert float(mol.GetProp("energy")) == -5.07
    assert mol.GetConformer().GetAtomPosition(0).z == pytest.approx(0.119)


def test_calculations_without_atoms_have_no_geometry(client: Client, tmp_path):
    row = client.calculations.create(smiles="O", energy=-5.07)
    with pytest.raises(qf.NotFound, match="no stored atoms"):
        client.calculations.to_xyz(row.id)
    with pytest.raises(qf.NotFound):
        client.calculations.to_sdf([row.id], tmp_path / "x.sdf")
    with pytest.raises(qf.NotFound, match="has no row"):
        client.calculations.to_ase(10**9)


def test_atoms_of_one_calculation_are_deleted_together(client: Client, water: int):
    assert client.atoms.delete_for_calculation(water) == 3
    assert client.atoms.for_calculation(water).empty


def test_a_batch_takes_molecules_by_smiles_and_by_key(client: Client):
    batch = client.batches.create("screen-1", molecules=["CCO", "OCC", "C"], parameters={"method": "GFN2-xTB"})
    assert batch.total_molecules == 2
    assert client.batches.items(batch.id)["smiles"].tolist() == ["CCO", "C"]
    again = client.batches.create("screen-2", molecules=client.molecules.query())
    assert again.total_molecules == 2
    with pytest.raises(qf.DuplicateBatch):
        client.batches.create("screen-1")
    assert client.batches.create("screen-1", exist_ok=True).id == batch.id


def test_a_batch_with_a_bad_smiles_is_not_stored(client: Client):
    with pytest.raises(qf.RowsRejected):
        client.batches.create("screen", molecules=["CCO", "C(("])
    assert client.batches.count() == 0
    assert client.molecules.count() == 0


def test_progress_counts_items_by_status(client: Client):
    batch = client.batches.create("screen", molecules=["CCO", "C", "CC"])
    progress = client.batches.progress(batch.id)
    assert progress.to_dict() == {
        "pending": 3, "processing": 0, "completed": 0, "failed": 0, "skipped": 0, "total": 3,
    }  # fmt: skip
    assert client.batches.items(batch.id, status="failed").empty
    assert client.batches.update(batch.id, status="in_progress").started_at is not None
    with pytest.raises(qf.NotFound):
        client.batches.progress(10**9)


def test_history_shows_what_changed_and_who_did_it(client: Client):
    row = client.molecules.create("CCO", name="ethanol")
    client.molecules.update(row.id, name="alcohol")
    client.molecules.delete(row.id)
    history = client.events.history("molecules", row.id)
    change = history[history["event_type"] == "molecule_updated"].iloc[0]
    assert (change["column"], change["before"], change["after"]) == ("name", "ethanol", "alcohol")
    assert change["actor"] == "qforge_owner"
    assert history["event_type"].unique().tolist() == ["molecule_created", "molecule_updated", "molecule_deleted"]
    assert client.events.query(entity_type="molecules", event_type="molecule_deleted")["entity_id"].tolist() == [
        row.id
    ]
    with pytest.raises(qf.InvalidInput, match="molecules"):
        client.events.history("molecule", row.id)


def test_stats_are_computed_by_the_server(client: Client):
    assert client.stats().success_rate == 0.0
    for energy, gap in ((-3.0, 1.0), (-1.0, 4.0), (None, None)):
        client.calculations.create(
            smiles="CCO", energy=energy, gap=gap, convergence_status="converged" if energy else "error"
        )
    stats = client.stats()
    assert (stats.total_molecules, stats.total_calculations) == (1, 3)
    assert (stats.average_energy, stats.median_gap) == (-2.0, 2.5)
    assert stats.success_rate == pytest.approx(200 / 3)


def test_health_is_healthy(client: Client):
    assert client.health().status == "healthy"


def test_duplicates_share_an_inchikey_under_two_smiles(client: Client):
    first = client.molecules.create("CCO")
    with client.session() as session:
        session.add(qf.Molecule(smiles="OCC", formula="C2H6O", inchikey=first.inchikey))
    client.molecules.create("CCC")
    assert client.molecules.duplicates()["smiles"].tolist() == ["CCO", "OCC"]
