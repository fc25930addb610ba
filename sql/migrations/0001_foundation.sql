-- What everything stands on: tenants and their issuers, resources with their tags and dependencies, jobs, events,
-- audit, idempotency, and the walls between tenants. Runs as rhyzome_owner.
--
-- Three roles (libs/db/roles.ts makes them): rhyzome_owner owns all of this and runs migrations; rhyzome_app is what the
-- servers are while they serve a tenant; rhyzome_operator spans tenants (CLI, claiming jobs, node streams, numbering).

create table installation (
  singleton boolean primary key default true check (singleton),
  -- Part of every name that an agent gives to something on its machine.
  id uuid not null default gen_random_uuid(),
  -- Signs page tokens, the same on all replicas.
  token_key bytea not null default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
  created_at timestamptz(3) not null default now()
);
insert into installation default values;

-- The tenant of the current transaction, null where none is set: then row level security shows nothing.
create function current_tenant() returns text language sql stable parallel safe
return nullif(current_setting('rhyzome.tenant_id', true), '');

-- Puts the walls around a table with tenant data. Every migration that makes such a table calls it. The sub-select makes
-- the setting be read once a statement and not once a row.
create procedure wall_off(tab regclass) language plpgsql as $$
begin
  execute format('alter table %s enable row level security', tab);
  execute format('alter table %s force row level security', tab);
  execute format('create policy own_tenant on %s to rhyzome_app using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()))', tab);
  execute format('create policy all_tenants on %s to rhyzome_operator, rhyzome_owner using (true) with check (true)', tab);
end $$;

create table tenant (
  id text primary key check (id ~ '^[a-z0-9]{1,63}$'),
  display_name text not null,
  billing_key text,
  properties jsonb not null default '{}',
  state text not null default 'active' check (state in ('active', 'suspended')),
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);
alter table tenant enable row level security;
alter table tenant force row level security;
create policy own_tenant on tenant for select to rhyzome_app using (id = current_tenant());
create policy all_tenants on tenant to rhyzome_operator, rhyzome_owner using (true) with check (true);

create table tenant_issuer (
  -- The `iss` of the tenant's tokens, letter by letter.
  issuer text primary key,
  tenant_id text not null references tenant (id) on delete cascade,
  -- Null: the audience of the configuration.
  audience text,
  -- Null: found by discovery.
  jwks_uri text
);
create index tenant_issuer_tenant on tenant_issuer (tenant_id);
call wall_off('tenant_issuer');

-- Which tenant an issuer's tokens belong to: asked before any tenant is known, hence not under the tenant's policy.
create function issuer_directory()
returns table (issuer text, tenant_id text, tenant_state text, audience text, jwks_uri text)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select i.issuer, i.tenant_id, t.state, i.audience, i.jwks_uri
  from public.tenant_issuer i join public.tenant t on t.id = i.tenant_id;
end;

create function notify_tenant() returns trigger language plpgsql as $$
begin
  perform pg_notify('rhyzome_tenant', '');
  return null;
end $$;
create trigger notify_tenant after insert or update or delete on tenant for each statement execute function notify_tenant();
create trigger notify_tenant after insert or update or delete on tenant_issuer for each statement execute function notify_tenant();

insert into tenant (id, display_name) values ('system', 'Global images');

create table resource (
  tenant_id text not null references tenant (id),
  id uuid not null,
  kind text not null,
  name text not null,
  tags jsonb not null default '{}',
  state text not null check (state in ('pending', 'provisioning', 'ready', 'updating', 'deleting', 'failed')),
  conditions jsonb not null default '[]',
  generation bigint not null default 1,
  observed_generation bigint not null default 0,
  deletion_protection boolean not null default false,
  -- New at every visible change; the ETag.
  version bigint not null default 1,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now(),
  created_by text not null,
  primary key (tenant_id, id)
);
create unique index resource_name on resource (tenant_id, kind, name);
create index resource_created on resource (tenant_id, kind, created_at, id);
create index resource_updated on resource (tenant_id, kind, updated_at, id);
create index resource_state on resource (tenant_id, kind, state, created_at, id);
call wall_off('resource');
create policy global_images on resource for select to rhyzome_app using (tenant_id = 'system' and kind = 'image');

-- Tags as rows, because under row level security only leakproof operators may use an index, and @> on jsonb is not one.
-- Kept by a trigger, so that they cannot differ from resource.tags.
create table resource_tag (
  tenant_id text not null,
  kind text not null,
  key text not null,
  value text not null,
  resource_id uuid not null,
  primary key (tenant_id, kind, key, value, resource_id),
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade
);
create index resource_tag_resource on resource_tag (tenant_id, resource_id, key);
call wall_off('resource_tag');
create policy global_images on resource_tag for select to rhyzome_app using (tenant_id = 'system' and kind = 'image');

create function keep_tags() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    delete from resource_tag where tenant_id = new.tenant_id and resource_id = new.id;
  end if;
  insert into resource_tag (tenant_id, kind, key, value, resource_id)
  select new.tenant_id, new.kind, key, value, new.id from jsonb_each_text(new.tags);
  return null;
end $$;
create trigger keep_tags_insert after insert on resource
  for each row when (new.tags <> '{}') execute function keep_tags();
create trigger keep_tags_update after update of tags on resource
  for each row when (new.tags is distinct from old.tags) execute function keep_tags();

create function raise_version() returns trigger language plpgsql as $$
begin
  new.version := old.version + 1;
  new.updated_at := clock_timestamp();
  return new;
end $$;
create trigger raise_version before update on resource for each row execute function raise_version();

-- resource_id depends on target: an instance on its network and image. Rows here are acyclic. Writing one takes a key
-- share lock on the target, which the remover's FOR UPDATE excludes: nothing in use disappears in a race.
create table dependency (
  tenant_id text not null,
  resource_id uuid not null,
  target_tenant_id text not null,
  target_id uuid not null,
  relation text not null,
  primary key (tenant_id, resource_id, target_id, relation),
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade,
  foreign key (target_tenant_id, target_id) references resource (tenant_id, id)
);
create index dependency_target on dependency (target_tenant_id, target_id);
call wall_off('dependency');

create table job (
  tenant_id text not null references tenant (id),
  id uuid not null,
  -- No foreign key: a removal's job outlives what it removed.
  resource_id uuid not null,
  kind text not null,
  resource_name text not null,
  action text not null,
  state text not null default 'queued'
    check (state in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelling', 'cancelled')),
  -- do: forward; undo: unwinding.
  phase text not null default 'do' check (phase in ('do', 'undo')),
  -- What it will end as once unwound.
  outcome text check (outcome in ('failed', 'cancelled')),
  progress int not null default 0 check (progress between 0 and 100),
  cancellable boolean not null default true,
  message text,
  error jsonb,
  attempts int not null default 0,
  -- What was asked: {body, previous, …}, per action.
  request jsonb not null default '{}',
  -- The name that this job may have to give back to its resource; nobody else takes it meanwhile.
  held_name text generated always as (request -> 'previous' ->> 'name') stored,
  -- The job whose place this deletion takes; its steps are undone first.
  supersedes uuid,
  created_by text not null,
  request_id text,
  created_at timestamptz(3) not null default now(),
  started_at timestamptz(3),
  finished_at timestamptz(3),
  -- The queue: due at run_at; held by lease_owner until lease_until; fence rises with each holder.
  run_at timestamptz not null default now(),
  lease_owner text,
  lease_until timestamptz,
  fence bigint not null default 0,
  -- Rises when something happened that the job may wait for, so that a wake during a run is not lost.
  wakes bigint not null default 0,
  failures int not null default 0,
  primary key (tenant_id, id),
  check ((finished_at is not null) = (state in ('succeeded', 'failed', 'cancelled')))
);
create unique index job_one_unended on job (tenant_id, resource_id) where finished_at is null;
create index job_held_name on job (tenant_id, kind, held_name) where finished_at is null and held_name is not null;
create index job_due on job (run_at) where finished_at is null;
create index job_created on job (tenant_id, created_at, id);
create index job_state on job (tenant_id, state, created_at, id);
create index job_resource on job (tenant_id, resource_id, created_at);
call wall_off('job');

create table job_step (
  tenant_id text not null,
  job_id uuid not null,
  ordinal int not null,
  name text not null,
  state text not null check (state in ('running', 'waiting', 'succeeded', 'failed', 'undoing', 'undone')),
  message text,
  result jsonb,
  started_at timestamptz(3) not null default clock_timestamp(),
  finished_at timestamptz(3),
  primary key (tenant_id, job_id, ordinal),
  foreign key (tenant_id, job_id) references job (tenant_id, id) on delete cascade
);
call wall_off('job_step');

-- Nothing here but the tenants' tables notifies: a transaction that does holds a lock of the whole server until it is
-- flushed, and commits would queue. libs/db wakes the others after the commit instead (ADR 0014).
--
-- Events are rows. `id` is drawn under the row lock of what changed, so its order is right within one resource or job;
-- `number` is given by one leader to committed rows, dense within a tenant; readers see numbered rows only.
create table event (
  tenant_id text not null,
  id bigint generated always as identity,
  number bigint,
  type text not null,
  kind text not null,
  resource_id uuid not null,
  job_id uuid,
  tags_before jsonb,
  tags_after jsonb,
  body jsonb not null,
  at timestamptz(3) not null default clock_timestamp(),
  primary key (tenant_id, id)
);
create unique index event_number on event (tenant_id, number) where number is not null;
create index event_unnumbered on event (id) where number is null;
create index event_age on event (at);
call wall_off('event');

create table event_counter (
  tenant_id text primary key,
  last bigint not null,
  -- Numbers up to here are pruned.
  pruned bigint not null default 0
);
call wall_off('event_counter');

-- Every change of a resource or a job tells itself, so that no path of the code can forget to.
create function tell_resource() returns trigger language plpgsql as $$
declare r resource; kind_of text;
begin
  if tg_op = 'DELETE' then r := old; else r := new; end if;
  kind_of := case tg_op when 'INSERT' then 'created' when 'UPDATE' then 'updated' else 'deleted' end;
  insert into event (tenant_id, type, kind, resource_id, tags_before, tags_after, body)
  values (r.tenant_id, 'resource.' || kind_of, r.kind, r.id,
    case when tg_op <> 'INSERT' then old.tags end, case when tg_op <> 'DELETE' then new.tags end,
    jsonb_build_object('id', r.id, 'kind', r.kind, 'name', r.name, 'tags', r.tags, 'state', r.state,
      'conditions', r.conditions, 'generation', r.generation, 'observedGeneration', r.observed_generation,
      'createdAt', r.created_at, 'updatedAt', r.updated_at));
  return null;
end $$;
create trigger tell_resource after insert or update or delete on resource for each row execute function tell_resource();

create function tell_job() returns trigger language plpgsql as $$
declare tags jsonb;
begin
  select r.tags into tags from resource r where r.tenant_id = new.tenant_id and r.id = new.resource_id;
  insert into event (tenant_id, type, kind, resource_id, job_id, tags_before, tags_after, body)
  values (new.tenant_id, case tg_op when 'INSERT' then 'job.created' else 'job.updated' end, new.kind, new.resource_id,
    new.id, tags, tags,
    jsonb_build_object('id', new.id, 'action', new.action,
      'resource', jsonb_build_object('kind', new.kind, 'id', new.resource_id, 'name', new.resource_name),
      'state', new.state, 'progress', new.progress, 'error', new.error, 'createdAt', new.created_at,
      'finishedAt', new.finished_at));
  return null;
end $$;
create trigger tell_job_insert after insert on job for each row execute function tell_job();
create trigger tell_job_update after update on job for each row
  when (old.state is distinct from new.state or old.progress is distinct from new.progress)
  execute function tell_job();

create table audit (
  tenant_id text not null,
  id uuid not null,
  at timestamptz(3) not null default clock_timestamp(),
  -- The token's subject, `service:NAME`, or `admin:LOGIN`.
  actor text not null,
  action text not null,
  kind text,
  resource_id uuid,
  resource_name text,
  -- done or refused
  result text not null check (result in ('done', 'refused')),
  code text,
  request_id text,
  source text,
  details jsonb,
  primary key (tenant_id, id)
);
create index audit_resource on audit (tenant_id, resource_id, id);
call wall_off('audit');

create table idempotency (
  tenant_id text not null,
  subject text not null,
  key text not null,
  request_hash bytea not null,
  status int not null,
  headers jsonb not null,
  body jsonb not null,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, subject, key)
);
create index idempotency_age on idempotency (created_at);
call wall_off('idempotency');

-- What a service's certificate may do; `*` in either list means all. Not tenant data.
create table service (
  name text primary key check (name ~ '^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$'),
  tenants text[] not null,
  verbs text[] not null,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);

grant select on installation to rhyzome_app, rhyzome_operator;
grant select on tenant to rhyzome_app;
grant select, insert, update, delete on resource, resource_tag, dependency, job, job_step, idempotency to rhyzome_app;
grant select, insert on event, audit to rhyzome_app;
grant select on event_counter to rhyzome_app;
grant select, insert, update, delete on tenant, tenant_issuer, resource, resource_tag, dependency, job, job_step, event,
  event_counter, idempotency, service to rhyzome_operator;
grant select, insert on audit to rhyzome_operator;
grant execute on function issuer_directory() to rhyzome_app, rhyzome_operator;
