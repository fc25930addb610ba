-- Kind firewallrule: what may pass between a network's guests and everybody else.

create table firewallrule (
  tenant_id text not null,
  id uuid not null,
  network_id uuid not null,
  priority int not null check (priority between 0 and 65535),
  direction text not null check (direction in ('in', 'out')),
  action text not null check (action in ('allow', 'deny')),
  protocol text not null check (protocol in ('any', 'tcp', 'udp', 'icmp')),
  -- `80` or `8000-8100`; empty: all.
  ports text[] not null default '{}',
  -- Null: anybody.
  remote_cidrs text[],
  -- Selectors of instances by their tags; null: anybody, and all of the network.
  remote_tags text,
  target_tags text,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  check (remote_cidrs is null or remote_tags is null)
);
create index firewallrule_network on firewallrule (tenant_id, network_id);
call wall_off('firewallrule');
call count_in_quota('firewallrule', 'firewallrules');

grant select, insert, update, delete on firewallrule to rhyzome_app, rhyzome_operator;
