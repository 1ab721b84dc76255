"""Check that the built wheel holds what the package reads at run time."""

import sys
import zipfile
from pathlib import Path

NEEDED = (
    "qforge_sdk/py.typed",
    "qforge_sdk/db/migrations/script.py.mako",
    "qforge_sdk/db/migrations/versions/0001_initial.sql",
    "qforge_sdk/db/migrations/versions/0002_administration.sql",
    "qforge_sdk/db/migrations/versions/0003_graphs.sql",
    "qforge_sdk/db/migrations/versions/0004_batches.sql",
    "qforge_sdk/db/migrations/versions/0005_statistics.sql",
    "qforge_sdk/widgets/static/panel.css",
    "qforge_sdk/widgets/static/viewer.js",
    "qforge_sdk/widgets/static/3Dmol.es6-min.js",
    "qforge_sdk/widgets/static/3Dmol.LICENSE.txt",
    "qforge_sdk/data/molecules.parquet",
    "qforge_sdk/data/calculations.parquet",
    "qforge_sdk/data/atoms.parquet",
)


def main(folder: Path) -> int:
    """Return 1 and say what is missing when something is."""
    (wheel,) = folder.glob("qforge_sdk-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in NEEDED if name not in names]
    stray = [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    if missing or stray:
        print(f"{wheel.name}: missing {missing}, does not belong there {stray}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
