/** `rhyzome alarm` on a real database. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { clearAlarm, raiseAlarm } from '#libs/jobs';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
const id = newId();
const late = { tenantId: 'acme', code: 'job_overdue', cause: id } as const;

beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  await rhyzome.db.operatorTransaction(async (tx) => {
    const values = { tenant_id: 'acme', id, kind: 'network', name: 'lan', state: 'pending', created_by: 'alice' };
    await tx.insertInto('resource').values(values).execute();
    await raiseAlarm(tx, { ...late, message: 'It is late.', resource: { kind: 'network', id } });
    await raiseAlarm(tx, { tenantId: null, code: 'outcome_unclear', cause: 'x', message: 'Look.', details: { n: 1 } });
  });
});
afterAll(() => rhyzome?.remove());

describe('rhyzome alarm', () => {
  it('lists open ones, the newest first, or fewer', async () => {
    const all = await rhyzome.json('alarm', 'list');
    expect(all).toMatchObject([
      { tenant: 'system', code: 'outcome_unclear', severity: 'critical', resource: null, details: { n: 1 } },
      { tenant: 'acme', code: 'job_overdue', state: 'open', resource: { kind: 'network', id, name: 'lan' } },
    ]);
    expect(await rhyzome.json('alarm', 'list', '--tenant', 'acme', '--code', 'job_overdue')).toHaveLength(1);
    expect(await rhyzome.json('alarm', 'list', '--limit', '1')).toHaveLength(1);
    expect((await rhyzome.run('alarm', 'list', '--code', 'bogus')).status).toBe(2);
    expect(await rhyzome.ok('alarm', 'list')).toMatch(/acme +warning +job_overdue +open +network lan .+ It is late\./);
  });

  it('shows one, and takes note of it once, in the audit too', async () => {
    const [{ id: alarm }] = await rhyzome.json('alarm', 'list', '--tenant', 'acme');
    expect(await rhyzome.ok('alarm', 'show', alarm)).toMatch(/message +It is late\./);
    const first = await rhyzome.json('alarm', 'acknowledge', alarm);
    expect(first).toMatchObject({ state: 'open', acknowledgedBy: expect.stringMatching(/^admin:/) });
    expect(await rhyzome.json('alarm', 'acknowledge', alarm)).toEqual(first);
    expect(await rhyzome.ok('alarm', 'list', '--tenant', 'acme')).toMatch(/ acknowledged /);
    const audit = await rhyzome.db.operator
      .selectFrom('audit')
      .select(['tenant_id', 'resource_id'])
      .where('action', '=', 'alarm.acknowledge')
      .execute();
    expect(audit).toEqual([{ tenant_id: 'acme', resource_id: alarm }]);
    const unknown = await rhyzome.run('alarm', 'show', newId());
    expect(unknown.err).toMatch(/There is no alarm “.+”\. `rhyzome alarm list --all` names them\./);
  });

  it('lists what is cleared only when asked to', async () => {
    await rhyzome.db.operatorTransaction((tx) => clearAlarm(tx, late));
    expect(await rhyzome.json('alarm', 'list', '--tenant', 'acme')).toEqual([]);
    expect(await rhyzome.json('alarm', 'list', '--all', '--tenant', 'acme')).toMatchObject([{ state: 'cleared' }]);
  });
});
