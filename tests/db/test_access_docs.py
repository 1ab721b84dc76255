"""docs/access.md says what the catalog says, and its instructions work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

import qforge_sdk as qf
from qforge_sdk.db import schema
from tests.db.test_isolation_inferred import INFERRED
from tests.fixtures.access_table import columns_table, functions_table, rows_table
from tests.fixtures.databases import Databases
from tests.fixtures.servers import PostgresServer
from tests.fixtures.tenants import ALICE, BOB

PAGE = (Path(__file__).parents[2] / "docs" / "access.md").read_text(encoding="utf-8")
TABLES = {"rows": rows_table, "columns": columns_table, "functions": functions_table}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_repeats_the_catalog(any_version: Databases, name: str):
    with any_version.clone() as database:
        engine = create_engine(any_version.url(database), poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text("SET search_path = ''"))
            expected = TABLES[name](connection)
    found = PAGE.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0].strip().splitlines()
    assert found == expected, "\n".join(["write into docs/access.md:", *expected])


def test_the_page_names_what_the_attack_suite_infers():
    listed = PAGE.split("<!-- inferred -->")[1].split("<!-- end -->")[0]
    assert {" ".join(name.split()) for name in re.findall(r"\*\*(.+?)\*\*", listed, re.DOTALL)} == set(INFERRED)


def sql_blocks(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def plain(any_version: Databases):
    """A server on which an administrator followed the page's first block; nothing of it is left afterwards."""
    server = any_version.server
    server.execute(*(line for line in sql_blocks("Set it up on plain PostgreSQL")[0].split(";\n") if line))
    yield server
    server.execute("DROP DATABASE IF EXISTS chem WITH (FORCE)")
    for role in ("chem_alice", "chem_owner"):
        if server.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
            server.execute(f"DROP ROLE {role}")


def test_plain_postgresql_is_set_up_as_the_page_says(plain: PostgresServer):
    # The roles are the whole server's; an administrator grants what another database's owner made.
    if plain.execute("SELECT 1 FROM pg_roles WHERE rolname = 'qforge_scope'"):
        plain.execute(sql_blocks("Set it up on plain PostgreSQL")[1].split(";\n")[3])
    url = plain.url("chem", user="chem_owner")
    schema.upgrade(create_engine(url, poolclass=NullPool))
    with qf.connect(url) as owner:
        owner.admin.create_login(ALICE, "chem_alice")
        owner.molecules.create("CCO", shared=True)
        with qf.connect(url, user_id=BOB) as bob:
            bob.molecules.create("CCC")
            assert bob.health().access.strength == "scope"
        with qf.connect(plain.url("chem", user="chem_alice")) as alice:
            assert alice.health().access.strength == "boundary"
            assert alice.molecules.query().smiles.tolist() == ["CCO"]
        owner.admin.drop_login("chem_alice")


def test_an_owner_that_may_not_create_roles_has_scopes(any_version: Databases):
    server = any_version.server
    any_version.template(migrated=True)
    server.execute("CREATE ROLE chem_owner LOGIN", "CREATE DATABASE chem OWNER chem_owner")
    try:
        server.execute(sql_blocks("Set it up on plain PostgreSQL")[1].split(";\n")[3])
        url = server.url("chem", user="chem_owner")
        schema.upgrade(create_engine(url, poolclass=NullPool))
        with qf.connect(url, user_id=ALICE) as alice:
            assert alice.molecules.create("CCO").user_id == str(ALICE)
        with qf.connect(url) as owner, pytest.raises(qf.AccessDenied, match="CREATEROLE"):
            owner.admin.create_login(ALICE, "chem_alice")
    finally:
        server.execute("DROP DATABASE chem WITH (FORCE)", "DROP ROLE chem_owner")


def test_supabase_is_set_up_as_the_page_says(supabase: Databases):
    with supabase.clone(migrated=False) as name:
        done = supabase.server.psql(name, schema.upgrade_sql(), user="postgres")
        assert done.returncode == 0, done.stderr
        with qf.connect(supabase.url(name)) as owner:
            owner.admin.create_login(ALICE, "supabase_alice")
            with qf.connect(supabase.url(name, user="supabase_alice")) as alice:
                assert alice.health().access.strength == "boundary"
                alice.molecules.create("CCO")
        claims = f"""SELECT set_config('request.jwt.claims', '{{"sub": "{ALICE}"}}', true)"""
        api = create_engine(supabase.url(name, user="authenticator"), poolclass=NullPool)
        with api.begin() as connection:
            connection.exec_driver_sql("SET LOCAL ROLE authenticated")
            connection.exec_driver_sql(claims)
            assert connection.exec_driver_sql("SELECT smiles FROM public.molecules").scalars().all() == ["CCO"]
        with api.begin() as connection:
            connection.exec_driver_sql("SET LOCAL ROLE service_role")
            assert connection.exec_driver_sql("SELECT count(*) FROM public.molecules").scalar_one() == 1
            connection.exec_driver_sql(
                "INSERT INTO public.event_logs (event_type, entity_type) VALUES ('x', 'system')"
            )
        for statement in ("UPDATE public.event_logs SET status = 'error'", "DELETE FROM public.event_logs"):
            with api.begin() as connection:
                connection.exec_driver_sql("SET LOCAL ROLE service_role")
                with pytest.raises(Exception, match="permission denied"):
                    connection.exec_driver_sql(statement)
        with qf.connect(supabase.url(name)) as owner:
            owner.admin.drop_login("supabase_alice")
