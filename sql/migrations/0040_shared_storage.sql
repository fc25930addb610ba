-- Storage that several nodes share: which nodes see the same files, and whose a disk's file there is (ADR 0045).

-- One that nodes have named. Its id stands in a file on it: a node that names it and sees another id sees other files.
create table shared_storage (
  name text primary key check (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  id uuid not null unique,
  created_at timestamptz(3) not null default now()
);
grant select on shared_storage to rhyzome_app;
grant select, insert, update, delete on shared_storage to rhyzome_operator;

-- Where a node makes disks; null: on its own.
alter table node add column storage text references shared_storage (name);
create index node_storage on node (storage) where storage is not null;

alter table disk
  -- On which shared storage its file lies; null: on its node's own.
  add column storage text,
  -- Nodes whose file it may still be there, and which are off for good or have let go of it: its node takes it from them.
  add column taken_from uuid[] not null default '{}';
alter table deleted_disk
  add column storage text,
  add column taken_from uuid[] not null default '{}';

-- A disk lies where its node makes disks. By a trigger, so that servers of the version before write it, too.
create function place_disk() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' or new.node_id is distinct from old.node_id then
    new.storage := (select n.storage from node n where n.id = new.node_id);
    -- Said of the node that it was on, unless it is said anew.
    if tg_op = 'UPDATE' and new.taken_from is not distinct from old.taken_from then new.taken_from := '{}'; end if;
  end if;
  return new;
end $$;
create trigger place_disk before insert or update of node_id on disk for each row execute function place_disk();

-- As before; of shared storage every node has all that is promised of it, by whichever node.
create or replace view node_room with (security_invoker = true) as
select n.id as node_id,
  floor(n.vcpus * coalesce(n.vcpu_overcommit, i.vcpu_overcommit))::bigint as vcpus,
  floor(greatest(n.memory_mib - coalesce(n.memory_reserve_mib, i.memory_reserve_mib), 0)
    * coalesce(n.memory_overcommit, i.memory_overcommit))::bigint as memory_mib,
  floor(n.disk_gib * coalesce(n.disk_overcommit, i.disk_overcommit))::bigint as disk_gib,
  l.vcpus - coalesce(g.vcpus, 0) as used_vcpus, l.memory_mib - coalesce(g.memory_mib, 0) as used_memory_mib,
  l.disk_gib - coalesce(g.disk_gib, 0) + case when n.storage is null then 0 else coalesce((
      select sum(o.disk_gib) from node m join node_load o on o.node_id = m.id
      where m.storage = n.storage and m.id <> n.id), 0)::bigint - coalesce((
      select sum(b.disk_gib) from node m join room_given_back b on b.node_id = m.id
      where m.storage = n.storage and m.id <> n.id), 0)::bigint end as used_disk_gib
from node n cross join installation i join node_load l on l.node_id = n.id
left join (
  select node_id, sum(vcpus)::bigint as vcpus, sum(memory_mib)::bigint as memory_mib, sum(disk_gib)::bigint as disk_gib
  from room_given_back group by node_id) g on g.node_id = n.id;

-- As before: a node's own books.
create or replace view node_room_drift with (security_invoker = true) as
select m.node_id, m.used_vcpus, m.used_memory_mib, m.used_disk_gib, r.vcpus, r.memory_mib, r.disk_gib
from (
  select l.node_id, l.vcpus - coalesce(g.vcpus, 0) as used_vcpus, l.memory_mib - coalesce(g.memory_mib, 0) as used_memory_mib,
    l.disk_gib - coalesce(g.disk_gib, 0) as used_disk_gib
  from node_load l left join (
    select node_id, sum(vcpus)::bigint as vcpus, sum(memory_mib)::bigint as memory_mib, sum(disk_gib)::bigint as disk_gib
    from room_given_back group by node_id) g on g.node_id = l.node_id) m
cross join lateral (
  select coalesce(sum(vcpus), 0)::bigint as vcpus, coalesce(sum(memory_mib), 0)::bigint as memory_mib,
    coalesce(sum(disk_gib), 0)::bigint as disk_gib
  from reservation where node_id = m.node_id) r
where (m.used_vcpus, m.used_memory_mib, m.used_disk_gib) <> (r.vcpus, r.memory_mib, r.disk_gib);

-- As before. Two that take room of one shared storage on different nodes hold different nodes' rows: the second waits here,
-- and then sees what the first has taken.
create or replace function has_room(p_node uuid, p_own reservation, p_vcpus bigint, p_memory_mib bigint, p_disk_gib bigint)
returns boolean language plpgsql as $$
declare
  own_vcpus int := case when p_own.node_id = p_node then p_own.vcpus else 0 end;
  own_memory_mib bigint := case when p_own.node_id = p_node then p_own.memory_mib else 0 end;
  own_disk_gib bigint := case when p_own.node_id = p_node then p_own.disk_gib else 0 end;
  shared text := (select storage from node where id = p_node);
begin
  if shared is not null and p_disk_gib > own_disk_gib then
    perform pg_advisory_xact_lock(hashtextextended('rhyzome.storage.' || shared, 0));
  end if;
  return (select (p_vcpus <= own_vcpus or m.vcpus - m.used_vcpus + own_vcpus >= p_vcpus)
    and (p_memory_mib <= own_memory_mib or m.memory_mib - m.used_memory_mib + own_memory_mib >= p_memory_mib)
    and (p_disk_gib <= own_disk_gib or m.disk_gib - m.used_disk_gib + own_disk_gib >= p_disk_gib)
  from node_room m where m.node_id = p_node);
end $$;

-- The room of a disk that goes to another node without a second one of it: from one shared storage to the same.
create function move_disk_reservation(p_disk uuid, p_node uuid) returns void
language sql security definer set search_path = public, pg_temp
begin atomic
  update public.reservation set node_id = p_node where tenant_id = public.current_tenant() and resource_id = p_disk;
end;
revoke execute on function move_disk_reservation(uuid, uuid) from public;
grant execute on function move_disk_reservation(uuid, uuid) to rhyzome_app, rhyzome_operator;
