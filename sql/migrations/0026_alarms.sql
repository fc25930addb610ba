-- Alarms: what somebody should look at, once for each cause, cleared when the cause is gone. And what jobs need to say in
-- time that they are late: a deadline for each step, a time by which a job should have ended, and its workers' deaths.

create table alarm (
  -- `system`: the platform's own, which no tenant sees.
  tenant_id text not null references tenant (id),
  id uuid not null default gen_random_uuid(),
  -- From the table in libs/core/alarms.ts.
  code text not null,
  severity text not null check (severity in ('warning', 'critical')),
  -- What it is about, as text: the same cause raises the same alarm. An id, unless whoever raises it knows better.
  cause text not null,
  kind text,
  -- No foreign keys: what an alarm was about may be gone, and the alarm says so all the same.
  resource_id uuid,
  resource_name text,
  -- Permission follows the resource's own while there is one.
  resource_tags jsonb not null default '{}',
  created_by text,
  job_id uuid,
  node_id uuid,
  message text not null,
  details jsonb not null default '{}',
  raised_at timestamptz(3) not null default clock_timestamp(),
  cleared_at timestamptz(3),
  acknowledged_by text,
  acknowledged_at timestamptz(3),
  primary key (tenant_id, id),
  check ((resource_id is null) = (kind is null) and (resource_id is null) = (resource_name is null)),
  check ((acknowledged_by is null) = (acknowledged_at is null))
);
create unique index alarm_open on alarm (tenant_id, code, cause) where cleared_at is null;
create index alarm_raised on alarm (tenant_id, raised_at, id);
create index alarm_resource on alarm (tenant_id, resource_id, raised_at);
create index alarm_job on alarm (tenant_id, job_id) where cleared_at is null and job_id is not null;
create index alarm_all on alarm (raised_at, id);
create index alarm_cleared on alarm (cleared_at) where cleared_at is not null;
call wall_off('alarm');

-- Watchers of the resource see its alarms.
create function tell_alarm() returns trigger language plpgsql as $$
declare tags jsonb; maker text;
begin
  select r.tags, r.created_by into tags, maker from resource r where r.tenant_id = new.tenant_id and r.id = new.resource_id;
  tags := coalesce(tags, new.resource_tags);
  insert into event (tenant_id, type, kind, resource_id, tags_before, tags_after, created_by, body)
  values (new.tenant_id, case when new.cleared_at is null then 'alarm.raised' else 'alarm.cleared' end, new.kind,
    new.resource_id, tags, tags, coalesce(maker, new.created_by),
    jsonb_build_object('id', new.id, 'code', new.code, 'severity', new.severity, 'message', new.message,
      'resource', jsonb_build_object('kind', new.kind, 'id', new.resource_id, 'name', new.resource_name),
      'job', new.job_id, 'raisedAt', new.raised_at, 'clearedAt', new.cleared_at));
  return null;
end $$;
create trigger tell_alarm_raised after insert on alarm for each row when (new.resource_id is not null) execute function tell_alarm();
create trigger tell_alarm_cleared after update on alarm for each row
  when (new.resource_id is not null and old.cleared_at is null and new.cleared_at is not null) execute function tell_alarm();

-- The resource says of the worst of its open alarms why it is not as it should be. Whoever raises or clears one holds the
-- resource's lock.
create function show_alarm() returns trigger language plpgsql as $$
declare shown jsonb;
begin
  select jsonb_build_array(jsonb_build_object('type', 'Alarm', 'status', 'true', 'reason', a.code, 'message', a.message,
      'lastTransitionTime', to_char(a.raised_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'observedGeneration', r.generation)) into shown
  from alarm a join resource r on r.tenant_id = a.tenant_id and r.id = a.resource_id
  where a.tenant_id = new.tenant_id and a.resource_id = new.resource_id and a.cleared_at is null
  order by (a.severity = 'critical') desc, a.raised_at, a.id limit 1;
  update resource r set conditions = wanted.conditions
  from (select coalesce(jsonb_agg(c order by n), '[]') || coalesce(shown, '[]') as conditions from resource o
    left join lateral jsonb_array_elements(o.conditions) with ordinality e (c, n) on c ->> 'type' <> 'Alarm'
    where o.tenant_id = new.tenant_id and o.id = new.resource_id) wanted
  where r.tenant_id = new.tenant_id and r.id = new.resource_id
    and jsonb_path_query_first(r.conditions, '$[*] ? (@.type == "Alarm")') is distinct from shown -> 0;
  return null;
end $$;
create trigger show_alarm_raised after insert on alarm for each row when (new.resource_id is not null) execute function show_alarm();
create trigger show_alarm_changed after update on alarm for each row
  when (new.resource_id is not null and (old.message, old.severity, old.cleared_at)
    is distinct from (new.message, new.severity, new.cleared_at)) execute function show_alarm();

-- A job that has ended, however, is no cause any more.
create function clear_job_alarms() returns trigger language plpgsql as $$
begin
  update alarm set cleared_at = clock_timestamp()
  where tenant_id = new.tenant_id and job_id = new.id and cleared_at is null;
  return null;
end $$;
create trigger clear_job_alarms after update on job for each row
  when (old.finished_at is null and new.finished_at is not null) execute function clear_job_alarms();

-- When an alarm is raised unless the job has ended; null: it was, or is not wanted.
alter table job add column alarm_at timestamptz default now() + interval '10 minutes';
create index job_alarm on job (alarm_at) where finished_at is null and alarm_at is not null;
-- Leases that ran out since the last step that succeeded: workers that died or were cut off in the middle.
alter table job add column crashes int not null default 0;
-- When the job fails for want of this step; null: it may take its time.
alter table job_step add column deadline_at timestamptz;

-- For claiming fairly: the oldest due jobs of each tenant, and how many of each are being run.
create index job_due_of_tenant on job (tenant_id, run_at) where finished_at is null;
create index job_held on job (tenant_id) where lease_owner is not null;

grant select, insert, update on alarm to rhyzome_app;
grant select, insert, update, delete on alarm to rhyzome_operator;
