-- Quotas: how much of a countable thing (instances, vcpus, diskGiB, addresses …) a tenant may have. A table that uses some
-- says so with a call of count_in_quota, in the migration that makes it.
--
-- Charges are made by deferred triggers, so at the end of the transaction that changes the table and after all other locks:
-- creates run beside each other until they commit, and who waits for a quota's row holds nothing that its holder needs.
-- What a transaction takes and gives back is checked as a whole: what only moves from one table to another is not refused.

-- A row only where an administrator has set a limit: without one, nothing is written or locked.
create table quota (
  tenant_id text not null references tenant (id) on delete cascade,
  name text not null,
  max bigint not null check (max >= 0),
  used bigint not null,
  -- What was used before the transaction that changed it last, and which one that was.
  used_before bigint,
  changed_by xid8,
  primary key (tenant_id, name)
);
call wall_off('quota');

-- What tenants get when they are made.
create table quota_default (
  name text primary key,
  max bigint not null check (max >= 0)
);

-- What there is to limit, and where it is used: so much of `name` by each row of `tab`.
create table quota_source (
  name text not null check (name ~ '^[a-z][A-Za-z0-9]{0,62}$'),
  tab regclass not null,
  -- SQL over `it`, a row of the table.
  amount text not null,
  primary key (name, tab)
);

-- What a tenant uses, by its rows. Only true where no charge is under way.
create function measure_quota(p_tenant text, p_name text) returns bigint language plpgsql stable as $$
declare source quota_source; part bigint; total bigint := 0;
begin
  for source in select * from quota_source where name = p_name loop
    execute format('select coalesce(sum(%s), 0)::bigint from %s it where it.tenant_id = $1', source.amount, source.tab)
      into part using p_tenant;
    total := total + part;
  end loop;
  return total;
end $$;

-- Adds to what a tenant uses. The shared lock keeps a limit from being set between a charge and its commit. All of the
-- tenant's rows are locked, in one order, so that two that charge the same quotas in different orders do not wait for each
-- other.
create function charge(p_tenant text, p_name text, p_delta bigint) returns void language plpgsql as $$
begin
  if p_delta = 0 then return; end if;
  perform pg_advisory_xact_lock_shared(hashtextextended('rhyzome.quota.' || p_tenant, 0));
  perform 1 from quota where tenant_id = p_tenant order by name for no key update;
  if not found then return; end if;
  update quota set used = used + p_delta, changed_by = pg_current_xact_id(),
    used_before = case when changed_by = pg_current_xact_id() then used_before else used end
  where tenant_id = p_tenant and name = p_name;
end $$;

-- After all charges of the transaction: refuses with SQLSTATE RZ001 and the numbers as detail. Giving back is never
-- refused, also where the limit was set below what is used.
create function refuse_over_quota() returns trigger language plpgsql as $$
declare q quota;
begin
  select * into q from quota where tenant_id = new.tenant_id and name = new.name;
  if q.changed_by = pg_current_xact_id() and q.used > q.max and q.used > q.used_before then
    raise exception 'quota_exceeded' using errcode = 'RZ001', detail = jsonb_build_object('quota', q.name, 'max', q.max,
      'used', q.used_before, 'asked', q.used - q.used_before, 'left', greatest(q.max - q.used_before, 0))::text;
  end if;
  return null;
end $$;
create constraint trigger refuse_over_quota after update of used on quota deferrable initially deferred
  for each row when (new.used > old.used) execute function refuse_over_quota();

-- Makes the rows of a table count: each uses so much of `name`, by default one. The amount is SQL over `it`, the row, never
-- negative, e.g. 'it.size_gib'. What an update may still have to give back counts with it: the larger of old and new.
create procedure count_in_quota(p_tab regclass, p_name text, p_amount text default '1') language plpgsql as $$
declare charger text; charges text; columns text;
begin
  insert into quota_source (name, tab, amount) values (p_name, p_tab, p_amount);
  select format('charge_%s', relname) into charger from pg_class where oid = p_tab;
  select string_agg(format(E'  perform charge(coalesce(new.tenant_id, old.tenant_id), %L,\n    %s - %s);', name,
      format('case when tg_op = ''DELETE'' then 0 else (%s)::bigint end', regexp_replace(amount, '\mit\.', 'new.', 'g')),
      format('case when tg_op = ''INSERT'' then 0 else (%s)::bigint end', regexp_replace(amount, '\mit\.', 'old.', 'g'))),
    E'\n' order by name)
  into charges from quota_source where tab = p_tab;
  select string_agg(distinct column_name[1], ', ' order by column_name[1]) into columns
  from quota_source, regexp_matches(amount, '\mit\.([a-z_0-9]+)', 'g') column_name where tab = p_tab;
  execute format(E'create or replace function %I() returns trigger language plpgsql as $body$\nbegin\n%s\n  return null;\nend $body$',
    charger, charges);
  execute format('drop trigger if exists charge_quota on %s', p_tab);
  execute format('create constraint trigger charge_quota after insert or delete%s on %s deferrable initially deferred
    for each row execute function %I()', ' or update of ' || columns, p_tab, charger);
end $$;

-- Sets or changes a limit, also below what is used: then nothing more can be had until enough is given back. Waits for the
-- commits under way and lets none begin meanwhile, so that what is measured is what is used.
create procedure set_quota(p_tenant text, p_name text, p_max bigint) language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('rhyzome.quota.' || p_tenant, 0));
  insert into quota (tenant_id, name, max, used) values (p_tenant, p_name, p_max, measure_quota(p_tenant, p_name))
  on conflict (tenant_id, name) do update set max = excluded.max, used = excluded.used, changed_by = null;
end $$;

create function give_default_quotas() returns trigger language plpgsql as $$
begin
  insert into quota (tenant_id, name, max, used) select new.id, name, max, 0 from quota_default;
  return null;
end $$;
create trigger give_default_quotas after insert on tenant for each row execute function give_default_quotas();

-- Where the books are wrong; empty, always, while nothing is under way.
create view quota_drift with (security_invoker = true) as
select tenant_id, name, used, measure_quota(tenant_id, name) as measured from quota
where used <> measure_quota(tenant_id, name);

grant select, update (used, used_before, changed_by) on quota to rhyzome_app;
grant select, insert, update, delete on quota, quota_default to rhyzome_operator;
grant select on quota_source, quota_drift to rhyzome_app, rhyzome_operator;

call count_in_quota('network', 'networks');
call count_in_quota('lease', 'addresses');
call count_in_quota('image', 'images');
call count_in_quota('instance', 'instances');
call count_in_quota('instance', 'vcpus', 'greatest(it.vcpus, it.held_vcpus)');
call count_in_quota('instance', 'memoryMiB', 'greatest(it.memory_mib, it.held_memory_mib)');
call count_in_quota('snapshot', 'snapshots');
-- What can be had back still takes its room.
call count_in_quota('disk', 'disks');
call count_in_quota('disk', 'diskGiB', 'it.size_gib');
call count_in_quota('deleted_disk', 'disks');
call count_in_quota('deleted_disk', 'diskGiB', 'it.size_gib');
