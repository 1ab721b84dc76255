"""``connect()`` and the Client: what concerns the connection; the accessors do the rest."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from qforge_sdk import display, parquet
from qforge_sdk.accessors import Admin, Atoms, Batches, Calculations, Context, Events, Molecules
from qforge_sdk.config import Settings, normalise_url
from qforge_sdk.db import crud, embedded, schema
from qforge_sdk.db.access import inspect_access, require_held
from qforge_sdk.db.database import check_db_health
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope, parse_user_id
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import ConfigurationError, InvalidInput
from qforge_sdk.frames import sql_frame
from qforge_sdk.schemas import DatabaseStatsResponse, HealthCheckResponse

if TYPE_CHECKING:
    from qforge_sdk.migrate import MigrationReport
    from qforge_sdk.widgets import Widgets


def connect(
    url: str | URL | None = None,
    *,
    user_id: str | uuid.UUID | None = None,
    data_dir: str | Path | None = None,
) -> Client:
    """Open a client.

    Without a URL, DATABASE_URL or DB_* of the environment or of ``.env`` name the database; without those, an
    embedded PostgreSQL is started (and created on first use) and its schema kept up to date.

    Parameters
    ----------
    url
        ``postgresql://login:password@host:port/database``.
    user_id
        Act as this tenant in everything; QFORGE_USER_ID is the default.
    data_dir
        Folder of an embedded server, instead of a URL.

    Returns
    -------
    Client
        Close it, or use it in a ``with`` block.

    Raises
    ------
    ConfigurationError
        The URL or the environment cannot be used, or both ``url`` and ``data_dir`` were given.
    InvalidInput
        ``user_id`` is no uuid.
    ConnectionFailed
        The server cannot be reached, or the embedded one does not start.
    SchemaMissing, SchemaOutdated
        The database needs ``qforge db upgrade``, or ``qforge db adopt`` where the old module's tables are.
    ScopeNotHeld
        This login cannot act as the tenant asked for.
    """
    try:
        if url is not None and data_dir is not None:
            raise ConfigurationError("give either url or data_dir, not both")
        settings = Settings()
        scope = Scope(parse_user_id(user_id or settings.qforge_user_id))
        target = normalise_url(url) if url is not None else None if data_dir is not None else settings.url()
    finally:
        # A traceback shows the variables of its frames to whoever asks; a URL object hides its password there.
        url = None
    if target is not None:
        return Client(target, scope=scope)
    return _embedded_client(embedded.start(data_dir or settings.qforge_data_dir), scope)


class Client:
    """One database, as one tenant or as the login itself. Made by :func:`connect`.

    Parameters
    ----------
    url
        Where and as which login.
    scope
        As whom to act.
    server
        The embedded server, where it is one; the client then creates and upgrades the schema.
    """

    def __init__(self, url: URL, *, scope: Scope, server: embedded.EmbeddedServer | None = None) -> None:
        self._server = server
        self._scope = scope
        #: The SQLAlchemy engine; every transaction on it begins in the client's scope.
        self.engine: Engine = make_engine(url, scope=scope)
        self._closed = False
        try:
            if server is not None:
                self._upgrade_embedded(url)
            with translated(), self.engine.connect() as connection:
                schema.require_current(connection)
                self._access = inspect_access(connection)
                require_held(self._access)
        except BaseException:
            self.close()
            raise
        self._reader = ArrowReader(self.engine, scope)
        tenant = uuid.UUID(self._access.user_id) if self._access.user_id else None
        self._context = Context(self.engine, self._reader, scope, tenant)

    @cached_property
    def molecules(self) -> Molecules:
        """Structures: create, find, load."""
        return Molecules(self._context)

    @cached_property
    def calculations(self) -> Calculations:
        """XTB results: create, query, load, hand to other programs."""
        return Calculations(self._context)

    @cached_property
    def atoms(self) -> Atoms:
        """Positions, charges and forces of atoms."""
        return Atoms(self._context)

    @cached_property
    def batches(self) -> Batches:
        """Sets of molecules to be computed."""
        return Batches(self._context)

    @cached_property
    def events(self) -> Events:
        """The audit trail."""
        return Events(self._context)

    @property
    def admin(self) -> Admin:
        """Tenants, logins and rows that change their owner: the service's only.

        Raises
        ------
        AccessDenied
            This client acts as a tenant.
        """
        return Admin(self._context)

    @cached_property
    def widgets(self) -> Widgets:
        """Views for a notebook: molecules, calculations, batches, statistics.

        Raises
        ------
        MissingExtra
            ipywidgets, anywidget or plotly is not installed.
        """
        from qforge_sdk.widgets import Sources, Widgets

        return Widgets(Sources(self.molecules, self.calculations, self.atoms, self.batches, self.events, self.stats))

    @property
    def user_id(self) -> uuid.UUID | None:
        """The tenant that this client acts as, None for a service login itself."""
        return self._context.tenant

    def session(self) -> AbstractContextManager[Session]:
        """A SQLAlchemy session in one transaction of the client's scope, committed at the end of the block.

        Raises
        ------
        QForgeError
            What the server reported; everything is rolled back then.
        """
        return self._context.session()

    def sql(self, query: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Run one SELECT in a read-only transaction.

        Parameters
        ----------
        query
            SQL. With ``params``, ``%(name)s`` stands for a parameter and ``%%`` for a percent sign; without, the
            text goes as it is.
        params
            Values by name.

        Returns
        -------
        pandas.DataFrame
            Integers Int64, numeric float64, uuid str, jsonb as Python objects.

        Raises
        ------
        AccessDenied
            The statement would write.
        InvalidInput
            Placeholders and parameters do not fit, or a value is out of range.
        DatabaseError
            The server found a mistake in the SQL.
        """
        return sql_frame(self._reader.read(query, params))

    def stats(self) -> DatabaseStatsResponse:
        """Totals, average energy (hartree), exact median gap (eV), success rate (percent), all computed in SQL.

        Raises
        ------
        QForgeError
            What the server reported.
        """
        with self.session() as session:
            return crud.get_database_stats(session)

    def health(self) -> HealthCheckResponse:
        """Whether the server answers, the schema is current and the tenant holds; nothing is raised.

        Returns
        -------
        HealthCheckResponse
            Its ``access`` tells boundary from scope, and lists the login's attributes, every table's policies by
            verb, owner and search path of the helper functions, and problems with their cures.
        """
        return check_db_health(self.engine)

    def export(
        self,
        folder: str | Path,
        *,
        tables: Sequence[str] | None = None,
        since: Any = None,
        partitions: int = 1,
        progress: bool | None = None,
    ) -> parquet.ExportReport:
        """Write tables to Parquet files, one consistent snapshot with a manifest.

        Parameters
        ----------
        folder
            New or empty folder.
        tables
            Table names; None for all that hold data of yours.
        since
            Only rows changed at or after this time, with the rows they refer to.
        partitions
            Files a table, written in parallel.
        progress
            Show a bar; None shows one after 2 s where somebody looks.

        Returns
        -------
        ExportReport
            Rows, files and bytes.

        Raises
        ------
        InvalidInput
            The folder is not empty, or no such table.
        QForgeError
            What the server reported; nothing that looks complete is left.
        """
        return parquet.export_tables(
            self._reader, folder, tables=tables, since=since, partitions=partitions, progress=progress
        )

    def restore(self, folder: str | Path, *, progress: bool | None = None) -> parquet.RestoreReport:
        """Load an export back, verified against its manifest, in one transaction.

        Parameters
        ----------
        folder
            Made by :meth:`export`.
        progress
            Show a bar; None shows one after 2 s where somebody looks.

        Returns
        -------
        RestoreReport
            Accounts for every row.

        Raises
        ------
        ExportMismatch
            A file is missing or differs from the manifest; nothing is loaded.
        Conflict
            A stored row differs from the exported one; nothing is loaded.
        """
        return parquet.restore_tables(self.engine, self._scope, folder, progress=progress)

    def migrate(
        self,
        root: str | Path,
        *,
        dry_run: bool = True,
        limit: int | None = None,
        jobs: int | None = None,
        progress: bool | None = None,
        method: str | None = None,
        smiles: str | None = None,
        shared: bool = False,
    ) -> MigrationReport:
        """Bring finished computations into the database: the xTB runs below a folder, or the results in one file.

        A folder is searched for job folders and plain xtb directories. A file is what ``xtb --json`` writes or a
        QCSchema result (.json), an ASE database (.db) or extended XYZ (.xyz, .extxyz). Runs are known by their
        content: what is there already is left alone, what changed since is updated. Each doubt is kept in the row's
        metadata and in the report.

        Parameters
        ----------
        root
            Folder to search, or file.
        dry_run
            Only read and plan; give False to store.
        limit
            At most so many runs.
        jobs
            Processes that read, None for one a processor.
        progress
            Show a bar; None shows one after 2 s where somebody looks.
        method
            Of a file's records that name none; those are refused without it.
        smiles
            The molecule of a JSON file's result that names none.
        shared
            Everybody shall read them (service login only).

        Returns
        -------
        MigrationReport
            One line a run or record, with outcome and reason.

        Raises
        ------
        InvalidInput
            ``root`` is neither a folder nor such a file, an option is for files only, or a number is below 1.
        MissingExtra
            ase is not installed and the file needs it.
        AccessDenied
            A tenant asked for shared rows.
        QForgeError
            What the server reported; run it again to go on from there.
        """
        from qforge_sdk.migrate import is_result_file, migrate, migrate_file

        owner = self._context.owner(shared=shared)
        options: dict[str, Any] = {"dry_run": dry_run, "limit": limit, "jobs": jobs, "progress": progress}
        path = Path(root).expanduser()
        if path.is_file() or (is_result_file(path) and not path.is_dir()):
            return migrate_file(self.engine, path, owner=owner, method=method, smiles=smiles, **options)
        for name, value in (("method", method), ("smiles", smiles)):
            if value is not None:
                raise InvalidInput(
                    f"{name} is for files: the runs of a folder name their own", field=name, value=value
                )
        return migrate(self.engine, root, owner=owner, **options)

    def close(self) -> None:
        """Close the pool; the embedded server stops with its last user. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if "widgets" in self.__dict__:
            self.widgets.close()
        if hasattr(self, "_reader"):
            self._reader.close()
        self.engine.dispose()
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Client does not pickle; open one in each process with qforge_sdk.connect()")

    def _facts(self) -> dict[str, str]:
        url = self.engine.url
        return {
            "host": "embedded"
            if self._server is not None
            else url.host or str(url.query.get("host", "local socket")),
            "database": url.database or "",
            "role": self._access.role,
            "tenant": f"{self._access.user_id} ({self._access.strength})"
            if self._access.user_id
            else "none (service login)",
            "schema": schema.head_revision(),
        }

    def __repr__(self) -> str:
        if not hasattr(self, "_access"):
            return "<qforge_sdk.Client, not connected>"
        return f"<qforge_sdk.Client {', '.join(f'{name}: {value}' for name, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        if not hasattr(self, "_access"):
            return display.paragraph(repr(self))
        return display.table(self._facts(), caption="qforge_sdk client")

    def _upgrade_embedded(self, url: URL) -> None:
        """Bring the schema up to date: only here, where the database is ours alone."""
        with _service_engine(url) as engine:
            with engine.connect() as connection:
                current = schema.status(connection).is_current
            if not current:
                schema.upgrade(engine)


def _embedded_client(server: embedded.EmbeddedServer, scope: Scope) -> Client:
    try:
        return Client(normalise_url(server.url), scope=scope, server=server)
    except BaseException:
        server.stop()
        raise


@contextmanager
def _service_engine(url: URL) -> Iterator[Engine]:
    engine = make_engine(url, scope=Scope(), pool_size=1, max_overflow=0)
    try:
        yield engine
    finally:
        engine.dispose()
