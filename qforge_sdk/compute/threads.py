"""One thread for libraries that would take every core."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

# A symbol is looked up in a library and in those it depends on, whatever the OpenMP or BLAS in use is called.
_THREAD_COUNTS: Final = (
    ("omp_get_max_threads", "omp_set_num_threads"),
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)


@contextmanager
def one_thread(*libraries: str) -> Iterator[None]:
    """Let libraries of this process use one thread, and afterwards as many as before.

    OpenMP counts threads for each thread that calls it, so only the caller's work is held to one; OpenBLAS for the
    whole process.

    Parameters
    ----------
    *libraries
        Paths of loaded extension modules.

    Yields
    ------
    None
        One thread until the end of the block.
    """
    with ExitStack() as stack:
        for path in libraries:
            library = ctypes.CDLL(path)
            for getter, setter in _THREAD_COUNTS:
                if hasattr(library, getter) and hasattr(library, setter):
                    stack.callback(getattr(library, setter), getattr(library, getter)())
                    getattr(library, setter)(1)
        yield
