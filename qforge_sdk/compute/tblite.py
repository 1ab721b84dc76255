"""The tblite library: GFN2-xTB, GFN1-xTB and IPEA1-xTB in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from threading import Lock
from time import perf_counter
from typing import Any, ClassVar, Final

import numpy as np

from qforge_sdk.chem.electrons import count_electrons, frontier_orbitals
from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute.check import DEFAULTS, check_molecule, check_parameters, check_positive, hydrogen
from qforge_sdk.compute.engine import Parameters
from qforge_sdk.compute.relax import FORCE_TOLERANCE, MAX_STEPS, relax
from qforge_sdk.compute.threads import one_thread
from qforge_sdk.errors import ComputationFailed, InvalidInput, MissingExtra, QForgeError
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM, HARTREE_IN_EV

# As tblite and xtb have it, so that 300 K means the same in both.
_HARTREE_PER_KELVIN: Final = 3.166808578545117e-6

_CODES: Final = (
    ("SCF not converged", "scf_not_converged"),
    ("No support for elements", "unknown_element"),
    ("number unpaired electrons", "spin_mismatch"),
)
_INTERACTIONS: Final = {
    "ALPB": ("alpb-solvation",),
    "GBSA": ("gbsa-solvation",),
    "ddCOSMO": ("ddX-solvation", "cosmo"),
    "ddCPCM": ("ddX-solvation", "cpcm"),
    "ddPCM": ("ddX-solvation", "pcm"),
}
# tblite mixes up what it prints when two threads compute at once.
_TURN: Final = Lock()
os.register_at_fork(after_in_child=_TURN._at_fork_reinit)  # type: ignore[attr-defined]

_SOLVENT_MISSING: Final = ("String value for epsilon", "No ALPB/GBSA parameters")


@dataclass(frozen=True, slots=True)
class TbliteEngine:
    """Computes with the tblite library, in this process and on one thread.

    A geometry is optimised by ASE's BFGS; the numbers that come out are those of a single point at its last step.

    Parameters
    ----------
    force_tolerance
        Where an optimisation ends: largest force on an atom, hartree/bohr.
    max_steps
        How many steps an optimisation may take.
    """

    force_tolerance: float = FORCE_TOLERANCE
    max_steps: int = MAX_STEPS

    name: ClassVar[str] = "tblite"
    methods: ClassVar[tuple[str, ...]] = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
    solvations: ClassVar[Mapping[str, str]] = {
        "ALPB": "analytical linearised Poisson-Boltzmann",
        "GBSA": "generalised Born with surface area",
        "ddCOSMO": "conductor-like screening, domain decomposed; electrostatics only",
        "ddCPCM": "conductor-like polarisable continuum, domain decomposed; electrostatics only",
        "ddPCM": "polarisable continuum, domain decomposed; electrostatics only",
    }

    def __post_init__(self) -> None:
        check_positive("force_tolerance", self.force_tolerance)
        check_positive("max_steps", self.max_steps, whole=True)

    def check(self, parameters: Parameters) -> None:
        """Refuse parameters that are not this engine's.

        Parameters
        ----------
        parameters
            What is asked for.

        Raises
        ------
        InvalidInput
            Method, solvation model or solvent are not there, or a Hessian is wanted.
        MissingExtra
            tblite is not installed.
        """
        self._check(parameters)
        # Whether there is a solvent is only known where it is added to a molecule.
        with _TURN:
            _Molecule(hydrogen(), 0, 0, parameters)

    def run(
        self,
        geometry: Geometry,
        *,
        charge: int = 0,
        unpaired_electrons: int = 0,
        parameters: Parameters = DEFAULTS,
        timeout: float | None = None,  # noqa: ARG002 - whoever watches this process keeps it
    ) -> XtbResult:
        """Compute one molecule; see :meth:`qforge_sdk.compute.Engine.run`.

        Parameters
        ----------
        geometry
            Angstrom.
        charge
            Total charge, e.
        unpaired_electrons
            Number.
        parameters
            Level of theory and what to do.
        timeout
            Not kept: what computes in this process is ended by whoever watches it.

        Returns
        -------
        XtbResult
            With energy, orbitals, dipole, charges and forces; ``xtb_version`` is ``tblite`` and its version.

        Raises
        ------
        ComputationFailed
            By ``code``; ``stderr`` holds what tblite printed.
        InvalidInput
            The parameters are not this engine's.
        MissingExtra
            tblite is not installed, or ase for an optimisation.
        """
        self._check(parameters)
        electrons = check_molecule(geometry, charge, unpaired_electrons)
        with _TURN, one_thread(_module("tblite._libtblite").__file__, _module("numpy.linalg._umath_linalg").__file__):
            start = perf_counter()
            final = self._relaxed(geometry, charge, unpaired_electrons, parameters)
            molecule = _Molecule(final, charge, unpaired_electrons, parameters)
            molecule.compute()
            seconds = perf_counter() - start
        orbitals = HARTREE_IN_EV * molecule.get("orbital-energies")
        homo, lumo = frontier_orbitals(orbitals, electrons, unpaired_electrons)
        return XtbResult(
            status="converged",
            energy=float(molecule.get("energy")),
            homo=homo,
            lumo=lumo,
            gap=None if homo is None or lumo is None else lumo - homo,
            dipole=ATOMIC_DIPOLE_IN_DEBYE * float(np.linalg.norm(molecule.get("dipole"))),
            total_charge=float(charge),
            unpaired_electrons=int(unpaired_electrons),
            method=parameters.method,
            solvation=parameters.solvation,
            solvent=None if parameters.solvent is None else parameters.solvent.lower(),
            xtb_version=f"tblite {version('tblite')}",
            optimized=parameters.optimize,
            geometry=final,
            input_geometry=geometry,
            charges=molecule.get("charges"),
            forces=molecule.forces(),
            execution_time_seconds=seconds,
        )

    def _check(self, parameters: Parameters) -> None:
        check_parameters(parameters, engine=self.name, methods=self.methods, solvations=self.solvations)
        if parameters.hessian:
            raise InvalidInput(
                "the tblite engine computes no Hessian; engine='xtb' does", field="hessian", value=True
            )

    def _relaxed(self, geometry: Geometry, charge: int, unpaired_electrons: int, parameters: Parameters) -> Geometry:
        if not parameters.optimize:
            return geometry
        molecule = _Molecule(geometry, charge, unpaired_electrons, parameters)
        return relax(geometry, molecule.move, force_tolerance=self.force_tolerance, max_steps=self.max_steps)


class _Molecule:
    """tblite's calculator of one molecule, its errors as ours."""

    def __init__(self, geometry: Geometry, charge: int, unpaired_electrons: int, parameters: Parameters) -> None:
        self._printed: list[str] = []
        self._result: Any = None
        numbers, positions = np.array(geometry.numbers), geometry.positions / BOHR_IN_ANGSTROM
        interface = _module("tblite.interface")
        with self._translated(parameters):
            self._calculator = interface.Calculator(
                parameters.method, numbers, positions, float(charge), unpaired_electrons,
                color=False, logger=self._printed.append,
            )  # fmt: skip
            self._set(parameters)
        n_orbitals = len(self._calculator.get("orbital-map"))
        if (count_electrons(geometry.numbers, charge) + unpaired_electrons + 1) // 2 > n_orbitals:
            raise ComputationFailed(
                f"{geometry.formula} of charge {charge:+d} has {n_orbitals} valence orbitals: too few for its "
                f"electrons with {unpaired_electrons} unpaired",
                code="spin_mismatch",
            )
        self._parameters = parameters

    def _set(self, parameters: Parameters) -> None:
        self._calculator.set("accuracy", parameters.accuracy)
        self._calculator.set("temperature", parameters.electronic_temperature * _HARTREE_PER_KELVIN)
        self._calculator.set("max-iter", parameters.max_iterations)
        if parameters.solvation is not None and parameters.solvent is not None:
            interaction, *options = _INTERACTIONS[parameters.solvation]
            self._calculator.add(interaction, parameters.solvent.lower(), *options)

    def compute(self) -> None:
        """Self-consistent charges, from those of the last geometry where there was one."""
        with self._translated(self._parameters):
            self._result = self._calculator.singlepoint(self._result)

    def move(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) of other positions (angstrom)."""
        with self._translated(self._parameters):
            self._calculator.update(positions=positions / BOHR_IN_ANGSTROM)
        self.compute()
        return float(self.get("energy")), self.forces()

    def get(self, name: str) -> Any:
        return self._result.get(name)

    def forces(self) -> FloatArray:
        # Adding zero turns -0.0 into 0.0.
        forces: FloatArray = -self.get("gradient") + 0.0
        return forces

    @contextmanager
    def _translated(self, parameters: Parameters) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as exc:
            if isinstance(exc, QForgeError):
                raise
            message = str(exc)
            if any(sign in message for sign in _SOLVENT_MISSING):
                raise InvalidInput(
                    f"tblite has no {parameters.solvation} parameters of {parameters.method} for the solvent "
                    f"{parameters.solvent!r}",
                    field="solvent",
                    value=parameters.solvent,
                ) from exc
            code = next((code for sign, code in _CODES if sign in message), "engine_error")
            raise ComputationFailed(f"tblite: {message}", code=code, stderr="\n".join(self._printed)) from exc


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise MissingExtra("tblite", "xtb") from exc
