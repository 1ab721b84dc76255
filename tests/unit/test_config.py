"""Settings, database URLs, and the files that repeat them."""

from __future__ import annotations

import copy
import pickle
import re
import tomllib
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL

from qforge_sdk.config import DRIVER, Settings, libpq_url, normalise_url
from qforge_sdk.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
TLS = {"sslmode": "require"}
VARIABLES = [name.upper() for name in Settings.model_fields]


def with_variables(error: BaseException) -> str:
    """The traceback with the variables of its frames, but for the test's own frame."""
    assert error.__traceback__ is not None
    inner = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, inner, capture_locals=True).format())


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_example_file_and_the_settings_name_the_same_variables():
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) == sorted(VARIABLES)


def test_each_variable_of_the_example_file_has_a_comment():
    blocks = (ROOT / ".env.example").read_text(encoding="utf-8").strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("#")] == []


def test_the_conda_environment_is_the_core_with_the_notebook_and_xtb_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    extras = project["optional-dependencies"]

    *conda, pip = environment["dependencies"]

    assert environment["channels"] == ["conda-forge"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    assert pip["pip"] == [*project["dependencies"], *extras["notebook"], *extras["xtb"]]


def test_nothing_set_means_the_embedded_server():
    assert Settings().url() is None


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("DB_PORT", "")
    assert Settings().url() is None


def test_the_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch):
    Path(".env").write_text("DATABASE_URL=postgres://me@filed/db\nLOG_LEVEL=debug\nUNRELATED=1\n")
    monkeypatch.setenv("DATABASE_URL", "postgres://me@exported/db")

    settings = Settings()

    assert str(settings.url()) == f"{DRIVER}://me@exported/db?sslmode=require"
    assert settings.log_level == "DEBUG"


def test_the_parts_make_a_url_with_the_password_as_it_stands(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"DB_USER": "me", "DB_HOST": "h", "DB_PASSWORD": "p@ss#/?%", "DB_NAME": "lab"}.items():
        monkeypatch.setenv(name, value)
    assert Settings().url() == URL.create(DRIVER, "me", "p@ss#/?%", "h", 5432, "lab", TLS)


def test_the_database_is_called_postgres_unless_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DB_USER", "me")
    monkeypatch.setenv("DB_HOST", "h")
    assert str(Settings().url()) == f"{DRIVER}://me@h:5432/postgres?sslmode=require"


def test_a_folder_as_host_is_a_unix_socket(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"DB_USER": "me", "DB_HOST": "/run/pg", "DB_PORT": "5433"}.items():
        monkeypatch.setenv(name, value)
    url = Settings().url()
    assert url is not None
    assert parse_dsn(libpq_url(url)) == {"user": "me", "host": "/run/pg", "port": "5433", "dbname": "postgres"}


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"DB_HOST": "h"}, "DB_USER"), ({"DB_USER": "u"}, "DB_HOST"), ({"DB_PORT": "1"}, "DB_USER, DB_HOST")],
)
def test_half_of_the_parts_name_the_missing_ones(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: str
):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"missing: {missing};"):
        Settings().url()


def test_a_variable_that_cannot_be_read_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DB_PORT", "hunter2")
    with pytest.raises(ConfigurationError, match="DB_PORT: ") as caught:
        Settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_url_that_cannot_be_used_stays_out_of_the_variables_of_a_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hun@ter2@h/db")
    with pytest.raises(ConfigurationError) as caught:
        Settings().url()
    assert "url = " not in with_variables(caught.value)
    assert "ter2" not in with_variables(caught.value)


def test_a_value_given_by_name_stays_out_of_the_variables_of_a_traceback():
    with pytest.raises(ConfigurationError) as caught:
        Settings(database_url="hunter2", db_port="hunter2")
    assert "hunter2" not in with_variables(caught.value)


def test_a_password_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"DB_USER": "me", "DB_HOST": "h", "DB_PASSWORD": "hunter2\udcff"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="cannot take") as caught:
        Settings().url()
    assert "hunter2" not in with_variables(caught.value)


def test_settings_do_not_pickle_and_say_what_to_do():
    with pytest.raises(TypeError, match="read them again in each process"):
        pickle.dumps(Settings())


def test_settings_can_be_copied_within_the_process():
    settings = Settings(database_url="postgresql://u:hunter2@h/d")
    assert copy.deepcopy(settings) == copy.copy(settings) == settings.model_copy() == settings


def test_no_secret_is_in_the_repr(monkeypatch: pytest.MonkeyPatch):
    for name in ("DATABASE_URL", "DB_PASSWORD", "SUPABASE_KEY"):
        monkeypatch.setenv(name, "postgresql://u:hunter2@h/d")
    settings = Settings()
    assert "hunter2" not in f"{settings!r}{settings}{settings.model_dump()}"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_postgresql_url_gets_our_driver(scheme: str):
    url = normalise_url(f" {scheme}://me:p%40ss@h:1234/db?sslmode=require&application_name=x\n")
    assert url == URL.create(DRIVER, "me", "p@ss", "h", 1234, "db", {"sslmode": "require", "application_name": "x"})


def test_a_url_object_is_taken_as_it_is():
    url = URL.create("postgresql", "me", "p@ss#", "localhost")
    assert normalise_url(url) == url.set(drivername=DRIVER)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hun@ter2@h/db",
        "postgresql://me:hun#ter2@h/db",
        "postgresql://me:hun/ter2@h/db",
        "postgresql://me:hun?ter2@h/db",
        "postgresql://me:hun ter2@h/db",
        "postgresql://me:hun%ter2@h/db",
        "postgresql://me:hunter2@h:hunter2/db",
        "postgresql://me:hunter2#",
        "mysql://me:hunter2@h/db",
        "postgresql+asyncpg://me:hunter2@h/db",
        "https://me:hunter2@h",
        "host=h password=hunter2",
        "hunter2",
        "hunter2://",
        "postgresql://me:hunter2%00@h/db",
        "postgresql://me:hunter1@h/db?sslpassword=hunter2",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(text: str):
    with pytest.raises(ConfigurationError) as caught:
        normalise_url(text)
    told = with_variables(caught.value).replace("hunter2:// is", "")
    assert caught.value.__context__ is None
    assert not re.search("hun.?ter2|//me", told)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql:///db",
        "postgresql:///db?host=/run/pg",
        "postgresql:///db?host=%40abstract",
        "postgresql://localhost/db",
        "postgresql://LocalHost:5433/db",
        "postgresql://pg.localhost/db",
        "postgresql://127.0.0.1/db",
        "postgresql://127.8.9.10:5433/db",
        "postgresql://[::1]:5433/db",
        "postgresql:///db?hostaddr=127.0.0.1",
        "postgresql:///db?host=localhost:1&host=127.0.0.1:2",
        "postgresql:///db?host=localhost,/run/pg",
    ],
)
def test_a_connection_within_the_machine_needs_no_tls(text: str):
    assert "sslmode" not in normalise_url(text).query


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://db.example.org/db",
        "postgresql://10.0.0.1/db",
        "postgresql://128.0.0.1/db",
        "postgresql://[2001:db8::1]:5433/db",
        "postgresql://localhost.example.org/db",
        "postgresql://notlocalhost/db",
        "postgresql:///db?host=db.example.org",
        "postgresql:///db?hostaddr=10.0.0.1",
        "postgresql://localhost/db?hostaddr=10.0.0.1",
        "postgresql://db.example.org/db?hostaddr=127.0.0.1",
        "postgresql:///db?host=localhost:1&host=db.example.org:2",
        "postgresql:///db?host=localhost,db.example.org",
        "postgresql://localhost/db?host=db.example.org",
    ],
)
def test_a_connection_that_leaves_the_machine_needs_tls(text: str):
    url = normalise_url(text)
    assert url.query["sslmode"] == "require"
    assert parse_dsn(libpq_url(url))["sslmode"] == "require"


@pytest.mark.parametrize("mode", ["disable", "prefer", "verify-full"])
def test_a_url_that_says_its_own_tls_is_left_at_that(mode: str):
    assert normalise_url(f"postgresql://u@db.example.org/d?sslmode={mode}").query == {"sslmode": mode}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me@localhost/d?password=hunter2", {"user": "me", "host": "localhost"}),
        ("postgresql://localhost/d?user=me&password=hunter2", {"user": "me", "host": "localhost"}),
        ("postgresql://me:hunter1@localhost/d?password=hunter2", {"user": "me", "host": "localhost"}),
        ("postgresql://localhost/d?password=hunter2", {"host": "localhost"}),
    ],
)
def test_a_password_among_the_arguments_is_hidden_and_used(text: str, expected: dict[str, str]):
    url = normalise_url(text)
    assert "hunter" not in f"{url!r}{url}"
    assert parse_dsn(libpq_url(url)) == expected | {"password": "hunter2", "dbname": "d"}


def test_a_bare_at_sign_is_answered_with_the_cure():
    with pytest.raises(ConfigurationError, match=r"percent-encoded \(%40.*DB_PASSWORD"):
        normalise_url("postgresql://me:p@ss@h/db")


def test_another_driver_is_answered_with_what_to_write():
    with pytest.raises(ConfigurationError, match=r"sqlite:// is not supported.*postgresql://user:password@host"):
        normalise_url("sqlite:///file.db")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@h:5433/d?sslmode=require",
        "postgresql://u@[::1]:5433/d",
        "postgresql:///d?host=/run/pg&port=5433&user=u",
        "postgresql://u:p@/d?host=a:1&host=b:2",
        "postgresql://",
    ],
)
def test_libpq_and_sqlalchemy_read_the_same(text: str):
    url = normalise_url(text)
    _, arguments = PGDialect_psycopg2().create_connect_args(url)
    assert parse_dsn(libpq_url(url)) == {name: str(value) for name, value in arguments.items()}


@given(
    user=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    database=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_any_password_survives_the_way_to_libpq(user: str, password: str, database: str):
    url = URL.create(DRIVER, user, password, "h", 1, database)
    expected = {"user": user, "password": password, "host": "h", "port": "1", "dbname": database}
    assert parse_dsn(libpq_url(url)) == expected
    assert parse_dsn(libpq_url(normalise_url(libpq_url(url)))) == expected | TLS


@pytest.mark.parametrize(
    ("query", "variables", "sslmode"),
    [
        ("", {}, None),
        ("", {"PGHOST": "db.example.org"}, "require"),
        ("", {"PGHOSTADDR": "192.0.2.1"}, "require"),
        ("", {"PGHOST": "/run/postgresql"}, None),
        ("?host=/tmp", {"PGHOST": "db.example.org"}, None),
        ("?service=lab", {}, "require"),
        ("", {"PGSERVICE": "lab"}, "require"),
        ("?service=lab&sslmode=disable", {}, "disable"),
    ],
)
def test_a_host_that_libpq_finds_by_itself_counts_too(
    monkeypatch: pytest.MonkeyPatch, query: str, variables: dict[str, str], sslmode: str | None
):
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert normalise_url(f"postgresql:///db{query}").query.get("sslmode") == sslmode
