"""What a tenant login can infer of others all the same. The documentation names the same list."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg2
import pytest

from tests.fixtures.attacks import ATTACKER, GUESS, HIDDEN, WORD, Attacked
from tests.fixtures.tenants import ALICE, BOB

INSERT = (
    "INSERT INTO public.molecules (smiles, formula, inchikey) "
    "SELECT '{}' || i, 'CH4', 'KEY' FROM generate_series(1, 300) AS i"
)
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS OFF, COSTS OFF, TIMING OFF, SUMMARY OFF)"


@dataclass(frozen=True, slots=True)
class Inference:
    """One thing that is known of others.

    Parameters
    ----------
    probe
        SQL of Alice's whose answer depends on what Bob does.
    act
        SQL that Bob runs and commits between two probes.
    held
        SQL of Bob's in a transaction that is open at the second probe.
    versions
        Versions of PostgreSQL that answer.
    analyzed
        Whether the statistics are collected between the probes, as autovacuum does.
    """

    probe: str
    act: str = ""
    held: str = ""
    versions: tuple[int, ...] = (15, 16, 18)
    analyzed: bool = False


INFERRED = {
    "planner estimates (EXPLAIN rows=)": Inference(
        "EXPLAIN SELECT FROM public.molecules WHERE inchikey = 'KEY'", INSERT.format("estimate"), analyzed=True
    ),
    "number of rows in pg_class": Inference(
        "SELECT reltuples, relpages FROM pg_class WHERE relname = 'molecules'", INSERT.format("page"), analyzed=True
    ),
    "counters of pg_stat_user_tables": Inference(
        "SELECT n_tup_ins, n_live_tup, seq_scan FROM pg_stat_user_tables WHERE relname = 'molecules'",
        INSERT.format("count"),
    ),
    "sizes of tables and indexes": Inference(
        "SELECT pg_total_relation_size('public.molecules')", INSERT.format("size")
    ),
    "gaps in ids": Inference(
        "INSERT INTO public.molecules (smiles, formula) VALUES ('gap', 'C') RETURNING id / 200",
        INSERT.format("gap"),
    ),
    "whether an id is in use (EXPLAIN ANALYZE)": Inference(
        f"{EXPLAIN} SELECT FROM public.molecules WHERE id = {{molecule}}",
        "DELETE FROM public.molecules WHERE id = {molecule}",
    ),
    "number of rows that a whole table has (EXPLAIN ANALYZE)": Inference(
        f"SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off; "
        f"{EXPLAIN} SELECT FROM public.molecules",
        INSERT.format("rows"),
    ),
    "number of children of a guessed parent (EXPLAIN ANALYZE, PostgreSQL 15 and 16)": Inference(
        f"SET LOCAL enable_seqscan = off; {EXPLAIN} SELECT FROM public.calculations WHERE molecule_id = {{parent}}",
        "INSERT INTO public.calculations (molecule_id, energy) SELECT {parent}, 1 FROM generate_series(1, 50)",
        versions=(15, 16),
    ),
    "size of a long text of a guessed id (EXPLAIN BUFFERS)": Inference(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS) "
        "SELECT FROM public.molecules WHERE id = {parent} AND input_smiles > ANY ('{{a}}')",
        "UPDATE public.molecules SET input_smiles = (SELECT string_agg(sha256(i::text::bytea)::text, '') "
        "FROM generate_series(1, 20000) AS i) WHERE id = {parent}",
    ),
    "positions of row versions (currtid2)": Inference(
        "SELECT currtid2('public.batch_jobs', format('(0,%s)', i)::tid) FROM generate_series(1, 20) AS i",
        "UPDATE public.batch_jobs SET status = 'failed'",
    ),
    "transaction numbers and the position of the log": Inference(
        "SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn()", INSERT.format("log")
    ),
    "names of roles and their groups": Inference(
        f"SELECT rolname FROM pg_roles JOIN pg_auth_members ON member = pg_roles.oid WHERE rolname = '{HIDDEN}' "
        "AND roleid = 'qforge_tenant'::regrole AND EXISTS (SELECT FROM pg_stat_activity WHERE usename = rolname)",
        held="SELECT 1",
    ),
    "sessions: login, application, database (pg_stat_activity)": Inference(
        f"SELECT usename, application_name, datname, query FROM pg_stat_activity WHERE usename = '{HIDDEN}'",
        held="SET application_name = 'bobs program'; SELECT '{word}'",
    ),
    "locks: on which tables, by which session (pg_locks)": Inference(
        "SELECT relation::regclass, mode FROM pg_locks WHERE mode = 'ShareLock'",
        held="LOCK TABLE public.batch_jobs IN SHARE MODE",
    ),
    "advisory locks: a guess at their key": Inference(
        f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = "
        f"hashtextextended('{BOB}/' || {GUESS}, 0)",
        held=f"SELECT pg_advisory_xact_lock(hashtextextended('{BOB}/{{word}}', 0))",
    ),
    "definitions: text of temporary views and functions (pg_class, pg_proc)": Inference(
        f"SELECT pg_get_viewdef(oid) LIKE '%' || {GUESS} || '%' FROM pg_class WHERE relname = 'bobs_view'",
        held="CREATE TEMP VIEW bobs_view AS SELECT '{word}'; COMMIT; BEGIN",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def probed(attacked: Attacked) -> Iterator[Attacked]:
    with attacked.copy() as copied:
        yield copied


@pytest.mark.parametrize("name", INFERRED)
def test_it_is_inferred(probed: Attacked, name: str) -> None:
    inference = INFERRED[name]
    values = {"molecule": probed.key(BOB, "molecules"), "parent": 0, "word": WORD}
    made = probed.attack(
        {"": f"INSERT INTO public.molecules (smiles, formula) VALUES ('parent of {name}', 'C') RETURNING id"},
        kept=True,
        user=HIDDEN,
    )
    values["parent"] = int(made[""].shown)

    before = answer(probed, inference.probe.format(**values))
    if inference.act:
        done = probed.attack({"act": inference.act.format(**values)}, kept=True, user=HIDDEN)
        assert done["act"].errors == ""
    if inference.analyzed:
        probed.admin("ANALYZE public.molecules")
    url = probed.databases.server.url(probed.name, user=HIDDEN).replace("+psycopg2", "")
    if inference.held:
        with closing(psycopg2.connect(url)) as bob, bob.cursor() as cursor:
            cursor.execute(inference.held.format(**values))
            after = answer(probed, inference.probe.format(**values))
    else:
        after = answer(probed, inference.probe.format(**values))

    assert (before != after) is (probed.version in inference.versions)
    # It is never a value.
    assert WORD not in before + after


# A value that is common in a column is more than inferred: the cost of "x <= guess" makes a step at it. SMILES, of
# which nearly every row has one of its own, are not common.


def test_a_common_value_is_read_from_planner_estimates(attacked: Attacked) -> None:
    with attacked.copy() as copied:
        copied.admin(
            "INSERT INTO public.molecules (user_id, smiles, formula) "
            f"SELECT '{BOB}', '{WORD}' || i, 'CH4' FROM generate_series(1, 4000) AS i",
            "ANALYZE public.molecules",
        )
        url = copied.databases.server.url(copied.name, user=ATTACKER).replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as alice, alice.cursor() as cursor:

            def cost(number: int) -> str:
                cursor.execute(f"EXPLAIN SELECT FROM public.molecules WHERE user_id <= '{uuid.UUID(int=number)}'")
                return re.sub(r".*\((.*)\)", r"\1", str(cursor.fetchall()[0][0]))

            low, high = ALICE.int, 2**128 - 1
            below = cost(low)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if cost(middle) == below else (low, middle)

    assert uuid.UUID(int=high) == BOB


def answer(probed: Attacked, probe: str) -> str:
    said = probed.attack({"": probe})[""]
    assert said.state == "00000", said
    return re.sub(r"Planning:\n +Buffers:.*\n", "", said.shown)
