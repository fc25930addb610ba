-- Kind wireguardpeer: somebody who may enter a network by its VPN door.

create table wireguardpeer (
  tenant_id text not null,
  id uuid not null,
  network_id uuid not null,
  public_key text not null,
  -- Its address in the tunnel.
  address inet not null,
  -- What its configuration sends through the tunnel; null: the network's subnets.
  allowed_addresses text[],
  preshared_key text,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  foreign key (tenant_id, network_id) references wireguard_door (tenant_id, network_id)
);
create unique index wireguardpeer_address on wireguardpeer (tenant_id, network_id, address);
create unique index wireguardpeer_key on wireguardpeer (tenant_id, network_id, public_key);
call wall_off('wireguardpeer');
call count_in_quota('wireguardpeer', 'wireguardpeers');

grant select, insert, update, delete on wireguardpeer to rhyzome_app, rhyzome_operator;
