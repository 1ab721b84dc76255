"""All benchmarks, one after the other: ``python -m benchmarks`` (about 55 minutes; ``--rows`` makes it shorter)."""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Run each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    for name, count in (
        ("load", rows),
        ("audit", rows),
        ("read", rows),
        ("register", rows // 10),
        ("migrate", rows // 100),
        ("suspicious", rows),
        ("batches", rows // 100),
        ("widgets", rows),
        ("memory", 10 * rows),
    ):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--rows", str(count)], check=True)


if __name__ == "__main__":
    main()
