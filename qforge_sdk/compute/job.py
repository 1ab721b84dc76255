"""What it takes to work on a batch: everything that a worker is told, on this machine or on another."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import URL

from qforge_sdk.compute.engine import Engine, Parameters
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.work import Work


@dataclass(frozen=True, slots=True)
class Job:
    """A batch, how to compute its items, and as whom to connect.

    Parameters
    ----------
    url
        Of the database; shows no password.
    scope
        As whom every worker acts.
    work
        The batch.
    engine
        What computes.
    parameters
        At which level of theory.
    seed, n_conformers
        Of the geometries.
    timeout
        Wall time of one item, s.
    max_retries
        How often an item is tried again after its worker died.
    lease_seconds
        How long a worker that is not heard of holds its items.
    reconnect_seconds
        How long a worker waits for a database that is gone.
    """

    url: URL
    scope: Scope
    work: Work
    engine: Engine
    parameters: Parameters
    seed: int
    n_conformers: int
    timeout: float | None
    max_retries: int
    lease_seconds: float
    reconnect_seconds: float
