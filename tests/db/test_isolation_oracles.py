"""Nothing answers a guess: not a key, an error, a catalog, a function, a file, another's session."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest

from tests.fixtures.attacks import ATTACKER, GUESS, HIDDEN, WORD, Attacked, Said
from tests.fixtures.catalog import TABLES
from tests.fixtures.tenants import ALICE, BOB

DONE = "00000"
DENIED = "42501"
MISSING = 10**15


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after all of this."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


def states(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.state for name, one in said.items()}


def leaks(said: dict[str, Said]) -> dict[str, list[str]]:
    return {name: one.leaked for name, one in said.items() if one.leaked}


# Keys, parents, errors ----------------------------------------------------------------------------------------------

# {word} is Bob's or none at all, {molecule} and the other keys are Bob's, nobody's or none at all.
GUESSES = {
    "the same molecule": "INSERT INTO public.molecules (smiles, formula) VALUES ({word}, 'CH4') RETURNING charge",
    "the same molecule, on conflict": (
        "INSERT INTO public.molecules AS m (smiles, formula) VALUES ({word}, 'CH4') "
        "ON CONFLICT (user_id, identity_hash) DO UPDATE SET name = 'met' RETURNING m.name"
    ),
    "the same graph": "INSERT INTO public.molecules (graph_hash, formula) VALUES ({word}, 'CH4') RETURNING charge",
    "a molecule that becomes the same": (
        "UPDATE public.molecules SET smiles = {word} WHERE smiles = 'C' RETURNING charge"
    ),
    "the same molecule as Bob": (
        f"INSERT INTO public.molecules (user_id, smiles, formula) VALUES ('{BOB}', {{word}}, '')"
    ),
    "the same molecule as Bob, on conflict": (
        f"INSERT INTO public.molecules (user_id, smiles, formula) VALUES ('{BOB}', {{word}}, '') "
        "ON CONFLICT DO NOTHING"
    ),
    "the same molecule as nobody": (
        "INSERT INTO public.molecules (user_id, smiles, formula) VALUES (NULL, {word}, '')"
    ),
    "the same molecule, merged": (
        "MERGE INTO public.molecules AS m USING (SELECT {word} AS word) AS w ON m.smiles = w.word "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (smiles, formula) VALUES (w.word, 'CH4')"
    ),
    "the same source": (
        "INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES ({mine}, 1, {word}) RETURNING energy"
    ),
    "the same source, on conflict": (
        "INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES ({mine}, 1, {word}) "
        "ON CONFLICT (user_id, source_id) WHERE source_id IS NOT NULL DO UPDATE SET energy = 2 RETURNING energy"
    ),
    "the same source as Bob": (
        "INSERT INTO public.calculations (user_id, molecule_id, energy, source_id) "
        f"VALUES ('{BOB}', {{molecule}}, 1, {{word}})"
    ),
    "the same batch": "INSERT INTO public.batch_jobs (batch_name) VALUES ({word}) RETURNING status",
    "a calculation of a molecule": "INSERT INTO public.calculations (molecule_id, energy) VALUES ({molecule}, 1)",
    "a calculation that breaks a check, too": (
        "INSERT INTO public.calculations (molecule_id, energy, dipole) VALUES ({molecule}, 'NaN', -1)"
    ),
    "a calculation, on conflict": (
        "INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES ({molecule}, 1, 'C') "
        "ON CONFLICT (user_id, source_id) WHERE source_id IS NOT NULL "
        "DO UPDATE SET molecule_id = excluded.molecule_id"
    ),
    "a calculation that moves": "UPDATE public.calculations SET molecule_id = {molecule}",
    "a calculation that moves by a conflict": (
        "INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES ({mine}, 1, 'C') "
        "ON CONFLICT (user_id, source_id) WHERE source_id IS NOT NULL DO UPDATE SET molecule_id = {molecule}"
    ),
    "a calculation that moves by a merge": (
        f"MERGE INTO public.calculations AS c USING (VALUES (1)) AS v ON c.user_id = '{ALICE}' "
        "WHEN MATCHED THEN UPDATE SET molecule_id = {molecule}"
    ),
    "a calculation, explained": (
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
        "INSERT INTO public.calculations (molecule_id, energy) VALUES ({molecule}, 1)"
    ),
    "atoms": (
        "INSERT INTO public.atomic_properties (calculation_id, atom_index, element, atomic_number, position_x, "
        "position_y, position_z) VALUES ({calculation}, 0, 'C', 6, 0, 0, 0)"
    ),
    "atoms of Bob's": (
        "INSERT INTO public.atomic_properties (user_id, calculation_id, atom_index, element, atomic_number, "
        f"position_x, position_y, position_z) VALUES ('{BOB}', {{calculation}}, 0, 'C', 6, 0, 0, 0) "
        "ON CONFLICT DO NOTHING"
    ),
    "an item of a batch": "INSERT INTO public.batch_items (batch_id, molecule_id) VALUES ({batch}, {mine})",
    "an item of a molecule": "INSERT INTO public.batch_items (batch_id, molecule_id) VALUES ({my_batch}, {molecule})",
    "an item of a calculation": "UPDATE public.batch_items SET calculation_id = {calculation}",
    "an event of an entity": (
        "INSERT INTO public.event_logs (event_type, entity_type, entity_id) "
        "VALUES ('error', 'molecules', {molecule}) RETURNING status"
    ),
    "enriching": "SELECT qforge.enrich_event('molecules', {molecule}, 'molecule_created', '{{}}')",
    "an order by a key": "SELECT FROM public.molecules WHERE id >= {molecule} AND id <= {molecule} ORDER BY id",
    "a row of a key": "SELECT EXISTS (SELECT FROM public.molecules WHERE id = {molecule} OR smiles = {word})",
    "a conversion of a key": "SELECT 1 / (SELECT count(*) FROM public.molecules WHERE id = {molecule})",
    "a violation of a check": "INSERT INTO public.molecules (smiles, formula, name) VALUES ({word}, 'CH4', '')",
    "a key in the way": "UPDATE public.molecules SET smiles = {word} WHERE id = {molecule} RETURNING id",
}  # fmt: skip
# Numbers of a row of one's own: the next id, which gaps give away anyway, and clocks.
VOLATILE = re.compile(r"\b\d+\b|\d{4}-\d\d-\d\d [\d:.]+\+00")


def test_a_right_guess_is_answered_like_a_wrong_one(attacked: Attacked) -> None:
    mine = {"mine": attacked.key(ALICE, "molecules"), "my_batch": attacked.key(ALICE, "batch_jobs")}
    tables = {"molecule": "molecules", "calculation": "calculations", "batch": "batch_jobs"}
    wrong = mine | dict.fromkeys(tables, MISSING) | {"word": "'wrong'::text"}
    right = {
        owner: mine | {key: attacked.key(owner, table) for key, table in tables.items()} | {"word": f"({GUESS})"}
        for owner in (BOB, None)
    }

    answers = {}
    for name, values in {"wrong": wrong, "Bob's": right[BOB], "nobody's": right[None]}.items():
        said = attacked.attack({guess: sql.format(**values) for guess, sql in GUESSES.items()})
        answers[name] = {
            guess: (one.state, one.shown, VOLATILE.sub("#", one.errors).replace(WORD, "wrong"))
            for guess, one in said.items()
        }

    assert {name: answer for name, answer in answers["Bob's"].items() if answer != answers["wrong"][name]} == {}
    assert {name: answer for name, answer in answers["nobody's"].items() if answer != answers["wrong"][name]} == {}
    states_seen = {answer[0] for answer in answers["wrong"].values()}
    assert states_seen == {DONE, DENIED, "22012", "23514"}


def test_a_sequence_tells_a_tenant_nothing(attacked: Attacked) -> None:
    sequences = [f"{table}_id_seq" for table in TABLES if table != "atomic_properties"]
    probes = {
        "currval": "SELECT currval('public.{s}')",
        "nextval": "SELECT nextval('public.{s}')",
        "setval": "SELECT setval('public.{s}', 1)",
        "row": "SELECT * FROM public.{s}",
        "currval after an insert": (
            "INSERT INTO public.molecules (smiles, formula) VALUES ('CCC', 'C'); SELECT currval('public.{s}')"
        ),
        "lastval after an insert": (
            "INSERT INTO public.molecules (smiles, formula) VALUES ('CCC', 'C'); SELECT lastval()"
        ),
        "restart": "ALTER SEQUENCE public.{s} RESTART",
        "restart by the column": "ALTER TABLE public.molecules ALTER id RESTART",
    }  # fmt: skip
    said = attacked.attack({f"{n} {s}": sql.format(s=s) for n, sql in probes.items() for s in sequences})

    assert states(said) == dict.fromkeys(said, DENIED)
    empty = attacked.attack(
        {
            "pg_sequences": "SELECT last_value FROM pg_sequences WHERE last_value IS NOT NULL",
            "function": "SELECT pg_sequence_last_value('public.molecules_id_seq'::regclass)",
            "data": "SELECT last_value FROM pg_get_sequence_data('public.molecules_id_seq'::regclass)",
        }
    )
    assert {name: one.shown.strip() for name, one in empty.items()} == dict.fromkeys(empty, "")


# The catalog while Bob is at work -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bob_at_work(attacked: Attacked) -> Iterator[psycopg2.extensions.connection]:
    """A session of Bob's in the middle of a transaction, with secrets wherever a session has some."""
    connection = psycopg2.connect(attacked.databases.server.url(attacked.name, user=HIDDEN).replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        cursor.execute(f"SET request.jwt.claims = '{WORD}'")
        cursor.execute(f"PREPARE bobs AS SELECT '{WORD}'")
        cursor.execute("CREATE TEMP TABLE bobs_work (word text)")
        cursor.execute(f"INSERT INTO bobs_work SELECT '{WORD}' FROM generate_series(1, 100)")
        cursor.execute("ANALYZE bobs_work")
        connection.commit()
        cursor.execute(f"DECLARE bobs CURSOR FOR SELECT '{WORD}'")
        cursor.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('{WORD}', 0))")
        cursor.execute(f"INSERT INTO public.molecules (smiles, formula) VALUES ('{WORD}2', '{WORD}')")
        cursor.execute(f"SELECT '{WORD}', 777.125")
    yield connection
    connection.rollback()
    connection.close()


def test_no_relation_of_the_catalog_holds_a_secret(
    attacked: Attacked, bob_at_work: psycopg2.extensions.connection
) -> None:
    names = attacked.admin(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
        "WHERE relkind IN ('r', 'v', 'm') AND nspname !~ '^pg_(temp|toast)'"
    )
    said = attacked.attack({str(row[0]): f"SELECT * FROM {row[0]}" for row in names})

    assert len(said) > 180
    assert leaks(said) == {}
    refused = {name for name, state in states(said).items() if state != DONE}
    assert {
        "qforge.tenant_logins", "pg_catalog.pg_authid", "pg_catalog.pg_statistic", "pg_catalog.pg_shadow",
        "pg_catalog.pg_largeobject", "pg_catalog.pg_hba_file_rules", "pg_catalog.pg_file_settings",
        "pg_catalog.pg_statistic_ext_data", "pg_catalog.pg_user_mapping",
    } <= refused  # fmt: skip


def test_another_s_session_shows_no_text(attacked: Attacked, bob_at_work: psycopg2.extensions.connection) -> None:
    pid = bob_at_work.info.backend_pid
    said = attacked.attack(
        {
            "activity": f"SELECT query, client_addr, state, xact_start FROM pg_stat_activity WHERE pid = {pid}",
            "function": f"SELECT query, client_addr, state, xact_start FROM pg_stat_get_activity({pid})",
            "backend": "SELECT pg_stat_get_backend_activity(b) FROM pg_stat_get_backend_idset() AS b "
            f"WHERE pg_stat_get_backend_pid(b) = {pid}",
            "as the group": "SET ROLE qforge_tenant; "
            f"SELECT query, client_addr FROM pg_stat_activity WHERE pid = {pid}",
        }
    )

    assert {name: one.shown.strip().strip("|") for name, one in said.items()} == dict.fromkeys(
        said, "<insufficient privilege>"
    )


def test_another_s_session_is_not_ended(attacked: Attacked, bob_at_work: psycopg2.extensions.connection) -> None:
    pid = bob_at_work.info.backend_pid
    said = attacked.attack(
        {
            f"{role} {function}": f"SET ROLE {role}; SELECT {function}({pid})"
            for role in ("NONE", "qforge_tenant")
            for function in ("pg_cancel_backend", "pg_terminate_backend", "pg_log_backend_memory_contexts")
        }
    )

    assert states(said) == dict.fromkeys(said, DENIED)
    assert bob_at_work.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INTRANS


def test_another_s_temporary_table_is_closed(attacked: Attacked, bob_at_work: psycopg2.extensions.connection) -> None:
    ((schema, oid),) = attacked.admin(
        "SELECT relnamespace::regnamespace::text, oid FROM pg_class WHERE relname = 'bobs_work'"
    )
    said = attacked.attack(
        {
            "select": f"SELECT * FROM {schema}.bobs_work",
            "drop": f"DROP TABLE {schema}.bobs_work",
            "create": f"CREATE TABLE {schema}.mine (x int)",
            "function": f"CREATE FUNCTION {schema}.now() RETURNS int LANGUAGE sql RETURN 1",
            "analyze": f"ANALYZE {schema}.bobs_work",
            "row": f"SELECT NULL::{schema}.bobs_work",
            "tid": f"SELECT currtid2('{schema}.bobs_work', '(0,1)')",
        }
    )
    stats = attacked.attack(
        {
            "mine": "SELECT * FROM pg_stats WHERE tablename = 'bobs_work'",
            "group": "SET ROLE qforge_tenant; SELECT * FROM pg_stats WHERE tablename = 'bobs_work'",
        }
    )

    assert states(said) == dict.fromkeys(said, DENIED)
    assert {name: one.shown for name, one in stats.items()} == dict.fromkeys(stats, "")
    assert oid


# What a function of PostgreSQL may do without an argument of which we know what it is.
NOT_CALLED = re.compile(r"^(pg_sleep|pg_(try_)?advisory|lo_creat|pg_notify|txid_|binary_upgrade)")
VALUES = {
    "oid": ("'public.molecules'::regclass", "'qforge.tenant_logins'::regclass"),
    "regclass": ("'public.molecules'::regclass", "'qforge.tenant_logins'::regclass"),
    "text": ("'public.molecules'", "'SELECT * FROM public.molecules'", "'qforge.tenant_logins'"),
    "name": ("'public'", f"'{HIDDEN}'"),
    "tid": ("'(0,2)'::tid",),
    "boolean": ("true",),
    "integer": ("0", "1"),
    "smallint": ("1::smallint",),
    "bigint": ("1::bigint",),
    "refcursor": ("'bobs'::refcursor",),
}


def test_no_function_of_the_server_gives_a_secret_away(
    attacked: Attacked, bob_at_work: psycopg2.extensions.connection
) -> None:
    functions = attacked.admin(
        "SELECT proname::text, array(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t)::text[] FROM pg_proc "
        "WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND pronargs BETWEEN 1 AND 4 "
        "AND (proargtypes::oid[] && ARRAY['oid', 'regclass', 'name', 'tid', 'refcursor']::regtype[]::oid[] "
        "     OR proname ~ 'xml|^pg_|ts_|to_reg|txt|query') "
        "AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)"
    )
    calls = []
    for name, kinds in functions:
        assert isinstance(kinds, list)
        if NOT_CALLED.match(str(name)) or not all(kind in VALUES for kind in kinds):
            continue
        width = max(len(VALUES[kind]) for kind in kinds)
        calls += [
            f"pg_catalog.{name}({', '.join(VALUES[kind][i % len(VALUES[kind])] for kind in kinds)})"
            for i in range(width)
        ]

    said = attacked.attack({call: f"SELECT * FROM {call}" for call in calls})

    assert len(said) > 500
    assert leaks(said) == {}


# Files, programs, other servers, the server itself ------------------------------------------------------------------

OUT_OF_REACH = {
    "pg_read_file": "SELECT pg_read_file('postgresql.conf')",
    "pg_read_binary_file": "SELECT pg_read_binary_file('/etc/passwd')",
    "pg_ls_dir": "SELECT pg_ls_dir('.')",
    "pg_stat_file": "SELECT pg_stat_file('postgresql.conf')",
    "pg_ls_logdir": "SELECT pg_ls_logdir()",
    "pg_ls_waldir": "SELECT pg_ls_waldir()",
    "pg_ls_tmpdir": "SELECT pg_ls_tmpdir()",
    "pg_current_logfile": "SELECT pg_current_logfile()",
    "lo_import": "SELECT lo_import('/etc/passwd')",
    "lo_export": "SELECT lo_export(1, '/tmp/x')",
    "copy from a file": "CREATE TEMP TABLE t (x text); COPY t FROM '/etc/passwd'",
    "copy from a program": "CREATE TEMP TABLE t (x text); COPY t FROM PROGRAM 'id'",
    "copy to a program": "COPY (SELECT 1) TO PROGRAM 'id'",
    "data directory": "SHOW data_directory",
    "rules of logins": "SELECT * FROM pg_hba_file_rules",
    "configuration": "SELECT * FROM pg_config",
    "reload": "SELECT pg_reload_conf()",
    "log statements": "SET log_statement = 'all'",
    "log levels": "SET log_min_messages = 'debug5'",
    "load a library": "LOAD 'auto_explain'",
    "a library at the next login": "SET session_preload_libraries = 'auto_explain'",
    "C": "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE c AS 'libc.so.6', 'system'",
    "internal": "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE internal AS 'pg_backend_pid'",
    "leakproof": "CREATE FUNCTION pg_temp.f(text) RETURNS bool LANGUAGE sql LEAKPROOF RETURN true",
    "operator class": (
        "CREATE OPERATOR CLASS pg_temp.o FOR TYPE uuid USING hash "
        "AS OPERATOR 1 =(uuid, uuid), FUNCTION 1 uuid_hash(uuid)"
    ),
    "type of one's own": "CREATE TYPE pg_temp.t (INPUT = pg_temp.i, OUTPUT = pg_temp.o)",
    "event trigger": (
        "CREATE FUNCTION pg_temp.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION pg_temp.e()"
    ),
    "language": "CREATE TRUSTED LANGUAGE mine HANDLER plpgsql_call_handler",
    "slot": "SELECT pg_create_logical_replication_slot('s', 'test_decoding')",
    "physical slot": "SELECT pg_create_physical_replication_slot('s')",
    "changes of a slot": "SELECT pg_logical_slot_get_changes('s', NULL, NULL)",
    "origin": "SELECT pg_replication_origin_create('o')",
    "publication": "CREATE PUBLICATION p FOR ALL TABLES",
    "publication of a table": "CREATE PUBLICATION p FOR TABLE public.molecules",
    "switch": "SELECT pg_switch_wal()",
    "restore point": "SELECT pg_create_restore_point('r')",
    "promote": "SELECT pg_promote()",
    "reset of statistics": "SELECT pg_stat_reset()",
    "checkpoint": "CHECKPOINT",
    "large objects": "SELECT * FROM pg_largeobject",
    "passwords": "SELECT * FROM pg_authid",
    "foreign server": "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "foreign data wrapper": "CREATE FOREIGN DATA WRAPPER w",
    "another database's connection": "SELECT dblink('', 'SELECT 1')",
    "pageinspect": "SELECT get_raw_page('public.molecules', 0)",
    "pg_visibility": "SELECT pg_visibility_map('public.molecules')",
    "pgstattuple": "SELECT pgstattuple('public.molecules')",
    "heap forensics": "SELECT heap_force_freeze('public.molecules', ARRAY['(0,1)']::tid[])",
    "a prepared transaction": "BEGIN; PREPARE TRANSACTION 'p'",
    "plpython": "DO LANGUAGE plpython3u 'pass'",
}  # fmt: skip
# No such function, role, wrapper, library or language; it is not enabled.
ABSENT = {"42883", "42704", "58P01", "55000", "42601", "0A000", "42P01"}


def test_files_programs_and_the_server_are_out_of_reach(attacked: Attacked) -> None:
    said = attacked.attack({name: f"{sql};\nROLLBACK" for name, sql in OUT_OF_REACH.items()})

    said |= attacked.attack({"alter system": "ALTER SYSTEM SET log_statement = 'all'"}, kept=True)

    assert {name: state for name, state in states(said).items() if state not in ABSENT | {DENIED}} == {}
    assert {name for name, state in states(said).items() if state in ABSENT} <= {
        "foreign server", "another database's connection", "pageinspect", "pg_visibility", "pgstattuple",
        "heap forensics", "a prepared transaction", "plpython", "changes of a slot", "type of one's own",
        "pg_ls_logdir", "language",
    }  # fmt: skip


def test_no_extension_is_made(attacked: Attacked) -> None:
    names = [
        str(row[0]) for row in attacked.admin("SELECT name FROM pg_available_extensions WHERE name <> 'plpgsql'")
    ]
    names += ["dblink", "postgres_fdw", "pageinspect", "file_fdw"]

    said = attacked.attack({name: f'CREATE EXTENSION "{name}" SCHEMA pg_temp' for name in names})

    assert {name for name, state in states(said).items() if state == DONE} == set()
    assert attacked.admin("SELECT extname FROM pg_extension") == [("plpgsql",)]


def test_another_s_large_object_is_closed(attacked: Attacked) -> None:
    made = attacked.attack({"lo": f"SELECT lo_from_bytea(0, '{WORD}')"}, kept=True, user=HIDDEN)
    oid = made["lo"].shown.strip()
    said = attacked.attack(
        {
            f"{role} {name}": f"SET ROLE {role}; {sql}"
            for role in ("NONE", "qforge_tenant")
            for name, sql in {
                "get": f"SELECT lo_get({oid})",
                "part": f"SELECT lo_get({oid}, 0, 4)",
                "open": f"SELECT loread(lo_open({oid}, 262144), 100)",
                "put": f"SELECT lo_put({oid}, 0, 'x')",
                "write": f"SELECT lowrite(lo_open({oid}, 131072), 'x')",
                "size": f"SELECT lo_lseek64(lo_open({oid}, 262144), 0, 2)",
                "unlink": f"SELECT lo_unlink({oid})",
                "owner": f"ALTER LARGE OBJECT {oid} OWNER TO {ATTACKER}",
                "grant": f"GRANT SELECT ON LARGE OBJECT {oid} TO {ATTACKER}",
                "comment": f"COMMENT ON LARGE OBJECT {oid} IS 'x'",
                "compatible": f"SET lo_compat_privileges = on; SELECT lo_get({oid})",
                "table": f"SELECT data FROM pg_largeobject WHERE loid = {oid}",
            }.items()
        }
    )
    bob = attacked.attack({"get": f"SELECT convert_from(lo_get({oid}), 'UTF8')"}, user=HIDDEN)

    assert states(said) == dict.fromkeys(said, DENIED)
    assert leaks(said) == {}
    assert bob["get"].shown.strip() == WORD


def test_nobody_is_notified_of_a_write(attacked: Attacked) -> None:
    listener = psycopg2.connect(attacked.databases.server.url(attacked.name, user=ATTACKER).replace("+psycopg2", ""))
    listener.autocommit = True
    with listener.cursor() as cursor:
        for channel in ("molecules", "calculations", "event_logs", "audit", "qforge", "pgrst", "realtime", WORD, "*"):
            cursor.execute(f'LISTEN "{channel}"')
        writes = {
            "insert": "INSERT INTO public.molecules (smiles, formula) VALUES ('CCCC', 'C')",
            "update": "UPDATE public.molecules SET name = 'x' WHERE smiles = 'CCCC'",
            "delete": "DELETE FROM public.molecules WHERE smiles = 'CCCC'",
        }
        attacked.attack(writes, kept=True)
        cursor.execute("SELECT 1")
    notified = list(listener.notifies)
    listener.close()
    sources = attacked.admin(
        "SELECT prosrc FROM pg_proc WHERE pronamespace::regnamespace::text IN ('qforge', 'auth')"
    )

    assert notified == []
    assert [row[0] for row in sources if "notify" in str(row[0]).lower()] == []
