/** `rhyzome job` on a real database, with jobs as the pipeline makes them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { kinds } from '#libs/kinds';
import { KindRegistry, Pipeline } from '#libs/resources';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  await rhyzome.ok('tenant', 'create', 'globex');
});
afterAll(() => rhyzome?.remove());

/** A network that a user asked for; its job is queued, as nobody runs any here. */
async function network(tenant: string, name: string) {
  const caller = { actor: adminActor(tenant, 'alice'), requestId: newId() };
  const kind = new KindRegistry(kinds).get('network');
  const { body } = await new Pipeline(rhyzome.db, new KindRegistry(kinds)).create(caller, kind, {
    name,
    subnet: '10.0.0.0/24',
  });
  return { id: body.id, job: body.job!.id };
}

async function fail(job: string) {
  await rhyzome.db.operator
    .updateTable('job')
    .set({
      state: 'failed',
      finished_at: new Date(),
      error: JSON.stringify({ code: 'job_failed', message: 'no luck' }),
    })
    .where('id', '=', job)
    .execute();
}

describe('rhyzome job', () => {
  it('lists jobs of all tenants, the newest first, or fewer', async () => {
    const first = await network('acme', 'one');
    const second = await network('globex', 'two');
    const all = await rhyzome.json('job', 'list');
    expect(all.map(({ id }: { id: string }) => id)).toEqual([second.job, first.job]);
    expect(all[1]).toMatchObject({
      tenant: 'acme',
      action: 'create',
      state: 'queued',
      resource: { kind: 'network', id: first.id, name: 'one' },
      createdBy: 'alice',
    });
    const some = async (...args: string[]) => (await rhyzome.json('job', 'list', ...args)).length;
    expect(await some('--tenant', 'acme')).toBe(1);
    expect(await some('--state', 'failed')).toBe(0);
    expect(await some('--limit', '1')).toBe(1);
    expect((await rhyzome.run('job', 'list', '--state', 'bogus')).status).toBe(2);
    expect(await rhyzome.ok('job', 'list')).toMatch(/create network two +queued +0 %/);
  });

  it('shows one with its steps, and whose it is', async () => {
    const { job } = await network('acme', 'steps');
    await rhyzome.db.operator
      .insertInto('job_step')
      .values({ tenant_id: 'acme', job_id: job, ordinal: 1, name: 'tell the nodes', state: 'running' })
      .execute();
    const shown = await rhyzome.json('job', 'show', job);
    expect(shown).toMatchObject({ id: job, tenant: 'acme', steps: [{ name: 'tell the nodes', state: 'running' }] });
    expect(await rhyzome.ok('job', 'show', job)).toMatch(/1 +tell the nodes +running/);
    expect((await rhyzome.run('job', 'show', job, '--tenant', 'globex')).status).toBe(3);
    for (const id of [newId(), 'nonsense']) expect((await rhyzome.run('job', 'show', id)).status).toBe(3);
  });

  it('cancels what has not ended', async () => {
    const { job } = await network('acme', 'unwanted');
    expect(await rhyzome.json('job', 'cancel', job)).toMatchObject({ state: 'cancelling' });
    await fail(job);
    expect(await rhyzome.run('job', 'cancel', job)).toMatchObject({
      status: 1,
      err: expect.stringContaining('failed'),
    });
    expect((await rhyzome.audit('acme')).at(-1)).toMatchObject({ action: 'job.cancel', resource_name: 'unwanted' });
  });

  it('retries what has failed', async () => {
    const { id, job } = await network('acme', 'again');
    expect(await rhyzome.run('job', 'retry', job)).toMatchObject({ status: 1, err: expect.stringContaining('queued') });
    await fail(job);
    await rhyzome.db.operator.updateTable('resource').set({ state: 'failed' }).where('id', '=', id).execute();
    expect(await rhyzome.ok('job', 'show', job)).toContain('job_failed: no luck');
    expect(await rhyzome.json('job', 'retry', job)).toMatchObject({ state: 'queued', error: null });
    const resource = await rhyzome.db.operator
      .selectFrom('resource')
      .select('state')
      .where('id', '=', id)
      .executeTakeFirst();
    expect(resource?.state).toBe('pending');
    expect((await rhyzome.audit('acme')).at(-1)).toMatchObject({ action: 'job.retry', resource_name: 'again' });
  });

  it('takes a word on a deed whose outcome is unclear, and wakes its job', async () => {
    const node = { id: newId(), name: 'n1', driver: 'sim', agent_version: '1', kinds: ['instance'] };
    await rhyzome.db.operator
      .insertInto('node')
      .values({ ...node, vcpus: 1, memory_mib: 1, disk_gib: 1 })
      .execute();
    for (const [word, state] of [
      ['done', 'done'],
      ['redo', 'asked'],
    ] as const) {
      const { id, job } = await network('acme', `deed-${word}`);
      const deed = { tenant_id: 'acme', id: job, node_id: node.id, kind: 'instance', resource_id: id };
      await rhyzome.db.operator
        .insertInto('deed')
        .values({ ...deed, verb: 'reboot', repeatable: false, state: 'unclear' })
        .execute();
      expect((await rhyzome.run('job', 'resolve', job)).status).toBe(2);
      expect((await rhyzome.run('job', 'resolve', job, '--done', '--redo')).status).toBe(2);
      await rhyzome.ok('job', 'resolve', job, `--${word}`);
      const rows = await rhyzome.db.operator
        .selectFrom('deed')
        .innerJoin('job', 'job.id', 'deed.id')
        .select(['deed.state', 'job.wakes'])
        .where('deed.id', '=', job)
        .execute();
      expect(rows).toEqual([{ state, wakes: 1 }]);
      expect((await rhyzome.run('job', 'resolve', job, `--${word}`)).status).toBe(1);
      expect((await rhyzome.audit('acme')).at(-1)).toMatchObject({ action: `job.resolve-${word}` });
    }
  });
});
