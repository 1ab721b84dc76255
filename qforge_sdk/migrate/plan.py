"""What becomes of each run that was read, and the transaction that stores a chunk of them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd
import pyarrow as pa
from sqlalchemy import Connection, Engine

from qforge_sdk.chem.result import SETTLED_CODES
from qforge_sdk.db import runs as stored_runs
from qforge_sdk.db.bulk import load_atoms, load_calculations
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import Conflict, InvalidInput
from qforge_sdk.migrate.known import NumberByText
from qforge_sdk.migrate.read import Found
from qforge_sdk.migrate.report import Line, Lines

_TYPES: Final[dict[str, pa.DataType]] = {
    **dict.fromkeys(
        ("energy", "homo", "lumo", "gap", "dipole", "total_charge", "execution_time_seconds"), pa.float64()
    ),
    "unpaired_electrons": pa.int32(),
    "optimized": pa.bool_(),
    **dict.fromkeys(
        ("xtb_version", "solvation", "solvent", "method", "convergence_status", "xyz_file_hash", "output_json_path",
         "source_id", "metadata"),
        pa.string(),
    ),
}  # fmt: skip
_ATOM_TYPES: Final = {"atom_index": pa.int32(), "element": pa.string(), "partial_charge": pa.float64()} | {
    f"{kind}_{axis}": pa.float64() for kind in ("position", "force") for axis in "xyz"
}
_OUTCOMES: Final = {"insert": "new", "update": "changed"}
_REASONS: Final = {"insert": "it is not stored yet", "update": "it changed since it was stored"}
#: Of a copy whose original is in the same chunk and has no key yet.
_PENDING: Final = 0


@dataclass(slots=True)
class _Step:
    """What is done with one run, and the key of its calculation where there is one."""

    found: Found
    action: str = "none"
    key: int | None = None


class Plan:
    """What is in the database, kept up to date while chunks are settled.

    Parameters
    ----------
    engine
        In the scope of the owner.
    owner
        Whose.
    """

    def __init__(self, engine: Engine, owner: uuid.UUID | None) -> None:
        self.engine = engine
        self.owner = owner
        self.lines = Lines()
        self._by_content = NumberByText()
        self._by_source = NumberByText()
        #: Number of the line that has a source_id.
        self._seen = NumberByText()

    @classmethod
    def of(cls, engine: Engine, owner: uuid.UUID | None) -> Plan:
        """With what an owner has.

        Parameters
        ----------
        engine
            In the scope of the owner.
        owner
            Whose.
        """
        plan = cls(engine, owner)
        with engine.begin() as connection:
            for key, source_id, content_hash in stored_runs.known_runs(connection, owner):
                plan._by_content[content_hash] = key
                plan._by_source[source_id] = key
        return plan

    def settle(self, chunk: Sequence[Found], root: Path, *, dry_run: bool) -> None:
        """Decide about a chunk, store it unless it is a dry run, and note a line for each run.

        Parameters
        ----------
        chunk
            Runs as they were read.
        root
            For the event.
        dry_run
            Only decide.
        """
        steps = [_Step(found) for found in chunk]
        self._decide(steps)
        if not dry_run:
            self._store_or_split([step for step in steps if step.action != "none"], root)
            self._settle_copies(steps)
        self.lines.add([_line(step) for step in steps])

    def _decide(self, steps: list[_Step]) -> None:
        fresh: dict[str, _Step] = {}
        for number, step in enumerate(steps, start=len(self.lines)):
            found = step.found
            if found.unreadable is not None:
                continue
            step.key = self._by_content.get(found.content_hash)
            first = self._seen.get(found.source_id)
            if step.key is not None:
                if first is None:
                    self._seen[found.source_id] = number
                continue
            if first is not None:
                here = first - len(self.lines)
                other = steps[here].found.path if here >= 0 else self.lines.path(first)
                found.unreadable = f"another folder of this migration has the same job_id: {other}"
                continue
            self._seen[found.source_id] = number
            step.key = self._by_source.get(found.source_id)
            step.action = "insert" if step.key is None else "update"
            self._by_content[found.content_hash] = step.key or _PENDING
            fresh[found.source_id] = step
        if fresh:
            self._protect(fresh)

    def _protect(self, fresh: dict[str, _Step]) -> None:
        """What is stored is not replaced by another run of the same job_id while its folder is there."""
        with self.engine.begin() as connection:
            stored = stored_runs.stored_runs(connection, self.owner, list(fresh))
        for source_id, (key, path, content_hash) in stored.items():
            step = fresh[source_id]
            if content_hash is None:
                step.found.unreadable = f"calculation {key}, which no migration stored, has this source_id"
            elif path != step.found.path and os.path.exists(path.partition("#")[0]):  # noqa: PTH110 - never raises
                step.found.unreadable = f"a folder that is stored and still there has the same job_id: {path}"
            if step.found.unreadable is None:
                self._by_content.discard(content_hash or "")
            else:
                step.action, step.key = "none", None
                self._by_content.discard(step.found.content_hash)

    def _settle_copies(self, steps: list[_Step]) -> None:
        """Copies of a run in the same chunk share its key, or its fault."""
        for step in steps:
            if step.key == _PENDING and step.action == "none":
                step.key = self._by_content.get(step.found.content_hash)
                if step.key is None:
                    step.found.unreadable = "it is a copy of a run that was refused"

    def _store_or_split(self, steps: list[_Step], root: Path) -> None:
        """Store in one transaction; where the server refuses a value, find the run that has it and go on without."""
        if not steps:
            return
        try:
            with translated(), self.engine.begin() as connection:
                keys = self._store(connection, steps, root)
        except (InvalidInput, Conflict) as exc:
            if len(steps) > 1:
                half = len(steps) // 2
                self._store_or_split(steps[:half], root)
                self._store_or_split(steps[half:], root)
                return
            steps[0].found.unreadable, keys = f"the database refuses it: {exc}", {}
        for step in steps:
            key = keys.get(step.found.source_id)
            if key is None:
                self._by_content.discard(step.found.content_hash)
                step.action, step.key = "none", None
            else:
                self._by_content[step.found.content_hash] = self._by_source[step.found.source_id] = step.key = key

    def _store(self, connection: Connection, steps: list[_Step], root: Path) -> dict[str, int]:
        """Keys by source_id; a run that the loader refuses is told why."""
        chunk = [step.found for step in steps]
        graphs = stored_runs.register_graphs(connection, self.owner, [one.graph for one in chunk if one.graph])
        table = pa.table(
            {name: pa.array([one.row[name] for one in chunk], kind) for name, kind in _TYPES.items()}
            | {
                "smiles": pa.array([one.smiles for one in chunk], pa.string()),
                "name": pa.array([one.name for one in chunk], pa.string()),
                "molecule_id": pa.array(
                    [graphs[one.graph["graph_hash"]] if one.graph else None for one in chunk], pa.int64()
                ),
            }
        )
        report = load_calculations(
            connection, table, owner=self.owner, on_conflict="update", workers=0, progress=False
        )
        for line in cast("Any", report.rejected.itertuples()):
            chunk[line.row].unreadable = f"{line.column}: {line.reason}"
        kept = [step for step in steps if step.found.unreadable is None]
        changed = [step.key for step in kept if step.action == "update" and step.key]
        stored_runs.delete_atoms(connection, changed)
        self._store_atoms(connection, [step.found for step in kept if step.found.atoms])
        counts = {"runs": len(kept), "changed": len(changed), "root": str(root)}
        stored_runs.record_migration(connection, self.owner, json.dumps(counts))
        keys = [None if pd.isna(key) else int(key) for key in report.ids]
        return {one.source_id: key for one, key in zip(chunk, keys, strict=True) if key is not None}

    def _store_atoms(self, connection: Connection, chunk: list[Found]) -> None:
        if not chunk:
            return
        columns = {
            name: pa.array([value for one in chunk for value in one.atoms[name]], kind)
            for name, kind in _ATOM_TYPES.items()
        }
        source_ids = [one.source_id for one in chunk for _ in one.atoms["atom_index"]]
        load_atoms(
            connection,
            pa.table({"source_id": pa.array(source_ids, pa.string()), **columns}),
            owner=self.owner,
            on_error="raise",
            progress=False,
        )


def _line(step: _Step) -> Line:
    found = step.found
    if found.unreadable is not None:
        outcome, reason = "unreadable", found.unreadable
    elif step.action == "none":
        outcome, reason = "already_there", "the same content is stored"
    else:
        is_doubtful = not SETTLED_CODES.issuperset(found.doubts)
        outcome = "doubtful" if is_doubtful else _OUTCOMES[step.action]
        reason = found.reason or _REASONS[step.action]
    status = found.row.get("convergence_status")
    doubts = ", ".join(dict.fromkeys(found.doubts)) or None
    return found.path, outcome, step.action, reason, step.key or None, found.source_id, found.smiles, status, doubts
