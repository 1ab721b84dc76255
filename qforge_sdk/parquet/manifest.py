"""What an export holds: its manifest, the schema of its files, and whether the files are what the manifest says."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

import qforge_sdk._version as version
from qforge_sdk.db.models import TABLES
from qforge_sdk.db.schema import head_revision
from qforge_sdk.errors import ExportMismatch
from qforge_sdk.fields import ALL_TABLES
from qforge_sdk.fields import Field as TableField
from qforge_sdk.frames import arrow_schema

MANIFEST: Final = "manifest.json"

_Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """One file of a table; ``path`` is relative to the export."""

    # Nothing outside the export's own folder can be named.
    path: str = Field(pattern=r"^[a-z_]+/part-[0-9]{5,}\.parquet$")
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str = _Sha256


class TableEntry(_Record):
    """One table: how many rows, the hash of what they hold, and where they are."""

    rows: NonNegativeInt
    content_hash: str = Field(pattern=r"^[0-9a-f]{32}$")
    files: tuple[FileEntry, ...] = Field(min_length=1)


class Manifest(_Record):
    """What an export holds; written last, so an export without one is not complete.

    ``created_at`` is when the snapshot was taken, by the server's clock; ``user_id`` is the tenant who exported, null
    for the service; ``since`` is the time from which on changed rows were exported, null for all rows.
    """

    format: Literal["qforge-export"] = "qforge-export"
    format_version: Literal[1] = 1
    schema_revision: str
    qforge_version: str
    created_at: datetime
    user_id: uuid.UUID | None
    since: datetime | None
    tables: Mapping[str, TableEntry]


def file_metadata(table: str) -> dict[str, str]:
    """Key-value metadata of a file that holds rows of ``table``."""
    return {
        "qforge.table": table,
        "qforge.schema_revision": head_revision(),
        "qforge.version": version.__version__,
    }


def table_fields(table: str) -> list[TableField]:
    """Stored columns of a table, without those that the database generates."""
    return [field for field in ALL_TABLES[table].fields.values() if field.model is TABLES[table]]


def table_schema(table: str) -> pa.Schema:
    """Arrow schema of a table's files, units and revision in its metadata."""
    kinds = {field.name: field.kind for field in table_fields(table)}
    return arrow_schema(kinds).with_metadata(file_metadata(table))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export.

    Parameters
    ----------
    folder
        Made by :func:`qforge_sdk.parquet.export_tables`.

    Returns
    -------
    Manifest
        As it was written.

    Raises
    ------
    ExportMismatch
        There is none, or it is not one that this package can read.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise ExportMismatch(f"{path} is missing: this is no export, or not a complete one") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ExportMismatch(f"{path} cannot be read as a manifest: {place}: {first['msg']}") from exc
    unknown = sorted(set(manifest.tables) - set(TABLES))
    if unknown:
        raise ExportMismatch(f"{path} names tables that this package does not know: {', '.join(unknown)}")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Return if every file is there, holds the bytes that were written, and no other is among them.

    Parameters
    ----------
    folder
        The export.
    manifest
        Its manifest.

    Raises
    ------
    ExportMismatch
        Names the first file that is missing, changed or not in the manifest.
    """
    for table, entry in manifest.tables.items():
        for file in entry.files:
            _check_file(folder / file.path, table, file)
        named = {folder / file.path for file in entry.files}
        for found in sorted((folder / table).glob("*.parquet")):
            if found not in named:
                raise ExportMismatch(f"{found} is not in the manifest; move it elsewhere")


def _check_file(path: Path, table: str, entry: FileEntry) -> None:
    if not path.is_file():
        raise ExportMismatch(f"{path} is missing")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ExportMismatch(f"{path} has {size} bytes, the manifest says {entry.bytes}")
    if file_sha256(path) != entry.sha256:
        raise ExportMismatch(f"{path} is not the file that was exported: its SHA-256 differs from the manifest's")
    _check_schema(path, table)


def _check_schema(path: Path, table: str) -> None:
    """A file of an older revision may lack columns; it has no others."""
    expected = table_schema(table)
    try:
        found = pq.read_schema(path)
    except pa.ArrowInvalid as exc:
        raise ExportMismatch(f"{path} is no Parquet file: {exc}") from exc
    for field in found:
        if field.name not in expected.names or expected.field(field.name).type != field.type:
            raise ExportMismatch(f"{path} has a column {field.name} ({field.type}) that {table} has not")
