-- The sweep at the identity provider: accounts, groups and programs that Rhyzome made there and that are nobody's any more.

alter table installation
  -- When all that stands at the identity provider was compared last.
  add column accounts_listed_at timestamptz(3),
  -- An administrator wants it compared sooner than its turn comes.
  add column accounts_wanted_at timestamptz(3);
grant update (accounts_listed_at, accounts_wanted_at) on installation to rhyzome_operator;

-- The last look at each place (a realm, an organization) of this installation at the identity provider.
create table login_inventory (
  -- As the place says; there need be no such tenant.
  tenant_id text not null,
  mode text not null check (mode in ('realm', 'organization')),
  taken_at timestamptz(3) not null default clock_timestamp(),
  items int not null,
  primary key (tenant_id, mode)
);
call wall_off('login_inventory');

-- What stands there, made by this installation, and has no row. Seen without a gap, as in `orphan`.
create table account_orphan (
  tenant_id text not null,
  mode text not null check (mode in ('realm', 'organization')),
  kind text not null check (kind in ('realm', 'user', 'group', 'serviceaccount')),
  name text not null,
  first_seen_at timestamptz(3) not null default clock_timestamp(),
  last_seen_at timestamptz(3) not null default clock_timestamp(),
  looks int not null default 1,
  -- An administrator's word: neither the delay nor the share of a day holds it up.
  approved_at timestamptz(3),
  approved_by text,
  -- Its removal has begun.
  asked_at timestamptz(3),
  failure jsonb,
  primary key (tenant_id, mode, kind, name)
);
call wall_off('account_orphan');

-- What the sweep has removed there: the share of a day is counted from it.
create table account_removal (
  tenant_id text not null,
  mode text not null,
  kind text not null,
  name text not null,
  removed_at timestamptz(3) not null default clock_timestamp(),
  -- On whose word; null: by itself.
  approved_by text,
  primary key (tenant_id, mode, kind, name, removed_at)
);
create index account_removal_age on account_removal (removed_at);
call wall_off('account_removal');

grant select, insert, update, delete on login_inventory, account_orphan, account_removal to rhyzome_operator;
