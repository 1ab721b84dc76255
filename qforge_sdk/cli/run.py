"""``qforge run``: the items of a batch, computed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from qforge_sdk.cli import DataDirOption, UrlOption, UserOption, app, console, opened
from qforge_sdk.cli.tables import facts_table, frame_table

_INTERRUPTED: Final = 130
_ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)


@app.command()
def run(
    batch: Annotated[str, typer.Argument(help="Key or name of the batch.")],
    engine: Annotated[str, typer.Option(help="tblite or xtb.")] = "tblite",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a processor by default.")] = None,
    optimize: Annotated[bool, typer.Option("--optimize", help="Relax geometries first.")] = False,
    n_conformers: Annotated[int, typer.Option(min=1, help="Geometries tried of each SMILES.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the geometries.")] = 42,
    timeout: Annotated[float, typer.Option(help="Seconds that one item may take.")] = 3600.0,
    max_retries: Annotated[int, typer.Option(min=0, help="How often after a worker died.")] = 2,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Compute what waits in a batch; run it again to go on. Exit code 2 when items failed, 130 when interrupted."""
    with opened(url, data_dir, user_id) as client, _terminable():
        report = client.batches.run(
            int(batch) if batch.isdecimal() and not client.batches.count(batch_name=batch) else batch,
            engine=engine,
            workers=workers,
            optimize=optimize,
            n_conformers=n_conformers,
            seed=seed,
            timeout=timeout,
            max_retries=max_retries,
        )
        failures = client.batches.failures(report.batch_id)
    facts = {
        "items": report.n_items,
        "completed": report.n_completed,
        "failed": report.n_failed,
        "skipped": report.n_skipped,
        "left": report.n_left,
        "ended in this run": report.n_run,
        "seconds": report.seconds,
        "items per second": report.items_per_second,
    }
    console.print(facts_table(facts, report.batch_name + (", interrupted" if report.interrupted else "")))
    if len(failures):
        console.print(frame_table(failures, "failed, with the first item of each code"))
    if report.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if report.n_failed:
        raise typer.Exit(2)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, by which queueing systems end a job, and a terminal that closes give items back as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # What nohup ignores stays ignored.
    heeded = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
