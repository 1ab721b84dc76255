"""What is particular to each table: joins, rows that cannot be stored, values that come from another row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Line:
    """A doubt that a rule alone cannot see.

    Parameters
    ----------
    column
        New column.
    when
        Condition.
    code, reason
        SQL expressions.
    """

    column: str
    when: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """How the rows of one table move.

    Parameters
    ----------
    joins
        After ``FROM old AS o``.
    instead
        Template of a column's value, instead of its rule's.
    besides
        Columns without a rule.
    leave_out
        Rules without a new column.
    lines
        Doubts.
    aside
        Rows that cannot be stored: condition, code and reason as SQL.
    twice
        Columns of which no two rows may agree; the first one is stored.
    account
        Further keys of ``metadata["adopted"]``: a jsonb object.
    account_in
        Column that holds it.
    note
        A line about all rows that a condition holds for: column, condition, code, reason.
    """

    joins: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    besides: Mapping[str, str] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    aside: tuple[tuple[str, str, str], ...] = ()
    twice: tuple[str, ...] = ()
    account: str = "'{{}}'::jsonb"
    account_in: str = "metadata"
    note: tuple[str, str, str, str] | None = None


_FINITE: Final = " AND ".join(
    f"coalesce({{position_{axis}}} > '-Infinity' AND {{position_{axis}}} < 'Infinity', false)" for axis in "xyz"
)
_UNRESOLVED: Final = "(s.code IS NOT NULL OR c.same_as IS NOT NULL)"
_FILLED: Final = "{user_id} IS NULL AND p.user_id IS NOT NULL AND p.user_id <> {zeros}"
_FILLED_REASON: Final = "rows without an owner got their parent's"
_OTHERS: Final = Line(
    "user_id",
    "{user_id} <> p.user_id OR ({user_id} IS NOT NULL AND p.user_id IS NULL)",
    "'owner_changed'",
    "'it belongs to whom its parent belongs'",
)
_HUNG: Final = (
    "LEFT JOIN pg_temp.adoption_hung AS h ON h.molecule_id = {molecule_id} AND h.owner IS NOT DISTINCT FROM "
)
_MOLECULE_LINES: Final = (
    Line(
        "molecule_id",
        "h.onto IS NOT NULL",
        "'molecule_copied'",
        "'that molecule is another owner''s; the row hangs on its owner''s own of this structure'",
    ),
    Line(
        "molecule_id",
        "EXISTS (SELECT FROM pg_temp.adoption_placeholders AS e WHERE e.id = {molecule_id})",
        "'missing_molecule'",
        "'there was no such molecule; an empty one was made'",
    ),
)
_MISSING_MOLECULE: Final = ("{molecule_id} IS NULL", "'missing'", "'it names no molecule'")

STEPS: Final[dict[str, Step]] = {
    "molecules": Step(
        joins="JOIN pg_temp.adoption_structures AS s ON s.id = o.id "
        "LEFT JOIN pg_temp.adoption_collisions AS c ON c.id = o.id",
        instead={
            "smiles": f"CASE WHEN NOT {_UNRESOLVED} THEN s.smiles END",
            "formula": "coalesce(s.formula, left(nullif(btrim({formula}), ''), 255), 'unknown')",
        },
        besides={
            "charge": "coalesce(s.charge, 0)",
            **{
                name: f"CASE WHEN NOT {_UNRESOLVED} THEN s.{name} END"
                for name in ("inchikey", "fingerprint", "fingerprint_popcount", "rdkit_version")
            },
            "input_smiles": "{smiles}",
            # No text of a graph begins like this.
            "graph_hash": f"CASE WHEN {_UNRESOLVED} THEN encode(sha256(convert_to("
            "concat('adopted:', o.id, ':', extract(epoch FROM {created_at}), ':', {smiles}), 'UTF8')), 'hex') END",
        },
        lines=(
            Line("smiles", "s.code IS NOT NULL", "s.code", "s.reason"),
            Line(
                "smiles",
                "c.same_as IS NOT NULL",
                "'same_structure'",
                "concat('molecule ', c.same_as, ' is the same structure')",
            ),
            Line(
                "formula",
                "s.formula_fault = 'mismatch'",
                "'formula_mismatch'",
                "concat('the structure has the formula ', s.formula)",
            ),
            Line(
                "formula",
                "s.formula IS NULL AND length(btrim({formula})) > 255",
                "'too_long'",
                "'at most 255 characters are stored'",
            ),
        ),
        account="CASE WHEN c.same_as IS NOT NULL THEN jsonb_build_object('same_as', c.same_as) "
        "WHEN s.code IS NOT NULL THEN jsonb_build_object('unknown', "
        "CASE WHEN s.formula_fault = 'unreadable' THEN '[\"formula\", \"charge\"]'::jsonb ELSE '[\"charge\"]' END) "
        "ELSE '{{}}' END",
    ),
    "calculations": Step(
        joins=_HUNG + "{owner}",
        instead={"molecule_id": "coalesce(h.onto, {molecule_id})"},
        lines=_MOLECULE_LINES,
        aside=(_MISSING_MOLECULE,),
    ),
    "atomic_properties": Step(
        joins="LEFT JOIN public.calculations AS p ON p.id = {calculation_id}",
        instead={"user_id": "p.user_id"},
        leave_out=("id",),
        lines=(_OTHERS,),
        aside=(
            ("p.id IS NULL", "'missing_calculation'", "'there is no such calculation'"),
            (
                "NOT coalesce({atom_index} BETWEEN 0 AND 2147483647, false)",
                "'out_of_range'",
                "'an atom has an index from 0'",
            ),
            (f"NOT ({_FINITE})", "'not_finite'", "'an atom has a position'"),
            ("({final_element}) IS NULL OR ({final_number}) IS NULL", "'unknown_element'", "'this is no element'"),
        ),
        twice=("calculation_id", "atom_index"),
        note=("user_id", _FILLED, "owner_filled", _FILLED_REASON),
    ),
    "batch_jobs": Step(),
    "batch_items": Step(
        joins="LEFT JOIN public.batch_jobs AS p ON p.id = {batch_id} " + _HUNG + "p.user_id "
        "LEFT JOIN public.calculations AS r ON r.id = {calculation_id}",
        instead={
            "user_id": "p.user_id",
            "molecule_id": "coalesce(h.onto, {molecule_id})",
            "calculation_id": "CASE WHEN p.user_id IS NULL OR r.user_id IN (p.user_id, {zeros}) THEN r.id END",
        },
        lines=(
            _OTHERS,
            *_MOLECULE_LINES,
            Line(
                "calculation_id",
                "{calculation_id} IS NOT NULL AND r.id IS NULL",
                "'missing_calculation'",
                "'there is no such calculation'",
            ),
            Line(
                "calculation_id",
                "r.id IS NOT NULL AND p.user_id IS NOT NULL AND r.user_id IS DISTINCT FROM p.user_id "
                "AND r.user_id IS DISTINCT FROM {zeros}",
                "'foreign_calculation'",
                "'that calculation is another owner''s'",
            ),
        ),
        aside=(("p.id IS NULL", "'missing_batch'", "'there is no such batch'"), _MISSING_MOLECULE),
        twice=("batch_id", "molecule_id"),
        note=("user_id", _FILLED, "owner_filled", _FILLED_REASON),
    ),
    "event_logs": Step(
        besides={
            "recorded_by": "'program'",
            # Nobody knows who wrote them: no role is called like this, and no transaction has this number.
            "actor": "''",
            "application": "NULL",
            "transaction_id": "0",
        },
        account_in="context",
    ),
}
"""By table."""
