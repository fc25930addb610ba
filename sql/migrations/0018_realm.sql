-- Kind realm: where the people and programs of a tenant log in that Rhyzome keeps.
create table realm (
  tenant_id text not null,
  id uuid not null,
  mode text not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('realm');
grant select, insert, update, delete on realm to rhyzome_app, rhyzome_operator;
