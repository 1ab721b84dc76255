"""A batch on a dask cluster of several processes, some of which are killed while they work."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from distributed import Client as DaskClient
from distributed import LocalCluster

import qforge_sdk as qf
from qforge_sdk.chem import validate_many
from qforge_sdk.client import Client
from qforge_sdk.compute.job import Job
from tests.db.test_batch_run import PARAMETERS, assert_whole, in_background, wait_until
from tests.fixtures.clients import TenantClient
from tests.fixtures.engines import Repulsion
from tests.fixtures.tenants import ALICE


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three worker processes, which their nannies start again."""
    with LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=False
    ) as cluster:
        yield cluster


@pytest.fixture
def dask(cluster: LocalCluster) -> Iterator[DaskClient]:
    with DaskClient(cluster) as client:
        yield client


def worker_processes(dask: DaskClient) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in dask.run(_pid).values()]


def _pid() -> int:
    import os

    return os.getpid()


def tasks_of(dask: DaskClient) -> list[str]:
    return dask.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))


def test_a_cluster_whose_workers_are_killed_computes_every_item_once(
    client: Client, dask: DaskClient, seed: int, long: bool
) -> None:
    choose = random.Random(seed)
    smiles = ["C" * n for n in range(1, 301 if long else 41)]
    key = client.batches.create("screen", molecules=smiles, parameters=PARAMETERS).id
    thread, results = in_background(
        lambda: client.batches.run(
            key, engine=Repulsion(seconds=0.2), workers=dask, lease_seconds=2.0, max_retries=20, timeout=60.0
        )
    )
    wait_until(lambda: client.batches.get(key).successful_count > 0)
    killed = 0
    while thread.is_alive() and killed < (10 if long else 2):
        choose.choice(worker_processes(dask)).kill()
        killed += 1
        time.sleep(choose.uniform(0.2, 1.0))
    thread.join(timeout=120)

    report = results[0]
    assert isinstance(report, qf.BatchReport), report
    assert killed > 0
    assert (report.n_completed, report.n_left) == (len(smiles), 0)
    assert_whole(client, key, completed=len(smiles))


def test_tasks_are_few_carry_no_client_and_show_no_password(client: Client, dask: DaskClient) -> None:
    key = client.batches.create("screen", molecules=["C" * n for n in range(1, 21)], parameters=PARAMETERS).id
    thread, results = in_background(
        lambda: client.batches.run(key, engine=Repulsion(seconds=0.1), workers=dask, lease_seconds=5.0)
    )
    seen: set[str] = set()
    most = 0
    while thread.is_alive():
        tasks = tasks_of(dask)
        most = max(most, len(tasks))
        seen.update(tasks)
        time.sleep(0.05)
    assert results[0].n_completed == 20
    # Three threads and half as many more that wait for one.
    assert 0 < most <= 6
    assert all(task.startswith(f"qforge-batch-{key}-") for task in seen)
    job = Job(
        client.engine.url, client._context.scope, None, Repulsion(), None, 0, 1, None, 2, 60.0, 60.0  # type: ignore[arg-type]
    )  # fmt: skip
    assert str(client.engine.url.password) not in repr(job)


def test_a_tenant_s_batch_runs_on_a_cluster_as_that_tenant(tenant_client: TenantClient, dask: DaskClient) -> None:
    alice = tenant_client(ALICE)
    alice.batches.create("screen", molecules=["C", "CC"], parameters=PARAMETERS)
    report = alice.batches.run("screen", engine=Repulsion(fails_on="CC"), workers=dask)
    assert (report.n_completed, report.failed) == (1, {"scf_not_converged": 1})
    assert alice.calculations.query()["user_id"].tolist() == [str(ALICE)]


def test_what_no_worker_can_compute_is_raised(client: Client, dask: DaskClient) -> None:
    client.batches.create("screen", molecules=["C"], parameters=PARAMETERS)
    with pytest.raises(qf.InvalidInput, match="no method 'repulsion'"):
        client.batches.run("screen", engine="tblite", workers=dask)
    assert client.batches.progress(client.batches.get(1).id)["pending"] == 1


def test_smiles_are_validated_on_a_cluster_as_they_are_here(client: Client, dask: DaskClient) -> None:
    smiles = ["C" * n + "O" for n in range(1, 600)] + ["C((", None, "c1ccccc1", "OC"]
    assert validate_many(smiles, workers=dask).equals(validate_many(smiles, workers=0))
    report = client.molecules.bulk_load({"smiles": smiles[:50]}, workers=dask)
    assert report.n_inserted == 50
    report = client.calculations.bulk_load({"smiles": smiles[:60], "energy": [-1.0] * 60}, workers=dask)
    assert (report.n_inserted, report.n_molecules_created) == (60, 10)


def test_a_cancelled_batch_leaves_the_cluster(client: Client, dask: DaskClient) -> None:
    key = client.batches.create("screen", molecules=["C" * n for n in range(1, 30)], parameters=PARAMETERS).id
    thread, results = in_background(
        lambda: client.batches.run(key, engine=Repulsion(seconds=0.3), workers=dask, lease_seconds=2.0)
    )
    wait_until(lambda: client.batches.get(key).successful_count > 0)
    skipped = client.batches.cancel(key)
    thread.join(timeout=60)
    assert results[0].n_skipped == skipped
    wait_until(lambda: not tasks_of(dask))


def test_an_interrupted_run_leaves_the_cluster_and_its_items_wait_again(client: Client, dask: DaskClient) -> None:
    key = client.batches.create("screen", molecules=["C" * n for n in range(1, 60)], parameters=PARAMETERS).id

    def interrupt() -> None:
        wait_until(lambda: client.batches.get(key).successful_count > 0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    report = client.batches.run(key, engine=Repulsion(seconds=0.5), workers=dask, lease_seconds=60.0)

    assert report.interrupted
    assert report.n_completed + report.n_left == 59
    assert report.n_left > 0
    wait_until(lambda: not tasks_of(dask))
    items = client.batches.items(key, columns=["status", "retry_count"])
    assert set(items["status"]) == {"completed", "pending"}
    assert set(items["retry_count"]) == {0}


def test_a_deleted_batch_leaves_the_cluster(client: Client, dask: DaskClient) -> None:
    key = client.batches.create("screen", molecules=["C" * n for n in range(1, 60)], parameters=PARAMETERS).id
    thread, results = in_background(
        lambda: client.batches.run(key, engine=Repulsion(seconds=0.5), workers=dask, lease_seconds=2.0)
    )
    wait_until(lambda: client.batches.get(key).successful_count > 0)
    client.batches.delete(key)
    thread.join(timeout=60)
    assert isinstance(results[0], qf.NotFound), results
    wait_until(lambda: not tasks_of(dask))
