-- Batches run: items are leased to workers, and the counts of a batch follow its items.

ALTER TABLE public.batch_items
    ADD COLUMN error_code varchar(50),
    -- One attempt at some items: who has another token has lost them.
    ADD COLUMN lease_token uuid,
    ADD COLUMN lease_holder varchar(255),
    ADD COLUMN lease_expires_at timestamptz;
-- What a worker may claim, in the order in which it is claimed.
CREATE INDEX batch_items_claim ON public.batch_items (user_id, batch_id, id)
    WHERE status IN ('pending', 'processing');

ALTER TABLE public.batch_jobs
    ADD COLUMN skipped_count integer NOT NULL DEFAULT 0,
    ADD COLUMN waiting_count integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT batch_jobs_counts_not_negative,
    ADD CONSTRAINT batch_jobs_counts_not_negative
        CHECK (total_molecules >= 0 AND successful_count >= 0 AND failed_count >= 0 AND skipped_count >= 0
               AND waiting_count >= 0);
COMMENT ON COLUMN public.batch_jobs.waiting_count IS 'Items that are pending or processing';

GRANT INSERT (error_code, lease_token, lease_holder, lease_expires_at),
      UPDATE (error_code, lease_token, lease_holder, lease_expires_at)
    ON public.batch_items TO qforge_tenant;
REVOKE INSERT (successful_count, failed_count), UPDATE (successful_count, failed_count)
    ON public.batch_jobs FROM qforge_tenant;

-- Counts ---------------------------------------------------------------------------------------------------------

-- A restore brings the counts with the rows, as it brings ids and times: the service's only.
CREATE FUNCTION qforge.counts_are_given() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(current_setting('qforge.restoring', true), '') = 'on'
           AND qforge.login_kind() = 'service' AND qforge.current_user_id() IS NULL
$$;

CREATE FUNCTION qforge.recount_batches() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before constant text := coalesce(current_setting('qforge.restoring', true), '');
    corrected bigint;
BEGIN
    PERFORM set_config('qforge.restoring', 'on', true);
    WITH counted AS (
        SELECT b.id, count(i.id) AS items,
               count(*) FILTER (WHERE i.status = 'completed') AS successful,
               count(*) FILTER (WHERE i.status = 'failed') AS failed,
               count(*) FILTER (WHERE i.status = 'skipped') AS skipped,
               count(*) FILTER (WHERE i.status IN ('pending', 'processing')) AS waiting
        FROM public.batch_jobs AS b LEFT JOIN public.batch_items AS i ON i.batch_id = b.id
        GROUP BY b.id
    )
    UPDATE public.batch_jobs AS b
    SET total_molecules = greatest(b.total_molecules, c.items), successful_count = c.successful,
        failed_count = c.failed, skipped_count = c.skipped, waiting_count = c.waiting
    FROM counted AS c
    WHERE b.id = c.id
          AND (b.total_molecules < c.items
               OR (b.successful_count, b.failed_count, b.skipped_count, b.waiting_count)
                  IS DISTINCT FROM (c.successful, c.failed, c.skipped, c.waiting));
    GET DIAGNOSTICS corrected = ROW_COUNT;
    PERFORM set_config('qforge.restoring', before, true);
    RETURN corrected;
END $$;
COMMENT ON FUNCTION qforge.recount_batches() IS
    'Correct the counts of batches whose items were changed while triggers were off; the number of batches corrected';
SELECT qforge.recount_batches();

CREATE FUNCTION qforge.guard_counts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT qforge.counts_are_given() THEN
        RAISE EXCEPTION 'the counts of a batch follow its items' USING
            ERRCODE = 'insufficient_privilege', HINT = 'change the items; total_molecules may announce more of them';
    END IF;
    RETURN NEW;
END $$;
-- At depth 0 speaks whoever is connected, below it the trigger that counts.
CREATE TRIGGER guard_counts_insert BEFORE INSERT ON public.batch_jobs FOR EACH ROW
    WHEN (pg_trigger_depth() = 0
          AND (NEW.successful_count <> 0 OR NEW.failed_count <> 0 OR NEW.skipped_count <> 0 OR NEW.waiting_count <> 0))
    EXECUTE FUNCTION qforge.guard_counts();
CREATE TRIGGER guard_counts_update BEFORE UPDATE ON public.batch_jobs FOR EACH ROW
    WHEN (pg_trigger_depth() = 0
          AND (OLD.successful_count <> NEW.successful_count OR OLD.failed_count <> NEW.failed_count
               OR OLD.skipped_count <> NEW.skipped_count OR OLD.waiting_count <> NEW.waiting_count
               OR (OLD.total_molecules <> NEW.total_molecules
                   AND NEW.total_molecules
                       < NEW.successful_count + NEW.failed_count + NEW.skipped_count + NEW.waiting_count)))
    EXECUTE FUNCTION qforge.guard_counts();

-- By differences: items of one statement may have been counted by another trigger of it already. The row of the batch
-- is locked after its items, and batches in the order of their keys.
CREATE FUNCTION qforge.count_items() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batches bigint[];
    statuses text[];
    numbers bigint[];
    change record;
    batch public.batch_jobs;
    items bigint;
    stored public.batch_jobs;
BEGIN
    IF qforge.counts_are_given() THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT array_agg(g.batch_id), array_agg(g.status), array_agg(g.n) INTO batches, statuses, numbers
        FROM (SELECT batch_id, status, count(*) AS n FROM new_rows GROUP BY batch_id, status) AS g;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT batches || array_agg(g.batch_id), statuses || array_agg(g.status), numbers || array_agg(g.n)
        INTO batches, statuses, numbers
        FROM (SELECT batch_id, status, -count(*) AS n FROM old_rows GROUP BY batch_id, status) AS g;
    END IF;
    FOR change IN
        SELECT u.batch_id, sum(u.n) AS items,
               coalesce(sum(u.n) FILTER (WHERE u.status = 'completed'), 0) AS successful,
               coalesce(sum(u.n) FILTER (WHERE u.status = 'failed'), 0) AS failed,
               coalesce(sum(u.n) FILTER (WHERE u.status = 'skipped'), 0) AS skipped,
               coalesce(sum(u.n) FILTER (WHERE u.status IN ('pending', 'processing')), 0) AS waiting,
               coalesce(sum(u.n) FILTER (WHERE u.status = 'processing'), 0) AS processing
        FROM unnest(batches, statuses, numbers) AS u (batch_id, status, n)
        GROUP BY u.batch_id ORDER BY u.batch_id
    LOOP
        -- Most statements claim items of a batch that is in progress: they leave its row alone.
        IF change.successful = 0 AND change.failed = 0 AND change.skipped = 0 AND change.waiting = 0 THEN
            CONTINUE WHEN change.processing <= 0 OR NOT EXISTS (
                SELECT FROM public.batch_jobs AS b WHERE b.id = change.batch_id AND b.status <> 'in_progress'
            );
        END IF;
        SELECT * INTO batch FROM public.batch_jobs AS b WHERE b.id = change.batch_id FOR NO KEY UPDATE;
        -- Deleted, and its items with it.
        CONTINUE WHEN NOT FOUND;
        stored := batch;
        batch.successful_count := batch.successful_count + change.successful;
        batch.failed_count := batch.failed_count + change.failed;
        batch.skipped_count := batch.skipped_count + change.skipped;
        batch.waiting_count := batch.waiting_count + change.waiting;
        items := batch.successful_count + batch.failed_count + batch.skipped_count + batch.waiting_count;
        batch.total_molecules := CASE WHEN change.items < 0 THEN items ELSE greatest(batch.total_molecules, items) END;
        IF coalesce(current_setting('qforge.restoring', true), '') <> 'on' THEN
            batch.status := CASE
                WHEN batch.waiting_count = 0 AND items > 0 AND items >= batch.total_molecules THEN 'completed'
                WHEN change.processing > 0 OR change.successful + change.failed + change.skipped > 0 THEN 'in_progress'
                WHEN batch.waiting_count > 0 AND batch.status IN ('completed', 'failed') THEN 'pending'
                ELSE batch.status
            END;
            IF batch.status IN ('in_progress', 'completed') THEN
                batch.started_at := coalesce(batch.started_at, clock_timestamp());
            END IF;
            IF batch.status = 'completed' THEN
                batch.completed_at := coalesce(batch.completed_at, clock_timestamp());
            ELSIF batch.status <> stored.status THEN
                batch.completed_at := NULL;
            END IF;
        END IF;
        -- Somebody may have begun the batch while this waited.
        CONTINUE WHEN batch IS NOT DISTINCT FROM stored;
        UPDATE public.batch_jobs AS b
        SET total_molecules = batch.total_molecules, successful_count = batch.successful_count,
            failed_count = batch.failed_count, skipped_count = batch.skipped_count,
            waiting_count = batch.waiting_count, status = batch.status, started_at = batch.started_at,
            completed_at = batch.completed_at
        WHERE b.id = change.batch_id;
    END LOOP;
    RETURN NULL;
END $$;
-- Items date themselves: their count says nothing new of when the batch was changed.
CREATE OR REPLACE TRIGGER touch BEFORE UPDATE ON public.batch_jobs FOR EACH ROW
    WHEN (NOT (
        (OLD.total_molecules, OLD.successful_count, OLD.failed_count, OLD.skipped_count, OLD.waiting_count)
            IS DISTINCT FROM
        (NEW.total_molecules, NEW.successful_count, NEW.failed_count, NEW.skipped_count, NEW.waiting_count)
        AND to_jsonb(OLD) - '{total_molecules,successful_count,failed_count,skipped_count,waiting_count}'::text[]
            = to_jsonb(NEW) - '{total_molecules,successful_count,failed_count,skipped_count,waiting_count}'::text[]
    ))
    EXECUTE FUNCTION qforge.touch();

CREATE TRIGGER count_insert AFTER INSERT ON public.batch_items REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_items();
CREATE TRIGGER count_update AFTER UPDATE ON public.batch_items REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_items();
CREATE TRIGGER count_delete AFTER DELETE ON public.batch_items REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.count_items();

-- Audit ----------------------------------------------------------------------------------------------------------

-- A second argument lists columns that follow from what has events of its own, or tell nothing (a lease that is held
-- for longer): a change of these alone leaves no event.
CREATE OR REPLACE FUNCTION qforge.audit_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $$
BEGIN
    IF TG_TABLE_NAME = 'atomic_properties' THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT seen.user_id, TG_ARGV[0] || '_updated', TG_TABLE_NAME, coalesce(o.calculation_id, n.calculation_id),
               jsonb_build_object('before', seen.before, 'after', seen.after), 'database', 'trigger'
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.calculation_id = o.calculation_id AND n.atom_index = o.atom_index
        CROSS JOIN LATERAL qforge.seen_update(to_jsonb(o), to_jsonb(n)) AS seen
        -- Identical and not only equal: 0 and -0, 1.5 and 1.50 differ.
        WHERE o IS NULL OR n IS NULL OR o *<> n;
    ELSE
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT seen.user_id, TG_ARGV[0] || '_updated', TG_TABLE_NAME, coalesce(o.id, n.id),
               jsonb_build_object('before', seen.before, 'after', seen.after), 'database', 'trigger'
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        CROSS JOIN LATERAL (
            SELECT to_jsonb(o) - '{fingerprint,identity_hash}'::text[] AS before,
                   to_jsonb(n) - '{fingerprint,identity_hash}'::text[] AS after
        ) AS changed
        CROSS JOIN LATERAL qforge.seen_update(changed.before, changed.after) AS seen
        WHERE TG_NARGS = 1 OR NOT qforge.only_differ_in(changed.before, changed.after, TG_ARGV[1]::text[]);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION qforge.only_differ_in(before jsonb, after jsonb, columns text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(before - columns - 'updated_at' = after - columns - 'updated_at'
                    AND before - 'updated_at' <> after - 'updated_at', false)
$$;

CREATE OR REPLACE TRIGGER audit_update AFTER UPDATE ON public.batch_items
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_update('batch_item', '{lease_expires_at}');
CREATE OR REPLACE TRIGGER audit_update AFTER UPDATE ON public.batch_jobs
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_update(
        'batch_job', '{total_molecules,successful_count,failed_count,skipped_count,waiting_count}');

REVOKE ALL ON FUNCTION qforge.counts_are_given(), qforge.recount_batches(), qforge.guard_counts(),
    qforge.count_items(), qforge.only_differ_in(jsonb, jsonb, text[]) FROM PUBLIC;
