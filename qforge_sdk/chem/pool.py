"""Many SMILES at once: each text once, on as many processes as pay."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from qforge_sdk.chem.isolation import CPU_SECONDS, Worker, validate_apart
from qforge_sdk.chem.smiles import looks_heavy
from qforge_sdk.chem.worker import COLUMNS, FAULTS, Columns, validate_column
from qforge_sdk.errors import InvalidInput
from qforge_sdk.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

# A process starts in 0.4 s; one core validates 4,000 molecules meanwhile.
_WORTH_PROCESSES: Final = 4_000
_CHUNK: Final = 500
# Of a cluster, whose tasks start a process each.
_TASK: Final = 20_000

RESULT_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("ok", pa.bool_()),
        ("smiles", pa.string()),
        ("inchikey", pa.string()),
        ("formula", pa.string()),
        ("charge", pa.int32()),
        ("unpaired_electrons", pa.int32()),
        ("n_atoms", pa.int32()),
        ("fingerprint", pa.binary()),
        ("fingerprint_popcount", pa.int32()),
        ("input_smiles", pa.string()),
        ("rdkit_version", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("position", pa.int32()),
    ]
)
"""Columns of :func:`validate_many`."""


def validate_many(
    smiles: Any,
    *,
    workers: Any = None,
    progress: bool | None = None,
    cpu_seconds: float = CPU_SECONDS,
) -> pa.Table:
    """Validate many SMILES.

    Parameters
    ----------
    smiles
        A list, or an Arrow array of text; equal texts are validated once.
    workers
        Processes, None for as many as there are processors where that pays; a ``distributed.Client`` for its
        cluster's.
    progress
        Show a bar; None shows one after 2 s where somebody looks.
    cpu_seconds
        Processor time that one molecule may take.

    Returns
    -------
    pyarrow.Table
        One row an input, in order: ``row`` (its number), ``ok``, the fields of ValidatedMolecule (null where
        refused), and ``code``, ``reason``, ``position`` of a refusal.

    Raises
    ------
    InvalidInput
        One text was given instead of a list.
    """
    if isinstance(smiles, str | bytes):
        raise InvalidInput(f"give a list of SMILES, not one text: [{smiles!r}]", field="smiles", value=smiles)
    texts, index = _distinct(smiles)
    columns = _validate_distinct(texts, workers=workers, progress=progress, cpu_seconds=cpu_seconds)
    distinct = pa.table(
        {name: pa.array(columns[name], RESULT_SCHEMA.field(name).type) for name in (*COLUMNS, *FAULTS)}
    )
    table = distinct.take(index) if len(texts) != len(index) else distinct
    table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
    table = table.append_column("ok", pc.is_null(table["code"]))
    return table.select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA)


def validate(smiles: Iterable[Any]) -> pd.DataFrame:
    """Validate many SMILES into a DataFrame.

    Parameters
    ----------
    smiles
        A list, Series or any other iterable.

    Returns
    -------
    pandas.DataFrame
        One row an input, on a Series' own index: ``ok``, ``smiles`` (canonical), ``inchikey``, ``formula`` (Hill),
        ``charge`` (e), ``unpaired_electrons``, ``n_atoms``, ``fingerprint_popcount``, ``input_smiles``, and ``code``,
        ``reason``, ``position`` of a refusal. The dtypes do not depend on the data.

    Raises
    ------
    InvalidInput
        One text was given instead of a list.
    """
    import pandas as pd

    index = smiles.index if isinstance(smiles, pd.Series) else None
    table = validate_many(smiles)
    table = table.drop_columns(["row", "fingerprint", "rdkit_version"])
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int32(): pd.Int64Dtype()}.get)
    frame = frame.astype({name: "str" for name in table.column_names if table.schema.field(name).type == pa.string()})
    frame["ok"] = frame["ok"].astype("bool")
    if index is not None:
        frame.index = index
    return frame


def _distinct(smiles: Any) -> tuple[list[Any], pa.Array]:
    """Distinct values, and for each input the place of its value."""
    if isinstance(smiles, pa.ChunkedArray):
        smiles = smiles.combine_chunks()
    if isinstance(smiles, pa.Array) and pa.types.is_string(smiles.type):
        encoded = smiles.dictionary_encode(null_encoding="encode")
        return encoded.dictionary.to_pylist(), encoded.indices
    values = smiles.to_pylist() if isinstance(smiles, pa.Array) else list(smiles)
    places: dict[Any, int] = {}
    index = [places.setdefault(value if isinstance(value, str) else id(value), len(places)) for value in values]
    distinct: list[Any] = [None] * len(places)
    for value, place in zip(values, index, strict=True):
        distinct[place] = value
    return distinct, pa.array(index, pa.int64())


def _validate_distinct(texts: list[Any], *, workers: Any, progress: bool | None, cpu_seconds: float) -> Columns:
    chunk = _CHUNK
    heavy = [isinstance(text, str) and looks_heavy(text) for text in texts]
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if len(texts) < _WORTH_PROCESSES:
            workers = 1 if any(heavy) else 0
    elif not isinstance(workers, int):
        chunk = max(_CHUNK, min(_TASK, len(texts) // max(sum(workers.nthreads().values()), 1) + 1))
    chunks = [texts[start : start + chunk] for start in range(0, len(texts), chunk)]
    columns: Columns = {name: [] for name in (*COLUMNS, *FAULTS)}
    with progress_bar(progress, "validating", len(texts), unit=" SMILES") as bar:
        for done in _run(chunks, workers, cpu_seconds):
            for name, values in done.items():
                columns[name].extend(values)
            bar.update(len(done["code"]))
    return columns


def _run(chunks: list[list[Any]], workers: Any, cpu_seconds: float) -> Iterator[Columns]:
    """Results of the chunks, in order."""
    if not isinstance(workers, int):
        yield from _run_on_cluster(chunks, workers, cpu_seconds)
        return
    if workers == 0:
        yield from map(validate_column, chunks)
        return
    idle: SimpleQueue[Worker] = SimpleQueue()

    def work(chunk: list[Any]) -> Columns:
        worker = idle.get()
        try:
            return worker.validate(chunk)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        for _ in range(min(workers, len(chunks))):
            idle.put(stack.enter_context(Worker(cpu_seconds=cpu_seconds)))
        # The threads only wait for their processes; closing the workers first ends them when we are interrupted.
        threads = ThreadPoolExecutor(workers)
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        yield from threads.map(work, chunks)


def _run_on_cluster(chunks: list[list[Any]], client: Any, cpu_seconds: float) -> Iterator[Columns]:
    tasks = [client.submit(validate_apart, chunk, cpu_seconds, pure=False) for chunk in chunks]
    try:
        for task in tasks:
            yield task.result()
    finally:
        client.cancel(tasks)
