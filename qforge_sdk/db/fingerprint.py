"""Fingerprints between bytes and PostgreSQL's two forms of ``bit(2048)``; bit 0 is the highest bit of byte 0."""

from __future__ import annotations

import struct
from typing import Final

from qforge_sdk.db.models import FINGERPRINT_BITS
from qforge_sdk.errors import InvalidInput

FINGERPRINT_BYTES: Final = FINGERPRINT_BITS // 8
WIRE_BYTES: Final = 4 + FINGERPRINT_BYTES

# What bit_send writes before the bits: their number, a big-endian int32.
_WIRE_HEADER: Final = struct.pack(">i", FINGERPRINT_BITS)


def bit_text(fingerprint: bytes) -> str:
    """Text form, as the ORM's column takes it.

    Parameters
    ----------
    fingerprint
        256 bytes.

    Returns
    -------
    str
        2048 characters ``0`` and ``1``.

    Raises
    ------
    InvalidInput
        Another number of bytes.
    """
    _require_length(fingerprint, FINGERPRINT_BYTES)
    return f"{int.from_bytes(fingerprint):0{FINGERPRINT_BITS}b}"


def bytes_of_text(text: str) -> bytes:
    """Bytes of the text form.

    Parameters
    ----------
    text
        2048 characters ``0`` and ``1``.

    Returns
    -------
    bytes
        256 bytes.

    Raises
    ------
    InvalidInput
        Another length, or another character.
    """
    if len(text) != FINGERPRINT_BITS or not set(text) <= {"0", "1"}:
        raise InvalidInput(f"a fingerprint is {FINGERPRINT_BITS} characters 0 and 1", field="fingerprint")
    return int(text, 2).to_bytes(FINGERPRINT_BYTES)


def bit_wire(fingerprint: bytes) -> bytes:
    """Binary wire form, as binary COPY takes it.

    Parameters
    ----------
    fingerprint
        256 bytes.

    Returns
    -------
    bytes
        The number of bits as a big-endian int32, then the bits.

    Raises
    ------
    InvalidInput
        Another number of bytes.
    """
    _require_length(fingerprint, FINGERPRINT_BYTES)
    return _WIRE_HEADER + fingerprint


def bytes_of_wire(wire: bytes) -> bytes:
    """Bytes of the binary wire form.

    Parameters
    ----------
    wire
        What the server sends.

    Returns
    -------
    bytes
        256 bytes.

    Raises
    ------
    InvalidInput
        It is not the wire form of ``bit(2048)``.
    """
    _require_length(wire, WIRE_BYTES)
    if not wire.startswith(_WIRE_HEADER):
        raise InvalidInput(f"not the binary form of bit({FINGERPRINT_BITS})", field="fingerprint")
    return wire[4:]


def _require_length(data: bytes, length: int) -> None:
    if len(data) != length:
        raise InvalidInput(f"a fingerprint has {length} bytes here, not {len(data)}", field="fingerprint")
