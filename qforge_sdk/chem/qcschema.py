"""QCSchema results, versions 1 and 2, as QCElemental writes them.

Positions are in bohr, energies in hartree, dipole moments in e*bohr; what programs return for the driver ``gradient``
is the gradient, and forces are minus that.

References
----------
The MolSSI QC schema, https://molssi-qc-schema.readthedocs.io
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.peer import (
    PeerResult,
    charge_and_spin,
    finite,
    first,
    plain_facts,
    program_of,
    scalars,
    solvation_in,
    stored,
    vectors,
)
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.xtb_files import Unreadable

_OPTIMIZATIONS: Final = frozenset({"qcschema_optimization_output", "qcschema_optimization_result"})
_RESULTS: Final = frozenset({"qcschema_output", "qc_schema_output", "qcschema_atomic_result"})
_FAILED: Final = "qcschema_failed_operation"
_SMILES: Final = (
    "canonical_isomeric_smiles", "canonical_isomeric_explicit_hydrogen_smiles", "smiles", "canonical_smiles",
    "canonical_explicit_hydrogen_smiles",
)  # fmt: skip
_SAME_ENERGY: Final = 1e-7


def is_qcschema(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a QCSchema result, a failed one included."""
    name = content.get("schema_name")
    if name in _OPTIMIZATIONS | _RESULTS or name == _FAILED:
        return True
    return name is None and "input_data" in content and content.get("success") is False


def read_qcschema(content: Mapping[str, Any]) -> PeerResult:
    """Read an AtomicResult, an OptimizationResult or a FailedOperation.

    Parameters
    ----------
    content
        The JSON object.

    Returns
    -------
    PeerResult
        Of a failed one with status ``error``, its reason, and none of its numbers, which are placeholders.

    Raises
    ------
    Unreadable
        Something that a result needs is missing or damaged; the message names it.
    """
    asked = _mapping(content.get("input_data")) or content
    if content.get("schema_name") in _OPTIMIZATIONS or "initial_molecule" in asked:
        return _optimization(content, asked)
    return _atomic(content, asked)


def _atomic(content: Mapping[str, Any], asked: Mapping[str, Any]) -> PeerResult:
    specification = _mapping(asked.get("specification")) or asked
    molecule = _mapping(content.get("molecule")) or _mapping(asked.get("molecule"))
    geometry = _geometry(molecule)
    if content.get("success") is not True:
        return _result(content, molecule, geometry, specification, reason=_reason(content))
    doubts: list[Doubt] = []
    properties = _mapping(content.get("properties"))
    returned = content.get("return_result")
    driver = specification.get("driver")
    by_driver = _mapping(returned) if driver == "properties" else {}
    extras = _mapping(_mapping(content.get("extras")).get("xtb"))
    n_atoms = len(geometry.symbols)
    gradient = first(
        returned if driver == "gradient" else None, properties.get("return_gradient"), extras.get("return_gradient")
    )
    charges = first(by_driver.get("mulliken_charges"), extras.get("mulliken_charges"))
    return _result(
        content,
        molecule,
        geometry,
        specification,
        energy=_energy(properties, returned if driver == "energy" else None, doubts),
        forces=_forces(gradient, n_atoms, doubts),
        charges=scalars("mulliken_charges", _plain(charges), n_atoms, doubts),
        dipole=_dipole(first(properties.get("scf_dipole_moment"), by_driver.get("dipole")), doubts),
        doubts=doubts,
    )


def _optimization(content: Mapping[str, Any], asked: Mapping[str, Any]) -> PeerResult:
    begun = _mapping(asked.get("initial_molecule"))
    last = _mapping(content.get("final_molecule")) or begun
    # Version 1 has the inner specification beside the molecule, version 2 inside the outer one.
    outer = _mapping(asked.get("specification"))
    inner = _mapping(outer.get("specification")) or _mapping(asked.get("input_specification"))
    start, geometry = _geometry(begun), _geometry(last)
    if content.get("success") is not True:
        return _result(content, last, geometry, inner, start=start, reason=_reason(content))
    doubts: list[Doubt] = []
    step = _last(content.get("trajectory_results") or content.get("trajectory"))
    # Version 2 keeps the properties of steps whose results were thrown away.
    end = _mapping(_mapping(step).get("properties")) or _mapping(_last(content.get("trajectory_properties")))
    last_energy = _last(content.get("energies"))
    properties = _mapping(content.get("properties"))
    gradient = first(properties.get("return_gradient"), end.get("return_gradient"))
    return _result(
        content,
        last,
        geometry,
        inner,
        energy=_energy(properties, last_energy, doubts),
        forces=_forces(gradient, len(geometry.symbols), doubts),
        dipole=_dipole(end.get("scf_dipole_moment"), doubts),
        start=start,
        doubts=doubts,
    )


def _result(
    content: Mapping[str, Any],
    molecule: Mapping[str, Any],
    geometry: Geometry,
    specification: Mapping[str, Any],
    *,
    energy: float | None = None,
    forces: FloatArray | None = None,
    charges: FloatArray | None = None,
    dipole: float | None = None,
    start: Geometry | None = None,
    reason: str | None = None,
    doubts: Sequence[Doubt] = (),
) -> PeerResult:
    found = list(doubts)
    if reason is None and energy is None:
        raise Unreadable("no energy: neither properties.return_energy nor, for the driver energy, return_result")
    multiplicity = finite("molecular_multiplicity", molecule.get("molecular_multiplicity"))
    charge, unpaired, sources = charge_and_spin(
        geometry,
        charges,
        charge=finite("molecular_charge", molecule.get("molecular_charge")),
        unpaired=None if multiplicity is None else multiplicity - 1,
        doubts=found,
    )
    keywords = _mapping(specification.get("keywords"))
    solvation, solvent = solvation_in(keywords)
    provenance = _mapping(content.get("provenance"))
    program, xtb_version = program_of(provenance.get("creator"), provenance.get("version"))
    result = XtbResult(
        status="converged" if reason is None else "error",
        reason=reason,
        energy=energy,
        dipole=dipole,
        total_charge=charge,
        unpaired_electrons=unpaired,
        method=_method(_mapping(specification.get("model"))),
        solvation=solvation,
        solvent=solvent,
        xtb_version=xtb_version,
        optimized=start is not None and reason is None,
        geometry=geometry,
        input_geometry=start,
        charges=charges,
        forces=forces,
        doubts=tuple(found),
    )
    identifiers = _mapping(molecule.get("identifiers"))
    facts = {"program": program, "schema": content.get("schema_name"), "driver": specification.get("driver")}
    return PeerResult(
        result,
        name=_name(molecule.get("name"), geometry),
        smiles=next((text for one in _SMILES if isinstance(text := identifiers.get(one), str)), None),
        facts=plain_facts([*facts.items(), *(("keyword " + str(name), one) for name, one in keywords.items())]),
        sources=sources,
        output_file=True,
    )


def _geometry(molecule: Mapping[str, Any]) -> Geometry:
    symbols = _plain(molecule.get("symbols"))
    if not isinstance(symbols, list) or not symbols:
        raise Unreadable("molecule.symbols is missing")
    real = _plain(molecule.get("real"))
    if isinstance(real, list) and not all(real):
        raise Unreadable("the molecule has ghost atoms, which a stored geometry cannot hold")
    doubts: list[Doubt] = []
    positions = vectors("molecule.geometry", _plain(molecule.get("geometry")), len(symbols), doubts)
    if positions is None:
        raise Unreadable(doubts[0].message.removesuffix("; left out") if doubts else "molecule.geometry is missing")
    return Geometry(tuple(str(one).capitalize() for one in symbols), stored("position_x", positions, "bohr"))


def _energy(properties: Mapping[str, Any], returned: Any, doubts: list[Doubt]) -> float | None:
    said = {
        "properties.return_energy": finite("properties.return_energy", properties.get("return_energy")),
        "return_result": finite("return_result", returned),
    }
    named = {source: value for source, value in said.items() if value is not None}
    if not named:
        return None
    taken = next(iter(named.values()))
    if any(abs(value - taken) > _SAME_ENERGY for value in named.values()):
        doubts.append(Doubt("energy_differs", "properties.return_energy was taken of two that disagree", named))
    return float(stored("energy", taken, "hartree"))


def _forces(gradient: Any, n_atoms: int, doubts: list[Doubt]) -> FloatArray | None:
    found = vectors("gradient", _plain(gradient), n_atoms, doubts)
    return None if found is None else np.asarray(stored("force_x", -found + 0.0, "hartree/bohr"))


def _dipole(moment: Any, doubts: list[Doubt]) -> float | None:
    found = scalars("scf_dipole_moment", _plain(moment), 3, doubts)
    return None if found is None else float(stored("dipole", float(np.linalg.norm(found)), "e*bohr"))


def _method(model: Mapping[str, Any]) -> str | None:
    method, basis = model.get("method"), model.get("basis")
    if not isinstance(method, str) or not method.strip():
        return None
    name = _mapping(basis).get("name", basis)
    return f"{method}/{name}" if isinstance(name, str) and name.strip() else method


def _name(name: Any, geometry: Geometry) -> str | None:
    """A name that is more than the formula, which QCElemental puts where there is none."""
    if not isinstance(name, str) or not name.strip():
        return None
    return None if composition(name) == composition(geometry.formula) else name


def _reason(content: Mapping[str, Any]) -> str:
    error = _mapping(content.get("error"))
    text = error.get("error_message")
    words = "".join(one for one in text if one.isprintable() or one == "\n").strip() if isinstance(text, str) else ""
    return words or "the result says that it failed, and not why"


def _last(values: Any) -> Any:
    return values[-1] if isinstance(values, list) and values else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    """A list, also from the form that json-ext gives an array: its bytes in hexadecimal."""
    if not isinstance(value, Mapping) or value.get("_nd_") is not True:
        return value
    try:
        return np.frombuffer(bytes.fromhex(value["data"]), dtype=np.dtype(value["dtype"])).tolist()
    except (KeyError, TypeError, ValueError) as exc:
        raise Unreadable(f"an array cannot be read: {exc}") from exc
