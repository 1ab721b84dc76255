"""What users name the molecules of a batch by."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import replace
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from qforge_sdk.accessors.base import Context, key_of
from qforge_sdk.chem import validate_smiles
from qforge_sdk.db import bulk
from qforge_sdk.db.batches import LARGEST_KEY
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.errors import InvalidInput, InvalidSmiles
from qforge_sdk.fields import MOLECULES
from qforge_sdk.query import Query

_LISTS: Final = (
    list, tuple, set, frozenset, range, np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray,
    pa.Array, pa.ChunkedArray, KeysView, ValuesView,
)  # fmt: skip
_FILES: Final = frozenset({".csv", ".tsv", ".parquet", ".pq"})
_DESCRIBING: Final = ("smiles", "name")
_OTHERWISE: Final = """
    SELECT k.id, k.smiles, m.smiles AS stored
    FROM unnest(CAST(:keys AS bigint[]), CAST(:smiles AS text[])) WITH ORDINALITY AS k (id, smiles, n)
    LEFT JOIN public.molecules AS m ON m.id = k.id
    WHERE m.id IS NULL OR m.smiles IS DISTINCT FROM k.smiles
    ORDER BY k.n
"""


def molecule_keys(context: Context, session: Session, molecules: Any, owner: uuid.UUID | None) -> list[int]:
    """Keys of molecules, each once, in the order given; new structures are registered on the way.

    Parameters
    ----------
    context
        Of the client whose batch it is.
    session
        In a transaction.
    molecules
        A list of keys or of SMILES, or rows as bulk loads take them (DataFrame, query, Arrow, file, ...) with a
        column ``molecule_id`` or ``smiles``, or ``id`` beside the latter.
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
    values = _listed(molecules)
    if values is not None:
        return _of_list(session, values, owner)
    if isinstance(molecules, str | bytes) and not _is_file(molecules):
        raise _unusable(
            f"{molecules!r} is no file of {', '.join(sorted(_FILES))}; for one SMILES or key write a list of it",
            molecules,
        )
    if isinstance(molecules, BaseModel):
        raise _unusable("of a record write its key in a list", molecules)
    if isinstance(molecules, Query):
        return _of_query(context, molecules)
    rows = open_source(molecules)
    if rows.is_nothing:
        return []
    # An id without a SMILES beside it is anybody's: a library's number, the key of a calculation.
    if "molecule_id" in rows.names or {"id", "smiles"} <= set(rows.names):
        return _of_column(session, rows, "molecule_id" if "molecule_id" in rows.names else "id")
    if "smiles" not in rows.names:
        there = ", ".join(rows.names[:10]) or "an index"
        raise _unusable(f"a column molecule_id or smiles is needed, not only {there}")
    described = replace(rows, names=[name for name in _DESCRIBING if name in rows.names])
    return _registered(session, described, owner)


def _listed(molecules: Any) -> list[Any] | None:
    """Keys or SMILES one after the other; None where it holds rows."""
    if isinstance(molecules, Iterator):
        ahead = list(islice(molecules, 1))
        if ahead and not isinstance(ahead[0], str | Integral):
            raise _unusable(f"an iterator gives keys or SMILES, not {type(ahead[0]).__name__}; load its tables first")
        return [*ahead, *molecules]
    if not isinstance(molecules, _LISTS):
        return None
    values = molecules.to_pylist() if isinstance(molecules, pa.Array | pa.ChunkedArray) else list(molecules)
    holds_rows = bool(values) and all(isinstance(one, Mapping | Path) for one in values)
    return None if holds_rows else values


def _is_file(name: str | bytes) -> bool:
    return isinstance(name, str) and (Path(name).suffix.lower() in _FILES or os.path.isdir(name))  # noqa: PTH112 - a SMILES may be too long for a path


def _of_list(session: Session, values: list[Any], owner: uuid.UUID | None) -> list[int]:
    if not any(isinstance(value, str) for value in values):
        return _keys(values)
    number = next((value for value in values if isinstance(value, Integral)), None)
    if number is not None:
        raise _unusable(f"keys, such as {number}, and SMILES cannot be mixed; make one list of each", number)
    return _registered(session, pd.DataFrame({"smiles": pd.Series(values, dtype=object)}), owner)


def _of_query(context: Context, query: Query) -> list[int]:
    """Its molecules, whatever else it was to return."""
    if _place(query.reader.engine) != _place(context.engine):
        raise _unusable("a query of another database has other keys; give its .df() with the SMILES, without keys")
    name = "id" if query.table is MOLECULES else "molecule_id"
    if name not in query.table.fields:
        raise _unusable(f"a query of {query.table.name} names no molecules")
    return _keys(query.select([name]).arrow()[name].to_pylist())


def _place(engine: Engine) -> tuple[Any, ...]:
    url = engine.url
    return url.host, url.port, url.database, tuple(sorted(url.query.items()))


def _registered(session: Session, rows: Any, owner: uuid.UUID | None) -> list[int]:
    report = bulk.load_molecules(session.connection(), rows, owner=owner, on_error="raise", public=True)
    return list(dict.fromkeys(report.ids.tolist()))


def _of_column(session: Session, rows: Source, name: str) -> list[int]:
    """The keys in a column, if they are those of the SMILES beside it."""
    beside = "smiles" in rows.names
    keys: list[int] = []
    for part in rows.read([name, *(["smiles"] if beside else [])]):
        here = [_as_key(value) for value in part[name].to_pylist()]
        if beside:
            _require_same(session, name, here, part["smiles"].to_pylist())
        keys += _keys(here)
    return list(dict.fromkeys(keys))


def _as_key(value: Any) -> Any:
    """Files of text hold keys as text, and pandas makes doubles of keys where some are missing."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _require_same(session: Session, name: str, keys: list[Any], smiles: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, int) or isinstance(key, bool) or not 0 < key <= LARGEST_KEY:
            raise _no_key(name, key)
    texts = [None if one is None else str(one) for one in smiles]
    for row in session.execute(text(_OTHERWISE), {"keys": keys, "smiles": texts}):
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
