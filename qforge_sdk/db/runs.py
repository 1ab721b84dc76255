"""Finished runs in the database: which are there, and how a chunk of them is stored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text


def known_runs(connection: Connection, owner: uuid.UUID | None) -> Iterator[tuple[int, str, str]]:
    """Runs of an owner that were loaded from folders.

    Parameters
    ----------
    connection
        In a transaction.
    owner
        Whose.

    Yields
    ------
    tuple
        Key, source_id and content hash.
    """
    query = text(
        "SELECT id, source_id, metadata -> 'run' ->> 'content_hash' FROM public.calculations "
        "WHERE user_id IS NOT DISTINCT FROM :owner AND source_id IS NOT NULL AND metadata -> 'run' ? 'content_hash'"
    )
    for row in connection.execution_options(yield_per=10_000).execute(query, {"owner": owner}):
        yield row[0], row[1], row[2]


def stored_runs(
    connection: Connection, owner: uuid.UUID | None, source_ids: Sequence[str]
) -> dict[str, tuple[int, str, str | None]]:
    """What an owner has under some source_ids.

    Parameters
    ----------
    connection
        In a transaction.
    owner
        Whose.
    source_ids
        To look for.

    Returns
    -------
    dict
        Key, path and content hash by source_id; what no migration stored has no hash.
    """
    # By the index on both, which IS NOT DISTINCT FROM would not use.
    query = text(
        "SELECT source_id, id, metadata -> 'run' ->> 'path', metadata -> 'run' ->> 'content_hash' "
        f"FROM public.calculations WHERE user_id {'IS NULL' if owner is None else '= :owner'} "
        "AND source_id = ANY (:source_ids)"
    )
    found = connection.execute(query, {"owner": owner, "source_ids": list(source_ids)})
    return {row[0]: (row[1], row[2] or "", row[3]) for row in found}


def register_graphs(
    connection: Connection, owner: uuid.UUID | None, molecules: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Store molecules without SMILES, unless they are there.

    Parameters
    ----------
    connection
        In a transaction.
    owner
        Whose.
    molecules
        graph_hash, formula, charge, name, metadata (JSON text).

    Returns
    -------
    dict
        Key by graph_hash.
    """
    if not molecules:
        return {}
    distinct = {one["graph_hash"]: one for one in molecules}
    # One that was given its SMILES since keeps its graph.
    query = text(
        "SELECT graph_hash, min(id) FROM public.molecules "
        "WHERE user_id IS NOT DISTINCT FROM :owner AND graph_hash = ANY (:hashes) GROUP BY graph_hash"
    )
    insert = text(
        "INSERT INTO public.molecules (user_id, graph_hash, formula, charge, name, metadata) "
        "VALUES (:owner, :graph_hash, :formula, :charge, :name, CAST(:metadata AS jsonb)) "
        "ON CONFLICT ON CONSTRAINT molecules_identity DO NOTHING"
    )
    known = {"owner": owner, "hashes": sorted(distinct)}
    stored = {row[0] for row in connection.execute(query, known)}
    for graph_hash in sorted(distinct.keys() - stored):
        connection.execute(insert, {"owner": owner, **distinct[graph_hash]})
    return {row[0]: row[1] for row in connection.execute(query, known)}


def delete_atoms(connection: Connection, calculation_ids: Sequence[int]) -> None:
    """Remove the atoms of calculations whose runs changed.

    Parameters
    ----------
    connection
        In a transaction.
    calculation_ids
        Keys.
    """
    if calculation_ids:
        connection.execute(
            text("DELETE FROM public.atomic_properties WHERE calculation_id = ANY (:ids)"),
            {"ids": list(calculation_ids)},
        )


def record_migration(connection: Connection, owner: uuid.UUID | None, context: str) -> None:
    """Leave an event about a chunk of runs.

    Parameters
    ----------
    connection
        In the chunk's transaction.
    owner
        Whose runs.
    context
        JSON.
    """
    connection.execute(
        text(
            "INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service) "
            "VALUES (:owner, 'runs_migrated', 'system', CAST(:context AS jsonb), 'migrate')"
        ),
        {"owner": owner, "context": context},
    )
