-- Machines that make resources real: the nodes, who holds their streams, what should exist on them and what was seen,
-- deeds, and reservations of capacity.

create table node (
  id uuid primary key,
  -- From the certificate's URI SAN.
  name text not null unique check (name ~ '^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$'),
  driver text not null,
  agent_version text not null,
  kinds text[] not null,
  labels jsonb not null default '{}',
  vcpus int not null,
  memory_mib bigint not null,
  disk_gib bigint not null,
  cordoned boolean not null default false,
  created_at timestamptz(3) not null default now(),
  -- Written by every heartbeat.
  last_seen_at timestamptz(3) not null default now()
);

-- Who holds a node's stream. A later stream of the same node has a higher session; only the highest may write.
create table node_session (
  node_id uuid primary key references node (id) on delete cascade,
  session bigint not null,
  -- The replica's `advertise` address; null: the stream has ended.
  replica text,
  connected_at timestamptz(3) not null default now(),
  heartbeat_at timestamptz(3) not null default now()
);

-- Desired and observed state of one resource on one node. Level-triggered: `revision` rises with every change of what is
-- desired, and a report counts only if it is not older than what is known. The numbers come from one sequence, so that they
-- rise also over a row's end and return: nodes and streams remember the last one of a network that left and comes again.
create sequence placement_revision;
create table placement (
  tenant_id text not null,
  resource_id uuid not null,
  node_id uuid not null references node (id),
  kind text not null,
  revision bigint not null default nextval('placement_revision'),
  generation bigint not null,
  present boolean not null,
  spec jsonb,
  observed_revision bigint not null default 0,
  observed_generation bigint not null default 0,
  phase text not null default 'progressing' check (phase in ('progressing', 'ready', 'absent', 'failed')),
  status jsonb,
  failure jsonb,
  observed_at timestamptz(3),
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, resource_id, node_id)
);
create index placement_node on placement (node_id);
call wall_off('placement');

-- Deeds (reboot): not a state, so each has an id that the agent keeps around the effect.
create table deed (
  tenant_id text not null,
  id uuid not null,
  node_id uuid not null references node (id),
  kind text not null,
  resource_id uuid not null,
  verb text not null,
  arguments jsonb not null default '{}',
  repeatable boolean not null,
  state text not null default 'asked' check (state in ('asked', 'done', 'failed', 'unclear')),
  failure jsonb,
  created_at timestamptz(3) not null default now(),
  finished_at timestamptz(3),
  primary key (tenant_id, id)
);
create index deed_node on deed (node_id) where state = 'asked';
call wall_off('deed');

-- Capacity that is spoken for. Sums over all tenants, so only functions of the owner reach it.
create table reservation (
  tenant_id text not null,
  resource_id uuid not null,
  node_id uuid not null references node (id),
  vcpus int not null,
  memory_mib bigint not null,
  disk_gib bigint not null,
  primary key (tenant_id, resource_id)
);
create index reservation_node on reservation (node_id);
call wall_off('reservation');

-- Picks the node with the most free memory that is up, not cordoned, can carry the kind and has room, and reserves there.
-- vCPUs may be promised `vcpu_overcommit` times; memory and disk only once. Returns no row when nothing fits; then
-- node_headroom() says what would. The advisory lock makes placements one after the other: none is oversold.
create function reserve_node(p_resource uuid, p_kind text, p_vcpus int, p_memory_mib bigint, p_disk_gib bigint, p_vcpu_overcommit int)
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
  where not n.cordoned and n.last_seen_at > now() - interval '60 seconds' and p_kind = any (n.kinds)
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

-- The largest machine that would fit right now, for the answer to a refused one; all zero: no node is up.
create function node_headroom(p_kind text, p_vcpu_overcommit int)
returns table (nodes int, vcpus bigint, memory_mib bigint, disk_gib bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select count(*)::int, coalesce(max(free.vcpus), 0)::bigint, coalesce(max(free.memory_mib), 0)::bigint, coalesce(max(free.disk_gib), 0)::bigint
  from (
    select n.vcpus::bigint * p_vcpu_overcommit - coalesce(sum(r.vcpus), 0) as vcpus,
      n.memory_mib - coalesce(sum(r.memory_mib), 0) as memory_mib, n.disk_gib - coalesce(sum(r.disk_gib), 0) as disk_gib
    from public.node n left join public.reservation r on r.node_id = n.id
    where not n.cordoned and n.last_seen_at > now() - interval '60 seconds' and p_kind = any (n.kinds)
    group by n.id) free;
end;

grant select on node, node_session to rhyzome_app;
grant select, insert, update, delete on placement, deed to rhyzome_app;
grant usage on sequence placement_revision to rhyzome_app, rhyzome_operator;
grant select, delete on reservation to rhyzome_app;
grant select, insert, update, delete on node, node_session, placement, deed, reservation to rhyzome_operator;
grant execute on function reserve_node(uuid, text, int, bigint, bigint, int), node_headroom(text, int) to rhyzome_app, rhyzome_operator;
