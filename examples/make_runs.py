"""Make the tree of finished runs in ``examples/runs``: ``python examples/make_runs.py [FOLDER] [--all]``.

Every number in it was computed by the xtb program that is found on the path (6.5.1 for the tree in the repository).
Dates and times are set to constants, so that the same machine makes the same bytes again.

What no reader needs is taken away, for size; with ``--all`` it stays, and no time is changed.

``jobs`` holds folders as the Quantum Forge backend leaves them, ``plain`` directories of people who run xtb by hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

RUNS: Final = Path(__file__).parent / "runs"
PARAMETERS: Final = Path("/usr/share/xtb")

Atoms = list[tuple[str, float, float, float]]
Change = Callable[[Path], None]

# What differs from run to run: dates, times, shares of times, and a power that is computed from a time.
_VARYING: Final = (
    (re.compile(rb"(started|finished) run on \S+ at \S+"), rb"\1 run on 2024/03/01 at 10:15:00.000"),
    (re.compile(rb"\d+ d, +\d+ h, +\d+ min, +\d+\.\d+ sec"), rb"0 d,  0 h,  0 min,  0.010 sec"),
    (re.compile(rb"\.\.\. +\d+ min, +\d+\.\d+ sec( \([^)]*\))?"), rb"...        0 min,  0.001 sec"),
    (re.compile(rb"ratio c/w: +\S+ speedup"), rb"ratio c/w:     1.000 speedup"),
    (re.compile(rb"(\(step\)) *\S+ \(real\)"), rb"\1"),
)
# Binary, or of no use to a reader; kept with --all.
_LEFT_OUT: Final = ("xtbrestart", "gfnff_topo", "gfnff_adjacency", "hessian", "g98.out", "xtbopt.log", "xtbtopo.mol")


@dataclass(frozen=True)
class Case:
    """One run.

    Parameters
    ----------
    name
        Of the molecule.
    atoms
        SMILES that RDKit makes a geometry of, or atoms in angstrom.
    options
        Of xtb.
    metadata
        What the backend adds to its usual keys.
    changes
        What happens to the folder afterwards.
    """

    name: str
    atoms: str | Atoms
    options: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


def first_energy(folder: Path) -> None:
    """results.json with the energy and gap of the single point before the optimisation, as the backend writes it."""
    log = (folder / "xtb_stdout.log").read_text()
    energy, gap = (float(re.findall(rf":: {label} +(\S+)", log)[0]) for label in ("total energy", "HOMO-LUMO gap"))
    _write_results(folder, {"success": True, "energy": energy, "results": {"energy": energy, "homo_lumo_gap": gap}})


def failure(folder: Path) -> None:
    """results.json and metadata.json of a job that failed."""
    _write_results(folder, {"success": False, "energy": None, "results": {}, "error": "xTB calculation failed"})
    metadata = json.loads((folder / "metadata.json").read_text())
    failed = {"status": "FAILED", "error_message": "xTB calculation failed"}
    (folder / "metadata.json").write_text(json.dumps(metadata | failed, indent=2))


def killed(folder: Path) -> None:
    """The log ends in the second cycle of the optimisation, and what xtb writes at its end is not there."""
    log = folder / "xtb_stdout.log"
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.index(b"CYCLE    2") + 400])
    (folder / "xtb_stderr.log").write_bytes(b"")
    for name in ("xtbopt.xyz", "xtbopt.log", "xtbout.json", "charges", "wbo", "xtbtopo.mol", ".xtboptok"):
        (folder / name).unlink(missing_ok=True)


def from_windows(folder: Path) -> None:
    """Windows line ends everywhere, and a name in Windows' letters."""
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    path = folder / "metadata.json"
    path.write_bytes(path.read_bytes().replace(b'"formaldehyde"', b'"Formald\xe9hyde"'))


def ferrocene() -> Atoms:
    """Two rings above and below iron, eclipsed; distances in angstrom as in the crystal."""
    atoms: Atoms = [("Fe", 0.0, 0.0, 0.0)]
    for symbol, radius, height in (("C", 1.21, 1.65), ("H", 2.29, 1.63)):
        for side in (1, -1):
            for corner in range(5):
                angle = 2 * math.pi * corner / 5
                atoms.append((symbol, radius * math.cos(angle), radius * math.sin(angle), side * height))
    return atoms


def planar_ammonia() -> Atoms:
    """The saddle point of its inversion, nearly."""
    angles = [2 * math.pi * corner / 3 for corner in range(3)]
    return [("N", 0.0, 0.0, 0.0), *(("H", 0.996 * math.cos(a), 0.996 * math.sin(a), 0.0) for a in angles)]


JOBS: Final = (
    Case("water", "O", "--opt normal --json", {"smiles": "O"}, (first_energy,)),
    Case("acetate", "CC(=O)[O-]", "--opt normal --chrg -1 --json", {"smiles": "CC(=O)[O-]", "charge": -1}),
    Case("methyl", "[CH3]", "--opt normal --uhf 1 --json"),
    Case("formaldehyde_cation", "C=O", "--chrg 1 --uhf 1 --json", {"smiles": "C=O"}),
    Case("glycine", "[NH3+]CC(=O)[O-]", "--opt loose --json", {"smiles": "[NH3+]CC(=O)[O-]"}),
    Case("ferrocene", ferrocene(), "--json", {"molecule_name": "ferrocene"}),
    Case("methanol", "CO", "--opt normal --json", {"smiles": "CO", "status": "RUNNING"}, (killed,)),
    Case("ethanol", "CCO", "--iterations 3 --json", {"smiles": "CCO"}, (failure,)),
    Case("methane", "C", "--opt normal --alpb nosuchsolvent --json", {}, (failure,)),
    Case("formaldehyde", "C=O", "--opt normal --json", {"smiles": "C=O"}, (from_windows,)),
)
PLAIN: Final = (
    Case("water_ohess", "O", "--ohess"),
    Case("ammonia_inversion", planar_ammonia(), "--hess"),
    Case("ethanol_gfn1", "CCO", "--gfn 1"),
    Case("water_gfn0", "O", "--gfn 0"),
    Case("ethanol_gfnff", "CCO", "--gfnff"),
    Case("ethanol_in_water", "CCO", "--alpb water --json"),
    Case("ethanol_in_dmso", "CCO", "--gbsa dmso --grad"),
    Case("oxygen", "O=O", "--uhf 2"),
    *(Case(name, smiles) for name, smiles in (
        ("alkanes/ethane", "CC"), ("alkanes/propane", "CCC"), ("alkanes/pentane", "CCCCC"),
        ("polyenes/ethene", "C=C"), ("polyenes/butadiene", "C=CC=C"), ("polyenes/hexatriene", "C=CC=CC=C"),
        ("polyenes/octatetraene", "C=CC=CC=CC=C"), ("acenes/benzene", "c1ccccc1"),
        ("acenes/naphthalene", "c1ccc2ccccc2c1"), ("acenes/anthracene", "c1ccc2cc3ccccc3cc2c1"),
    )),
)  # fmt: skip


def main() -> None:
    """Make the tree, in place of the one that is there."""
    folders = [word for word in sys.argv[1:] if word != "--all"]
    make_tree(Path(folders[0]) if folders else RUNS, whole="--all" in sys.argv)


def make_tree(root: Path, *, whole: bool = False) -> None:
    """All runs; ``whole`` as the program leaves them."""
    shutil.rmtree(root, ignore_errors=True)
    for number, case in enumerate(JOBS):
        make_job(root / "jobs", case, number, whole=whole)
    for case in PLAIN:
        run_xtb(root / "plain" / case.name, case, "molecule.xyz", log="xtb.out", errors="xtb.err", whole=whole)


def make_job(root: Path, case: Case, number: int = 0, *, whole: bool = False) -> Path:
    """One folder as the backend leaves it."""
    digest = hashlib.sha256(case.name.encode()).hexdigest()[:8]
    job_id = f"{case.name}_20240301_1015{number:02d}_{digest}"
    folder = root / job_id
    run_xtb(folder, case, f"{case.name}.xyz", log="xtb_stdout.log", errors="xtb_stderr.log", whole=whole)
    metadata = {
        "job_id": job_id, "molecule_name": case.name, "optimization_level": "normal", "tags": [],
        "status": "COMPLETED", "created_at": "2024-03-01T10:15:00+00:00", "xyz_file": f"{job_id}/{case.name}.xyz",
    }  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(metadata | case.metadata, indent=2))
    for change in case.changes:
        change(folder)
    return folder


def run_xtb(folder: Path, case: Case, name: str, *, log: str, errors: str, whole: bool) -> None:
    """Run the program in a folder of its own, as people do who run it by hand."""
    folder.mkdir(parents=True)
    (folder / name).write_text(xyz(geometry(case.atoms), case.name))
    environment = {name: value for name, value in os.environ.items() if name != "HOSTNAME"}
    environment |= {"OMP_NUM_THREADS": "1", "XTBPATH": str(PARAMETERS)}
    with (folder / log).open("wb") as out, (folder / errors).open("wb") as err:
        subprocess.run(  # noqa: S603 - our own arguments
            ["xtb", name, *case.options.split()],  # noqa: S607
            cwd=folder, stdout=out, stderr=err, env=environment, check=False,
        )  # fmt: skip
    if whole:
        return
    for unwanted in _LEFT_OUT:
        (folder / unwanted).unlink(missing_ok=True)
    for path in (folder / log, folder / errors):
        path.write_bytes(without_times(path.read_bytes()))


def without_times(text: bytes) -> bytes:
    """A log whose dates and times are constants, and no addresses of a backtrace."""
    for pattern, constant in _VARYING:
        text = pattern.sub(constant, text)
    return b"".join(line for line in text.splitlines(keepends=True) if not re.match(rb"#\d+ |\tat ", line))


def geometry(atoms: str | Atoms) -> Atoms:
    """Atoms, or those that RDKit places for a SMILES."""
    if not isinstance(atoms, str):
        return atoms
    molecule = Chem.AddHs(Chem.MolFromSmiles(atoms))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=7)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    return [(s, *xyz) for s, xyz in zip(symbols, molecule.GetConformer().GetPositions().tolist(), strict=True)]


def xyz(atoms: Atoms, comment: str) -> str:
    """XYZ text."""
    lines = [f"{symbol:<2s} {x:12.6f} {y:12.6f} {z:12.6f}" for symbol, x, y, z in atoms]
    return "\n".join([str(len(lines)), comment, *lines, ""])


def _write_results(folder: Path, content: dict[str, Any]) -> None:
    (folder / "results.json").write_text(json.dumps({"error": None} | content, indent=2))


if __name__ == "__main__":
    main()
