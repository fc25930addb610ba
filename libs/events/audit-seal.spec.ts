/** The chain over audit rows: what whoever can change tables may do to them shows, and writers wait for nothing. */
import { type Kysely, sql } from 'kysely';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { type DB, openOwner } from '#libs/db';
import {
  AuditSealer,
  alongTheIndex,
  type FreshFrom,
  freshRows,
  pruneAudit,
  type Sealed,
  type Verification,
  type VerifyOptions,
  verifyAudit,
  writeAudit,
} from '#libs/events';
import { type TestDatabase, testDatabase } from '#libs/testing';

const silent = { info: () => undefined, warn: () => undefined };

let database: TestDatabase;
let sealer: AuditSealer;
/** What an intruder with the owner's login can do. */
let owner: Kysely<DB>;

beforeEach(async () => {
  database = await testDatabase();
  owner = openOwner(database.connection);
  sealer = new AuditSealer(database.db, silent, { rows: 10 });
});
afterEach(async () => {
  await sealer.stop();
  await owner?.destroy();
  await database?.close();
});

async function write(tenantId: string, count = 1): Promise<void> {
  await database.db.tenantTransaction(tenantId, async (tx) => {
    for (let i = 0; i < count; i++) {
      await writeAudit(tx, {
        tenantId,
        actor: 'ann',
        action: 'network.create',
        result: 'done',
        details: { b: 1, a: 'ü' },
      });
    }
  });
}

/** Transactions of other tests' databases on the same server hold sealing up, too. */
async function sealAll(): Promise<number> {
  let batches = 0;
  await expect
    .poll(
      async () => {
        while (await sealer.seal()) batches += 1;
        return (await verify()).unsealed;
      },
      { timeout: 20_000, interval: 20 },
    )
    .toBe(0);
  return batches;
}

async function sealOne(): Promise<Sealed> {
  let sealed: Sealed | undefined;
  await expect
    .poll(
      async () => {
        sealed ??= await sealer.seal();
        return sealed !== undefined;
      },
      { timeout: 20_000, interval: 20 },
    )
    .toBe(true);
  return sealed!;
}

const verify = (options?: VerifyOptions): Promise<Verification> =>
  database.db.operator
    .transaction()
    .setIsolationLevel('repeatable read')
    .execute((tx) => verifyAudit(tx, options));

async function idsOf(tenantId: string): Promise<string[]> {
  const rows = await owner.selectFrom('audit').select('id').where('tenant_id', '=', tenantId).orderBy('id').execute();
  return rows.map(({ id }) => id);
}

describe('sealing', () => {
  test('puts all rows of all tenants into batches that verify, with one head', async () => {
    expect(await verify()).toMatchObject({ batches: 0, rows: 0, unsealed: 0, head: null, findings: [] });
    await write('a', 7);
    await write('b', 7);
    expect(await verify()).toMatchObject({ unsealed: 14, findings: [] });
    expect(await sealAll()).toBeGreaterThanOrEqual(2);
    const first = await verify();
    expect(first).toMatchObject({ rows: 14, unsealed: 0, head: { batch: first.batches }, findings: [] });
    await write('a');
    expect(await sealOne()).toMatchObject({ batch: first.batches + 1, rows: 1, more: false });
    expect(await verify({ expect: first.head!.hash })).toMatchObject({
      batches: first.batches + 1,
      isExpectedFound: true,
      findings: [],
    });
    expect(await verify({ expect: 'ab'.repeat(32) })).toMatchObject({ isExpectedFound: false });
  });

  test('leaves rows of a transaction that has not ended, and all that began after it, to a later batch', async () => {
    const early = await database.db.operator.startTransaction().execute();
    await writeAudit(early as never, { tenantId: 'a', actor: 'slow', action: 'x.y', result: 'done' });
    await write('a', 3);
    expect(await sealer.seal()).toBeUndefined();
    expect(await verify()).toMatchObject({ unsealed: 3, findings: [] });
    await early.commit().execute();
    expect(await sealOne()).toMatchObject({ rows: 4 });
    expect(await verify()).toMatchObject({ unsealed: 0, rows: 4, findings: [] });
  });

  test('misses none of many writers with several sealers at once', async () => {
    const sealers = [sealer, new AuditSealer(database.db, silent, { rows: 7 }), new AuditSealer(database.db, silent)];
    let writing = true;
    const sealing = sealers.map(async (one) => {
      while (writing) {
        await one.seal();
        await new Promise((resolve) => setTimeout(resolve, 3));
      }
    });
    await Promise.all(
      Array.from({ length: 8 }, async (_, writer) => {
        for (let i = 0; i < 20; i++) await write(`t${writer % 3}`, 1 + (i % 3));
      }),
    );
    writing = false;
    await Promise.all(sealing);
    await sealAll();
    const { rows } = await sql<{ n: number }>`select count(*)::int as n from audit`.execute(owner);
    expect(await verify()).toMatchObject({ rows: rows[0]!.n, unsealed: 0, findings: [] });
  });

  test('reads an index from where it was, not the table', async () => {
    const many = (count: number) =>
      sql`insert into audit (tenant_id, id, actor, action, result)
      select 't' || n % 7, uuidv7(), 'ann', 'x.y', 'done' from generate_series(1, ${count}) n`.execute(owner);
    await many(20_000);
    const big = new AuditSealer(database.db, silent, { rows: 20_000 });
    await expect.poll(async () => (await big.seal())?.rows, { timeout: 20_000 }).toBe(20_000);
    await sql`analyze audit`.execute(owner);
    await many(3);
    const planOf = () =>
      database.db.operatorTransaction(async (tx) => {
        const { rows } = await sql<FreshFrom>`select era, upto_xid::text as xid, upto_id as id, upto_tenant as tenant
        from audit_seal order by batch desc limit 1`.execute(tx);
        await sql`select ${alongTheIndex}`.execute(tx);
        const told = await sql<Record<string, string>>`explain (analyze) ${freshRows(rows[0]!, 2_000)}`.execute(tx);
        return told.rows.map((row) => row['QUERY PLAN']!).join('\n');
      });
    // What transactions of other databases of the server might still write before is waited for.
    await expect.poll(planOf, { timeout: 20_000 }).toMatch(/Index Scan using audit_order.*rows=3\.00 /);
    const plan = await planOf();
    expect(plan).not.toContain('Seq Scan');
    expect(plan).not.toMatch(/Rows Removed by Filter: \d{2}/);
    expect(await sealOne()).toMatchObject({ rows: 3 });
  });
});

describe('verifying tells', () => {
  beforeEach(async () => {
    await write('a', 5);
    await write('b', 5);
    await sealAll();
    await write('a', 5);
    await sealAll();
  });

  test('rows that were removed, with their batch and tenant', async () => {
    const ids = await idsOf('a');
    await owner.deleteFrom('audit').where('id', 'in', [ids[1]!, ids[7]!]).execute();
    expect((await verify()).findings).toEqual([
      { what: 'removed', batch: 1, tenantId: 'a', rows: 1, ids: [ids[1]] },
      { what: 'removed', batch: 2, tenantId: 'a', rows: 1, ids: [ids[7]] },
    ]);
    expect((await verify({ tenantId: 'b' })).findings).toEqual([]);
  });

  test.each([
    ['actor', { actor: 'eve' }],
    ['details', { details: JSON.stringify({ b: 2 }) }],
    ['at', { at: new Date() }],
    ['result', { result: 'refused', code: 'forbidden' }],
  ])('a row whose %s was changed', async (_, change) => {
    const [id] = await idsOf('b');
    await owner
      .updateTable('audit')
      .set(change as never)
      .where('id', '=', id!)
      .execute();
    expect((await verify()).findings).toEqual([{ what: 'changed', batch: 1, tenantId: 'b' }]);
  });

  test('a row that was put among the sealed ones', async () => {
    const id = newId();
    await sql`insert into audit (tenant_id, id, xid, actor, action, result)
      select 'b', ${id}, min(xid), 'eve', 'x.y', 'done' from audit`.execute(owner);
    expect((await verify()).findings).toEqual([{ what: 'added', tenantId: 'b', rows: 1, ids: [id] }]);
  });

  test('a record of a batch that is gone or another', async () => {
    await sql`update audit_digest set digest = sha256('x') where tenant_id = 'b'`.execute(owner);
    expect((await verify()).findings).toEqual([
      { what: 'broken', batch: 1 },
      { what: 'changed', batch: 1, tenantId: 'b' },
    ]);
    await sql`delete from audit_digest where batch = 1`.execute(owner);
    await sql`delete from audit_seal where batch = 1`.execute(owner);
    const { findings } = await verify();
    expect(findings).toContainEqual({ what: 'broken', batch: 1 });
    expect(findings).toContainEqual(expect.objectContaining({ what: 'added', tenantId: 'b', rows: 5 }));
  });

  test('a chain that was made anew from changed rows, by the head that was kept elsewhere', async () => {
    const { head } = await verify();
    await owner.deleteFrom('audit').where('tenant_id', '=', 'b').execute();
    await sql`delete from audit_digest`.execute(owner);
    await sql`delete from audit_seal`.execute(owner);
    await sealAll();
    expect(await verify({ expect: head!.hash })).toMatchObject({ findings: [], isExpectedFound: false });
  });

  test('the end of the chain that was cut off', async () => {
    const batches = await verify();
    expect(batches.head?.batch).toBe(2);
    await owner.deleteFrom('audit_digest').where('batch', '=', 2).execute();
    await owner.deleteFrom('audit_seal').where('batch', '=', 2).execute();
    // What it held is to be sealed again, but the head that was kept is gone.
    expect(await verify({ expect: batches.head!.hash })).toMatchObject({ isExpectedFound: false, unsealed: 5 });
  });
});

describe('pruning', () => {
  test('takes whole batches from the oldest on, and what is left verifies from there', async () => {
    for (let i = 0; i < 4; i++) {
      await write('a', 2);
      await sealAll();
    }
    const kept = await verify();
    const { rows } = await sql<{ at: Date }>`select sealed_at as at from audit_seal where batch = 3`.execute(owner);
    expect(await pruneAudit(owner, rows[0]!.at, 'admin:ann')).toEqual({ rows: 4, uptoBatch: 2 });
    expect(await pruneAudit(owner, rows[0]!.at, 'admin:ann')).toEqual({ rows: 0, uptoBatch: null });
    expect(await idsOf('a')).toHaveLength(4);
    const after = await verify({ expect: kept.head!.hash });
    expect(after).toMatchObject({ batches: 2, rows: 4, isExpectedFound: true, findings: [], head: kept.head });
    const [id] = await idsOf('a');
    await owner.deleteFrom('audit').where('id', '=', id!).execute();
    expect((await verify()).findings).toMatchObject([{ what: 'removed', batch: 3 }]);
    // Never the last one, so that the chain goes on from it.
    expect(await pruneAudit(owner, new Date(Date.now() + 3_600_000), 'admin:ann')).toMatchObject({ uptoBatch: 3 });
    await write('a');
    expect(await sealOne()).toMatchObject({ batch: 5 });
    expect(await verify()).toMatchObject({ batches: 2, findings: [] });
  });
});

describe('on another server', () => {
  test('where transaction ids begin anew, another era begins, and none is taken for added or lost', async () => {
    await write('a', 5);
    await sealAll();
    const kept = await verify();
    // As pg_dump and psql bring them over: rows with ids of transactions that are yet to come here.
    await sql`update audit set xid = (xid::text::bigint + 1000000)::text::xid8`.execute(owner);
    await sql`update audit_seal set upto_xid = (upto_xid::text::bigint + 1000000)::text::xid8`.execute(owner);
    await sql`update audit_era set system_identifier = 1`.execute(owner);
    await write('a', 2); // Before anybody has noticed.
    const told: object[] = [];
    sealer = new AuditSealer(database.db, { ...silent, warn: (_, message) => told.push([message]) }, { rows: 10 });
    expect(await sealOne()).toMatchObject({ batch: 2, rows: 2 });
    expect(told).toHaveLength(1);
    await write('a', 3);
    expect(await sealAll()).toBe(1);
    expect(await verify({ expect: kept.head!.hash })).toMatchObject({
      rows: 10,
      unsealed: 0,
      isExpectedFound: true,
      findings: [],
    });
    const again = new AuditSealer(database.db, { ...silent, warn: (_, message) => told.push([message]) });
    expect(await again.seal()).toBeUndefined();
    expect(told).toHaveLength(1);
  });
});
