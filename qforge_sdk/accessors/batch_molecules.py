"""What users name the molecules of a batch by."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import text
from sqlalchemy.orm import Session

from qforge_sdk.accessors.base import key_of
from qforge_sdk.db import bulk
from qforge_sdk.db.batches import LARGEST_KEY
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.errors import InvalidInput

_LISTS: Final = (list, tuple, np.ndarray, pd.Series, pd.Index)
_KEYS: Final = ("molecule_id", "id")
_DESCRIBING: Final = ("smiles", "name")
_OF_OTHERS: Final = """
    SELECT k.id, k.smiles
    FROM unnest(CAST(:keys AS bigint[]), CAST(:smiles AS text[])) WITH ORDINALITY AS k (id, smiles, n)
    LEFT JOIN public.molecules AS m ON m.id = k.id
    WHERE m.id IS NULL OR m.smiles IS DISTINCT FROM k.smiles
    ORDER BY k.n LIMIT 1
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
    if isinstance(molecules, _LISTS):
        values = list(molecules)
        if not any(isinstance(value, str) for value in values):
            return _keys(values)
        numbers = [value for value in values if isinstance(value, int | np.integer)]
        if numbers:
            raise InvalidInput(
                f"molecules: keys, such as {numbers[0]}, and SMILES cannot be mixed; make one list of each",
                field="molecules",
                value=numbers[0],
            )
        return _registered(session, pd.DataFrame({"smiles": values}), owner)
    if isinstance(molecules, str | bytes) and not (isinstance(molecules, str) and Path(molecules).suffix):
        raise InvalidInput(
            f"molecules: for one SMILES or key write a list of it, not {molecules!r}",
            field="molecules",
            value=molecules,
        )
    rows = open_source(molecules)
    if rows.is_nothing:
        return []
    key = next((name for name in _KEYS if name in rows.names), None)
    if key is not None:
        return _keys_in(session, rows, key)
    if "smiles" not in rows.names:
        raise InvalidInput(
            "molecules: a column molecule_id, id or smiles is needed, not only "
            f"{', '.join(rows.names[:10]) or 'an index'}",
            field="molecules",
        )
    described = replace(rows, names=[name for name in _DESCRIBING if name in rows.names])
    return _registered(session, described, owner)


def _registered(session: Session, rows: Any, owner: uuid.UUID | None) -> list[int]:
    report = bulk.load_molecules(session.connection(), rows, owner=owner, on_error="raise")
    return list(dict.fromkeys(report.ids.tolist()))


def _keys_in(session: Session, rows: Source, name: str) -> list[int]:
    """The keys in a column, if they are those of the SMILES beside it: an ``id`` may be anything."""
    beside = "smiles" in rows.names
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
    wrong = session.execute(text(_OF_OTHERS), {"keys": keys, "smiles": smiles}).first()
    if wrong is not None:
        raise _no_key(name, wrong.id, f" of {wrong.smiles!r}")


def _no_key(name: str, value: object, whose: str = "") -> InvalidInput:
    return InvalidInput(
        f"molecules: {name} {value} is no key{whose}; the column {name} holds keys of molecules: drop it where it is "
        "something else, and the SMILES are taken",
        field=name,
        value=value,
    )


def _keys(values: Iterable[Any]) -> list[int]:
    return list(dict.fromkeys(key_of(value, "molecules") for value in values))
