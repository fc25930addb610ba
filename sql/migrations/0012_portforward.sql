-- Kind portforward: a port of a public address that leads to a guest.

create table portforward (
  tenant_id text not null,
  id uuid not null,
  public_address_id uuid not null,
  protocol text not null check (protocol in ('tcp', 'udp')),
  port int not null check (port between 1 and 65535),
  instance_id uuid not null,
  network_id uuid not null,
  -- False: the network is that of the instance's first interface.
  network_asked boolean not null,
  -- Null: the same port.
  target_port int check (target_port between 1 and 65535),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('portforward');
call count_in_quota('portforward', 'portforwards');

-- Who has a port; while an update is under way, the old and the new one.
create table public_port (
  tenant_id text not null,
  public_address_id uuid not null,
  protocol text not null,
  port int not null,
  resource_id uuid not null,
  primary key (tenant_id, public_address_id, protocol, port),
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade
);
create index public_port_resource on public_port (tenant_id, resource_id);
call wall_off('public_port');

grant select, insert, update, delete on portforward, public_port to rhyzome_app, rhyzome_operator;
