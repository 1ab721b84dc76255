"""A tenant login stays its tenant through every role, claim and setting that it may try."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from qforge_sdk.db.models import PUBLIC_USER_ID
from tests.fixtures.attacks import ATTACKER, HIDDEN, Attacked, Said
from tests.fixtures.tenants import ALICE, BOB

# Who one is and whose rows one sees.
PROBE = (
    "SELECT 'I am', qforge.current_user_id(), qforge.login_kind(), array_agg(DISTINCT user_id ORDER BY user_id) "
    "FROM (SELECT user_id FROM public.molecules UNION SELECT user_id FROM public.calculations "
    "UNION SELECT user_id FROM public.atomic_properties UNION SELECT user_id FROM public.batch_jobs "
    "UNION SELECT user_id FROM public.batch_items UNION SELECT user_id FROM public.event_logs) AS seen"
)
ALICE_SEES = f"{{{PUBLIC_USER_ID},{ALICE}}}"
AS_ALICE = f"I am|{ALICE}|tenant|{ALICE_SEES}"
CLAIMS = f"""'{{"sub": "{BOB}", "role": "service_role"}}'"""
DENIED = "42501"


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after all of this."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


def probes(said: dict[str, Said]) -> dict[str, list[str]]:
    """What each attack's probes said, without repetition."""
    return {name: sorted(set(re.findall(r"^I am.*$", one.shown, re.MULTILINE))) for name, one in said.items()}


ESCAPES = {
    "nothing": "SELECT",
    "its group": "SET ROLE qforge_tenant",
    "its group for a transaction": "SET LOCAL ROLE qforge_tenant",
    "its group and back": "SET ROLE qforge_tenant; RESET ROLE",
    "no role": "SET ROLE NONE",
    "the setting of the role": "SELECT set_config('role', 'qforge_tenant', false)",
    "everything as it was": "RESET ALL",
    "its own session": f"SET SESSION AUTHORIZATION {ATTACKER}",
    "the default session": "SET SESSION AUTHORIZATION DEFAULT; RESET SESSION AUTHORIZATION",
    "a claim": f"SET request.jwt.claims = {CLAIMS}",
    "an older claim": f"SET request.jwt.claim.sub = '{BOB}'; SET request.jwt.claim.role = 'service_role'",
    "a claim for a transaction": f"SELECT set_config('request.jwt.claims', {CLAIMS}, true)",
    "a claim to be everybody": f"SET request.jwt.claim.sub = '{PUBLIC_USER_ID}'",
    "a claim that is no uuid": "SET request.jwt.claim.sub = '; DROP TABLE public.molecules'",
    "claims that are no JSON": "SET request.jwt.claims = '{'",
    "claims of a role": (
        f"SET ROLE qforge_tenant; SET request.jwt.claims = {CLAIMS}; SET request.jwt.claim.sub = '{BOB}'"
    ),
    "settings of ours": (
        f"SET qforge.user_id = '{BOB}'; SET qforge.event_guard = 'delete'; SET app.tenant = '{BOB}'"
    ),
    "a setting of the login": f"ALTER ROLE {ATTACKER} SET search_path = pg_temp, public",
    "a block": (
        f"DO $$ BEGIN PERFORM set_config('request.jwt.claim.sub', '{BOB}', false); SET ROLE qforge_tenant; END $$"
    ),
    "a block that fails in between": (
        "DO $$ BEGIN BEGIN SET ROLE qforge_tenant; PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$"
    ),
    "a savepoint": (
        "SAVEPOINT s; SET ROLE qforge_tenant; SET LOCAL request.jwt.claims = 'no'; ROLLBACK TO s; RELEASE s"
    ),
    "a function with a role": (
        "CREATE FUNCTION pg_temp.f() RETURNS uuid LANGUAGE sql SET role = 'qforge_tenant' "
        "SET search_path = pg_temp AS 'SELECT qforge.current_user_id()'; SELECT 'I am', pg_temp.f(), "
        f"'tenant', '{ALICE_SEES}'"
    ),
    "a security definer function": (
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_temp AS "
        "'SELECT DISTINCT user_id FROM public.molecules ORDER BY user_id'; "
        "SELECT 'I am', qforge.current_user_id(), qforge.login_kind(), array_agg(f) FROM pg_temp.f() AS f"
    ),
    "a prepared statement of another role": (
        f"SET ROLE qforge_tenant; PREPARE escape AS {PROBE}; EXECUTE escape; RESET ROLE; EXECUTE escape; "
        f"SET request.jwt.claim.sub = '{BOB}'; SET plan_cache_mode = force_generic_plan; EXECUTE escape; "
        "SET ROLE qforge_tenant; EXECUTE escape; DEALLOCATE escape"
    ),
    "a cursor of another role": (
        f"SET ROLE qforge_tenant; DECLARE c SCROLL CURSOR FOR {PROBE}; RESET ROLE; "
        f"SET request.jwt.claim.sub = '{BOB}'; FETCH c; MOVE BACKWARD ALL IN c; FETCH ALL FROM c"
    ),
    "a parallel worker": (
        "SET debug_parallel_query = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
        "SET min_parallel_table_scan_size = 0"
    ),
    "a view of its own": (
        f"CREATE TEMP VIEW v WITH (security_barrier = false, security_invoker = false) AS {PROBE}; "
        "GRANT SELECT ON v TO qforge_tenant; SET ROLE qforge_tenant; TABLE v"
    ),
    "a materialized result": f"CREATE TEMP TABLE m AS {PROBE}; TABLE m",
}  # fmt: skip


def test_a_login_is_its_tenant_after(attacked: Attacked) -> None:
    escapes = ESCAPES
    if attacked.version == 15:
        escapes = {name: sql.replace("debug_parallel_query", "force_parallel_mode") for name, sql in ESCAPES.items()}

    said = attacked.attack({name: f"{sql};\n{PROBE}" for name, sql in escapes.items()})

    assert {name: one.errors for name, one in said.items() if one.state != "00000"} == {}
    assert probes(said) == {name: [AS_ALICE] for name in ESCAPES}


def test_a_login_is_its_tenant_after_what_outlives_a_transaction(attacked: Attacked) -> None:
    said = attacked.attack(
        {
            "held cursor": f"BEGIN; SET ROLE qforge_tenant; DECLARE held CURSOR WITH HOLD FOR {PROBE}; COMMIT; "
            f"RESET ROLE; SET request.jwt.claim.sub = '{BOB}'; FETCH ALL FROM held; {PROBE}",
            "discarded": f"DISCARD ALL; {PROBE}",
            "discarded in a role": f"SET ROLE qforge_tenant; SET request.jwt.claims = {CLAIMS}; DISCARD ALL; {PROBE}",
            "discarded parts": "SET ROLE qforge_tenant; DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP; " + PROBE,
            "commit and chain": f"BEGIN; SET LOCAL ROLE qforge_tenant; COMMIT AND CHAIN; {PROBE}; ROLLBACK",
            "settings of the login": f"RESET ROLE; ALTER ROLE {ATTACKER} SET role = 'qforge_tenant'",
            "after them": "\\connect\n" + PROBE,
            "without them": f"SET ROLE {ATTACKER}; ALTER ROLE {ATTACKER} RESET ALL; {PROBE}",
        },
        kept=True,
    )

    assert {name: one.errors for name, one in said.items() if one.state != "00000"} == {}
    assert probes(said) == {name: [AS_ALICE] for name in said} | {"settings of the login": []}


def test_of_all_roles_it_may_only_be_itself_and_its_group(attacked: Attacked) -> None:
    roles = [str(row[0]) for row in attacked.admin("SELECT rolname FROM pg_roles ORDER BY rolname")]
    said = attacked.attack(
        {f"SET {kind} {role}": f"SET {kind} {role}" for role in roles for kind in ("ROLE", "SESSION AUTHORIZATION")}
    )

    allowed = {f"SET ROLE {ATTACKER}", f"SET SESSION AUTHORIZATION {ATTACKER}", "SET ROLE qforge_tenant"}
    assert {name for name, one in said.items() if one.state == "00000"} == allowed
    assert {one.state for name, one in said.items() if name not in allowed} == {DENIED}
    assert len(roles) > 15


def test_of_all_roles_it_may_give_none_to_anybody(attacked: Attacked) -> None:
    roles = [str(row[0]) for row in attacked.admin("SELECT rolname FROM pg_roles ORDER BY rolname")]
    said = attacked.attack(
        {f"{role}": f"GRANT {role} TO {ATTACKER} WITH ADMIN OPTION" for role in roles if role != ATTACKER}
        | {f"{role} to Bob": f"GRANT {role} TO {HIDDEN}" for role in roles if role != HIDDEN}
        | {f"from {role}": f"REVOKE qforge_tenant FROM {role}" for role in (HIDDEN, ATTACKER)}
        | {
            "group of the group": f"SET ROLE qforge_tenant; GRANT qforge_tenant TO {HIDDEN} WITH ADMIN OPTION",
            "group of itself": f"GRANT {ATTACKER} TO qforge_tenant",
            "granted by another": f"GRANT qforge_tenant TO {ATTACKER} GRANTED BY {attacked.databases.owner}",
        }
    )

    assert {name: one.state for name, one in said.items() if one.state == "00000"} == {}


# Every setting that anybody may change -----------------------------------------------------------------------------

# They end or block the session, or change what the pipe to psql carries.
NOT_TRIED = re.compile(r"timeout$|^exit_on_error$|^client_encoding$|^transaction_|^role$|^session_authorization$")


def settings_of(attacked: Attacked) -> dict[str, str]:
    """Statements that give every setting of a user each extreme value."""
    rows = attacked.admin(
        "SELECT name, vartype, coalesce(enumvals, ARRAY[min_val, max_val]), setting FROM pg_settings "
        "WHERE context = 'user'"
    )
    statements: dict[str, str] = {}
    for name, kind, bounds, setting in rows:
        if NOT_TRIED.search(str(name)):
            continue
        values = {"bool": ["off" if setting == "on" else "on"], "string": ["", "qforge", "pg_temp, public"]}.get(
            str(kind), bounds
        )
        assert isinstance(values, list)
        # LOCAL: of all of them only the extremes of this transaction hold.
        statements |= {f"{name} = {value}": f"SET LOCAL {name} = '{value}'" for value in values}
    return statements


def test_a_login_is_its_tenant_with_every_setting_at_every_extreme(attacked: Attacked) -> None:
    settings = settings_of(attacked)

    said = attacked.attack(
        {
            name: f"SAVEPOINT s;\n{sql};\n\\if :ERROR\nROLLBACK TO s;\n\\endif\n"
            f"SET LOCAL client_min_messages = error;\n{PROBE}"
            for name, sql in settings.items()
        }
    )

    seen = probes(said)
    refused = {name for name, one in said.items() if one.state != "00000"}
    assert {name: who for name, who in seen.items() if who not in ([AS_ALICE], [])} == {}
    # A setting that breaks the probe shows nothing.
    assert {name for name, who in seen.items() if who == []} <= refused | {"row_security = off"}
    assert {name: one.leaked for name, one in said.items() if one.leaked} == {}
    assert len(settings) > 200
