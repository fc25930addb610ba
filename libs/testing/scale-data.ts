/**
 * Fills a migrated database with many tenants' resources (half networks, half instances, with tags, leases, jobs, events
 * and audit), by SQL and without triggers, but with the rows that the triggers would have written. `big` has a tenth of
 * all; `small` has 500; the rest is spread over tenants of very different sizes.
 */
import { createPool } from '#libs/db';

export interface ScaleSize {
  /** Resources in all. */
  total: number;
  /** Resources of the tenant `big`. */
  big: number;
  /** Resources of the tenant `small`. */
  small: number;
}

export const fullSize: ScaleSize = { total: 1_000_000, big: 100_000, small: 500 };
export const quickSize: ScaleSize = { total: 40_000, big: 20_000, small: 500 };

/** Rows that match the selective selectors, whatever the tenant's size. */
export const FEW = 20;

const tables = ['resource', 'resource_tag', 'network', 'instance', 'lease', 'dependency', 'job', 'event', 'audit'];

/** n counts within tenant and kind; `at` is spread over the same weeks for all, so that tenants' rows lie mixed. */
const seed = (size: ScaleSize) => `
insert into tenant (id, display_name) values ('big', 'Big'), ('small', 'Small'), ('empty', 'Empty') on conflict do nothing;
create temp table size_of as
  with rest as (select ${size.total - size.big - size.small}::bigint as rows)
  select 'big' as tenant_id, ${size.big}::bigint as rows
  union all select 'small', ${size.small}
  union all select 'l' || n, rows / 100 from rest, generate_series(1, 20) n
  union all select 'm' || n, rows / 1000 from rest, generate_series(1, 500) n
  union all select 's' || n, rows / 3000 from rest, generate_series(1, 900) n;
insert into tenant (id, display_name) select tenant_id, tenant_id from size_of on conflict do nothing;
create temp table seed as
  select tenant_id, n, kind, at, uuidv7(at - clock_timestamp()) as id,
    case when n % 50 = 7 then 'failed' else 'ready' end as state,
    case when kind = 'network' then 'net-' else 'vm-' end || n as name,
    jsonb_build_object('env', case n % 50 when 48 then 'dev' when 49 then 'test' else 'prod' end, 'tier', 't' || n % 100)
      || case when n % greatest(1, rows / 2 / ${FEW}) = 3 then '{"legacy": "yes"}' else '{"team": "core"}' end::jsonb as tags
  from size_of, lateral generate_series(0, rows / 2 - 1) n, (values ('network'), ('instance')) kinds (kind),
    lateral (select date_trunc('milliseconds', timestamptz '2026-01-01' + hashint8(n * 7919 + length(tenant_id)) % 1000000 * interval '1 second'
      + n * interval '3 milliseconds') as at) times
  order by at;
create index on seed (tenant_id, kind, n);
analyze seed;`;

const fill = `
insert into resource (tenant_id, id, kind, name, tags, state, generation, observed_generation, created_by, created_at, updated_at)
  select tenant_id, id, kind, name, tags, state, 1, 1, 'bench', at, at + (n * 31 % 5000) * interval '1 second' from seed order by at;
insert into network (tenant_id, id, resource_created_at, resource_name, subnet, gateway, mtu, address_total, address_used, address_hint, domain)
  select tenant_id, id, at, name, '10.0.0.0/16', '10.0.0.1', 1450, 65533, 50, '10.0.0.52', 'd' || n % 200 from seed where kind = 'network' order by at;
insert into instance (tenant_id, id, resource_created_at, resource_name, vcpus, memory_mib, desired_power_state, power_state, restart_policy)
  select tenant_id, id, at, name, 1 + n % 4, 64 * (1 + n % 8), 'running', case when n % 50 = 7 then 'stopped' else 'running' end, 'stay'
  from seed where kind = 'instance' order by at;
insert into lease (tenant_id, id, network_id, ip, mac, hostname, automatic, instance_id, ordinal, created_at)
  select i.tenant_id, uuidv7(i.at - clock_timestamp()), w.id, '10.0.0.2'::inet + (i.n % 50)::bigint,
    ('52:54:00:00:00:' || lpad(to_hex(i.n % 50), 2, '0'))::macaddr, i.name, true, i.id, 0, i.at
  from seed i join seed w on w.tenant_id = i.tenant_id and w.kind = 'network' and w.n = i.n / 50 where i.kind = 'instance' order by i.at;
insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
  select i.tenant_id, i.id, i.tenant_id, w.id, 'is attached to'
  from seed i join seed w on w.tenant_id = i.tenant_id and w.kind = 'network' and w.n = i.n / 50 where i.kind = 'instance';
insert into job (tenant_id, id, resource_id, kind, resource_name, action, state, created_by, created_at, started_at, finished_at)
  select tenant_id, uuidv7(at - clock_timestamp()), id, kind, name, case when tenant_id = 'big' then 'create' else (array['create', 'update', 'delete', 'start'])[1 + n % 4] end,
    case when state = 'failed' then 'failed' else 'succeeded' end,
    'bench', at, at, at from seed order by at;
insert into event (tenant_id, number, type, kind, resource_id, tags_after, body, at)
  select tenant_id, row_number() over (partition by tenant_id order by at, id), 'resource.created', kind, id, tags,
    jsonb_build_object('id', id, 'kind', kind, 'name', name), at from seed;
insert into event_counter (tenant_id, last) select tenant_id, count(*) from seed group by tenant_id;
insert into audit (tenant_id, id, at, actor, action, kind, resource_id, resource_name, result)
  select tenant_id, uuidv7(at - clock_timestamp()), at, 'bench', kind || '.create', kind, id, name, 'done' from seed order by at;`;

/** Loads; returns the seconds that it took. Indexes that no key needs are built afterwards, which is many times faster. */
export async function loadScale(connectionString: string, size: ScaleSize): Promise<number> {
  const started = performance.now();
  const pool = createPool({ connectionString }, null, { max: 1, statementTimeoutMs: 0 });
  try {
    await pool.query("set maintenance_work_mem = '512MB'; set work_mem = '256MB'; set synchronous_commit = off");
    await pool.query('set session_replication_role = replica');
    await pool.query(seed(size));
    const { rows: indexes } = await pool.query<{ name: string; definition: string }>(
      `select i.indexrelid::regclass as name, pg_get_indexdef(i.indexrelid) as definition from pg_index i
       where i.indrelid = any($1::regclass[]) and not exists (select 1 from pg_constraint c where c.conindid = i.indexrelid)`,
      [tables],
    );
    for (const { name } of indexes) await pool.query(`drop index ${name}`);
    await pool.query(fill);
    await pool.query(tagRows);
    for (const { definition } of indexes) await pool.query(definition);
    await pool.query('drop table seed, size_of');
    await pool.query(`vacuum (analyze) ${tables.join(', ')}`);
    await pool.query('analyze tenant');
    return (performance.now() - started) / 1000;
  } finally {
    await pool.end();
  }
}

/** What the trigger keep_tags would have written. */
const tagRows = `
insert into resource_tag (tenant_id, kind, key, value, resource_id, created_at, name)
  select r.tenant_id, r.kind, t.key, t.value, r.id, r.created_at, r.name from resource r, jsonb_each_text(r.tags) t`;
