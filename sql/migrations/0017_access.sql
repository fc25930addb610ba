-- What permissions are decided on beside a token's roles: whose issuer's organizations are which tenants, the rules of
-- the tenants' grants, and which subjects may not come in any more. Servers keep it in memory; `tenant_access` tells
-- them when to look again.

-- A realm that many tenants share: the token's organization says whose it is. Empty: the whole issuer is one tenant's.
alter table tenant_issuer add column organization text not null default '' check (length(organization) <= 255);
alter table tenant_issuer drop constraint tenant_issuer_pkey, add primary key (issuer, organization);

create function keep_issuer_whole_or_shared() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtext('issuer'), hashtext(new.issuer));
  if exists (select from tenant_issuer i where i.issuer = new.issuer and (i.organization = '') <> (new.organization = '')) then
    raise unique_violation using message = 'an issuer is one tenant''s as a whole, or shared by organizations',
      table = 'tenant_issuer', constraint = 'tenant_issuer_pkey';
  end if;
  return new;
end $$;
create trigger keep_issuer_whole_or_shared before insert or update on tenant_issuer
  for each row execute function keep_issuer_whole_or_shared();

drop function issuer_directory();
create function issuer_directory()
returns table (issuer text, organization text, tenant_id text, tenant_state text, audience text, jwks_uri text)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select i.issuer, i.organization, i.tenant_id, t.state, i.audience, i.jwks_uri
  from public.tenant_issuer i join public.tenant t on t.id = i.tenant_id;
end;
grant execute on function issuer_directory() to rhyzome_app, rhyzome_operator;

-- Rises whenever something changes that a tenant's permissions are decided on. It outlives its tenant, so that one of
-- the same id that comes later is not taken for the one that was.
create table tenant_access (
  tenant_id text primary key,
  epoch bigint not null default 1
);
call wall_off('tenant_access');
grant select on tenant_access to rhyzome_app, rhyzome_operator;

-- Of tenants that a server knows of: numbers only, asked every few seconds in case a notification was lost.
create function access_epochs(tenants text[]) returns table (tenant_id text, epoch bigint)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select a.tenant_id, a.epoch from public.tenant_access a where a.tenant_id = any (tenants);
end;
grant execute on function access_epochs(text[]) to rhyzome_app, rhyzome_operator;

create function raise_access() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
declare changed text;
begin
  if tg_op = 'DELETE' then changed := old.tenant_id; else changed := new.tenant_id; end if;
  insert into tenant_access as a (tenant_id) values (changed) on conflict (tenant_id) do update set epoch = a.epoch + 1;
  -- As for the tenants' tables: so rare that the lock that NOTIFY takes does not matter.
  perform pg_notify('rhyzome_access', changed);
  return null;
end $$;

-- For tables that permissions are decided on; the migration of each calls it. `columns`: only updates of these tell.
create procedure tells_access(tab regclass, columns text default null) language plpgsql as $$
begin
  execute format('create trigger tells_access after insert or delete or update%s on %s for each row execute function raise_access()',
    coalesce(' of ' || columns, ''), tab);
end $$;

-- The `sub` of a tenant's tokens, and which of its users or service accounts that is. A row outlives its resource while
-- tokens may live that name it: `enabled` is then false.
create table subject (
  tenant_id text not null references tenant (id) on delete cascade,
  subject text not null check (length(subject) between 1 and 255),
  kind text not null check (kind in ('user', 'serviceaccount')),
  resource_id uuid not null,
  enabled boolean not null default true,
  -- When a row of what is removed can go.
  forget_at timestamptz(3),
  primary key (tenant_id, subject)
);
create index subject_resource on subject (tenant_id, resource_id);
create index subject_forget on subject (forget_at) where forget_at is not null;
call wall_off('subject');
call tells_access('subject');
grant select, insert, update, delete on subject to rhyzome_app, rhyzome_operator;

-- What grants give, as it is decided on. `subject`: the id of a user or service account, a group's or role's name, or a
-- token's `sub`. Null for both `selector` and `resource_ids`: all resources of the kinds.
create table access_rule (
  tenant_id text not null,
  grant_id uuid not null,
  ordinal int not null,
  subject_type text not null check (subject_type in ('user', 'serviceaccount', 'group', 'role', 'sub')),
  subject text not null,
  verbs text[] not null,
  kinds text[] not null,
  selector text,
  resource_ids uuid[],
  primary key (tenant_id, grant_id, ordinal),
  foreign key (tenant_id, grant_id) references resource (tenant_id, id) on delete cascade,
  check (selector is null or resource_ids is null)
);
create index access_rule_subject on access_rule (tenant_id, subject_type, subject);
call wall_off('access_rule');
call tells_access('access_rule');
grant select, insert, update, delete on access_rule to rhyzome_app, rhyzome_operator;
