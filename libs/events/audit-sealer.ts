/**
 * Seals audit rows in batches, each of which has the hash of the one before (ADR 0026). Whoever writes waits for nothing:
 * a batch takes rows of transactions that had all ended, in the order of their ids, and remembers up to where it looked.
 * One process does it at a time, in a transaction under an advisory lock; where it dies, nothing is sealed, and the next
 * goes on from the same row.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { hashOf, NO_HASH, rowsDigest, type TenantDigest } from './audit-chain.js';

const EVERY_MS = 5_000;
const ROWS = 2_000;

export interface SealerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface SealerOptions {
  everyMs?: number;
  /** Rows of a batch at most. */
  rows?: number;
}

/** What was sealed, to be kept elsewhere: `rhyzome audit verify --expect` takes the hash. */
export interface Sealed {
  batch: number;
  hash: string;
  rows: number;
  /** There is more to seal. */
  more: boolean;
}

/** Up to where batches have looked. */
interface Edge {
  era: number;
  /** Rows of earlier eras are not all in batches. */
  isAdopting: boolean;
  batch: number;
  hash: Buffer;
  xid: string;
  id: string;
  tenant: string;
}

/** What a batch is made of. */
interface Taken {
  digests: (TenantDigest & { ids: string[] })[];
  rowCount: number;
  xid: string;
  id: string;
  tenant: string;
}

const NOWHERE = { xid: '0', id: '00000000-0000-0000-0000-000000000000', tenant: '' };

export class AuditSealer {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private isStopping = false;
  private isEraKnown = false;

  constructor(
    private readonly db: Database,
    private readonly log: SealerLog,
    private readonly options: SealerOptions = {},
  ) {}

  start(): void {
    this.timer = setInterval(() => {
      this.running = this.running.then(() => this.round());
    }, this.options.everyMs ?? EVERY_MS);
  }

  /** Resolves when what is under way has ended. */
  async stop(): Promise<void> {
    this.isStopping = true;
    clearInterval(this.timer);
    await this.running;
  }

  private async round(): Promise<void> {
    try {
      for (let sealed = await this.seal(); sealed?.more && !this.isStopping; ) sealed = await this.seal();
    } catch (error) {
      const isAway = error instanceof RhyzomeError && error.code === 'database_unavailable';
      if (!isAway) this.log.warn({ err: error }, 'sealing audit rows failed; it is tried again');
      this.isEraKnown = false; // another server may answer when it is back
    }
  }

  /** One batch; undefined where there is nothing to seal or another process is at it. */
  async seal(): Promise<Sealed | undefined> {
    const sealed = await this.db.operatorTransaction(async (tx) => {
      const got = await sql<{ ok: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended('rhyzome.audit_sealer', 0)) as ok, ${alongTheIndex}`.execute(
        tx,
      );
      if (!got.rows[0]?.ok) return undefined;
      await this.lookAtEra(tx);
      return sealBatch(tx, this.options.rows ?? ROWS);
    });
    this.isEraKnown = true;
    if (sealed) this.log.info({ batch: sealed.batch, hash: sealed.hash, rows: sealed.rows }, 'sealed audit rows');
    return sealed;
  }

  private async lookAtEra(tx: Tx): Promise<void> {
    if (this.isEraKnown) return;
    const { rows } = await sql<{ isNew: boolean }>`select open_audit_era() as "isNew"`.execute(tx);
    if (rows[0]?.isNew)
      this.log.warn({}, 'the database is on another server than before: another era of the audit begins');
  }
}

async function sealBatch(tx: Tx, limit: number): Promise<Sealed | undefined> {
  const edge = await edgeOf(tx);
  const taken = await take(tx, edge, limit);
  if (!taken) {
    if (!edge.isAdopting) return undefined;
    await sql`update audit_era set adopted_at = clock_timestamp() where era = ${edge.era}`.execute(tx);
    return sealBatch(tx, limit);
  }
  const { rows: clock } = await sql<{ at: Date }>`select clock_timestamp()::timestamptz(3) as at`.execute(tx);
  const batch = {
    batch: edge.batch + 1,
    era: edge.era,
    sealedAt: clock[0]!.at,
    rowCount: taken.rowCount,
    previous: edge.hash,
  };
  const hash = hashOf(batch, taken.digests);
  // Rows of earlier eras say nothing of where this one has come to.
  const upto = edge.isAdopting ? edge : taken;
  await sql`insert into audit_seal (batch, era, upto_xid, upto_id, upto_tenant, row_count, previous, hash, sealed_at)
    values (${batch.batch}, ${batch.era}, ${upto.xid}::xid8, ${upto.id}, ${upto.tenant}, ${batch.rowCount},
      ${batch.previous}, ${hash}, ${batch.sealedAt})`.execute(tx);
  for (const { tenantId, ids, digest } of taken.digests) {
    await sql`insert into audit_digest (tenant_id, batch, ids, digest)
      values (${tenantId}, ${batch.batch}, ${ids}::uuid[], ${digest})`.execute(tx);
  }
  return { batch: batch.batch, hash: hash.toString('hex'), rows: batch.rowCount, more: taken.rowCount === limit };
}

async function edgeOf(tx: Tx): Promise<Edge> {
  const { rows } = await sql<Omit<Edge, 'batch' | 'hash'> & { batch: number | null; hash: Buffer | null }>`
    select e.era, e.adopted_at is null as "isAdopting", s.batch, s.hash,
      case when s.era = e.era then s.upto_xid::text else ${NOWHERE.xid} end as xid,
      case when s.era = e.era then s.upto_id else ${NOWHERE.id}::uuid end as id,
      case when s.era = e.era then s.upto_tenant else ${NOWHERE.tenant} end as tenant
    from (select era, adopted_at from audit_era order by era desc limit 1) e
    left join (select batch, era, hash, upto_xid, upto_id, upto_tenant from audit_seal order by batch desc limit 1) s
      on true`.execute(tx);
  const { batch, hash, ...edge } = rows[0]!;
  return { ...edge, batch: batch ?? 0, hash: hash ?? NO_HASH };
}

/** Where one transaction wrote very many rows, the planner takes all of them for fresh and would read the table. */
export const alongTheIndex = sql`set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`;

export type FreshFrom = Pick<Edge, 'era' | 'xid' | 'id' | 'tenant'>;

/** The next rows, before which none can come any more. */
export const freshRows = (edge: FreshFrom, limit: number) => sql`
  select * from audit where era = ${edge.era} and (xid, id) >= (${edge.xid}::xid8, ${edge.id}::uuid)
    and (xid, id, tenant_id) > (${edge.xid}::xid8, ${edge.id}::uuid, ${edge.tenant}::text)
    and xid < pg_snapshot_xmin(pg_current_snapshot())
  order by era, xid, id, tenant_id limit ${limit}`;

/** Of earlier eras: written on the former server after its last batch, or here before this era began. */
const strayRows = (edge: Edge, limit: number) => sql`
  select a.* from audit a left join (select tenant_id, unnest(ids) as id from audit_digest) s using (tenant_id, id)
  where a.era < ${edge.era} and s.id is null order by a.xid, a.id, a.tenant_id limit ${limit}`;

async function take(tx: Tx, edge: Edge, limit: number): Promise<Taken | undefined> {
  const rows = edge.isAdopting ? strayRows(edge, limit) : freshRows(edge, limit);
  const found = await sql<Taken['digests'][number] & { last: [string, string, string] }>`
    with taken as materialized (${rows})
    select a.tenant_id as "tenantId", array_agg(a.id order by a.id) as ids, count(*)::int as count, ${rowsDigest} as digest,
      (select array[xid::text, id::text, tenant_id] from taken order by xid desc, id desc, tenant_id desc limit 1) as last
    from taken a group by a.tenant_id`.execute(tx);
  const [first] = found.rows;
  if (!first) return undefined;
  const [xid, id, tenant] = first.last;
  return {
    digests: found.rows.map(({ tenantId, ids, count, digest }) => ({ tenantId, ids, count, digest })),
    rowCount: found.rows.reduce((sum, { count }) => sum + count, 0),
    xid,
    id,
    tenant,
  };
}
