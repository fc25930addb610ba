/** `rhyzome audit` on a real database: reading, verifying, pruning, and who came without a token. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectionOf } from '#libs/config';
import { openOwner } from '#libs/db';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { AuditSealer, UnauthenticatedLog } from '#libs/events';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
const silent = { info: () => undefined, warn: () => undefined };

beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  for (const id of ['acme', 'globex']) await rhyzome.ok('tenant', 'create', id);
  await rhyzome.ok('tenant', 'update', 'acme', '--display-name', 'Acme Ltd');
});
afterAll(() => rhyzome?.remove());

/** What whoever has the owner's login can do. */
async function asOwner(...statements: string[]): Promise<void> {
  const owner = openOwner(connectionOf(rhyzome.connections.dbOwner, rhyzome.dir));
  for (const statement of statements) await sql.raw(statement).execute(owner);
  await owner.destroy();
}

async function sealAll(): Promise<void> {
  const sealer = new AuditSealer(rhyzome.db, silent);
  await expect
    .poll(
      async () => {
        await sealer.seal();
        return (await rhyzome.json('audit', 'verify')).unsealed;
      },
      { timeout: 20_000 },
    )
    .toBe(0);
}

describe('audit list and export', () => {
  test('show what was done, by tenant and by time', async () => {
    const entries = await rhyzome.json('audit', 'list', '--tenant', 'acme');
    expect(entries.map(({ action }: any) => action)).toEqual(['tenant.update', 'tenant.create']);
    expect(entries[0]).toMatchObject({ tenant: 'acme', actor: expect.stringMatching(/^admin:/), result: 'done' });
    expect(await rhyzome.json('audit', 'list', '--to', '2020-01-01')).toEqual([]);
    expect(await rhyzome.json('audit', 'list', '--from', '2020-01-01', '--action', 'tenant.create')).toHaveLength(2);
    expect(await rhyzome.ok('audit', 'list')).toContain('tenant.update');
    const lines = (await rhyzome.ok('audit', 'export', '--tenant', 'acme'))
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l));
    expect(lines.map(({ action }) => action)).toEqual(['tenant.create', 'tenant.update']);
    expect(await rhyzome.ok('audit', 'export', '--tenant', 'acme', '--after', lines[1].id)).toBe('');
  });

  test.each([
    [['list', '--from', 'yesterday']],
    [['list', '--from', '2026-01-01T00:00:00']],
    [['list', '--result', 'maybe']],
    [['list', '--limit', '0']],
    [['export']],
    [['export', '--tenant', 'acme', '--after', 'x']],
    [['verify', '--expect', 'abc']],
    [['prune', '--before', '2999-01-01', '--force']],
    [['prune']],
  ])('refuse %j', async (args) => {
    expect((await rhyzome.run('audit', ...args)).status).toBe(2);
  });
});

describe('audit verify', () => {
  test('says that nothing was touched, then what was, and ends with 1', async () => {
    await sealAll();
    const whole = await rhyzome.json('audit', 'verify');
    expect(whole).toMatchObject({ isWhole: true, unsealed: 0, findings: [] });
    const said = await rhyzome.ok('audit', 'verify', '--expect', whole.head.hash);
    expect(said).toContain(whole.head.hash);
    expect(said).toContain('The expected head stands in the chain.');
    expect((await rhyzome.run('audit', 'verify', '--expect', 'ab'.repeat(32))).status).toBe(1);
    await asOwner("update audit set actor = 'somebody else' where tenant_id = 'globex'");
    await asOwner("delete from audit where tenant_id = 'acme' and action = 'tenant.update'");
    const { status, out } = await rhyzome.run('audit', 'verify');
    expect(status).toBe(1);
    expect(out).toMatch(/^REMOVED: 1 entries of tenant acme in batch \d+: [0-9a-f-]{36}$/m);
    expect(out).toMatch(/^CHANGED: entries of tenant globex in batch \d+$/m);
    const only = await rhyzome.run('audit', 'verify', '--tenant', 'globex');
    expect(only.out).not.toContain('REMOVED');
  });
});

describe('audit unauthenticated', () => {
  test('shows who came without a token, the last first', async () => {
    const log = new UnauthenticatedLog(rhyzome.db, silent);
    for (let i = 0; i < 3; i++) {
      log.tell({
        reason: 'expired',
        source: '192.0.2.7',
        issuer: 'https://id.example\n',
        method: 'GET',
        path: '/v1/jobs',
      });
    }
    log.tell({ reason: 'missing', source: '192.0.2.8', method: 'POST', path: '/v1/networks' });
    await log.close();
    const found = await rhyzome.json('audit', 'unauthenticated', '--reason', 'expired');
    expect(found).toMatchObject([
      { reason: 'expired', source: '192.0.2.7', issuer: 'https://id.example?', count: 3, last: { path: '/v1/jobs' } },
    ]);
    expect(await rhyzome.ok('audit', 'unauthenticated')).toMatch(/missing +192\.0\.2\.8/);
  });
});

describe('audit prune', () => {
  test('asks, removes what was sealed before, and leaves an entry and a chain that holds', async () => {
    await asOwner('delete from audit_digest', 'delete from audit_seal', 'delete from audit');
    await rhyzome.ok('tenant', 'create', 'one');
    await sealAll();
    await rhyzome.ok('tenant', 'create', 'two');
    await sealAll();
    const { head } = await rhyzome.json('audit', 'verify');
    const before = new Date().toISOString();
    expect(await rhyzome.runWith({ answer: 'no' }, 'audit', 'prune', '--before', before)).toMatchObject({ status: 1 });
    expect(await rhyzome.json('audit', 'list', '--tenant', 'one')).toHaveLength(1);
    const pruned = await rhyzome.json('audit', 'prune', '--before', before, '--force');
    expect(pruned).toEqual({ rows: 1, uptoBatch: head.batch - 1 });
    expect(await rhyzome.json('audit', 'list', '--tenant', 'one')).toEqual([]);
    expect(await rhyzome.json('audit', 'list', '--action', 'audit.prune')).toMatchObject([{ tenant: 'system' }]);
    await sealAll();
    expect(await rhyzome.json('audit', 'verify', '--expect', head.hash)).toMatchObject({ isWhole: true, findings: [] });
    const rows = await sql`select actor, row_count from audit_pruning`.execute(rhyzome.db.operator);
    expect(rows.rows).toMatchObject([{ actor: expect.stringMatching(/^admin:/), row_count: 1 }]);
  });
});
