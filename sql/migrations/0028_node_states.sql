-- Nodes that fall silent, are fenced, and come back: what state a node is in, its epoch, fences, tombstones of what was
-- removed while its node was away, and addresses that are held until that node can use them no more (ADR 0033).

alter table node
  -- Rises with each fence. An agent that knows a lower one stops what is no longer its own before anything else.
  add column epoch bigint not null default 1,
  -- What stands there is moving away; nothing new comes.
  add column draining boolean not null default false,
  -- Fenced and not back since.
  add column gone_at timestamptz(3),
  -- The last fence.
  add column fenced_at timestamptz(3),
  -- The state that was written down last, and since when. node_state() is what it is now.
  add column told_state text,
  add column told_at timestamptz(3) not null default now();

-- How long a node may be silent before it counts as unreachable. Heartbeats come every 5 seconds.
create function node_silence() returns interval language sql immutable parallel safe return interval '30 seconds';

-- The one definition of a node's state. A restart of a server ends streams for seconds; only silence makes a node unreachable.
create function node_state(n node) returns text language sql stable parallel safe
return case
  when n.gone_at is not null then 'gone'
  when n.last_seen_at <= now() - node_silence() then 'unreachable'
  when n.draining then 'draining'
  when n.cordoned then 'cordoned'
  else 'up'
end;

-- Since when a node is known to be unreachable; null: it is not. Not since its last heartbeat: while the control plane was
-- off nobody could be heard.
create function node_away_since(n node) returns timestamptz language sql stable parallel safe
return case when node_state(n) = 'unreachable' and n.told_state = 'unreachable' then n.told_at end;

-- Who holds a node's stream. `epoch` is the one that its agent has stopped for; what it says counts only for the node's own.
alter table node_session add column epoch bigint not null default 1;

-- Whether somebody holds the node's stream right now.
create function node_connected(n node) returns boolean language sql stable parallel safe
return exists (select from node_session s
  where s.node_id = n.id and s.replica is not null and s.heartbeat_at > now() - node_silence());

-- Every change of a node's state, kept for a while.
create table node_event (
  id bigint generated always as identity primary key,
  node_id uuid not null,
  node_name text not null,
  at timestamptz(3) not null default clock_timestamp(),
  -- Null: it has registered.
  from_state text,
  to_state text not null
);
create index node_event_node on node_event (node_id, id);
create index node_event_age on node_event (at);

update node set told_state = node_state(node);

-- Writes down a change of state with whatever changed it. Silence changes no row: libs/nodes/watch.ts touches those nodes.
create function tell_node_state() returns trigger language plpgsql as $$
begin
  if node_state(new) is distinct from new.told_state then
    insert into node_event (node_id, node_name, from_state, to_state) values (new.id, new.name, new.told_state, node_state(new));
    new.told_state := node_state(new);
    new.told_at := clock_timestamp();
  end if;
  return new;
end $$;
create trigger tell_node_state before insert or update on node for each row execute function tell_node_state();

-- A node's fence: asked for, tried, and how it ended. Written before and after, so that it is repeated after a crash.
create table node_fence (
  id uuid primary key,
  node_id uuid not null references node (id) on delete cascade,
  -- Of the node when it was asked for: a success counts for no later one.
  epoch bigint not null,
  -- word: an administrator says that the machine is off; command: the configured one says so by its exit status.
  how text not null check (how in ('word', 'command')),
  -- `admin:LOGIN`, or `rhyzome` where nobody asked.
  asked_by text not null,
  asked_at timestamptz(3) not null default now(),
  state text not null default 'asked' check (state in ('asked', 'running', 'succeeded', 'failed')),
  attempts int not null default 0,
  run_at timestamptz not null default now(),
  lease_until timestamptz,
  detail text,
  finished_at timestamptz(3),
  check ((finished_at is not null) = (state in ('succeeded', 'failed')))
);
create unique index node_fence_open on node_fence (node_id) where finished_at is null;
create index node_fence_node on node_fence (node_id, asked_at);

-- A removal that ended before the node could say that the thing is gone: the resource is no more, the row stays until the
-- node has removed what stands there.
alter table placement
  add column tombstoned_at timestamptz(3),
  add column tombstone_name text;
create index placement_tombstone on placement (node_id) where tombstoned_at is not null;

-- How long after a node went away removals on it wait for it.
alter table installation add column tombstone_after interval not null default '10 minutes' check (tombstone_after >= '0');

-- Addresses that nobody has any more and nobody gets yet: a node that is away may still use them. Held until the node has
-- reached this revision of the resource's placement (or that row is gone), or is fenced.
create table held_address (
  tenant_id text not null,
  id uuid not null default gen_random_uuid(),
  -- Null: a public address.
  network_id uuid,
  ip inet not null,
  node_id uuid not null references node (id) on delete cascade,
  resource_id uuid not null,
  revision bigint not null,
  held_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, network_id) references network (tenant_id, id) on delete cascade
);
create index held_address_ip on held_address (tenant_id, network_id, ip);
create index held_address_public on held_address (ip) where network_id is null;
create index held_address_node on held_address (node_id);
create index held_address_resource on held_address (tenant_id, resource_id, node_id);
call wall_off('held_address');

-- The searches for the lowest free address start at a hint below which everything is taken or held.
create function free_held_address() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if old.network_id is null then
    update public_pool_range set hint = least(hint, old.ip) where old.ip between first_ip and last_ip;
  else
    perform 1 from resource where tenant_id = old.tenant_id and id = old.network_id for no key update;
    update network set address_hint = least(address_hint, old.ip) where tenant_id = old.tenant_id and id = old.network_id;
  end if;
  return null;
end $$;
create trigger free_held_address after delete on held_address for each row execute function free_held_address();

-- A node has removed what was tombstoned: its room there is free, if nothing new has the resource's id.
create function end_tombstone() returns trigger language plpgsql as $$
begin
  delete from reservation v where v.tenant_id = old.tenant_id and v.resource_id = old.resource_id and v.node_id = old.node_id
    and not exists (select from resource r where r.tenant_id = old.tenant_id and r.id = old.resource_id);
  delete from held_address where tenant_id = old.tenant_id and resource_id = old.resource_id and node_id = old.node_id;
  return null;
end $$;
create trigger end_tombstone after delete on placement
  for each row when (old.tombstoned_at is not null) execute function end_tombstone();

-- As before, and passes over addresses that are held.
create or replace function claim_address(p_tenant text, p_network uuid) returns inet language plpgsql as $$
declare n network; candidate inet; final inet; taken inet;
begin
  perform 1 from resource where tenant_id = p_tenant and id = p_network for no key update;
  select * into n from network where tenant_id = p_tenant and id = p_network for no key update;
  if not found then return null; end if;
  final := set_masklen(broadcast(n.subnet), 32);
  candidate := n.address_hint;
  if candidate = n.gateway then candidate := candidate + 1; end if;
  loop
    for taken in
      select l.ip from lease l where l.tenant_id = p_tenant and l.network_id = p_network and l.ip >= candidate order by l.ip
    loop
      exit when taken > candidate;
      candidate := taken + 1;
      if candidate = n.gateway then candidate := candidate + 1; end if;
    end loop;
    exit when candidate >= final or not exists (
      select from held_address h where h.tenant_id = p_tenant and h.network_id = p_network and h.ip = candidate);
    candidate := candidate + 1;
    if candidate = n.gateway then candidate := candidate + 1; end if;
  end loop;
  if candidate >= final then return null; end if;
  update network set address_hint = candidate where tenant_id = p_tenant and id = p_network;
  return candidate;
end $$;

create or replace function claim_public_address(p_pool text) returns inet
language plpgsql security definer set search_path = public, pg_temp as $$
declare r public_pool_range; candidate inet; taken inet;
begin
  perform 1 from public_pool where name = p_pool for no key update;
  for r in select * from public_pool_range where pool = p_pool order by first_ip for update loop
    candidate := r.hint;
    loop
      for taken in select p.ip from publicaddress p where p.ip >= candidate and p.ip <= r.last_ip order by p.ip loop
        exit when taken > candidate;
        candidate := taken + 1;
      end loop;
      exit when candidate > r.last_ip
        or not exists (select from held_address h where h.network_id is null and h.ip = candidate);
      candidate := candidate + 1;
    end loop;
    if candidate <> r.hint then update public_pool_range set hint = candidate where first_ip = r.first_ip; end if;
    if candidate <= r.last_ip then return candidate; end if;
  end loop;
  return null;
end $$;

-- Held addresses are of their pool still.
create or replace function public_pool_use() returns table (name text, total bigint, used bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select p.name,
    (select coalesce(sum(r.last_ip - r.first_ip + 1), 0)::bigint from public.public_pool_range r where r.pool = p.name),
    (select count(*) from public.publicaddress a where a.pool = p.name)
      + (select count(*) from public.held_address h join public.public_pool_range r on h.ip between r.first_ip and r.last_ip
        where h.network_id is null and r.pool = p.name)
  from public.public_pool p;
end;

-- As before, by the one definition of a state that takes new machines.
create or replace function reserve_node(p_resource uuid, p_kind text, p_vcpus int, p_memory_mib bigint, p_disk_gib bigint,
  p_vcpu_overcommit int, p_only uuid[], p_never uuid[], p_stays boolean)
returns uuid language plpgsql security definer set search_path = public, pg_temp as $$
declare chosen uuid; tenant text := current_tenant();
begin
  if tenant is null then raise exception 'reserve_node needs a tenant'; end if;
  perform pg_advisory_xact_lock(hashtextextended('rhyzome.placement', 0));
  select n.id into chosen
  from node n
  cross join lateral (
    select coalesce(sum(r.vcpus), 0) as vcpus, coalesce(sum(r.memory_mib), 0) as memory_mib, coalesce(sum(r.disk_gib), 0) as disk_gib
    from reservation r where r.node_id = n.id and not (r.tenant_id = tenant and r.resource_id = p_resource)) used
  where (p_only is null or n.id = any (p_only)) and (p_never is null or n.id <> all (p_never))
    and (p_stays or (node_state(n) = 'up' and p_kind = any (n.kinds)))
    and n.vcpus::bigint * p_vcpu_overcommit - used.vcpus >= p_vcpus
    and n.memory_mib - used.memory_mib >= p_memory_mib
    and n.disk_gib - used.disk_gib >= p_disk_gib
  order by n.memory_mib - used.memory_mib desc, n.id limit 1;
  if chosen is null then return null; end if;
  insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
  values (tenant, p_resource, chosen, p_vcpus, p_memory_mib, p_disk_gib)
  on conflict (tenant_id, resource_id) do update set node_id = excluded.node_id, vcpus = excluded.vcpus,
    memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib;
  return chosen;
end $$;

create or replace function node_headroom(p_kind text, p_vcpu_overcommit int)
returns table (nodes int, vcpus bigint, memory_mib bigint, disk_gib bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select count(*)::int, coalesce(max(free.vcpus), 0)::bigint, coalesce(max(free.memory_mib), 0)::bigint, coalesce(max(free.disk_gib), 0)::bigint
  from (
    select n.vcpus::bigint * p_vcpu_overcommit - coalesce(sum(r.vcpus), 0) as vcpus,
      n.memory_mib - coalesce(sum(r.memory_mib), 0) as memory_mib, n.disk_gib - coalesce(sum(r.disk_gib), 0) as disk_gib
    from public.node n left join public.reservation r on r.node_id = n.id
    where public.node_state(n) = 'up' and p_kind = any (n.kinds)
    group by n.id) free;
end;

grant select, insert, delete on node_event to rhyzome_operator;
grant select, insert, update on node_fence to rhyzome_operator;
grant select, insert, update, delete on held_address to rhyzome_app, rhyzome_operator;
grant update (tombstone_after) on installation to rhyzome_operator;
grant execute on function node_state(node), node_away_since(node), node_connected(node), node_silence() to rhyzome_app, rhyzome_operator;
