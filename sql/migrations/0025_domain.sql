-- Domains of tenants' own, at which only their tokens count. Names below the installation's domain (api.domain in the
-- settings) need no row: their first label is the tenant's id.

create table tenant_domain (
  -- As libs/core/host-name.ts writes it: lower case, ASCII, no dot at the end.
  domain text primary key check (domain ~ '^[a-z0-9.-]{3,253}$'),
  tenant_id text not null references tenant (id) on delete cascade,
  created_at timestamptz(3) not null default now()
);
create index tenant_domain_tenant on tenant_domain (tenant_id, domain);
call wall_off('tenant_domain');

-- Asked before any tenant is known, hence not under the tenant's policy.
create function domain_directory()
returns table (domain text, tenant_id text)
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select d.domain, d.tenant_id from public.tenant_domain d;
end;

create trigger notify_tenant after insert or update or delete on tenant_domain
  for each statement execute function notify_tenant();

grant select, insert, update, delete on tenant_domain to rhyzome_operator;
grant execute on function domain_directory() to rhyzome_app, rhyzome_operator;
