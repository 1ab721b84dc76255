"""``client.calculations``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import or_, select
from sqlalchemy.sql import ColumnElement

from qforge_sdk.accessors.base import not_found
from qforge_sdk.accessors.batch_lookup import find_batch
from qforge_sdk.accessors.distributions import Distributions
from qforge_sdk.accessors.suspicion import find_suspicious
from qforge_sdk.chem import Geometry, geometry_to_ase, write_sdf
from qforge_sdk.chem.plausibility import Limits
from qforge_sdk.db import bulk, crud
from qforge_sdk.db.crud.rows import as_record
from qforge_sdk.db.models import PUBLIC_USER_ID, Calculation, Molecule
from qforge_sdk.errors import Conflict, DuplicateMolecule, InvalidInput, NotFound
from qforge_sdk.fields import ATOMS, CALCULATIONS
from qforge_sdk.query import Query, smiles_hash
from qforge_sdk.schemas import (
    BatchJobResponse,
    CalculationCreate,
    CalculationResponse,
    CalculationUpdate,
    LoadReport,
    MoleculeCreate,
)

if TYPE_CHECKING:
    from qforge_sdk.compute.reproduction import Reproduction


class Calculations(Distributions):
    """xTB results; every number has its unit in ``df.attrs["units"]``."""

    _table = CALCULATIONS
    _record = CalculationResponse

    def create(
        self,
        *,
        smiles: str | None = None,
        molecule_id: int | None = None,
        exist_ok: bool = False,
        shared: bool = False,
        **values: Any,
    ) -> CalculationResponse:
        """Store one result.

        Parameters
        ----------
        smiles
            The molecule in any spelling; registered if it is not there yet.
        molecule_id
            The molecule by its key, instead of ``smiles``.
        exist_ok
            Return the stored calculation when its ``source_id`` is there already.
        shared
            Everybody shall read it (service login only).
        **values
            Columns: energy (hartree), homo, lumo, gap (eV), dipole (debye), total_charge (e),
            execution_time_seconds (s), method, solvation, solvent, convergence_status, source_id, metadata, ...

        Returns
        -------
        CalculationResponse
            The stored record.

        Raises
        ------
        InvalidSmiles
            RDKit refuses the SMILES.
        InvalidInput
            Both or neither of ``smiles`` and ``molecule_id``, or a value that the column cannot hold.
        NotFound
            No such molecule, or it is another tenant's.
        Conflict
            The ``source_id`` is stored already.
        """
        if (smiles is None) == (molecule_id is None):
            raise InvalidInput("give either smiles or molecule_id", field="molecule_id", value=molecule_id)
        owner = self._context.owner(shared=shared)
        with self._context.session() as session:
            source_id = values.get("source_id")
            if source_id is not None:
                stored = session.scalars(
                    select(Calculation).where(
                        Calculation.source_id == source_id, Calculation.user_id.is_not_distinct_from(owner)
                    )
                ).one_or_none()
                if stored is not None and exist_ok:
                    return CalculationResponse.model_validate(stored)
                if stored is not None:
                    raise Conflict(
                        f"source_id {source_id!r} is calculation {stored.id} already; exist_ok=True returns it",
                        existing_id=stored.id,
                        constraint="calculations_source",
                    )
            key = molecule_id if smiles is None else self._molecule(session, smiles, owner)
            record = as_record(CalculationCreate, {"molecule_id": key} | values)
            return CalculationResponse.model_validate(crud.create_calculation(session, record, user_id=owner))

    def _molecule(self, session: Any, smiles: str, owner: Any) -> int:
        """Key of the molecule, stored on the way if nobody has it."""
        found = session.scalar(
            select(Molecule.id)
            .where(
                Molecule.identity_hash == smiles_hash(smiles),
                or_(Molecule.user_id.is_not_distinct_from(owner), Molecule.user_id == PUBLIC_USER_ID),
            )
            .order_by(Molecule.user_id == PUBLIC_USER_ID)
            .limit(1)
        )
        if found is not None:
            return int(found)
        try:
            return int(crud.create_molecule(session, MoleculeCreate(smiles=smiles), user_id=owner).id)
        except DuplicateMolecule as exc:  # somebody was faster
            if exc.existing_id is None:
                raise
            return exc.existing_id

    def update(self, id: int, **changes: Any) -> CalculationResponse:  # noqa: A002
        """Change what may change of a calculation: its numbers stay as they were computed.

        Parameters
        ----------
        id
            Its key.
        **changes
            ``convergence_status``, ``output_json_path``, ``metadata``.

        Raises
        ------
        NotFound
            No such calculation, or it is not yours to change.
        InvalidInput
            Another column, or a value that it cannot hold.
        """
        record = as_record(CalculationUpdate, changes)
        with self._context.session() as session:
            row = self._own_row(session, id)
            for name in record.model_fields_set:
                setattr(row, "metadata_" if name == "metadata" else name, getattr(record, name))
            session.flush()
            session.refresh(row)
            return CalculationResponse.model_validate(row)

    def by_energy_range(self, low: float | None, high: float | None, **options: Any) -> pd.DataFrame:
        """Calculations whose energy lies between two values (hartree, both included), lowest first.

        Parameters
        ----------
        low, high
            Ends in hartree; None for an open end.
        **options
            Further filters and options of ``query``.

        Returns
        -------
        pandas.DataFrame
            As from ``query``.

        Raises
        ------
        InvalidInput
            An end is no number, or the range is upside down.
        """
        return self.query(**{"order_by": "energy", "energy": (low, high)} | options)

    def by_gap_range(self, low: float | None, high: float | None, **options: Any) -> pd.DataFrame:
        """Calculations whose HOMO-LUMO gap lies between two values (eV, both included), smallest first.

        Parameters
        ----------
        low, high
            Ends in eV; None for an open end.
        **options
            Further filters and options of ``query``.

        Returns
        -------
        pandas.DataFrame
            As from ``query``.

        Raises
        ------
        InvalidInput
            An end is no number, or the range is upside down.
        """
        return self.query(**{"order_by": "gap", "gap": (low, high)} | options)

    def for_molecule(self, molecule_id: int, **options: Any) -> pd.DataFrame:
        """All calculations of one molecule.

        Parameters
        ----------
        molecule_id
            Key of the molecule.
        **options
            Further filters and options of ``query``.

        Returns
        -------
        pandas.DataFrame
            As from ``query``; empty when there are none.
        """
        return self.query(molecule_id=molecule_id, **options)

    def suspicious(
        self,
        *expressions: ColumnElement[bool],
        min_gap: float = 0.3,
        min_gap_open_shell: float = 0.0,
        max_deviation: float = 12.0,
        min_deviation: float = 0.005,
        max_charge_error: float = 0.02,
        min_contact: float = 0.65,
        **filters: Any,
    ) -> pd.DataFrame:
        """Calculations that look wrong, with reasons, the worst first.

        Energies are compared with a sum over elements, charges and unpaired electrons that is fitted for each method
        and solvation on every converged energy that this client may read, whatever the filters.

        Parameters
        ----------
        *expressions, **filters
            Which calculations are judged, as in ``where``; all that this client may read by default.
        min_gap, min_gap_open_shell
            Smallest ordinary gap of closed shells and where there are unpaired electrons, eV.
        max_deviation
            Robust standard deviations that an energy may lie from the sum.
        min_deviation
            What it may in any case, hartree an atom.
        max_charge_error
            What the sum of the atomic charges may differ from the total charge, e.
        min_contact
            Smallest distance of two atoms over the sum of their covalent radii.

        Returns
        -------
        pandas.DataFrame
            id, molecule_id, smiles, name, formula, method, energy, gap; reasons (codes, comma-separated),
            explanation (the same with numbers) and severity (how many times limits are exceeded, summed).
            ``attrs["energy_fits"]`` tells each sum, or why there is none; ``attrs["judged"]`` counts the calculations
            and those without a sum or without atoms.

        Raises
        ------
        UnknownField
            A filter does not exist.
        InvalidInput
            A filter's value does not fit its column, or a limit is below zero.
        """
        limits = Limits(
            min_gap=min_gap,
            min_gap_open_shell=min_gap_open_shell,
            max_deviation=max_deviation,
            min_deviation=min_deviation,
            max_charge_error=max_charge_error,
            min_contact=min_contact,
        )
        return find_suspicious(self._context, self.where(*expressions, **filters), limits)

    def bulk_load(
        self,
        source: Any,
        *,
        on_error: str = "collect",
        on_conflict: str = "skip",
        batch_id: int | str | BatchJobResponse | None = None,
        shared: bool = False,
        workers: Any = None,
        progress: bool | None = None,
    ) -> LoadReport:
        """Store many results through COPY, in one transaction.

        Parameters
        ----------
        source
            DataFrame, Arrow table or reader, anything with an Arrow C stream, path of a Parquet or CSV file, or an
            iterator of batches. Molecules by ``molecule_id`` or by ``smiles``, which registers new ones.
        on_error
            ``"collect"`` loads the good rows, reports the rest and warns; ``"raise"`` loads nothing.
        on_conflict
            For a ``source_id`` that is stored: ``"skip"`` (a row that differs is rejected as ``changed``),
            ``"update"`` or ``"error"``.
        batch_id
            Batch (key, name or record) whose items these results end: completed where converged, else failed.
        shared
            Everybody shall read them (service login only).
        workers
            Processes for validating SMILES; None for as many as pay; a ``distributed.Client`` for its cluster's.
        progress
            Show a bar; None shows one after 2 s where somebody looks.

        Returns
        -------
        LoadReport
            Accounts for every row; ``ids`` is on the input's index.

        Raises
        ------
        RowsRejected
            ``on_error="raise"`` and a row was refused.
        InvalidInput
            The source cannot be read or lacks a column.
        NotFound
            No such batch.
        """
        owner = self._context.owner(shared=shared)
        with self._context.session() as session:
            batch = None if batch_id is None else find_batch(self._context, session, batch_id).id
            return bulk.load_calculations(
                session.connection(),
                source,
                owner=owner,
                on_error=on_error,
                on_conflict=on_conflict,
                batch_id=batch,
                workers=workers,
                progress=progress,
            )

    def geometry(self, id: int) -> Geometry:  # noqa: A002
        """Geometry of a calculation, from its atoms.

        Parameters
        ----------
        id
            Key of the calculation.

        Returns
        -------
        Geometry
            Symbols and positions, angstrom.

        Raises
        ------
        NotFound
            No such calculation, or it has no atoms.
        """
        return _geometry(self._atoms(id))

    def to_xyz(self, id: int) -> str:  # noqa: A002
        """Geometry of a calculation as XYZ text, positions in angstrom.

        Raises
        ------
        NotFound
            No such calculation, or it has no atoms.
        """
        return self.geometry(id).to_xyz()

    def to_ase(self, id: int) -> Any:  # noqa: A002
        """A calculation as ``ase.Atoms``, with energy, forces and charges in ASE's units.

        Parameters
        ----------
        id
            Key of the calculation.

        Returns
        -------
        ase.Atoms
            With a SinglePointCalculator: energy eV, forces eV/angstrom, charges e, dipole left out (only its norm
            is stored); ``info`` holds ``calculation_id``, ``smiles`` and ``total_charge``.

        Raises
        ------
        NotFound
            No such calculation, or it has no atoms.
        MissingExtra
            ase is not installed.
        """
        atoms = self._atoms(id)
        row = self.query(id=id, columns=["energy", "smiles", "total_charge"]).iloc[0]
        forces = atoms[["force_x", "force_y", "force_z"]].to_numpy(float)
        charges = atoms["partial_charge"].to_numpy(float)
        return geometry_to_ase(
            _geometry(atoms),
            energy=None if pd.isna(row.energy) else float(row.energy),
            forces=None if pd.isna(forces).any() else forces,
            charges=None if pd.isna(charges).any() else charges,
            info={"calculation_id": id, "smiles": row.smiles, "total_charge": float(row.total_charge)},
        )

    def to_sdf(self, calculations: pd.DataFrame | Iterable[int], path: str | Path) -> Path:
        """Write structures and numbers of calculations to an SD file.

        Parameters
        ----------
        calculations
            A frame of calculations (its ``id`` and numbers are used), or keys.
        path
            File to write.

        Returns
        -------
        pathlib.Path
            The file; one record a calculation, in the same order.

        Raises
        ------
        NotFound
            One of them is absent or has no atoms.
        InvalidInput
            The frame has no column ``id``.
        """
        if isinstance(calculations, pd.DataFrame):
            if "id" not in calculations:
                raise InvalidInput("to_sdf needs the column id of a calculations frame", field="id")
            keys = [int(key) for key in calculations["id"]]
        else:
            keys = [int(key) for key in calculations]
        rows = {int(row["id"]): row for row in self.query(id=keys).to_dict("records")}
        atoms = self._atoms_by_calculation(keys)
        missing = [key for key in keys if key not in atoms]
        if missing:
            raise NotFound(f"calculations without stored atoms: {missing[:5]}", entity="calculations", key=missing[0])
        records = (
            (_text(rows[key]["smiles"]), _geometry(atoms[key]), {"calculation_id": key} | _properties(rows[key]))
            for key in keys
        )
        return write_sdf(records, Path(path).expanduser())

    def reproduce(self, id: int, *, single_point: bool = False) -> Reproduction:  # noqa: A002
        """What repeats a calculation: input, xtb's command line, script.

        Parameters
        ----------
        id
            Key of the calculation.
        single_point
            Repeat the numbers of an optimised calculation at its final geometry, instead of the optimisation.

        Returns
        -------
        Reproduction
            A record: ``xyz``, ``argv``, ``shell``, ``script``, the program's version; ``run()`` does it.

        Raises
        ------
        NotFound
            No such calculation.
        InvalidInput
            ``code="not_reproducible"``: the message says what its row lacks.
        """
        from qforge_sdk.compute.reproduction import reproduction

        with self._context.session() as session:
            stored = self._row(session, id)
            row = CalculationResponse.model_validate(stored).model_dump()
            smiles = stored.molecule.smiles
        atoms = self._atoms_by_calculation([row["id"]]).get(row["id"])
        geometry = None if atoms is None else _geometry(atoms)
        return reproduction(row, geometry, smiles=smiles, single_point=single_point)

    def _atoms(self, key: int) -> pd.DataFrame:
        found = self._atoms_by_calculation([key]).get(key)
        if found is None:
            if not self.count(id=key):
                raise not_found(Calculation, key)
            raise NotFound(f"calculation {key} has no stored atoms", entity="atomic_properties", key=key)
        return found

    def _atoms_by_calculation(self, keys: list[int]) -> dict[int, pd.DataFrame]:
        frame = (
            Query(self._context.reader, ATOMS)
            .where(calculation_id=keys)
            .order_by("calculation_id", "atom_index")
            .df()
        )
        return {
            int(str(key)): atoms.reset_index(drop=True) for key, atoms in frame.groupby("calculation_id", sort=False)
        }


def _geometry(atoms: pd.DataFrame) -> Geometry:
    return Geometry(
        symbols=tuple(atoms["element"]),
        positions=atoms[["position_x", "position_y", "position_z"]].to_numpy(float),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _properties(row: dict[Hashable, Any]) -> dict[str, Any]:
    """Numbers and words of a calculation that an SD file can carry."""
    return {
        str(name): value for name, value in row.items() if pd.notna(value) and not isinstance(value, pd.Timestamp)
    }
