"""Fingerprints between bytes and PostgreSQL's forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qforge_sdk.db.fingerprint import bit_text, bit_wire, bytes_of_text, bytes_of_wire
from qforge_sdk.errors import InvalidInput

FINGERPRINTS = st.binary(min_size=256, max_size=256)


def test_bit_0_is_the_highest_bit_of_the_first_byte():
    assert bit_text(b"\x80" + bytes(255)) == "1" + "0" * 2047
    assert bit_text(bytes(255) + b"\x01") == "0" * 2047 + "1"


def test_the_wire_form_begins_with_the_number_of_bits():
    assert bit_wire(bytes(256)) == b"\x00\x00\x08\x00" + bytes(256)


@given(FINGERPRINTS)
def test_both_forms_come_back(fingerprint: bytes):
    assert bytes_of_text(bit_text(fingerprint)) == fingerprint
    assert bytes_of_wire(bit_wire(fingerprint)) == fingerprint


@pytest.mark.parametrize("wrong", [b"", bytes(255), bytes(257)])
def test_another_length_is_refused(wrong: bytes):
    for convert in (bit_text, bit_wire, bytes_of_wire):
        with pytest.raises(InvalidInput, match=f"not {len(wrong)}"):
            convert(wrong)


@pytest.mark.parametrize("wrong", ["", "0" * 2047, "2" * 2048, " " * 2048])
def test_text_that_is_no_bits_is_refused(wrong: str):
    with pytest.raises(InvalidInput, match="2048 characters"):
        bytes_of_text(wrong)


def test_another_number_of_bits_is_refused():
    with pytest.raises(InvalidInput, match=r"bit\(2048\)"):
        bytes_of_wire(b"\x00\x00\x04\x00" + bytes(256))
