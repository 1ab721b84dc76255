"""What users name the molecules of a batch by."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import text
from sqlalchemy.orm import Session

from qforge_sdk.accessors.base import key_of
from qforge_sdk.chem import validate_smiles
from qforge_sdk.db import bulk
from qforge_sdk.db.batches import LARGEST_KEY
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.errors import InvalidInput, InvalidSmiles
from qforge_sdk.fields import ATOMS, BATCH_ITEMS, CALCULATIONS, MOLECULES
from qforge_sdk.query import Query

_LISTS: Final = (list, tuple, np.ndarray, pd.Series, pd.Index)
_FILES: Final = frozenset({".csv", ".tsv", ".gz", ".parquet", ".pq"})
_KEYS: Final = ("molecule_id", "id")
_DESCRIBING: Final = ("smiles", "name")
# Beside one of these an id is no molecule's.
_OF_OTHER_TABLES: Final = frozenset().union(*(table.fields for table in (CALCULATIONS, BATCH_ITEMS, ATOMS))) - set(
    MOLECULES.fields
)
_OTHERWISE: Final = """
    SELECT k.id, k.smiles, m.smiles AS stored
    FROM unnest(CAST(:keys AS bigint[]), CAST(:smiles AS text[])) WITH ORDINALITY AS k (id, smiles, n)
    LEFT JOIN public.molecules AS m ON m.id = k.id
    WHERE m.id IS NULL OR m.smiles IS DISTINCT FROM k.smiles
    ORDER BY k.n
"""


def molecule_keys(session: Session, molecules: Any, owner: uuid.UUID | None) -> list[int]:
    """Keys of molecules, each once, in the order given; new structures are registered on the way.

    Parameters
    ----------
    session
        In a transaction.
    molecules
        A list of keys or of SMILES, or rows as bulk loads take them (DataFrame, query, Arrow, file, ...) with a
        column ``molecule_id``, ``id`` or ``smiles``.
    owner
        Of new structures.

    Returns
    -------
    list of int
        Whether there are such molecules is not looked up.

    Raises
    ------
    InvalidInput
        It is none of these, a key is no whole number, or not that of the SMILES beside it.
    RowsRejected
        A SMILES was refused.
    """
    if isinstance(molecules, _LISTS) and not _holds_rows(molecules):
        return _of_list(session, list(molecules), owner)
    if isinstance(molecules, bytes) or (isinstance(molecules, str) and Path(molecules).suffix.lower() not in _FILES):
        raise _unusable(f"for one SMILES or key write a list of it, not {molecules!r}", molecules)
    rows = open_source(_with_keys(molecules) if isinstance(molecules, Query) else molecules)
    if rows.is_nothing:
        return []
    key = next((name for name in _KEYS if name in rows.names), None)
    if key is not None:
        return _of_column(session, rows, key)
    if "smiles" not in rows.names:
        there = ", ".join(rows.names[:10]) or "an index"
        raise _unusable(f"a column molecule_id, id or smiles is needed, not only {there}")
    described = replace(rows, names=[name for name in _DESCRIBING if name in rows.names])
    return _registered(session, described, owner)


def _holds_rows(values: Any) -> bool:
    return (
        isinstance(values, list | tuple) and bool(values) and all(isinstance(one, Mapping | Path) for one in values)
    )


def _of_list(session: Session, values: list[Any], owner: uuid.UUID | None) -> list[int]:
    if not any(isinstance(value, str) for value in values):
        return _keys(values)
    number = next((value for value in values if isinstance(value, int | np.integer)), None)
    if number is not None:
        raise _unusable(f"keys, such as {number}, and SMILES cannot be mixed; make one list of each", number)
    return _registered(session, pd.DataFrame({"smiles": values}), owner)


def _with_keys(query: Query) -> Query:
    """Its molecules, whatever else it was to return."""
    name = "id" if query.table is MOLECULES else "molecule_id"
    if name not in query.table.fields:
        raise _unusable(f"a query of {query.table.name} names no molecules")
    return query.select([name])


def _registered(session: Session, rows: Any, owner: uuid.UUID | None) -> list[int]:
    report = bulk.load_molecules(session.connection(), rows, owner=owner, on_error="raise")
    return list(dict.fromkeys(report.ids.tolist()))


def _of_column(session: Session, rows: Source, name: str) -> list[int]:
    """The keys in a column, if they are those of the SMILES beside it: an ``id`` may be anything."""
    beside = "smiles" in rows.names
    others = [] if beside or name != "id" else [other for other in rows.names if other in _OF_OTHER_TABLES]
    if others:
        raise _unusable(f"an id beside {others[0]} is no molecule's; give the column molecule_id or smiles as well")
    keys: list[int] = []
    for part in rows.read([name, *(["smiles"] if beside else [])]):
        # Files of text hold keys as text.
        here = [
            int(value) if isinstance(value, str) and value.isdecimal() else value for value in part[name].to_pylist()
        ]
        if beside:
            _require_same(session, name, here, part["smiles"].to_pylist())
        keys += _keys(here)
    return list(dict.fromkeys(keys))


def _require_same(session: Session, name: str, keys: list[Any], smiles: list[str | None]) -> None:
    for key in keys:
        if not isinstance(key, int) or not 0 < key <= LARGEST_KEY:
            raise _no_key(name, key)
    for row in session.execute(text(_OTHERWISE), {"keys": keys, "smiles": smiles}):
        if row.stored is None or _canonical(row.smiles) != row.stored:
            raise _no_key(name, row.id, f" of {row.smiles!r}")


def _canonical(smiles: str | None) -> str | None:
    try:
        return validate_smiles(smiles).smiles
    except InvalidSmiles:
        return None


def _no_key(name: str, value: object, whose: str = "") -> InvalidInput:
    return _unusable(
        f"{name} {value} is no key{whose}; the column {name} holds keys of molecules: drop it where it is something "
        "else, and the SMILES are taken",
        value,
    )


def _unusable(why: str, value: object = None) -> InvalidInput:
    return InvalidInput(f"molecules: {why}", field="molecules", value=value)


def _keys(values: Iterable[Any]) -> list[int]:
    return list(dict.fromkeys(key_of(value, "molecules") for value in values))
