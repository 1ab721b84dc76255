"""Every verb on every table by plain psql, against rows of another: nothing comes back and nothing changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

import pytest

from tests.fixtures.attacks import GUESS, Attacked, Said
from tests.fixtures.catalog import TABLES
from tests.fixtures.rows import UPDATES
from tests.fixtures.tenants import ALICE, BOB

DONE = "00000"
DENIED = "42501"
NO_COPY = "0A000"
WRITABLE = tuple(table for table in TABLES if table != "event_logs")

# Values of a row that is Bob's, below Bob's parents.
VALUES = {
    "molecules": f"(user_id, smiles, formula) VALUES ('{{owner}}', {GUESS}, 'CH4')",
    "calculations": f"(user_id, molecule_id, energy, source_id) VALUES ('{{owner}}', {{molecules}}, -1, {GUESS})",
    "atomic_properties": "(user_id, calculation_id, atom_index, element, atomic_number, position_x, position_y, "
    "position_z) VALUES ('{owner}', {calculations}, 0, 'C', 6, 0, 0, 0)",
    "batch_jobs": f"(user_id, batch_name) VALUES ('{{owner}}', {GUESS})",
    "batch_items": "(user_id, batch_id, molecule_id) VALUES ('{owner}', {batch_jobs}, {molecules})",
    "event_logs": "(user_id, event_type, entity_type) VALUES ('{owner}', 'error', 'system')",
}
# What a conflict is looked for by; what Alice may name there are columns that she reads.
KEYS = {
    "molecules": "(user_id, identity_hash)",
    "calculations": "(user_id, source_id) WHERE source_id IS NOT NULL",
    "atomic_properties": "(calculation_id, user_id, atom_index)",
    "batch_jobs": "(id)",
    "batch_items": "(batch_id, user_id, molecule_id)",
    "event_logs": "(id)",
}

# Statements on rows that Alice does not see: they find none. Events nobody may even try to change.
FINDS_NONE = {
    "select": "SELECT * FROM public.{table} WHERE {bob}",
    "select of everything but mine": "SELECT * FROM public.{table} WHERE user_id IS NULL OR user_id = '{owner}'",
    "table of a row": "SELECT t FROM public.{table} AS t WHERE {bob}",
    "copy of a query": "COPY (SELECT * FROM public.{table} WHERE {bob}) TO STDOUT",
    "select in a function": (
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF public.{table} LANGUAGE sql SECURITY DEFINER "
        "AS 'SELECT * FROM public.{table} WHERE {bob}'; SELECT pg_temp.f()"
    ),
    "prepared": "PREPARE p_{table} AS SELECT * FROM public.{table} WHERE {bob}; EXECUTE p_{table}",
    "cursor": "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM public.{table} WHERE {bob}; FETCH ALL FROM c",
    "create table as": "CREATE TEMP TABLE t AS SELECT * FROM public.{table} WHERE {bob}; SELECT * FROM t",
    "select into": "SELECT * INTO TEMP t FROM public.{table} WHERE {bob}; SELECT * FROM t",
    "tablesample": "SELECT * FROM public.{table} TABLESAMPLE SYSTEM (100) WHERE {bob}",
}
CHANGES_NONE = {
    "update": "UPDATE public.{table} SET {assignment} WHERE {bob} RETURNING *",
    "update of all": "UPDATE public.{table} SET {assignment} WHERE user_id IS DISTINCT FROM '{alice}' RETURNING *",
    "update from": (
        "UPDATE public.{table} AS t SET {assignment} FROM (VALUES (1)) AS v WHERE t.user_id = '{owner}' RETURNING t"
    ),
    "update in a CTE": ("WITH u AS (UPDATE public.{table} SET {assignment} WHERE {bob} RETURNING *) SELECT * FROM u"),
    "delete": "DELETE FROM public.{table} WHERE {bob} RETURNING *",
    "delete using": "DELETE FROM public.{table} USING (VALUES (1)) AS v (x) WHERE {bob} RETURNING *",
    "delete of all others": "DELETE FROM public.{table} WHERE user_id IS DISTINCT FROM '{alice}' RETURNING *",
    "merge update": (
        "MERGE INTO public.{table} USING (VALUES (1)) AS v (x) ON {bob} WHEN MATCHED THEN UPDATE SET {assignment}"
    ),
    "merge delete": "MERGE INTO public.{table} USING (VALUES (1)) AS v (x) ON {bob} WHEN MATCHED THEN DELETE",
    "select for update": "SELECT * FROM public.{table} WHERE {bob} FOR UPDATE",
    "select for no key update": "SELECT * FROM public.{table} WHERE {bob} FOR NO KEY UPDATE SKIP LOCKED",
    "select for share": "SELECT * FROM public.{table} WHERE {bob} FOR SHARE NOWAIT",
    "select for key share": "SELECT * FROM public.{table} WHERE {bob} FOR KEY SHARE",
    "view": (
        "CREATE TEMP VIEW v WITH (security_barrier) AS SELECT * FROM public.{table} WHERE {bob}; "
        "DELETE FROM v RETURNING *"
    ),
    "rule": (
        "CREATE TEMP TABLE t (x int); CREATE RULE r AS ON INSERT TO t DO INSTEAD "
        "UPDATE public.{table} SET {assignment} WHERE {bob}; INSERT INTO t VALUES (1)"
    ),
}
REFUSED = {
    "insert": (DENIED, "INSERT INTO public.{table} {values}"),
    "insert returning": (DENIED, "INSERT INTO public.{table} {values} RETURNING *"),
    "on conflict do nothing": (DENIED, "INSERT INTO public.{table} {values} ON CONFLICT DO NOTHING"),
    "on conflict do update": (
        DENIED, "INSERT INTO public.{table} AS t {values} ON CONFLICT {key} DO UPDATE SET {assignment} RETURNING *",
    ),
    "merge insert": (
        DENIED, "MERGE INTO public.{table} USING (VALUES (1)) AS v ON false WHEN NOT MATCHED THEN INSERT {values}",
    ),
    "truncate": (DENIED, "TRUNCATE public.{table}"),
    "truncate cascade": (DENIED, "TRUNCATE public.{table} RESTART IDENTITY CASCADE"),
    "copy from, every column": (DENIED, "COPY public.{table} FROM STDIN;\n\\."),
    "copy from, own columns": (NO_COPY, "COPY public.{table} ({columns}) FROM STDIN;\n\\."),
    "copy from a program": (DENIED, "COPY public.{table} ({columns}) FROM PROGRAM 'echo'"),
    "copy from a file": (DENIED, "COPY public.{table} ({columns}) FROM '/etc/passwd'"),
    "copy to a file": (DENIED, "COPY public.{table} TO '/tmp/qforge_attack'"),
    "copy to a program": (DENIED, "COPY public.{table} TO PROGRAM 'cat'"),
    "without row security": (DENIED, "SET LOCAL row_security = off; SELECT * FROM public.{table}"),
}  # fmt: skip
SHOWS_NO_SECRET = {
    "everything": "TABLE public.{table}",
    "copy": "COPY public.{table} TO STDOUT",
    "explain analyze of a select": "EXPLAIN (ANALYZE, VERBOSE, TIMING OFF) SELECT * FROM public.{table} WHERE {bob}",
    "aggregate": "SELECT json_agg(t), min(t::text), array_agg(t), string_agg(t::text, ',') FROM public.{table} AS t",
    "window": "SELECT lag(t::text) OVER w, first_value(t) OVER w FROM public.{table} AS t WINDOW w AS ()",
    "group by": "SELECT t FROM public.{table} AS t GROUP BY GROUPING SETS ((t), ())",
    "lateral": "SELECT b FROM public.{table} AS a, LATERAL (SELECT * FROM public.{table} OFFSET 0) AS b",
    "to json": "SELECT to_jsonb(t), row_to_json(t), hstore FROM public.{table} AS t, (VALUES (1)) AS h (hstore)",
    "system columns": "SELECT ctid, xmin, xmax, cmin, cmax, tableoid, * FROM public.{table} ORDER BY ctid",
    "all tids": (
        "SELECT t.* FROM generate_series(0, 3) AS p, generate_series(1, 60) AS i, "
        "LATERAL (SELECT * FROM public.{table} WHERE ctid = format('(%s,%s)', p, i)::tid) AS t"
    ),
    "a range of tids": "SELECT * FROM public.{table} WHERE ctid < '(100,1)'",
}


@pytest.fixture(autouse=True)
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after each test."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


def on_every_table(
    attacked: Attacked, statements: Mapping[str, str], tables: tuple[str, ...] = TABLES
) -> dict[str, Said]:
    """Run statements on each table in one session; they aim at Bob's row."""
    rows = attacked.rows[BOB]
    return attacked.attack(
        {
            f"{name}: {table}": statement.format(
                table=table,
                bob=rows.where(table),
                owner=BOB,
                alice=ALICE,
                assignment=UPDATES[table],
                values=VALUES[table].format(owner=BOB, **rows.parents()),
                key=KEYS[table],
                columns=VALUES[table].partition(")")[0].removeprefix("("),
            )
            for name, statement in statements.items()
            for table in tables
        }
    )


def on_events(name: str) -> bool:
    return name.endswith(": event_logs")


def states(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.state for name, one in said.items()}


def rows_shown(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.shown for name, one in said.items() if one.shown.strip()}


def leaks(said: dict[str, Said]) -> dict[str, list[str]]:
    return {name: one.leaked for name, one in said.items() if one.leaked}


def test_another_s_row_is_not_found(attacked: Attacked) -> None:
    said = on_every_table(attacked, FINDS_NONE)

    assert states(said) == dict.fromkeys(said, DONE)
    assert rows_shown(said) == {}


def test_another_s_row_is_not_touched(attacked: Attacked) -> None:
    said = on_every_table(attacked, CHANGES_NONE)

    assert states(said) == {name: DENIED if on_events(name) else DONE for name in said}
    assert rows_shown(said) == {}
    assert leaks(said) == {}


def test_writing_for_another_and_around_the_policies_is_refused(attacked: Attacked) -> None:
    said = on_every_table(attacked, {name: statement for name, (_, statement) in REFUSED.items()})

    assert states(said) == {name: REFUSED[name.partition(": ")[0]][0] for name in said}
    assert leaks(said) == {}


def test_no_secret_is_shown(attacked: Attacked) -> None:
    said = on_every_table(attacked, SHOWS_NO_SECRET)

    assert states(said) == dict.fromkeys(said, DONE)
    assert leaks(said) == {}


def test_the_plan_of_a_change_tells_nothing_of_another_s(attacked: Attacked) -> None:
    explain = "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
    said = on_every_table(
        attacked,
        {
            "update": explain + "UPDATE public.{table} SET {assignment} WHERE {bob}",
            "delete": explain + "DELETE FROM public.{table} WHERE {bob}",
        },
        tables=WRITABLE,
    )

    assert states(said) == dict.fromkeys(said, DONE)
    assert leaks(said) == {}


def test_the_control_sees_what_the_attacks_are_for(attacked: Attacked) -> None:
    bob = attacked.attack({table: f"TABLE public.{table}" for table in TABLES}, user="attack_bob")

    assert {table for table, one in bob.items() if one.leaked} == set(TABLES)


MODES = (
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE", "ACCESS EXCLUSIVE",
)  # fmt: skip


def test_who_may_delete_rows_may_lock_their_table(attacked: Attacked) -> None:
    said = on_every_table(attacked, {mode: f"LOCK TABLE public.{{table}} IN {mode} MODE NOWAIT" for mode in MODES})

    assert states(said) == {
        name: DENIED if on_events(name) and not name.startswith("ACCESS SHARE:") else DONE for name in said
    }


def test_a_lock_is_no_way_past_a_parent(attacked: Attacked) -> None:
    keys = {owner: attacked.key(owner, "molecules") for owner in (BOB, None)}
    said = attacked.attack(
        {
            str(owner): "WITH m AS MATERIALIZED (SELECT id FROM public.molecules "
            f"WHERE id = {key} FOR KEY SHARE) SELECT count(*) FROM m"
            for owner, key in keys.items()
        }
    )

    assert {one.shown.strip() for one in said.values()} == {"0"}


def test_the_owner_of_a_row_is_chosen_by_nobody(attacked: Attacked) -> None:
    owners: dict[str, uuid.UUID] = {"bob": BOB, "public": uuid.UUID(int=0), "invented": uuid.UUID(int=7)}
    said = attacked.attack(
        {
            f"{name} {table}": f"INSERT INTO public.{table} "
            + VALUES[table].format(owner=owner, **attacked.rows[ALICE].parents())
            for name, owner in owners.items()
            for table in TABLES
        }
    )

    assert set(states(said).values()) == {DENIED}
    assert leaks(said) == {}
