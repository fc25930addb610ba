-- What lists need, so that a page costs the same in a tenant of 500 and in one of 100,000: an index in the order of the
-- answer for each way to pick rows (docs/performance.md). Ids and names of keys and tags: see 0001.

-- A tag's row knows what lists are sorted by, so that one with a tag is read in order from the index of the tag.
alter table resource_tag add column created_at timestamptz(3), add column name text;
update resource_tag t set created_at = r.created_at, name = r.name
from resource r where r.tenant_id = t.tenant_id and r.id = t.resource_id;
alter table resource_tag alter column created_at set not null, alter column name set not null;
alter table resource_tag drop constraint resource_tag_pkey;
drop index resource_tag_resource;
alter table resource_tag add primary key (tenant_id, resource_id, key);
-- With what row level security asks of a row, so that counting reads the index alone.
create index resource_tag_created on resource_tag (tenant_id, kind, key, value, created_at, resource_id) include (published);
create index resource_tag_name on resource_tag (tenant_id, kind, key, value, name, resource_id);

create or replace function keep_tags() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    delete from resource_tag where tenant_id = new.tenant_id and resource_id = new.id;
  end if;
  insert into resource_tag (tenant_id, kind, key, value, resource_id, published, created_at, name)
  select new.tenant_id, new.kind, key, value, new.id, new.published, new.created_at, new.name from jsonb_each_text(new.tags);
  return null;
end $$;
drop trigger keep_tags_update on resource;
create trigger keep_tags_update after update of tags, name on resource
  for each row when (new.tags is distinct from old.tags or new.name <> old.name) execute function keep_tags();

-- Which keys a resource has, as one value: a tenant has few such sets, and each either has a key or lacks it, so that
-- `k` and `!k` are read in order from the sets' part of an index. A digest, because an index entry has a limit.
create function tag_keys_digest(tags jsonb) returns uuid language sql immutable strict parallel safe
return md5((select coalesce(string_agg(key, ',' order by key collate "C"), '') from jsonb_object_keys(tags) key))::uuid;
alter table resource add column tag_set uuid not null generated always as (tag_keys_digest(tags)) stored;
drop index resource_created;
create index resource_created on resource (tenant_id, kind, created_at, id) include (published);
create index resource_tag_set on resource (tenant_id, kind, tag_set, created_at, id);
create index resource_state_name on resource (tenant_id, kind, state, name);
create index resource_state_updated on resource (tenant_id, kind, state, updated_at, id);

create index job_kind on job (tenant_id, kind, created_at, id);
create index job_action on job (tenant_id, action, created_at, id);

create index audit_actor on audit (tenant_id, actor, id);
create index audit_action on audit (tenant_id, action, id);
create index audit_kind on audit (tenant_id, kind, id);
create index audit_result on audit (tenant_id, result, id);
create index audit_request on audit (tenant_id, request_id, id) where request_id is not null;

create index lease_created on lease (tenant_id, network_id, created_at, id);

-- Kinds’ own filters.
create index instance_power on instance (tenant_id, power_state, id);
create index instance_desired on instance (tenant_id, desired_power_state, id);
create index instance_vcpus on instance (tenant_id, vcpus, id);
create index instance_memory on instance (tenant_id, memory_mib, id);
create index disk_size on disk (tenant_id, size_gib, id);
create index network_domain on network (tenant_id, domain, id);
create index image_visibility on image (tenant_id, visibility, id);
create index image_format on image (tenant_id, format, id);
create index image_sha256 on image (tenant_id, sha256, id);
create index network_subnet on network (tenant_id, subnet);
create index network_subnet6 on network (tenant_id, subnet6);
create index publicaddress_pool_name on publicaddress (tenant_id, pool);
create index publicaddress_instance on publicaddress (tenant_id, instance_id);
create index publicaddress_network on publicaddress (tenant_id, network_id);
create index portforward_address on portforward (tenant_id, public_address_id);
create index portforward_instance on portforward (tenant_id, instance_id);
create index portforward_network on portforward (tenant_id, network_id);
create index portforward_protocol on portforward (tenant_id, protocol);
create index portforward_port on portforward (tenant_id, port);
create index firewallrule_direction on firewallrule (tenant_id, direction);
create index firewallrule_action on firewallrule (tenant_id, action);
create index firewallrule_priority on firewallrule (tenant_id, priority);
create index wireguardpeer_public_key on wireguardpeer (tenant_id, public_key);
create index image_source on image (tenant_id, source);
