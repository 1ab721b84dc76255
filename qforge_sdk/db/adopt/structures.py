"""What RDKit says of the old molecules, in a temporary table."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from psycopg2.extensions import connection as PgConnection  # noqa: N812
from psycopg2.sql import SQL, Composable
from sqlalchemy import BigInteger, Column, Text

from qforge_sdk.chem import validate_many
from qforge_sdk.chem.formula import composition
from qforge_sdk.db.adopt.old_tables import OldTable
from qforge_sdk.db.bulk.write import columns_of
from qforge_sdk.db.copy import copy_in
from qforge_sdk.db.models import Molecule
from qforge_sdk.progress import progress_bar

_CHUNK: Final = 20_000
_COMPUTED: Final = (
    "smiles", "inchikey", "formula", "charge", "fingerprint", "fingerprint_popcount", "rdkit_version",
)  # fmt: skip
_COLUMNS: Final[list[Column[Any]]] = [
    Column("id", BigInteger),
    Column("code", Text),
    Column("reason", Text),
    Column("formula_fault", Text),
    *columns_of(Molecule, _COMPUTED),
]
_TABLE: Final = SQL("pg_temp.adoption_structures")
_CREATE: Final = """
    CREATE TEMPORARY TABLE adoption_structures (
        id bigint PRIMARY KEY, code text, reason text, formula_fault text, smiles text, inchikey text, formula text,
        charge integer, fingerprint bit(2048), fingerprint_popcount integer, rdkit_version text
    ) ON COMMIT DROP
"""
# Of several molecules of one owner and one structure the oldest keeps it.
_COLLISIONS: Final = """
    CREATE TEMPORARY TABLE adoption_collisions ON COMMIT DROP AS
    SELECT id, first AS same_as FROM (
        SELECT o.id, min(o.id) OVER (PARTITION BY {owner}, s.smiles COLLATE "C") AS first
        FROM {old} AS o JOIN pg_temp.adoption_structures AS s ON s.id = o.id WHERE s.code IS NULL
    ) AS every WHERE id <> first
"""


def validate_structures(
    driver: PgConnection, molecules: OldTable, *, n_rows: int, workers: int | None, progress: bool | None
) -> None:
    """Validate every SMILES, a few thousand at a time, and find those of the same structure.

    Parameters
    ----------
    driver
        In the transaction.
    molecules
        The old table.
    n_rows
        Of it.
    workers, progress
        For the validation.
    """
    with driver.cursor() as cursor:
        cursor.execute(_CREATE)
        # A portal of the server: it can be read while COPY goes on between.
        with (
            driver.cursor(name="adoption_molecules") as rows,
            progress_bar(progress, "validating", n_rows, unit=" molecules") as bar,
        ):
            rows.execute(_smiles_of(molecules))
            while chunk := rows.fetchmany(_CHUNK):
                copy_in(cursor, _TABLE, _COLUMNS, [_validated(chunk, workers=workers)])
                bar.update(len(chunk))
        cursor.execute("ANALYZE pg_temp.adoption_structures")
        cursor.execute(molecules.fill(_COLLISIONS, owner=molecules.value("user_id")))
        cursor.execute("ANALYZE pg_temp.adoption_collisions")


def _smiles_of(molecules: OldTable) -> Composable:
    return molecules.fill("SELECT o.id::int8, {smiles}, {formula} FROM {old} AS o ORDER BY o.id")


def _validated(chunk: list[tuple[Any, ...]], *, workers: int | None) -> pa.Table:
    ids, texts, formulas = zip(*chunk, strict=True)
    smiles = pa.array(texts, pa.string())
    found = validate_many(smiles, workers=workers, progress=False)
    faults = [_formula_fault(*pair) for pair in zip(formulas, found["formula"].to_pylist(), strict=True)]
    columns = {
        "id": pa.array(ids, pa.int64()),
        "code": pc.if_else(smiles.is_valid(), found["code"], "missing"),
        "reason": pc.if_else(smiles.is_valid(), found["reason"], "the row had no SMILES"),
        "formula_fault": pa.array(faults, pa.string()),
    }
    return pa.table(columns | {name: found[name] for name in _COMPUTED})


def _formula_fault(given: str | None, computed: str | None) -> str | None:
    """Whether the old formula differs from the computed one, or, where there is none, cannot be read."""
    given = (given or "").strip()
    if computed is None:
        return "unreadable" if composition(given) is None else None
    # What the old module wrote where it had no formula.
    if given.lower() in {"", "unknown", computed.lower()}:
        return None
    return None if composition(given) == composition(computed) else "mismatch"
