-- IPv6 in networks; what other kinds add to a network's router (forwards, public addresses, firewall rules, VPN peers); the
-- pools of public addresses, which administrators give.

alter table network add column subnet6 cidr
  check (subnet6 is null or (family(subnet6) = 6 and masklen(subnet6) between 64 and 120));
alter table lease add column ip6 inet;

-- A machine's IPv6 address. In a /64 the one that it makes itself: the modified EUI-64 of its MAC (RFC 4291 appendix A: with
-- the universal/local bit inverted). In a longer prefix the number that its IPv4 address has in its subnet.
create function ip6_of(p_subnet6 cidr, p_subnet cidr, p_ip inet, p_mac macaddr) returns inet
language sql immutable parallel safe
return case
  when p_subnet6 is null then null
  when masklen(p_subnet6) > 64
    then set_masklen(p_subnet6::inet, 128) + (set_masklen(p_ip, 32) - set_masklen(p_subnet::inet, 32))
  else set_masklen(p_subnet6::inet, 128) | ('::' || regexp_replace(
    replace(((p_mac::macaddr8 | '02:00:00:00:00:00:00:00'::macaddr8)
      & ~ (p_mac::macaddr8 & '02:00:00:00:00:00:00:00'::macaddr8))::text, ':', ''),
    '(....)(....)(....)(....)', '\1:\2:\3:\4'))::inet
end;

-- The router's: the first address, or where machines' numbers follow their IPv4 addresses, that of its own.
create function gateway6_of(p_subnet6 cidr, p_subnet cidr, p_gateway inet) returns inet language sql immutable parallel safe
return case
  when masklen(p_subnet6) = 64 then set_masklen(p_subnet6::inet, 128) + 1
  else ip6_of(p_subnet6, p_subnet, p_gateway, null)
end;

-- Whoever makes a lease. The network is locked first, so that a change of its subnet6 has either seen the lease or is seen.
create function give_ip6() returns trigger language plpgsql as $$
begin
  perform 1 from resource where tenant_id = new.tenant_id and id = new.network_id for no key update;
  select ip6_of(n.subnet6, n.subnet, new.ip, new.mac) into new.ip6
  from network n where n.tenant_id = new.tenant_id and n.id = new.network_id;
  return new;
end $$;
create trigger give_ip6 before insert on lease for each row execute function give_ip6();

-- What a resource of another kind adds to a network's router, as its nodes are to be told. Addresses of guests are not in
-- here: they are looked up when the network is written for its nodes.
create table network_part (
  tenant_id text not null,
  resource_id uuid not null,
  network_id uuid not null,
  kind text not null check (kind in ('publicAddress', 'forward', 'firewallRule', 'wireguardPeer')),
  -- Ascending; ties by the resource's name.
  position int not null default 0,
  spec jsonb not null,
  primary key (tenant_id, resource_id),
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade,
  foreign key (tenant_id, network_id) references network (tenant_id, id) on delete cascade
);
create index network_part_network on network_part (tenant_id, network_id);
call wall_off('network_part');

-- A network's VPN door: made with its first peer, and kept while the network stands, so that its peers' configurations hold.
create table wireguard_door (
  tenant_id text not null,
  network_id uuid not null,
  -- UDP on the nodes' uplinks; one installation, one network a port. Below Linux's ephemeral ports.
  port int not null unique check (port between 16384 and 32767),
  private_key text not null,
  public_key text not null,
  -- Where a node said that peers reach it.
  endpoint text,
  primary key (tenant_id, network_id),
  foreign key (tenant_id, network_id) references network (tenant_id, id) on delete cascade
);
call wall_off('wireguard_door');

-- The lowest port that no tenant's door has, or null. Others wait until the transaction ends.
create function claim_wireguard_port() returns int language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('rhyzome.wireguard_port', 0));
  return (
    select min(c.port) from (select 16384 as port union all select d.port + 1 from wireguard_door d) c
    where c.port <= 32767 and not exists (select 1 from wireguard_door d where d.port = c.port));
end $$;

-- Pools of public addresses. Not tenant data: administrators make them, tenants see their names.
create table public_pool (
  name text primary key check (name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  description text not null default '',
  created_at timestamptz(3) not null default now()
);
create table public_pool_range (
  first_ip inet primary key,
  last_ip inet not null,
  pool text not null references public_pool (name) on delete cascade,
  -- Every address of the range below it is taken: the search for the lowest free one starts here.
  hint inet not null,
  check (family(first_ip) = 4 and masklen(first_ip) = 32 and family(last_ip) = 4 and masklen(last_ip) = 32),
  check (first_ip <= last_ip),
  -- No address is in two pools.
  constraint public_pool_range_apart
    exclude using gist (int8range(first_ip - inet '0.0.0.0', last_ip - inet '0.0.0.0', '[]') with &&)
);
create index public_pool_range_pool on public_pool_range (pool);

grant select, insert, update, delete on network_part, wireguard_door to rhyzome_app, rhyzome_operator;
grant execute on function ip6_of(cidr, cidr, inet, macaddr), gateway6_of(cidr, cidr, inet), claim_wireguard_port() to rhyzome_app, rhyzome_operator;
grant select on public_pool to rhyzome_app;
grant select, insert, update, delete on public_pool, public_pool_range to rhyzome_operator;
