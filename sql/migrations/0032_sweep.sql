-- The sweep: what stands on nodes and nobody owns, what nodes should have and lack, and which disks were deleted for good.

alter table installation
  -- report: nothing is removed without an administrator's word.
  add column sweep_mode text not null default 'remove' check (sweep_mode in ('remove', 'report')),
  -- For how long something must have been nobody's before it is removed.
  add column sweep_after interval not null default '24 hours' check (sweep_after >= '1 minute');
grant update (sweep_mode, sweep_after) on installation to rhyzome_operator;

-- The last inventory of each node.
create table node_inventory (
  node_id uuid primary key references node (id) on delete cascade,
  session bigint not null,
  taken_at timestamptz(3) not null default clock_timestamp(),
  items int not null,
  -- An administrator wants another, sooner than its turn comes.
  wanted_at timestamptz(3)
);

-- What a node has under this installation's name and nothing in `placement` is the reason of. Seen without a gap: what one
-- inventory lacks begins anew.
create table orphan (
  -- As its name on the node says; there need be no such tenant.
  tenant_id text not null,
  kind text not null,
  id uuid not null,
  node_id uuid not null references node (id) on delete cascade,
  first_seen_at timestamptz(3) not null default clock_timestamp(),
  last_seen_at timestamptz(3) not null default clock_timestamp(),
  inventories int not null default 1,
  size_bytes bigint,
  state text,
  -- An administrator's word: neither the delay nor the share of a day holds it up.
  approved_at timestamptz(3),
  approved_by text,
  -- The node has been told to remove it.
  asked_at timestamptz(3),
  failure jsonb,
  primary key (tenant_id, kind, id, node_id)
);
create index orphan_node on orphan (node_id);
call wall_off('orphan');

-- What a node said that it had made and its inventory lacks.
create table missing_placement (
  tenant_id text not null,
  resource_id uuid not null,
  node_id uuid not null references node (id) on delete cascade,
  kind text not null,
  first_seen_at timestamptz(3) not null default clock_timestamp(),
  last_seen_at timestamptz(3) not null default clock_timestamp(),
  inventories int not null default 1,
  primary key (tenant_id, resource_id, node_id)
);
create index missing_placement_node on missing_placement (node_id);
call wall_off('missing_placement');

-- What the sweep has removed: the share of a day is counted from it.
create table sweep_removal (
  tenant_id text not null,
  kind text not null,
  id uuid not null,
  node_id uuid not null references node (id) on delete cascade,
  removed_at timestamptz(3) not null default clock_timestamp(),
  -- On whose word; null: by itself.
  approved_by text,
  primary key (tenant_id, kind, id, node_id, removed_at)
);
create index sweep_removal_node on sweep_removal (node_id, removed_at);
call wall_off('sweep_removal');

-- The last word about a disk or snapshot on a node was that it must not be there. Without one the sweep removes neither.
create table disk_tombstone (
  tenant_id text not null,
  id uuid not null,
  node_id uuid not null references node (id) on delete cascade,
  kind text not null check (kind in ('disk', 'snapshot')),
  at timestamptz(3) not null default clock_timestamp(),
  -- Null: the transaction that deleted it; else the administrator who said so.
  word_of text,
  primary key (tenant_id, id, node_id)
);
create index disk_tombstone_age on disk_tombstone (at);
call wall_off('disk_tombstone');

-- By a trigger, so that no path of the code can forget to. What is wanted there again loses its tombstone.
create function keep_disk_tombstone() returns trigger language plpgsql as $$
begin
  if new.present then
    delete from disk_tombstone where tenant_id = new.tenant_id and id = new.resource_id and node_id = new.node_id;
  else
    insert into disk_tombstone (tenant_id, id, node_id, kind) values (new.tenant_id, new.resource_id, new.node_id, new.kind)
    on conflict (tenant_id, id, node_id) do nothing;
  end if;
  return null;
end $$;
create trigger keep_disk_tombstone_insert after insert on placement
  for each row when (new.kind in ('disk', 'snapshot')) execute function keep_disk_tombstone();
create trigger keep_disk_tombstone_update after update of present on placement
  for each row when (new.kind in ('disk', 'snapshot') and new.present is distinct from old.present)
  execute function keep_disk_tombstone();

-- Those that are on their way out already.
insert into disk_tombstone (tenant_id, id, node_id, kind)
select tenant_id, resource_id, node_id, kind from placement where kind in ('disk', 'snapshot') and not present;

-- What stands in the database and belongs to nothing there (a reservation of a resource that is gone): found by statements
-- that must find nothing, removed where that is safe and it was found again and again.
create table leftover (
  tenant_id text not null,
  -- Which of the statements found it.
  rule text not null,
  id text not null,
  first_seen_at timestamptz(3) not null default clock_timestamp(),
  last_seen_at timestamptz(3) not null default clock_timestamp(),
  looks int not null default 1,
  primary key (tenant_id, rule, id)
);
call wall_off('leftover');

-- A database that was restored from a backup: until an administrator has finished it, nodes are asked what they have, and
-- told nothing.
create table restoration (
  id uuid primary key,
  backup_id uuid not null,
  -- What the backup shows is as of then.
  backup_at timestamptz(3) not null,
  restored_at timestamptz(3) not null default clock_timestamp(),
  restored_by text not null,
  -- Revisions, sessions and events of before are all lower.
  numbers_from bigint not null,
  finished_at timestamptz(3),
  finished_by text
);
create unique index restoration_unfinished on restoration ((true)) where finished_at is null;

create function nodes_are_held() returns boolean language sql stable parallel safe
begin atomic
  select exists (select from public.restoration where finished_at is null);
end;

grant select on restoration to rhyzome_app;
grant select, insert, update on restoration to rhyzome_operator;
grant select, insert, update, delete on leftover to rhyzome_operator;
grant select, insert, delete on disk_tombstone to rhyzome_app;
grant select, insert, update, delete on node_inventory, orphan, missing_placement, sweep_removal, disk_tombstone to rhyzome_operator;
