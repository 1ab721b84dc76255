"""Names, operators, types and functions of a tenant's own: ours do not use them, and they are shown only its rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.attacks import ATTACKER, GUESS, WORD, Attacked
from tests.fixtures.catalog import TABLES
from tests.fixtures.tenants import ALICE, BOB

# Stand-ins, each of which says that it was used. pg_temp is the only schema in which a tenant makes anything.
CRY = "BEGIN RAISE WARNING 'hijacked'; RETURN {value}; END"
FUNCTIONS = {
    "session_user()": ("name", "'postgres'"),
    "current_user()": ("name", "'postgres'"),
    "now()": ("timestamptz", "'2001-01-01'"),
    "current_setting(text)": ("text", f"'{BOB}'"),
    "current_setting(text, bool)": ("text", f"'{BOB}'"),
    "set_config(text, text, bool)": ("text", "''"),
    "pg_has_role(name, name, text)": ("bool", "true"),
    "pg_current_xact_id()": ("xid8", "'7'"),
    "to_jsonb(anyelement)": ("jsonb", "'{}'"),
    "to_jsonb(public.molecules)": ("jsonb", "'{}'"),
    "to_jsonb(public.calculations)": ("jsonb", "'{}'"),
    "jsonb_build_object(text, jsonb)": ("jsonb", "'{}'"),
    "jsonb_build_object(text, jsonb, text, jsonb)": ("jsonb", "'{}'"),
    "sha256(bytea)": ("bytea", "''"),
    "replace(text, text, text)": ("text", "''"),
    "coalesce(text, text)": ("text", "''"),
    "lower(text)": ("text", "'delete'"),
    "current_user_id()": ("uuid", f"'{BOB}'"),
    "login_kind()": ("text", "'service'"),
    "uid()": ("uuid", f"'{BOB}'"),
    "eq(uuid, uuid)": ("bool", "true"),
    "eq(name, name)": ("bool", "true"),
    "eq(text, text)": ("bool", "true"),
    "eq(bigint, bigint)": ("bool", "true"),
    "minus(jsonb, text[])": ("jsonb", "'{}'"),
    "plus(jsonb, jsonb)": ("jsonb", "'{}'"),
    "plus(text, text)": ("text", "''"),
    "any_of(uuid, uuid[])": ("bool", "true"),
}
OPERATORS = {
    "= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = pg_temp.eq)",
    "= (LEFTARG = name, RIGHTARG = name, FUNCTION = pg_temp.eq)",
    "= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.eq)",
    "= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = pg_temp.eq)",
    "= (LEFTARG = uuid, RIGHTARG = uuid[], FUNCTION = pg_temp.any_of)",
    "- (LEFTARG = jsonb, RIGHTARG = text[], FUNCTION = pg_temp.minus)",
    "|| (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = pg_temp.plus)",
    "|| (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.plus)",
}
RELATIONS = {
    "event_logs": "(LIKE public.event_logs INCLUDING DEFAULTS)",
    "molecules": "(LIKE public.molecules)",
    "calculations": "(LIKE public.calculations)",
    "new_rows": "(LIKE public.molecules)",
    "old_rows": "(LIKE public.molecules)",
    "tenant_logins": f"AS SELECT '{ATTACKER}'::name AS login, '{BOB}'::uuid AS user_id",
    "alembic_version": "AS SELECT '9999' AS version_num",
    "pg_roles": f"AS SELECT '{ATTACKER}'::name AS rolname, true AS rolsuper",
    "pg_class": "(LIKE pg_catalog.pg_class)",
    "pg_authid": "(rolname name)",
}
TYPES = ("uuid", "text", "bytea", "jsonb", "bigint", "name", "timestamptz", "int8")
SHADOWS = [
    *(
        f"CREATE FUNCTION pg_temp.{name} RETURNS {kind} LANGUAGE plpgsql COST 0.0001 "
        f"AS $f$ {CRY.format(value=value)} $f$"
        for name, (kind, value) in FUNCTIONS.items()
    ),
    *(f"CREATE OPERATOR pg_temp.{operator}" for operator in sorted(OPERATORS)),
    *(f"CREATE TEMP TABLE {name} {definition}" for name, definition in RELATIONS.items()),
    *(f'CREATE DOMAIN pg_temp."{name}" AS pg_catalog.int4 CHECK (value > 7)' for name in TYPES),
    "CREATE TYPE pg_temp.me AS (x pg_catalog.int4)",
    "CREATE FUNCTION pg_temp.as_bob(pg_temp.me) RETURNS pg_catalog.uuid LANGUAGE sql "
    f"RETURN '{BOB}'::pg_catalog.uuid",
    "CREATE CAST (pg_temp.me AS pg_catalog.uuid) WITH FUNCTION pg_temp.as_bob(pg_temp.me) AS IMPLICIT",
    "INSERT INTO pg_temp.new_rows (id, user_id, formula, charge, metadata, created_at, updated_at) "
    f"VALUES (1, '{BOB}', 'forged', 0, '{{}}', pg_catalog.now(), pg_catalog.now())",
]
PATHS = ("pg_temp, pg_catalog, public", "pg_temp", "public, pg_temp, pg_catalog", "''")

ACTIONS = {
    "who": "SELECT qforge.current_user_id(), qforge.login_kind()",
    "insert": "INSERT INTO public.molecules (smiles, formula) VALUES ('shadow', 'CH4')",
    "update": "UPDATE public.molecules SET name = 'shadow' WHERE smiles OPERATOR(pg_catalog.=) 'shadow'",
    "enrich": "SELECT qforge.enrich_event('molecules', max(id), 'molecule_updated', '{}'::pg_catalog.jsonb) "
    "FROM public.molecules WHERE smiles OPERATOR(pg_catalog.=) 'shadow'",
    "delete": "DELETE FROM public.molecules WHERE smiles OPERATOR(pg_catalog.=) 'shadow'",
    "as Bob by a cast": (
        "INSERT INTO public.molecules (user_id, smiles, formula) VALUES (ROW(1)::pg_temp.me, 'cast', 'CH4')"
    ),
}
EVENTS = (
    "SELECT event_type, actor, recorded_by, user_id, created_at OPERATOR(pg_catalog.>=) pg_catalog.now(), "
    "transaction_id OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8, "
    "context OPERATOR(pg_catalog.->) 'before' OPERATOR(pg_catalog.->>) 'smiles', "
    "context OPERATOR(pg_catalog.->) 'after' OPERATOR(pg_catalog.->>) 'name', "
    "context OPERATOR(pg_catalog.?) 'program' "
    "FROM public.event_logs "
    "WHERE created_at OPERATOR(pg_catalog.>=) pg_catalog.now() ORDER BY id"
)


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after all of this."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


@pytest.mark.parametrize("path", PATHS)
def test_no_name_of_the_tenant_s_own_is_used_by_ours(attacked: Attacked, path: str) -> None:
    names = [name for name in ACTIONS if name != "as Bob by a cast"]
    said = attacked.attack(
        {
            "shadows": ";\n".join(["BEGIN", *SHADOWS, f"SET LOCAL search_path = {path}"]),
            **{name: ACTIONS[name] for name in names},
            "events": EVENTS,
            "shadowed": "SELECT pg_catalog.count(*) FROM pg_temp.event_logs UNION ALL "
            "SELECT pg_catalog.count(*) FROM pg_temp.molecules",
            "as Bob by a cast": ACTIONS["as Bob by a cast"],
            "end": "ROLLBACK",
        },
        kept=True,
    )

    assert {name: one.state for name, one in said.items()} == dict.fromkeys(said, "00000") | {
        "as Bob by a cast": "42501"
    }
    assert {name: one.errors for name, one in said.items() if "hijacked" in one.errors} == {}
    assert said["who"].shown.strip() == f"{ALICE}|tenant"
    assert said["events"].shown.splitlines() == [
        f"molecule_created|{ATTACKER}|trigger|{ALICE}|t|t|||f",
        f"molecule_updated|{ATTACKER}|trigger|{ALICE}|t|t|shadow|shadow|t",
        f"molecule_deleted|{ATTACKER}|trigger|{ALICE}|t|t|shadow||f",
    ]
    assert said["shadowed"].shown.split() == ["0", "0"]


def test_the_shadows_cry_when_they_are_called(attacked: Attacked) -> None:
    calls = {
        "function": "SELECT pg_temp.now()",
        "operator": "SELECT 'a'::pg_catalog.text OPERATOR(pg_temp.=) 'b'::pg_catalog.text",
    }
    script = ";\n".join(SHADOWS)

    said = attacked.attack({name: f"{script};\n{call}" for name, call in calls.items()})

    assert {name: "hijacked" in one.errors for name, one in said.items()} == {"function": True, "operator": True}


# Functions that tell what they are given ----------------------------------------------------------------------------

TELL = (
    "CREATE FUNCTION pg_temp.tell(anyelement) RETURNS bool LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 0.0000001 "
    "AS $f$ BEGIN RAISE WARNING 'told %', $1; RETURN true; END $f$;\n"
    "CREATE FUNCTION pg_temp.both(text, text) RETURNS bool LANGUAGE plpgsql IMMUTABLE COST 0.0000001 "
    "AS $f$ BEGIN RAISE WARNING 'told % %', $1, $2; RETURN true; END $f$;\n"
    "CREATE FUNCTION pg_temp.both(float8, float8) RETURNS bool LANGUAGE plpgsql IMMUTABLE COST 0.0000001 "
    "AS $f$ BEGIN RAISE WARNING 'told % %', $1, $2; RETURN true; END $f$;\n"
    "CREATE FUNCTION pg_temp.keep(text, anyelement) RETURNS text LANGUAGE sql IMMUTABLE "
    "AS $f$ SELECT concat_ws(',', $1, $2::text) $f$;\n"
    "CREATE AGGREGATE pg_temp.collect(anyelement) (SFUNC = pg_temp.keep, STYPE = text);\n"
    "CREATE TEMP TABLE mine (word text, number float8, id bigint);\n"
    "INSERT INTO mine SELECT 'x', 1, i FROM generate_series(1, 40) AS i;\n"
)
# Where a function of one's own may stand; {t} is one of our tables.
PLACES = {
    "where": "SELECT FROM {t} AS t WHERE pg_temp.tell(t)",
    "where of a column": "SELECT FROM {t} AS t WHERE pg_temp.tell(t.user_id) AND pg_temp.tell(t.created_at)",
    "where before a cheap condition": "SELECT FROM {t} AS t WHERE user_id IS NOT NULL AND pg_temp.tell(t) OR false",
    "case": "SELECT FROM {t} AS t WHERE CASE WHEN pg_temp.tell(t) THEN true END",
    "order by": "SELECT FROM {t} AS t ORDER BY pg_temp.tell(t)",
    "group by": "SELECT FROM {t} AS t GROUP BY pg_temp.tell(t)",
    "having": "SELECT FROM {t} AS t GROUP BY t HAVING pg_temp.tell(t)",
    "distinct on": "SELECT DISTINCT ON (pg_temp.tell(t)) 1 FROM {t} AS t",
    "aggregate": "SELECT pg_temp.collect(t) FROM {t} AS t",
    "ordered aggregate": (
        "SELECT pg_temp.collect(t ORDER BY pg_temp.tell(t)) FILTER (WHERE pg_temp.tell(t)) FROM {t} AS t"
    ),
    "window": "SELECT pg_temp.collect(t) OVER (PARTITION BY pg_temp.tell(t) ORDER BY user_id) FROM {t} AS t",
    "lateral": "SELECT FROM {t} AS t, LATERAL pg_temp.tell(t) AS told",
    "left join": "SELECT FROM mine LEFT JOIN {t} AS t ON pg_temp.tell(t)",
    "full join": "SELECT FROM mine FULL JOIN {t} AS t ON mine.id = {key} AND pg_temp.tell(t.user_id)",
    "semi join": "SELECT FROM mine WHERE EXISTS (SELECT FROM {t} AS t WHERE {key} = mine.id AND pg_temp.tell(t))",
    "anti join": "SELECT FROM mine WHERE mine.id NOT IN (SELECT {key} FROM {t} AS t WHERE pg_temp.tell(t))",
    "nested loop by key": (
        "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; "
        "SELECT FROM mine JOIN {t} AS t ON {key} = mine.id AND pg_temp.tell(t)"
    ),
    "tid scan": "SELECT FROM {t} AS t WHERE ctid = '(0,2)' AND pg_temp.tell(t)",
    "limit": "SELECT FROM {t} AS t WHERE pg_temp.tell(t) LIMIT 1 OFFSET 1",
    "subquery": "SELECT (SELECT pg_temp.tell(t) FROM {t} AS t LIMIT 1)",
    "recursive": "WITH RECURSIVE r AS (SELECT t FROM {t} AS t UNION SELECT t FROM r WHERE pg_temp.tell(t)) TABLE r",
    "cte": "WITH c AS NOT MATERIALIZED (SELECT * FROM {t}) SELECT FROM c WHERE pg_temp.tell(c)",
    "view without barrier": (
        "CREATE TEMP VIEW v WITH (security_barrier = false) AS SELECT * FROM {t}; SELECT FROM v WHERE pg_temp.tell(v)"
    ),
    "view that checks": (
        "CREATE TEMP VIEW v AS SELECT * FROM {t} AS t WHERE pg_temp.tell(t) WITH CASCADED CHECK OPTION; TABLE v"
    ),
    "materialized": "CREATE TEMP TABLE m AS SELECT * FROM {t}; SELECT FROM m WHERE pg_temp.tell(m)",
    "domain": (
        "CREATE DOMAIN pg_temp.telling AS uuid CHECK (pg_temp.tell(value)); SELECT user_id::pg_temp.telling FROM {t}"
    ),
    "parallel": (
        "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; "
        "SET LOCAL min_parallel_table_scan_size = 0; SELECT FROM {t} AS t WHERE pg_temp.tell(t)"
    ),
    "set returning": "SELECT unnest(ARRAY[t]), pg_temp.tell(t) FROM {t} AS t",
    "row comparison": "SELECT FROM {t} AS a JOIN {t} AS b ON a = b WHERE pg_temp.tell(a) AND pg_temp.tell(b)",
    "query of text": "SELECT query_to_xml('SELECT pg_temp.tell(t) FROM {t} AS t', true, true, '')",
    "statistics of text": "SELECT * FROM ts_stat('SELECT to_tsvector(t::text) FROM {t} AS t')",
}  # fmt: skip
KEYS = dict.fromkeys(TABLES, "t.id") | {"atomic_properties": "t.calculation_id"}


def test_a_function_is_told_only_what_its_caller_sees(attacked: Attacked) -> None:
    said = attacked.attack(
        {
            f"{name}: {table}": TELL + place.format(t=f"public.{table}", key=KEYS[table])
            for name, place in PLACES.items()
            for table in TABLES
        }
    )

    # Without libxml there is no query_to_xml.
    assert {name: one.state for name, one in said.items() if one.state not in {"00000", "0A000"}} == {}
    assert {name: one.leaked for name, one in said.items() if one.leaked} == {}
    silent = {name for name, one in said.items() if str(ALICE) not in one.shown + one.errors}
    assert {name.partition(":")[0] for name in silent} <= {
        "tid scan", "query of text", "statistics of text", "nested loop by key", "full join", "semi join",
        "anti join", "recursive", "limit", "subquery",
    }  # fmt: skip


def test_writing_tells_a_function_nothing_of_another_s(attacked: Attacked) -> None:
    bob = attacked.key(BOB, "molecules")
    said = attacked.attack(
        {
            name: TELL + statement
            for name, statement in {
                "returning": "UPDATE public.molecules AS t SET name = 'x' WHERE pg_temp.tell(t) "
                "RETURNING pg_temp.tell(t)",
                "deleting": "DELETE FROM public.molecules AS t WHERE pg_temp.tell(t) RETURNING pg_temp.tell(t)",
                "merging": "MERGE INTO public.molecules AS t USING mine ON pg_temp.tell(t) AND mine.id = 1 "
                f"WHEN MATCHED AND pg_temp.tell(t) AND t.user_id = '{ALICE}' THEN DELETE",
                "conflict": f"INSERT INTO public.molecules AS t (smiles, formula) VALUES ({GUESS}, '') "
                "ON CONFLICT (user_id, identity_hash) DO UPDATE SET name = 'x' WHERE pg_temp.tell(t)",
                "locking": "SELECT FROM public.molecules AS t WHERE pg_temp.tell(t) FOR UPDATE",
                "checking": f"INSERT INTO public.calculations (molecule_id, energy) SELECT {bob}, 1 "
                "FROM public.molecules AS t WHERE pg_temp.tell(t)",
            }.items()
        }
    )

    assert {name: one.state for name, one in said.items()} == dict.fromkeys(said, "00000") | {"checking": "42501"}
    assert {name: one.leaked for name, one in said.items() if one.leaked} == {}


# Before CVE-2017-7484 and CVE-2019-10130 were closed, the planner gave sampled values to an operator of one's own.
ESTIMATORS = ("eqsel", "neqsel", "scalarltsel", "scalarlesel", "scalargtsel", "scalargesel", "matchingsel", "likesel")
JOIN_ESTIMATORS = ("eqjoinsel", "neqjoinsel", "scalarltjoinsel", "matchingjoinsel")


@pytest.fixture(scope="module")
def analyzed(attacked: Attacked) -> Iterator[Attacked]:
    """The same with Bob's values among the statistics."""
    with attacked.copy() as copied:
        copied.admin(
            "INSERT INTO public.molecules (user_id, smiles, formula, name) "
            f"SELECT '{BOB}', '{WORD}' || i, '{WORD}', '{WORD}' FROM generate_series(1, 400) AS i",
            "INSERT INTO public.calculations (user_id, molecule_id, energy, gap, solvent) "
            f"SELECT user_id, id, -777.125, 777.125 + id, '{WORD}' FROM public.molecules WHERE user_id = '{BOB}'",
            "ANALYZE",
        )
        yield copied


def test_the_planner_tells_an_operator_no_sampled_value(analyzed: Attacked) -> None:
    signs = {f"<{'#' * (n + 1)}>": restrict for n, restrict in enumerate(ESTIMATORS)}
    operators = [
        f"CREATE OPERATOR pg_temp.{sign} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = pg_temp.both, "
        f"RESTRICT = {restrict}, JOIN = {join})"
        for (sign, restrict), join in zip(signs.items(), JOIN_ESTIMATORS * 2, strict=True)
        for kind in ("text", "float8")
    ]
    names = [f"OPERATOR(pg_temp.{sign})" for sign in signs]
    attempts = {
        f"{name} {column}": f"EXPLAIN SELECT FROM public.{table} AS t WHERE {column} {name} {value}"
        for name in names
        for table, column, value in (
            ("molecules", "formula", "'x'"),
            ("molecules", "smiles", "'x'"),
            ("calculations", "energy", "1"),
            ("calculations", "gap", "1"),
        )
    } | {
        f"{name} joins {table}": f"EXPLAIN SELECT FROM public.{table} AS t JOIN mine ON t.{one} {name} mine.{other}"
        for name in names
        for table, one, other in (("molecules", "formula", "word"), ("calculations", "gap", "number"))
    }

    said = analyzed.attack(
        {"operators": TELL.replace("CREATE", "BEGIN; CREATE", 1) + ";\n".join(operators) + ";\nANALYZE mine"}
        | attempts
        | {"control": f"EXPLAIN SELECT FROM mine WHERE word {names[0]} 'y'", "end": "ROLLBACK"},
        kept=True,
    )

    assert {name: one.state for name, one in said.items() if one.state != "00000"} == {}
    assert {name: one.leaked for name, one in said.items() if one.leaked} == {}
    assert "told x y" in said["control"].errors


def test_the_statistics_of_values_are_not_read(analyzed: Attacked) -> None:
    said = analyzed.attack(
        {
            "pg_stats": "SELECT * FROM pg_stats WHERE schemaname = 'public' OR tablename = 'tenant_logins'",
            "pg_stats_ext": "SELECT * FROM pg_stats_ext",
            "pg_stats_ext_exprs": "SELECT * FROM pg_stats_ext_exprs",
            "pg_statistic": "SELECT * FROM pg_statistic",
            "pg_statistic_ext_data": "SELECT * FROM pg_statistic_ext_data",
        }
    )

    assert {name: one.leaked for name, one in said.items() if one.leaked} == {}
    assert {name: one.shown for name, one in said.items()} == dict.fromkeys(said, "")
    assert [said[name].state for name in ("pg_statistic", "pg_statistic_ext_data")] == ["42501", "42501"]
