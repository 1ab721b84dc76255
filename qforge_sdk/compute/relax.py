"""Geometry optimisation by ASE over an engine's energies and forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.errors import ComputationFailed, MissingExtra
from qforge_sdk.quantities import BOHR_IN_ANGSTROM, HARTREE_IN_EV

FORCE_TOLERANCE: Final = 2e-4
"""Convergence criterion: no atom feels a larger force, hartree/bohr (0.01 eV/angstrom)."""

MAX_STEPS: Final = 500

# Lindh's parameters by rows of the periodic table: H and He, Li to Ne, heavier. Bohr and bohr^-2.
_REFERENCE: Final = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
_DECAY: Final = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
_STRETCH: Final = 0.45
# Stands for what pairs do not describe, bends and torsions: half of the steps that BFGS takes from ASE's own start.
_FLOOR: Final = 0.05

EnergyAndForces = Callable[[FloatArray], tuple[float, FloatArray]]


def relax(start: Geometry, evaluate: EnergyAndForces, *, force_tolerance: float, max_steps: int) -> Geometry:
    """The nearest minimum, by BFGS from a model Hessian.

    Parameters
    ----------
    start
        Angstrom.
    evaluate
        Positions (angstrom) to energy (hartree) and forces (hartree/bohr, shape (n_atoms, 3)).
    force_tolerance
        Largest force on an atom, its norm, in hartree/bohr, at which it is done.
    max_steps
        How many steps at most.

    Returns
    -------
    Geometry
        Angstrom, the comment of ``start``.

    Raises
    ------
    ComputationFailed
        ``optimization_not_converged`` after ``max_steps``; whatever ``evaluate`` raises.
    MissingExtra
        ase is not installed.

    References
    ----------
    R. Lindh, A. Bernhardsson, G. Karlström, P.-Å. Malmqvist, Chem. Phys. Lett. 1995, 241, 423,
    doi:10.1016/0009-2614(95)00646-L (the model Hessian, of which only the stretches are taken)
    """
    try:
        from ase import Atoms
        from ase.optimize import BFGS
    except ImportError as exc:
        raise MissingExtra("ase", "xtb") from exc
    atoms = Atoms(numbers=start.numbers, positions=start.positions)
    atoms.calc = _calculator(evaluate)
    optimizer = BFGS(atoms, logfile=None)
    optimizer.H0 = model_hessian(start) * (HARTREE_IN_EV / BOHR_IN_ANGSTROM**2)
    if not optimizer.run(fmax=force_tolerance * HARTREE_IN_EV / BOHR_IN_ANGSTROM, steps=max_steps):
        left = float(np.linalg.norm(atoms.get_forces(), axis=1).max()) * BOHR_IN_ANGSTROM / HARTREE_IN_EV
        raise ComputationFailed(
            f"after {max_steps} steps the largest force is {left:.1e} hartree/bohr, above {force_tolerance:.1e}",
            code="optimization_not_converged",
        )
    return Geometry(start.symbols, atoms.positions, start.comment)


def model_hessian(geometry: Geometry) -> FloatArray:
    """Guess of the second derivatives: a spring between every two atoms, stiff where they are close.

    Parameters
    ----------
    geometry
        Angstrom.

    Returns
    -------
    numpy.ndarray
        Shape (3 * n_atoms, 3 * n_atoms), hartree/bohr^2, symmetric and positive definite.
    """
    numbers, positions = np.array(geometry.numbers), geometry.positions / BOHR_IN_ANGSTROM
    rows = np.digitize(numbers, [3, 11])
    between = positions[:, None] - positions[None]
    squared = (between**2).sum(axis=-1)
    reference, decay = (table[rows[:, None], rows[None]] for table in (_REFERENCE, _DECAY))
    springs = _STRETCH * np.exp(decay * (reference**2 - squared))
    np.fill_diagonal(springs, 0.0)
    np.fill_diagonal(squared, 1.0)
    blocks = -(springs / squared)[:, :, None, None] * between[:, :, :, None] * between[:, :, None, :]
    diagonal = np.arange(len(numbers))
    blocks[diagonal, diagonal] = -blocks.sum(axis=1)
    size = 3 * len(numbers)
    hessian: FloatArray = blocks.transpose(0, 2, 1, 3).reshape(size, size) + _FLOOR * np.eye(size)
    return hessian


def _calculator(evaluate: EnergyAndForces) -> Any:
    from ase.calculators.calculator import Calculator, all_changes

    class Evaluated(Calculator):  # type: ignore[misc]
        implemented_properties = ["energy", "forces"]

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            energy, forces = evaluate(self.atoms.positions)
            self.results = {
                "energy": energy * HARTREE_IN_EV,
                "forces": forces * (HARTREE_IN_EV / BOHR_IN_ANGSTROM),
            }

    return Evaluated()
