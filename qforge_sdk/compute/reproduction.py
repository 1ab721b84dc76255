"""What repeats a stored calculation: input, command, script."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qforge_sdk import display
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute import ENGINES, get_engine
from qforge_sdk.compute.engine import Engine, Parameters
from qforge_sdk.compute.origin import program_of
from qforge_sdk.compute.program_call import ProgramCall, read_program_call
from qforge_sdk.compute.xtb import XtbEngine, input_file, xtb_arguments
from qforge_sdk.errors import InvalidInput

# A row is another's word: it names no program to be run, and its comment is no text but a SMILES.
_OPTIONS: Final = ("force_tolerance", "level", "max_steps")
_SMILES: Final = re.compile(r"[A-Za-z0-9@+\-\[\]()=#$:%/\\.]*")
# The one method whose parameters xtb reads from a file; a package manager's xtb does not know where that lies.
_PARAMETER_PATH: Final = 'XTBPATH="${XTBPATH:-$(dirname "$(dirname "$(command -v xtb)")")/share/xtb}" '
_DEFAULTS: Final = ("accuracy 1.0", "electronic temperature 300 K", "250 SCF iterations")
_COMPARED: Final = ("energy", "homo", "lumo", "gap", "dipole")
_SCRIPT: Final = '''\
from qforge_sdk.chem import read_xyz
from qforge_sdk.compute import Parameters, get_engine

geometry = read_xyz(r"""{xyz}""")
engine = {engine}
parameters = {parameters}
result = engine.run(geometry, charge={charge}, unpaired_electrons={unpaired}, parameters=parameters)
print(result.energy, result.gap)
'''


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reproduction:
    """How to repeat a calculation.

    Parameters
    ----------
    calculation_id
        Key of the row.
    program
        Program and version that computed it, None where the row does not say.
    engine
        Name of the engine that repeats it.
    options
        Fields of that engine.
    parameters
        Level of theory and what to do.
    charge, unpaired_electrons
        Of the molecule.
    geometry
        Where the calculation starts, angstrom.
    stored
        Numbers of the row: energy (hartree), homo, lumo, gap (eV), dipole (debye).
    assumed
        What the row does not keep and is taken to be the program's default.
    """

    calculation_id: int
    program: str | None
    engine: str
    options: Mapping[str, Any]
    parameters: Parameters
    charge: int
    unpaired_electrons: int
    geometry: Geometry
    stored: Mapping[str, float]
    assumed: tuple[str, ...] = ()

    @property
    def xyz(self) -> str:
        """Geometry as XYZ text, angstrom, with digits that give the same doubles back."""
        return self.geometry.to_xyz()

    @property
    def argv(self) -> tuple[str, ...] | None:
        """Command line of xtb, run beside :attr:`input_name`; None where only tblite has the level of theory."""
        if self.parameters.method not in XtbEngine.methods:
            return None
        if self.parameters.solvation not in (None, *XtbEngine.solvations):
            return None
        options = {name: value for name, value in self.options.items() if name in ("level", "max_steps")}
        if self.engine != "xtb":
            # Steps of another optimiser.
            options.pop("max_steps", None)
        arguments = xtb_arguments(
            self.parameters, charge=self.charge, unpaired_electrons=self.unpaired_electrons, **options
        )
        return ("xtb", *arguments)

    @property
    def input_name(self) -> str:
        """Name of the input file that :attr:`argv` reads."""
        return input_file(self.geometry, self.parameters.method)[0]

    @property
    def shell(self) -> str | None:
        """Text for a shell that writes the input and runs xtb; None where :attr:`argv` is."""
        if self.argv is None:
            return None
        name, text = input_file(self.geometry, self.parameters.method)
        path = _PARAMETER_PATH if self.parameters.method == "GFN0-xTB" else ""
        return f"cat > {name} <<'END_OF_INPUT'\n{text}END_OF_INPUT\n{path}OMP_NUM_THREADS=1 {shlex.join(self.argv)}\n"

    @property
    def script(self) -> str:
        """Python text that repeats the calculation with the engine that computed it."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return _SCRIPT.format(
            xyz=self.xyz,
            engine=f"get_engine({self.engine!r}{options})",
            parameters=self.parameters,
            charge=self.charge,
            unpaired=self.unpaired_electrons,
        )

    def run(self, engine: str | Engine | None = None, *, timeout: float | None = None) -> XtbResult:
        """Repeat the calculation here.

        Parameters
        ----------
        engine
            Another engine, by name or itself; None for the one that computed the row.
        timeout
            Wall time, s, that the xtb engine keeps.

        Returns
        -------
        XtbResult
            Compare it by :meth:`differences`.

        Raises
        ------
        ComputationFailed
            It cannot be computed.
        InvalidInput
            That engine has not the level of theory.
        ConfigurationError, MissingExtra
            The engine is not installed.
        """
        chosen = get_engine(self.engine, **self.options) if engine is None else engine
        if isinstance(chosen, str):
            chosen = get_engine(chosen)
        return chosen.run(
            self.geometry,
            charge=self.charge,
            unpaired_electrons=self.unpaired_electrons,
            parameters=self.parameters,
            timeout=timeout,
        )

    def differences(self, result: XtbResult) -> dict[str, float]:
        """A result minus the stored numbers.

        Parameters
        ----------
        result
            From :meth:`run`.

        Returns
        -------
        dict
            By column, in its unit; numbers that one of the two lacks are left out.
        """
        found = {name: getattr(result, name) for name in _COMPARED}
        return {name: found[name] - self.stored[name] for name in self.stored if found[name] is not None}

    def __str__(self) -> str:
        return self.shell or self.script

    def __repr__(self) -> str:
        how = shlex.join(self.argv) if self.argv else f"{self.engine} {self.parameters}"
        return f"<Reproduction of calculation {self.calculation_id}: {how}>"

    def _repr_html_(self) -> str:
        facts = {
            "calculation": self.calculation_id,
            "computed by": self.program or "not known",
            "repeated by": self.engine,
            **({"assumed": ", ".join(self.assumed)} if self.assumed else {}),
        }
        return display.together(display.table(facts), display.preformatted(self))


def reproduction(
    row: Mapping[str, Any], stored_geometry: Geometry | None, *, smiles: str | None = None, single_point: bool = False
) -> Reproduction:
    """What repeats a row.

    Parameters
    ----------
    row
        Columns of a calculation, ``metadata`` included.
    stored_geometry
        Of its atoms, None where it has none.
    smiles
        Of its molecule, for the comment of the XYZ.
    single_point
        Repeat the numbers of an optimised row at its final geometry instead of the optimisation.

    Returns
    -------
    Reproduction
        Of the engine that computed it.

    Raises
    ------
    InvalidInput
        ``code="not_reproducible"``: the message says what is missing.
    """
    run = _mapping(row["metadata"].get("run"))
    settings, options, assumed = _settings(row, run)
    if single_point:
        settings |= {"optimize": False, "hessian": False}
    engine = run.get("engine") or ("tblite" if (row["xtb_version"] or "").startswith("tblite") else "xtb")
    parameters = Parameters(method=row["method"], solvation=row["solvation"], solvent=row["solvent"], **settings)
    _require_engine(row, engine, parameters)
    comment = smiles if smiles is not None and _SMILES.fullmatch(smiles) else ""
    return Reproduction(
        calculation_id=row["id"],
        program=program_of(row["xtb_version"]),
        engine=engine,
        options=options,
        parameters=parameters,
        charge=_whole_charge(row),
        unpaired_electrons=row["unpaired_electrons"],
        geometry=_start(row, run, stored_geometry, comment, optimize=parameters.optimize),
        stored={name: row[name] for name in _COMPARED if row[name] is not None},
        assumed=assumed,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _settings(
    row: Mapping[str, Any], run: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Fields of Parameters and of the engine, and what is assumed."""
    asked = _mapping(run.get("parameters"))
    if asked:
        kept = {field.name for field in dataclasses.fields(Parameters)} - {"method", "solvation", "solvent"}
        options = {name: value for name, value in _mapping(run.get("options")).items() if name in _OPTIONS}
        return {name: value for name, value in asked.items() if name in kept}, options, ()
    printed = run.get("program_call")
    call = read_program_call(printed) if isinstance(printed, str) else ProgramCall(optimize=row["optimized"])
    if call.optimize != row["optimized"]:
        raise _missing(row, "its column optimized and its command line disagree", single_point=False)
    settings = dataclasses.asdict(call)
    options = {name: settings.pop(name) for name in ("level", "max_steps")}
    assumed = () if isinstance(printed, str) else _DEFAULTS
    is_xtb = not (row["xtb_version"] or "").startswith("tblite")
    return settings, {name: value for name, value in options.items() if is_xtb and value is not None}, assumed


def _start(
    row: Mapping[str, Any], run: Mapping[str, Any], stored: Geometry | None, comment: str, *, optimize: bool
) -> Geometry:
    if not optimize:
        if stored is None:
            raise _missing(row, "it has no stored atoms", single_point=False)
        return dataclasses.replace(stored, comment=comment)
    if "input_geometry" not in run:
        raise _missing(
            row,
            "it was optimised, and the geometry that it started from is not stored",
            single_point=stored is not None,
        )
    return Geometry.from_json(run["input_geometry"], comment)


def _require_engine(row: Mapping[str, Any], engine: str, parameters: Parameters) -> None:
    if engine not in ENGINES:
        raise _missing(row, f"it was computed by the engine {engine!r}, which is not here", single_point=False)
    known = get_engine(engine)
    if parameters.method not in known.methods:
        raise _missing(row, f"no engine here computes {parameters.method!r}", single_point=False)
    if parameters.solvation not in (None, *getattr(known, "solvations", ())):
        raise _missing(row, f"no engine here has the solvation model {parameters.solvation!r}", single_point=False)


def _whole_charge(row: Mapping[str, Any]) -> int:
    charge = row["total_charge"]
    if charge != int(charge):
        raise _missing(row, f"its total charge of {charge:g} is no whole number", single_point=False)
    return int(charge)


def _missing(row: Mapping[str, Any], what: str, *, single_point: bool) -> InvalidInput:
    hint = "; single_point=True repeats its numbers at the final geometry, which is" if single_point else ""
    return InvalidInput(
        f"calculation {row['id']} cannot be repeated: {what}{hint}",
        field="id",
        value=row["id"],
        code="not_reproducible",
    )
