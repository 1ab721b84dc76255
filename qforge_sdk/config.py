"""Settings from the environment and ``.env``, and the database URLs made of them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Never
from urllib.parse import quote

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from qforge_sdk.errors import ConfigurationError

DRIVER: Final = "postgresql+psycopg2"
"""What every normalised URL begins with: SQLAlchemy 2.1 would take ``postgresql://`` for psycopg 3."""

_SCHEMES: Final = ("postgres", "postgresql", DRIVER)
_FORM: Final = "postgresql://user:password@host:5432/database"
_ESCAPE: Final = (
    "write each @ # / ? and % of a password percent-encoded (%40 %23 %2F %3F %25), "
    "or set DB_USER, DB_PASSWORD, DB_HOST and DB_NAME, where a password stands as it is"
)
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT: Final = re.compile(r":\d*$")

_HOST_VARIABLES: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE")

# SQLAlchemy hides the password of a URL and shows every argument.
_SECRET_ARGUMENTS: Final = frozenset({"oauth_client_secret", "scram_client_key", "scram_server_key", "sslpassword"})


class Settings(BaseSettings):
    """What the environment says; an empty variable counts as absent.

    Raises
    ------
    ConfigurationError
        A variable cannot be read; the message names it and shows no value.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = None
    db_user: str | None = None
    db_password: SecretStr | None = None
    db_host: str | None = None
    db_port: int | None = None
    db_name: str | None = None
    supabase_url: str | None = None
    supabase_key: SecretStr | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_file: Path | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8000
    xtb_path: Path | None = None
    qforge_data_dir: Path | None = None
    qforge_user_id: str | None = None

    def __init__(self, **values: Any) -> None:
        problem = None
        try:
            super().__init__(**values)
        except ValidationError as exc:
            problem = "; ".join(_complaint(error) for error in exc.errors(include_input=False))
        # A traceback shows the variables of its frames to whoever asks: no secret stays in one.
        values = {}
        if problem is not None:
            raise ConfigurationError(problem)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    def __reduce__(self) -> Never:
        raise TypeError("Settings do not pickle, they hold passwords; read them again in each process: Settings()")

    def url(self) -> URL | None:
        """Where the database is: ``DATABASE_URL``, else the ``DB_*`` variables; both go through `normalise_url`.

        Returns
        -------
        sqlalchemy.engine.URL or None
            None when neither is set, which means the embedded server.

        Raises
        ------
        ConfigurationError
            The URL cannot be used, or some ``DB_*`` variables are set and a needed one is not.
        """
        if self.database_url is not None:
            return normalise_url(self.database_url.get_secret_value())
        parts = (self.db_user, self.db_password, self.db_host, self.db_port, self.db_name)
        if all(part is None for part in parts):
            return None
        return self._url_of_parts()

    def _url_of_parts(self) -> URL:
        if self.db_user is None or self.db_host is None:
            missing = ", ".join(name for name in ("DB_USER", "DB_HOST") if getattr(self, name.lower()) is None)
            raise ConfigurationError(
                f"some DB_* variables are set, but missing: {missing}; set that too, "
                "or set DATABASE_URL, or unset them all to use the embedded server"
            )
        port = self.db_port or 5432
        # A path is the folder of a Unix socket, which a URL carries as an argument.
        socket = self.db_host.startswith("/")
        url = URL.create(
            DRIVER,
            username=self.db_user,
            password=self.db_password.get_secret_value() if self.db_password else None,
            host=None if socket else self.db_host,
            port=None if socket else port,
            database=self.db_name or "postgres",
            query={"host": self.db_host, "port": str(port)} if socket else {},
        )
        return normalise_url(url)


def normalise_url(text: str | URL) -> URL:
    """The URL of a PostgreSQL database, ready for SQLAlchemy.

    A host that is not this machine must speak TLS: without an ``sslmode`` of its own the URL gets
    ``sslmode=require``. That keeps the password and the rows from being read on the way; only
    ``sslmode=verify-full`` with ``sslrootcert`` also makes sure that the server is the right one.

    Parameters
    ----------
    text
        ``postgres://``, ``postgresql://`` or ``postgresql+psycopg2://``; its arguments (``sslmode``,
        ``host=/socket/folder``, ...) are kept.

    Returns
    -------
    sqlalchemy.engine.URL
        With driver name ``postgresql+psycopg2``; a password among the arguments has moved to where it is hidden.

    Raises
    ------
    ConfigurationError
        Another scheme, or text that cannot be split without guessing, such as a password with a bare ``@``.
        Nothing of the text is repeated except the scheme, neither in the message nor in a variable of a frame.
    """
    problem = None
    try:
        return _with_tls(_without_secret_arguments(_parsed(text)))
    except ConfigurationError as exc:
        problem = str(exc)
    # The frames that hold the text are gone with that error, this one forgets it.
    text = ""
    raise ConfigurationError(problem)


def libpq_url(url: URL) -> str:
    """The same database as a plain libpq URI, for ADBC and ``psql``.

    Parameters
    ----------
    url
        From :func:`normalise_url`; its password is in the result.

    Returns
    -------
    str
        ``postgresql://...``
    """
    arguments = {name: _joined(value) for name, value in url.query.items()}
    if isinstance(url.query.get("host"), tuple):
        arguments.update(_hosts_and_ports(url.query["host"]))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in arguments.items())
    return f"postgresql://{_userinfo(url)}{_address(url)}/{quote(url.database or '', safe='')}" + (
        f"?{query}" if query else ""
    )


def _parsed(text: str | URL) -> URL:
    if isinstance(text, URL):
        _check_scheme(text.drivername)
        return text.set(drivername=DRIVER)
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise ConfigurationError(f"this is not a database URL; write {_FORM}")
    _check_scheme(scheme)
    _check_unambiguous(rest)
    return _split(f"{DRIVER}://{rest}")


def _without_secret_arguments(url: URL) -> URL:
    shown = sorted(_SECRET_ARGUMENTS.intersection(url.query))
    if shown:
        raise ConfigurationError(
            f"the database URL would show its argument {shown[0]} wherever it is printed; write it into a "
            "pg_service.conf and name that entry in the URL: ?service=name"
        )
    user, password = (_last(url.query.get(name)) for name in ("user", "password"))
    if password is not None:
        url = url.set(username=user or url.username, password=password).difference_update_query(("user", "password"))
    # The drivers answer these with an error that shows the whole connection string.
    with contextlib.suppress(UnicodeEncodeError):
        if b"\0" not in str(url.password or "").encode():
            return url
    raise ConfigurationError("the password of the database holds a character that PostgreSQL cannot take")


def _with_tls(url: URL) -> URL:
    if "sslmode" in url.query or all(_is_local(host) for host in _hosts(url)):
        return url
    return url.update_query_dict({"sslmode": "require"})


def _hosts(url: URL) -> list[str]:
    """Names and addresses that a connection may go to; none for the Unix socket of this machine."""
    named = [url.host or "", *(_joined(url.query.get(argument, "")) for argument in ("host", "hostaddr"))]
    if not any(named):
        # libpq looks there next; where a service lies only its file knows.
        named = [_joined(url.query.get("service", "")), *(os.environ.get(name, "") for name in _HOST_VARIABLES)]
    return [host for entry in named for host in entry.split(",") if host]


def _is_local(host: str) -> bool:
    """Whether a connection to it stays on this machine: a socket folder, localhost or a loopback address."""
    if host.startswith(("/", "@")):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    name = _PORT.sub("", host)
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return f".{name}".lower().endswith(".localhost")


def _complaint(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    return f"{name}: {error['msg']}"


def _check_scheme(scheme: str) -> None:
    if scheme in _SCHEMES:
        return
    if scheme in ("http", "https"):
        raise ConfigurationError(f"this is the address of a web page, not of a database; write {_FORM}")
    named = f"{scheme}:// is not supported" if re.fullmatch(r"[a-z0-9+]{1,30}", scheme) else "unknown scheme"
    raise ConfigurationError(f"{named}; qforge needs PostgreSQL: write {_FORM}")


def _check_unambiguous(rest: str) -> None:
    userinfo, at, tail = rest.partition("@")
    torn = bool(at) and ("@" in tail or re.search(r"[/?#\s]", userinfo) is not None)
    if torn or "#" in rest or _BAD_PERCENT.search(rest):
        raise ConfigurationError(f"the database URL holds a character that ends a part of it too early; {_ESCAPE}")


def _split(text: str) -> URL:
    # The parser's error repeats the text, so ours is raised after that one is gone and carries no context.
    with contextlib.suppress(ArgumentError, ValueError):
        return make_url(text)
    raise ConfigurationError(f"the database URL cannot be read; write {_FORM} and {_ESCAPE}")


def _userinfo(url: URL) -> str:
    if url.username is None and url.password is None:
        return ""
    password = "" if url.password is None else f":{quote(str(url.password), safe='')}"
    return f"{quote(url.username or '', safe='')}{password}@"


def _address(url: URL) -> str:
    host = url.host or ""
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return shown if url.port is None else f"{shown}:{url.port}"


def _joined(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _last(value: str | tuple[str, ...] | None) -> str | None:
    return value[-1] if isinstance(value, tuple) else value


def _hosts_and_ports(hosts: tuple[str, ...] | str) -> dict[str, str]:
    pairs = [host.rpartition(":") if ":" in host else (host, "", "5432") for host in hosts]
    return {"host": ",".join(pair[0] for pair in pairs), "port": ",".join(pair[2] for pair in pairs)}
