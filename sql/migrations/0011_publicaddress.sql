-- Kind publicaddress: an address of one of the administrators' pools.

create table publicaddress (
  tenant_id text not null,
  id uuid not null,
  pool text not null references public_pool (name),
  -- Taken once in the whole installation, whoever has it.
  ip inet not null unique,
  -- Whose it is, both ways; and the network over which.
  instance_id uuid,
  network_id uuid,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  check ((instance_id is null) = (network_id is null))
);
create index publicaddress_pool on publicaddress (pool, ip);
call wall_off('publicaddress');
call count_in_quota('publicaddress', 'publicaddresses');

-- An instance is behind one public address at most; an update holds old and new until it has ended.
create unique index dependency_public_address on dependency (target_tenant_id, target_id)
  where relation = 'is the public address of';

-- The lowest free address of a pool, or null when it is exhausted. Whoever asks waits for whoever has asked before, until
-- that one's transaction ends; of two that race for the last address exactly one gets it.
create function claim_public_address(p_pool text) returns inet language plpgsql security definer set search_path = public, pg_temp as $$
declare r public_pool_range; candidate inet; taken inet;
begin
  perform 1 from public_pool where name = p_pool for no key update;
  for r in select * from public_pool_range where pool = p_pool order by first_ip for update loop
    candidate := r.hint;
    for taken in select p.ip from publicaddress p where p.ip >= candidate and p.ip <= r.last_ip order by p.ip loop
      exit when taken > candidate;
      candidate := taken + 1;
    end loop;
    if candidate <> r.hint then update public_pool_range set hint = candidate where first_ip = r.first_ip; end if;
    if candidate <= r.last_ip then return candidate; end if;
  end loop;
  return null;
end $$;

create function give_back_public_address() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
  update public_pool_range set hint = least(hint, old.ip) where old.ip between first_ip and last_ip;
  return null;
end $$;
create trigger give_back_public_address after delete on publicaddress
  for each row execute function give_back_public_address();

-- How many addresses each pool has, and how many are taken, by all tenants together.
create function public_pool_use() returns table (name text, total bigint, used bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select p.name,
    (select coalesce(sum(r.last_ip - r.first_ip + 1), 0)::bigint from public.public_pool_range r where r.pool = p.name),
    (select count(*) from public.publicaddress a where a.pool = p.name)
  from public.public_pool p;
end;

grant select, insert, update, delete on publicaddress to rhyzome_app, rhyzome_operator;
grant execute on function claim_public_address(text) to rhyzome_app;
grant execute on function public_pool_use() to rhyzome_operator;
