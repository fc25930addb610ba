-- The condition of an alarm on a resource that has no other: beside it stood a null. And an alarm's event names its job as the
-- API does.

create or replace function show_alarm() returns trigger language plpgsql as $$
declare shown jsonb;
begin
  select jsonb_build_array(jsonb_build_object('type', 'Alarm', 'status', 'true', 'reason', a.code, 'message', a.message,
      'lastTransitionTime', to_char(a.raised_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'observedGeneration', r.generation)) into shown
  from alarm a join resource r on r.tenant_id = a.tenant_id and r.id = a.resource_id
  where a.tenant_id = new.tenant_id and a.resource_id = new.resource_id and a.cleared_at is null
  order by (a.severity = 'critical') desc, a.raised_at, a.id limit 1;
  update resource r
  set conditions = jsonb_path_query_array(r.conditions, '$[*] ? (@.type != "Alarm")') || coalesce(shown, '[]')
  where r.tenant_id = new.tenant_id and r.id = new.resource_id
    and jsonb_path_query_first(r.conditions, '$[*] ? (@.type == "Alarm")') is distinct from shown -> 0;
  return null;
end $$;

create or replace function tell_alarm() returns trigger language plpgsql as $$
declare tags jsonb; maker text;
begin
  select r.tags, r.created_by into tags, maker from resource r where r.tenant_id = new.tenant_id and r.id = new.resource_id;
  tags := coalesce(tags, new.resource_tags);
  insert into event (tenant_id, type, kind, resource_id, tags_before, tags_after, created_by, body)
  values (new.tenant_id, case when new.cleared_at is null then 'alarm.raised' else 'alarm.cleared' end, new.kind,
    new.resource_id, tags, tags, coalesce(maker, new.created_by),
    jsonb_build_object('id', new.id, 'code', new.code, 'severity', new.severity, 'message', new.message,
      'resource', jsonb_build_object('kind', new.kind, 'id', new.resource_id, 'name', new.resource_name),
      'job', case when new.job_id is not null then jsonb_build_object('id', new.job_id) end,
      'raisedAt', new.raised_at, 'clearedAt', new.cleared_at));
  return null;
end $$;

update resource set conditions = jsonb_path_query_array(conditions, '$[*] ? (@ != null)') where conditions @> '[null]';
