-- Networks that span nodes (ADR 0035): where nodes meet, what each network's frames are marked with between them, and which
-- node has a network's router.

-- safe: the check is about these columns alone, which servers of the version before leave empty.
alter table node
  -- Where other nodes reach it; null: it takes no part in networks across nodes.
  add column underlay inet check (family(underlay) = 4 and masklen(underlay) = 32),
  add column underlay_port int check (underlay_port between 1 and 65535),
  -- The largest MTU of a network that its underlay carries.
  add column underlay_mtu int check (underlay_mtu > 0),
  add check ((underlay is null) = (underlay_port is null) and (underlay is null) = (underlay_mtu is null));

-- Whether a network of this MTU can span to a node. Not to one that is fenced: what it sends counts for nothing.
create function node_spans(n node, p_mtu int) returns boolean language sql stable parallel safe
return n.underlay is not null and n.underlay_mtu >= p_mtu and node_state(n) <> 'gone';

-- Numbers come round only after all others, so that a node that was away long does not take a stranger's network for its own.
create sequence network_vni as int minvalue 4096 maxvalue 16777215 cycle;

alter table network
  -- VXLAN's network identifier (RFC 7348), kept while the network stands.
  add column vni int check (vni between 1 and 16777215),
  -- Null: it is on no node.
  add column router_node_id uuid references node (id) on delete set null,
  -- The nodes that its nodes were told of, as network_members() says it. What differs is told anew.
  add column told_members text;
-- safe: tenants' networks are few beside what is on them, some milliseconds for a thousand.
update network set vni = nextval('network_vni');
-- safe: of networks only, as the one before.
update network n set router_node_id = (
  select p.node_id from placement p where p.tenant_id = n.tenant_id and p.resource_id = n.id and p.present
  order by p.created_at, p.node_id limit 1);
-- safe: it has a default by the end of this transaction, for servers that know nothing of it.
alter table network alter column vni set not null;
-- safe: as many rows as networks.
create unique index network_vni_key on network (vni);
-- safe: of networks only, as the one before.
create index network_router on network (router_node_id);

-- A number that no tenant's network has.
create function claim_vni() returns int language plpgsql security definer set search_path = public, pg_temp as $$
declare candidate int;
begin
  loop
    candidate := nextval('network_vni');
    exit when not exists (select from network n where n.vni = candidate);
  end loop;
  return candidate;
end $$;
alter table network alter column vni set default claim_vni();

-- The nodes that a network spans, and where they are reached: empty where it is on nodes that it cannot span.
create function network_members(p_tenant text, p_network uuid, p_mtu int) returns text language sql stable
return (
  select coalesce(string_agg(n.id || '@' || host(n.underlay) || ':' || n.underlay_port, ' ' order by n.id), '')
  from placement p join node n on n.id = p.node_id
  where p.tenant_id = p_tenant and p.resource_id = p_network and p.present and node_spans(n, p_mtu));

grant execute on function node_spans(node, int), claim_vni(), network_members(text, uuid, int) to rhyzome_app, rhyzome_operator;
