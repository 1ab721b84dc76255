"""Events are neither forged nor changed nor avoided by a tenant login."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.fixtures.attacks import ATTACKER, Attacked, Said
from tests.fixtures.tenants import ALICE, BOB

DONE = "00000"
DENIED = "42501"
FLOAT = "-1.2345678901234567"


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after all of this."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


def states(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.state for name, one in said.items()}


# Forging and changing -----------------------------------------------------------------------------------------------

EVENT = "INSERT INTO public.event_logs (event_type, entity_type, {column}) VALUES ('error', 'system', {value})"
FORGED = {
    "recorded_by": "'trigger'",
    "actor": "'attack_bob'",
    "transaction_id": "1",
    "created_at": "'2001-01-01'",
    "application": "'qforge'",
    "id": "1",
}
CHANGES = {
    "update": "UPDATE public.event_logs SET status = 'warning'",
    "update of the context": "UPDATE public.event_logs SET context = '{}' WHERE false",
    "update of the owner": f"UPDATE public.event_logs SET user_id = '{BOB}'",
    "delete": "DELETE FROM public.event_logs",
    "delete of none": "DELETE FROM public.event_logs WHERE false",
    "truncate": "TRUNCATE public.event_logs",
    "merge": (
        "MERGE INTO public.event_logs AS e USING (VALUES (1)) AS v ON e.id > 0 "
        "WHEN MATCHED THEN UPDATE SET status = 'error'"
    ),
    "merge away": "MERGE INTO public.event_logs AS e USING (VALUES (1)) AS v ON e.id > 0 WHEN MATCHED THEN DELETE",
    "on conflict": (
        "INSERT INTO public.event_logs (event_type, entity_type) VALUES ('error', 'system') "
        "ON CONFLICT (id) DO UPDATE SET status = 'warning'"
    ),
    "lock of the rows": "SELECT FROM public.event_logs FOR UPDATE",
    "copy": "COPY public.event_logs (id, event_type, entity_type, recorded_by) FROM STDIN;\n\\.",
    "prune": "SELECT qforge.prune_events(now())",
    "guard": "SET qforge.event_guard = 'delete'; DELETE FROM public.event_logs",
    "guard of updates": "SET qforge.event_guard = 'update'; UPDATE public.event_logs SET context = '{}'",
    "as the group": "SET ROLE qforge_tenant; DELETE FROM public.event_logs",
    "view": "CREATE TEMP VIEW v AS SELECT * FROM public.event_logs; DELETE FROM v",
    "security definer": (
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM public.event_logs'; "
        "SELECT pg_temp.f()"
    ),
    "an event of Bob's": (
        f"INSERT INTO public.event_logs (user_id, event_type, entity_type) VALUES ('{BOB}', 'error', 'system')"
    ),
    "an event of everybody": (
        "INSERT INTO public.event_logs (user_id, event_type, entity_type) "
        "VALUES ('00000000-0000-0000-0000-000000000000', 'error', 'system')"
    ),
    "an event of nobody": (
        "INSERT INTO public.event_logs (user_id, event_type, entity_type) VALUES (NULL, 'error', 'system')"
    ),
    "audit_insert": "SELECT qforge.audit_insert()",
    "audit_update": "SELECT qforge.audit_update()",
}
SUPPRESSIONS = {
    "replication role": "SET session_replication_role = replica",
    "replication role, by a function": "SELECT set_config('session_replication_role', 'replica', true)",
    "replication role, in a function": (
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET session_replication_role = replica RETURN 1"
    ),
    "replication role of the login": f"ALTER ROLE {ATTACKER} SET session_replication_role = replica",
    "disable": "ALTER TABLE public.molecules DISABLE TRIGGER audit_update",
    "disable all": "ALTER TABLE public.molecules DISABLE TRIGGER ALL",
    "enable replica": "ALTER TABLE public.molecules ENABLE REPLICA TRIGGER audit_update",
    "drop": "DROP TRIGGER audit_update ON public.molecules",
    "rename": "ALTER TRIGGER audit_update ON public.molecules RENAME TO x",
    "a trigger before it": (
        "CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER a BEFORE INSERT ON public.event_logs FOR EACH ROW EXECUTE FUNCTION pg_temp.f()"
    ),
    "a rule": "CREATE RULE r AS ON INSERT TO public.event_logs DO INSTEAD NOTHING",
    "its function": (
        "CREATE OR REPLACE FUNCTION qforge.audit_update() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'"
    ),
    "the function's path": "ALTER FUNCTION qforge.audit_update() SET search_path = pg_temp",
    "the function's rights": "ALTER FUNCTION qforge.audit_update() SECURITY INVOKER",
    "another table of the name": "CREATE TABLE qforge.event_logs (LIKE public.event_logs)",
    "a partition": "CREATE TEMP TABLE t (LIKE public.molecules); ALTER TABLE t INHERIT public.molecules",
    "a child": "CREATE TEMP TABLE t () INHERITS (public.molecules)",
    "the trigger for itself": (
        "CREATE TEMP TABLE t (LIKE public.molecules); CREATE TRIGGER t AFTER INSERT ON t "
        "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_insert('x', '100')"
    ),
}


def test_an_event_is_not_forged_nor_changed_nor_avoided(attacked: Attacked) -> None:
    before = attacked.admin("SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM public.event_logs AS e")
    said = attacked.attack(
        {f"forged {column}": EVENT.format(column=column, value=value) for column, value in FORGED.items()}
        | CHANGES
        | SUPPRESSIONS
    )

    assert {name: state for name, state in states(said).items() if state != DENIED} == {}
    assert attacked.admin("SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM public.event_logs AS e") == before


# Whatever stands around a write, it leaves its event ----------------------------------------------------------------

WRITE = "UPDATE public.molecules SET name = '{name}' WHERE smiles = 'C' AND user_id = qforge.current_user_id()"
AROUND = {
    "alone": "{write}",
    "after an error": "SELECT 1 / 0; {write}",
    "in a transaction with a savepoint": "BEGIN; SAVEPOINT s; SELECT 1 / 0; ROLLBACK TO s; {write}; COMMIT",
    "in a released savepoint": "BEGIN; SAVEPOINT s; {write}; RELEASE s; COMMIT",
    "before a savepoint that is lost": (
        "BEGIN; {write}; SAVEPOINT s; UPDATE public.molecules SET name = 'lost'; ROLLBACK TO s; COMMIT"
    ),
    "in a block": "DO $$ BEGIN {write}; BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
    "in a function": (
        "CREATE FUNCTION pg_temp.w() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_temp "
        "AS $$ {write} $$; SELECT pg_temp.w()"
    ),
    "in a prepared statement": "PREPARE w AS {write}; EXECUTE w; DEALLOCATE w",
    "in a CTE": "WITH w AS ({write} RETURNING id) SELECT count(*) FROM w",
    "by a cursor": (
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM public.molecules WHERE smiles = 'C' AND user_id = "
        "qforge.current_user_id() FOR UPDATE; FETCH c; "
        "UPDATE public.molecules SET name = '{name}' WHERE CURRENT OF c; COMMIT"
    ),
    "by a view": (
        "CREATE TEMP VIEW w AS SELECT * FROM public.molecules WHERE smiles = 'C' AND user_id = "
        "qforge.current_user_id(); UPDATE w SET name = '{name}'; DROP VIEW w"
    ),
    "by a rule": (
        "CREATE TEMP TABLE t (x int); CREATE RULE r AS ON INSERT TO t DO INSTEAD {write}; INSERT INTO t VALUES (1); "
        "DROP TABLE t"
    ),
    "by a trigger": (
        "CREATE TEMP TABLE t (x int); CREATE FUNCTION pg_temp.t() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN {write}; RETURN NULL; END $$; CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION pg_temp.t(); "
        "INSERT INTO t VALUES (1); DROP TABLE t"
    ),
    "by a merge": (
        "MERGE INTO public.molecules AS m USING (VALUES (1)) AS v ON m.smiles = 'C' "
        f"AND m.user_id = '{ALICE}' WHEN MATCHED THEN UPDATE SET name = '{{name}}'"
    ),
    "by a conflict": (
        "INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4') "
        "ON CONFLICT (user_id, identity_hash) DO UPDATE SET name = '{name}'"
    ),
    "as the group": "SET ROLE qforge_tenant; {write}; RESET ROLE",
    "with a shadow": (
        "CREATE TEMP TABLE event_logs (LIKE public.event_logs); SET search_path = pg_temp; {write}; "
        "RESET search_path; DROP TABLE pg_temp.event_logs"
    ),
    "with a claim": "SET request.jwt.claim.sub = '00000000-0000-0000-0000-000000000000'; {write}",
    "in a serializable transaction": "BEGIN ISOLATION LEVEL SERIALIZABLE; {write}; COMMIT",
    "with constraints deferred": "BEGIN; SET CONSTRAINTS ALL DEFERRED; {write}; COMMIT",
    "in two steps": "BEGIN; {write}; COMMIT AND CHAIN; ROLLBACK",
    "in a pipeline of one string": "SELECT 1 \\; {write} \\; SELECT 2",
    "in a procedure that commits": (
        "CREATE PROCEDURE pg_temp.p() LANGUAGE plpgsql AS $$ BEGIN {write}; COMMIT; PERFORM 1 / 0; END $$; "
        "CALL pg_temp.p()"
    ),
}


def test_every_write_leaves_its_event(attacked: Attacked) -> None:
    with attacked.copy() as copied:
        copied.attack(
            {name: sql.format(write=WRITE.format(name=name), name=name) for name, sql in AROUND.items()}, kept=True
        )
        found = copied.admin(
            "SELECT context -> 'after' ->> 'name', count(*), min(actor), min(recorded_by), min(user_id::text) "
            "FROM public.event_logs WHERE entity_type = 'molecules' AND event_type = 'molecule_updated' "
            f"AND actor = '{ATTACKER}' GROUP BY 1"
        )

    assert sorted(found) == sorted((name, 1, ATTACKER, "trigger", str(ALICE)) for name in AROUND)


def test_a_write_that_failed_changed_nothing(attacked: Attacked) -> None:
    fails = {
        "cancelled": f"BEGIN; SET LOCAL statement_timeout = '50ms'; {WRITE.format(name='x')}; SELECT pg_sleep(1)",
        "rolled back": f"BEGIN; {WRITE.format(name='x')}; ROLLBACK",
        "broken": f"BEGIN; {WRITE.format(name='x')}; SELECT 1 / 0; COMMIT",
        "in a broken block": (
            f"DO $$ BEGIN BEGIN {WRITE.format(name='x')}; PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$"
        ),
        "read only": f"BEGIN READ ONLY; {WRITE.format(name='x')}; COMMIT",
    }
    everything = "SELECT md5(string_agg(m::text, ',')) FROM public.molecules AS m"
    before = attacked.admin(everything)

    attacked.attack({name: f"{sql};\nROLLBACK" for name, sql in fails.items()}, kept=True)

    assert attacked.admin(everything) == before


# Enriching ----------------------------------------------------------------------------------------------------------


def test_only_one_s_own_event_of_this_transaction_is_enriched(attacked: Attacked) -> None:
    write = WRITE.format(name="enriched")
    alice, bob = (attacked.key(owner, "molecules") for owner in (ALICE, BOB))
    enrich = "SELECT qforge.enrich_event('{}', {}, '{}', '{}')".format
    said = attacked.attack(
        {
            "Bob's": enrich("molecules", bob, "molecule_created", "{}"),
            "an earlier one": enrich("molecules", alice, "molecule_created", "{}"),
            "of another kind": f"{write}; " + enrich("molecules", alice, "molecule_deleted", "{}"),
            "a program's": "INSERT INTO public.event_logs (event_type, entity_type, entity_id) "
            f"VALUES ('molecule_updated', 'molecules', {alice}); "
            + enrich("molecules", alice, "molecule_updated", "{}"),
            "one that is rolled back": f"SAVEPOINT s; {write}; ROLLBACK TO s; "
            + enrich("molecules", alice, "molecule_updated", "{}"),
            "nothing": "SELECT qforge.enrich_event(NULL, NULL, NULL, NULL)",
            "what it says of the row": f"{write}; SELECT 'x' WHERE qforge.enrich_event('molecules', {alice}, "
            """'molecule_updated', '{"before": 1, "after": 2, "program": 3}') IS NULL; """
            "SELECT context -> 'after' ->> 'name', context -> 'before' ->> 'smiles' FROM public.event_logs "
            "ORDER BY id DESC LIMIT 1",
        }
    )

    assert states(said) == dict.fromkeys(said, DONE)
    assert {name: one.shown.strip() for name, one in said.items()} == dict.fromkeys(said, "") | {
        "what it says of the row": "enriched|C"
    }


def test_an_event_of_another_cluster_s_transaction_is_not_enriched(attacked: Attacked) -> None:
    key = 10**12
    with attacked.copy() as copied:
        copied.admin(
            "INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, recorded_by, actor, "
            f"created_at, transaction_id) VALUES ('{ALICE}', 'molecule_deleted', 'molecules', {key}, 'trigger', "
            f"'{ATTACKER}', '2001-01-01', pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 7)"
        )
        copied.attack(
            {str(n): f"SELECT qforge.enrich_event('molecules', {key}, 'molecule_deleted', '1')" for n in range(20)},
            kept=True,
        )
        ((context,),) = copied.admin(f"SELECT context FROM public.event_logs WHERE entity_id = {key}")

    assert context == {}


# What an event says -------------------------------------------------------------------------------------------------

EXACT = """
SELECT 'exact', (context -> 'before' ->> 'energy')::numeric = {energy}
AND (context -> 'after' ->> 'gap')::numeric = {gap}
AND (context -> 'before' ->> 'created_at')::timestamptz = created_at_of_row
AND context -> 'before' -> 'metadata' = '{{"a": 1.50}}'
FROM public.event_logs AS e, (SELECT created_at AS created_at_of_row FROM public.calculations WHERE source_id = 'C'
AND user_id = qforge.current_user_id()) AS c
WHERE event_type = 'calculation_updated' ORDER BY e.id DESC LIMIT 1
"""
SETTINGS_OF_TEXT = {
    "extra_float_digits = -15": "extra_float_digits = -15",
    "extra_float_digits = 0": "extra_float_digits = 0",
    "datestyle": "datestyle = 'SQL, DMY'",
    "intervalstyle": "intervalstyle = 'sql_standard'",
    "timezone": "timezone = 'Asia/Kathmandu'",
    "a timezone of one's own": "timezone = 'OWN-13:59'",
    "bytea_output": "bytea_output = 'escape'",
    "lc_numeric": "lc_numeric = 'C'",
    "standard_conforming_strings": "standard_conforming_strings = off",
    "transform_null_equals": "transform_null_equals = on",
    "array_nulls": "array_nulls = off",
    "quote_all_identifiers": "quote_all_identifiers = on",
    "xmloption": "xmloption = 'document'",
    "default_text_search_config": "default_text_search_config = 'simple'",
    "search_path": "search_path = pg_temp",
    "plpgsql.extra_errors": "plpgsql.extra_errors = 'all'",
    "gin_fuzzy_search_limit": "gin_fuzzy_search_limit = 1",
}


@pytest.mark.parametrize("name", SETTINGS_OF_TEXT)
def test_an_event_holds_the_row_exactly_with_the_setting(attacked: Attacked, name: str) -> None:
    mine = "WHERE source_id = 'C' AND user_id = qforge.current_user_id()"
    said = attacked.attack(
        {
            "update": f"UPDATE public.calculations SET energy = {FLOAT}, metadata = '{{\"a\": 1.50}}' {mine}; "
            f"SET LOCAL {SETTINGS_OF_TEXT[name]}; UPDATE public.calculations SET gap = {FLOAT} {mine}; "
            "RESET search_path;" + EXACT.format(energy=FLOAT, gap=FLOAT)
        }
    )

    assert said["update"].shown.strip() == "exact|t"


def test_an_event_is_not_dated_back(attacked: Attacked) -> None:
    began = time.monotonic()
    said = attacked.attack(
        {
            "late": f"SELECT pg_sleep(0.3); {WRITE.format(name='late')}; "
            "SELECT clock_timestamp() - created_at < '0.2 s' FROM public.event_logs ORDER BY id DESC LIMIT 1"
        }
    )

    assert time.monotonic() - began >= 0.3
    assert said["late"].shown.strip() == "t"


@pytest.mark.parametrize("change", ["partial_charge = '-0'", """metadata = '{"a": 1.50}'"""])
def test_no_change_of_an_atom_is_left_out(attacked: Attacked, change: str) -> None:
    said = attacked.attack(
        {
            "change": """UPDATE public.atomic_properties SET partial_charge = 0, metadata = '{"a": 1.5}'; """
            f"UPDATE public.atomic_properties SET {change}; SELECT count(*) FROM public.event_logs "
            "WHERE created_at >= now() AND event_type = 'atomic_properties_updated'"
        }
    )

    assert said["change"].shown.strip() == "2"
