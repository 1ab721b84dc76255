"""Many SMILES, and molecules that hold or kill the process that reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qforge_sdk.chem import validate, validate_many, validate_smiles
from qforge_sdk.chem.isolation import Worker
from qforge_sdk.chem.pool import RESULT_SCHEMA
from qforge_sdk.chem.smiles import looks_heavy
from qforge_sdk.chem.worker import COLUMNS, FAULTS, validate_column
from qforge_sdk.errors import InvalidInput, InvalidSmiles, QForgeError

MIXED = ["CCO", "OCC", "C#O", None, "", "CCO", float("nan"), "c1ccccc1", "nan", 7, "CCO", None]


def carbon_torus(around: int, along: int) -> str:
    """A sheet of graphene closed in both directions; RDKit looks for its smallest rings for a very long time."""
    atoms = [(x, y) for x in range(around) for y in range(along)]
    links = {frozenset([(x, y), ((x + 1) % around, y)]) for x, y in atoms}
    links |= {frozenset([(x, y), (x, (y + 1) % along)]) for x, y in atoms if (x + y) % 2 == 0}
    closures: dict[tuple[int, int], str] = dict.fromkeys(atoms, "")
    for label, link in enumerate(links, start=10):
        for atom in link:
            closures[atom] += f"%({label})"
    return ".".join(f"c{text}" for text in closures.values())


ENDLESS = carbon_torus(14, 14)


def test_molecule_that_holds_rdkit_is_refused_in_time() -> None:
    begun = time.monotonic()
    with Worker(cpu_seconds=1) as worker:
        columns = worker.validate([ENDLESS])
    assert columns["code"] == ["timeout"]
    assert columns["reason"] == ["RDKit took more than 1 s of processor time"]
    assert time.monotonic() - begun < 20


def test_neighbours_of_an_endless_molecule_survive() -> None:
    texts = ["CCO", ENDLESS, "c1ccccc1", "C#O", ENDLESS.replace("(10)", "(999)"), "N"]
    table = validate_many(texts, workers=1, cpu_seconds=1)
    assert table["code"].to_pylist() == [None, "timeout", None, "valence", "timeout", None]
    assert table["smiles"].to_pylist() == ["CCO", None, "c1ccccc1", None, None, "N"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, "memory"),
        (signal.SIGABRT, "memory"),
        (signal.SIGSEGV, "crashed"),
        (signal.SIGTERM, "crashed"),
    ],
)
def test_death_of_the_process_refuses_only_the_molecule_it_worked_on(number: signal.Signals, code: str) -> None:
    with Worker(cpu_seconds=60) as worker:
        worker.validate(["C"])
        assert worker._process is not None
        threading.Timer(0.5, worker._process.send_signal, [number]).start()
        columns = worker.validate(["CCO", ENDLESS, "CCN"])
    assert columns["code"] == [None, code, None]
    assert columns["smiles"] == ["CCO", None, "CCN"]


def test_death_between_two_questions_refuses_nothing() -> None:
    with Worker() as worker:
        worker.validate(["C"])
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert worker.validate(["CCO", "CCN"])["code"] == [None, None]


def test_process_that_cannot_start_is_an_error_and_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Worker() as worker, pytest.raises(QForgeError, match="ends before its work"):
        worker.validate(["CCO"])


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), "memory", "RDKit took too much memory"),
        (RuntimeError("Invariant Violation\n\tbad ring\n"), "sanitization", "RDKit failed: Invariant Violation"),
        (RuntimeError(), "sanitization", "RDKit failed: "),
    ],
)
def test_exception_of_rdkit_is_a_refusal(
    error: Exception, code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_text: object) -> None:
        raise error

    monkeypatch.setattr("qforge_sdk.chem.worker.validate_here", fail)
    columns = validate_column(["C"])
    assert (columns["code"], columns["reason"]) == ([code], [reason])


def test_one_endless_molecule_is_refused_by_validate_smiles() -> None:
    assert looks_heavy(ENDLESS)
    with pytest.raises(InvalidSmiles) as caught:
        validate_smiles(ENDLESS)
    assert (caught.value.code, caught.value.smiles) == ("timeout", ENDLESS)


def test_no_process_and_no_file_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Worker(cpu_seconds=60) as worker:
        worker.validate(["C"])
        assert worker._process is not None
        process = worker._process
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_interrupt_ends_the_processes(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from qforge_sdk.chem import validate_many\n"
        "print('ready', flush=True)\n"
        "validate_many([sys.argv[1], sys.argv[1] + 'C'], workers=2, cpu_seconds=600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while not (children := _children(process.pid)):
        time.sleep(0.05)
    time.sleep(1)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert [pid for pid in children if _is_alive(pid)] == []


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_rows_come_in_order_each_text_once_and_every_value_answered() -> None:
    table = validate_many(MIXED)
    assert table.schema.equals(RESULT_SCHEMA)
    assert table["row"].to_pylist() == list(range(len(MIXED)))
    assert table["ok"].to_pylist() == [True, True, False, False, False, True, False, True, False, False, True, False]
    assert table["smiles"].to_pylist() == [
        "CCO", "CCO", None, None, None, "CCO", None, "c1ccccc1", None, None, "CCO", None,
    ]  # fmt: skip
    assert table["code"].to_pylist() == [
        None, None, "valence", "not_text", "empty", None, "not_text", None, "missing", "not_text", None, "not_text",
    ]  # fmt: skip
    assert table["input_smiles"].to_pylist()[:2] == ["CCO", "OCC"]
    assert table["position"].to_pylist()[2] == 2


def test_result_agrees_with_validate_smiles() -> None:
    row = validate_many(["OCC"]).to_pylist()[0]
    found = validate_smiles("OCC")
    assert {name: row[name] for name in COLUMNS} == {name: getattr(found, name) for name in COLUMNS}


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_what_this_process_gives(workers: int) -> None:
    texts = [
        *MIXED,
        *("C" * (n % 30) + "O" * (n // 30) + "N" for n in range(700)),
        "C" * 1990,
        object,
        lambda: None,
        "\ud800",
        "C\0",
    ]
    alone = validate_many(texts, workers=0)
    assert validate_many(texts, workers=workers).drop_columns("reason").equals(alone.drop_columns("reason"))


def test_process_refuses_values_in_the_same_words() -> None:
    values = [None, 7, b"C", np.float64("nan"), pd.NA, ["C"], "C#O", "C C", lambda: None]
    with Worker() as worker:
        assert worker.validate(values) == validate_column(values)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_arrow_array_is_taken(kind: pa.DataType) -> None:
    array = pa.array(["CCO", None, "OCC", "C#O", "CCO"], pa.string()).cast(kind)
    expected = [None, "not_text", None, "valence", None]
    assert validate_many(array)["code"].to_pylist() == expected
    assert validate_many(array.slice(1))["code"].to_pylist() == expected[1:]
    assert validate_many(pa.chunked_array([array, array.slice(2)]))["code"].to_pylist() == expected + expected[2:]


def test_numpy_array_and_generator_are_taken() -> None:
    assert validate_many(np.array(["CCO", "C#O"]))["ok"].to_pylist() == [True, False]
    assert validate_many(np.array(["CCO", None], dtype=object))["ok"].to_pylist() == [True, False]
    assert validate_many(text for text in ("CCO", "C#O"))["ok"].to_pylist() == [True, False]


@pytest.mark.parametrize("empty", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(0)])
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_no_rows_give_the_same_columns(empty: Any, workers: int | None) -> None:
    table = validate_many(empty, workers=workers)
    assert table.num_rows == 0
    assert table.schema.equals(RESULT_SCHEMA)


@pytest.mark.parametrize("function", [validate, validate_many])
@pytest.mark.parametrize("text", ["CCO", b"CCO", ""])
def test_one_text_instead_of_a_list_is_an_error(function: Any, text: Any) -> None:
    with pytest.raises(InvalidInput, match="give a list"):
        function(text)


def test_series_keeps_its_index() -> None:
    smiles = pd.Series(["OCC", "C#O", None], index=pd.Index([30, 10, 10], name="key"), name="smiles")
    frame = validate(smiles)
    pd.testing.assert_index_equal(frame.index, smiles.index)
    assert frame["ok"].tolist() == [True, False, False]
    assert frame["smiles"].iloc[0] == "CCO"
    assert frame["code"].tolist()[1:] == ["valence", "not_text"]


@pytest.mark.parametrize(
    "values", [[], ["CCO"], ["C#O"], [None], MIXED], ids=["none", "good", "bad", "null", "mixed"]
)
def test_dtypes_do_not_depend_on_the_data(values: list[Any]) -> None:
    for given in (
        values,
        pd.Series(values, dtype=object),
        pa.array([v if isinstance(v, str) else None for v in values], pa.string()),
    ):
        assert validate(given).dtypes.astype(str).to_dict() == {
            "ok": "bool",
            "smiles": "str",
            "inchikey": "str",
            "formula": "str",
            "charge": "Int64",
            "unpaired_electrons": "Int64",
            "n_atoms": "Int64",
            "fingerprint_popcount": "Int64",
            "input_smiles": "str",
            "code": "str",
            "reason": "str",
            "position": "Int64",
        }


def test_progress_is_shown_only_where_asked(capfd: pytest.CaptureFixture[str]) -> None:
    validate_many(["CCO"])
    assert capfd.readouterr() == ("", "")


def test_script_without_a_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from qforge_sdk.chem import validate_many\n"
        "table = validate_many(['C' * (n % 30) + 'O' * (n // 30) + 'N' for n in range(700)], workers=2)\n"
        "print(table.num_rows, table['ok'].to_pylist().count(True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True, text=True, check=True, timeout=60, cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("700 700\n", "")


def test_fields_of_a_refusal_are_all_there() -> None:
    columns = validate_column(["C#O"])
    assert set(columns) == {*COLUMNS, *FAULTS}
    assert [columns[name] for name in COLUMNS] == [[None]] * len(COLUMNS)
