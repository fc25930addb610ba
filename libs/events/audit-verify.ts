/**
 * Looks whether the audit rows are still those that were sealed (ADR 0026): follows the chain from its beginning, or from
 * where it was pruned to, and makes each batch's digests again from the rows. Reads one snapshot, page by page.
 */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import { hashOf, NO_HASH, rowsDigest } from './audit-chain.js';

const PAGE = 200;
/** Ids that are named of one finding. */
const NAMED = 10;
/** Findings that are told one by one. */
const MAX_FINDINGS = 1_000;

export interface Finding {
  /**
   * removed, changed, added: rows of a tenant; of what is removed or added the ids are known, of what is changed the batch.
   * broken: the record of a batch is gone or not as it was written.
   */
  what: 'removed' | 'changed' | 'added' | 'broken';
  batch?: number;
  tenantId?: string;
  rows?: number;
  /** Some of them. */
  ids?: string[];
}

export interface Verification {
  batches: number;
  rows: number;
  /** Rows that no batch has yet; those of the last seconds. */
  unsealed: number;
  /** Hash of the last batch (hex), to be kept elsewhere; null where there is none. */
  head: { batch: number; hash: string; sealedAt: string } | null;
  /** Whether the hash that was asked for stands in the chain; where none was, undefined. */
  isExpectedFound?: boolean;
  findings: Finding[];
  /** More were found than are told. */
  isCut: boolean;
}

interface SealRow {
  batch: number;
  era: number;
  sealed_at: Date;
  row_count: number;
  previous: Buffer;
  hash: Buffer;
}

interface DigestRow {
  batch: number;
  tenant_id: string;
  count: number;
  digest: Buffer;
  found: number;
  again: Buffer | null;
  missing: string[] | null;
}

export interface VerifyOptions {
  /** Only this tenant's rows are made digests of; the chain is followed all the same. */
  tenantId?: string;
  /** A hash that the chain must have (hex): an earlier head that was kept elsewhere. */
  expect?: string;
}

/** In a transaction that spans tenants and shows one snapshot (repeatable read). */
export async function verifyAudit(tx: Tx, options: VerifyOptions = {}): Promise<Verification> {
  const verifier = new Verifier(tx, options);
  return verifier.run();
}

class Verifier {
  private readonly findings: Finding[] = [];
  private isCut = false;
  private batches = 0;
  private rows = 0;
  private isExpectedFound = false;

  constructor(
    private readonly tx: Tx,
    private readonly options: VerifyOptions,
  ) {}

  async run(): Promise<Verification> {
    const { expect } = this.options;
    let last = await this.beginning();
    let sealedAt: Date | undefined;
    if (expect === last.hash.toString('hex')) this.isExpectedFound = true;
    for (let page = await this.seals(last.batch); page.length > 0; page = await this.seals(last.batch)) {
      const digests = await this.digests(page[0]!.batch, page.at(-1)!.batch);
      for (const seal of page) {
        this.follow(seal, last, digests.get(seal.batch) ?? []);
        last = seal;
        sealedAt = seal.sealed_at;
      }
    }
    await this.findOrphans();
    await this.findAdded();
    return {
      batches: this.batches,
      rows: this.rows,
      unsealed: await this.countUnsealed(),
      head:
        last.batch === 0
          ? null
          : {
              batch: last.batch,
              hash: last.hash.toString('hex'),
              sealedAt: (sealedAt ?? last.sealed_at!).toISOString(),
            },
      ...(expect !== undefined && { isExpectedFound: this.isExpectedFound }),
      findings: this.findings,
      isCut: this.isCut,
    };
  }

  /** Where the chain begins: at nothing, or at the last batch that was pruned. */
  private async beginning(): Promise<{ batch: number; hash: Buffer; sealed_at?: Date }> {
    const { rows } = await sql<{ batch: number; hash: Buffer; sealed: Buffer | null; sealed_at: Date | null }>`
      select p.upto_batch as batch, p.hash, s.hash as sealed, s.sealed_at from audit_pruning p
      left join audit_seal s on s.batch = p.upto_batch order by p.upto_batch desc limit 1`.execute(this.tx);
    const pruned = rows[0];
    if (!pruned) return { batch: 0, hash: NO_HASH };
    if (!pruned.sealed?.equals(pruned.hash)) this.tell({ what: 'broken', batch: pruned.batch });
    return { batch: pruned.batch, hash: pruned.hash, sealed_at: pruned.sealed_at ?? new Date(0) };
  }

  private async seals(after: number): Promise<SealRow[]> {
    const { rows } = await sql<SealRow>`select batch, era, sealed_at, row_count, previous, hash from audit_seal
      where batch > ${after} order by batch limit ${PAGE}`.execute(this.tx);
    return rows;
  }

  /** What stands in the record of each tenant's part, and what its rows come to now. */
  private async digests(from: number, to: number): Promise<Map<number, DigestRow[]>> {
    const { rows } = await sql<DigestRow>`
      select d.batch, d.tenant_id, cardinality(d.ids) as count, d.digest, now.found, now.again, now.missing
      from audit_digest d left join lateral (
        select count(a.id)::int as found, ${rowsDigest} as again,
          array_agg(i.id) filter (where a.id is null) as missing
        from unnest(d.ids) as i (id) left join audit a on a.tenant_id = d.tenant_id and a.id = i.id
      ) now on ${this.options.tenantId ?? null}::text is null or d.tenant_id = ${this.options.tenantId ?? null}
      where d.batch between ${from} and ${to}`.execute(this.tx);
    const byBatch = new Map<number, DigestRow[]>();
    for (const row of rows) byBatch.set(row.batch, [...(byBatch.get(row.batch) ?? []), row]);
    return byBatch;
  }

  private follow(seal: SealRow, last: { batch: number; hash: Buffer }, digests: DigestRow[]): void {
    this.batches += 1;
    this.rows += seal.row_count;
    for (let gone = last.batch + 1; gone < seal.batch && !this.isCut; gone++)
      this.tell({ what: 'broken', batch: gone });
    const hash = hashOf(
      { ...seal, sealedAt: seal.sealed_at, rowCount: seal.row_count },
      digests.map(({ tenant_id, count, digest }) => ({ tenantId: tenant_id, count, digest })),
    );
    const isWhole = hash.equals(seal.hash) && (seal.batch !== last.batch + 1 || seal.previous.equals(last.hash));
    if (!isWhole) this.tell({ what: 'broken', batch: seal.batch });
    if (this.options.expect === seal.hash.toString('hex') && isWhole) this.isExpectedFound = true;
    for (const row of digests) {
      const { batch, tenant_id: tenantId, missing } = row;
      if (row.found === null) continue; // of a tenant that was not asked for
      if (missing) {
        this.tell({ what: 'removed', batch, tenantId, rows: missing.length, ids: missing.slice(0, NAMED) });
      } else if (!row.again?.equals(row.digest)) {
        this.tell({ what: 'changed', batch, tenantId });
      }
    }
  }

  /** Records of tenants' parts of batches that are gone at the end of the chain. */
  private async findOrphans(): Promise<void> {
    const { rows } = await sql<{ batch: number }>`
      select distinct batch from audit_digest d where not exists (select from audit_seal s where s.batch = d.batch)
      order by batch limit ${NAMED}`.execute(this.tx);
    for (const { batch } of rows) this.tell({ what: 'broken', batch });
  }

  /** Rows that pretend to have been there when their batch was sealed. */
  private async findAdded(): Promise<void> {
    const only = this.options.tenantId === undefined ? sql`true` : sql`a.tenant_id = ${this.options.tenantId}`;
    const { rows } = await sql<{ tenant_id: string; rows: number; ids: string[] }>`
      ${lastSeal}
      select a.tenant_id, count(*)::int as rows, (array_agg(a.id order by a.id))[1:${sql.lit(NAMED)}] as ids
      from audit a join last on ${isPassed}
      left join (select tenant_id, unnest(ids) as id from audit_digest) s on s.tenant_id = a.tenant_id and s.id = a.id
      where s.id is null and ${only} group by a.tenant_id order by a.tenant_id`.execute(this.tx);
    for (const { tenant_id: tenantId, rows: count, ids } of rows) {
      this.tell({ what: 'added', tenantId, rows: count, ids });
    }
  }

  private async countUnsealed(): Promise<number> {
    const { rows } = await sql<{ n: number }>`${lastSeal}
      select count(*)::int as n from audit a, last where not (${isPassed})`.execute(this.tx);
    return rows[0]!.n;
  }

  private tell(finding: Finding): void {
    if (this.findings.length < MAX_FINDINGS) this.findings.push(finding);
    else this.isCut = true;
  }
}

/** The last row that batches have looked at in this era, and whether earlier eras' rows are all in batches. */
const lastSeal = sql`
  with last as (
    select e.era, e.adopted_at, s.era as seal_era, s.upto_xid, s.upto_id, s.upto_tenant
    from (select * from audit_era order by era desc limit 1) e
    left join (select * from audit_seal order by batch desc limit 1) s on true
  )`;

/** Of a row a: batches have passed it. */
const isPassed = sql`case
  when a.era > last.era then true
  when a.era < last.era then last.adopted_at is not null
  when last.seal_era = last.era then (a.xid, a.id, a.tenant_id) <= (last.upto_xid, last.upto_id, last.upto_tenant)
  else false end`;
