"""What ``client.batches.create()`` and ``add()`` take as molecules, and what they refuse."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import qforge_sdk as qf
from qforge_sdk.client import Client
from tests.fixtures.clients import TenantClient
from tests.fixtures.engines import Repulsion
from tests.fixtures.tenants import ALICE, BOB

SMILES = ["CCO", "CCN", "CCS"]
PARAMETERS = {"method": "repulsion"}


@pytest.fixture
def keys(client: Client) -> list[int]:
    report = client.molecules.bulk_load({"smiles": SMILES, "name": ["ethanol", "ethylamine", "ethanethiol"]})
    return report.ids.tolist()


def smiles_of(client: Client, batch: Any) -> list[str]:
    return client.batches.items(batch)["smiles"].tolist()


LISTS = [
    list, tuple, np.array, pd.Series, pd.Index, pd.Categorical, pd.array, pa.array, iter,
    lambda values: pd.Series(values).unique(), lambda values: pa.chunked_array([pa.array(values)]),
    lambda values: dict.fromkeys(values).keys(),
]  # fmt: skip


@pytest.mark.parametrize("make", LISTS)
def test_lists_of_keys_and_of_smiles(client: Client, keys: list[int], make: Callable[[Any], Any]) -> None:
    assert smiles_of(client, client.batches.create("keys", molecules=make([*keys, keys[0]]))) == SMILES
    assert smiles_of(client, client.batches.create("smiles", molecules=make(["SCC", "OCC", "CCO"]))) == ["CCS", "CCO"]
    assert client.batches.create("none", molecules=make([])).total_molecules == 0
    assert client.molecules.count() == 3


def test_rows_with_keys(client: Client, keys: list[int], tmp_path: Path) -> None:
    client.calculations.bulk_load({"smiles": SMILES, "energy": [-1.0, -2.0, -3.0], "gap": [5.0, 6.0, 7.0]})
    file = tmp_path / "keys.csv"
    file.write_text(f"molecule_id\n{keys[1]}\n{keys[2]}\n")
    parquet = client.molecules.where().order_by("id").to_parquet(tmp_path / "molecules.parquet")
    for n, (molecules, expected) in enumerate(
        {
            "a frame of molecules": (client.molecules.query(order_by="id"), SMILES),
            "a frame of calculations": (client.calculations.query(gap=(6, None), order_by="gap"), SMILES[1:]),
            "keys that pandas made doubles": (pd.DataFrame({"molecule_id": np.array(keys, float)}), SMILES),
            "a lazy query": (client.molecules.where(name="ethylamine"), ["CCN"]),
            "a query of calculations, whatever it selects": (
                client.calculations.where(gap=(None, 6)).order_by("-gap").select(["id", "gap"]),
                SMILES[1::-1],
            ),
            "another spelling beside the key": ({"molecule_id": keys[:1], "smiles": ["OCC"]}, SMILES[:1]),
            "a list of dicts": ([{"molecule_id": key} for key in keys], SMILES),
            "a list of files": ([parquet], SMILES),
            "a polars frame": (pl.DataFrame({"molecule_id": keys[:1]}), ["CCO"]),
            "a file of text": (file, ["CCN", "CCS"]),
        }.values()
    ):
        assert smiles_of(client, client.batches.create(f"b{n}", molecules=molecules)) == expected


def test_new_structures_are_registered_under_their_names(client: Client, keys: list[int], tmp_path: Path) -> None:
    file = tmp_path / "library.csv"
    file.write_text("name,smiles,supplier\nphenol,Oc1ccccc1,17\nother name,OCC,18\n")

    batch = client.batches.create("library", molecules=str(file))

    assert client.batches.items(batch)[["smiles", "name"]].to_numpy().tolist() == [
        ["Oc1ccccc1", "phenol"],
        ["CCO", "ethanol"],
    ]


def test_a_second_stage_takes_the_best_of_the_first(client: Client) -> None:
    client.batches.create("first", molecules=["C", "CC", "CCC", "CCCC"], parameters=PARAMETERS)
    client.batches.run("first", engine=Repulsion(), workers=1)

    best = client.batches.results("first").order_by("-energy").limit(2)
    client.batches.create("second", molecules=best, parameters=PARAMETERS | {"accuracy": 0.1})

    assert sorted(smiles_of(client, "second")) == ["CCC", "CCCC"]


def test_more_molecules_are_added(client: Client, keys: list[int]) -> None:
    batch = client.batches.create("screen", molecules=keys[:2], parameters=PARAMETERS)
    assert client.batches.run("screen", engine=Repulsion(), workers=1).n_completed == 2

    assert client.batches.add("screen", ["CCN", "CCS", "CCCl"]) == 2
    assert client.batches.add(batch, ["CCN", "CCS", "CCCl"]) == client.batches.add(batch.id, []) == 0

    stored = client.batches.get("screen")
    assert (stored.status, stored.total_molecules, stored.successful_count, stored.waiting_count) == (
        "pending",
        4,
        2,
        2,
    )
    assert client.batches.progress("screen")["completed"] == 2
    client.calculations.create(smiles="CCBr", energy=-1.0, method="repulsion")
    assert client.batches.add("screen", ["CCBr"], reuse=True) == 1
    assert client.batches.run("screen", engine=Repulsion(), workers=1).n_run == 2
    assert smiles_of(client, "screen") == ["CCO", "CCN", "CCS", "CCCl", "CCBr"]
    assert client.batches.get("screen").successful_count == client.batches.results("screen").count() == 5


def test_several_add_the_same_at_once(client: Client, tenant_client: TenantClient) -> None:
    keys = client.molecules.bulk_load({"smiles": ["C" * n for n in range(1, 400)]}, shared=True).ids.tolist()
    alice = tenant_client(ALICE)
    batch = alice.batches.create("screen")
    with ThreadPoolExecutor(3) as pool:
        for n in range(1, 5):
            orders = [keys[: 100 * n], keys[: 100 * n][::-1], random.sample(keys[: 100 * n], k=len(keys[: 100 * n]))]
            added = list(pool.map(lambda order: alice.batches.add(batch, order), orders))
            assert sum(added) == (99 if n == 4 else 100)


@pytest.mark.parametrize(
    ("molecules", "words"),
    [
        ("CCO", r"'CCO' is no file of \.csv, .*; for one SMILES or key write a list of it"),
        (b"CCO", r"write a list of it"),
        ("no-such-library.csv", r"there is no file no-such-library\.csv"),
        (5, r"cannot load rows from int"),
        (None, r"cannot load rows from NoneType"),
        ([1.5], r"a key is a whole number, not 1\.5"),
        ([True], r"a key is a whole number, not True"),
        ([None, 3], r"a key is a whole number, not None"),
        (["CCO", 3], r"keys, such as 3, and SMILES cannot be mixed"),
        ({"molecule_id": [None]}, r"a key is a whole number, not None"),
        ({"formula": ["C2H6O"], "supplier": [1]}, r"molecule_id or smiles is needed, not only formula, supplier"),
        ({"smiles": ["CCO", "CC("]}, r"row 1, smiles: 'CC\('"),
        ("CC.O", r"'CC\.O' is no file"),
        ("library.csv.gz", r"'library\.csv\.gz' is no file of"),
        ([np.True_], r"a key is a whole number, not"),
        ([math.inf], r"a key is a whole number, not inf"),
        (["\ud800"], r"row 0, smiles"),
        ({"id": [True], "smiles": ["CCO"]}, r"id True is no key"),
        # An id alone is anybody's: a library's number, the key of a calculation.
        ({"id": [1]}, r"molecule_id or smiles is needed, not only id"),
        ({"id": [1], "SMILES": ["CCO"]}, r"molecule_id or smiles is needed, not only id, SMILES"),
        ({"id": [1], "name": ["ethanol"], "energy": [-1.0]}, r"not only id, name, energy"),
        ([{"formula": "C2H6O"}], r"molecule_id or smiles is needed, not only formula"),
        # An id is anybody's: SMILES beside it tell.
        ({"id": ["ZINC1"], "smiles": ["CCO"]}, r"id ZINC1 is no key; .* drop it"),
        ({"id": [10**20], "smiles": ["CCO"]}, r"id 100000000000000000000 is no key"),
        ({"id": [10**9], "smiles": ["CCO"]}, r"id 1000000000 is no key of 'CCO'"),
    ],
)
def test_what_names_no_molecules_is_refused_and_nothing_stored(client: Client, molecules: Any, words: str) -> None:
    client.batches.create("stored", molecules=["C"])
    with pytest.raises(qf.InvalidInput, match=words):
        client.batches.create("screen", molecules=molecules)
    with pytest.raises(qf.InvalidInput, match=words):
        client.batches.add("stored", molecules)
    assert client.batches.query()["total_molecules"].tolist() == [1]
    assert client.molecules.count() == 1


def test_an_id_that_is_not_that_of_the_smiles_is_refused(client: Client, keys: list[int]) -> None:
    frame = client.molecules.query(order_by="id")
    with pytest.raises(qf.InvalidInput, match=f"id {keys[0]} is no key of 'CCN'"):
        client.batches.create("screen", molecules=frame.assign(smiles=["CCN", "CCO", "CCS"]))
    with pytest.raises(qf.InvalidInput, match=f"molecule_id {keys[0]} is no key of 'CCN'"):
        client.batches.create("screen", molecules={"molecule_id": keys[:1], "id": [1], "smiles": ["CCN"]})
    assert client.batches.count() == 0


def test_a_query_of_something_else_names_no_molecules(client: Client) -> None:
    for query in (client.events.where(), client.batches.where(), client.atoms.where()):
        with pytest.raises(qf.InvalidInput, match=f"a query of {query.table.name} names no molecules"):
            client.batches.create("screen", molecules=query)


def test_what_belongs_to_another_database_is_told(client: Client, databases_of: Any) -> None:
    client.batches.create("screen", molecules=["CCO"])
    with databases_of().clone() as name, qf.connect(databases_of().url(name)) as other:
        other.molecules.create("C")
        with pytest.raises(qf.InvalidInput, match="a query of another database has other keys"):
            client.batches.add("screen", other.molecules.where())
        record = other.batches.create("other", molecules=["C"])
        with pytest.raises(qf.NotFound):
            client.batches.delete(record)
    assert smiles_of(client, "screen") == ["CCO"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", ""])
def test_a_name_that_no_batch_can_have(client: Client, name: str) -> None:
    with pytest.raises(qf.NotFound, match="there is no batch"):
        client.batches.get(name)


@pytest.mark.parametrize("key", [10**9, 10**30, 0, -1])
def test_a_molecule_that_is_not_there(client: Client, keys: list[int], key: int) -> None:
    with pytest.raises(qf.NotFound, match=f"molecules has no row {key} "):
        client.batches.create("screen", molecules=[keys[0], key])
    assert client.batches.count() == 0


def test_nobody_puts_a_molecule_where_the_owner_of_the_batch_cannot_see_it(
    client: Client, tenant_client: TenantClient
) -> None:
    bobs = tenant_client(BOB).molecules.create("CCO").id
    public = client.molecules.create("CCC", shared=True).id
    alice = tenant_client(ALICE)
    hers = alice.batches.create("hers", molecules=[public])

    for make in (
        lambda: alice.batches.create("screen", molecules=[bobs]),
        lambda: alice.batches.add(hers, [bobs]),
        lambda: client.batches.add(hers, [bobs]),
        lambda: client.batches.create("shared", molecules=[bobs], shared=True),
    ):
        with pytest.raises(qf.NotFound, match=f"molecules has no row {bobs} that is yours to use"):
            make()
    shared = client.batches.create("shared", molecules=[public], shared=True)
    with pytest.raises(qf.NotFound):
        alice.batches.add(shared, ["C"])

    assert client.batches.add(hers, ["C", "CCO"]) == 2
    assert [str(owner) for owner in client.sql("SELECT DISTINCT user_id FROM batch_items i WHERE batch_id = %(id)s",
                                                {"id": hers.id}).user_id] == [str(ALICE)]  # fmt: skip
    assert smiles_of(alice, hers) == ["CCC", "C", "CCO"]
    assert client.batches.create("all", molecules=[bobs, public]).total_molecules == 2
