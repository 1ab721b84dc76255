"""A run on disk, and what was read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge_sdk.chem.result import XtbResult


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk.

    Parameters
    ----------
    folder
        Where it is.
    log
        Name of its log in the folder, None where there is none.
    alone
        Whether the folder holds this run only, so that every file in it is the run's.
    """

    folder: Path
    log: str | None = None
    alone: bool = True


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What was read of one run.

    Parameters
    ----------
    run
        Where.
    result
        Numbers, status and doubts.
    name
        Of the molecule, where the job's metadata names it.
    smiles
        As metadata gives it, not validated.
    job
        The job's metadata.
    input_hash
        sha256 of the input's bytes.
    content_hash
        sha256 over the files that were read: the same run gives the same hash wherever it lies.
    output_json
        Path of xtbout.json, where there is one.
    sources
        Which source each number came from. A charge or a number of unpaired electrons without one is the program's
        own default, zero.
    """

    run: Run
    result: XtbResult
    name: str | None = None
    smiles: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    input_hash: str | None = None
    content_hash: str = ""
    output_json: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
