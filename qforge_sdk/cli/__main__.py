"""``python -m qforge_sdk.cli``."""

from qforge_sdk.cli import app

app()
