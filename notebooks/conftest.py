"""Notebooks are tested without progress bars: whether one appears depends on the machine."""

import os
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Start kernels with the bars switched off; tests elsewhere see their own environment."""
    os.environ["TQDM_DISABLE"] = "1"
    try:
        return (yield)
    finally:
        del os.environ["TQDM_DISABLE"]
