-- Kind group: users who are given the same, together.

create table tenant_group (
  tenant_id text not null,
  id uuid not null,
  description text,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('tenant_group');
call count_in_quota('tenant_group', 'groups');

create table group_member (
  tenant_id text not null,
  group_id uuid not null,
  user_id uuid not null,
  primary key (tenant_id, group_id, user_id),
  foreign key (tenant_id, group_id) references tenant_group (tenant_id, id) on delete cascade,
  foreign key (tenant_id, user_id) references tenant_user (tenant_id, id) on delete cascade
);
create index group_member_user on group_member (tenant_id, user_id);
call wall_off('group_member');
-- As with roles: API tokens never have more than their users.
call tells_access('group_member');

grant select, insert, update, delete on tenant_group, group_member to rhyzome_app, rhyzome_operator;
