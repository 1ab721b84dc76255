"""Where widgets read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qforge_sdk.accessors import Atoms, Batches, Calculations, Events, Molecules
from qforge_sdk.schemas import DatabaseStatsResponse


@dataclass(frozen=True, slots=True)
class Sources:
    """What a client reads with, as its tenant.

    Parameters
    ----------
    molecules, calculations, atoms, batches, events
        The client's.
    stats
        Its totals.
    """

    molecules: Molecules
    calculations: Calculations
    atoms: Atoms
    batches: Batches
    events: Events
    stats: Callable[[], DatabaseStatsResponse]
