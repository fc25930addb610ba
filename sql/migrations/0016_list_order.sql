-- Lists by a kind's own filter, read in order from one index, so that a page costs what its rows cost: a kind's table
-- knows when its resource was made and what it is called, and has an index of each filter in each of these orders. And
-- the tags that permission to read a job is decided on, where its resource is gone.

-- The resource's time of creation and name, in the kind's row.
create function take_order() returns trigger language plpgsql as $$
begin
  select r.created_at, r.name into strict new.resource_created_at, new.resource_name
  from resource r where r.tenant_id = new.tenant_id and r.id = new.id;
  return new;
exception when no_data_found then
  raise foreign_key_violation using message = format('%s %s is no resource', tg_table_name, new.id);
end $$;

-- A new name; times of creation do not change. The argument is the kind's table.
create function pass_name_on() returns trigger language plpgsql as $$
begin
  execute format('update %s set resource_name = $1 where tenant_id = $2 and id = $3', tg_argv[0])
  using new.name, new.tenant_id, new.id;
  return null;
end $$;

-- Makes a column of a kind's table one that lists are filtered by. The migration that makes the table, or the column,
-- calls it for each; libs/resources/list-plans.spec.ts tells when that was forgotten. An index of its own that begins
-- with (tenant_id, column) is then not needed.
create procedure filter_by(p_tab regclass, p_column text) language plpgsql as $$
declare tab name;
begin
  select relname into tab from pg_class where oid = p_tab;
  if not exists (select from pg_attribute where attrelid = p_tab and attname = 'resource_name') then
    execute format('alter table %s add column resource_created_at timestamptz(3) not null default now(), add column resource_name text not null default ''''', p_tab);
    execute format('update %s k set resource_created_at = r.created_at, resource_name = r.name from resource r where r.tenant_id = k.tenant_id and r.id = k.id', p_tab);
    execute format('create trigger take_order before insert on %s for each row execute function take_order()', p_tab);
    -- A kind's table is called as the kind is, with _ for -.
    execute format('create trigger %I after update of name on resource for each row when (new.name <> old.name and replace(new.kind, ''-'', ''_'') = %L) execute function pass_name_on(%L)',
      'pass_name_on_to_' || tab, tab, p_tab::text);
  end if;
  execute format('create index %I on %s (tenant_id, %I, resource_created_at, id)', left(tab || '_by_' || p_column, 55) || '_created', p_tab, p_column);
  execute format('create index %I on %s (tenant_id, %I, resource_name, id)', left(tab || '_by_' || p_column, 55) || '_name', p_tab, p_column);
end $$;

-- These take the place of the indexes of 0015, and of those that an index of the same prefix makes useless.
drop index instance_power, instance_desired, instance_vcpus, instance_memory, instance_image, disk_size, network_domain,
  network_subnet, network_subnet6, image_visibility, image_format, image_sha256, image_source, publicaddress_pool_name,
  publicaddress_instance, publicaddress_network, portforward_address, portforward_instance, portforward_network,
  portforward_protocol, portforward_port, firewallrule_network, firewallrule_direction, firewallrule_action,
  firewallrule_priority, wireguardpeer_public_key, snapshot_disk, disk_image;

call filter_by('instance', 'image_id');
call filter_by('instance', 'power_state');
call filter_by('instance', 'desired_power_state');
call filter_by('instance', 'vcpus');
call filter_by('instance', 'memory_mib');
call filter_by('disk', 'instance_id');
call filter_by('disk', 'image_id');
call filter_by('disk', 'size_gib');
call filter_by('snapshot', 'disk_id');
call filter_by('network', 'subnet');
call filter_by('network', 'subnet6');
call filter_by('network', 'domain');
call filter_by('image', 'visibility');
call filter_by('image', 'source');
call filter_by('image', 'format');
call filter_by('image', 'sha256');
call filter_by('publicaddress', 'pool');
call filter_by('publicaddress', 'instance_id');
call filter_by('publicaddress', 'network_id');
call filter_by('portforward', 'public_address_id');
call filter_by('portforward', 'instance_id');
call filter_by('portforward', 'network_id');
call filter_by('portforward', 'protocol');
call filter_by('portforward', 'port');
call filter_by('firewallrule', 'network_id');
call filter_by('firewallrule', 'direction');
call filter_by('firewallrule', 'action');
call filter_by('firewallrule', 'priority');
call filter_by('wireguardpeer', 'network_id');
call filter_by('wireguardpeer', 'public_key');

-- The resource's tags when the job was asked for. Permission follows the resource's own tags while there is one.
alter table job add column resource_tags jsonb not null default '{}';
update job j set resource_tags = r.tags from resource r where r.tenant_id = j.tenant_id and r.id = j.resource_id;

-- Who made what an event tells of, for those who may read only what they made.
alter table event add column created_by text;

create or replace function tell_resource() returns trigger language plpgsql as $$
declare r resource; kind_of text;
begin
  if tg_op = 'DELETE' then r := old; else r := new; end if;
  kind_of := case tg_op when 'INSERT' then 'created' when 'UPDATE' then 'updated' else 'deleted' end;
  insert into event (tenant_id, type, kind, resource_id, tags_before, tags_after, created_by, body)
  values (r.tenant_id, 'resource.' || kind_of, r.kind, r.id,
    case when tg_op <> 'INSERT' then old.tags end, case when tg_op <> 'DELETE' then new.tags end, r.created_by,
    jsonb_build_object('id', r.id, 'kind', r.kind, 'name', r.name, 'tags', r.tags, 'state', r.state,
      'conditions', r.conditions, 'generation', r.generation, 'observedGeneration', r.observed_generation,
      'createdAt', r.created_at, 'updatedAt', r.updated_at));
  return null;
end $$;

-- The end of a removal's job comes when its resource is gone: then with the tags that the job keeps.
create or replace function tell_job() returns trigger language plpgsql as $$
declare tags jsonb; maker text;
begin
  select r.tags, r.created_by into tags, maker from resource r where r.tenant_id = new.tenant_id and r.id = new.resource_id;
  tags := coalesce(tags, new.resource_tags);
  insert into event (tenant_id, type, kind, resource_id, job_id, tags_before, tags_after, created_by, body)
  values (new.tenant_id, case tg_op when 'INSERT' then 'job.created' else 'job.updated' end, new.kind, new.resource_id,
    new.id, tags, tags, coalesce(maker, new.created_by),
    jsonb_build_object('id', new.id, 'action', new.action,
      'resource', jsonb_build_object('kind', new.kind, 'id', new.resource_id, 'name', new.resource_name),
      'state', new.state, 'progress', new.progress, 'error', new.error, 'createdAt', new.created_at,
      'finishedAt', new.finished_at));
  return null;
end $$;
