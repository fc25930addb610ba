-- The audit trail as something that can be proved (ADR 0026): rows that servers can only add, sealed in batches whose
-- hashes are chained; and the operators' table of requests that nobody could be held to.

-- Who wrote a row's transaction: rows of transactions that have all ended are sealed together, so that sealing makes no
-- writer wait. Transaction ids go back when the database is restored into another server; what is written from then on is
-- of another era (a constant default, which open_audit_era() changes).
alter table audit
  add column era smallint not null default 1,
  add column xid xid8 not null default pg_current_xact_id();
create index audit_order on audit (era, xid, id);

-- The servers can neither say when a row was written nor by which transaction.
revoke insert on audit from rhyzome_app, rhyzome_operator;
grant insert (tenant_id, id, actor, action, kind, resource_id, resource_name, result, code, request_id, source, details)
  on audit to rhyzome_app, rhyzome_operator;

create table audit_era (
  era smallint primary key,
  -- Of the server that gives the transaction ids (pg_control_system()).
  system_identifier bigint not null,
  started_at timestamptz(3) not null default clock_timestamp(),
  -- When all rows of earlier eras were sealed; null: some may not be.
  adopted_at timestamptz(3)
);
insert into audit_era (era, system_identifier, adopted_at) select 1, system_identifier, clock_timestamp() from pg_control_system();

create table audit_seal (
  batch bigint primary key check (batch > 0),
  era smallint not null references audit_era (era),
  -- The last row that was looked at, in the order of (xid, id, tenant_id).
  upto_xid xid8 not null,
  upto_id uuid not null,
  upto_tenant text not null,
  row_count int not null,
  previous bytea not null,
  -- SHA-256 over the previous hash, this batch's number and times, and the tenants' digests; libs/events/audit-chain.ts.
  hash bytea not null,
  sealed_at timestamptz(3) not null
);

-- Which rows of a tenant a batch has, and the digest over them.
create table audit_digest (
  tenant_id text not null,
  batch bigint not null references audit_seal (batch) deferrable initially deferred,
  ids uuid[] not null,
  digest bytea not null,
  primary key (tenant_id, batch)
);
create index audit_digest_batch on audit_digest (batch);
call wall_off('audit_digest');

-- What the owner took away, and the hash that the chain goes on from.
create table audit_pruning (
  upto_batch bigint primary key,
  hash bytea not null,
  before timestamptz(3) not null,
  row_count bigint not null,
  actor text not null,
  at timestamptz(3) not null default clock_timestamp()
);

grant select, insert on audit_seal, audit_digest to rhyzome_operator;
grant select on audit_era, audit_pruning to rhyzome_operator;
grant update (adopted_at) on audit_era to rhyzome_operator;

-- Begins another era where transaction ids may have gone back: on another server than before, or where a sealed id is yet
-- to come. Says whether it did. Waits for all who write audit rows, for a moment, once.
create function open_audit_era() returns boolean language plpgsql security definer set search_path = public, pg_temp as $$
declare
  here bigint := (select system_identifier from pg_control_system());
  last audit_era;
begin
  select * into last from audit_era order by era desc limit 1;
  if last.system_identifier = here and not exists (
    select from audit_seal where era = last.era and upto_xid >= pg_snapshot_xmax(pg_current_snapshot())
  ) then return false; end if;
  lock table audit in access exclusive mode;
  if exists (select from audit_era where era > last.era) then return false; end if;
  insert into audit_era (era, system_identifier) values (last.era + 1, here);
  execute format('alter table audit alter column era set default %s', last.era + 1);
  return true;
end $$;
revoke execute on function open_audit_era() from public;
grant execute on function open_audit_era() to rhyzome_operator;

-- Requests without a valid token, counted per day, reason, address and claimed issuer: the operators', not a tenant's,
-- since nobody knows whose they were. Bounded, so that a flood cannot fill the disk.
create table audit_unauthenticated (
  day date not null,
  reason text not null check (length(reason) <= 64),
  -- Address; empty: of many addresses, past the day's bound.
  source text not null check (length(source) <= 64),
  -- As the token or certificate claims.
  issuer text not null check (length(issuer) <= 255),
  -- Of the last one.
  method text not null check (length(method) <= 64),
  path text not null check (length(path) <= 255),
  request_id text not null check (length(request_id) <= 128),
  first_at timestamptz(3) not null,
  last_at timestamptz(3) not null,
  count bigint not null,
  primary key (day, reason, source, issuer)
);
grant select on audit_unauthenticated to rhyzome_operator;

-- Adds what a server has counted since it last did. Past `most` rows a day, what is new goes into the row of its reason
-- that names no address; what is older than `keep_days` goes.
create function tell_unauthenticated(entries jsonb, most int default 5000, keep_days int default 90)
returns void language plpgsql security definer set search_path = public, pg_temp as $$
declare
  today date := (now() at time zone 'UTC')::date;
  is_full boolean;
begin
  delete from audit_unauthenticated where day < today - keep_days;
  select count(*) >= most into is_full from audit_unauthenticated where day = today;
  insert into audit_unauthenticated as u (day, reason, source, issuer, method, path, request_id, first_at, last_at, count)
  select distinct on (reason, where_from, claimed) today, reason, where_from, claimed, method, path, request_id,
    min(least(first_at, now())) over same, max(least(last_at, now())) over same, sum(least(count, 1000000000)) over same
  from (
    select e.*, case when kept then e.source else '' end as where_from, case when kept then e.issuer else '' end as claimed
    from (select left(reason, 64) as reason, left(source, 64) as source, left(issuer, 255) as issuer, left(method, 64) as method,
        left(path, 255) as path, left(request_id, 128) as request_id, first_at, last_at, greatest(count, 1) as count
      from jsonb_to_recordset(entries)
        as e (reason text, source text, issuer text, method text, path text, request_id text, first_at timestamptz, last_at timestamptz, count bigint)
      limit 1000) e,
    lateral (select not is_full or exists (select from audit_unauthenticated k where k.day = today and k.reason = e.reason
      and k.source = e.source and k.issuer = e.issuer) as kept) k
  ) told
  window same as (partition by reason, where_from, claimed)
  order by reason, where_from, claimed, last_at desc
  on conflict (day, reason, source, issuer) do update set method = excluded.method, path = excluded.path,
    request_id = excluded.request_id, last_at = greatest(u.last_at, excluded.last_at), count = u.count + excluded.count;
end $$;
revoke execute on function tell_unauthenticated(jsonb, int, int) from public;
grant execute on function tell_unauthenticated(jsonb, int, int) to rhyzome_app, rhyzome_operator;

-- Streams of services end when what they may do changes.
create trigger notify_service after insert or update or delete on service for each statement execute function notify_tenant();
