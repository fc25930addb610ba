-- Kind realm: where a tenant's people and programs log in, kept at the identity provider by Rhyzome.

create table realm (
  tenant_id text not null,
  id uuid not null,
  -- As it was asked for; people log in at place_mode, which follows.
  mode text not null check (mode in ('realm', 'organization')),
  place_mode text not null check (place_mode in ('realm', 'organization')),
  -- Where they were before a move: closed, and still there.
  left_mode text check (left_mode <> place_mode),
  -- Of the tokens; null: the place is not made yet, or no longer there.
  issuer text,
  organization text,
  -- What the identity provider was told last.
  open boolean not null default true,
  display_name text,
  scopes text[] not null default '{}',
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
create unique index realm_one on realm (tenant_id);
call wall_off('realm');

grant select, insert, update, delete on realm to rhyzome_app, rhyzome_operator;

-- A realm's issuer is its tenant's: the one follows from the other, in the same transaction.
alter table tenant_issuer add column managed boolean not null default false;

create function refuse_foreign_issuer(p_issuer text) returns boolean language plpgsql as $$
begin
  raise unique_violation using message = format('the issuer %s is another tenant''s', p_issuer),
    table = 'tenant_issuer', constraint = 'tenant_issuer_pkey';
end $$;

create function keep_realm_issuer() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare changed text := coalesce(new.tenant_id, old.tenant_id);
begin
  delete from tenant_issuer where tenant_id = changed and managed;
  if tg_op <> 'DELETE' and new.issuer is not null then
    insert into tenant_issuer (issuer, organization, tenant_id, managed)
    values (new.issuer, coalesce(new.organization, ''), changed, true)
    -- One of the tenant's own is taken over without an interruption; another tenant's stays another tenant's.
    on conflict (issuer, organization) do update set
      managed = case when tenant_issuer.tenant_id = excluded.tenant_id then true
        else refuse_foreign_issuer(excluded.issuer) end,
      audience = null, jwks_uri = null;
  end if;
  return null;
end $$;
create trigger keep_realm_issuer after insert or delete or update of issuer, organization on realm
  for each row execute function keep_realm_issuer();
