-- The last sample of what each resource uses or reports, and what a deed gave back to its asker.

alter table deed add column result jsonb;

-- One row a resource and source, overwritten by each report: room on the page and no index but the key, so that
-- PostgreSQL writes heap-only tuples. Gone with its resource. Writing one does not make a resource's version new.
create table metric_sample (
  tenant_id text not null,
  resource_id uuid not null,
  -- `node`: what the node measured; `guest`: what the guest says of itself; `service:NAME`: what a service says.
  source text not null check (length(source) between 1 and 100),
  at timestamptz(3) not null,
  -- A list of {name, type, labels, value}.
  metrics jsonb not null,
  primary key (tenant_id, resource_id, source),
  foreign key (tenant_id, resource_id) references resource (tenant_id, id) on delete cascade
) with (fillfactor = 50);
call wall_off('metric_sample');

grant select, insert, update, delete on metric_sample to rhyzome_app, rhyzome_operator;
