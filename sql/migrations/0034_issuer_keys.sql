-- The public keys of tenants' issuers as some server read them last: a server that starts while the identity provider is
-- away takes tokens by them. Public data; only an issuer of a tenant has a row, and only these functions reach it.

create table issuer_keys (
  issuer text primary key,
  jwks_uri text not null check (length(jwks_uri) <= 2048),
  jwks jsonb not null check (length(jwks::text) <= 300000),
  read_at timestamptz(3) not null default now()
);

create function remember_issuer_keys(p_issuer text, p_jwks_uri text, p_jwks jsonb) returns void
language sql security definer set search_path = public, pg_temp
begin atomic
  delete from public.issuer_keys k
  where not exists (select from public.tenant_issuer i where i.issuer = k.issuer);
  insert into public.issuer_keys (issuer, jwks_uri, jwks)
  select p_issuer, p_jwks_uri, p_jwks
  where exists (select from public.tenant_issuer i where i.issuer = p_issuer)
  on conflict (issuer) do update set jwks_uri = excluded.jwks_uri, jwks = excluded.jwks, read_at = now();
end;

-- Those that were read not longer than `p_max_age` ago.
create function remembered_issuer_keys(p_issuer text, p_max_age interval)
returns table (jwks_uri text, jwks jsonb)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select k.jwks_uri, k.jwks from public.issuer_keys k
  where k.issuer = p_issuer and k.read_at > now() - p_max_age
    and exists (select from public.tenant_issuer i where i.issuer = k.issuer);
end;

revoke execute on function remember_issuer_keys(text, text, jsonb), remembered_issuer_keys(text, interval) from public;
grant execute on function remember_issuer_keys(text, text, jsonb), remembered_issuer_keys(text, interval)
  to rhyzome_app, rhyzome_operator;
grant select on issuer_keys to rhyzome_operator;
