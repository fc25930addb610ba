-- Kind instance: a virtual machine. Its interfaces are its automatic leases.

create table instance (
  tenant_id text not null,
  id uuid not null,
  image_tenant_id text not null,
  image_id uuid not null,
  vcpus int not null check (vcpus between 1 and 256),
  memory_mib bigint not null check (memory_mib >= 64),
  disk_gib int,
  desired_power_state text not null check (desired_power_state in ('running', 'stopped')),
  -- As the node saw it last.
  power_state text not null default 'unknown' check (power_state in ('running', 'stopped', 'paused', 'unknown')),
  restart_policy text not null check (restart_policy in ('stay', 'always')),
  node_id uuid references node (id),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  foreign key (image_tenant_id, image_id) references image (tenant_id, id)
);
create index instance_node on instance (node_id);
call wall_off('instance');

grant select, insert, update, delete on instance to rhyzome_app, rhyzome_operator;
