"""Bulk load of molecules."""

from __future__ import annotations

import uuid
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection

from qforge_sdk.chem.formula import composition
from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.columns import MOLECULE_RULES, Chunk, check_names, chunks, is_null
from qforge_sdk.db.bulk.rebuild import without_indexes
from qforge_sdk.db.bulk.source import Source, open_source
from qforge_sdk.db.bulk.structures import IntArray, Structures
from qforge_sdk.db.bulk.values import BoolArray, Rule, text
from qforge_sdk.db.bulk.write import Writer
from qforge_sdk.errors import InvalidInput
from qforge_sdk.progress import progress_bar
from qforge_sdk.schemas.reports import LoadReport

# What a SMILES may hold is for RDKit to say: here it only becomes text.
SMILES_RULE: Final = Rule(text())


def load_molecules(
    connection: Connection,
    source: Any,
    *,
    owner: uuid.UUID | None,
    on_error: str = "collect",
    public: bool = False,
    workers: Any = None,
    progress: bool | None = None,
) -> LoadReport:
    """Validate and insert molecules in the transaction of a connection.

    Parameters
    ----------
    connection
        In a transaction; on an error its owner rolls back.
    source
        Anything that :func:`~qforge_sdk.db.bulk.source.open_source` takes, with a column ``smiles``.
    owner
        Who owns the new rows.
    on_error
        ``"collect"`` or ``"raise"``.
    public
        Whether public molecules will do as well as the owner's.
    workers, progress
        For the validation; the bar counts rows too.

    Returns
    -------
    LoadReport
        A second spelling in the input counts as existing.

    Raises
    ------
    InvalidInput
        The source cannot be read or has no column ``smiles``, or an option is unknown.
    RowsRejected
        ``on_error="raise"`` and a row was refused.
    """
    check_option("on_error", on_error, ("collect", "raise"))
    rows = open_source(source)
    if "smiles" not in rows.names and not rows.is_nothing:
        raise InvalidInput("molecules: the input needs a column smiles", field="smiles")
    check_names(rows, ["smiles", *MOLECULE_RULES], "molecules")
    account = Account("molecules", rows)
    writer = Writer.on(connection)
    structures = Structures(writer, owner)
    places = number_texts(rows, structures, account)
    structures.resolve(public=public, workers=workers, progress=progress)
    reject_invalid(structures, places, account)
    extra, faulty = _extras(rows, structures, places, account)
    # A text whose first row was refused for another fault is taken from its next good row, which has no such fault.
    usable = np.zeros(len(structures), bool)
    usable[places[(places >= 0) & ~faulty]] = True
    structures.keep(usable)
    missing = int(structures.missing.sum())
    with (
        progress_bar(progress, "loading molecules", missing) as bar,
        writer.cursor as cursor,
        without_indexes(cursor, "public.molecules", rows=missing),
    ):
        account.n_inserted = structures.register(extra, advance=bar.update)
    account.ids[:] = np.where((places >= 0) & ~faulty, structures.id_of(places), 0)
    account.n_existing = int((account.ids > 0).sum()) - account.n_inserted
    return account.report(on_error=on_error)


def number_texts(
    rows: Source, structures: Structures, account: Account, *, only: BoolArray | None = None
) -> IntArray:
    """Place of each row's SMILES among the distinct ones; -1 where it is refused already.

    Parameters
    ----------
    rows
        With a column ``smiles``.
    structures
        Takes the texts.
    account
        Takes the rows that hold no text.
    only
        Which rows are meant, None for all.

    Returns
    -------
    numpy.ndarray
        One entry a row.
    """
    places = []
    for chunk in chunks(rows, ["smiles"]):
        if only is not None:
            chunk.good &= only[chunk.first_row : chunk.first_row + chunk.n_rows]
        chunk.check({"smiles": SMILES_RULE}, account)
        chunk.reject(
            is_null(chunk.columns["smiles"]),
            account,
            "smiles",
            chunk.raw("smiles"),
            "empty",
            "a SMILES is needed here",
        )
        kept = pc.if_else(pa.array(chunk.good), chunk.columns["smiles"], pa.scalar(None, pa.string()))
        places.append(structures.add(kept, chunk.first_row))
    return np.concatenate(places) if places else np.zeros(0, np.int64)


def reject_invalid(structures: Structures, places: IntArray, account: Account) -> None:
    """Refuse the rows whose SMILES RDKit refuses; their place becomes -1."""
    if not structures.faults:
        return
    bad = np.zeros(len(structures) + 1, bool)
    bad[list(structures.faults)] = True
    rows = np.flatnonzero(bad[places])
    at = places[rows].tolist()
    codes, reasons = zip(*(structures.faults[place] for place in at), strict=True)
    account.reject(rows, "smiles", [structures.text(place) for place in at], list(codes), list(reasons))
    places[rows] = -1


def _extras(
    rows: Source, structures: Structures, places: IntArray, account: Account
) -> tuple[dict[str, pa.Array], BoolArray]:
    """Name and metadata for each distinct text, from its first good row; and which rows are refused for them."""
    faulty = np.zeros(len(places), bool)
    names = [name for name in MOLECULE_RULES if name in rows.names]
    values: dict[str, list[Any]] = {name: [None] * len(structures) for name in names if name != "formula"}
    taken = np.zeros(len(structures), bool)
    formulas = structures.formulas() if "formula" in names else None
    for chunk in chunks(rows, names):
        here = places[chunk.first_row : chunk.first_row + chunk.n_rows]
        chunk.good &= here >= 0
        chunk.check({name: MOLECULE_RULES[name] for name in names}, account)
        if formulas is not None:
            _check_formulas(chunk, formulas, here, account)
        faulty[chunk.first_row : chunk.first_row + chunk.n_rows] = (here >= 0) & ~chunk.good
        first, where = np.unique(np.where(chunk.good, here, -1), return_index=True)
        fresh = (first >= 0) & ~taken[first]
        taken[first[fresh]] = True
        for name, entries in values.items():
            found = chunk.columns[name].take(pa.array(where[fresh])).to_pylist()
            for place, value in zip(first[fresh].tolist(), found, strict=True):
                entries[place] = value
    extra = {name: pa.array(entries, pa.string()) for name, entries in values.items()}
    if "metadata" in extra:
        extra["metadata"] = pc.fill_null(extra["metadata"], "{}")
    return extra, faulty


def _check_formulas(chunk: Chunk, formulas: pa.Array, here: IntArray, account: Account) -> None:
    given = chunk.columns["formula"]
    computed = formulas.take(pa.array(np.where(here >= 0, here, 0)))
    differs = np.asarray(
        pc.fill_null(pc.not_equal(given, computed), False).to_numpy(zero_copy_only=False), dtype=bool
    )
    for at in np.flatnonzero(differs & chunk.good).tolist():
        differs[at] = composition(given[at].as_py()) != composition(computed[at].as_py())
    reason = "the structure has another formula; correct it or leave it out"
    chunk.reject(differs, account, "formula", given, "formula_mismatch", reason)


def check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown word.

    Raises
    ------
    InvalidInput
        It is not one of the known ones.
    """
    if value not in known:
        raise InvalidInput(f"{name} is one of {', '.join(map(repr, known))}, not {value!r}", field=name, value=value)
