"""What hangs on the client: one class for each kind of row."""

from qforge_sdk.accessors.admin import Admin
from qforge_sdk.accessors.atoms import Atoms
from qforge_sdk.accessors.base import Accessor, Context
from qforge_sdk.accessors.batches import Batches
from qforge_sdk.accessors.calculations import Calculations
from qforge_sdk.accessors.events import Events
from qforge_sdk.accessors.molecules import Molecules

__all__ = ["Accessor", "Admin", "Atoms", "Batches", "Calculations", "Context", "Events", "Molecules"]
