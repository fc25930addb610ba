-- Kinds disk and snapshot, and instances that boot from disks.
--
-- Before, a machine's boot disk was a part of it that nobody else knew. Nothing was released with that, and what lies on
-- the nodes cannot be carried over by SQL: whoever has such machines deletes them first, so that none is lost unnoticed.
do $$ begin
  if exists (select 1 from instance) then
    raise exception 'There are instances whose disks are not resources yet. Delete them with the version that made them, then migrate.';
  end if;
end $$;

-- How long a deleted disk can be had back; null: not at all.
alter table installation add column deleted_disks_kept interval default '24 hours' check (deleted_disks_kept > '0');
grant update (deleted_disks_kept) on installation to rhyzome_operator;

alter table instance drop constraint instance_image_tenant_id_image_id_fkey;
alter table instance
  drop column image_tenant_id,
  drop column disk_gib,
  -- What the boot disk was made from, when it was made with the machine; null: it boots from a disk that was there.
  alter column image_id drop not null,
  -- Spoken for while a resize is under way: the larger of what was and what is asked.
  add column held_vcpus int not null default 0,
  add column held_memory_mib bigint not null default 0,
  add column ssh_keys text[] not null default '{}',
  add column placement jsonb;
create index instance_image on instance (tenant_id, image_id);

-- Apart, so that lists do not read it.
create table instance_user_data (
  tenant_id text not null,
  id uuid not null,
  user_data text not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references instance (tenant_id, id) on delete cascade
);
call wall_off('instance_user_data');

create table disk (
  tenant_id text not null,
  id uuid not null,
  size_gib int not null check (size_gib between 1 and 65536),
  -- The image that it builds on, described here: a disk outlives other tenants' images.
  image_tenant_id text,
  image_id uuid,
  image_sha256 text,
  image_format text,
  image_size_bytes bigint,
  image_virtual_size_bytes bigint,
  -- What it was made from; read only until it is made.
  snapshot_id uuid,
  snapshot_disk_id uuid,
  made boolean not null default false,
  node_id uuid references node (id),
  -- The machine that it is attached to, and where there.
  instance_id uuid,
  slot int,
  boot_order int,
  -- It came with its machine and goes with it.
  with_instance boolean not null default false,
  -- The snapshot that it is being set back to.
  restoring uuid,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  foreign key (tenant_id, instance_id) references instance (tenant_id, id),
  check ((instance_id is null) = (slot is null)),
  check ((image_id is null) = (image_sha256 is null))
);
create unique index disk_slot on disk (tenant_id, instance_id, slot) where instance_id is not null;
create index disk_image on disk (tenant_id, image_id) where image_id is not null;
create index disk_content on disk (image_sha256) where image_sha256 is not null;
create index disk_node on disk (node_id);
call wall_off('disk');

create table snapshot (
  tenant_id text not null,
  id uuid not null,
  disk_id uuid not null,
  -- As the node told; null until it is taken.
  size_bytes bigint,
  virtual_size_bytes bigint,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  foreign key (tenant_id, disk_id) references disk (tenant_id, id)
);
create index snapshot_disk on snapshot (tenant_id, disk_id);
call wall_off('snapshot');

-- Disks that were deleted and can be had back: no resources any more, their names are free, but what they hold still lies
-- on its node and counts in the quota.
create table deleted_disk (
  tenant_id text not null references tenant (id),
  id uuid not null,
  name text not null,
  tags jsonb not null,
  created_by text not null,
  created_at timestamptz(3) not null,
  size_gib int not null,
  image_tenant_id text,
  image_id uuid,
  image_sha256 text,
  image_format text,
  image_size_bytes bigint,
  image_virtual_size_bytes bigint,
  node_id uuid not null references node (id),
  deleted_at timestamptz(3) not null default now(),
  expires_at timestamptz(3) not null,
  primary key (tenant_id, id)
);
create index deleted_disk_expiry on deleted_disk (expires_at);
create index deleted_disk_time on deleted_disk (tenant_id, deleted_at, id);
create index deleted_disk_content on deleted_disk (image_sha256) where image_sha256 is not null;
create index deleted_disk_node on deleted_disk (node_id);
call wall_off('deleted_disk');

-- Whose news a parked job waits for, where that is not its own resource: a machine's job for its disk.
alter table job add column waits_for uuid;
create index job_waits_for on job (tenant_id, waits_for) where finished_at is null and waits_for is not null;

alter table reservation add constraint reservation_sizes check (vcpus >= 0 and memory_mib >= 0 and disk_gib >= 0);

-- As before, and further: `p_only` and `p_never` narrow the choice (null: they do not); `p_stays` is for what lies on its
-- node already, which may grow there also while the node takes nothing new.
drop function reserve_node(uuid, text, int, bigint, bigint, int);
create function reserve_node(p_resource uuid, p_kind text, p_vcpus int, p_memory_mib bigint, p_disk_gib bigint,
  p_vcpu_overcommit int, p_only uuid[], p_never uuid[], p_stays boolean)
returns uuid language plpgsql security definer set search_path = public, pg_temp as $$
declare chosen uuid; tenant text := current_tenant();
begin
  if tenant is null then raise exception 'reserve_node needs a tenant'; end if;
  perform pg_advisory_xact_lock(hashtextextended('rhyzome.placement', 0));
  select n.id into chosen
  from node n
  cross join lateral (
    select coalesce(sum(r.vcpus), 0) as vcpus, coalesce(sum(r.memory_mib), 0) as memory_mib, coalesce(sum(r.disk_gib), 0) as disk_gib
    from reservation r where r.node_id = n.id and not (r.tenant_id = tenant and r.resource_id = p_resource)) used
  where (p_only is null or n.id = any (p_only)) and (p_never is null or n.id <> all (p_never))
    and (p_stays or (not n.cordoned and n.last_seen_at > now() - interval '60 seconds' and p_kind = any (n.kinds)))
    and n.vcpus::bigint * p_vcpu_overcommit - used.vcpus >= p_vcpus
    and n.memory_mib - used.memory_mib >= p_memory_mib
    and n.disk_gib - used.disk_gib >= p_disk_gib
  order by n.memory_mib - used.memory_mib desc, n.id limit 1;
  if chosen is null then return null; end if;
  insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
  values (tenant, p_resource, chosen, p_vcpus, p_memory_mib, p_disk_gib)
  on conflict (tenant_id, resource_id) do update set node_id = excluded.node_id, vcpus = excluded.vcpus,
    memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib;
  return chosen;
end $$;

-- Gives the part of a reservation that is a disk's to the disk: both were found room for together.
create function split_reservation(p_from uuid, p_to uuid, p_disk_gib bigint)
returns void language sql security definer set search_path = public, pg_temp
begin atomic
  with taken as (
    update public.reservation set disk_gib = disk_gib - p_disk_gib
    where tenant_id = public.current_tenant() and resource_id = p_from returning tenant_id, node_id)
  insert into public.reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
  select tenant_id, p_to, node_id, 0, 0, p_disk_gib from taken
  on conflict (tenant_id, resource_id) do update set node_id = excluded.node_id, disk_gib = excluded.disk_gib;
end;

-- Makes a reservation smaller, never larger: what is given back needs no room.
create function shrink_reservation(p_resource uuid, p_vcpus int, p_memory_mib bigint, p_disk_gib bigint)
returns void language sql security definer set search_path = public, pg_temp
begin atomic
  update public.reservation set vcpus = least(vcpus, p_vcpus), memory_mib = least(memory_mib, p_memory_mib),
    disk_gib = least(disk_gib, p_disk_gib)
  where tenant_id = public.current_tenant() and resource_id = p_resource;
end;

grant select, insert, update, delete on disk, snapshot, deleted_disk, instance_user_data to rhyzome_app, rhyzome_operator;
grant execute on function reserve_node(uuid, text, int, bigint, bigint, int, uuid[], uuid[], boolean),
  split_reservation(uuid, uuid, bigint), shrink_reservation(uuid, int, bigint, bigint) to rhyzome_app, rhyzome_operator;
