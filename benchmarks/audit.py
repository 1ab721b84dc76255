"""What the audit trail costs a load: the same rows with the trigger and without it.

``python -m benchmarks.audit --rows 1000000``
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

import qforge_sdk as qf
from benchmarks.database import TENANT, filled
from benchmarks.load import Bench, make_rows
from benchmarks.timing import interleaved, print_table


def switched(bench: Bench, load: Callable[[], None], verb: str) -> Callable[[], None]:
    """``load`` with the trigger on (ENABLE) or off (DISABLE)."""

    def run() -> None:
        with bench.client.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE public.calculations {verb} TRIGGER audit_insert"))
        load()

    return run


def main() -> None:
    """Fill a server and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for title, stored in (("indexed tables that hold as many", options.rows), ("empty tables", 0)):
        with (
            filled(stored, molecules=options.rows // 10) as data_dir,
            tempfile.TemporaryDirectory() as folder,
            qf.connect(data_dir=data_dir) as client,
            qf.connect(data_dir=data_dir, user_id=TENANT) as tenant,
        ):
            molecules = client.sql("SELECT id FROM molecules WHERE user_id = %(user)s", {"user": str(TENANT)})
            bench = Bench(client, tenant, make_rows(options.rows, molecules.id.to_numpy()), Path(folder))
            contestants = {
                "service, no audit": switched(bench, bench.ours, "DISABLE"),
                "service, audit": switched(bench, bench.ours, "ENABLE"),
                "tenant, no audit": switched(bench, bench.ours_as_tenant, "DISABLE"),
                "tenant, audit": switched(bench, bench.ours_as_tenant, "ENABLE"),
            }
            seconds = interleaved(contestants, repeats=options.repeats, afterwards=bench.reset)
            for who in ("service", "tenant"):
                mine = {name: value for name, value in seconds.items() if name.startswith(who)}
                print_table(f"{options.rows:,} rows into {title}", mine, base=f"{who}, no audit", rows=options.rows)


if __name__ == "__main__":
    main()
