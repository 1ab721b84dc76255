"""Create, read, update and delete: one function for each thing that a program does with a row.

The first argument is a Session, the last ``user_id``: the tenant whose rows are meant, by default whoever the
session is. A reader sees its own rows and the public ones; it changes only its own. What is absent is None. The
functions flush and leave the commit to the session's owner.
"""

from qforge_sdk.db.crud.atoms import create_atomic_properties, get_atomic_properties_for_calculation
from qforge_sdk.db.crud.batches import (
    create_batch_item,
    create_batch_job,
    get_batch_items,
    get_batch_job,
    list_batch_jobs,
    update_batch_item_status,
    update_batch_job_status,
)
from qforge_sdk.db.crud.calculations import (
    create_calculation,
    get_calculation,
    get_calculations_by_energy_range,
    get_calculations_by_gap_range,
    list_calculations,
)
from qforge_sdk.db.crud.events import get_event_logs, log_event
from qforge_sdk.db.crud.molecules import (
    assign_smiles,
    create_molecule,
    delete_molecule,
    get_molecule,
    get_molecule_by_smiles,
    list_molecules,
    update_molecule,
)
from qforge_sdk.db.crud.stats import get_database_stats

__all__ = [
    "assign_smiles",
    "create_atomic_properties",
    "create_batch_item",
    "create_batch_job",
    "create_calculation",
    "create_molecule",
    "delete_molecule",
    "get_atomic_properties_for_calculation",
    "get_batch_items",
    "get_batch_job",
    "get_calculation",
    "get_calculations_by_energy_range",
    "get_calculations_by_gap_range",
    "get_database_stats",
    "get_event_logs",
    "get_molecule",
    "get_molecule_by_smiles",
    "list_batch_jobs",
    "list_calculations",
    "list_molecules",
    "log_event",
    "update_batch_item_status",
    "update_batch_job_status",
    "update_molecule",
]
