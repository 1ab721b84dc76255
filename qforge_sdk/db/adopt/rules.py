"""How the old tables' columns become the new ones: a table of data.

Templates are SQL in which ``{v}`` is the value in the new column's type, ``{o}`` the old column, ``o`` the old row,
and ``{name}`` the value of the rule of that name, before its faults are mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qforge_sdk.chem.geometry import element_symbol
from qforge_sdk.db.models import BATCH_STATUSES, CONVERGENCE_STATUSES, ENTITY_TYPES, EVENT_STATUSES, ITEM_STATUSES

_MOST: Final = 2**31 - 1
_SYMBOLS: Final = f"ARRAY[{', '.join(repr(element_symbol(number)) for number in range(1, 119))}]"


@dataclass(frozen=True, slots=True)
class Kind:
    """Type of a new column, and which old types become it.

    Parameters
    ----------
    name
        What a message calls it.
    sql_type
        Of the value.
    casts
        Template by name of the old type, or by its category (one capital letter).
    """

    name: str
    sql_type: str
    casts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What the new column refuses, or a reader should know.

    Parameters
    ----------
    when
        Condition; null is false.
    code, reason
        For the report and the row's metadata.
    becomes
        What is stored instead; the default is the value itself.
    """

    when: str
    code: str
    reason: str
    becomes: str = "{v}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One column.

    Parameters
    ----------
    name
        Of the new column.
    kind
        Its type.
    faults
        The first that holds decides what is stored; all of them are reported.
    missing
        What a null becomes without a word, and what a column becomes that the old table lacks.
    required
        Whether a table without this column is not the old module's.
    also
        Other names of the old column.
    """

    name: str
    kind: Kind
    faults: tuple[Fault, ...] = ()
    missing: str | None = None
    required: bool = False
    also: tuple[str, ...] = ()


TEXT: Final = Kind("text", "text", {"S": "{o}::text", "E": "{o}::text"})
NUMBER: Final = Kind(
    "a number", "float8", dict.fromkeys(("int2", "int4", "int8", "float4", "float8", "numeric"), "{o}::float8")
)
WHOLE: Final = Kind("an integer", "int8", dict.fromkeys(("int2", "int4", "int8"), "{o}::int8"))
# The old module wrote datetime.utcnow().
TIME: Final = Kind("a time", "timestamptz", {"timestamptz": "{o}", "timestamp": "({o} AT TIME ZONE 'UTC')"})
# A null of JSON is what the old module's None became.
JSON: Final = Kind(
    "json or jsonb",
    "jsonb",
    {"jsonb": "nullif({o}, 'null')", "json": "nullif(pg_temp.adoption_jsonb({o}), 'null')"},
)
UUID: Final = Kind(
    "a uuid",
    "uuid",
    {
        "uuid": "{o}",
        "S": "CASE WHEN replace({o}::text, '-', '') ~* '^[0-9a-f]{{32}}$' THEN replace({o}::text, '-', '')::uuid END",
    },
)

_FINITE: Final = Fault(
    "NOT ({v} > '-Infinity' AND {v} < 'Infinity')", "not_finite", "NaN and infinity are not stored", "NULL"
)
_NEGATIVE: Final = Fault("{v} < 0 AND {v} > '-Infinity'", "too_small", "the least value is 0", "NULL")


def _missing(becomes: str) -> Fault:
    return Fault("{v} IS NULL", "missing", "a value is needed here", becomes)


def _text(name: str, longest: int | None = None, *faults: Fault, **options: object) -> Rule:
    limits = (
        (
            Fault(
                f"length({{v}}) > {longest}",
                "too_long",
                f"at most {longest} characters are stored",
                f"left({{v}}, {longest})",
            ),
        )
        if longest
        else ()
    )
    return Rule(name, TEXT, (*faults, *limits), **options)  # type: ignore[arg-type]


def _numbers(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name, NUMBER, (_FINITE,)) for name in names)


def _key(name: str, *, required: bool = True) -> Rule:
    return Rule(name, WHOLE, required=required)


def _count(name: str) -> Rule:
    outside = Fault(f"{{v}} NOT BETWEEN 0 AND {_MOST}", "out_of_range", f"it must lie between 0 and {_MOST:,}", "0")
    return Rule(name, WHOLE, (_missing("0"), outside), missing="0")


def _word(
    name: str, known: Sequence[str], meant: Mapping[str, str], otherwise: str, *faults: Fault, required: bool = False
) -> Rule:
    """One of some words; in another case or under a name of ``meant`` it is taken and reported."""
    words = ", ".join(f"'{word}'" for word in known)
    tidy = "translate(lower(btrim({v})), ' -', '__')"
    cases = " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in {**{word: word for word in known}, **meant}.items())
    mapped = f"(CASE {tidy} {cases} ELSE '{otherwise}' END)"
    unknown = Fault(
        f"{{v}} IS NULL OR {{v}} NOT IN ({words})", "unknown_word", f"known words: {', '.join(known)}", mapped
    )
    return Rule(name, TEXT, (*faults, unknown), missing=f"'{otherwise}'", required=required)


def _json(name: str, *faults: Fault, also: tuple[str, ...] = ()) -> Rule:
    refused = "{o} IS NOT NULL AND {v} IS NULL AND btrim({o}::text) <> 'null'"
    return Rule(
        name,
        JSON,
        (
            Fault(refused, "not_json", "PostgreSQL's jsonb cannot hold it", "'{{}}'"),
            Fault("jsonb_typeof({v}) <> 'object'", "not_an_object", "this is no JSON object", "'{{}}'"),
            *faults,
        ),
        missing="'{{}}'",
        also=also,
    )


def _metadata(prefix: str, name: str = "metadata") -> Rule:
    taken = Fault("{v} ? 'adopted'", "key_taken", "the key 'adopted' is taken by the account of the adoption")
    return _json(name, taken, also=(f"{prefix}_metadata",))


def _times(*later: str, updated: bool = True) -> tuple[Rule, ...]:
    other = "{updated_at}" if updated else "NULL::timestamptz"
    first = f"coalesce(CASE WHEN isfinite({other}) THEN {other} END, now())"
    last = "coalesce(CASE WHEN isfinite({created_at}) THEN {created_at} END, now())"
    infinite = "NOT isfinite({v})"
    reason = "infinite times are not kept"
    rules = [Rule("created_at", TIME, (_missing(first), Fault(infinite, "not_finite", reason, first)), missing=first)]
    if updated:
        rules.append(
            Rule("updated_at", TIME, (_missing(last), Fault(infinite, "not_finite", reason, last)), missing=last)
        )
    return (
        *rules,
        *(Rule(name, TIME, (Fault(infinite, "not_finite", reason, "NULL"),)) for name in later),
    )


OWNER: Final = Rule(
    "user_id",
    UUID,
    (
        Fault("{v} = {zeros}", "reserved_owner", "the uuid of zeros owns what is public", "{unowned}"),
        Fault("{o} IS NOT NULL AND {v} IS NULL", "wrong_type", "this is no uuid", "{unowned}"),
    ),
    missing="{unowned}",
)

_NO_ENERGY: Final = "NOT coalesce({energy} > '-Infinity' AND {energy} < 'Infinity', false)"

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "molecules": (
        _key("id"),
        OWNER,
        _text("name", 255, Fault("{v} = ''", "empty", "an empty name is left out", "NULL")),
        Rule("smiles", TEXT, required=True),
        Rule("formula", TEXT, required=True),
        _metadata("mol"),
        *_times(),
    ),
    "calculations": (
        _key("id"),
        OWNER,
        _key("molecule_id"),
        Rule("energy", NUMBER, (_FINITE,), required=True),
        *_numbers("homo", "lumo", "gap"),
        Rule("dipole", NUMBER, (_FINITE, _NEGATIVE)),
        Rule(
            "total_charge",
            NUMBER,
            (_missing("0"), Fault(_FINITE.when, _FINITE.code, _FINITE.reason, "0")),
            missing="0",
        ),
        Rule("execution_time_seconds", NUMBER, (_FINITE, _NEGATIVE)),
        _text("xtb_version", 50),
        _text("solvation", 50),
        _text("method", 50, _missing("'GFN2-xTB'"), missing="'GFN2-xTB'"),
        _word(
            "convergence_status",
            CONVERGENCE_STATUSES,
            {},
            "error",
            Fault(
                f"translate(lower(btrim({{v}})), ' -', '__') = 'converged' AND {_NO_ENERGY}",
                "no_energy",
                "a converged calculation has an energy",
                "'error'",
            ),
            required=True,
        ),
        _text(
            "xyz_file_hash",
            None,
            Fault(
                "length({v}) <> 64", "wrong_length", "it has 64 characters, as a sha256 in hexadecimal does", "NULL"
            ),
        ),
        _text("output_json_path"),
        _metadata("calc"),
        *_times(),
    ),
    "atomic_properties": (
        _key("id"),
        OWNER,
        _key("calculation_id"),
        _key("atom_index"),
        _text(
            "element",
            None,
            Fault(
                "{v} IS NULL OR btrim({v}) = '' OR length({v}) > 3",
                "unknown_element",
                "the symbol is the atomic number's",
                f"({_SYMBOLS})[CASE WHEN {{atomic_number}} BETWEEN 1 AND 118 THEN {{atomic_number}} END]",
            ),
            Fault(
                "{atomic_number} BETWEEN 1 AND 118 "
                f"AND {{atomic_number}} <> array_position({_SYMBOLS}, initcap(btrim({{v}})))",
                "element_mismatch",
                "element and atomic_number disagree",
            ),
            required=True,
        ),
        Rule(
            "atomic_number",
            WHOLE,
            (
                Fault(
                    "{v} IS NULL OR {v} NOT BETWEEN 1 AND 118",
                    "unknown_element",
                    "the atomic number is the symbol's",
                    f"array_position({_SYMBOLS}, initcap(btrim({{element}})))",
                ),
            ),
            required=True,
        ),
        *_numbers("partial_charge"),
        *(Rule(f"position_{axis}", NUMBER, required=True) for axis in "xyz"),
        *_numbers("force_x", "force_y", "force_z", "orbital_energy"),
        _metadata("atom"),
        *_times(updated=False),
    ),
    "batch_jobs": (
        _key("id"),
        OWNER,
        _text(
            "batch_name",
            255,
            Fault(
                "{v} IS NULL OR {v} = ''",
                "empty",
                "a batch has a name; this one is called by its key",
                "'batch ' || o.id",
            ),
            required=True,
        ),
        _text("description"),
        _word(
            "status",
            BATCH_STATUSES,
            {"queued": "pending", "running": "in_progress", "processing": "in_progress", "done": "completed"},
            "failed",
            required=True,
        ),
        *map(_count, ("total_molecules", "successful_count", "failed_count")),
        _json("parameters"),
        _metadata("batch"),
        *_times("started_at", "completed_at"),
    ),
    "batch_items": (
        _key("id"),
        OWNER,
        _key("batch_id"),
        _key("molecule_id"),
        _word(
            "status",
            ITEM_STATUSES,
            {"queued": "pending", "running": "processing", "in_progress": "processing", "done": "completed"},
            "failed",
            required=True,
        ),
        _key("calculation_id", required=False),
        _text("error_message"),
        _count("retry_count"),
        _metadata("item"),
        *_times("started_at", "completed_at"),
    ),
    "event_logs": (
        _key("id"),
        OWNER,
        _text("event_type", 50, _missing("'unknown'"), required=True),
        _word(
            "entity_type",
            ENTITY_TYPES,
            {
                "molecule": "molecules",
                "calculation": "calculations",
                "atom": "atomic_properties",
                "atoms": "atomic_properties",
                "atomic_property": "atomic_properties",
                "batch": "batch_jobs",
                "batches": "batch_jobs",
                "batch_job": "batch_jobs",
                "batch_item": "batch_items",
            },
            "system",
            required=True,
        ),
        _key("entity_id", required=False),
        _word("status", EVENT_STATUSES, {"ok": "success", "info": "success", "failed": "error"}, "warning"),
        _text("error_message"),
        _text("error_code", 50),
        _metadata("event", "context"),
        _text("service", 50, _missing("'api'"), missing="'api'"),
        *_times(updated=False),
    ),
}
"""Rules by table, in the order in which the tables depend on each other."""
