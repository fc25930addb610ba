-- Kind network, with its leases.

create table network (
  tenant_id text not null,
  id uuid not null,
  subnet cidr not null,
  gateway inet not null,
  dns inet[] not null default '{}',
  domain text,
  mtu int not null,
  address_total bigint not null,
  address_used bigint not null default 0,
  -- Every host address below it is taken: the search for the lowest free one starts here.
  address_hint inet not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('network');

create table lease (
  tenant_id text not null,
  id uuid not null,
  network_id uuid not null,
  ip inet not null,
  mac macaddr not null,
  hostname text,
  -- True: came with an instance and leaves with it.
  automatic boolean not null,
  instance_id uuid,
  -- Which of the instance's interfaces.
  ordinal int,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, network_id) references network (tenant_id, id),
  foreign key (tenant_id, instance_id) references resource (tenant_id, id),
  check (automatic = (instance_id is not null)),
  check (masklen(ip) = 32)
);
create unique index lease_ip on lease (tenant_id, network_id, ip);
create unique index lease_mac on lease (tenant_id, network_id, mac);
create index lease_instance on lease (tenant_id, instance_id, ordinal) where instance_id is not null;
call wall_off('lease');

-- Keeps the network's counter and hint true. The update of `resource` makes the change visible in ETag and events; its
-- row lock also puts all changes of one network's leases in a row. Order of locks everywhere: resource, then network.
create function count_lease() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    update resource set updated_at = now() where tenant_id = new.tenant_id and id = new.network_id;
    update network set address_used = address_used + 1 where tenant_id = new.tenant_id and id = new.network_id;
  else
    update resource set updated_at = now() where tenant_id = old.tenant_id and id = old.network_id;
    update network set address_used = address_used - 1, address_hint = least(address_hint, old.ip)
    where tenant_id = old.tenant_id and id = old.network_id;
  end if;
  return null;
end $$;
create trigger count_lease after insert or delete on lease for each row execute function count_lease();

-- The lowest free host address of a network, or null when it is full. Locks the network until the transaction ends, so
-- of two that race for the last address exactly one gets it.
create function claim_address(p_tenant text, p_network uuid) returns inet language plpgsql as $$
declare n network; candidate inet; final inet; taken inet;
begin
  perform 1 from resource where tenant_id = p_tenant and id = p_network for no key update;
  select * into n from network where tenant_id = p_tenant and id = p_network for no key update;
  if not found then return null; end if;
  final := set_masklen(broadcast(n.subnet), 32);
  candidate := n.address_hint;
  if candidate = n.gateway then candidate := candidate + 1; end if;
  for taken in
    select l.ip from lease l where l.tenant_id = p_tenant and l.network_id = p_network and l.ip >= candidate order by l.ip
  loop
    exit when taken > candidate;
    candidate := taken + 1;
    if candidate = n.gateway then candidate := candidate + 1; end if;
  end loop;
  if candidate >= final then return null; end if;
  update network set address_hint = candidate where tenant_id = p_tenant and id = p_network;
  return candidate;
end $$;

grant select, insert, update, delete on network, lease to rhyzome_app, rhyzome_operator;
grant execute on function claim_address(text, uuid) to rhyzome_app, rhyzome_operator;
