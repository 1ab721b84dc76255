"""A throw-away embedded server filled with calculations."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

import qforge_sdk as qf

TENANT = uuid.UUID("a0000000-0000-4000-8000-000000000001")
OTHER = uuid.UUID("b0000000-0000-4000-8000-000000000002")

# A digit of the number stands for a piece of a chain.
_PIECES = ("C", "N", "O", "S", "C(C)", "C(N)", "C(O)", "C(F)", "C(Cl)", "C(=O)")
_SMILES = "translate(CAST(n AS text), '0123456789', 'abcdefghij')"
for _letter, _piece in zip("abcdefghij", _PIECES, strict=True):
    _SMILES = f"replace({_SMILES}, '{_letter}', '{_piece}')"

# One in ten rows is public, seven are the tenant's, two another's; the numbers spread as those of real molecules do.
_FILL = f"""
INSERT INTO public.molecules (user_id, name, smiles, formula, inchikey)
SELECT CASE WHEN n % 10 = 0 THEN '00000000-0000-0000-0000-000000000000'::uuid
            WHEN n % 10 < 8 THEN CAST(:tenant AS uuid) ELSE CAST(:other AS uuid) END,
       'molecule ' || n, 'C' || {_SMILES} || 'C', 'C' || 3 + n % 20 || 'H8O', 'KEY' || n
FROM generate_series(1, :molecules) AS n;
INSERT INTO public.calculations (user_id, molecule_id, energy, homo, lumo, gap, dipole, execution_time_seconds,
                                 xtb_version, source_id)
SELECT m.user_id, m.id, -5 - 60 * random(), -11 - random(), -7 + random(), 12 * random(), 6 * random(), random(),
       'tblite 0.8.0', 'run:' || m.id || ':' || n
FROM public.molecules AS m, generate_series(1, :each) AS n;
"""


@contextmanager
def filled(rows: int, *, molecules: int | None = None) -> Iterator[Path]:
    """Data folder of a server with ``rows`` calculations of ``molecules`` (a tenth of that); gone after the block."""
    molecules = molecules or rows // 10
    folder = Path(tempfile.mkdtemp(prefix="qforge-bench-"))
    try:
        with qf.connect(data_dir=folder / "data") as client:
            with client.session() as session:
                values = {"molecules": molecules, "each": rows // molecules, "tenant": TENANT, "other": OTHER}
                for statement in _FILL.split(";\n")[:2]:
                    session.execute(text(statement), values)
            with client.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for table in ("molecules", "calculations"):
                    connection.execute(text(f"VACUUM (ANALYZE) public.{table}"))
            yield folder / "data"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
