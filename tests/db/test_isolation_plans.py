"""EXPLAIN ANALYZE answers no guess at a hidden value, whatever plan the tenant forces."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from tests.fixtures.attacks import GUESS, WORD, Attacked
from tests.fixtures.tenants import BOB

# The condition that a tenant adds goes before the policy's if it is leakproof and as cheap (x = ANY of one value is
# cheaper), and "(SELECT qforge.current_user_id())" is first evaluated when a row of anybody's passes it: EXPLAIN
# ANALYZE then prints "never executed" or not.

# How many buffers are read depends on what the session has in its caches.
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS OFF, COSTS OFF, TIMING OFF, SUMMARY OFF)"
# Bob's value, and one that nobody has.
COLUMNS = {
    "calculations.energy": ("'-777.125'::float8", "'-777.25'::float8"),
    "calculations.gap": ("'777.125'::float8", "'777.25'::float8"),
    "calculations.source_id": (f"({GUESS})", "('bobs_secret' || '_none')"),
    "molecules.smiles": (f"({GUESS})", "('bobs_secret' || '_none')"),
    "molecules.inchikey": (f"({GUESS})", "('bobs_secret' || '_none')"),
    "atomic_properties.partial_charge": ("'777.125'::float8", "'777.25'::float8"),
    "batch_jobs.batch_name": (f"({GUESS})", "('bobs_secret' || '_none')"),
    "batch_items.error_message": (f"({GUESS})", "('bobs_secret' || '_none')"),
    "event_logs.error_message": (f"({GUESS})", "('bobs_secret' || '_none')"),
}
# {c} is the column, {v} the value, {k} the table's key, {id} the key of Bob's row.
SHAPES = {
    "equality": "SELECT * FROM {t} AS t WHERE {c} = {v}",
    "any": "SELECT FROM {t} AS t WHERE {c} = ANY (ARRAY[{v}])",
    "range": "SELECT FROM {t} AS t WHERE {c} >= {v} AND {c} <= {v}",
    "range of any": "SELECT FROM {t} AS t WHERE {c} >= ANY (ARRAY[{v}]) AND {c} <= ANY (ARRAY[{v}])",
    "of Bob's": "SELECT FROM {t} AS t WHERE {c} = {v} AND user_id = '{bob}'",
    "any of Bob's": "SELECT FROM {t} AS t WHERE user_id = ANY ('{{{bob}}}'::uuid[]) AND {c} = ANY (ARRAY[{v}])",
    "key": "SELECT FROM {t} AS t WHERE {k} = {id} AND {c} = {v}",
    "key and any": "SELECT FROM {t} AS t WHERE {k} = {id} AND {c} = ANY (ARRAY[{v}])",
    "key and range": "SELECT FROM {t} AS t WHERE {k} = {id} AND {c} >= {v}",
    "key and case": "SELECT FROM {t} AS t WHERE {k} = {id} AND CASE WHEN {c} = ANY (ARRAY[{v}]) THEN true END",
    "row": "SELECT FROM {t} AS t WHERE ctid = '(0,2)' AND {c} = ANY (ARRAY[{v}])",
    "sample": "SELECT FROM {t} AS t TABLESAMPLE SYSTEM (100) WHERE {c} = ANY (ARRAY[{v}])",
    "order": "SELECT FROM {t} AS t WHERE {c} >= {v} ORDER BY {c} LIMIT 1",
    "join": "SELECT FROM (VALUES ({v}), ({v})) AS m (v) JOIN {t} AS t ON {c} = m.v",
    "semi join": "SELECT FROM (VALUES ({v}), ({v})) AS m (v) WHERE EXISTS (SELECT FROM {t} AS t WHERE {c} = m.v)",
    "anti join": "SELECT FROM (VALUES ({v}), ({v})) AS m (v) WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {c} = m.v)",
    "full join": "SELECT FROM (VALUES ({v}), ({v})) AS m (v) FULL JOIN {t} AS t ON {c} = m.v",
    "extremes": "SELECT max({c}), min({c}) FROM {t} AS t WHERE {c} >= {v}",
    "aggregate": "SELECT count(*) FILTER (WHERE {c} = {v}) FROM {t} AS t",
    "or": "SELECT FROM {t} AS t WHERE {c} = {v} OR {c} = {v} AND user_id = '{bob}'",
}
WRITES = {
    "delete": "DELETE FROM {t} AS t WHERE {k} = {id} AND {c} = ANY (ARRAY[{v}])",
    "delete by value": "DELETE FROM {t} AS t WHERE {c} = {v}",
    "update": "UPDATE {t} AS t SET metadata = metadata WHERE {k} = {id} AND {c} = ANY (ARRAY[{v}])",
    "lock": "SELECT FROM {t} AS t WHERE {k} = {id} AND {c} >= {v} FOR UPDATE",
}
OFF = "SET LOCAL enable_{} = off;".format
SETTINGS = {
    "as planned": "",
    "no sequential scan": OFF("seqscan"),
    "no index": OFF("indexscan") + OFF("indexonlyscan") + OFF("bitmapscan"),
    "bitmaps": OFF("seqscan") + OFF("indexscan") + OFF("indexonlyscan") + "SET LOCAL work_mem = '64kB';",
    "nested loops": OFF("hashjoin") + OFF("mergejoin") + OFF("material"),
    "merges": OFF("hashjoin") + OFF("nestloop"),
}


@pytest.fixture(scope="module")
def answers(attacked: Attacked) -> dict[str, tuple[str, str]]:
    """What EXPLAIN ANALYZE said to the right and to the wrong guess, the guess itself left out."""
    attacks = {}
    for (column, guesses), (shape, sql), (setting, settings) in itertools.product(
        COLUMNS.items(), (SHAPES | WRITES).items(), SETTINGS.items()
    ):
        table, _, name = column.partition(".")
        if table == "event_logs" and shape in WRITES:
            continue
        for guess, value in zip(("right", "wrong"), guesses, strict=True):
            statement = sql.format(
                t=f"public.{table}",
                c=f"t.{name}",
                v=value,
                k="t.calculation_id" if table == "atomic_properties" else "t.id",
                id=attacked.key(BOB, table),
                bob=BOB,
            )
            attacks[f"{column}, {shape}, {setting}, {guess}"] = f"{settings} {EXPLAIN} {statement}"
    said = attacked.attack(attacks)
    plans = {
        name: re.sub(r"-?777\.(?:125|25)|bobs_secret_\w+", "", said[name].shown + said[name].errors)
        for name in attacks
    }
    names = [name.removesuffix(", right") for name in plans if name.endswith(", right")]
    return {name: (plans[f"{name}, right"], plans[f"{name}, wrong"]) for name in names}


def test_a_plan_answers_no_guess_at_a_value(answers: dict[str, tuple[str, str]]) -> None:
    assert {name for name, (right, wrong) in answers.items() if right != wrong} == set()


def test_the_plans_are_there_to_be_compared(answers: dict[str, tuple[str, str]]) -> None:
    assert {
        name for name, (right, wrong) in answers.items() if not ("actual rows" in right and "actual" in wrong)
    } == set()
    assert len(answers) > 1000


# What the attack comes to: a value is read bit by bit, though no row of it is ever shown.


def bisected(attacked: Attacked, ask: Callable[[float], str], low: float, high: float) -> float:
    """The largest number for which the plan says that a row passes."""
    for _ in range(40):
        middle = (low + high) / 2
        said = attacked.attack({"guess": f"{EXPLAIN} {ask(middle)}"})["guess"].shown
        if "never executed" in said:
            high = middle
        else:
            low = middle
    return round(low, 6)


def test_a_number_of_another_s_row_is_not_read_by_bisection(attacked: Attacked) -> None:
    key = attacked.key(BOB, "calculations")

    found = bisected(
        attacked, lambda x: f"SELECT FROM public.calculations WHERE id = {key} AND gap > ANY ('{{{x}}}')", 0, 1000
    )

    assert found != 777.125


def test_a_text_of_another_s_row_is_not_read_letter_by_letter(attacked: Attacked) -> None:
    key = attacked.key(BOB, "molecules")
    letters = "abcdefghijklmnopqrstuvwxyz_0123456789"
    found = ""
    for _ in WORD:
        said = attacked.attack(
            {
                letter: f"{EXPLAIN} SELECT FROM public.molecules WHERE id = {key} "
                f"AND smiles >= ANY ('{{{found}{letter}}}') AND smiles <= ANY ('{{{found}{letter}~}}')"
                for letter in letters
            }
        )
        passed = [letter for letter, one in said.items() if "never executed" not in one.shown]
        if len(passed) != 1:
            break
        found += passed[0]

    assert found != WORD
