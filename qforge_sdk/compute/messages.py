"""What a worker process tells whoever watches it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from qforge_sdk.db.work import Item
from qforge_sdk.errors import QForgeError


@dataclass(frozen=True, slots=True)
class Claiming:
    """It is about to claim items under this token."""

    token: uuid.UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """It holds these items."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """It computes this item from now on."""

    item_id: int


@dataclass(frozen=True, slots=True)
class Storing:
    """It computes nothing: it writes what it has."""


@dataclass(frozen=True, slots=True)
class Stored:
    """It is done with these: how many of them ended, by code, those without a fault under None."""

    item_ids: frozenset[int]
    ended: Mapping[str | None, int]


@dataclass(frozen=True, slots=True)
class Idle:
    """There was nothing to claim; it ends."""


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot go on, and no other could: the engine is not installed, the database did not come back."""

    cause: QForgeError


Message = Claiming | Claimed | Begun | Storing | Stored | Idle | Broken
