-- Kind serviceaccount: a program of the tenant.

create table serviceaccount (
  tenant_id text not null,
  id uuid not null,
  description text,
  -- A JSON Web Key Set of public keys (RFC 7517): then it can log in at the identity provider, too.
  public_keys jsonb,
  enabled boolean not null default true,
  -- At the identity provider.
  client_id text,
  subject text,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade
);
call wall_off('serviceaccount');
call count_in_quota('serviceaccount', 'serviceaccounts');

grant select, insert, update, delete on serviceaccount to rhyzome_app, rhyzome_operator;
