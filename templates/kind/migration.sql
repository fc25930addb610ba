-- Kind sample-thing: a note.

create table sample_thing (
  tenant_id text not null,
  id uuid not null,
  note text not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('sample_thing');
call count_in_quota('sample_thing', 'sampleThings');

grant select, insert, update, delete on sample_thing to rhyzome_app, rhyzome_operator;
