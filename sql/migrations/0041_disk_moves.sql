-- Disks that no machine has move, too: a row of move may be a disk's.

-- safe: every instance is a resource of its tenant, and goes with it; servers of the version before write only those.
alter table move drop constraint move_tenant_id_resource_id_fkey;
-- safe: as above; the table has the rows of what is moving just now.
alter table move add constraint move_tenant_id_resource_id_fkey
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade;

alter table move
  -- The sender is gone: since when the other node is asked anew what it has of it.
  add column asked_anew_at timestamptz(3);
