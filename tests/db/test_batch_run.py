"""``client.batches.run()``: worker processes compute a batch, and every item is accounted for."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from sqlalchemy import make_url, text

import qforge_sdk as qf
from qforge_sdk.chem import geometry_from_smiles
from qforge_sdk.client import Client
from qforge_sdk.compute import get_engine
from qforge_sdk.schemas import BatchReport
from tests.fixtures.canary import CANARY
from tests.fixtures.clients import TenantClient
from tests.fixtures.engines import Repulsion, repulsion
from tests.fixtures.tenants import ALICE, BOB, TenantLogin

ALKANES = ["C" * n for n in range(1, 9)]
PARAMETERS = {"method": "repulsion"}


def batch(client: Client, smiles: list[str] = ALKANES, name: str = "screen", **options: Any) -> int:
    return client.batches.create(name, molecules=smiles, parameters=PARAMETERS, **options).id


def run(client: Client, key: Any, engine: Any = None, **options: Any) -> BatchReport:
    options = {"workers": 1, "lease_seconds": 5.0, "timeout": 60.0} | options
    return client.batches.run(key, engine=engine or Repulsion(), **options)


def statuses(client: Client, key: int) -> dict[str, int]:
    return {status: n for status, n in client.batches.progress(key).items() if n and status != "total"}


def events_of(client: Client) -> Counter[str]:
    frame = client.sql("SELECT event_type FROM event_logs WHERE recorded_by = 'program'")
    return Counter(frame.event_type)


def assert_whole(client: Client, key: int, *, completed: int, failed: int = 0) -> None:
    """Every item has ended once: items, counts, calculations and events agree."""
    assert statuses(client, key) == {k: n for k, n in (("completed", completed), ("failed", failed)) if n}
    found = client.batches.get(key)
    assert (found.successful_count, found.failed_count, found.waiting_count) == (completed, failed, 0)
    assert found.status == "completed"
    linked = client.sql("SELECT calculation_id FROM batch_items WHERE status = 'completed'").calculation_id
    assert linked.is_unique
    assert set(linked) == set(client.sql("SELECT id FROM calculations").id)
    atoms = client.sql("SELECT calculation_id FROM atomic_properties").calculation_id
    assert set(atoms) == set(linked)
    events = events_of(client)
    assert events["calculation_completed"] == completed
    assert events["calculation_failed"] == failed
    assert (events["batch_started"], events["batch_completed"]) == (1, 1)


def wait_until(holds: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def workers_of(pid: int | None = None) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(pid).children(recursive=True) if "qforge_sdk.compute.worker" in _said(child)
    ]


def _said(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread; its result, or what it raised, is in the list when it has ended."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as exc:  # noqa: BLE001 - handed to the test
            results.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results


# Results ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_computed_and_every_item_is_stored_once(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qforge_sdk.progress.DELAY_SECONDS", 0.0)
    key = batch(client)

    report = run(client, "screen", workers=2, progress=True)

    assert_whole(client, key, completed=8)
    assert re.search(r"screen: +\d+%\|.* \d/8 ", capsys.readouterr().err)
    assert (report.n_items, report.n_completed, report.n_left, report.n_run) == (8, 8, 0, 8)
    assert not report.interrupted
    frame = client.calculations.query(order_by="id", columns=["smiles", "energy", "gap", "id", "metadata"])
    for row in frame.itertuples():
        geometry = geometry_from_smiles(row.smiles).geometry
        energy, forces = repulsion(geometry)
        assert row.energy == energy
        assert row.metadata["run"]["engine"] == "repulsion"
        assert row.metadata["run"]["conformer"]["seed"] == 42
        atoms = client.atoms.for_calculation(row.id)
        assert atoms["element"].tolist() == list(geometry.symbols)
        assert atoms[["position_x", "position_y", "position_z"]].to_numpy().tolist() == geometry.positions.tolist()
        assert atoms[["force_x", "force_y", "force_z"]].to_numpy().tolist() == forces.tolist()
    assert client.calculations.query(method="repulsion", xtb_version="repulsion 1", optimized=False).shape[0] == 8

    again = run(client, client.batches.get(key))
    assert (again.n_completed, again.n_run) == (8, 0)
    assert_whole(client, key, completed=8)


def test_a_tblite_batch_gives_what_the_engine_gives(client: Client) -> None:
    client.batches.create("water", molecules=["O", "[NH4+]", "[CH3]"], parameters={"method": "GFN2-xTB"})

    report = client.batches.run("water", workers=1, optimize=True)

    assert report.n_completed == 3
    for row in client.calculations.query(order_by="id").itertuples():
        conformer = geometry_from_smiles(row.smiles)
        expected = get_engine("tblite").run(
            conformer.geometry,
            charge=conformer.charge,
            unpaired_electrons=conformer.unpaired_electrons,
            parameters=qf.compute.Parameters(optimize=True),
        )
        assert row.energy == pytest.approx(expected.energy, abs=1e-9)
        assert (row.total_charge, row.unpaired_electrons) == (expected.total_charge, expected.unpaired_electrons)
        assert row.optimized
    assert client.calculations.query(order_by="id")["unpaired_electrons"].tolist() == [0, 0, 1]


# Failures ---------------------------------------------------------------------------------------------------------


def test_each_fault_of_a_molecule_is_its_code_and_message(client: Client) -> None:
    key = batch(client, ["C", "CC", "CCC", "CCCC", "CCCCC", "[Og]"])
    with client.session() as session:
        graph = qf.Molecule(graph_hash="f" * 64, formula="Fe")
        session.add(graph)
        session.flush()
        session.add(qf.BatchItem(batch_id=key, molecule_id=graph.id))

    report = run(client, key, Repulsion(fails_on="CC", overflows_on="CCC", breaks_on="CCCC"))

    failed = {"engine_error": 2, "no_geometry": 1, "scf_not_converged": 1}
    assert (report.n_items, report.n_completed, report.failed) == (7, 3, failed)
    assert_whole(client, key, completed=3, failed=4)
    faults = client.batches.failures(key)
    assert faults["code"].tolist() == ["engine_error", "no_geometry", "scf_not_converged"]
    assert faults["items"].tolist() == [2, 1, 1]
    assert faults["smiles"].isna().tolist() == [False, True, False]
    assert faults["message"][2] == "it does not converge"
    assert "has no SMILES" in faults["message"][1]
    items = client.batches.items(key, status="failed", columns=["smiles", "error_message", "metadata"])
    messages = dict(zip(items["smiles"], items["error_message"], strict=True))
    assert messages["CCC"] == "energy is not a finite number"
    assert messages["CCCC"] == "ZeroDivisionError: by nothing in ?.log"
    stderr = dict(zip(items["smiles"], items["metadata"], strict=True))
    assert stderr["CC"] == {"stderr": "cycle 250"}
    assert "_misbehave" in stderr["CCCC"]["stderr"]
    logged = client.events.query(entity_type="calculations", status="error", event_type="calculation_failed")
    assert sorted(logged["error_code"]) == ["engine_error", "engine_error", "no_geometry", "scf_not_converged"]


def test_molecules_that_take_too_long_or_end_their_process_fail_and_no_others(client: Client) -> None:
    key = batch(client)
    files = psutil.Process().num_fds()

    report = run(client, key, Repulsion(hangs_on="CC", dies_of="CCCC"), timeout=0.5, max_retries=1)

    assert (report.n_completed, report.failed) == (6, {"killed": 1, "timeout": 1})
    assert (psutil.Process().num_fds(), workers_of()) == (files, [])
    assert_whole(client, key, completed=6, failed=2)
    found = client.batches.items(key, status="failed", columns=["smiles", "error_message", "retry_count", "metadata"])
    slow, deadly = found.sort_values("smiles").itertuples()
    # A time limit is no bad luck: it is not tried again.
    assert (slow.smiles, slow.error_message, slow.retry_count) == ("CC", "it took longer than 0.5 s", 0)
    assert deadly.error_message == "the process that computed it was ended by SIGSEGV"
    assert (deadly.retry_count, deadly.metadata["stderr"]) == (1, "about to die of it\n")
    assert set(client.batches.items(key, status="completed")["retry_count"]) == {0}


# It kills itself over chlorine, and the first time over fluorine, a second after it said so.
MORTAL_XTB = """#!/bin/sh
if grep -q Cl molecule.xyz; then kill -9 $$; fi
if grep -q F molecule.xyz && ! [ -e {once} ]; then touch {once}; sleep 1; kill -9 $$; fi
exec {xtb} "$@"
"""


def mortal_xtb(folder: Path) -> Any:
    program = folder / "xtb"
    program.write_text(MORTAL_XTB.format(once=folder / "once", xtb=shutil.which("xtb")))
    program.chmod(0o755)
    return get_engine("xtb", program=str(program))


def test_an_item_whose_program_dies_is_tried_again_and_takes_no_other_with_it(client: Client, tmp_path: Path) -> None:
    key = client.batches.create("screen", molecules=["C", "CF", "CCl", "CO"]).id

    report = client.batches.run(key, engine=mortal_xtb(tmp_path), workers=1, max_retries=2)

    assert (report.n_completed, report.failed, report.n_run) == (3, {"killed": 1}, 4)
    assert_whole(client, key, completed=3, failed=1)
    items = client.batches.items(key, columns=["smiles", "retry_count", "error_message"]).set_index("smiles")
    assert items["retry_count"].to_dict() == {"C": 0, "CF": 1, "CCl": 2, "CO": 0}
    assert items["error_message"]["CCl"] == "xtb was ended by SIGKILL"


def test_an_item_whose_program_died_while_the_database_is_slow_is_no_timeout(client: Client, tmp_path: Path) -> None:
    key = client.batches.create("screen", molecules=["CF", "C"]).id
    engine = mortal_xtb(tmp_path)
    thread, results = in_background(lambda: client.batches.run(key, engine=engine, workers=1, timeout=4))
    wait_until((tmp_path / "once").exists)

    with client.session() as session:
        session.execute(text("SELECT FROM batch_items WHERE batch_id = :batch FOR UPDATE"), {"batch": key})
        time.sleep(8)
    thread.join()

    assert results[0].n_completed == 2, results
    assert client.batches.items(key, smiles="CF")["retry_count"].tolist() == [1]


def test_results_are_kept_while_the_database_takes_too_long(client: Client, database_url: str) -> None:
    key = batch(client)
    hurried = make_url(database_url).update_query_dict({"options": "-c statement_timeout=500"})
    with qf.connect(hurried.render_as_string(hide_password=False)) as impatient:
        thread, results = in_background(lambda: run(impatient, key, Repulsion(seconds=0.05)))
        wait_until(lambda: client.batches.get(key).successful_count)
        with client.session() as session:
            session.execute(text("SELECT FROM batch_jobs WHERE id = :batch FOR UPDATE"), {"batch": key})
            time.sleep(2)
        thread.join()

    assert results[0].n_completed == 8, results
    assert_whole(client, key, completed=8)


def test_failed_items_are_computed_again_when_asked_for(client: Client) -> None:
    key = batch(client, ["C", "CC", "CCC"])
    run(client, key, Repulsion(fails_on="CC", breaks_on="CCC"))
    with pytest.raises(qf.InvalidInput, match="scf_not_converged"):
        client.batches.retry(key, "scf_not_convergd")
    assert client.batches.retry(key, "timeout") == 0
    assert client.batches.retry(key, ["scf_not_converged"]) == 1
    assert client.batches.get(key).status == "pending"

    report = run(client, key)

    assert (report.n_completed, report.failed) == (2, {"engine_error": 1})
    assert client.batches.retry(key) == 1
    assert run(client, key).n_completed == 3
    found = client.batches.items(key, columns=["error_code", "error_message", "metadata", "retry_count"])
    assert found["error_code"].isna().all()
    assert found["metadata"].tolist() == [{}] * 3
    assert events_of(client)["batch_completed"] == events_of(client)["batch_started"] == 3


def test_chosen_items_are_computed_again(client: Client) -> None:
    key = batch(client, ["C", "CC", "CCC", "CCCC"])
    run(client, key, Repulsion(fails_on="CC", breaks_on="CCC"))
    first, second = client.batches.items(key, status="failed")["id"]

    assert client.batches.retry(key, items=[second, second]) == 1

    assert statuses(client, key) == {"completed": 2, "failed": 1, "pending": 1}
    assert run(client, key).failed == {"scf_not_converged": 1}
    assert client.batches.retry("screen", items=client.batches.items(key, status="failed")["id"]) == 1
    assert client.batches.items(key, status="pending")["id"].tolist() == [first]
    client.batches.cancel(key)
    assert client.batches.retry(key, items=(first,)) == 1
    assert client.batches.retry(key, items=[]) == 0
    assert run(client, key).n_completed == 4


def test_all_of_the_chosen_items_wait_again_or_none(client: Client) -> None:
    key = batch(client, ["C", "CC", "CCC"])
    run(client, key, Repulsion(fails_on="CC"))
    batch(client, ["C", "CC"], "another")
    other = client.batches.create("other", molecules=["CC"], parameters=PARAMETERS).id
    run(client, other, Repulsion(fails_on="CC"))
    (failed,) = client.batches.items(key, status="failed")["id"]
    done, also = client.batches.items(key, status="completed")["id"]

    with pytest.raises(qf.InvalidInput, match=f"only items that failed.*: {done} is completed, {also} is completed"):
        client.batches.retry(key, items=[failed, done, also])
    for missing in (client.batches.items(other)["id"][0], 10**12, 10**30, 0, -1):
        with pytest.raises(qf.NotFound, match=f"batch {key} has no item {missing}"):
            client.batches.retry(key, items=[failed, missing])
    for wrong in ("12", [1.5], [None], [True], [[failed]]):
        with pytest.raises(qf.InvalidInput, match="a key is a whole number"):
            client.batches.retry(key, items=wrong)  # type: ignore[arg-type]
    with pytest.raises(qf.InvalidInput, match="the codes or the items, not both"):
        client.batches.retry(key, "timeout", items=[failed])
    assert statuses(client, key) == {"completed": 2, "failed": 1}


def test_items_that_nobody_holds_wait_again_when_asked_for(client: Client) -> None:
    key = batch(client, ["C", "CC", "CCC"])
    first, second, third = client.batches.items(key)["id"].tolist()
    with client.session() as session:
        for item in (first, second):
            qf.db.crud.update_batch_item_status(session, item, "processing")
        session.execute(
            text(
                "UPDATE public.batch_items SET status = 'processing', lease_token = gen_random_uuid(), "
                "lease_expires_at = now() + interval '1 day' WHERE id = :i"
            ),
            {"i": third},
        )
    assert client.batches.retry(key, items=[first]) == 1
    with pytest.raises(qf.InvalidInput, match=f"{third} is processing"):
        client.batches.retry(key, items=[second, third])
    assert client.batches.retry(key) == client.batches.retry(key, "unknown") == 0
    assert client.batches.retry(key, "abandoned") == 1
    assert client.batches.items(key, order_by="id")["status"].tolist() == ["pending", "pending", "processing"]


def test_what_failed_is_computed_with_other_parameters_when_they_were_changed(client: Client) -> None:
    key = client.batches.create("dye", molecules=["C[n+]1ccc(cc1)C=C[O-]"], parameters={"max_iterations": 3}).id
    assert client.batches.run(key, workers=1).failed == {"scf_not_converged": 1}
    with pytest.raises(qf.InvalidInput, match="did you mean 'max_iterations'"):
        client.batches.update(key, parameters={"max_iteration": 250})
    changed = client.batches.update(key, parameters={"max_iterations": 250})
    assert (changed.parameters, changed.status) == ({"max_iterations": 250}, "completed")
    client.batches.retry(key)
    assert client.batches.run(key, workers=1).n_completed == 1
    (metadata,) = client.calculations.query(columns=["metadata"])["metadata"]
    assert metadata["run"]["parameters"]["max_iterations"] == 250


# What stops a run before it begins ----------------------------------------------------------------------------------


def test_what_no_item_could_be_computed_with_is_refused_and_leaves_them_waiting(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = batch(client)
    with pytest.raises(qf.InvalidInput, match="no method 'repulsion'"):
        client.batches.run(key, engine="tblite", workers=1)
    monkeypatch.setenv("XTB_PATH", "/nowhere/xtb")
    client.batches.create("xtb", molecules=["C"])
    with pytest.raises(qf.ConfigurationError, match="XTB_PATH"):
        client.batches.run("xtb", engine="xtb", workers=1)
    assert statuses(client, key) == {"pending": 8}
    assert events_of(client) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tblit"}, "did you mean 'tblite'"),
        ({"workers": 0}, "workers is a number of processes"),
        ({"workers": "two"}, "dask client, not 'two'"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"max_retries": -1}, "max_retries is a whole number from 0 on"),
        ({"n_conformers": 0}, "n_conformers is a whole number from 1 on"),
        ({"lease_seconds": float("nan")}, "lease_seconds"),
        ({"timeout": float("inf")}, "at most 1,000,000,000, not inf"),
        ({"timeout": "10"}, "timeout is a number of seconds above 0, at most 1,000,000,000, not '10'"),
        ({"lease_seconds": None}, "lease_seconds is a number of seconds"),
        ({"seed": 2**31}, "seed is at most 2,147,483,647"),
        ({"engine": object()}, "engine is a name or an engine"),
        ({"optimize": "no"}, "optimize is True or False, not 'no'"),
    ],
)
def test_a_wrong_argument_says_what_to_give(client: Client, options: dict[str, Any], words: str) -> None:
    key = batch(client, ["C"])
    with pytest.raises(qf.InvalidInput, match=words):
        client.batches.run(key, **options)
    assert statuses(client, key) == {"pending": 1}


def test_unknown_parameters_are_refused_when_a_batch_is_made_and_when_it_runs(client: Client) -> None:
    with pytest.raises(qf.InvalidInput, match="did you mean 'solvent'"):
        client.batches.create("a", molecules=["C"], parameters={"solvnt": "water"})
    with pytest.raises(qf.InvalidInput, match="accuracy cannot be 'high'"):
        client.batches.create("a", molecules=["C"], parameters={"accuracy": "high"})
    assert client.molecules.count() == 0
    with client.session() as session:
        session.add(qf.BatchJob(batch_name="old", parameters={"gfn": 2}))
    with pytest.raises(qf.InvalidInput, match="there is no 'gfn'"):
        client.batches.run("old")


def test_a_batch_is_named_by_key_name_or_record(client: Client) -> None:
    key = batch(client, ["C"])
    with pytest.raises(qf.NotFound, match="no batch 'scren'"):
        client.batches.run("scren")
    with pytest.raises(qf.NotFound):
        client.batches.run(10**12)
    with client.session() as session:
        session.add(qf.BatchJob(batch_name="screen"))
    with pytest.raises(qf.InvalidInput, match=f"give a key, {key}"):
        client.batches.run("screen")


@pytest.mark.parametrize("way", ["key", "name", "record"])
def test_whatever_takes_a_batch_takes_its_key_name_or_record(client: Client, way: str) -> None:
    record = client.batches.create("screen", molecules=["C", "CC"])
    client.batches.create("other", molecules=["CCC"])
    it: Any = {"key": record.id, "name": "screen", "record": record}[way]

    assert client.batches.get(it) == record
    assert client.batches.items(it)["smiles"].tolist() == ["C", "CC"]
    assert client.batches.items_page(it).count == client.batches.progress(it)["pending"] == 2
    assert client.batches.update(it, parameters={"optimize": True}).id == record.id
    assert client.batches.get(it).parameters == {"optimize": True}  # read again, also by a record that was older
    client.batches.delete(it)
    with pytest.raises(qf.NotFound):
        client.batches.get(it)
    assert client.batches.query()["batch_name"].tolist() == ["other"]


def test_an_engine_that_no_worker_can_import_is_told(client: Client) -> None:
    key = batch(client, ["C"])
    engine = type("Local", (Repulsion,), {"__module__": "not_there", "__qualname__": "Local"})()
    sys.modules["not_there"] = type(sys)("not_there")
    sys.modules["not_there"].Local = type(engine)  # type: ignore[attr-defined]
    try:
        with pytest.raises(qf.ConfigurationError, match="cannot load the engine"):
            run(client, key, engine)
    finally:
        del sys.modules["not_there"]
    assert statuses(client, key) == {"pending": 1}


def test_an_engine_that_does_not_pickle_is_told_and_leaves_no_process(client: Client) -> None:
    class Local(Repulsion):
        pass

    key = batch(client, ["C"])
    with pytest.raises(qf.ConfigurationError, match="define it in a module that can be imported") as kept:
        run(client, key, Local())
    assert (workers_of(), statuses(client, key), kept.value.__cause__ is None) == ([], {"pending": 1}, False)


def test_workers_that_die_before_they_compute_end_the_run(client: Client) -> None:
    key = batch(client, ["C"])
    with pytest.raises(qf.QForgeError, match="end before they compute anything: the last one was ended by SIGKILL"):
        run(client, key, Repulsion(dies_of_itself=True))
    assert statuses(client, key) == {"pending": 1}
    assert client.batches.items(key)["retry_count"].tolist() == [0]


# While it runs ----------------------------------------------------------------------------------------------------


def test_two_runners_share_a_batch(client: Client, tenant_client: TenantClient) -> None:
    key = batch(client, ["C" * n for n in range(1, 25)])
    one, first = in_background(lambda: run(client, key, Repulsion(seconds=0.1)))
    second = run(client, key, Repulsion(seconds=0.1))
    one.join(timeout=60)

    assert_whole(client, key, completed=24)
    assert first[0].n_run + second.n_run == 24
    assert first[0].n_run > 0
    assert second.n_run > 0
    assert first[0].n_completed == second.n_completed == 24


def test_a_password_is_neither_in_the_arguments_nor_in_the_environment_of_a_worker(
    client: Client, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", str(database_url))
    key = batch(client, ["C"])
    thread, results = in_background(lambda: run(client, key, Repulsion(seconds=1)))
    wait_until(lambda: statuses(client, key) == {"processing": 1})
    (worker,) = workers_of()
    assert CANARY not in Path(f"/proc/{worker.pid}/cmdline").read_text()
    assert CANARY not in Path(f"/proc/{worker.pid}/environ").read_text()
    assert {name: value for name, value in worker.environ().items() if name == "OMP_NUM_THREADS"} == {
        "OMP_NUM_THREADS": "1"
    }
    thread.join(timeout=60)
    assert results[0].n_completed == 1


def test_a_cancelled_batch_stops_and_can_be_taken_up_again(client: Client) -> None:
    key = batch(client)
    thread, results = in_background(
        lambda: run(client, key, Repulsion(hangs_on="CC"), lease_seconds=1.0, timeout=None)
    )
    wait_until(lambda: workers_of() and client.batches.get(key).status == "in_progress")
    wait_until(lambda: client.batches.items(key, smiles="CC")["status"].tolist() == ["processing"])

    skipped = client.batches.cancel(key)

    thread.join(timeout=60)
    assert workers_of() == []
    report = results[0]
    assert report.n_skipped == skipped > 0
    assert report.n_left == 0
    found = client.batches.get(key)
    assert (found.status, found.skipped_count, found.waiting_count) == ("failed", skipped, 0)
    assert events_of(client)["batch_failed"] == 1
    assert client.batches.cancel(key) == 0
    assert client.batches.failures(key).empty

    assert client.batches.retry(key, "cancelled") == skipped
    assert run(client, key).n_completed == 8
    assert client.batches.get(key).status == "completed"


def test_a_batch_that_is_deleted_ends_its_run(client: Client) -> None:
    key = batch(client)
    thread, results = in_background(lambda: run(client, key, Repulsion(seconds=0.3), lease_seconds=1.0))
    wait_until(lambda: client.batches.get(key).successful_count > 0)
    client.batches.delete(key)
    thread.join(timeout=60)
    assert isinstance(results[0], qf.NotFound)
    assert workers_of() == []


def test_a_batch_is_watched_until_it_ends(client: Client) -> None:
    key = batch(client, ["C" * n for n in range(1, 13)])
    thread, _ = in_background(lambda: run(client, key, Repulsion(seconds=0.15, fails_on="CC")))
    seen = list(client.batches.watch("screen", interval=0.1))
    thread.join(timeout=60)

    assert seen[0].n_left == 12
    assert [one.n_left for one in seen] == sorted((one.n_left for one in seen), reverse=True)
    assert any(one.items_per_second and one.seconds_left for one in seen)
    last = seen[-1]
    assert (last.status, last.n_completed, last.n_failed, last.n_left, last.seconds_left) == (
        "completed",
        11,
        1,
        0,
        0.0,
    )
    assert str(last).startswith("screen: 12 of 12 (100 %), 1 failed")
    assert "<progress" in last._repr_html_()
    with pytest.raises(qf.NotFound):
        client.batches.watch("scren")
    with pytest.raises(qf.InvalidInput):
        client.batches.watch("screen", interval=-1)


def test_a_batch_without_items_has_nothing_to_run(client: Client) -> None:
    client.batches.create("empty", parameters=PARAMETERS)
    with client.session() as session:
        announced = qf.schemas.BatchJobCreate(batch_name="announced", total_molecules=5, parameters=PARAMETERS)
        qf.db.crud.create_batch_job(session, announced)
    for name in ("empty", "announced"):
        assert [now.n_completed for now in client.batches.watch(name)] == [0]
        report = run(client, name)
        assert (report.n_items, report.n_run, report.interrupted) == (0, 0, False)
        assert client.batches.get(report.batch_id).status == "pending"
    assert events_of(client) == {}


def test_a_run_at_work_follows_what_is_done_to_its_batch(client: Client) -> None:
    key = batch(client, ["C" * n for n in range(1, 9)])
    thread, results = in_background(lambda: run(client, key, Repulsion(seconds=0.5)))
    wait_until(lambda: client.batches.get(key).successful_count > 0)

    # Of the next run: this one goes on with what it was told.
    client.batches.update(key, parameters={"method": "repulsion", "accuracy": 0.5})
    last = client.batches.items(key, status="pending", order_by="-id").iloc[0]
    client.molecules.delete(int(last["molecule_id"]))
    added = client.molecules.create("CO").id
    with client.session() as session:
        session.add(qf.BatchItem(batch_id=key, molecule_id=added))
    thread.join(timeout=60)

    assert (results[0].n_items, results[0].n_completed, results[0].n_run) == (8, 8, 8)
    assert client.batches.items(key, smiles="CO")["status"].tolist() == ["completed"]
    ran = client.calculations.query(columns=["metadata"])["metadata"]
    assert {run["run"]["parameters"]["accuracy"] for run in ran} == {1.0}
    assert_whole(client, key, completed=8)


SCRIPT = """
import sys
import qforge_sdk as qf
from tests.fixtures.engines import Repulsion

with qf.connect(sys.stdin.readline().strip()) as client:
    print("ready", flush=True)
    sys.stdin.read()
    print(client.batches.run("screen", engine=Repulsion(hangs_on="CCCC"), workers=2, timeout=None), flush=True)
"""


@pytest.fixture
def script(database_url: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs the batch with an item that takes for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{database_url}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_an_interrupted_run_says_so_and_lets_its_items_wait_again(
    client: Client, script: subprocess.Popen[str]
) -> None:
    key = batch(client)
    script.stdin.close()
    # What was claimed with the item that hangs is stored, or computed by the other worker.
    wait_until(lambda: client.batches.get(key).successful_count == 7)
    left = workers_of(script.pid)

    script.send_signal(signal.SIGINT)

    said = script.stdout.read()
    assert script.wait(timeout=30) == 0
    assert "interrupted: 8 items = 7 completed + 0 failed + 0 skipped + 1 left" in said
    # Silent where nobody looks, but for what the script prints.
    assert said.count("\n") == 1
    wait_until(lambda: not any(one.is_running() for one in left))
    assert statuses(client, key) == {"completed": 7, "pending": 1}
    assert set(client.batches.items(key, status="pending")["retry_count"]) == {0}

    run(client, key)
    assert_whole(client, key, completed=8)


def test_workers_end_with_the_program_that_started_them(client: Client, script: subprocess.Popen[str]) -> None:
    key = batch(client)
    script.stdin.close()
    wait_until(lambda: client.batches.get(key).successful_count > 0)
    left = workers_of(script.pid)
    assert left
    script.kill()
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left))


RELIEVED = """
import socket, threading, uuid
from multiprocessing.connection import Connection
from sqlalchemy import make_url
from qforge_sdk.compute import Parameters, get_engine
from qforge_sdk.compute.item import failed
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.worker import Worker
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.work import Item, Work

job = Job(make_url("postgresql+psycopg2://nobody@127.0.0.1:1/nothing"), Scope(), Work(1, None), get_engine("tblite"),
          Parameters(), seed=1, n_conformers=1, timeout=None, max_retries=2, lease_seconds=60, reconnect_seconds=0.1)
ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
worker, item = Worker(job, theirs), Item(1, 1, "C", 0)
worker._unstored = [(item, failed(item, job, "timeout", "late"))]
listener = threading.Thread(target=worker.listen, args=(theirs,), daemon=True)
listener.start()
ours.send_bytes(worker._token.bytes)
print(type(ours.recv().cause).__name__)
"""


def test_a_worker_says_that_the_database_is_gone_also_when_it_is_relieved() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RELIEVED], capture_output=True, text=True, timeout=60, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ConnectionFailed\n"), done.stderr


def test_the_results_of_a_batch_are_a_query_of_its_calculations(client: Client, tmp_path: Path) -> None:
    key = batch(client, ALKANES[:4])
    assert client.batches.results("screen").count() == 0
    client.calculations.create(smiles="CC", energy=-1.0, method="repulsion", convergence_status="not_converged")
    run(client, key, Repulsion(fails_on="CCC"))
    linked = client.batches.create("again", molecules=ALKANES[1:3], parameters=PARAMETERS, reuse=True)

    results = client.batches.results(key)

    items = client.batches.items(key, status="completed")
    assert results.order_by("molecule_id").df()["id"].tolist() == items["calculation_id"].tolist()
    assert results.count() == 3
    largest = results.where(energy=(0, None)).order_by("-energy").limit(2).select(["smiles"])
    assert largest.df()["smiles"].tolist() == ["CCCC", "CC"]
    hartree, electronvolt = (
        results.order_by("id").df(units={"energy": unit})["energy"] for unit in ("hartree", "eV")
    )
    assert (electronvolt / hartree).tolist() == pytest.approx([27.211386] * 3)
    assert pq.read_table(results.to_parquet(tmp_path / "screen.parquet")).num_rows == 3
    assert client.batches.results(linked).df()["smiles"].tolist() == ["CC"]
    with pytest.raises(qf.NotFound, match="no batch 'scren'"):
        client.batches.results("scren")


# Results that are there already -------------------------------------------------------------------------------------


def test_results_that_are_there_are_linked_instead_of_computed(client: Client) -> None:
    first = batch(client, ["C", "CC", "CCC"])
    run(client, first)
    client.calculations.create(smiles="CCCC", energy=-1.0, method="GFN1-xTB")
    client.calculations.create(smiles="CC", energy=-9.0, method="repulsion", solvation="ALPB", solvent="water")
    client.calculations.create(smiles="C", energy=-9.0, method="repulsion", optimized=True)
    client.calculations.create(smiles="CCC", method="repulsion", convergence_status="error")
    before = client.calculations.count()

    again = client.batches.create("again", molecules=ALKANES[:5], parameters=PARAMETERS, reuse=True)

    assert (again.total_molecules, again.successful_count, again.waiting_count) == (5, 3, 2)
    assert again.status == "in_progress"
    linked = client.batches.items(again.id)["calculation_id"].tolist()[:3]
    assert linked == client.batches.items(first)["calculation_id"].tolist()
    assert run(client, again).n_run == 2
    assert client.calculations.count() == before + 2

    solvated = {"method": "repulsion", "solvation": "ALPB", "solvent": "Water"}
    assert client.batches.create("b", molecules=["CC"], parameters=solvated, reuse=True).status == "completed"
    relaxed = {"method": "repulsion", "optimize": True}
    assert client.batches.create("c", molecules=["C", "CC"], parameters=relaxed, reuse=True).successful_count == 1
    sharp = {"method": "repulsion", "accuracy": 0.1}
    assert client.batches.create("d", molecules=["C"], parameters=sharp, reuse=True).successful_count == 0
    assert client.batches.create("e", molecules=["C"], parameters=PARAMETERS).successful_count == 0


def test_a_result_of_another_spin_or_of_settings_that_nobody_knows_is_not_linked(client: Client) -> None:
    client.calculations.create(smiles="CC", energy=-1.0, method="repulsion", unpaired_electrons=2)
    odd = {"run": {"parameters": {"accuracy": "tight"}}}
    client.calculations.create(smiles="C", energy=-1.0, method="repulsion", metadata=odd)
    usual = {"run": {"parameters": {"accuracy": 1}}}
    client.calculations.create(smiles="CCC", energy=-1.0, method="repulsion", metadata=usual)
    made = client.batches.create("a", molecules=["C", "CC", "CCC"], parameters=PARAMETERS, reuse=True)
    assert client.batches.items(made)["status"].tolist() == ["pending", "pending", "completed"]


def test_an_ion_s_result_is_not_that_of_the_molecule(client: Client) -> None:
    client.calculations.create(smiles="CO", energy=-1.0, total_charge=1.0)
    assert client.batches.create("a", molecules=["CO"], reuse=True).successful_count == 0
    client.calculations.create(smiles="C[O-]", energy=-1.0, total_charge=-1.0)
    assert client.batches.create("b", molecules=["C[O-]"], reuse=True).successful_count == 1


def test_nobody_s_results_but_one_s_own_and_public_ones_are_linked(
    client: Client, tenant_client: TenantClient
) -> None:
    public = client.calculations.create(smiles="C", energy=-1.0, shared=True)
    client.molecules.create("CC", shared=True)
    key = client.molecules.get_by_smiles("CC").id
    tenant_client(BOB).calculations.create(molecule_id=key, energy=-2.0)
    batch_of_alice = tenant_client(ALICE).batches.create("a", molecules=[public.molecule_id, key], reuse=True)
    found = tenant_client(ALICE).batches.items(batch_of_alice.id)
    assert found["calculation_id"].fillna(0).tolist() == [public.id, 0]
    by_smiles = tenant_client(ALICE).batches.create("b", molecules=["C"], reuse=True)
    assert tenant_client(ALICE).batches.items(by_smiles)["calculation_id"].tolist() == [public.id]
    # Nor does the service, which sees them all, link what a reader of the batch could not see.
    assert client.batches.create("b", molecules=[key], reuse=True, shared=True).successful_count == 0


# Whose ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["scope", "login"])
def test_a_tenant_runs_its_own_batch_and_no_other(
    client: Client, tenant_client: TenantClient, tenant_login: TenantLogin, database_url: str, way: str
) -> None:
    bobs = batch(tenant_client(BOB), ["C"])
    public = batch(client, ["C", "CC"], shared=True)
    mine = tenant_client(ALICE) if way == "scope" else qf.connect(tenant_login(database_url, ALICE))
    for other in (bobs, public, 10**12):
        for refused in (mine.batches.run, mine.batches.cancel, mine.batches.retry):
            with pytest.raises(qf.NotFound):
                refused(other)
    with pytest.raises(qf.NotFound):
        mine.batches.failures(bobs)
    with pytest.raises(qf.NotFound):
        mine.batches.results(bobs)
    assert mine.batches.failures(public).empty
    key = mine.batches.create("screen", molecules=client.molecules.query(user_id=str(qf.db.models.PUBLIC_USER_ID)),
                              parameters=PARAMETERS).id  # fmt: skip

    report = run(mine, "screen")

    assert (report.batch_id, report.n_completed) == (key, 2)
    assert mine.batches.results("screen").count() == 2
    assert mine.batches.results(public).count() == 0
    owners = client.sql(
        "SELECT DISTINCT user_id::text AS owner FROM calculations UNION "
        "SELECT DISTINCT user_id::text FROM event_logs WHERE recorded_by = 'program'"
    )
    assert owners.owner.tolist() == [str(ALICE)]
    assert statuses(client, bobs) == {"pending": 1}
    assert statuses(client, public) == {"pending": 2}
    if way == "login":
        mine.close()


# A database that goes and comes -------------------------------------------------------------------------------------


def test_workers_go_on_after_their_connections_were_ended(client: Client) -> None:
    key = batch(client, ["C" * n for n in range(1, 13)])
    thread, results = in_background(lambda: run(client, key, Repulsion(seconds=0.1), workers=2))
    ended = 0
    while thread.is_alive():
        with client.session() as session:
            ended += len(
                session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'qforge_worker' AND datname = current_database()"
                    )
                ).all()
            )
        time.sleep(0.25)
    thread.join()
    assert ended > 0
    assert results[0].n_completed == 12
    assert_whole(client, key, completed=12)
