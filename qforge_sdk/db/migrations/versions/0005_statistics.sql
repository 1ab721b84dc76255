-- Counts that are exact in every snapshot: each statement appends what it changed, in its transaction; a reader adds
-- up. Nobody waits for anybody: now and then somebody who finds the turn free folds what was appended into the cells.

CREATE TABLE qforge.statistics (
    kind text NOT NULL,
    user_id uuid,
    method text NOT NULL,
    status text NOT NULL,
    cell bigint NOT NULL,
    n bigint NOT NULL,
    energy numeric NOT NULL,
    CONSTRAINT statistics_key UNIQUE NULLS NOT DISTINCT (kind, user_id, method, status, cell)
);
COMMENT ON TABLE qforge.statistics IS 'Rows of each owner counted by what they hold; statistics_changes come on top';
COMMENT ON COLUMN qforge.statistics.kind IS
    'A table, or a column of calculations: calculations are counted by method, status and day, batch_items by status '
    'and batch, batch_jobs by status, columns by method and cell; no_energy: those without one';
COMMENT ON COLUMN qforge.statistics.cell IS
    'calculations: days since 1970-01-01 UTC; batch_items: the batch; energy: floor(16 x); gap: floor(64 x); '
    'dipole: floor(16 x); total_charge: 2 floor(x), and 1 more for what is no whole number';
COMMENT ON COLUMN qforge.statistics.energy IS
    'calculations: sum of the energies between -65536 and 65536 hartree, in units of 2^-46 hartree';

CREATE TABLE qforge.statistics_changes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    user_id uuid,
    method text NOT NULL,
    status text NOT NULL,
    cell bigint NOT NULL,
    n bigint NOT NULL,
    energy numeric NOT NULL
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE qforge.statistics_changes IS 'What was not yet added to qforge.statistics';

-- A row that is locked, and no advisory lock, which anybody could hold.
CREATE TABLE qforge.statistics_turn (one boolean PRIMARY KEY DEFAULT true CHECK (one));
INSERT INTO qforge.statistics_turn DEFAULT VALUES;
COMMENT ON TABLE qforge.statistics_turn IS 'Locked by whoever compacts the statistics';

CREATE VIEW qforge.statistics_parts AS
    SELECT kind, user_id, method, status, cell, n, energy FROM qforge.statistics
    UNION ALL
    SELECT kind, user_id, method, status, cell, n, energy FROM qforge.statistics_changes;
COMMENT ON VIEW qforge.statistics_parts IS 'What adds up to the statistics';

-- Tenants reach these tables by the functions below alone, whose plans nobody sees.
ALTER TABLE qforge.statistics ENABLE ROW LEVEL SECURITY;
ALTER TABLE qforge.statistics_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE qforge.statistics_turn ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON qforge.statistics, qforge.statistics_changes, qforge.statistics_turn, qforge.statistics_parts FROM PUBLIC;

-- Reading ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION qforge.own_statistics(kinds text[])
RETURNS TABLE (kind text, user_id uuid, method text, status text, cell bigint, n bigint, energy numeric)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.* FROM qforge.statistics_parts AS p
    WHERE p.kind = ANY (kinds)
          AND p.user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid])
$$;
COMMENT ON FUNCTION qforge.own_statistics(text[]) IS 'Statistics of the rows that the policies let a tenant read';

-- By its caller's rights: whom the policies do not hold reads everybody's. Parts of one cell are to be added up.
CREATE FUNCTION qforge.read_statistics(kinds text[])
RETURNS TABLE (kind text, user_id uuid, method text, status text, cell bigint, n bigint, energy numeric)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF row_security_active('public.calculations') THEN
        RETURN QUERY SELECT * FROM qforge.own_statistics(kinds);
    ELSE
        RETURN QUERY SELECT * FROM qforge.statistics_parts AS p WHERE p.kind = ANY (kinds);
    END IF;
END $$;
COMMENT ON FUNCTION qforge.read_statistics(text[]) IS 'Statistics of the rows that one reads, in parts to be added up';

-- Writing ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION qforge.compact_statistics() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    empty tid[];
BEGIN
    -- An older snapshot would not see what another compaction has just taken away.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    PERFORM FROM qforge.statistics_turn FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH taken AS (
        DELETE FROM qforge.statistics_changes RETURNING *
    ), summed AS (
        SELECT t.kind, t.user_id, t.method, t.status, t.cell, sum(t.n) AS n, sum(t.energy) AS energy
        FROM taken AS t GROUP BY 1, 2, 3, 4, 5 HAVING sum(t.n) <> 0 OR sum(t.energy) <> 0
    ), stored AS (
        INSERT INTO qforge.statistics AS s SELECT * FROM summed
        ON CONFLICT ON CONSTRAINT statistics_key
            DO UPDATE SET n = s.n + excluded.n, energy = s.energy + excluded.energy
        RETURNING s.ctid AS place, s.n, s.energy
    )
    SELECT array_agg(s.place) FILTER (WHERE s.n = 0 AND s.energy = 0) INTO empty FROM stored AS s;
    DELETE FROM qforge.statistics AS s WHERE s.ctid = ANY (empty);
END $$;
COMMENT ON FUNCTION qforge.compact_statistics() IS 'Add the appended changes to the statistics, unless somebody does';

-- Who truncates is alone with the table: what is stored of it then is all there is, whatever compaction does.
CREATE FUNCTION qforge.count_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'TRUNCATE in a transaction that is % would falsify the statistics',
                        current_setting('transaction_isolation')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'TRUNCATE in a READ COMMITTED transaction.';
    END IF;
    INSERT INTO qforge.statistics_changes (kind, user_id, method, status, cell, n, energy)
    SELECT p.kind, p.user_id, p.method, p.status, p.cell, -sum(p.n), -sum(p.energy)
    FROM qforge.statistics_parts AS p
    WHERE p.kind = TG_TABLE_NAME
          OR (TG_TABLE_NAME = 'calculations' AND p.kind IN ('energy', 'no_energy', 'gap', 'dipole', 'total_charge'))
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(p.n) <> 0 OR sum(p.energy) <> 0;
    PERFORM qforge.compact_statistics();
    RETURN NULL;
END $$;

-- The functions of the other triggers, for each verb one, and the one that counts everything afresh.
DO $migration$
DECLARE
    -- What rows add to the statistics; "sign" is 1 for those that came and -1 for those that went. The tables refuse
    -- NaN; numbers that no grid reaches go to the outermost cells. The conditions on the keys are always true: they keep
    -- the planner's guess at the number of rows low, so that it hashes (0.5 s a million rows) where it would sort (2 s).
    numbers constant text := $$
        SELECT sign, user_id, method, convergence_status AS status,
               CASE WHEN created_at >= '0001-01-01 00:00Z' AND created_at < '10000-01-01 00:00Z'
                    THEN date_bin('1 day', created_at, '1970-01-01 00:00Z')
                    WHEN created_at > now() THEN 'infinity' ELSE '-infinity' END AS day,
               CASE WHEN energy >= -1e9 AND energy < 1e9 THEN floor(energy * 16)::bigint
                    WHEN energy > 0 THEN 4611686018427387904
                    WHEN energy < 0 THEN -4611686018427387904 END AS energy,
               CASE WHEN gap >= -1e9 AND gap < 1e9 THEN floor(gap * 64)::bigint
                    WHEN gap > 0 THEN 4611686018427387904
                    WHEN gap < 0 THEN -4611686018427387904 END AS gap,
               CASE WHEN dipole < 1e9 THEN floor(dipole * 16)::bigint
                    WHEN dipole > 0 THEN 4611686018427387904 END AS dipole,
               CASE WHEN total_charge >= -1e9 AND total_charge < 1e9
                    THEN 2 * floor(total_charge)::bigint + (total_charge <> floor(total_charge))::int
                    WHEN total_charge > 0 THEN 4611686018427387904
                    ELSE -4611686018427387904 END AS total_charge,
               CASE WHEN energy > -65536 AND energy < 65536
                    THEN sign * (energy * 70368744177664)::bigint END AS units
        FROM (@source) AS r WHERE id + 0 = id AND molecule_id + 0 = molecule_id
    $$;
    kind constant text := $$
        CASE WHEN energy IS NOT NULL THEN 'energy' WHEN gap IS NOT NULL THEN 'gap' WHEN dipole IS NOT NULL THEN 'dipole'
             WHEN total_charge IS NOT NULL THEN 'total_charge' ELSE 'no_energy' END
    $$;
    cell constant text := $$
        coalesce(energy, gap, dipole, total_charge, CASE WHEN has_no_energy THEN 0 END)
    $$;
    -- Nearly every large statement is of one owner and one method: then the numbers are grouped without them.
    calculations constant text := $$
        WITH counted AS MATERIALIZED (
            SELECT user_id, method, status, day, energy, gap, dipole, total_charge, sum(sign) AS n,
                   coalesce(sum(units), 0) AS units, grouping(energy) = 0 AND energy IS NULL AS has_no_energy
            FROM (@numbers) AS x
            GROUP BY GROUPING SETS ((user_id, method, status, day), (energy), (gap), (dipole), (total_charge))
        ), kinds AS MATERIALIZED (
            SELECT DISTINCT user_id, method FROM counted WHERE day IS NOT NULL
        ), every AS (
            SELECT 'calculations' AS kind, user_id, method, status,
                   CASE WHEN isfinite(day) THEN (extract(epoch FROM day) / 86400)::bigint
                        WHEN day > now() THEN 4611686018427387904 ELSE -4611686018427387904 END AS cell, n, units
            FROM counted WHERE day IS NOT NULL
            UNION ALL
            SELECT @kind, k.user_id, k.method, '', @cell, n, 0
            FROM counted AS c CROSS JOIN kinds AS k WHERE day IS NULL AND (SELECT count(*) FROM kinds) = 1
            UNION ALL
            SELECT @kind, user_id, method, '', @cell, n, 0
            FROM (
                SELECT user_id, method, energy, gap, dipole, total_charge, sum(sign) AS n,
                       grouping(energy) = 0 AND energy IS NULL AS has_no_energy
                FROM (@numbers) AS x WHERE (SELECT count(*) FROM kinds) > 1
                GROUP BY GROUPING SETS ((user_id, method, energy), (user_id, method, gap), (user_id, method, dipole),
                                        (user_id, method, total_charge))
            ) AS x
        )
        SELECT kind, user_id, method, status, cell, n, units
        FROM every WHERE cell IS NOT NULL AND (n <> 0 OR units <> 0)
    $$;
    molecules constant text := $$
        SELECT 'molecules', user_id, '', '', 0::bigint, sum(sign), 0::numeric
        FROM (@source) AS r GROUP BY user_id HAVING sum(sign) <> 0
    $$;
    batch_jobs constant text := $$
        SELECT 'batch_jobs', user_id, '', status, 0::bigint, sum(sign), 0::numeric
        FROM (@source) AS r GROUP BY user_id, status HAVING sum(sign) <> 0
    $$;
    batch_items constant text := $$
        SELECT 'batch_items', user_id, '', status, batch_id, sum(sign), 0::numeric
        FROM (@source) AS r GROUP BY user_id, status, batch_id HAVING sum(sign) <> 0
    $$;
    counted constant jsonb := jsonb_build_object(
        'molecules', molecules,
        'calculations', replace(replace(replace(calculations, '@numbers', numbers), '@kind', kind), '@cell', cell),
        'batch_jobs', batch_jobs,
        'batch_items', batch_items);
    append constant text :=
        'WITH added AS (INSERT INTO qforge.statistics_changes (kind, user_id, method, status, cell, n, energy) '
        '%s RETURNING id) SELECT min(id), max(id) INTO first, last FROM added;';
    body constant text := $$
DECLARE
    first bigint;
    last bigint;
BEGIN
    CASE TG_TABLE_NAME
    @branches
    END CASE;
    -- Every 4096th change pays for all of them.
    IF first / 4096 <> last / 4096 OR first % 4096 = 0 THEN
        PERFORM qforge.compact_statistics();
    END IF;
    RETURN NULL;
END $$;
    fresh text;
    verb record;
BEGIN
    FOR verb IN
        SELECT * FROM (VALUES
            ('insert', 'SELECT 1 AS sign, * FROM new_rows', 'NEW TABLE AS new_rows'),
            ('update', 'SELECT 1 AS sign, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows',
             'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
            ('delete', 'SELECT -1 AS sign, * FROM old_rows', 'OLD TABLE AS old_rows')
        ) AS v (name, source, tables)
    LOOP
        EXECUTE format(
            'CREATE FUNCTION qforge.count_%s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp SET enable_sort = off AS %L',
            verb.name,
            (SELECT replace(body, '@branches', string_agg(
                format('WHEN %L THEN ', key) || format(append, replace(value, '@source', verb.source)), E'\n    '))
             FROM jsonb_each_text(counted)));
        EXECUTE (
            SELECT string_agg(format(
                'CREATE TRIGGER statistics_%s AFTER %s ON public.%I REFERENCING %s '
                'FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_%s()',
                verb.name, verb.name, key, verb.tables, verb.name), ';')
            FROM jsonb_each(counted));
    END LOOP;
    EXECUTE (
        SELECT string_agg(format(
            'CREATE TRIGGER statistics_truncate AFTER TRUNCATE ON public.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_truncate()', key), ';')
        FROM jsonb_each(counted));
    SELECT string_agg(format(
        'SELECT * FROM (%s) AS %I', replace(value, '@source', format('SELECT 1 AS sign, * FROM public.%I', key)), key),
        ' UNION ALL ')
    INTO fresh FROM jsonb_each_text(counted);
    EXECUTE format(
        'CREATE FUNCTION qforge.refresh_statistics() RETURNS bigint LANGUAGE plpgsql VOLATILE '
        'SET search_path = pg_catalog, pg_temp SET enable_sort = off AS %L',
        replace($$
DECLARE
    wrong bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'statistics are counted afresh in a READ COMMITTED transaction'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- The turn first: writers do not wait for it.
    PERFORM FROM qforge.statistics_turn FOR UPDATE;
    LOCK TABLE public.molecules, public.calculations, public.batch_jobs, public.batch_items IN SHARE MODE;
    INSERT INTO qforge.statistics_changes (kind, user_id, method, status, cell, n, energy)
    SELECT kind, user_id, method, status, cell, sum(n), sum(energy)
    FROM (
        @fresh
        UNION ALL
        SELECT kind, user_id, method, status, cell, -n, -energy FROM qforge.statistics_parts
    ) AS every (kind, user_id, method, status, cell, n, energy)
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(n) <> 0 OR sum(energy) <> 0;
    GET DIAGNOSTICS wrong = ROW_COUNT;
    PERFORM qforge.compact_statistics();
    RETURN wrong;
END $$, '@fresh', fresh));
END $migration$;
COMMENT ON FUNCTION qforge.refresh_statistics() IS
    'Count everything afresh, after rows were changed past the triggers; how many cells were wrong';

REVOKE ALL ON FUNCTION qforge.own_statistics(text[]), qforge.read_statistics(text[]), qforge.compact_statistics(),
    qforge.count_insert(), qforge.count_update(), qforge.count_delete(), qforge.count_truncate(),
    qforge.refresh_statistics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qforge.own_statistics(text[]), qforge.read_statistics(text[]) TO qforge_tenant;
DO $$
BEGIN
    IF to_regrole('service_role') IS NOT NULL THEN
        GRANT SELECT ON qforge.statistics_parts TO service_role;
        GRANT EXECUTE ON FUNCTION qforge.own_statistics(text[]), qforge.read_statistics(text[]) TO service_role;
    END IF;
END $$;

SELECT qforge.refresh_statistics();

-- What pages and samples are read by ------------------------------------------------------------------------------

CREATE INDEX molecules_id ON public.molecules (user_id, id);
CREATE INDEX molecules_name ON public.molecules (user_id, name, id);
CREATE INDEX molecules_formula ON public.molecules (user_id, formula, id);
CREATE INDEX batch_items_status ON public.batch_items (batch_id, user_id, status, id);
-- The newest calculation of a molecule is the first entry from the end, however many it has.
DROP INDEX public.calculations_molecule;
CREATE INDEX calculations_molecule ON public.calculations (molecule_id, user_id, id);
-- One calculation in sixteen in an order that has to do with nothing: the first n of an owner are a fair sample. With
-- its numbers beside, 5,000 of them are read from 80 pages and not from 5,000.
CREATE INDEX calculations_sample ON public.calculations (user_id, hashint8extended(id, 0))
    INCLUDE (id, energy, homo, lumo, gap, dipole, total_charge, execution_time_seconds, method)
    WHERE hashint8extended(id, 0) & 15 = 0;
