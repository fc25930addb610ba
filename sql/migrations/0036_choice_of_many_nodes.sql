-- A node is chosen among thousands at a cost that one notices: what is free on each is computed once, the joins are hashed
-- (the planner takes the states of nodes for rare and would look up each), and only the best few are remembered.
-- As before otherwise.
create or replace function reserve_room(p_resource uuid, p_kind text, p_vcpus bigint, p_memory_mib bigint, p_disk_gib bigint,
  p_only uuid[], p_never uuid[], p_ranks jsonb, p_stays boolean)
returns uuid language plpgsql security definer set search_path = public, pg_temp set enable_nestloop = off as $$
declare
  few constant int := 20;
  tenant text := current_tenant();
  own reservation;
  candidates uuid[];
  candidate uuid;
  chosen uuid;
begin
  if tenant is null then raise exception 'reserve_room needs a tenant'; end if;
  select * into own from reservation where tenant_id = tenant and resource_id = p_resource;
  -- First the best few that nobody else is just taking room on, then all of these, then all, which are waited for.
  for round in 0..2 loop
    if round < 2 then
      select array_agg(c.id order by c.place) into candidates from (
        select n.id, row_number() over (order by coalesce((p_ranks ->> n.id::text)::numeric, 0),
            m.free_memory_mib / greatest(m.memory_mib, 1)::float8 desc, n.id) as place
        from node n join (
          select node_id, memory_mib, vcpus - used_vcpus as free_vcpus, memory_mib - used_memory_mib as free_memory_mib,
            disk_gib - used_disk_gib as free_disk_gib
          from node_room offset 0) m on m.node_id = n.id
        where (p_only is null or n.id = any (p_only)) and (p_never is null or n.id <> all (p_never))
          and (p_stays or takes_new(n, p_kind))
          and (own.node_id = n.id or (m.free_vcpus >= p_vcpus or p_vcpus = 0)
            and (m.free_memory_mib >= p_memory_mib or p_memory_mib = 0) and (m.free_disk_gib >= p_disk_gib or p_disk_gib = 0))
        order by place limit case when round = 0 then few end) c;
      if candidates is null then return null; end if;
    end if;
    foreach candidate in array candidates loop
      begin
        if round < 2 then
          perform 1 from node_load where node_id = candidate for update skip locked;
          continue when not found;
        else
          perform 1 from node_load where node_id = candidate for update;
        end if;
        if has_room(candidate, own, p_vcpus, p_memory_mib, p_disk_gib) then
          chosen := candidate;
          exit;
        end if;
        -- Gives the lock back: who waits for a node holds none.
        raise exception using errcode = 'RZ000';
      exception when sqlstate 'RZ000' then null;
      end;
    end loop;
    exit when chosen is not null;
  end loop;
  if chosen is null then return null; end if;
  with back as (delete from room_given_back where node_id = chosen returning vcpus, memory_mib, disk_gib)
  update node_load l set vcpus = l.vcpus - b.vcpus, memory_mib = l.memory_mib - b.memory_mib, disk_gib = l.disk_gib - b.disk_gib
  from (select sum(vcpus) as vcpus, sum(memory_mib) as memory_mib, sum(disk_gib) as disk_gib from back) b
  where l.node_id = chosen and b.vcpus is not null;
  insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
  values (tenant, p_resource, chosen, p_vcpus, p_memory_mib, p_disk_gib)
  on conflict (tenant_id, resource_id) do update set node_id = excluded.node_id, vcpus = excluded.vcpus,
    memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib;
  return chosen;
end $$;
