"""Batches: what running one costs beside the bare computation, and how many items one database takes.

``python -m benchmarks.batches --molecules 1000 --rows 10000``
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from sqlalchemy import Connection, text

import qforge_sdk as qf
from benchmarks.timing import print_table
from benchmarks.turns import Contestant, in_turns
from qforge_sdk.chem import Geometry, geometry_from_smiles
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute import Parameters, get_engine
from qforge_sdk.compute.item import compute
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.link import Link, claim_items, store
from qforge_sdk.config import normalise_url
from qforge_sdk.data import load_sample
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.results import Ended, Finished
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.work import Item, Work
from qforge_sdk.errors import ComputationFailed

BARE = "geometry + tblite, bare loop"
ONE = "batches.run, 1 process"
TWO = "batches.run, 2 processes"
WORKERS = {ONE: 1, TWO: 2}
# The speed of a shared processor changes within seconds. What is stopped in the middle of a claim makes its next ones
# smaller, which counts against us.
TURN_SECONDS = 1.0
# What a worker claims at most, and the mean of the shipped molecules.
GROUP = 64
ATOMS = 23

PUBLISHED = """
published, on other machines, for work that computes nothing:
  AiiDA           0.47, 0.28, 0.16 s a process with 1, 2, 4 daemon workers = 2.1, 3.6, 6.1 a second
                  (https://aiida.readthedocs.io/projects/aiida-core/en/stable/topics/performance.html)
  QCFractal       claiming 200 tasks takes 0.5 to 0.7 s = 290 to 400 a second, without their results
                  (https://github.com/MolSSI/QCFractal/pull/852)
"""


class Nothing:
    """An engine that gives every molecule the same result."""

    name = "nothing"
    methods = ("GFN2-xTB",)

    def __init__(self, atoms: int) -> None:
        positions = np.arange(3.0 * atoms).reshape(-1, 3) / 7
        self._result = XtbResult(
            status="converged", energy=-5.0703, homo=-12.1, lumo=2.2, gap=14.3, dipole=2.2, method="GFN2-xTB",
            xtb_version="tblite 0.8.0", execution_time_seconds=0.0, geometry=Geometry(("C",) * atoms, positions),
            charges=np.linspace(-0.1, 0.1, atoms) / 3, forces=np.ones((atoms, 3)) / 3,
        )  # fmt: skip

    def run(self, _geometry: Geometry, **_options: object) -> XtbResult:
        return self._result


def molecules(count: int) -> list[str]:
    """Shipped molecules, the same ones each time."""
    smiles = sorted(filter(None, load_sample().molecules["smiles"].to_pylist()))
    random.Random(42).shuffle(smiles)
    return smiles[:count]


def bare_loop(smiles: list[str]) -> Callable[[], None]:
    """Geometry and engine, one after the other, nothing stored."""
    engine = get_engine("tblite")

    def loop() -> None:
        for one in smiles:
            with suppress(ComputationFailed):
                conformer = geometry_from_smiles(one)
                engine.run(
                    conformer.geometry, charge=conformer.charge, unpaired_electrons=conformer.unpaired_electrons
                )

    return loop


def batch_run(url: str, batch_id: int, workers: int) -> Callable[[], None]:
    """A batch, as its user runs it."""
    client = qf.connect(url)

    def run() -> None:
        report = client.batches.run(batch_id, workers=workers, progress=False)
        assert report.n_left == 0, report

    return run


def end_to_end(count: int, rounds: int) -> None:
    """A batch on one process beside the bare loop over the same molecules, and beside one on two processes."""
    smiles = molecules(count)
    pairs: dict[tuple[str, str], list[dict[str, float]]] = {(BARE, ONE): [], (ONE, TWO): []}
    with tempfile.TemporaryDirectory(prefix="qforge-bench-") as folder, ExitStack() as stack:
        # Who is stopped in the middle of a transaction must keep nobody waiting: a database for each.
        clients = {
            name: stack.enter_context(qf.connect(data_dir=Path(folder) / str(workers)))
            for name, workers in WORKERS.items()
        }
        keys = {
            name: client.molecules.bulk_load({"smiles": smiles}, progress=False).ids.tolist()
            for name, client in clients.items()
        }

        def contestant(name: str, batch: str) -> Contestant:
            if name == BARE:
                return bare_loop, (smiles,)
            client = clients[name]
            key = client.batches.create(batch, molecules=keys[name]).id
            return batch_run, (client.engine.url.render_as_string(hide_password=False), key, WORKERS[name])

        for number in range(1, rounds + 1):
            for pair, measured in pairs.items():
                contestants = {name: contestant(name, f"{number} {pair}") for name in pair}
                measured.append(in_turns(contestants, turn_seconds=TURN_SECONDS))
            against_bare, against_two = (ratios(pair, measured)[-1] for pair, measured in pairs.items())
            print(f"round {number}: {_said(against_bare, against_two)}", flush=True)
    for pair, measured in pairs.items():
        seconds = {name: median(one[name] for one in measured) for name in pair}
        title = f"{count:,} shipped molecules, end to end, in turns of {TURN_SECONDS:g} s, median of {rounds}"
        print_table(title, seconds, base=pair[0], rows=count)
    print(f"median: {_said(*(median(ratios(pair, measured)) for pair, measured in pairs.items()))}")


def ratios(pair: tuple[str, str], measured: Sequence[Mapping[str, float]]) -> list[float]:
    """Time of the second as a multiple of the first one's, round by round."""
    first, second = pair
    return [one[second] / one[first] for one in measured]


def _said(against_bare: float, against_two: float) -> str:
    return f"one process takes {against_bare:.3f} times the bare loop; two are {1 / against_two:.2f} times as fast"


def work_through(url: str, batch_id: int, atoms: int) -> int:
    """Claim and finish items until there is none; how many."""
    engine = make_engine(normalise_url(url), pool_size=1)
    job = Job(
        engine.url, Scope(), Work(batch_id, None), Nothing(atoms), Parameters(), seed=42, n_conformers=1,
        timeout=None, max_retries=2, lease_seconds=60, reconnect_seconds=10,
    )  # fmt: skip
    model = compute(Item(0, 0, "C", 0), job)
    link = Link(engine, reconnect_seconds=10)
    done = 0
    after = 0
    while items := link.run(partial(_claim, job, token := uuid.uuid4(), after)):
        after = items[-1].id
        ended = [
            replace(model, item_id=item.id, row={**model.row, "molecule_id": item.molecule_id}) for item in items
        ]
        done += len(link.run(partial(_store, job, token, ended)).item_ids)
    engine.dispose()
    return done


def _claim(job: Job, token: uuid.UUID, after: int, connection: Connection) -> tuple[Item, ...]:
    return claim_items(connection, job, token=token, holder="benchmark", limit=GROUP, after=after)


def _store(job: Job, token: uuid.UUID, ended: list[Ended], connection: Connection) -> Finished:
    return store(connection, job, token, ended)


def claim_and_finish(rows: int) -> None:
    """How many items that compute nothing one embedded database takes."""
    seconds = {}
    with (
        tempfile.TemporaryDirectory(prefix="qforge-bench-") as folder,
        qf.connect(data_dir=Path(folder) / "db") as client,
        ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool,
    ):
        with client.session() as session:
            session.execute(text(_MOLECULES), {"rows": rows})
        # Processes start before the clock does.
        list(pool.map(_ready, range(4)))
        for processes, atoms in ((1, 1), (1, ATOMS), (2, ATOMS), (4, ATOMS)):
            batch = client.batches.create(f"{processes} {atoms}").id
            with client.session() as session:
                session.execute(text(_ITEMS), {"batch": batch})
            url = client.engine.url.render_as_string(hide_password=False)
            started = perf_counter()
            done = sum(pool.map(work_through, [url] * processes, [batch] * processes, [atoms] * processes))
            seconds[f"{processes} at once, {atoms} atoms a result"] = perf_counter() - started
            assert done == rows
    print_table(f"{rows:,} items claimed and finished", seconds, base=f"1 at once, {ATOMS} atoms a result", rows=rows)
    print(PUBLISHED)


def _ready(_number: int) -> None:
    time.sleep(1.0)


_MOLECULES = (
    "INSERT INTO molecules (graph_hash, formula) SELECT encode(sha256(n::text::bytea), 'hex'), 'C' "
    "FROM generate_series(1, :rows) AS n"
)
_ITEMS = "INSERT INTO batch_items (batch_id, molecule_id) SELECT :batch, id FROM molecules"


def main() -> None:
    """Run both and say how busy the machine was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = os.getloadavg()
    claim_and_finish(options.rows)
    end_to_end(options.molecules, options.rounds)
    loads = " ".join(f"{load:.1f}" for load in (*before, *os.getloadavg()))
    print(f"load of the machine (1, 5, 15 minutes) before and after: {loads}")


if __name__ == "__main__":
    main()
