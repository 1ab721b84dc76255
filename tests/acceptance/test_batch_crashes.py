"""Workers, runners and databases are killed at random points; run again, every item has ended once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import qforge_sdk as qf
from qforge_sdk.db.embedded import EmbeddedServer, start
from tests.db.test_batch_run import PARAMETERS, assert_whole, run, statuses, workers_of
from tests.fixtures.databases import Databases
from tests.fixtures.engines import Repulsion
from tests.fixtures.servers import MAIN, PostgresServer

ROOT = Path(__file__).parents[2]
ITEMS = 40
# The last kill comes before the last item.
KILLS, SECONDS_BETWEEN = 4, (0.2, 2.0)

RUNNER = """
import sys
import qforge_sdk as qf
from tests.fixtures.engines import Repulsion

with qf.connect(sys.stdin.readline().strip()) as client:
    report = client.batches.run("screen", engine=Repulsion(seconds=0.1), workers=2, lease_seconds=1.5,
                                max_retries=1000, reconnect_seconds=20.0, timeout=60.0)
    print(report, flush=True)
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own that writes what it commits, and may be killed."""
    server = PostgresServer(MAIN)
    server.start(synchronous_commit="on", full_page_writes="on")
    yield server
    server.stop()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    databases = Databases(server, owner="qforge_owner", roles="CREATE ROLE qforge_owner LOGIN CREATEROLE")
    with databases.clone() as name:
        yield databases.url(name)


@contextmanager
def running(url: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs the batch."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(f"{url}\n")
        process.stdin.close()
        yield process
        process.kill()


def kill_a_worker(runner: subprocess.Popen[str], server: PostgresServer, choose: random.Random) -> None:
    try:
        workers = workers_of(runner.pid)
        if workers:
            choose.choice(workers).kill()
    except psutil.NoSuchProcess:
        return


def kill_the_runner(runner: subprocess.Popen[str], server: PostgresServer, choose: random.Random) -> None:
    runner.kill()


def kill_the_database(runner: subprocess.Popen[str], server: PostgresServer, choose: random.Random) -> None:
    server.crash()
    time.sleep(choose.uniform(0, 1))
    server.resume()


def kill_them_all(runner: subprocess.Popen[str], server: PostgresServer, choose: random.Random) -> None:
    victims = [kill_a_worker, kill_the_runner, kill_the_database]
    for kill in choose.sample(victims, 3):
        kill(runner, server, choose)


KILLED: tuple[Callable[..., None], ...] = (kill_a_worker, kill_the_runner, kill_the_database, kill_them_all)


def test_whoever_is_killed_when_every_item_ends_once(server: PostgresServer, url: str, seed: int, long: bool) -> None:
    choose = random.Random(seed)
    kills = 30 if long else KILLS
    with qf.connect(url) as client:
        smiles = ["C" * n for n in range(1, (6 if long else 1) * ITEMS + 1)]
        key = client.batches.create("screen", molecules=smiles, parameters=PARAMETERS).id
    done = 0
    while True:
        with running(url) as runner:
            while runner.poll() is None:
                time.sleep(choose.uniform(*SECONDS_BETWEEN))
                if done < kills and runner.poll() is None:
                    # Each way comes; which ones come twice is chance.
                    way = KILLED[done % 4] if done < 4 else choose.choice(KILLED)
                    done += 1
                    way(runner, server, choose)
                elif done >= kills:
                    runner.wait(timeout=240)
            ended = runner.returncode == 0
        if ended:
            break
    assert done > 2
    with qf.connect(url) as client:
        assert_whole(client, key, completed=len(smiles))


@pytest.fixture
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of its own in a folder of its own."""
    server = start(tmp_path_factory.mktemp("crash") / "data")
    yield server
    server.stop()


def test_an_embedded_server_that_is_killed_is_started_by_the_next_run(embedded: EmbeddedServer) -> None:
    with qf.connect(data_dir=embedded.data_dir) as client:
        key = client.batches.create("screen", molecules=["C" * n for n in range(1, 13)], parameters=PARAMETERS).id
        pid = int((embedded.data_dir / "pgdata" / "postmaster.pid").read_text().partition("\n")[0])

        def kill_when_it_works(found: object) -> None:
            if getattr(found, "ended", 0):
                psutil.Process(pid).kill()

        with pytest.raises(qf.ConnectionFailed):
            _run_and_look(client, key, kill_when_it_works)
        assert workers_of() == []
    with qf.connect(data_dir=embedded.data_dir) as client:
        left = statuses(client, key)
        assert left.get("completed", 0) < 12
        report = run(client, key, Repulsion(), lease_seconds=1.0, max_retries=10)
        assert report.n_completed == 12
        assert_whole(client, key, completed=12)


def _run_and_look(client: qf.Client, key: int, look: Callable[[object], None]) -> None:
    """A run of which a test sees how the batch stands, about once a second."""
    from qforge_sdk.compute import runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_shown_on", lambda bar: look)
        run(client, key, Repulsion(seconds=0.3), lease_seconds=1.0, reconnect_seconds=1.0, max_retries=10)
