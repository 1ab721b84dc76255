"""What a compute engine is: a geometry and a level of theory in, one result out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.result import XtbResult


@dataclass(frozen=True, slots=True)
class Parameters:
    """How to compute; what a batch keeps in its ``parameters``.

    Parameters
    ----------
    method
        As calculations name it, such as ``GFN2-xTB``.
    solvation
        Implicit model, such as ``ALPB``; None in the gas phase.
    solvent
        Name of the solvent; needed with ``solvation``.
    optimize
        Whether to relax the geometry first.
    hessian
        Whether to count imaginary modes.
    accuracy
        xtb's numerical accuracy; lower is tighter.
    electronic_temperature
        K.
    max_iterations
        Of the SCF.
    """

    method: str = "GFN2-xTB"
    solvation: str | None = None
    solvent: str | None = None
    optimize: bool = False
    hessian: bool = False
    accuracy: float = 1.0
    electronic_temperature: float = 300.0
    max_iterations: int = 250


class Engine(Protocol):
    """A program that computes; one file of :mod:`qforge_sdk.compute` each.

    An engine is cheap to make, pickles, and uses one thread.
    """

    name: ClassVar[str]
    """As ``client.batches.run(engine=...)`` names it."""
    methods: ClassVar[tuple[str, ...]]
    """What ``Parameters.method`` may be."""

    def run(
        self,
        geometry: Geometry,
        *,
        charge: int = 0,
        unpaired_electrons: int = 0,
        parameters: Parameters = Parameters(),
        timeout: float | None = None,
    ) -> XtbResult:
        """Compute one molecule.

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
            Wall time, s; an engine that computes in this process leaves it to whoever watches the process.

        Returns
        -------
        XtbResult
            Converged; geometry, charges and forces included.

        Raises
        ------
        ComputationFailed
            Whatever went wrong with this molecule, by ``code``.
        InvalidInput
            The parameters are not this engine's.
        MissingExtra, ConfigurationError
            The engine itself is not installed.
        """
        ...
