"""Parameters of a batch: from JSON, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from qforge_sdk.compute.engine import Parameters
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import did_you_mean

_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(kind) for name, kind in get_type_hints(Parameters).items()
}


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
    if not isinstance(given, Mapping):
        raise InvalidInput(f"parameters is a dict, not {given!r}", field="parameters", value=given)
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
