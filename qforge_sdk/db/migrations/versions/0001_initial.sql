-- Tables, row level security, audit. Every function pins search_path and every name is qualified, so that no
-- schema or temporary table of a caller can stand in for ours.

-- Roles ----------------------------------------------------------------------------------------------------------

-- Roles belong to the whole server: another database on it may have made the group already.
DO $$
DECLARE
    cure constant text := format('GRANT qforge_tenant TO %I WITH ADMIN OPTION;', current_user);
BEGIN
    IF to_regrole('qforge_tenant') IS NULL THEN
        BEGIN
            CREATE ROLE qforge_tenant NOLOGIN;
        EXCEPTION
            -- unique_violation: another database's migration committed it while ours waited.
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'the role qforge_tenant is missing and % may not create roles', current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'An administrator runs: CREATE ROLE qforge_tenant NOLOGIN; ' || cure;
        END;
    END IF;
    BEGIN
        -- From PostgreSQL 16 on, who creates a role may administer it but not SET ROLE to it.
        IF current_setting('server_version_num')::int >= 160000 THEN
            IF NOT pg_has_role(current_user, 'qforge_tenant', 'SET') THEN
                EXECUTE 'GRANT qforge_tenant TO CURRENT_USER WITH INHERIT FALSE, SET TRUE';
            END IF;
        ELSIF NOT pg_has_role(current_user, 'qforge_tenant', 'MEMBER') THEN
            EXECUTE 'GRANT qforge_tenant TO CURRENT_USER';
        END IF;
        -- Supabase's API role reads and writes as whichever tenant its token names.
        IF to_regrole('authenticated') IS NOT NULL AND NOT pg_has_role('authenticated', 'qforge_tenant', 'MEMBER') THEN
            EXECUTE 'GRANT qforge_tenant TO authenticated';
        END IF;
    EXCEPTION
        WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'the role qforge_tenant was made by another database''s owner and % may not grant it',
                            current_user
                USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator runs: ' || cure;
    END;
    IF EXISTS (
        SELECT FROM pg_database WHERE datname = current_database() AND pg_has_role(current_user, datdba, 'USAGE')
    ) THEN
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO qforge_tenant', current_database());
    END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS qforge;
REVOKE ALL ON SCHEMA qforge FROM PUBLIC;
GRANT USAGE ON SCHEMA qforge TO qforge_tenant;
GRANT USAGE ON SCHEMA public TO qforge_tenant;

-- Who one is -----------------------------------------------------------------------------------------------------

CREATE TABLE qforge.tenant_logins (
    login name PRIMARY KEY,
    user_id uuid NOT NULL CHECK (user_id <> '00000000-0000-0000-0000-000000000000'),
    name text,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qforge.tenant_logins IS 'Logins that are always one tenant, whatever they set';
REVOKE ALL ON qforge.tenant_logins FROM PUBLIC;

-- Supabase brings auth.uid(); elsewhere we make the same function.
DO $$
BEGIN
    IF to_regnamespace('auth') IS NULL THEN
        CREATE SCHEMA auth;
        GRANT USAGE ON SCHEMA auth TO qforge_tenant;
    END IF;
    IF to_regprocedure('auth.uid()') IS NULL THEN
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE SET search_path = '' AS $body$
            SELECT coalesce(
                nullif(pg_catalog.current_setting('request.jwt.claim.sub', true), ''),
                nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb ->> 'sub'
            )::pg_catalog.uuid
        $body$;
    END IF;
END $$;

CREATE FUNCTION qforge.login_kind() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- session_user survives SET ROLE and SECURITY DEFINER; only a superuser can change it.
    IF EXISTS (SELECT FROM qforge.tenant_logins AS t WHERE t.login = session_user) THEN
        RETURN 'tenant';
    END IF;
    -- current_user is the owner of this function here. PostgREST logs in as authenticator and has checked the token.
    IF pg_has_role(session_user, current_user, 'MEMBER') OR session_user = 'authenticator' THEN
        RETURN 'service';
    END IF;
    RETURN 'other';
END $$;
COMMENT ON FUNCTION qforge.login_kind() IS 'tenant, service (may speak for any tenant) or other (is nobody)';

CREATE FUNCTION qforge.current_user_id() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant uuid;
BEGIN
    SELECT t.user_id INTO tenant FROM qforge.tenant_logins AS t WHERE t.login = session_user;
    IF FOUND THEN
        RETURN tenant;
    END IF;
    IF qforge.login_kind() = 'service' THEN
        RETURN nullif(auth.uid(), '00000000-0000-0000-0000-000000000000');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qforge.current_user_id() IS 'The tenant of this session, null for nobody and for the service itself';

REVOKE ALL ON FUNCTION qforge.login_kind(), qforge.current_user_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qforge.login_kind(), qforge.current_user_id() TO qforge_tenant;

-- Tables ---------------------------------------------------------------------------------------------------------

CREATE TABLE public.molecules (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    user_id uuid DEFAULT qforge.current_user_id(),
    name varchar(255),
    smiles text,
    formula varchar(255) NOT NULL,
    charge integer NOT NULL DEFAULT 0,
    inchikey varchar(27),
    graph_hash varchar(64),
    -- A btree on the text itself refuses anything longer than 2,704 bytes.
    identity_hash bytea GENERATED ALWAYS AS (
        sha256(replace(coalesce(smiles, 'graph:' || graph_hash), '\', '\\')::bytea)
    ) STORED,
    fingerprint bit(2048),
    fingerprint_popcount integer,
    input_smiles text,
    rdkit_version varchar(50),
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT molecules_pkey PRIMARY KEY (id),
    CONSTRAINT molecules_identity UNIQUE NULLS NOT DISTINCT (user_id, identity_hash),
    CONSTRAINT molecules_has_identity CHECK (smiles IS NOT NULL OR graph_hash IS NOT NULL),
    CONSTRAINT molecules_smiles_not_empty CHECK (smiles <> ''),
    CONSTRAINT molecules_name_not_empty CHECK (name <> '')
);
CREATE INDEX molecules_inchikey ON public.molecules (user_id, inchikey);

CREATE TABLE public.calculations (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    user_id uuid DEFAULT qforge.current_user_id(),
    molecule_id bigint NOT NULL,
    energy double precision,
    homo double precision,
    lumo double precision,
    gap double precision,
    dipole double precision,
    total_charge double precision NOT NULL DEFAULT 0,
    unpaired_electrons integer NOT NULL DEFAULT 0,
    execution_time_seconds double precision,
    xtb_version varchar(50),
    method varchar(50) NOT NULL DEFAULT 'GFN2-xTB',
    solvation varchar(50),
    solvent varchar(50),
    optimized boolean NOT NULL DEFAULT false,
    convergence_status varchar(50) NOT NULL DEFAULT 'converged',
    xyz_file_hash varchar(64),
    output_json_path text,
    source_id varchar(255),
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calculations_pkey PRIMARY KEY (id),
    CONSTRAINT calculations_molecule_id_fkey
        FOREIGN KEY (molecule_id) REFERENCES public.molecules (id) ON DELETE CASCADE,
    CONSTRAINT calculations_status CHECK (convergence_status IN ('converged', 'not_converged', 'error')),
    CONSTRAINT calculations_converged_has_energy CHECK (energy IS NOT NULL OR convergence_status <> 'converged'),
    CONSTRAINT calculations_time_not_negative
        CHECK (execution_time_seconds >= 0 AND execution_time_seconds < 'Infinity'),
    -- PostgreSQL sorts NaN above Infinity, so one upper bound refuses both.
    CONSTRAINT calculations_energy_finite CHECK (energy > '-Infinity' AND energy < 'Infinity'),
    CONSTRAINT calculations_homo_finite CHECK (homo > '-Infinity' AND homo < 'Infinity'),
    CONSTRAINT calculations_lumo_finite CHECK (lumo > '-Infinity' AND lumo < 'Infinity'),
    CONSTRAINT calculations_gap_finite CHECK (gap > '-Infinity' AND gap < 'Infinity'),
    CONSTRAINT calculations_dipole_not_negative CHECK (dipole >= 0 AND dipole < 'Infinity'),
    CONSTRAINT calculations_total_charge_finite CHECK (total_charge > '-Infinity' AND total_charge < 'Infinity'),
    CONSTRAINT calculations_unpaired_electrons_not_negative CHECK (unpaired_electrons >= 0),
    CONSTRAINT calculations_xyz_file_hash_is_sha256 CHECK (length(xyz_file_hash) = 64)
);
CREATE INDEX calculations_molecule ON public.calculations (molecule_id, user_id);
CREATE INDEX calculations_gap ON public.calculations (user_id, gap);
CREATE INDEX calculations_energy ON public.calculations (user_id, energy);
CREATE INDEX calculations_created ON public.calculations (user_id, created_at, id);
CREATE UNIQUE INDEX calculations_source ON public.calculations (user_id, source_id) NULLS NOT DISTINCT
    WHERE source_id IS NOT NULL;

CREATE TABLE public.atomic_properties (
    user_id uuid DEFAULT qforge.current_user_id(),
    calculation_id bigint NOT NULL,
    atom_index integer NOT NULL,
    element varchar(3) NOT NULL,
    atomic_number smallint NOT NULL,
    partial_charge double precision,
    position_x double precision NOT NULL,
    position_y double precision NOT NULL,
    position_z double precision NOT NULL,
    force_x double precision,
    force_y double precision,
    force_z double precision,
    orbital_energy double precision,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    -- user_id stands in the key so that the policy is part of every look-up by calculation; from PostgreSQL 17 on
    -- EXPLAIN then counts nobody else's atoms, before it the planner may still filter by the policy's array.
    -- calculation_id leads for the cascade. An atom belongs to the owner of its calculation.
    CONSTRAINT atomic_properties_key UNIQUE NULLS NOT DISTINCT (calculation_id, user_id, atom_index),
    CONSTRAINT atomic_properties_calculation_id_fkey
        FOREIGN KEY (calculation_id) REFERENCES public.calculations (id) ON DELETE CASCADE,
    CONSTRAINT atomic_properties_atom_index_not_negative CHECK (atom_index >= 0),
    CONSTRAINT atomic_properties_atomic_number CHECK (atomic_number BETWEEN 1 AND 118),
    CONSTRAINT atomic_properties_position_finite CHECK (
        position_x > '-Infinity' AND position_x < 'Infinity' AND position_y > '-Infinity'
        AND position_y < 'Infinity' AND position_z > '-Infinity' AND position_z < 'Infinity'
    ),
    CONSTRAINT atomic_properties_partial_charge_finite
        CHECK (partial_charge > '-Infinity' AND partial_charge < 'Infinity'),
    CONSTRAINT atomic_properties_force_x_finite CHECK (force_x > '-Infinity' AND force_x < 'Infinity'),
    CONSTRAINT atomic_properties_force_y_finite CHECK (force_y > '-Infinity' AND force_y < 'Infinity'),
    CONSTRAINT atomic_properties_force_z_finite CHECK (force_z > '-Infinity' AND force_z < 'Infinity'),
    CONSTRAINT atomic_properties_orbital_energy_finite
        CHECK (orbital_energy > '-Infinity' AND orbital_energy < 'Infinity')
);

CREATE TABLE public.batch_jobs (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    user_id uuid DEFAULT qforge.current_user_id(),
    batch_name varchar(255) NOT NULL,
    description text,
    status varchar(50) NOT NULL DEFAULT 'pending',
    total_molecules integer NOT NULL DEFAULT 0,
    successful_count integer NOT NULL DEFAULT 0,
    failed_count integer NOT NULL DEFAULT 0,
    parameters jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT batch_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT batch_jobs_name_not_empty CHECK (batch_name <> ''),
    CONSTRAINT batch_jobs_status CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')),
    CONSTRAINT batch_jobs_counts_not_negative
        CHECK (total_molecules >= 0 AND successful_count >= 0 AND failed_count >= 0)
);
CREATE INDEX batch_jobs_name ON public.batch_jobs (user_id, batch_name);

CREATE TABLE public.batch_items (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    user_id uuid DEFAULT qforge.current_user_id(),
    batch_id bigint NOT NULL,
    molecule_id bigint NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    calculation_id bigint,
    error_message text,
    retry_count integer NOT NULL DEFAULT 0,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT batch_items_pkey PRIMARY KEY (id),
    -- An item belongs to the owner of its batch; user_id is in the key for the reason given at atomic_properties.
    CONSTRAINT batch_items_key UNIQUE NULLS NOT DISTINCT (batch_id, user_id, molecule_id),
    CONSTRAINT batch_items_batch_id_fkey
        FOREIGN KEY (batch_id) REFERENCES public.batch_jobs (id) ON DELETE CASCADE,
    CONSTRAINT batch_items_molecule_id_fkey
        FOREIGN KEY (molecule_id) REFERENCES public.molecules (id) ON DELETE CASCADE,
    CONSTRAINT batch_items_calculation_id_fkey
        FOREIGN KEY (calculation_id) REFERENCES public.calculations (id) ON DELETE SET NULL,
    CONSTRAINT batch_items_status CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'skipped')),
    CONSTRAINT batch_items_retry_count_not_negative CHECK (retry_count >= 0)
);
CREATE INDEX batch_items_molecule ON public.batch_items (molecule_id, user_id);
CREATE INDEX batch_items_calculation ON public.batch_items (calculation_id, user_id)
    WHERE calculation_id IS NOT NULL;

CREATE TABLE public.event_logs (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    user_id uuid DEFAULT qforge.current_user_id(),
    event_type varchar(50) NOT NULL,
    entity_type varchar(50) NOT NULL,
    entity_id bigint,
    status varchar(50) NOT NULL DEFAULT 'success',
    error_message text,
    error_code varchar(50),
    context jsonb NOT NULL DEFAULT '{}',
    service varchar(50) NOT NULL DEFAULT 'api',
    recorded_by varchar(50) NOT NULL DEFAULT 'program',
    actor name NOT NULL DEFAULT session_user,
    application text DEFAULT current_setting('application_name', true),
    transaction_id bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_logs_pkey PRIMARY KEY (id),
    CONSTRAINT event_logs_status CHECK (status IN ('success', 'warning', 'error')),
    CONSTRAINT event_logs_recorded_by CHECK (recorded_by IN ('program', 'trigger')),
    CONSTRAINT event_logs_entity_type CHECK (entity_type IN (
        'molecules', 'calculations', 'atomic_properties', 'batch_jobs', 'batch_items', 'event_logs', 'system'
    ))
);
CREATE INDEX event_logs_entity ON public.event_logs (user_id, entity_type, entity_id);
CREATE INDEX event_logs_created ON public.event_logs (user_id, created_at, id);

-- Rights ---------------------------------------------------------------------------------------------------------

-- Supabase grants everything on new tables of public to its API roles by default.
DO $$
DECLARE
    grantee text;
BEGIN
    FOREACH grantee IN ARRAY ARRAY['anon', 'authenticated'] LOOP
        IF to_regrole(grantee) IS NOT NULL THEN
            EXECUTE format(
                'REVOKE ALL ON public.molecules, public.calculations, public.atomic_properties, public.batch_jobs, '
                'public.batch_items, public.event_logs, qforge.tenant_logins FROM %I', grantee);
            EXECUTE format(
                'REVOKE ALL ON SEQUENCE public.molecules_id_seq, public.calculations_id_seq, '
                'public.batch_jobs_id_seq, public.batch_items_id_seq, public.event_logs_id_seq FROM %I', grantee);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON public.molecules, public.calculations, public.atomic_properties, public.batch_jobs,
    public.batch_items, public.event_logs FROM PUBLIC;

-- Column grants: a tenant neither chooses an id (which would probe for others'), nor moves a row to another owner,
-- nor dates it.
GRANT SELECT, DELETE ON public.molecules, public.calculations, public.atomic_properties, public.batch_jobs,
    public.batch_items TO qforge_tenant;
GRANT INSERT (user_id, name, smiles, formula, charge, inchikey, graph_hash, fingerprint, fingerprint_popcount,
              input_smiles, rdkit_version, metadata),
      UPDATE (name, smiles, formula, charge, inchikey, graph_hash, fingerprint, fingerprint_popcount,
              input_smiles, rdkit_version, metadata)
    ON public.molecules TO qforge_tenant;
GRANT INSERT (user_id, molecule_id, energy, homo, lumo, gap, dipole, total_charge, unpaired_electrons,
              execution_time_seconds, xtb_version, method, solvation, solvent, optimized, convergence_status,
              xyz_file_hash, output_json_path, source_id, metadata),
      UPDATE (molecule_id, energy, homo, lumo, gap, dipole, total_charge, unpaired_electrons,
              execution_time_seconds, xtb_version, method, solvation, solvent, optimized, convergence_status,
              xyz_file_hash, output_json_path, source_id, metadata)
    ON public.calculations TO qforge_tenant;
GRANT INSERT (user_id, calculation_id, atom_index, element, atomic_number, partial_charge, position_x, position_y,
              position_z, force_x, force_y, force_z, orbital_energy, metadata),
      UPDATE (element, atomic_number, partial_charge, position_x, position_y, position_z, force_x, force_y, force_z,
              orbital_energy, metadata)
    ON public.atomic_properties TO qforge_tenant;
GRANT INSERT (user_id, batch_name, description, status, total_molecules, successful_count, failed_count, parameters,
              metadata, started_at, completed_at),
      UPDATE (batch_name, description, status, total_molecules, successful_count, failed_count, parameters, metadata,
              started_at, completed_at)
    ON public.batch_jobs TO qforge_tenant;
GRANT INSERT (user_id, batch_id, molecule_id, status, calculation_id, error_message, retry_count, metadata,
              started_at, completed_at),
      UPDATE (status, calculation_id, error_message, retry_count, metadata, started_at, completed_at)
    ON public.batch_items TO qforge_tenant;
GRANT SELECT ON public.event_logs TO qforge_tenant;
GRANT INSERT (user_id, event_type, entity_type, entity_id, status, error_message, error_code, context, service)
    ON public.event_logs TO qforge_tenant;
GRANT SELECT ON qforge.alembic_version TO qforge_tenant;

-- Row level security ---------------------------------------------------------------------------------------------

-- Policies compare user_id with an array of two: only then is the policy itself an index condition, and EXPLAIN
-- ANALYZE counts no row of another. (select ...) is evaluated once a statement, a bare call once a row.

ALTER TABLE public.molecules ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.molecules FOR SELECT TO qforge_tenant
    USING (user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid]));
CREATE POLICY tenant_insert ON public.molecules FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_update ON public.molecules FOR UPDATE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()))
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_delete ON public.molecules FOR DELETE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));

-- A foreign key check bypasses row level security: whether a parent may be used is decided here, with one error for
-- a parent that is absent and one that is another's.
ALTER TABLE public.calculations ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.calculations FOR SELECT TO qforge_tenant
    USING (user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid]));
CREATE POLICY tenant_insert ON public.calculations FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id())
                AND EXISTS (SELECT FROM public.molecules AS m WHERE m.id = molecule_id));
CREATE POLICY tenant_update ON public.calculations FOR UPDATE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()))
    WITH CHECK (user_id = (SELECT qforge.current_user_id())
                AND EXISTS (SELECT FROM public.molecules AS m WHERE m.id = molecule_id));
CREATE POLICY tenant_delete ON public.calculations FOR DELETE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));

ALTER TABLE public.atomic_properties ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.atomic_properties FOR SELECT TO qforge_tenant
    USING (user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid]));
CREATE POLICY tenant_insert ON public.atomic_properties FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id())
                AND EXISTS (SELECT FROM public.calculations AS c WHERE c.id = calculation_id
                            AND c.user_id = (SELECT qforge.current_user_id())));
CREATE POLICY tenant_update ON public.atomic_properties FOR UPDATE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()))
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_delete ON public.atomic_properties FOR DELETE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));

ALTER TABLE public.batch_jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.batch_jobs FOR SELECT TO qforge_tenant
    USING (user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid]));
CREATE POLICY tenant_insert ON public.batch_jobs FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_update ON public.batch_jobs FOR UPDATE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()))
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_delete ON public.batch_jobs FOR DELETE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));

ALTER TABLE public.batch_items ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.batch_items FOR SELECT TO qforge_tenant
    USING (user_id = ANY (ARRAY[(SELECT qforge.current_user_id()), '00000000-0000-0000-0000-000000000000'::uuid]));
CREATE POLICY tenant_insert ON public.batch_items FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id())
                AND EXISTS (SELECT FROM public.batch_jobs AS b WHERE b.id = batch_id
                            AND b.user_id = (SELECT qforge.current_user_id()))
                AND EXISTS (SELECT FROM public.molecules AS m WHERE m.id = molecule_id)
                AND (calculation_id IS NULL
                     OR EXISTS (SELECT FROM public.calculations AS c WHERE c.id = calculation_id)));
CREATE POLICY tenant_update ON public.batch_items FOR UPDATE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()))
    WITH CHECK (user_id = (SELECT qforge.current_user_id())
                AND (calculation_id IS NULL
                     OR EXISTS (SELECT FROM public.calculations AS c WHERE c.id = calculation_id)));
CREATE POLICY tenant_delete ON public.batch_items FOR DELETE TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));

ALTER TABLE public.event_logs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON public.event_logs FOR SELECT TO qforge_tenant
    USING (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_insert ON public.event_logs FOR INSERT TO qforge_tenant
    WITH CHECK (user_id = (SELECT qforge.current_user_id()));
CREATE POLICY tenant_update ON public.event_logs FOR UPDATE TO qforge_tenant USING (false);
CREATE POLICY tenant_delete ON public.event_logs FOR DELETE TO qforge_tenant USING (false);

-- Clocks and audit -----------------------------------------------------------------------------------------------

CREATE FUNCTION qforge.touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- Arguments: the noun of the event type; the largest statement that is recorded row by row.
CREATE FUNCTION qforge.audit_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noun constant text := TG_ARGV[0];
    one_by_one constant bigint := TG_ARGV[1]::bigint;
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM new_rows LIMIT one_by_one + 1) AS few) <= one_by_one THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT n.user_id, noun || '_created', TG_TABLE_NAME, n.id,
               jsonb_build_object('after', to_jsonb(n) - '{fingerprint,identity_hash}'::text[]), 'database', 'trigger'
        FROM new_rows AS n;
    ELSIF TG_TABLE_NAME = 'atomic_properties' THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT n.user_id, 'atomic_properties_loaded', TG_TABLE_NAME,
               CASE WHEN min(n.calculation_id) = max(n.calculation_id) THEN min(n.calculation_id) END,
               jsonb_build_object('rows', count(*), 'first_calculation_id', min(n.calculation_id),
                                  'last_calculation_id', max(n.calculation_id)), 'database', 'trigger'
        FROM new_rows AS n GROUP BY n.user_id;
    ELSE
        INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service, recorded_by)
        SELECT n.user_id, noun || 's_loaded', TG_TABLE_NAME,
               jsonb_build_object('rows', count(*), 'first_id', min(n.id), 'last_id', max(n.id)), 'database', 'trigger'
        FROM new_rows AS n GROUP BY n.user_id;
    END IF;
    RETURN NULL;
END $$;

-- Updates and deletes are never summarised: a summary keeps no before-image and so hides a change.
CREATE FUNCTION qforge.audit_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'atomic_properties' THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT coalesce(o.user_id, n.user_id), TG_ARGV[0] || '_updated', TG_TABLE_NAME,
               coalesce(o.calculation_id, n.calculation_id),
               jsonb_build_object('before', to_jsonb(o), 'after', to_jsonb(n)), 'database', 'trigger'
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.calculation_id = o.calculation_id AND n.atom_index = o.atom_index
        WHERE o IS DISTINCT FROM n;
    ELSE
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT coalesce(o.user_id, n.user_id), TG_ARGV[0] || '_updated', TG_TABLE_NAME, coalesce(o.id, n.id),
               jsonb_build_object('before', to_jsonb(o) - '{fingerprint,identity_hash}'::text[],
                                  'after', to_jsonb(n) - '{fingerprint,identity_hash}'::text[]),
               'database', 'trigger'
        FROM old_rows AS o FULL JOIN new_rows AS n ON n.id = o.id;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION qforge.audit_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'atomic_properties' THEN
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT o.user_id, TG_ARGV[0] || '_deleted', TG_TABLE_NAME, o.calculation_id,
               jsonb_build_object('before', jsonb_agg(to_jsonb(o) ORDER BY o.atom_index)), 'database', 'trigger'
        FROM old_rows AS o GROUP BY o.user_id, o.calculation_id;
    ELSE
        INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, context, service, recorded_by)
        SELECT o.user_id, TG_ARGV[0] || '_deleted', TG_TABLE_NAME, o.id,
               jsonb_build_object('before', to_jsonb(o) - '{fingerprint,identity_hash}'::text[]), 'database', 'trigger'
        FROM old_rows AS o;
    END IF;
    RETURN NULL;
END $$;

-- A program may add what only it knows to the event that a trigger wrote for it in the same transaction; what the
-- trigger recorded stays as it is.
CREATE FUNCTION qforge.enrich_event(entity text, entity_key bigint, kind text, program_context jsonb) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    RETURNING e.id
$$;

REVOKE ALL ON FUNCTION qforge.touch(), qforge.audit_insert(), qforge.audit_update(), qforge.audit_delete(),
    qforge.enrich_event(text, bigint, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qforge.enrich_event(text, bigint, text, jsonb) TO qforge_tenant;

CREATE TRIGGER touch BEFORE UPDATE ON public.molecules FOR EACH ROW EXECUTE FUNCTION qforge.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.calculations FOR EACH ROW EXECUTE FUNCTION qforge.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.batch_jobs FOR EACH ROW EXECUTE FUNCTION qforge.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.batch_items FOR EACH ROW EXECUTE FUNCTION qforge.touch();

DO $$
DECLARE
    audited record;
BEGIN
    FOR audited IN
        SELECT * FROM (VALUES
            ('molecules', 'molecule', 100), ('calculations', 'calculation', 100),
            -- A calculation brings dozens of atoms and its own event: atoms are always summarised.
            ('atomic_properties', 'atomic_properties', -1),
            ('batch_jobs', 'batch_job', 100), ('batch_items', 'batch_item', 100)
        ) AS t (name, noun, one_by_one)
    LOOP
        EXECUTE format(
            'CREATE TRIGGER audit_insert AFTER INSERT ON public.%I REFERENCING NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_insert(%L, %L)',
            audited.name, audited.noun, audited.one_by_one);
        EXECUTE format(
            'CREATE TRIGGER audit_update AFTER UPDATE ON public.%I REFERENCING OLD TABLE AS old_rows '
            'NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_update(%L)',
            audited.name, audited.noun);
        EXECUTE format(
            'CREATE TRIGGER audit_delete AFTER DELETE ON public.%I REFERENCING OLD TABLE AS old_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION qforge.audit_delete(%L)',
            audited.name, audited.noun);
    END LOOP;
END $$;
