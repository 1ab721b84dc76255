"""What users find where: folders, names that are kept, and ``__all__`` of every module."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import qforge_sdk

ROOT = Path(__file__).parents[2]
TOP_LEVEL = [
    "qforge_sdk",
    "notebooks",
    "tests",
    "docs",
    "benchmarks",
    "examples",
    "pyproject.toml",
    "environment.yml",
    ".env.example",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    ".ci/run",
]
KEPT_MODULES = [
    "qforge_sdk.config",
    "qforge_sdk.logger",
    "qforge_sdk.db.models",
    "qforge_sdk.db.database",
    "qforge_sdk.db.schemas",
    "qforge_sdk.db.crud",
]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(qforge_sdk.__path__, "qforge_sdk.")
    # Alembic runs the migrations in its own environment; a __main__ runs the program.
    if ".migrations." not in module.name and not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_repository_holds(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", KEPT_MODULES)
def test_users_of_the_old_module_find(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


@pytest.mark.parametrize("name", MODULES)
def test_all_that_a_module_exports_is_there(name: str) -> None:
    module = importlib.import_module(name)

    exported = getattr(module, "__all__", [])

    assert [word for word in exported if not hasattr(module, word)] == []
    assert len(set(exported)) == len(exported)


def test_the_package_is_typed() -> None:
    assert (Path(qforge_sdk.__file__).parent / "py.typed").exists()
