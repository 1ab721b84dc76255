"""Version and requirements of the package, as installed."""

from importlib.metadata import requires, version
from typing import Final

_DISTRIBUTION: Final = "qforge-sdk"

__version__ = version(_DISTRIBUTION)


def requirements(extra: str) -> list[str]:
    """What an extra brings.

    Parameters
    ----------
    extra
        Its name.

    Returns
    -------
    list of str
        As pip takes them, such as ``tblite>=0.8``.
    """
    lines = (line.partition(";") for line in requires(_DISTRIBUTION) or ())
    return [name.strip() for name, _, condition in lines if f'extra == "{extra}"' in condition]
