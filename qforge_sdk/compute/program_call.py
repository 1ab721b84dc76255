"""What a command line of xtb asked for, from the one that a finished run printed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Final

from qforge_sdk.compute.xtb import LEVELS
from qforge_sdk.errors import InvalidInput

# Options that say what the row's own columns say, or change no number.
_SILENT: Final = frozenset({
    "--gfn0", "--gfn1", "--gfn2", "--gfnff", "--gff", "--sp", "--scc", "--grad", "--json", "--pop", "--wbo",
    "--dipole", "--molden", "--lmo", "--verbose", "-v", "--silent", "-s", "--strict", "--norestart", "--copy",
})  # fmt: skip
_SILENT_WITH_VALUE: Final = frozenset({
    "--chrg", "--charge", "-c", "--uhf", "-u", "--gfn", "--parallel", "-P", "--namespace",
})  # fmt: skip
_SOLVENTS: Final = frozenset({"--alpb", "--gbsa", "-g", "--cosmo"})
_REFERENCE_STATES: Final = frozenset({"bar1m", "reference", "gsolv"})
_NUMBERS: Final[dict[str, tuple[str, type]]] = {
    "--acc": ("accuracy", float),
    "-a": ("accuracy", float),
    "--etemp": ("electronic_temperature", float),
    "--iterations": ("max_iterations", int),
    "--maxiterations": ("max_iterations", int),
    "--cycles": ("max_steps", int),
}
_TASKS: Final = {
    "--opt": {"optimize": True},
    "-o": {"optimize": True},
    "--ohess": {"optimize": True, "hessian": True},
    "--hess": {"hessian": True},
}


@dataclass(frozen=True, slots=True)
class ProgramCall:
    """Settings of a command line; what it did not name is as xtb has it.

    Parameters
    ----------
    optimize, hessian
        What was done.
    accuracy, electronic_temperature, max_iterations
        Of the SCF.
    level, max_steps
        Of an optimisation.
    """

    optimize: bool = False
    hessian: bool = False
    accuracy: float = 1.0
    electronic_temperature: float = 300.0
    max_iterations: int = 250
    level: str = "normal"
    max_steps: int | None = None


def read_program_call(call: str) -> ProgramCall:
    """Settings of a command line.

    Parameters
    ----------
    call
        As xtb prints it, the program first.

    Returns
    -------
    ProgramCall
        Molecule, method and solvent are not among them: the row's columns have those.

    Raises
    ------
    InvalidInput
        It has an option that needs another file or that is not known here; the message names it.
    """
    words = _split(call)[1:]
    settings: dict[str, Any] = {}
    has_input = False
    while words:
        if words[0].startswith("-"):
            _take(words, settings, call)
            continue
        if has_input:
            raise _unknown(f"the word {words[0]}", call)
        has_input = True
        # xtb prints a path with blanks as several words.
        while words and not words[0].startswith("-"):
            words.pop(0)
    return ProgramCall(**settings)


def _split(call: str) -> list[str]:
    try:
        return shlex.split(call)
    except ValueError:  # a quote that xtb printed without its partner
        return call.split()


def _take(words: list[str], settings: dict[str, Any], call: str) -> None:
    """Read one option with what belongs to it."""
    word = words.pop(0)
    if word in _NUMBERS:
        name, kind = _NUMBERS[word]
        settings[name] = _number(words, kind, word, call)
    elif word in _TASKS:
        settings |= _TASKS[word]
        if words and words[0] in LEVELS:
            settings["level"] = words.pop(0)
    elif word in _SOLVENTS:
        _drop(words)
        if words and words[0].lower() in _REFERENCE_STATES:
            raise _unknown(f"{word} with the reference state {words[0]}", call)
    elif word in _SILENT_WITH_VALUE:
        _drop(words)
    elif word not in _SILENT:
        raise _unknown(word, call)


def _drop(words: list[str]) -> None:
    if words:
        words.pop(0)


def _number(words: list[str], kind: type, word: str, call: str) -> Any:
    try:
        return kind(words.pop(0))
    except (IndexError, ValueError):
        raise _unknown(f"{word} without a number", call) from None


def _unknown(what: str, call: str) -> InvalidInput:
    return InvalidInput(
        f"the run was made with {what}, which cannot be repeated from what is stored: {call}",
        field="program_call",
        value=call,
        code="not_reproducible",
    )
