"""Rows that change their owner: published, taken back, handed over.

Whoever may read a row may read what it hangs on: its owner is its parent's, or the parent is public. A move keeps
this, or does not happen. Atoms move with their calculation and items with their batch. A calculation whose molecule
does not move is hung on the new owner's own row of the same molecule; where there is none, one is made.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Connection, CursorResult, TextClause, Uuid, bindparam, text
from sqlalchemy.types import TypeEngine

from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.tenants import lock_tables
from qforge_sdk.errors import Conflict, NotFound

Owner = uuid.UUID | None
_TYPES: Final[dict[str, TypeEngine[Any]]] = {
    "target": Uuid(),
    "owner": Uuid(),
    "public": Uuid(),
    "keys": ARRAY(BigInteger()),
}
ENTITIES: Final = ("molecules", "calculations", "batch_jobs")


@dataclass(frozen=True, slots=True)
class Selection:
    """Keys of the rows to move; None stands for all of the source's.

    Parameters
    ----------
    molecules, calculations, batch_jobs
        By table.
    """

    molecules: Sequence[int] | None = ()
    calculations: Sequence[int] | None = ()
    batch_jobs: Sequence[int] | None = ()

    def of(self, table: str) -> Sequence[int] | None:
        """Keys of one table."""
        keys: Sequence[int] | None = getattr(self, table)
        return keys


@dataclass(frozen=True, slots=True)
class Source:
    """Whose rows may move.

    Parameters
    ----------
    anyone
        Rows of every owner.
    owner
        Otherwise this one's; None for rows without an owner.
    """

    anyone: bool = False
    owner: Owner = None


def move(connection: Connection, selection: Selection, *, source: Source, target: Owner) -> list[dict[str, Any]]:
    """Give rows to another owner.

    Parameters
    ----------
    connection
        The service's, in a transaction.
    selection
        Which rows.
    source
        Whose they must be.
    target
        Whose they become: a tenant, the public, or None for the service.

    Returns
    -------
    list of dict
        For each table ``requested``, ``moved``, ``unchanged`` (the target's already), ``kept`` (a molecule that the
        target has as a row of its own) and ``copied`` (molecules made for calculations and items that moved).

    Raises
    ------
    NotFound
        Keys that are absent or another owner's.
    Conflict
        Rows of other owners hang on what would move, or it hangs on theirs; nothing is moved.
    """
    lock_tables(connection)
    connection.execute(text(_STAGE))
    for table in ENTITIES:
        _choose(connection, table, selection.of(table), source, target)
    connection.execute(text("ANALYZE moving"))
    values: dict[str, Any] = {"target": target, "public": PUBLIC_USER_ID}
    _run(connection, _KEEP, values)
    copied = _run(connection, _COPY, values)
    _run(connection, _MAP, values)
    for statement in _CLASHES:
        _refuse(connection, statement, values)
    moved = {table: _run(connection, f"UPDATE public.{table} SET {change}", values) for table, change in _MOVES}
    for statement in _BROKEN:
        _refuse(connection, statement, values)
    return _account(connection, moved, copied)


_STAGE: Final = """
    CREATE TEMPORARY TABLE moving (
        entity text, id bigint, outcome text NOT NULL, PRIMARY KEY (entity, id)
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE moving_onto (molecule_id bigint PRIMARY KEY, onto bigint) ON COMMIT DROP
"""

# Of equal molecules only the first can become the target's, and none where the target has one.
_KEEP: Final = """
    UPDATE moving SET outcome = 'kept' FROM (
        SELECT m.id, row_number() OVER (PARTITION BY m.identity_hash ORDER BY m.id) AS n, m.identity_hash
        FROM moving AS v JOIN public.molecules AS m ON m.id = v.id
        WHERE v.entity = 'molecules' AND v.outcome = 'moved'
    ) AS same
    WHERE moving.entity = 'molecules' AND moving.id = same.id AND (same.n > 1 OR EXISTS (
        SELECT FROM public.molecules AS t
        WHERE t.user_id IS NOT DISTINCT FROM :target AND t.identity_hash = same.identity_hash))
"""

# Molecules that moving calculations and items hang on, that do not move and that the target may not read.
_LEFT_BEHIND: Final = """
    SELECT DISTINCT m.id, m.identity_hash FROM (
        SELECT c.molecule_id FROM moving AS v JOIN public.calculations AS c ON c.id = v.id
        WHERE v.entity = 'calculations' AND v.outcome = 'moved'
        UNION
        SELECT i.molecule_id FROM moving AS v JOIN public.batch_items AS i ON i.batch_id = v.id
        WHERE v.entity = 'batch_jobs' AND v.outcome = 'moved'
    ) AS used
    JOIN public.molecules AS m ON m.id = used.molecule_id
    WHERE :target IS NOT NULL AND m.user_id IS DISTINCT FROM :target AND m.user_id IS DISTINCT FROM :public
          AND NOT EXISTS (SELECT FROM moving AS v
                          WHERE v.entity = 'molecules' AND v.id = m.id AND v.outcome = 'moved')
"""
_SAME: Final = """
    SELECT t.id FROM public.molecules AS t
    WHERE t.identity_hash = l.identity_hash
          AND (t.user_id IN (:target, :public)
               OR EXISTS (SELECT FROM moving AS v
                          WHERE v.entity = 'molecules' AND v.id = t.id AND v.outcome = 'moved'))
    ORDER BY t.user_id = :public, t.id LIMIT 1
"""
# What is published with a calculation is the structure and its name, not notes about it.
_COPY: Final = f"""
    INSERT INTO public.molecules (user_id, name, smiles, formula, charge, inchikey, graph_hash, fingerprint,
                                  fingerprint_popcount, input_smiles, rdkit_version, metadata)
    SELECT DISTINCT ON (m.identity_hash) :target, m.name, m.smiles, m.formula, m.charge, m.inchikey, m.graph_hash,
           m.fingerprint, m.fingerprint_popcount, m.input_smiles, m.rdkit_version,
           CASE WHEN :target = :public THEN '{{}}' ELSE m.metadata END
    FROM ({_LEFT_BEHIND}) AS l JOIN public.molecules AS m ON m.id = l.id
    WHERE NOT EXISTS ({_SAME})
    ORDER BY m.identity_hash, m.id
"""
_MAP: Final = f"INSERT INTO moving_onto SELECT l.id, ({_SAME}) FROM ({_LEFT_BEHIND}) AS l"

_CHOSEN: Final = "id IN (SELECT id FROM moving WHERE entity = '{}' AND outcome = 'moved')"
_ONTO: Final = (
    "molecule_id = coalesce((SELECT onto FROM moving_onto AS o WHERE o.molecule_id = {}.molecule_id), molecule_id)"
)
_MOVES: Final = (
    ("molecules", f"user_id = :target WHERE {_CHOSEN.format('molecules')}"),
    (
        "calculations",
        f"user_id = :target, {_ONTO.format('calculations')} WHERE {_CHOSEN.format('calculations')}",
    ),
    ("atomic_properties", f"user_id = :target WHERE calculation_{_CHOSEN.format('calculations')}"),
    ("batch_jobs", f"user_id = :target WHERE {_CHOSEN.format('batch_jobs')}"),
    ("batch_items", f"user_id = :target, {_ONTO.format('batch_items')} WHERE batch_{_CHOSEN.format('batch_jobs')}"),
)

_CLASHES: Final = {
    "source_id of calculations that the new owner has already": """
        SELECT c.source_id FROM moving AS v JOIN public.calculations AS c ON c.id = v.id
        WHERE v.entity = 'calculations' AND v.outcome = 'moved' AND (
            EXISTS (SELECT FROM public.calculations AS t
                    WHERE t.user_id IS NOT DISTINCT FROM :target AND t.source_id = c.source_id)
            OR EXISTS (SELECT FROM moving AS w JOIN public.calculations AS t ON t.id = w.id
                       WHERE w.entity = 'calculations' AND w.outcome = 'moved' AND t.source_id = c.source_id
                             AND t.id < c.id))
    """,
    "batches in which two items would stand for the same molecule": """
        SELECT i.batch_id FROM public.batch_items AS i
        LEFT JOIN moving_onto AS o ON o.molecule_id = i.molecule_id
        WHERE i.batch_id IN (SELECT id FROM moving WHERE entity = 'batch_jobs' AND outcome = 'moved')
        GROUP BY i.batch_id, coalesce(o.onto, i.molecule_id) HAVING count(*) > 1
    """,
}

_READABLE: Final = "({child}.user_id IS NULL OR {parent}.user_id IN ({child}.user_id, :public))"
_BROKEN: Final = {
    "calculations of other owners on molecules that would move": f"""
        SELECT c.id FROM public.calculations AS c JOIN public.molecules AS m ON m.id = c.molecule_id
        WHERE m.id IN (SELECT id FROM moving WHERE entity = 'molecules')
              AND NOT coalesce({_READABLE.format(child="c", parent="m")}, false)
    """,
    "batch items of other owners on molecules that would move": f"""
        SELECT i.id FROM public.batch_items AS i JOIN public.molecules AS m ON m.id = i.molecule_id
        WHERE m.id IN (SELECT id FROM moving WHERE entity = 'molecules')
              AND NOT coalesce({_READABLE.format(child="i", parent="m")}, false)
    """,
    "batch items whose calculation the owner of the batch could not read": f"""
        SELECT i.id FROM public.batch_items AS i JOIN public.calculations AS c ON c.id = i.calculation_id
        WHERE (i.batch_id IN (SELECT id FROM moving WHERE entity = 'batch_jobs')
               OR c.id IN (SELECT id FROM moving WHERE entity = 'calculations'))
              AND NOT coalesce({_READABLE.format(child="i", parent="c")}, false)
    """,
}


def _choose(connection: Connection, table: str, keys: Sequence[int] | None, source: Source, target: Owner) -> None:
    """Put the rows of one table on the list, or say which are not there."""
    owned = "true" if source.anyone else "user_id IS NOT DISTINCT FROM :owner"
    outcome = "CASE WHEN user_id IS NOT DISTINCT FROM :target THEN 'unchanged' ELSE 'moved' END"
    values = {"entity": table, "owner": source.owner, "target": target, "keys": list(keys or ())}
    chosen = "true" if keys is None else "id = ANY (:keys)"
    # What is the target's already was moved before: asking twice is no mistake.
    allowed = f"({owned} OR user_id IS NOT DISTINCT FROM :target)" if keys is not None else owned
    _run(
        connection,
        f"INSERT INTO moving SELECT :entity, id, {outcome} FROM public.{table} WHERE {chosen} AND {allowed}",
        values,
    )
    if keys is None:
        return
    missing = (
        "SELECT k FROM unnest(:keys) AS k "
        "WHERE NOT EXISTS (SELECT FROM moving AS v WHERE v.entity = :entity AND v.id = k)"
    )
    absent = list(_execute(connection, missing, values).scalars())
    if absent:
        whose = "" if source.anyone else f" of {'the service' if source.owner is None else source.owner}"
        raise NotFound(
            f"{table} has no rows{whose} with keys {', '.join(map(str, absent[:10]))}"
            f"{' ...' if len(absent) > 10 else ''}; nothing was moved",
            entity=table,
            key=absent,
        )


def _bound(statement: str) -> TextClause:
    clause = text(statement)
    names = clause.compile().params.keys() & _TYPES.keys()
    return clause.bindparams(*(bindparam(name, type_=_TYPES[name]) for name in names))


def _execute(connection: Connection, statement: str, values: dict[str, Any]) -> CursorResult[Any]:
    clause = _bound(statement)
    return connection.execute(clause, {name: values[name] for name in clause.compile().params})


def _run(connection: Connection, statement: str, values: dict[str, Any]) -> int:
    return _execute(connection, statement, values).rowcount


def _refuse(connection: Connection, what: str, values: dict[str, Any]) -> None:
    """Raise if a check finds rows."""
    found = list(_execute(connection, (_CLASHES | _BROKEN)[what], values).scalars())
    if found:
        some = ", ".join(map(str, found[:5])) + (" ..." if len(found) > 5 else "")
        raise Conflict(f"nothing was moved, because of {len(found):,} {what}: {some}")


def _account(connection: Connection, moved: dict[str, int], copied: int) -> list[dict[str, Any]]:
    counts = {
        (row.entity, row.outcome): row.n
        for row in connection.execute(text("SELECT entity, outcome, count(*) AS n FROM moving GROUP BY 1, 2"))
    }
    connection.execute(text("DROP TABLE moving, moving_onto"))
    lines = []
    for table, n in moved.items():
        listed = {outcome: counts.get((table, outcome), 0) for outcome in ("moved", "unchanged", "kept")}
        if table not in ENTITIES:
            listed["moved"] = n
        lines.append(
            {
                "table": table,
                "requested": sum(listed.values()),
                **listed,
                "copied": copied if table == "molecules" else 0,
            }
        )
    return lines
