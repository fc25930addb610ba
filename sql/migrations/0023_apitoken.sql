-- Kind apitoken: a bearer token with an end, of a user or of a service account.

create table apitoken (
  tenant_id text not null,
  id uuid not null,
  -- SHA-256 of the token, which is nowhere.
  hash bytea not null unique check (length(hash) = 32),
  prefix text not null,
  -- As whom it acts, and with what: never more than a user has now.
  subject text not null check (length(subject) between 1 and 255),
  service_account_id uuid,
  roles text[] not null,
  groups text[] not null,
  -- Null: not narrowed.
  scopes text[],
  expires_at timestamptz(3) not null,
  revoked boolean not null default false,
  last_used_at timestamptz(3),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  foreign key (tenant_id, service_account_id) references serviceaccount (tenant_id, id)
);
create index apitoken_subject on apitoken (tenant_id, subject);
create index apitoken_expiry on apitoken (expires_at);
call wall_off('apitoken');
call filter_by('apitoken', 'service_account_id');
call count_in_quota('apitoken', 'apitokens');
-- Not when one is made or used: nobody can know it yet, and that it was used permits nothing.
create trigger tells_access after delete or update of revoked on apitoken for each row execute function raise_access();

-- A suspended tenant's tokens are refused, also those that are remembered.
create function raise_access_of_tenant() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
  insert into tenant_access as a (tenant_id) values (new.id) on conflict (tenant_id) do update set epoch = a.epoch + 1;
  perform pg_notify('rhyzome_access', new.id);
  return null;
end $$;
create trigger tells_access after update of state on tenant
  for each row when (old.state is distinct from new.state) execute function raise_access_of_tenant();

-- What tokens are good for, asked before any tenant is known, hence not under the tenant's policy. Whoever calls it must
-- have the tokens themselves.
create function api_tokens(hashes bytea[])
returns table (hash bytea, tenant_id text, id uuid, name text, tenant_state text, epoch bigint, subject text,
  roles text[], groups text[], scopes text[], expires_at timestamptz)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select t.hash, t.tenant_id, t.id, r.name, n.state,
    coalesce((select a.epoch from public.tenant_access a where a.tenant_id = t.tenant_id), 0),
    t.subject, t.roles, t.groups, t.scopes, t.expires_at
  from public.apitoken t
  join public.resource r on r.tenant_id = t.tenant_id and r.id = t.id
  join public.tenant n on n.id = t.tenant_id
  where t.hash = any (hashes) and not t.revoked;
end;

-- Coarse: at most every few minutes a token, whoever asks.
create function note_api_tokens_used(tenants text[], ids uuid[]) returns void
language sql security definer set search_path = public, pg_temp
begin atomic
  update public.apitoken t set last_used_at = now() from unnest(tenants, ids) used (tenant_id, id)
  where t.tenant_id = used.tenant_id and t.id = used.id
    and (t.last_used_at is null or t.last_used_at < now() - interval '4 minutes');
end;

grant select, insert, update, delete on apitoken to rhyzome_app, rhyzome_operator;
grant execute on function api_tokens(bytea[]), note_api_tokens_used(text[], uuid[]) to rhyzome_app, rhyzome_operator;
