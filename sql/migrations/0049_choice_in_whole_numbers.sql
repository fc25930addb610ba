-- What may be promised of a node, reckoned in hundredths and whole numbers (with a bound on disks that no machine has, as
-- they would not fit), and the best few kept instead of all sorted: of a thousand nodes one is chosen in less than half the
-- time. As before otherwise.
create or replace view node_room with (security_invoker = true) as
select n.id as node_id,
  n.vcpus * coalesce((n.vcpu_overcommit * 100)::bigint, i.vcpu_percent) / 100 as vcpus,
  greatest(n.memory_mib - coalesce(n.memory_reserve_mib, i.memory_reserve_mib), 0)
    * coalesce((n.memory_overcommit * 100)::bigint, i.memory_percent) / 100 as memory_mib,
  least(n.disk_gib, 1::bigint << 40) * coalesce((n.disk_overcommit * 100)::bigint, i.disk_percent) / 100 as disk_gib,
  l.vcpus - coalesce(g.vcpus, 0) as used_vcpus, l.memory_mib - coalesce(g.memory_mib, 0) as used_memory_mib,
  l.disk_gib - coalesce(g.disk_gib, 0) + case when n.storage is null then 0 else coalesce((
      select sum(o.disk_gib) from node m join node_load o on o.node_id = m.id
      where m.storage = n.storage and m.id <> n.id), 0)::bigint - coalesce((
      select sum(b.disk_gib) from node m join room_given_back b on b.node_id = m.id
      where m.storage = n.storage and m.id <> n.id), 0)::bigint end as used_disk_gib
from node n cross join (
  select (vcpu_overcommit * 100)::bigint as vcpu_percent, (memory_overcommit * 100)::bigint as memory_percent,
    (disk_overcommit * 100)::bigint as disk_percent, memory_reserve_mib
  from installation offset 0) i
join node_load l on l.node_id = n.id
left join (
  select node_id, sum(vcpus)::bigint as vcpus, sum(memory_mib)::bigint as memory_mib, sum(disk_gib)::bigint as disk_gib
  from room_given_back group by node_id) g on g.node_id = n.id;

create or replace function reserve_room(p_resource uuid, p_kind text, p_vcpus bigint, p_memory_mib bigint, p_disk_gib bigint,
  p_only uuid[], p_never uuid[], p_ranks jsonb, p_stays boolean)
returns uuid language plpgsql security definer set search_path = public, pg_temp set enable_nestloop = off as $$
declare
  few constant int := 20;
  ranked constant boolean := coalesce(p_ranks, '{}') <> '{}';
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
      select array_agg(c.id order by c.rank, c.free desc, c.id) into candidates from (
        select n.id, case when ranked then coalesce((p_ranks ->> n.id::text)::float8, 0) else 0 end as rank,
          m.free_memory_mib / greatest(m.memory_mib, 1)::float8 as free
        from node n join (
          select node_id, memory_mib, vcpus - used_vcpus as free_vcpus, memory_mib - used_memory_mib as free_memory_mib,
            disk_gib - used_disk_gib as free_disk_gib
          from node_room offset 0) m on m.node_id = n.id
        where (p_only is null or n.id = any (p_only)) and (p_never is null or n.id <> all (p_never))
          and (p_stays or takes_new(n, p_kind))
          and (own.node_id = n.id or (m.free_vcpus >= p_vcpus or p_vcpus = 0)
            and (m.free_memory_mib >= p_memory_mib or p_memory_mib = 0) and (m.free_disk_gib >= p_disk_gib or p_disk_gib = 0))
        order by rank, free desc, n.id limit case when round = 0 then few end) c;
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
