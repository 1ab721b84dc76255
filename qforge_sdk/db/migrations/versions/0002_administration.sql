-- What administration needs: guarded events, pruning, events for both owners of a row that moves.

-- A row that changes its owner leaves two events: its old owner sees the row as it was and whose it became, its new
-- owner sees whose it was and the row as it is. Neither learns what the row hung on, or hangs on, at the other's.
CREATE OR REPLACE FUNCTION qforge.audit_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'atomic_properties' THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT seen.user_id, TG_ARGV[0] || '_updated', TG_TABLE_NAME, coalesce(o.calculation_id, n.calculation_id),
               jsonb_build_object('before', seen.before, 'after', seen.after), 'database', 'trigger'
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.calculation_id = o.calculation_id AND n.atom_index = o.atom_index
        CROSS JOIN LATERAL qforge.seen_update(to_jsonb(o), to_jsonb(n)) AS seen
        WHERE o IS DISTINCT FROM n;
    ELSE
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT seen.user_id, TG_ARGV[0] || '_updated', TG_TABLE_NAME, coalesce(o.id, n.id),
               jsonb_build_object('before', seen.before, 'after', seen.after), 'database', 'trigger'
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        CROSS JOIN LATERAL qforge.seen_update(
            to_jsonb(o) - '{fingerprint,identity_hash}'::text[], to_jsonb(n) - '{fingerprint,identity_hash}'::text[]
        ) AS seen;
    END IF;
    RETURN NULL;
END $$;

-- Who sees what of an update. A row whose key changed comes without its other half.
CREATE FUNCTION qforge.seen_update(before_ jsonb, after_ jsonb)
RETURNS TABLE (user_id uuid, before jsonb, after jsonb)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (coalesce(before_, after_) ->> 'user_id')::uuid, before_, after_
    WHERE before_ IS NULL OR after_ IS NULL OR before_ -> 'user_id' = after_ -> 'user_id'
    UNION ALL
    SELECT (before_ ->> 'user_id')::uuid, before_, jsonb_build_object('user_id', after_ -> 'user_id')
    WHERE before_ -> 'user_id' <> after_ -> 'user_id'
    UNION ALL
    SELECT (after_ ->> 'user_id')::uuid, jsonb_build_object('user_id', before_ -> 'user_id'), after_
    WHERE before_ -> 'user_id' <> after_ -> 'user_id'
$$;
REVOKE ALL ON FUNCTION qforge.seen_update(jsonb, jsonb) FROM PUBLIC;

-- Events are appended to. Only the two functions below change any, each in the way that it says.
CREATE FUNCTION qforge.guard_events() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('qforge.event_guard', true) IS DISTINCT FROM lower(TG_OP) THEN
        RAISE EXCEPTION 'events are append-only' USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'the service removes old ones, and leaves an event about it, by qforge.prune_events(before)';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard BEFORE UPDATE OR DELETE OR TRUNCATE ON public.event_logs
    FOR EACH STATEMENT EXECUTE FUNCTION qforge.guard_events();

CREATE OR REPLACE FUNCTION qforge.enrich_event(entity text, entity_key bigint, kind text, program_context jsonb)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enriched bigint;
BEGIN
    PERFORM set_config('qforge.event_guard', 'update', true);
    UPDATE public.event_logs AS e
    SET context = e.context || jsonb_build_object('program', program_context)
    WHERE e.id = (
        SELECT max(c.id) FROM public.event_logs AS c
        WHERE c.transaction_id = pg_current_xact_id()::text::bigint AND c.recorded_by = 'trigger'
          AND c.entity_type = entity AND c.entity_id = entity_key AND c.event_type = kind
          AND c.actor = session_user
          -- The service without a tenant may have written for anybody.
          AND (c.user_id = qforge.current_user_id()
               OR (qforge.current_user_id() IS NULL AND qforge.login_kind() = 'service'))
    )
    RETURNING e.id INTO enriched;
    PERFORM set_config('qforge.event_guard', '', true);
    RETURN enriched;
END $$;

-- By its caller's rights: only the owner of the table may delete from it.
CREATE FUNCTION qforge.prune_events(before timestamptz, tenant uuid DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pruned bigint;
    first_at timestamptz;
    last_at timestamptz;
BEGIN
    PERFORM set_config('qforge.event_guard', 'delete', true);
    WITH gone AS (
        DELETE FROM public.event_logs AS e
        WHERE e.created_at < before AND (tenant IS NULL OR e.user_id = tenant)
        RETURNING e.created_at
    )
    SELECT count(*), min(created_at), max(created_at) INTO pruned, first_at, last_at FROM gone;
    PERFORM set_config('qforge.event_guard', '', true);
    INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service, recorded_by)
    VALUES (NULL, 'events_pruned', 'event_logs',
            jsonb_build_object('before', before, 'rows', pruned, 'first', first_at, 'last', last_at,
                               'tenant', tenant), 'database', 'trigger');
    RETURN pruned;
END $$;
COMMENT ON FUNCTION qforge.prune_events(timestamptz, uuid) IS
    'Delete the events before a time, of one tenant or of everybody, and leave an event about it';
REVOKE ALL ON FUNCTION qforge.guard_events(), qforge.prune_events(timestamptz, uuid) FROM PUBLIC;

-- Supabase's key of the service gets every right on new tables by default; events it may only read and add.
DO $$
BEGIN
    IF to_regrole('service_role') IS NOT NULL THEN
        REVOKE ALL ON public.event_logs, qforge.tenant_logins FROM service_role;
        GRANT USAGE ON SCHEMA qforge TO service_role;
        GRANT SELECT ON public.event_logs, qforge.alembic_version TO service_role;
        GRANT INSERT (user_id, event_type, entity_type, entity_id, status, error_message, error_code, context, service)
            ON public.event_logs TO service_role;
        GRANT EXECUTE ON FUNCTION qforge.login_kind(), qforge.current_user_id(),
            qforge.enrich_event(text, bigint, text, jsonb) TO service_role;
    END IF;
END $$;
