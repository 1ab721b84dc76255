"""What hangs on the old tables: carried over to the new ones, or dropped and told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import psycopg2
import psycopg2.errors
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Identifier

from qforge_sdk.db.adopt.old_tables import ASIDE, OldTable
from qforge_sdk.errors import Conflict

# Foreign keys and policies of other tables outlive the old ones.
_FOREIGN_KEYS: Final = """
    SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', c.conrelid::regclass, c.conname),
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname,
                  pg_get_constraintdef(c.oid)),
           format('%%s: %%s', c.conrelid::regclass, c.conname),
           NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)
                       AND (a.attname <> 'id' OR c.confrelid = to_regclass('public.atomic_properties')))
    FROM pg_constraint AS c
    WHERE c.contype = 'f' AND c.conparentid = 0
          AND c.confrelid = ANY (%(tables)s::regclass[]) AND c.conrelid <> ALL (%(tables)s::regclass[])
    ORDER BY 3
"""
_POLICIES: Final = """
    SELECT DISTINCT format('DROP POLICY %%I ON %%s', p.polname, p.polrelid::regclass),
           format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s%%s%%s', p.polname, p.polrelid::regclass,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  CASE WHEN p.polroles = '{0}' THEN 'PUBLIC' ELSE
                      (SELECT string_agg(quote_ident(r.rolname), ', ') FROM pg_roles AS r
                       WHERE r.oid = ANY (p.polroles))
                  END,
                  ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                  ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
           format('%%s: %%s', p.polrelid::regclass, p.polname), true
    FROM pg_depend AS d JOIN pg_policy AS p ON p.oid = d.objid
    WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = ANY (%(tables)s::regclass[]) AND p.polrelid <> ALL (%(tables)s::regclass[])
    ORDER BY 3
"""

# Views, and views over these, the last ones first.
_VIEWS: Final = """
    WITH RECURSIVE over (oid, depth) AS (
        SELECT t, 0 FROM unnest(%(tables)s::regclass[]::oid[]) AS t
        UNION
        SELECT r.ev_class, o.depth + 1
        FROM over AS o
        JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid
                            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite AS r ON r.oid = d.objid AND r.ev_class <> o.oid
        WHERE o.depth < 100
    )
    SELECT format('DROP %%s %%s', kind, c.oid::regclass), c.oid::regclass::text,
           format('CREATE %%s %%s%%s AS %%s', kind, c.oid::regclass,
                  ' WITH (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(c.oid))
    FROM (SELECT oid, max(depth) AS depth FROM over WHERE depth > 0 GROUP BY oid) AS o
    JOIN pg_class AS c ON c.oid = o.oid,
    LATERAL (SELECT CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END AS kind) AS k
    ORDER BY o.depth DESC, 2
"""

_REPLACED: Final = """
    WITH old AS (SELECT c.* FROM pg_class AS c WHERE c.oid = ANY (%(tables)s::regclass[]))
    SELECT old.relname, 'policy', p.policyname::text,
           concat_ws(' ', p.permissive, p.cmd, 'TO', array_to_string(p.roles, ', '), 'USING (' || p.qual || ')',
                     'WITH CHECK (' || p.with_check || ')')
    FROM old JOIN pg_policies AS p ON p.schemaname = 'public' AND p.tablename = old.relname
    UNION ALL
    SELECT old.relname, 'trigger', t.tgname::text, pg_get_triggerdef(t.oid)
    FROM old JOIN pg_trigger AS t ON t.tgrelid = old.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT old.relname, 'index', r.relname::text, pg_get_indexdef(i.indexrelid)
    FROM old JOIN pg_index AS i ON i.indrelid = old.oid JOIN pg_class AS r ON r.oid = i.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
    UNION ALL
    SELECT old.relname, 'constraint', c.conname::text, pg_get_constraintdef(c.oid)
    FROM old JOIN pg_constraint AS c ON c.conrelid = old.oid
    WHERE c.contype IN ('c', 'u', 'x') OR (c.contype = 'f' AND c.confrelid <> ALL (%(tables)s::regclass[]))
    UNION ALL
    SELECT old.relname, 'rule', r.rulename::text, pg_get_ruledef(r.oid)
    FROM old JOIN pg_rewrite AS r ON r.ev_class = old.oid
    UNION ALL
    SELECT old.relname, 'publication', p.pubname::text,
           format('ALTER PUBLICATION %%I ADD TABLE %%s', p.pubname, old.oid::regclass)
    FROM old JOIN pg_publication_rel AS r ON r.prrelid = old.oid JOIN pg_publication AS p ON p.oid = r.prpubid
    UNION ALL
    SELECT old.relname, 'grant', CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END,
           string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
    FROM old, aclexplode(old.relacl) AS g WHERE g.grantee <> old.relowner GROUP BY old.relname, g.grantee
    UNION ALL
    SELECT old.relname, 'comment', coalesce(a.attname::text, old.relname), d.description
    FROM old JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = old.oid
    LEFT JOIN pg_attribute AS a ON a.attrelid = old.oid AND a.attnum = d.objsubid AND d.objsubid > 0
    ORDER BY 1, 2, 3
"""
_REASONS: Final = {
    "policy": "the schema brings policies of its own",
    "trigger": "the schema brings triggers of its own; another one is made again by hand",
    "index": "the schema brings indexes of its own",
    "constraint": "the schema brings constraints of its own; owners are bound to no other table",
    "rule": "rules are made again by hand",
    "publication": "the new tables are in no publication",
    "grant": "rights are the schema's; tenants get them through qforge_tenant",
    "comment": "the schema has no such comment",
    "view": "a view shows its owner's rows to whoever may read it; make it again if that is meant",
    "foreign_key": "the new table has no such column",
}


@dataclass(frozen=True, slots=True)
class Dropped:
    """An object that is gone with the old tables.

    Parameters
    ----------
    table
        Old table that it hung on.
    kind
        Key of the reasons.
    name
        Its name.
    definition
        What it was.
    """

    table: str
    kind: str
    name: str
    definition: str

    @property
    def reason(self) -> str:
        """Why it is gone."""
        return _REASONS[self.kind]


@dataclass(frozen=True, slots=True)
class Dependents:
    """What is made again on the new tables, and what is not.

    Parameters
    ----------
    policies, foreign_keys
        Name and statement.
    dropped
        The rest.
    """

    policies: tuple[tuple[str, str], ...]
    foreign_keys: tuple[tuple[str, str], ...]
    dropped: tuple[Dropped, ...]

    def remake_policies(self, cursor: Cursor) -> None:
        """Put the policies of other tables on the new ones; they see the columns that are there now."""
        _remake(cursor, "policy", self.policies)

    def remake_foreign_keys(self, cursor: Cursor) -> None:
        """Put the foreign keys of other tables on the new ones, which checks their rows."""
        _remake(cursor, "foreign key", self.foreign_keys)


def detach(cursor: Cursor, tables: Iterable[OldTable]) -> Dependents:
    """Drop what hangs on the old tables from outside.

    Parameters
    ----------
    cursor
        In the transaction, with an empty search_path, the tables still in ``public``.
    tables
        The old ones.

    Returns
    -------
    Dependents
        What was there.

    Raises
    ------
    Conflict
        Something else depends on them.
    """
    names = [f"public.{table.name}" for table in tables]
    listed = {"tables": names}
    cursor.execute(_REPLACED, listed)
    dropped = [Dropped(*row) for row in cursor.fetchall()]
    made = []
    for query in (_POLICIES, _FOREIGN_KEYS):
        cursor.execute(query, listed)
        found = cursor.fetchall()
        for drop, _, _, _ in found:
            cursor.execute(drop)
        made.append(tuple((name, make) for _, make, name, fits in found if fits))
        dropped += [
            Dropped("atomic_properties", "foreign_key", name, make) for _, make, name, fits in found if not fits
        ]
    cursor.execute(_VIEWS, listed)
    for drop, name, definition in cursor.fetchall():
        cursor.execute(drop)
        dropped.append(Dropped(name, "view", name, definition))
    _refuse_others(cursor, names)
    return Dependents(made[0], made[1], tuple(dropped))


def move_aside(cursor: Cursor, tables: Iterable[OldTable]) -> None:
    """Make room for the new tables: the old ones take their indexes and sequences along."""
    cursor.execute(SQL("CREATE SCHEMA {}").format(Identifier(ASIDE)))
    for table in tables:
        old = Identifier("public", table.name)
        # As its owner we read every row, unless we are told to obey its policies.
        cursor.execute(SQL("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY").format(old))
        cursor.execute(SQL("ALTER TABLE {} SET SCHEMA {}").format(old, Identifier(ASIDE)))
        sequence = Identifier("public", f"{table.name}_id_seq")
        cursor.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", (f"public.{table.name}_id_seq",))
        if cursor.fetchone() == ("S",):
            cursor.execute(SQL("ALTER SEQUENCE {} SET SCHEMA {}").format(sequence, Identifier(ASIDE)))


def drop(cursor: Cursor, tables: Iterable[OldTable]) -> None:
    """Drop the old tables."""
    listed = SQL(", ").join(table.aside for table in tables)
    cursor.execute(SQL("DROP TABLE {}").format(listed))
    cursor.execute("SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = to_regnamespace(%s)", (ASIDE,))
    for (sequence,) in cursor.fetchall():
        cursor.execute(SQL("DROP SEQUENCE {}").format(Identifier(ASIDE, sequence)))
    cursor.execute(SQL("DROP SCHEMA {}").format(Identifier(ASIDE)))


def _refuse_others(cursor: Cursor, names: list[str]) -> None:
    """The server itself says what would keep the old tables from being dropped."""
    cursor.execute("SAVEPOINT trial")
    try:
        cursor.execute(f"DROP TABLE {', '.join(names)}")
    except psycopg2.errors.DependentObjectsStillExist as exc:
        raise Conflict(
            f"other objects depend on the old tables: {exc.diag.message_detail}; drop those first, "
            "and make them again afterwards"
        ) from exc
    cursor.execute("ROLLBACK TO SAVEPOINT trial")
    cursor.execute("RELEASE SAVEPOINT trial")


def _remake(cursor: Cursor, kind: str, made: Iterable[tuple[str, str]]) -> None:
    for name, statement in made:
        try:
            cursor.execute(statement)
        except (psycopg2.ProgrammingError, psycopg2.IntegrityError, psycopg2.NotSupportedError) as exc:
            raise Conflict(
                f"the {kind} {name} hangs on the old tables and does not fit the new ones: "
                f"{exc.diag.message_primary}; drop it first, and make another afterwards"
            ) from exc
