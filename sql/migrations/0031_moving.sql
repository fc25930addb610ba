-- Machines that move from node to node: where nodes take them in, who may ask for it, and the moves that are under way.

-- host:port at which other nodes bring machines to this one; null: it takes in none.
alter table node add column migration_address text;

-- Whether the tenant's people may move its machines; the administrator at the shell always may.
alter table tenant add column may_migrate boolean not null default false;

-- One that is under way, for as long as its job is. Its room on the other node is reserved under its own id, beside what
-- the machine has where it is.
create table move (
  tenant_id text not null,
  -- The operation that both nodes are told of.
  id uuid not null,
  -- The instance.
  resource_id uuid not null,
  from_node uuid not null references node (id),
  to_node uuid not null references node (id),
  mode text not null check (mode in ('live', 'cold')),
  -- Whether it may be switched off for it.
  may_stop boolean not null,
  -- The deed that takes it back.
  abandon_id uuid not null,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, resource_id),
  foreign key (tenant_id, resource_id) references instance (tenant_id, id) on delete cascade,
  check (from_node <> to_node)
);
create index move_from on move (from_node);
create index move_to on move (to_node);
call wall_off('move');
grant select, insert, update, delete on move to rhyzome_app, rhyzome_operator;

-- The machine's room is on the other node from now on, and that of its disks with it.
create function move_reservations(p_move uuid) returns void
language sql security definer set search_path = public, pg_temp
begin atomic
  delete from public.reservation where tenant_id = public.current_tenant() and resource_id = p_move;
  update public.reservation v set node_id = m.to_node from public.move m
  where m.tenant_id = public.current_tenant() and m.id = p_move and v.tenant_id = m.tenant_id
    and (v.resource_id = m.resource_id or exists (select 1 from public.disk d
      where d.tenant_id = m.tenant_id and d.id = v.resource_id and d.instance_id = m.resource_id));
end;
revoke execute on function move_reservations(uuid) from public;
grant execute on function move_reservations(uuid) to rhyzome_app, rhyzome_operator;
