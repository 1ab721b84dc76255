"""Opening each widget on many calculations, as a multiple of the time that it takes on a thousand.

``python -m benchmarks.widgets --rows 1000000``
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sqlalchemy import text

import qforge_sdk as qf
from benchmarks.database import filled
from benchmarks.timing import interleaved

_FEW = 1_000
_ATOMS = 20
# Half of the molecules are in one batch, and a hundred batches hold a few each.
_BATCHES = (
    """
    INSERT INTO public.batch_jobs (batch_name) SELECT 'batch ' || n FROM generate_series(1, 101) AS n
    """,
    """
    INSERT INTO public.batch_items (batch_id, molecule_id, user_id, status, error_message)
    SELECT b.id, m.id, b.user_id, CASE WHEN m.id % 5 = 0 THEN 'failed' ELSE 'completed' END,
           CASE WHEN m.id % 5 = 0 THEN 'no convergence' END
    FROM (SELECT id, user_id FROM public.batch_jobs ORDER BY id DESC LIMIT 1) AS b, public.molecules AS m
    WHERE m.id % 2 = 0
    """,
    """
    INSERT INTO public.batch_items (batch_id, molecule_id, user_id)
    SELECT b.id, m.id, b.user_id
    FROM public.batch_jobs AS b, (SELECT id FROM public.molecules ORDER BY id LIMIT 5) AS m
    WHERE b.batch_name <> 'batch 101'
    """,
)
_ATOM_ROWS = """
INSERT INTO public.atomic_properties (user_id, calculation_id, atom_index, element, atomic_number, partial_charge,
                                      position_x, position_y, position_z)
SELECT c.user_id, c.id, n, 'C', 6, 0.01, n, 0, 0
FROM (SELECT user_id, id FROM public.calculations ORDER BY id DESC LIMIT 1) AS c, generate_series(0, :last) AS n
"""


def add_batches_and_atoms(client: qf.Client) -> int:
    """Store what the widgets show besides calculations; the key of the calculation that has atoms."""
    with client.session() as session:
        for statement in _BATCHES:
            session.execute(text(statement))
        session.execute(text(_ATOM_ROWS), {"last": _ATOMS - 1})
    with client.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return int(client.sql("SELECT max(calculation_id) AS id FROM atomic_properties").id[0])


def openings(client: qf.Client, calculation: int) -> dict[str, Callable[[], object]]:
    """Name of each widget to the call that opens it."""
    batch = int(client.sql("SELECT max(id) AS id FROM batch_jobs").id[0])
    return {
        "molecules": client.widgets.molecules,
        "calculations": client.widgets.calculations,
        "stats": client.widgets.stats,
        "batches": client.widgets.batches,
        "one batch": lambda: client.widgets.batches().show_batch(batch),
        "calculation": lambda: client.widgets.calculation(calculation),
    }


def main() -> None:
    """Fill two servers and open the widgets on both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with (
        filled(_FEW) as few_dir,
        filled(options.rows) as many_dir,
        qf.connect(data_dir=few_dir) as few,
        qf.connect(data_dir=many_dir) as many,
    ):
        on_few, on_many = (openings(client, add_batches_and_atoms(client)) for client in (few, many))
        contestants = {f"{name}, {_FEW:,}": opens for name, opens in on_few.items()}
        contestants |= {f"{name}, {options.rows:,}": opens for name, opens in on_many.items()}
        seconds = interleaved(contestants, repeats=options.repeats)
    print(f"\nopen a widget: ms on {_FEW:,} calculations, on {options.rows:,}, ratio")
    for name in on_few:
        small, large = seconds[f"{name}, {_FEW:,}"], seconds[f"{name}, {options.rows:,}"]
        print(f"{name:20} {1000 * small:9.0f} {1000 * large:9.0f} {large / small:9.2f}")


if __name__ == "__main__":
    main()
