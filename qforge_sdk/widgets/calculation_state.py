"""What there is to show of one calculation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from qforge_sdk.display import structure_uri
from qforge_sdk.quantities import QUANTITIES
from qforge_sdk.widgets.elements import Cell, Column, Fact, Row
from qforge_sdk.widgets.numbers import heading, label, measured, moment, number, words
from qforge_sdk.widgets.sources import Sources

POSITION: Final = ["position_x", "position_y", "position_z"]
FORCE: Final = ["force_x", "force_y", "force_z"]
FORCE_UNIT: Final = QUANTITIES["force_x"].unit
#: Atoms of one page of the table.
ATOMS_SHOWN: Final = 200
_NUMBERS: Final = ("energy", "gap", "homo", "lumo", "dipole", "total_charge", "execution_time_seconds")
_TONES: Final = {"converged": "good", "not_converged": "bad", "error": "bad"}
_IMAGE_SIZE: Final = (240, 180)
_SHORT: Final = 300
_CHANGE: Final = ["column", "before", "after"]

ATOM_COLUMNS: Final = (
    Column("atom_index", "atom", is_number=True),
    Column("element", "element"),
    Column("partial_charge", heading("partial_charge"), is_number=True),
    *(
        Column(name, f"{label(name)} (\N{LATIN CAPITAL LETTER A WITH RING ABOVE})", is_number=True)
        for name in POSITION
    ),
    Column("force_norm", f"force ({FORCE_UNIT})", is_number=True),
)
EVENT_COLUMNS: Final = (
    Column("created_at", "time (UTC)"),
    Column("event_type", "event"),
    Column("status", "status"),
    Column("actor", "by"),
    Column("change", "what changed"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One calculation with all that hangs on it.

    Parameters
    ----------
    facts
        Column to value, those of its molecule included.
    atoms
        As from ``client.atoms.for_calculation``, with ``force_norm`` (hartree/bohr).
    history
        As from ``client.events.history``.
    error
        Why it failed, None where it did not or nobody said.
    """

    facts: Mapping[str, Any]
    atoms: pd.DataFrame
    history: pd.DataFrame
    error: str | None

    @property
    def title(self) -> str:
        """What it is called."""
        name = self.facts["name"]
        return str(self.facts["formula"] if pd.isna(name) else name)

    @property
    def has_charges(self) -> bool:
        """Whether any atom has a charge."""
        return bool(self.atoms["partial_charge"].notna().any())

    @property
    def has_forces(self) -> bool:
        """Whether any atom has a force."""
        return bool(self.atoms["force_norm"].notna().any())

    @property
    def charge_limit(self) -> float:
        """Largest absolute charge of an atom, e; 0 without any."""
        return _largest(self.atoms["partial_charge"])

    @property
    def force_limit(self) -> float:
        """Largest force on an atom, hartree/bohr; 0 without any."""
        return _largest(self.atoms["force_norm"])


def read_calculation(sources: Sources, id: int) -> Result:  # noqa: A002
    """Read one calculation.

    Parameters
    ----------
    sources
        Where.
    id
        Its key.

    Raises
    ------
    NotFound
        No such calculation, or it is another tenant's.
    InvalidInput
        The key is no whole number.
    """
    record = sources.calculations.get(id)
    frame = sources.calculations.query(id=record.id)
    facts = {str(name): value for name, value in frame.iloc[0].items()} | {"metadata": record.metadata}
    atoms = sources.atoms.for_calculation(record.id)
    atoms["force_norm"] = np.linalg.norm(atoms[FORCE].to_numpy(float), axis=1)
    history = sources.events.history("calculations", record.id)
    return Result(facts, atoms, history, _error(sources, facts))


def facts_of(result: Result) -> list[Fact]:
    """Lines of the heading."""
    facts = result.facts
    method = " ".join(str(one) for one in (facts["method"], facts["solvation"], facts["solvent"]) if not pd.isna(one))
    status = str(facts["convergence_status"])
    shown = [
        Fact("calculation", f"{facts['id']} of molecule {facts['molecule_id']}"),
        Fact("formula", words(facts["formula"])),
        Fact("method", method),
        Fact("status", status.replace("_", " "), tone=_TONES.get(status, "")),
        *(Fact(label(name), measured(name, facts[name])) for name in _NUMBERS),
        Fact("geometry", "optimised" if facts["optimized"] else "as given"),
        Fact("stored", f"{moment(facts['created_at'])} UTC"),
        Fact("SMILES", _shortened(words(facts["smiles"]))),
    ]
    return shown if result.error is None else [*shown, Fact("error", result.error, tone="bad")]


def image_of(result: Result) -> str:
    """The structure, as a data URI."""
    smiles, formula = (None if pd.isna(result.facts[name]) else result.facts[name] for name in ("smiles", "formula"))
    return structure_uri(smiles, size=_IMAGE_SIZE, formula=formula)


def atoms_of(result: Result) -> dict[str, list[Any]]:
    """What the picture in 3D is drawn from: one entry an atom, None where a number is missing."""
    atoms = result.atoms
    return {
        "element": atoms["element"].tolist(),
        "position": atoms[POSITION].to_numpy(float).tolist(),
        "charge": [None if pd.isna(one) else float(one) for one in atoms["partial_charge"]],
        "force": [None if np.isnan(one).any() else one.tolist() for one in atoms[FORCE].to_numpy(float)],
    }


def atom_rows(result: Result, start: int) -> list[Row]:
    """Lines of the table of atoms, from one on; their keys are places in the list."""
    shown = result.atoms.iloc[start : start + ATOMS_SHOWN]
    names = [column.name for column in ATOM_COLUMNS[2:]]
    return [
        Row(
            start + place,
            [str(atom["atom_index"]), str(atom["element"]), *(number(name, atom[name]) for name in names)],
        )
        for place, (_, atom) in enumerate(shown.iterrows())
    ]


def event_rows(result: Result) -> list[Row]:
    """Lines of the audit trail, oldest first, one an event."""
    return [_event_row(key, lines) for key, lines in result.history.groupby("event_id", sort=True)]


def _event_row(key: Any, lines: pd.DataFrame) -> Row:
    event = lines.iloc[0]
    status, kind = str(event["status"]), str(event["event_type"])
    # Of a new row every value is new.
    changed = lines[lines["column"].notna()] if not kind.endswith("_created") else lines.iloc[0:0]
    changes = [_change(*line) for line in changed[_CHANGE].itertuples(index=False)]
    cells: list[Cell] = [
        moment(event["created_at"]),
        kind.replace("_", " "),
        {"text": status, "tone": {"error": "bad", "warning": "busy"}.get(status, "")},
        words(event["actor"]),
        _shortened("; ".join(changes)),
    ]
    return Row(int(key), cells)


def remarks(result: Result) -> str:
    """What is missing, and how it comes there."""
    if result.atoms.empty:
        return (
            "No atoms are stored with this calculation, so there is nothing to show in 3D. "
            f"client.atoms.create({result.facts['id']}, [...]) stores those of one calculation, "
            "client.atoms.bulk_load(frame) those of many, and client.migrate(folder) reads them from xtb's files."
        )
    missing = [name for name, has in (("charges", result.has_charges), ("forces", result.has_forces)) if not has]
    return f"The stored atoms have no {' and no '.join(missing)}." if missing else ""


def force_words(result: Result) -> str:
    """How long the arrows are."""
    if not result.has_forces:
        return ""
    norms = result.atoms["force_norm"]
    place = int(np.nanargmax(norms.to_numpy(float)))
    atom = result.atoms.iloc[place]
    return (
        f"longest arrow: {result.force_limit:.3g} {FORCE_UNIT}, on {atom['element']} {atom['atom_index']}; "
        "none below 2 % of it"
    )


def _largest(column: pd.Series[Any]) -> float:
    greatest = column.abs().max()
    return 0.0 if pd.isna(greatest) else float(greatest)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _change(column: Any, before: Any, after: Any) -> str:
    return f"{column}: {_value(before)} \N{RIGHTWARDS ARROW} {_value(after)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _error(sources: Sources, facts: Mapping[str, Any]) -> str | None:
    """Why a calculation failed: as its run said, else as the last event says."""
    if facts["convergence_status"] == "converged":
        return None
    said = next(_said(facts["metadata"]), None)
    if said is not None:
        return said
    events = sources.events.query(
        entity_type="calculations",
        entity_id=facts["id"],
        error_message=(None, None),
        order_by="-id",
        limit=1,
        columns=["error_message"],
    )
    return None if events.empty else str(events["error_message"][0])


def _said(metadata: Any) -> Iterator[str]:
    """What metadata says of a failure."""
    if not isinstance(metadata, dict):
        return
    for name in ("error_message", "error", "reason"):
        if isinstance(metadata.get(name), str) and metadata[name]:
            yield metadata[name]
    yield from _said(metadata.get("run"))
