"""``client.molecules``."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import func, select

from qforge_sdk.accessors.base import not_found
from qforge_sdk.accessors.molecule_pages import MoleculePages
from qforge_sdk.db import bulk, crud
from qforge_sdk.db.crud.rows import as_record
from qforge_sdk.db.models import Molecule
from qforge_sdk.errors import DuplicateMolecule
from qforge_sdk.fields import MOLECULES
from qforge_sdk.schemas import LoadReport, MoleculeCreate, MoleculeResponse, MoleculeUpdate


class Molecules(MoleculePages):
    """Structures, validated by RDKit and unique for their owner."""

    _table = MOLECULES
    _record = MoleculeResponse

    def create(
        self,
        smiles: str,
        *,
        name: str | None = None,
        formula: str | None = None,
        metadata: dict[str, Any] | None = None,
        exist_ok: bool = False,
        shared: bool = False,
    ) -> MoleculeResponse:
        """Validate a SMILES and store the molecule.

        Parameters
        ----------
        smiles
            In any spelling; the canonical isomeric form is stored.
        name
            What you call it.
        formula
            Checked against the structure when it is given.
        metadata
            Anything that JSON holds.
        exist_ok
            Return the stored molecule instead of raising when it is there.
        shared
            Everybody shall read it (service login only).

        Returns
        -------
        MoleculeResponse
            The stored record.

        Raises
        ------
        InvalidSmiles
            RDKit refuses it; ``code`` and ``position`` say why and where.
        InvalidInput
            The formula does not fit, or a value is too long.
        DuplicateMolecule
            It is stored already, maybe in another spelling.
        """
        owner = self._context.owner(shared=shared)
        record = as_record(
            MoleculeCreate, {"smiles": smiles, "name": name, "formula": formula, "metadata": metadata or {}}
        )
        with self._context.session() as session:
            try:
                row = crud.create_molecule(session, record, user_id=owner)
            except DuplicateMolecule as exc:
                if not exist_ok or exc.existing_id is None:
                    raise
                row = self._row(session, exc.existing_id)
            return MoleculeResponse.model_validate(row)

    def get_by_smiles(self, smiles: str) -> MoleculeResponse:
        """The molecule of a SMILES in any spelling; your own before a public one.

        Raises
        ------
        InvalidSmiles
            RDKit refuses it.
        NotFound
            It is not stored.
        """
        with self._context.session() as session:
            row = crud.get_molecule_by_smiles(session, smiles)
            if row is None:
                raise not_found(Molecule, smiles)
            return MoleculeResponse.model_validate(row)

    def update(self, id: int, **changes: Any) -> MoleculeResponse:  # noqa: A002
        """Change the name or metadata of a molecule.

        Parameters
        ----------
        id
            Its key.
        **changes
            ``name``, ``metadata``.

        Raises
        ------
        NotFound
            No such molecule, or it is not yours to change.
        InvalidInput
            Another column, or a value that it cannot hold.
        """
        record = as_record(MoleculeUpdate, changes)
        with self._context.session() as session:
            self._own_row(session, id)
            return MoleculeResponse.model_validate(crud.update_molecule(session, id, record))

    def bulk_load(
        self,
        source: Any,
        *,
        on_error: str = "collect",
        shared: bool = False,
        workers: Any = None,
        progress: bool | None = None,
    ) -> LoadReport:
        """Validate and store many molecules through COPY, in one transaction.

        Parameters
        ----------
        source
            DataFrame, Arrow table or reader, anything with an Arrow C stream, path of a Parquet or CSV file, or an
            iterator of batches, with columns ``smiles`` and, if you like, ``name``, ``formula``, ``metadata``.
        on_error
            ``"collect"`` loads the good rows, reports the rest and warns; ``"raise"`` loads nothing.
        shared
            Everybody shall read them (service login only).
        workers
            Processes for validation; None for as many as pay; a ``distributed.Client`` for its cluster's.
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
        """
        owner = self._context.owner(shared=shared)
        with self._context.connection() as connection:
            return bulk.load_molecules(
                connection, source, owner=owner, on_error=on_error, workers=workers, progress=progress
            )

    def unresolved(self) -> pd.DataFrame:
        """Molecules without a SMILES: metal complexes that came from geometries, rows of the old database module.

        Returns
        -------
        pandas.DataFrame
            As from ``query``; ``metadata`` says why there is no SMILES. :meth:`assign_smiles` settles one.
        """
        columns = ["id", "user_id", "name", "formula", "charge", "graph_hash", "metadata", "created_at"]
        return self.where(smiles=None).order_by("id").select(columns).df()

    def assign_smiles(
        self,
        id: int,  # noqa: A002
        smiles: str,
        *,
        merge: bool = False,
        check: bool = True,
    ) -> MoleculeResponse:
        """Give a molecule that has none its SMILES.

        Parameters
        ----------
        id
            Key of an unresolved molecule.
        smiles
            Of the same formula and charge, as far as these are known: of a molecule that the old database module
            stored under a text that is no SMILES the charge is not, and the formula only where it can be read.
        merge
            Where a molecule of that SMILES is stored: hand calculations and batch items over to it and delete this
            one. An item of a batch that has one for the other molecule too goes with it; the audit trail keeps it.
        check
            Compare formula and charge; False where the stored ones are wrong.

        Returns
        -------
        MoleculeResponse
            The molecule that has the SMILES now.

        Raises
        ------
        NotFound
            No such molecule, or it is not yours to change.
        InvalidSmiles
            RDKit refuses it.
        InvalidInput
            The molecule has a SMILES, or another formula or charge.
        DuplicateMolecule
            The SMILES is stored already and ``merge`` is False.
        """
        with self._context.session() as session:
            self._own_row(session, id)
            row = crud.assign_smiles(session, id, smiles, merge=merge, check=check)
            if row is None:
                raise not_found(Molecule, id)
            return MoleculeResponse.model_validate(row)

    def duplicates(self) -> pd.DataFrame:
        """Molecules that share an InChIKey though their canonical SMILES differ.

        Returns
        -------
        pandas.DataFrame
            As from ``query``, sorted by InChIKey.
        """
        repeated = (
            select(Molecule.inchikey)
            .where(Molecule.inchikey.is_not(None))
            .group_by(Molecule.inchikey)
            .having(func.count(Molecule.smiles.distinct()) > 1)
        )
        return self.where(Molecule.inchikey.in_(repeated)).order_by("inchikey", "id").df()
