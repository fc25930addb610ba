/** `rhyzome sweep` on a real database, with what inventories wrote. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { openSession, recordInventory } from '#libs/nodes';
import { Observed, Phase } from '#libs/rpc';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
const network = newId();
const disk = newId();
const deletedDisk = newId();
let nodeId: string;

beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  const hello = {
    name: 'n1',
    driver: 't',
    agentVersion: '0',
    kinds: [],
    labels: {},
    vcpus: 1,
    memoryMiB: 1,
    diskGiB: 1,
  };
  const session = await openSession(rhyzome.db, hello, 'r:1');
  nodeId = session.nodeId;
  await sql`insert into disk_tombstone (tenant_id, id, node_id, kind) values ('acme', ${deletedDisk}, ${nodeId}, 'disk')`.execute(
    rhyzome.db.operator,
  );
  const items = [
    { kind: 'network', id: network, status: {} },
    { kind: 'disk', id: disk, status: { sizeBytes: 3 * 1024 ** 3 } },
    { kind: 'disk', id: deletedDisk, status: {} },
    { kind: 'unheard', id: newId(), status: {} },
  ].map(({ kind, id, status }) =>
    Observed.fromPartial({
      ref: { tenantId: 'acme', kind, id },
      phase: Phase.PHASE_READY,
      statusJson: JSON.stringify(status),
    }),
  );
  await recordInventory(rhyzome.db, session, items);
});
afterAll(() => rhyzome?.remove());

async function fates(): Promise<Record<string, string>> {
  const { orphans } = await rhyzome.json('sweep');
  return Object.fromEntries(orphans.map(({ id, kind, fate }: any) => [kind === 'unheard' ? kind : id, fate]));
}

describe('rhyzome sweep', () => {
  it('says what nobody owns and what becomes of it', async () => {
    expect(await fates()).toEqual({
      [network]: 'waiting',
      [disk]: 'noTombstone',
      [deletedDisk]: 'waiting',
      unheard: 'unknownKind',
    });
    const text = await rhyzome.ok('sweep');
    expect(text).toContain('What was nobody’s for 24 hours is removed');
    expect(text).toMatch(new RegExp(`n1 +disk +${disk} +acme +- +3 GiB .* does not know that it was deleted`));
    expect(text).toMatch(new RegExp(`n1 +network +${network} .* is removed after \\d{4}-`));
  });

  it('is set to report only, or to another delay', async () => {
    expect(await rhyzome.json('sweep', 'settings', '--after', '48', '--report-only')).toEqual({
      mode: 'report',
      afterHours: 48,
      isHeld: false,
    });
    expect((await fates())[network]).toBe('reported');
    await rhyzome.ok('sweep', 'settings', '--remove', '--after', '24');
    expect((await fates())[network]).toBe('waiting');
    for (const wrong of [
      ['--after', '0'],
      ['--after', 'x'],
      ['--remove', '--report-only'],
    ])
      expect((await rhyzome.run('sweep', 'settings', ...wrong)).status).toBe(2);
  });

  it('asks nodes for an inventory', async () => {
    const wanted = async () =>
      (await sql`select 1 from node_inventory where wanted_at is not null`.execute(rhyzome.db.operator)).rows.length;
    expect(await wanted()).toBe(0);
    expect(await rhyzome.json('sweep', 'now', 'n1')).toEqual({ asked: 1 });
    expect(await wanted()).toBe(1);
    expect((await rhyzome.run('sweep', 'now', 'nobody')).status).toBe(3);
  });

  it('approves what has waited, or all, and never a disk without a tombstone', async () => {
    expect((await rhyzome.json('sweep', 'approve', 'n1')).approved).toEqual([]);
    const { approved } = await rhyzome.json('sweep', 'approve', 'n1', '--all');
    expect(approved.map(({ id }: { id: string }) => id).sort()).toEqual([network, deletedDisk].sort());
    expect(await fates()).toMatchObject({ [network]: 'approved', [deletedDisk]: 'approved', [disk]: 'noTombstone' });
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'sweep.approve', details: { count: 2 } });
  });

  it('removes a disk that it does not know to be deleted only on a repeated word', async () => {
    const refused = await rhyzome.runWith({ answer: 'yes' }, 'sweep', 'remove', 'n1', 'disk', disk);
    expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('is gone for good') });
    expect((await rhyzome.run('sweep', 'remove', 'n1', 'disk', disk)).status).toBe(2);
    expect((await fates())[disk]).toBe('noTombstone');

    const resource = sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values ('acme', ${disk}, 'disk', 'precious', 'ready', 'x')`;
    await resource.execute(rhyzome.db.operator);
    const owned = await rhyzome.run('sweep', 'remove', 'n1', 'disk', disk, '--force');
    expect(owned).toMatchObject({ status: 1, err: expect.stringContaining('disk precious of tenant acme') });
    await sql`delete from resource where id = ${disk}`.execute(rhyzome.db.operator);

    const done = await rhyzome.runWith({ answer: disk }, 'sweep', 'remove', 'n1', 'disk', disk);
    expect(done).toMatchObject({ status: 0, out: `Node n1 removes disk ${disk}.\n` });
    expect((await fates())[disk]).toBe('approved');
    const words = await sql<{ word_of: string }>`select word_of from disk_tombstone where id = ${disk}`.execute(
      rhyzome.db.operator,
    );
    expect(words.rows).toEqual([{ word_of: expect.stringMatching(/^admin:/) }]);
  });

  it('says what was removed, and on whose word', async () => {
    const removed = newId();
    await sql`insert into sweep_removal (tenant_id, kind, id, node_id) values ('acme', 'network', ${removed}, ${nodeId})`.execute(
      rhyzome.db.operator,
    );
    expect((await rhyzome.json('sweep')).removals).toMatchObject([{ node: 'n1', id: removed, approvedBy: null }]);
    expect(await rhyzome.ok('sweep')).toMatch(new RegExp(`n1 +network +${removed} +acme .* it had waited`));
  });

  it('says who is nobody’s at the identity provider, and lets go on an administrator’s word', async () => {
    await sql`insert into account_orphan (tenant_id, mode, kind, name) values ('acme', 'realm', 'user', 'lost'),
      ('acme', 'realm', 'user', 'late'), ('gone', 'realm', 'realm', 'login')`.execute(rhyzome.db.operator);
    const fatesOf = async () => {
      const { accounts } = await rhyzome.json('sweep');
      return Object.fromEntries(accounts.map(({ tenant, name, fate }: any) => [`${tenant}/${name}`, fate]));
    };
    expect(await fatesOf()).toEqual({ 'acme/lost': 'waiting', 'acme/late': 'waiting', 'gone/login': 'noWord' });
    expect(await rhyzome.ok('sweep')).toMatch(/acme +user +lost +realm +\S+ +is removed after/);
    await rhyzome.ok('sweep', 'remove-account', 'acme', 'user', 'lost');
    expect(await rhyzome.json('sweep', 'approve-accounts')).toEqual({ approved: 0 });
    expect(await rhyzome.json('sweep', 'approve-accounts', '--all')).toEqual({ approved: 1 });
    const realm = ['sweep', 'remove-account', 'gone', 'realm', 'login'] as const;
    expect(await rhyzome.runWith({ answer: 'yes' }, ...realm)).toMatchObject({ status: 1 });
    expect((await fatesOf())['gone/login']).toBe('noWord');
    expect(await rhyzome.runWith({ answer: 'gone' }, ...realm)).toMatchObject({ status: 0 });
    expect(await fatesOf()).toEqual({ 'acme/lost': 'approved', 'acme/late': 'approved', 'gone/login': 'approved' });
    expect((await rhyzome.run('sweep', 'remove-account', 'acme', 'user', 'nobody')).status).toBe(3);
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({
      action: 'sweep.removeAccount',
      details: { tenant: 'gone', kind: 'realm', name: 'login' },
    });
    await sql`insert into account_removal (tenant_id, mode, kind, name) values ('acme', 'realm', 'user', 'bob')`.execute(
      rhyzome.db.operator,
    );
    expect(await rhyzome.ok('sweep')).toMatch(/acme +user +bob +realm .* it had waited/);
  });

  it('does not know every node and every thing', async () => {
    expect((await rhyzome.run('sweep', 'approve', 'nobody')).status).toBe(3);
    expect((await rhyzome.run('sweep', 'remove', 'n1', 'disk', newId())).status).toBe(3);
    expect((await rhyzome.run('sweep', 'remove', 'n1', 'disk', 'x')).status).toBe(3);
  });

  it('removes nothing while a restored database was not compared', async () => {
    await sql`insert into restoration (id, backup_id, backup_at, restored_by, numbers_from)
      values (${newId()}, ${newId()}, now(), 'x', 1)`.execute(rhyzome.db.operator);
    expect(await rhyzome.ok('sweep')).toContain('restored and not compared yet');
    for (const words of [
      ['approve', 'n1'],
      ['remove', 'n1', 'disk', disk],
    ])
      expect(await rhyzome.run('sweep', ...words)).toMatchObject({
        status: 1,
        err: expect.stringContaining('restored'),
      });
  });
});
