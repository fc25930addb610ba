-- Kind user: a person of the tenant, who logs in at its place at the identity provider.

create table tenant_user (
  tenant_id text not null,
  id uuid not null,
  -- In lower case, as Keycloak keeps it.
  email text check (length(email) <= 254),
  first_name text,
  last_name text,
  role text check (role in ('admin', 'operator', 'viewer')),
  enabled boolean not null default true,
  -- The `sub` of its tokens, as soon as the identity provider has given it one.
  subject text,
  last_invited_at timestamptz(3),
  -- The hash of a one-time password that is on its way to the identity provider, in Keycloak's form; nothing afterwards.
  invitation jsonb,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
create unique index tenant_user_email on tenant_user (tenant_id, email) where email is not null;
call wall_off('tenant_user');
call filter_by('tenant_user', 'role');
call filter_by('tenant_user', 'email');
call filter_by('tenant_user', 'subject');
-- Their names cannot be changed.
drop trigger pass_name_on_to_tenant_user on resource;
call count_in_quota('tenant_user', 'users');
-- API tokens of a user never have more than the user has now.
call tells_access('tenant_user', 'role');

grant select, insert, update, delete on tenant_user to rhyzome_app, rhyzome_operator;
