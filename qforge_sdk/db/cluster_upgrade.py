"""Data of an older PostgreSQL: copied by pg_upgrade into a new cluster, checked, and swapped in."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from psycopg2.extensions import connection as PgConnection  # noqa: N812

from qforge_sdk.db.cluster import BINARIES, MAJOR, PORT, START_SECONDS, SUPERUSER, Cluster, binaries
from qforge_sdk.errors import EmbeddedServerError

_SPARE = 1.2


def upgrade_cluster(cluster: Cluster, found: int) -> None:
    """Upgrade a stopped or running cluster to this package's PostgreSQL.

    The old cluster stays beside the new one as ``pgdata.pg<major>-<time>``. A crash half way leaves ``pgdata`` as it
    was, and the next start begins again; after one between the two last renames it does the second.

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
    if found not in BINARIES:
        raise EmbeddedServerError(
            f"{cluster.pgdata} is of PostgreSQL {found}, which cannot be upgraded here; "
            f"known: {', '.join(map(str, BINARIES))}"
        )
    cluster.stop()
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
        "pg_upgrade", "-b", str(binaries(found)), "-B", str(binaries(MAJOR)),
        "-d", "../pgdata", "-D", f"../{target.name}", "-U", SUPERUSER, "-s", str(_socket(cluster)), cwd=work,
    )  # fmt: skip
    after = _counts(cluster, target, MAJOR)
    if after != before:
        shutil.rmtree(target)
        raise EmbeddedServerError(
            f"the upgrade of {cluster.pgdata} to PostgreSQL {MAJOR} lost rows; the old data stays as it was"
        )
    cluster.pgdata.rename(cluster.folder / f"pgdata.pg{found}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}")
    target.rename(cluster.pgdata)
    shutil.rmtree(work, ignore_errors=True)


def _check_space(cluster: Cluster) -> None:
    needed = int(_SPARE * sum(path.stat().st_size for path in cluster.pgdata.rglob("*") if path.is_file()))
    free = shutil.disk_usage(cluster.folder).free
    if free < needed:
        raise EmbeddedServerError(
            f"upgrading {cluster.pgdata} needs {needed / 1e9:.1f} GB on its disk, {free / 1e9:.1f} GB are free"
        )


def _same_kind(cluster: Cluster, found: int) -> tuple[str, ...]:
    """Options of initdb that make a cluster into which pg_upgrade can copy this one."""
    control = cluster.run("pg_controldata", "pgdata", major=found).stdout
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


def _socket(cluster: Cluster) -> Path:
    cluster.make_socket_dir()
    return cluster.socket_dir


def _write_rules(cluster: Cluster, pgdata: Path) -> None:
    for name, text in cluster.rules().items():
        cluster.write(pgdata / name, text)


@contextlib.contextmanager
def _running(cluster: Cluster, pgdata: Path, major: int) -> Iterator[PgConnection]:
    """The cluster's server, closed to everybody else, for the length of the block."""
    _write_rules(cluster, pgdata)
    options = f"-k '{_socket(cluster)}' -p {PORT} -c listen_addresses=''"
    base = ("-D", pgdata.name, "-w", "-t", str(START_SECONDS))
    cluster.write(cluster.log, "")
    cluster.run("pg_ctl", *base, "-l", cluster.log.name, "-o", options, "start", major=major)
    try:
        with contextlib.closing(cluster.connect(SUPERUSER, SUPERUSER)) as connection:
            yield connection
    finally:
        cluster.run("pg_ctl", *base, "-m", "fast", "stop", major=major)


def _counts(cluster: Cluster, pgdata: Path, major: int) -> dict[tuple[str, str], int]:
    """Rows of every table of every database."""
    counts: dict[tuple[str, str], int] = {}
    with _running(cluster, pgdata, major) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datallowconn")
        for (database,) in cursor.fetchall():
            with contextlib.closing(cluster.connect(SUPERUSER, database)) as inside, inside.cursor() as rows:
                rows.execute(
                    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c "
                    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                    "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
                )
                for (table,) in rows.fetchall():
                    rows.execute(f"SELECT count(*) FROM {table}")
                    counts[database, table] = (rows.fetchone() or (0,))[0]
    return counts
