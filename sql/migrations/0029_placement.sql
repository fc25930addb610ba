-- How much of a node may be promised, and reservations that wait for a node and no longer for each other.
--
-- What is spoken for on a node is kept as a sum in node_load, whose row is locked from the choice of a node to the end of
-- the transaction: none is oversold, and creates on different nodes run beside each other. Giving back waits for nobody: it
-- is a row of room_given_back, which the next one who takes room there adds to the sum. So no transaction that holds a
-- node's row waits for another one's, and none that gives back can be in a deadlock for it.

alter table installation
  add column vcpu_overcommit numeric(5, 2) not null default 8 check (vcpu_overcommit between 1 and 100),
  add column memory_overcommit numeric(5, 2) not null default 1 check (memory_overcommit between 0.5 and 4),
  add column disk_overcommit numeric(5, 2) not null default 1 check (disk_overcommit between 0.5 and 20),
  -- What is never promised of a node's memory: its own system's, and what emulators take beside their guests' memory.
  add column memory_reserve_mib bigint not null default 0 check (memory_reserve_mib between 0 and 16777216),
  -- Labels of nodes by which tenants may choose.
  add column placement_labels text[] not null default '{}' check (cardinality(placement_labels) <= 64);
grant update (vcpu_overcommit, memory_overcommit, disk_overcommit, memory_reserve_mib, placement_labels)
  on installation to rhyzome_operator;

-- Null: the installation's.
alter table node
  add column vcpu_overcommit numeric(5, 2) check (vcpu_overcommit between 1 and 100),
  add column memory_overcommit numeric(5, 2) check (memory_overcommit between 0.5 and 4),
  add column disk_overcommit numeric(5, 2) check (disk_overcommit between 0.5 and 20),
  add column memory_reserve_mib bigint check (memory_reserve_mib between 0 and 16777216);

-- Rows are narrow and change often.
create table node_load (
  node_id uuid primary key references node (id) on delete cascade,
  vcpus bigint not null default 0,
  memory_mib bigint not null default 0,
  disk_gib bigint not null default 0
) with (fillfactor = 50);

create table room_given_back (
  id bigint generated always as identity primary key,
  node_id uuid not null references node (id) on delete cascade,
  vcpus bigint not null,
  memory_mib bigint not null,
  disk_gib bigint not null
);
create index room_given_back_node on room_given_back (node_id);

create function begin_node_load() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
  insert into node_load (node_id) values (new.id);
  return null;
end $$;
create trigger begin_node_load after insert on node for each row execute function begin_node_load();

-- Follows every change of a reservation, whoever makes it.
create function count_reservation() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
declare
  moves boolean := tg_op = 'UPDATE' and old.node_id <> new.node_id;
  before reservation := case when tg_op <> 'INSERT' then old end;
  after reservation := case when tg_op <> 'DELETE' then new end;
begin
  if moves or tg_op = 'DELETE' then
    insert into room_given_back (node_id, vcpus, memory_mib, disk_gib)
    values (before.node_id, before.vcpus, before.memory_mib, before.disk_gib);
    before := null;
  end if;
  if tg_op = 'DELETE' then return null; end if;
  if after.vcpus > coalesce(before.vcpus, 0) or after.memory_mib > coalesce(before.memory_mib, 0)
      or after.disk_gib > coalesce(before.disk_gib, 0) then
    update node_load set vcpus = vcpus + greatest(after.vcpus - coalesce(before.vcpus, 0), 0),
      memory_mib = memory_mib + greatest(after.memory_mib - coalesce(before.memory_mib, 0), 0),
      disk_gib = disk_gib + greatest(after.disk_gib - coalesce(before.disk_gib, 0), 0)
    where node_id = after.node_id;
  end if;
  if after.vcpus < before.vcpus or after.memory_mib < before.memory_mib or after.disk_gib < before.disk_gib then
    insert into room_given_back (node_id, vcpus, memory_mib, disk_gib)
    values (after.node_id, greatest(before.vcpus - after.vcpus, 0), greatest(before.memory_mib - after.memory_mib, 0),
      greatest(before.disk_gib - after.disk_gib, 0));
  end if;
  return null;
end $$;

lock table reservation, node in share row exclusive mode;
insert into node_load (node_id, vcpus, memory_mib, disk_gib)
select n.id, coalesce(sum(r.vcpus), 0), coalesce(sum(r.memory_mib), 0), coalesce(sum(r.disk_gib), 0)
from node n left join reservation r on r.node_id = n.id group by n.id;
create trigger count_reservation after insert or update or delete on reservation
  for each row execute function count_reservation();

-- What may be promised of each node, and what is.
create view node_room with (security_invoker = true) as
select n.id as node_id,
  floor(n.vcpus * coalesce(n.vcpu_overcommit, i.vcpu_overcommit))::bigint as vcpus,
  floor(greatest(n.memory_mib - coalesce(n.memory_reserve_mib, i.memory_reserve_mib), 0)
    * coalesce(n.memory_overcommit, i.memory_overcommit))::bigint as memory_mib,
  floor(n.disk_gib * coalesce(n.disk_overcommit, i.disk_overcommit))::bigint as disk_gib,
  l.vcpus - coalesce(g.vcpus, 0) as used_vcpus, l.memory_mib - coalesce(g.memory_mib, 0) as used_memory_mib,
  l.disk_gib - coalesce(g.disk_gib, 0) as used_disk_gib
from node n cross join installation i join node_load l on l.node_id = n.id
left join (
  select node_id, sum(vcpus)::bigint as vcpus, sum(memory_mib)::bigint as memory_mib, sum(disk_gib)::bigint as disk_gib
  from room_given_back group by node_id) g on g.node_id = n.id;

-- Where the books are wrong; empty, always.
create view node_room_drift with (security_invoker = true) as
select m.node_id, m.used_vcpus, m.used_memory_mib, m.used_disk_gib, r.vcpus, r.memory_mib, r.disk_gib
from node_room m cross join lateral (
  select coalesce(sum(vcpus), 0)::bigint as vcpus, coalesce(sum(memory_mib), 0)::bigint as memory_mib,
    coalesce(sum(disk_gib), 0)::bigint as disk_gib
  from reservation where node_id = m.node_id) r
where (m.used_vcpus, m.used_memory_mib, m.used_disk_gib) <> (r.vcpus, r.memory_mib, r.disk_gib);

-- Whether new ones of a kind may come to a node. Asked wherever a node is chosen.
create function takes_new(n node, p_kind text) returns boolean language sql stable
return node_state(n) = 'up' and p_kind = any (n.kinds);

-- Whether a node has the room in place of what the resource has there. What it has already needs none, also where more is
-- promised than may be.
create function has_room(p_node uuid, p_own reservation, p_vcpus bigint, p_memory_mib bigint, p_disk_gib bigint)
returns boolean language sql stable as $$
  select (p_vcpus <= own.vcpus or m.vcpus - m.used_vcpus + own.vcpus >= p_vcpus)
    and (p_memory_mib <= own.memory_mib or m.memory_mib - m.used_memory_mib + own.memory_mib >= p_memory_mib)
    and (p_disk_gib <= own.disk_gib or m.disk_gib - m.used_disk_gib + own.disk_gib >= p_disk_gib)
  from node_room m, (
    select case when p_own.node_id = p_node then p_own.vcpus else 0 end as vcpus,
      case when p_own.node_id = p_node then p_own.memory_mib else 0 end as memory_mib,
      case when p_own.node_id = p_node then p_own.disk_gib else 0 end as disk_gib) own
  where m.node_id = p_node
$$;

-- Takes room on a node, in place of what the resource had, and returns the node; null where there is none. Of the nodes
-- that take new ones (`p_stays`: whether they do or not, for what lies there already), are among `p_only` and not among
-- `p_never` (null: they do not narrow), it takes the one with the lowest rank (`p_ranks`: by the node's id; none: 0) and then the
-- largest part of its memory free. Those that somebody else is just taking room on come last, and are waited for.
create function reserve_room(p_resource uuid, p_kind text, p_vcpus bigint, p_memory_mib bigint, p_disk_gib bigint,
  p_only uuid[], p_never uuid[], p_ranks jsonb, p_stays boolean)
returns uuid language plpgsql security definer set search_path = public, pg_temp as $$
declare
  tenant text := current_tenant();
  own reservation;
  candidates uuid[];
  candidate uuid;
  chosen uuid;
begin
  if tenant is null then raise exception 'reserve_room needs a tenant'; end if;
  select * into own from reservation where tenant_id = tenant and resource_id = p_resource;
  select array_agg(n.id order by coalesce((p_ranks ->> n.id::text)::numeric, 0),
    (m.memory_mib - m.used_memory_mib) / greatest(m.memory_mib, 1)::float8 desc, n.id) into candidates
  from node n join node_room m on m.node_id = n.id
  where (p_only is null or n.id = any (p_only)) and (p_never is null or n.id <> all (p_never))
    and (p_stays or takes_new(n, p_kind))
    and (own.node_id = n.id or (m.vcpus - m.used_vcpus >= p_vcpus or p_vcpus = 0)
      and (m.memory_mib - m.used_memory_mib >= p_memory_mib or p_memory_mib = 0)
      and (m.disk_gib - m.used_disk_gib >= p_disk_gib or p_disk_gib = 0));
  if candidates is null then return null; end if;
  for may_wait in 0..1 loop
    foreach candidate in array candidates loop
      begin
        if may_wait = 0 then
          perform 1 from node_load where node_id = candidate for update skip locked;
          continue when not found;
        else
          perform 1 from node_load where node_id = candidate for update;
        end if;
        if has_room(candidate, own, p_vcpus, p_memory_mib, p_disk_gib) then
          chosen := candidate;
          exit;
        end if;
        -- Gives the lock back: who waits for a node holds none.
        raise exception using errcode = 'RZ000';
      exception when sqlstate 'RZ000' then null;
      end;
    end loop;
    exit when chosen is not null;
  end loop;
  if chosen is null then return null; end if;
  with back as (delete from room_given_back where node_id = chosen returning vcpus, memory_mib, disk_gib)
  update node_load l set vcpus = l.vcpus - b.vcpus, memory_mib = l.memory_mib - b.memory_mib, disk_gib = l.disk_gib - b.disk_gib
  from (select sum(vcpus) as vcpus, sum(memory_mib) as memory_mib, sum(disk_gib) as disk_gib from back) b
  where l.node_id = chosen and b.vcpus is not null;
  insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
  values (tenant, p_resource, chosen, p_vcpus, p_memory_mib, p_disk_gib)
  on conflict (tenant_id, resource_id) do update set node_id = excluded.node_id, vcpus = excluded.vcpus,
    memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib;
  return chosen;
end $$;

-- What is free on each node that takes new ones of a kind, for the answer to who was refused. With `p_stays` on the others,
-- too, and with what the resource has there itself.
create function free_room(p_resource uuid, p_kind text, p_stays boolean)
returns table (node_id uuid, vcpus bigint, memory_mib bigint, disk_gib bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select m.node_id, greatest(m.vcpus - m.used_vcpus, 0) + coalesce(r.vcpus, 0),
    greatest(m.memory_mib - m.used_memory_mib, 0) + coalesce(r.memory_mib, 0),
    greatest(m.disk_gib - m.used_disk_gib, 0) + coalesce(r.disk_gib, 0)
  from public.node_room m join public.node n on n.id = m.node_id
  left join public.reservation r on r.tenant_id = public.current_tenant() and r.resource_id = p_resource and r.node_id = n.id
  where p_stays or public.takes_new(n, p_kind);
end;

-- For servers of the version before, which go on until they are replaced. Their factor is no longer asked.
create or replace function reserve_node(p_resource uuid, p_kind text, p_vcpus int, p_memory_mib bigint, p_disk_gib bigint,
  p_vcpu_overcommit int, p_only uuid[], p_never uuid[], p_stays boolean)
returns uuid language sql security definer set search_path = public, pg_temp
return public.reserve_room(p_resource, p_kind, p_vcpus, p_memory_mib, p_disk_gib, p_only, p_never, null, p_stays);
create or replace function node_headroom(p_kind text, p_vcpu_overcommit int)
returns table (nodes int, vcpus bigint, memory_mib bigint, disk_gib bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select count(*)::int, coalesce(max(m.vcpus - m.used_vcpus), 0)::bigint, coalesce(max(m.memory_mib - m.used_memory_mib), 0)::bigint,
    coalesce(max(m.disk_gib - m.used_disk_gib), 0)::bigint
  from public.node n join public.node_room m on m.node_id = n.id
  where public.takes_new(n, p_kind);
end;

grant select, insert, update, delete on node_load, room_given_back to rhyzome_operator;
grant select on node_room, node_room_drift to rhyzome_operator;
grant execute on function takes_new(node, text), has_room(uuid, reservation, bigint, bigint, bigint),
  reserve_room(uuid, text, bigint, bigint, bigint, uuid[], uuid[], jsonb, boolean), free_room(uuid, text, boolean)
  to rhyzome_app, rhyzome_operator;
