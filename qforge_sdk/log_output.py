"""Where this package's log messages go."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

from qforge_sdk.config import Settings
from qforge_sdk.errors import ConfigurationError

PACKAGE: Final = "qforge_sdk"

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_HANDLER_NAME: Final = "qforge_sdk"


def setup_logging(settings: Settings | None = None) -> logging.Logger:
    """Send this package's log messages to ``LOG_FILE`` or the standard error stream, from ``LOG_LEVEL`` on.

    Parameters
    ----------
    settings
        By default from the environment. A second call replaces what the first one set up.

    Returns
    -------
    logging.Logger
        The logger ``qforge_sdk``.

    Raises
    ------
    ConfigurationError
        A setting cannot be used, or the file cannot be written.
    """
    settings = settings or Settings()
    package_logger = logging.getLogger(PACKAGE)
    handler = _handler(settings.log_file)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(logging.Formatter(_FORMAT))
    for old in [handled for handled in package_logger.handlers if handled.get_name() == _HANDLER_NAME]:
        package_logger.removeHandler(old)
        old.close()
    package_logger.addHandler(handler)
    package_logger.setLevel(settings.log_level)
    return package_logger


def _handler(file: Path | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(file, encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"LOG_FILE: {exc}") from exc
