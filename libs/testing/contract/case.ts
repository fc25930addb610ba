/** One case of the contract suite: a tenant of its own, and what is asked about its rows. */
import { sql } from 'kysely';
import { expect } from 'vitest';
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import type { Caller, ChangeResult, JobView, KindDefinition } from '#libs/resources';
import { quotaNames, setQuotas } from '#libs/tenants';
import { callerIn, type Platform } from '../platform.js';
import type { ChangeableKind, ContractContext } from './fixture.js';

/** Brings a change's job to its end; the crash suites do so with workers of their own. */
export type Finish = (caller: Caller, change: ChangeResult) => Promise<JobView>;

/** A new tenant with all that the kind's create refers to. */
export async function openCase(
  platform: Platform,
  kind: KindDefinition,
  fixture: ChangeableKind,
  finish: Finish = (caller, change) => platform.ended(caller, change.jobId!),
): Promise<ContractContext> {
  const tenant = await platform.tenant();
  const { tenantId } = tenant.actor;
  await limitAll(platform, tenantId);
  const caller = kind.administered ? { ...tenant, actor: adminActor(tenantId, 'admin:test') } : tenant;
  const ctx: ContractContext = {
    platform,
    kind,
    caller,
    unique: () => `c-${newId().replaceAll('-', '').slice(-12)}`,
    make: async (kindName, body) => {
      const change = await platform.pipeline.create(caller, platform.registry.get(kindName), body);
      const job = await finish(caller, change);
      if (job.state !== 'succeeded') throw new Error(`${kindName} ${job.state}: ${JSON.stringify(job.error)}`);
      return change.body.id;
    },
  };
  await fixture.prepare?.(ctx);
  return ctx;
}

export interface Change {
  name: string;
  ask(): Promise<ChangeResult>;
}

/** Every change of a resource that is there, in turn: its update, its actions, what else is given, and its removal. */
export function changesIn(
  { platform: { pipeline }, caller, kind }: ContractContext,
  { patch, actions }: ChangeableKind,
  id: () => string,
  more: ChangeableKind['more'] = [],
): Change[] {
  const changes = [['update', patch] as const, ...Object.entries(actions ?? {}), ...more];
  return [
    ...changes.map(([name, body]) => ({
      name,
      ask: () =>
        name === 'update' ? pipeline.update(caller, kind, id(), body) : pipeline.act(caller, kind, id(), name, body),
    })),
    { name: 'remove', ask: () => pipeline.remove(caller, kind, id()) },
  ];
}

/** Limits that nothing reaches, on all that there is to limit: so the books are kept, and can be wrong. */
async function limitAll(platform: Platform, tenantId: string): Promise<void> {
  await platform.db.operatorTransaction(async (tx) => {
    const limits = (await quotaNames(tx)).map((name) => [name, 1_000_000_000] as const);
    await setQuotas(tx, tenantId, Object.fromEntries(limits));
  });
}

/** The tables with tenant data, from the catalogue. */
export async function tenantTables(platform: Platform): Promise<string[]> {
  const result = await sql<{ name: string }>`
    select table_name as name from information_schema.columns
    where table_schema = 'public' and column_name = 'tenant_id' order by 1`.execute(platform.db.operator);
  return result.rows.map(({ name }) => name);
}

/** Rows a table, in one tenant or (without one) in all. */
export async function rowCounts(platform: Platform, tenantId?: string): Promise<Record<string, number>> {
  const tables = await tenantTables(platform);
  const counts = tables.map((table) => {
    const where = tenantId === undefined ? sql`` : sql`where tenant_id = ${tenantId}`;
    return sql`select ${table}::text as name, count(*)::int as n from ${sql.table(table)} ${where}`;
  });
  const result = await sql<{ name: string; n: number }>`${sql.join(counts, sql` union all `)}`.execute(
    platform.db.operator,
  );
  return Object.fromEntries(result.rows.map(({ name, n }) => [name, n]));
}

/** What is kept after a resource has gone. */
const histories = [
  'audit',
  'disk_tombstone',
  'event',
  'event_counter',
  'idempotency',
  'job',
  'job_step',
  'subject',
  'tenant_access',
];

/** Rows of what is there now: everything but histories. */
export async function present(ctx: ContractContext): Promise<Record<string, number>> {
  const counts = await rowCounts(ctx.platform, ctx.caller.actor.tenantId);
  return Object.fromEntries(Object.entries(counts).filter(([table]) => !histories.includes(table)));
}

/** Waits until the tenant's rows are as they were; nodes report what has left a moment later. */
export async function expectAsBefore(ctx: ContractContext, before: Record<string, number>): Promise<void> {
  await expect
    .poll(() => ctx.platform.node.look().then(() => present(ctx)), { timeout: 5_000, interval: 20 })
    .toEqual(before);
}

/** What must hold of every tenant's rows whenever nothing is under way. */
const broken: Record<string, string> = {
  'a job of nothing that has not ended': `select id from job where tenant_id = $1 and finished_at is null`,
  'a lease on an ended job': `select id from job where tenant_id = $1 and finished_at is not null and lease_owner is not null`,
  'a state that only a job under way has': `select id, state from resource
    where tenant_id = $1 and state not in ('ready', 'failed')`,
  'ready but behind': `select id, generation, observed_generation from resource
    where tenant_id = $1 and state = 'ready' and observed_generation <> generation`,
  'a reservation of nothing': `select resource_id from reservation v where tenant_id = $1
    and not exists (select 1 from resource r where r.tenant_id = v.tenant_id and r.id = v.resource_id)
    and not exists (select 1 from deleted_disk x where x.tenant_id = v.tenant_id and x.id = v.resource_id)`,
  'wanted on a node without a resource': `select resource_id from placement p where tenant_id = $1 and present
    and not exists (select 1 from resource r where r.tenant_id = p.tenant_id and r.id = p.resource_id)
    and not exists (select 1 from deleted_disk x where x.tenant_id = p.tenant_id and x.id = p.resource_id)`,
  'a deed of nothing': `select id from deed d where tenant_id = $1
    and not exists (select 1 from resource r where r.tenant_id = d.tenant_id and r.id = d.resource_id)`,
  'a quota that is not what is used': `select * from quota_drift where tenant_id = $1`,
  'tags that differ from their rows': `select r.id from resource r where tenant_id = $1 and r.tags is distinct from
    (select coalesce(jsonb_object_agg(t.key, t.value), '{}') from resource_tag t
     where t.tenant_id = r.tenant_id and t.resource_id = r.id)`,
};

/** Asserts what must hold of the tenant's rows, the kind's own promises too, and that events are numbered densely. */
export async function expectWhole(ctx: ContractContext, fixture: ChangeableKind): Promise<void> {
  const { tenantId } = ctx.caller.actor;
  for (const [what, question] of Object.entries({ ...broken, ...fixture.broken })) {
    const result = await sql`${sql.raw(question.replaceAll('$1', `'${tenantId}'`))}`.execute(ctx.platform.db.operator);
    expect(result.rows, what).toEqual([]);
  }
  await expect.poll(() => numbering(ctx), { timeout: 5_000, interval: 20 }).toMatchObject({ unnumbered: 0 });
  const numbers = await numbering(ctx);
  expect(numbers, 'numbers without gaps').toMatchObject({ highest: numbers.count, last: numbers.count, twice: 0 });
}

async function numbering(ctx: ContractContext) {
  const result = await sql<{ count: number; highest: number; last: number; unnumbered: number; twice: number }>`
    select count(e.number)::int as count, coalesce(max(e.number), 0)::int as highest,
      count(*) filter (where e.number is null)::int as unnumbered,
      (count(e.number) - count(distinct e.number))::int as twice,
      coalesce((select last from event_counter k where k.tenant_id = ${ctx.caller.actor.tenantId}), 0)::int as last
    from event e where e.tenant_id = ${ctx.caller.actor.tenantId}`.execute(ctx.platform.db.operator);
  return result.rows[0]!;
}

/** Somebody else in a tenant, or the same tenant's viewer. */
export { callerIn };
