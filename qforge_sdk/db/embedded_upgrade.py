"""Data of an older PostgreSQL: copied by pg_upgrade into a new cluster, checked, and swapped in."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING

from qforge_sdk.db import embedded
from qforge_sdk.errors import EmbeddedServerError

if TYPE_CHECKING:
    from pathlib import Path

    from psycopg2.extensions import connection as PgConnection  # noqa: N812

_SPARE = 1.2


def upgrade_cluster(cluster: embedded._Cluster, found: int) -> None:
    """Upgrade a stopped or running cluster to this package's PostgreSQL.

    The old cluster stays beside the new one as ``pgdata.pg<major>-<time>``. A crash half way leaves ``pgdata`` as it
    was; the next start begins again.

    Parameters
    ----------
    cluster
        Whose ``pgdata`` is of the older version.
    found
        Its major version.

    Raises
    ------
    EmbeddedServerError
        The version is not one that can be upgraded, the disk is too small, or a check failed; nothing was changed.
    """
    if found not in embedded._BINARIES:
        raise EmbeddedServerError(
            f"{cluster.pgdata} is of PostgreSQL {found}, which cannot be upgraded here; "
            f"known: {', '.join(map(str, embedded._BINARIES))}"
        )
    _check_space(cluster)
    before = _counts(cluster, cluster.pgdata, found)
    target = cluster.folder / "pgdata.upgrading"
    shutil.rmtree(target, ignore_errors=True)
    cluster.initialise(target, extra=_same_kind(cluster, found))
    work = cluster.folder / "pgdata.work"
    shutil.rmtree(work, ignore_errors=True)
    cluster.own_folder(work)
    _write_rules(cluster, target)
    cluster.run(
        "pg_upgrade", "-b", str(embedded.binaries(found)), "-B", str(embedded.binaries(embedded.MAJOR)),
        "-d", str(cluster.pgdata), "-D", str(target), "-U", embedded.SUPERUSER, "-s", str(_socket(cluster)), cwd=work,
    )  # fmt: skip
    after = _counts(cluster, target, embedded.MAJOR)
    if after != before:
        shutil.rmtree(target)
        raise EmbeddedServerError(
            f"the upgrade of {cluster.pgdata} to PostgreSQL {embedded.MAJOR} lost rows; the old data stays as it was"
        )
    cluster.pgdata.rename(cluster.folder / f"pgdata.pg{found}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}")
    target.rename(cluster.pgdata)
    shutil.rmtree(work, ignore_errors=True)


def _check_space(cluster: embedded._Cluster) -> None:
    needed = int(_SPARE * sum(path.stat().st_size for path in cluster.pgdata.rglob("*") if path.is_file()))
    free = shutil.disk_usage(cluster.folder).free
    if free < needed:
        raise EmbeddedServerError(
            f"upgrading {cluster.pgdata} needs {needed / 1e9:.1f} GB on its disk, {free / 1e9:.1f} GB are free"
        )


def _same_kind(cluster: embedded._Cluster, found: int) -> tuple[str, ...]:
    """Options of initdb that make a cluster into which pg_upgrade can copy this one."""
    control = cluster.run("pg_controldata", str(cluster.pgdata), major=found).stdout
    version = next(line.split(":")[1].strip() for line in control.splitlines() if "page checksum version" in line)
    with _running(cluster, cluster.pgdata, found) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = 'template1'"
        )
        encoding, collate, ctype = cursor.fetchone() or ("UTF8", "C", "C")
    return (
        "--data-checksums" if version != "0" else "--no-data-checksums",
        f"--encoding={encoding}", f"--lc-collate={collate}", f"--lc-ctype={ctype}", "--locale-provider=libc",
        "--auth=peer", "--no-instructions",
    )  # fmt: skip


def _socket(cluster: embedded._Cluster) -> Path:
    cluster._make_socket_dir()
    return cluster.socket_dir


def _write_rules(cluster: embedded._Cluster, pgdata: Path) -> None:
    for name, text in cluster._rules().items():
        cluster._write(pgdata / name, text)


@contextlib.contextmanager
def _running(cluster: embedded._Cluster, pgdata: Path, major: int) -> contextlib.AbstractContextManager[PgConnection]:
    """The cluster's server, closed to everybody else, for the length of the block."""
    _write_rules(cluster, pgdata)
    options = f"-k '{_socket(cluster)}' -p {embedded._PORT} -c listen_addresses=''"
    base = ("-D", str(pgdata), "-w", "-t", "600")
    cluster.run("pg_ctl", *base, "-l", str(cluster.folder / "pgdata.log"), "-o", options, "start", major=major)
    try:
        with contextlib.closing(cluster.connect(embedded.SUPERUSER, embedded.SUPERUSER)) as connection:
            yield connection
    finally:
        cluster.run("pg_ctl", *base, "-m", "fast", "stop", major=major)


def _counts(cluster: embedded._Cluster, pgdata: Path, major: int) -> dict[tuple[str, str], int]:
    """Rows of every table of every database."""
    counts: dict[tuple[str, str], int] = {}
    with _running(cluster, pgdata, major) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datallowconn")
        for (database,) in cursor.fetchall():
            with contextlib.closing(cluster.connect(embedded.SUPERUSER, database)) as inside, inside.cursor() as rows:
                rows.execute(
                    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c "
                    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                    "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
                )
                for (table,) in rows.fetchall():
                    rows.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name from the catalog
                    counts[database, table] = (rows.fetchone() or (0,))[0]
    return counts
