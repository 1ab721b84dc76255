"""``client.atoms``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qforge_sdk.accessors.base import Accessor, not_found
from qforge_sdk.chem.geometry import atomic_number, element_symbol
from qforge_sdk.db import bulk, crud
from qforge_sdk.db.models import AtomicProperty, Calculation
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import ATOMS
from qforge_sdk.schemas import AtomicPropertyResponse, LoadReport


class Atoms(Accessor):
    """Per-atom results, keyed by calculation and 0-based atom index."""

    _table = ATOMS
    _record = AtomicPropertyResponse

    def create(self, calculation_id: int, atoms: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Store the atoms of one calculation.

        Parameters
        ----------
        calculation_id
            A calculation of yours.
        atoms
            One dict an atom: ``element`` or ``atomic_number``, ``position_x/y/z`` (angstrom), and where known
            ``partial_charge`` (e), ``force_x/y/z`` (hartree/bohr), ``atom_index`` (else the place in the list).

        Returns
        -------
        pandas.DataFrame
            The stored atoms, as from ``for_calculation``.

        Raises
        ------
        NotFound
            No such calculation, or it is another tenant's.
        Conflict
            An atom of that index is stored already.
        InvalidInput
            A value that the column cannot hold.
        """
        completed = [_completed(index, atom) for index, atom in enumerate(atoms)]
        with self._context.session() as session:
            crud.create_atomic_properties(session, calculation_id, completed, user_id=self._context.tenant)
        return self.for_calculation(calculation_id)

    def for_calculation(self, calculation_id: int, **options: Any) -> pd.DataFrame:
        """Atoms of one calculation in their order.

        Parameters
        ----------
        calculation_id
            Key of the calculation.
        **options
            Further filters and options of ``query``.

        Returns
        -------
        pandas.DataFrame
            As from ``query``; empty when nothing was stored.
        """
        defaults: dict[str, Any] = {"calculation_id": calculation_id, "order_by": "atom_index"}
        return self.query(**defaults | options)

    def bulk_load(
        self, source: Any, *, on_error: str = "collect", shared: bool = False, progress: bool | None = None
    ) -> LoadReport:
        """Store the atoms of many calculations through COPY, in one transaction.

        Parameters
        ----------
        source
            As for ``calculations.bulk_load``; calculations by ``calculation_id`` or by ``source_id``.
        on_error
            ``"collect"`` loads the good rows, reports the rest and warns; ``"raise"`` loads nothing.
        shared
            They belong to shared calculations (service login only).
        progress
            Show a bar; None shows one after 2 s where somebody looks.

        Returns
        -------
        LoadReport
            Accounts for every row.

        Raises
        ------
        RowsRejected
            ``on_error="raise"`` and a row was refused.
        InvalidInput
            The source cannot be read or lacks a column.
        """
        owner = self._context.owner(shared=shared)
        with self._context.connection() as connection:
            return bulk.load_atoms(connection, source, owner=owner, on_error=on_error, progress=progress)

    def _row(self, session: Any, key: object) -> Any:
        if not isinstance(key, tuple) or len(key) != 2:
            raise InvalidInput(f"an atom's key is (calculation_id, atom_index), not {key!r}", field="id", value=key)
        row = session.get(AtomicProperty, key)
        if row is None:
            raise not_found(AtomicProperty, key)
        return row

    def delete_for_calculation(self, calculation_id: int) -> int:
        """Delete all atoms of one calculation.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        NotFound
            No such calculation, or it is not yours to change.
        """
        with self._context.session() as session:
            calculation = session.get(Calculation, calculation_id)
            if calculation is None or calculation.user_id != (self._context.tenant or calculation.user_id):
                raise not_found(Calculation, calculation_id)
            removed = len(calculation.atomic_properties)
            calculation.atomic_properties.clear()
            return removed


def _completed(index: int, atom: Mapping[str, Any]) -> dict[str, Any]:
    """An atom with its index, element and atomic number, as far as one says the other."""
    values = {"atom_index": index} | dict(atom)
    if "atomic_number" not in values and isinstance(values.get("element"), str):
        values["atomic_number"] = atomic_number(values["element"])
    elif "element" not in values and isinstance(values.get("atomic_number"), int):
        values["element"] = element_symbol(values["atomic_number"])
    return values
