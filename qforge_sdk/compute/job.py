"""What it takes to work on a batch: everything that a worker is told, on this machine or on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import URL

from qforge_sdk.compute.engine import Engine, Parameters
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.work import Work
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import did_you_mean

_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(kind) for name, kind in get_type_hints(Parameters).items()
}


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


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """Level of theory from what a batch keeps.

    Parameters
    ----------
    given
        JSON.

    Returns
    -------
    qforge_sdk.compute.Parameters
        Whether an engine has them is the engine's to say.

    Raises
    ------
    InvalidInput
        There is no such parameter, or a value is of another type; ``field`` names it.
    """
    return Parameters(**{name: _value(name, value) for name, value in given.items()})


def _value(name: str, value: Any) -> Any:
    if name not in _KINDS:
        raise InvalidInput(
            f"parameters: there is no {name!r}{did_you_mean(str(name), list(_KINDS))}", field=str(name), value=value
        )
    try:
        return _KINDS[name].validate_python(value, strict=True)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]["msg"]
        raise InvalidInput(f"parameters: {name} cannot be {value!r}: {problem}", field=name, value=value) from exc
