-- What administration needs, and what an attack on the first revision taught.

-- Scopes act in a role of their own: what a session makes in its role belongs to every member of the role, and
-- tenants' logins are members of qforge_tenant.
DO $$
DECLARE
    cure constant text := format('GRANT qforge_scope TO %I WITH ADMIN OPTION;', current_user);
BEGIN
    IF to_regrole('qforge_scope') IS NULL THEN
        BEGIN
            CREATE ROLE qforge_scope NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'the role qforge_scope is missing and % may not create roles', current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'An administrator runs: CREATE ROLE qforge_scope NOLOGIN; '
                                 'GRANT qforge_tenant TO qforge_scope; ' || cure;
        END;
    END IF;
    BEGIN
        IF NOT pg_has_role('qforge_scope', 'qforge_tenant', 'USAGE') THEN
            GRANT qforge_tenant TO qforge_scope;
        END IF;
        IF current_setting('server_version_num')::int >= 160000 THEN
            IF NOT pg_has_role(current_user, 'qforge_scope', 'SET') THEN
                EXECUTE 'GRANT qforge_scope TO CURRENT_USER WITH INHERIT FALSE, SET TRUE';
            END IF;
        ELSIF NOT pg_has_role(current_user, 'qforge_scope', 'MEMBER') THEN
            EXECUTE 'GRANT qforge_scope TO CURRENT_USER';
        END IF;
    EXCEPTION
        WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'the role qforge_scope was made by another database''s owner and % may not grant it',
                            current_user
                USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator runs: ' || cure;
    END;
    -- Databases that came from PostgreSQL 14 let everybody create objects in public.
    BEGIN
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;
    END;
END $$;

-- Who a login is never changes within its session, so to the planner it is a constant: a sub-select would be
-- evaluated lazily, and EXPLAIN ANALYZE would tell by "never executed" whether a condition that runs before the policy
-- holds for another's row. Ending a login's tenancy must therefore end its sessions.
CREATE FUNCTION qforge.may_speak_for_others() RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN qforge.login_kind() = 'service';
END $$;
COMMENT ON FUNCTION qforge.may_speak_for_others() IS 'Whether this login is the service''s; constant within a session';

CREATE FUNCTION qforge.login_user_id() RETURNS uuid
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT t.user_id FROM qforge.tenant_logins AS t WHERE t.login = session_user);
END $$;
COMMENT ON FUNCTION qforge.login_user_id() IS 'The tenant of this login, null for the service; constant within a session';

REVOKE ALL ON FUNCTION qforge.may_speak_for_others(), qforge.login_user_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qforge.may_speak_for_others(), qforge.login_user_id() TO qforge_tenant;

-- TO PUBLIC: a policy for a group belongs to it as well, and a member's DROP OWNED BY would drop it. Rights decide who
-- reaches a table at all.
DO $$
DECLARE
    audited text;
    zeros constant text := quote_literal('00000000-0000-0000-0000-000000000000') || '::uuid';
    readable constant text := format(
        'CASE WHEN qforge.may_speak_for_others() '
        'THEN user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), %1$s]) '
        'ELSE user_id = ANY (ARRAY[qforge.login_user_id(), %1$s]) END', zeros);
    own constant text :=
        'CASE WHEN qforge.may_speak_for_others() THEN user_id = (SELECT qforge.current_user_id()) '
        'ELSE user_id = qforge.login_user_id() END';
BEGIN
    FOREACH audited IN ARRAY ARRAY[
        'molecules', 'calculations', 'atomic_properties', 'batch_jobs', 'batch_items'
    ] LOOP
        EXECUTE format('ALTER POLICY tenant_select ON public.%I TO PUBLIC USING (%s)', audited, readable);
        EXECUTE format('ALTER POLICY tenant_insert ON public.%I TO PUBLIC', audited);
        EXECUTE format('ALTER POLICY tenant_update ON public.%I TO PUBLIC USING (%s)', audited, own);
        EXECUTE format('ALTER POLICY tenant_delete ON public.%I TO PUBLIC USING (%s)', audited, own);
    END LOOP;
    EXECUTE format('ALTER POLICY tenant_select ON public.event_logs TO PUBLIC USING (%s)', own);
    EXECUTE 'ALTER POLICY tenant_insert ON public.event_logs TO PUBLIC';
    EXECUTE 'ALTER POLICY tenant_update ON public.event_logs TO PUBLIC';
    EXECUTE 'ALTER POLICY tenant_delete ON public.event_logs TO PUBLIC';
END $$;

-- The clock and not the transaction's start: an event is not backdated by a transaction that was held open.
ALTER TABLE public.event_logs ALTER COLUMN created_at SET DEFAULT clock_timestamp();

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
        -- Identical and not only equal: 0 and -0, 1.5 and 1.50 differ.
        WHERE o IS NULL OR n IS NULL OR o *<> n;
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

-- A caller's extra_float_digits would round the numbers in events.
ALTER FUNCTION qforge.audit_insert() SET extra_float_digits = 1;
ALTER FUNCTION qforge.audit_update() SET extra_float_digits = 1;
ALTER FUNCTION qforge.audit_delete() SET extra_float_digits = 1;

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
          -- A restored event may have the number of this transaction.
          AND c.created_at >= now()
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
