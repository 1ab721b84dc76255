"""Molecules that rows need and that are not theirs to use: missing ones, and other owners'.

In the old database a SMILES stood once for everybody, so that one tenant's calculations hang on another's molecule,
or on one without an owner. Here whoever may read a row may read what it hangs on, and who deletes a molecule deletes
what hangs on it: the owner of a row, the service too, gets a molecule of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable

from qforge_sdk.db.adopt.move import continue_sequence
from qforge_sdk.db.adopt.old_tables import OldTable

_REFERENCES: Final = "CREATE TEMPORARY TABLE adoption_references ON COMMIT DROP AS {used}"
_BY_CALCULATIONS: Final = (
    "SELECT DISTINCT {owner} AS owner, {molecule_id} AS molecule_id FROM {old} AS o WHERE {molecule_id} IS NOT NULL"
)
_BY_ITEMS: Final = (
    "SELECT DISTINCT {owner}, i.molecule_id::int8 FROM {old} AS o JOIN {items} AS i ON i.batch_id = o.id "
    "WHERE i.molecule_id IS NOT NULL"
)
_PLACEHOLDERS: Final = (
    """
    CREATE TEMPORARY TABLE adoption_placeholders ON COMMIT DROP AS
    SELECT r.molecule_id AS id, (array_agg(r.owner ORDER BY r.owner NULLS LAST))[1] AS owner
    FROM pg_temp.adoption_references AS r
    WHERE NOT EXISTS (SELECT FROM public.molecules AS m WHERE m.id = r.molecule_id) GROUP BY r.molecule_id
    """,
    """
    INSERT INTO public.molecules (id, user_id, formula, graph_hash, metadata)
    SELECT e.id, e.owner, 'unknown',
           encode(sha256(convert_to(concat('adopted:', e.id, ':missing:', now()), 'UTF8')), 'hex'),
           '{"adopted": {"unknown": ["formula", "charge"], "doubts": [{"column": "id", "code": "missing_molecule",
             "reason": "there was no such molecule; rows refer to it"}]}}'
    FROM pg_temp.adoption_placeholders AS e ORDER BY e.id
    """,
)
# One that is another's second row of a structure stands here for the first: the new owner has no second one.
_HUNG: Final = (
    """
    CREATE TEMPORARY TABLE adoption_hung ON COMMIT DROP AS
    SELECT r.owner, r.molecule_id, s.id AS source, s.identity_hash, NULL::bigint AS onto
    FROM pg_temp.adoption_references AS r
    JOIN public.molecules AS m ON m.id = r.molecule_id
    LEFT JOIN pg_temp.adoption_collisions AS c ON c.id = m.id
    JOIN public.molecules AS s ON s.id = coalesce(c.same_as, m.id)
    WHERE m.user_id IS DISTINCT FROM r.owner AND m.user_id IS DISTINCT FROM {zeros}
    """,
    "ANALYZE pg_temp.adoption_hung",
)
_SAME: Final = (
    "FROM public.molecules AS t WHERE t.identity_hash = h.identity_hash "
    "AND (t.user_id IN (h.owner, {zeros}) OR (t.user_id IS NULL AND h.owner IS NULL))"
)
# Everybody could read what had no owner; of another tenant's row only the structure goes along.
_COPIES: Final = f"""
    INSERT INTO public.molecules (user_id, name, smiles, formula, charge, inchikey, graph_hash, fingerprint,
                                  fingerprint_popcount, input_smiles, rdkit_version, metadata)
    SELECT DISTINCT ON (h.owner, h.identity_hash)
           h.owner, CASE WHEN s.user_id IS NULL THEN s.name END, s.smiles, s.formula, s.charge, s.inchikey,
           s.graph_hash, s.fingerprint, s.fingerprint_popcount, s.input_smiles, s.rdkit_version,
           CASE WHEN s.user_id IS NULL THEN s.metadata ELSE '{{{{}}}}' END
           || jsonb_build_object('adopted', jsonb_strip_nulls(jsonb_build_object(
                'copy_of', h.molecule_id,
                'unknown', s.metadata -> 'adopted' -> 'unknown',
                'doubts', nullif(jsonb_path_query_array(
                    s.metadata, '$.adopted.doubts[*] ? (@.column == "smiles" || @.column == "id")'), '[]'))))
    FROM pg_temp.adoption_hung AS h JOIN public.molecules AS s ON s.id = h.source
    WHERE NOT EXISTS (SELECT {_SAME})
    ORDER BY h.owner, h.identity_hash, h.molecule_id
"""
# Joined as sets: one look-up a row would read the whole table each time.
_ONTO: Final = (
    f"""
    UPDATE pg_temp.adoption_hung AS h SET onto = found.id FROM (
        SELECT DISTINCT ON (h.owner, h.molecule_id) h.owner, h.molecule_id, t.id
        FROM pg_temp.adoption_hung AS h CROSS JOIN LATERAL (SELECT t.id, t.user_id {_SAME}) AS t
        ORDER BY h.owner, h.molecule_id, t.user_id = {{zeros}}, t.id
    ) AS found WHERE found.molecule_id = h.molecule_id AND found.owner IS NOT DISTINCT FROM h.owner
    """,
    "ANALYZE pg_temp.adoption_hung",
)


def provide_molecules(cursor: Cursor, tables: Mapping[str, OldTable]) -> int:
    """Make the molecules that calculations and batch items need, and note which row hangs on which.

    Parameters
    ----------
    cursor
        In the transaction, after the molecules were moved.
    tables
        The old ones.

    Returns
    -------
    int
        Molecules that were made.
    """
    molecules = tables["molecules"]
    cursor.execute(SQL(_REFERENCES).format(used=_used(tables)))
    for statement in _PLACEHOLDERS:
        cursor.execute(statement)
    made = cursor.rowcount
    continue_sequence(cursor, molecules)
    for template in (*_HUNG, _COPIES):
        cursor.execute(molecules.fill(template))
    made += cursor.rowcount
    for template in _ONTO:
        cursor.execute(molecules.fill(template))
    return made


def _used(tables: Mapping[str, OldTable]) -> Composable:
    calculations = tables["calculations"]
    used = calculations.fill(_BY_CALCULATIONS, owner=calculations.value("user_id"))
    if not {"batch_jobs", "batch_items"} <= tables.keys():
        return used
    batches = tables["batch_jobs"]
    by_items = batches.fill(_BY_ITEMS, owner=batches.value("user_id"), items=tables["batch_items"].aside)
    return SQL("{} UNION {}").format(used, by_items)
