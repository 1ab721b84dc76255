"""One finished computation, whichever program or reader it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from qforge_sdk.chem.geometry import FloatArray, Geometry

Status = Literal["converged", "not_converged", "error"]

#: Codes of doubts: what a reader noticed and did not settle by itself.
DOUBT_CODES: Final[Mapping[str, str]] = {
    "bad_field": "a number could not be read, such as one that overflowed its field",
    "bad_file": "a file is damaged, empty or no file",
    "charge_differs": "two sources name different total charges",
    "charge_sum_off": "the atomic charges do not sum to the total charge",
    "dipole_differs": "two sources name different dipoles",
    "dipole_stale": "xtbout.json keeps the dipole of the geometry before the optimisation",
    "energy_differs": "two sources name different energies",
    "formula_differs": "the given SMILES has another formula than the geometry and was not taken",
    "gap_differs": "two sources name different gaps or frontier orbitals",
    "geometry_differs": "files disagree on the atoms or on where they are",
    "ionised": "the run computed ions as well; the numbers are those of the molecule before them",
    "log_cut": "only the ends of a very long log were read",
    "log_truncated": "the log ends before the run does",
    "method_differs": "two sources name different methods",
    "method_unknown": "nothing names the method; the program's default was stored",
    "normal_termination": "the program says that it ended normally, and its result is no good",
    "rearranged": "input and final geometry are perceived as different molecules",
    "several_runs": "several runs were appended to one log; the last was read",
    "shared_files": "files that several runs of one folder may have written were left out",
    "smiles_refused": "the given SMILES was refused",
    "spin_differs": "sources disagree on the unpaired electrons, or the number of electrons forbids them",
    "stale_file": "a file is of another run in the same folder and was left out",
    "status_differs": "the job's metadata and its run disagree on whether it succeeded",
    "structure_differs": "the given SMILES has the geometry's formula and connects the atoms otherwise",
}
#: Codes that are on record and ask for nothing: their cause is known, and the right value was taken.
SETTLED_CODES: Final = frozenset({"dipole_stale"})


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that a reader noticed.

    Parameters
    ----------
    code
        Key of :data:`DOUBT_CODES`.
    message
        One sentence.
    values
        By source, where two disagree: the first is the one that was taken.
    """

    code: str
    message: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a metadata column."""
        return {"code": self.code, "message": self.message, **({"values": dict(self.values)} if self.values else {})}


@dataclass(frozen=True, slots=True, eq=False)
class XtbResult:
    """What one run gave.

    Parameters
    ----------
    status
        ``converged``; ``not_converged`` where the SCF or the optimisation did not; ``error`` where the run failed.
    reason
        Why it is not converged.
    energy
        Total energy, hartree.
    homo, lumo, gap
        eV.
    dipole
        Norm, debye.
    total_charge
        e.
    unpaired_electrons
        Number.
    method, solvation, solvent, xtb_version
        As the program names them; solvation is the model.
    optimized
        Whether the geometry was optimised.
    execution_time_seconds
        Wall time, s.
    geometry, input_geometry
        Final and first one, angstrom.
    charges
        Shape (n_atoms,), e.
    forces
        Shape (n_atoms, 3), hartree/bohr.
    imaginary_modes
        Number of imaginary modes of a Hessian, None where there is none.
    program_call
        Command line.
    doubts
        What was noticed.
    """

    status: Status
    reason: str | None = None
    energy: float | None = None
    homo: float | None = None
    lumo: float | None = None
    gap: float | None = None
    dipole: float | None = None
    total_charge: float = 0.0
    unpaired_electrons: int = 0
    method: str | None = None
    solvation: str | None = None
    solvent: str | None = None
    xtb_version: str | None = None
    optimized: bool = False
    execution_time_seconds: float | None = None
    geometry: Geometry | None = None
    input_geometry: Geometry | None = None
    charges: FloatArray | None = None
    forces: FloatArray | None = None
    imaginary_modes: int | None = None
    program_call: str | None = None
    doubts: tuple[Doubt, ...] = ()

    def atoms(self) -> dict[str, list[Any]]:
        """Columns of the final geometry's atoms.

        Returns
        -------
        dict
            ``atom_index``, ``element``, ``partial_charge`` (e), ``position_x/y/z`` (angstrom), ``force_x/y/z``
            (hartree/bohr); nothing without a geometry.
        """
        if self.geometry is None:
            return {}
        n = len(self.geometry.symbols)
        nothing: list[Any] = [None] * n
        columns: dict[str, list[Any]] = {
            "atom_index": list(range(n)),
            "element": list(self.geometry.symbols),
            "partial_charge": nothing if self.charges is None else self.charges.tolist(),
        }
        for axis, name in enumerate("xyz"):
            columns[f"position_{name}"] = self.geometry.positions[:, axis].tolist()
            columns[f"force_{name}"] = nothing if self.forces is None else self.forces[:, axis].tolist()
        return columns
