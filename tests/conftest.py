"""Options, header, and the fixtures, which live in ``fixtures/`` by topic."""

import random

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.fixtures.canary",
    "tests.fixtures.servers",
    "tests.fixtures.databases",
    "tests.fixtures.tenants",
    "tests.fixtures.attacks",
    "tests.fixtures.clients",
    "tests.fixtures.pooler",
    "tests.fixtures.bulk",
    "tests.fixtures.xtb_runs",
    "tests.fixtures.lab",
]

# Machines are shared and slow at times: a time limit would find nothing but that.
settings.register_profile("qforge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qforge")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="multiply the random and the large tests")
    parser.addoption(
        "--seed",
        type=int,
        default=random.randrange(10**6),
        help="of tests that choose at random; the header names it",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')}"


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether ``--long`` was given."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of this run's random choices."""
    number = int(request.config.getoption("--seed"))
    print(f"--seed {number}")
    return number
