"""Rows change neither their owner nor, but where it is allowed, their parent; what goes with a row is its owner's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qforge_sdk.db.models import PUBLIC_USER_ID
from tests.fixtures.attacks import HIDDEN, Attacked, Said
from tests.fixtures.catalog import TABLES
from tests.fixtures.rows import UPDATES
from tests.fixtures.tenants import ALICE, BOB

DONE = "00000"
DENIED = "42501"
WRITABLE = tuple(table for table in TABLES if table != "event_logs")
OWNERS = {"Bob": f"'{BOB}'", "everybody": f"'{PUBLIC_USER_ID}'", "nobody": "NULL", "itself": f"'{ALICE}'"}


@pytest.fixture(autouse=True, scope="module")
def unharmed(attacked: Attacked) -> Iterator[None]:
    """What is not Alice's is the same before and after all of this."""
    before = attacked.not_alices()
    yield
    assert attacked.not_alices() == before


def states(said: dict[str, Said]) -> dict[str, str]:
    return {name: one.state for name, one in said.items()}


def test_a_row_is_given_to_nobody(attacked: Attacked) -> None:
    moves = {
        "update": "UPDATE public.{t} SET user_id = {o} WHERE {mine}",
        "update to the default": "UPDATE public.{t} SET user_id = DEFAULT WHERE {mine}",
        "update of a row": "UPDATE public.{t} SET (user_id, {c}) = (SELECT {o}::uuid, {c}) WHERE {mine}",
        "update from": "UPDATE public.{t} SET user_id = v.o FROM (SELECT {o}::uuid AS o) AS v WHERE {mine}",
        "merge": "MERGE INTO public.{t} USING (VALUES (1)) AS v ON {mine} WHEN MATCHED THEN UPDATE SET user_id = {o}",
        "with assignments": "UPDATE public.{t} SET {a}, user_id = {o} WHERE {mine}",
        "of none": "UPDATE public.{t} SET user_id = {o} WHERE false",
    }
    said = attacked.attack(
        {
            f"{name} {table} {owner}": sql.format(
                t=table,
                o=value,
                mine=attacked.rows[ALICE].where(table),
                a=UPDATES[table],
                c=UPDATES[table].partition(" ")[0],
            )
            for name, sql in moves.items()
            for table in TABLES
            for owner, value in OWNERS.items()
        }
    )

    assert {name: state for name, state in states(said).items() if state != DENIED} == {}


def test_a_conflict_moves_no_row(attacked: Attacked) -> None:
    conflicts = {
        "molecules": "INSERT INTO public.molecules (smiles, formula) VALUES ('C', 'CH4') "
        "ON CONFLICT (user_id, identity_hash) DO UPDATE SET user_id = {o}",
        "calculations": "INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES ({m}, 1, 'C') "
        "ON CONFLICT (user_id, source_id) WHERE source_id IS NOT NULL DO UPDATE SET user_id = {o}",
        "batch_items": "INSERT INTO public.batch_items (batch_id, molecule_id) VALUES ({b}, {m}) "
        "ON CONFLICT (batch_id, user_id, molecule_id) DO UPDATE SET user_id = {o}",
    }
    keys = {"m": attacked.key(ALICE, "molecules"), "b": attacked.key(ALICE, "batch_jobs")}
    said = attacked.attack(
        {f"{t} {o}": sql.format(o=value, **keys) for t, sql in conflicts.items() for o, value in OWNERS.items()}
    )

    assert states(said) == dict.fromkeys(said, DENIED)


def test_a_tenant_publishes_nothing(attacked: Attacked) -> None:
    public = attacked.rows[PUBLIC_USER_ID]
    rows = {
        "molecule": "INSERT INTO public.molecules (user_id, smiles, formula) "
        f"VALUES ('{PUBLIC_USER_ID}', 'CC', 'C2')",
        "calculation": "INSERT INTO public.calculations (user_id, molecule_id, energy) "
        f"VALUES ('{PUBLIC_USER_ID}', {public.keys['molecules']}, 1)",
        "atoms": "INSERT INTO public.atomic_properties (user_id, calculation_id, atom_index, element, atomic_number, "
        f"position_x, position_y, position_z) VALUES ('{PUBLIC_USER_ID}', {public.keys['calculations']}, 9, 'C', 6, "
        "0, 0, 0)",
        "own atoms of a public calculation": "INSERT INTO public.atomic_properties (calculation_id, atom_index, "
        "element, atomic_number, position_x, position_y, position_z) "
        f"VALUES ({public.keys['calculations']}, 9, 'C', 6, 0, 0, 0)",
        "batch": f"INSERT INTO public.batch_jobs (user_id, batch_name) VALUES ('{PUBLIC_USER_ID}', 'x')",
        "item": "INSERT INTO public.batch_items (batch_id, molecule_id) "
        f"VALUES ({public.keys['batch_jobs']}, {public.keys['molecules']})",
        "by a claim": f"SET request.jwt.claim.sub = '{PUBLIC_USER_ID}'; "
        f"INSERT INTO public.molecules (user_id, smiles, formula) VALUES ('{PUBLIC_USER_ID}', 'CC', 'C2')",
        "by a select": "INSERT INTO public.molecules (user_id, smiles, formula) "
        "SELECT user_id, 'CCC', 'C3' FROM public.molecules",
    }

    assert states(attacked.attack(rows)) == dict.fromkeys(rows, DENIED)


def test_a_public_row_is_read_and_neither_changed_nor_locked(attacked: Attacked) -> None:
    public = attacked.rows[PUBLIC_USER_ID]
    said = attacked.attack(
        {
            f"{name} {table}": sql.format(t=table, w=public.where(table), a=UPDATES[table])
            for name, sql in {
                "update": "UPDATE public.{t} SET {a} WHERE {w} RETURNING user_id",
                "delete": "DELETE FROM public.{t} WHERE {w} RETURNING user_id",
                "lock": "SELECT user_id FROM public.{t} WHERE {w} FOR KEY SHARE",
            }.items()
            for table in WRITABLE
        }
        | {f"read {table}": f"SELECT user_id FROM public.{table} WHERE {public.where(table)}" for table in WRITABLE}
    )

    assert {name: one.shown.strip() for name, one in said.items()} == {
        name: str(PUBLIC_USER_ID) if name.startswith("read") else "" for name in said
    }


PARENTS = {
    "atomic_properties.calculation_id": ("calculations", False),
    "batch_items.batch_id": ("batch_jobs", False),
    "batch_items.molecule_id": ("molecules", False),
    "batch_items.calculation_id": ("calculations", True),
    "calculations.molecule_id": ("molecules", True),
}


@pytest.mark.parametrize("owner", [ALICE, BOB, PUBLIC_USER_ID, None], ids=["mine", "Bob's", "public", "nobody's"])
def test_a_row_moves_only_below_a_parent_that_one_sees(attacked: Attacked, owner: object) -> None:
    said: dict[str, Said] = {}
    for column, (parent, _) in PARENTS.items():
        table, _, name = column.partition(".")
        mine = attacked.rows[ALICE].where(table)
        key = next(rows.keys[parent] for rows in attacked.rows.values() if rows.owner == owner)
        said |= attacked.attack(
            {
                f"{column} update": f"UPDATE public.{table} SET {name} = {key} WHERE {mine}",
                f"{column} merge": f"MERGE INTO public.{table} USING (VALUES (1)) AS v ON {mine} "
                f"WHEN MATCHED THEN UPDATE SET {name} = {key}",
            }
        )

    seen = owner in {ALICE, PUBLIC_USER_ID}
    assert states(said) == {name: DONE if seen and PARENTS[name.partition(" ")[0]][1] else DENIED for name in said}


# What goes with a row -----------------------------------------------------------------------------------------------


def test_deleting_all_of_one_s_rows_deletes_nothing_else(attacked: Attacked) -> None:
    with attacked.copy() as copied:
        before = copied.not_alices()
        # Rows of Alice's and Bob's below the same public ones.
        for user in ("attack_alice", HIDDEN):
            said = copied.attack(
                {
                    "calculation": "INSERT INTO public.calculations (molecule_id, energy) "
                    f"VALUES ({copied.key(PUBLIC_USER_ID, 'molecules')}, 1)",
                    "item": "INSERT INTO public.batch_items (batch_id, molecule_id, calculation_id) "
                    f"SELECT max(id), {copied.key(PUBLIC_USER_ID, 'molecules')}, "
                    f"{copied.key(PUBLIC_USER_ID, 'calculations')} FROM public.batch_jobs "
                    "WHERE user_id = qforge.current_user_id()",
                },
                kept=True,
                user=user,
            )
            assert states(said) == dict.fromkeys(said, DONE)
        between = copied.not_alices()

        copied.attack({table: f"DELETE FROM public.{table}" for table in WRITABLE}, kept=True)

        assert len(between) > len(before)
        assert copied.not_alices() == between
        left = copied.attack({t: f"SELECT count(*) FROM public.{t} WHERE user_id = '{ALICE}'" for t in WRITABLE})
        assert {table: one.shown.strip() for table, one in left.items()} == dict.fromkeys(WRITABLE, "0")


@pytest.mark.parametrize("owner", [PUBLIC_USER_ID, None], ids=["public", "nobody's"])
def test_what_the_service_hangs_on_a_tenant_s_row_goes_with_it(attacked: Attacked, owner: object) -> None:
    with attacked.copy() as copied:
        value = f"'{owner}'" if owner else "NULL"
        ((key,),) = copied.admin(
            "INSERT INTO public.calculations (user_id, molecule_id, energy) "
            f"VALUES ({value}, {copied.key(ALICE, 'molecules')}, 1) RETURNING id"
        )

        copied.attack({"delete": "DELETE FROM public.molecules"}, kept=True)

        assert copied.admin(f"SELECT FROM public.calculations WHERE id = {key}") == []
        ((found, actor),) = copied.admin(
            "SELECT user_id, actor FROM public.event_logs "
            f"WHERE event_type = 'calculation_deleted' AND entity_id = {key}"
        )
        assert (found, actor) == (str(owner) if owner else None, "attack_alice")
