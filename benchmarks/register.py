"""Registering SMILES: ours against a plain RDKit loop that makes the same things, times the number of cores.

``python -m benchmarks.register --rows 100000``
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.inchi import MolToInchiKey
from rdkit.Chem.rdMolDescriptors import CalcMolFormula
from sqlalchemy import text

import qforge_sdk as qf
from benchmarks.timing import interleaved, print_table
from qforge_sdk.data import load_sample


def spellings(rows: int) -> list[str]:
    """Random spellings of the shipped molecules, all different texts."""
    molecules = [Chem.MolFromSmiles(smiles) for smiles in load_sample().molecules["smiles"].to_pylist()]
    molecules = [molecule for molecule in molecules if molecule.GetNumAtoms() > 8]
    found: dict[str, None] = {}
    seed = 0
    while len(found) < rows:
        seed += 1
        for molecule in molecules:
            found[Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)[0]] = None
    return list(found)[:rows]


def plain_loop(texts: list[str]) -> None:
    """Parse, canonical form, InChIKey, formula, charge, fingerprint: one after the other, nothing stored."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    with rdBase.BlockLogs():
        for smiles in texts:
            molecule = Chem.MolFromSmiles(smiles)
            Chem.MolToSmiles(molecule)
            MolToInchiKey(molecule)
            CalcMolFormula(molecule)
            Chem.GetFormalCharge(molecule)
            DataStructs.BitVectToBinaryText(generator.GetFingerprint(molecule))


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    texts = spellings(options.rows)
    cores = len(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="qforge-bench-") as folder,
        qf.connect(data_dir=Path(folder) / "db") as client,
    ):

        def register() -> None:
            client.molecules.bulk_load({"smiles": texts}, progress=False)

        def empty() -> None:
            with client.engine.begin() as connection:
                connection.execute(text("TRUNCATE public.molecules CASCADE"))

        seconds = interleaved(
            {"plain RDKit loop, one core": lambda: plain_loop(texts), "molecules.bulk_load": register},
            repeats=options.repeats,
            warm_up=False,
            afterwards=empty,
        )
    print_table(f"register {options.rows:,} SMILES", seconds, base="plain RDKit loop, one core", rows=options.rows)
    ratio = seconds["plain RDKit loop, one core"] / cores / seconds["molecules.bulk_load"]
    print(f"of the plain loop times {cores} cores: {ratio:.2f}")


if __name__ == "__main__":
    main()
