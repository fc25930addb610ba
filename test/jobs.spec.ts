/** Jobs that fail, are retried, cancelled, or give way: what a user sees of them, and what is left of what they did. */
import { readFileSync } from 'node:fs';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectionOf } from '#libs/config';
import { Database } from '#libs/db';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
let db: Database;
beforeAll(async () => {
  stack = await sharedStack('sim');
  api = await apiOf(stack, 'initech');
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const connection = (name: string) => connectionOf(settings[name], stack.data);
  db = new Database({ app: connection('db'), operator: connection('dbOperator'), maxConnections: 2 });
}, 120_000);
afterAll(() => db?.close());

const machine = (name: string, network: string) => ({
  name,
  image: 'tiny',
  vcpus: 1,
  memoryMiB: 64,
  interfaces: [{ network }],
});
const ended = async (answer: Answer) => (await api.get(`/v1/jobs/${answer.body.job.id}?wait=30s`)).body;

describe('a job', () => {
  beforeAll(async () => {
    await api.make('networks', { name: 'work', subnet: '10.120.0.0/28' });
  });
  afterEach(() => clearFaults(stack));
  afterAll(async () => {
    await api.remove('networks', 'work');
  });

  it('that fails says why, keeps name and address, and succeeds when it is retried', async () => {
    injectFaults(stack, [
      {
        kind: 'instance',
        operation: 'apply',
        match: 'unlucky',
        code: 'no_luck',
        message: 'The disk is on fire.',
        permanent: true,
      },
    ]);
    const made = await api.post('/v1/instances', machine('unlucky', 'work'));
    const job = await ended(made);
    expect(job).toMatchObject({
      state: 'failed',
      error: { code: 'job_failed', detail: expect.stringContaining('on fire') },
    });
    const failed = (await api.get('/v1/instances/unlucky')).body;
    expect(failed).toMatchObject({ state: 'failed', interfaces: made.body.interfaces });
    const ready = failed.conditions.find(({ type }: any) => type === 'Ready');
    expect(ready).toMatchObject({ status: 'false', message: expect.stringContaining('on fire') });
    expectProblem(await api.post('/v1/instances', machine('unlucky', 'work')), 409, 'name_taken');
    expectProblem(await api.post('/v1/instances/unlucky/stop', {}), 409, 'not_ready');

    clearFaults(stack);
    const again = await api.post(`/v1/jobs/${job.id}/retry`, {});
    expect(again).toMatchObject({ status: 202, body: { id: job.id } });
    const retried = (await api.get(`/v1/jobs/${job.id}?wait=30s`)).body;
    expect(retried).toMatchObject({ state: 'succeeded', error: null, attempts: 2 });
    expect((await api.get('/v1/instances/unlucky')).body).toMatchObject({
      state: 'ready',
      powerState: 'running',
      interfaces: made.body.interfaces,
    });
    expectProblem(await api.post(`/v1/jobs/${job.id}/retry`, {}), 409, 'not_retryable');
    expectProblem(await api.post(`/v1/jobs/${job.id}/cancel`, {}), 409, 'not_cancellable');
    await api.remove('instances', 'unlucky');
  });

  it('that was an update and fails has the previous values back', async () => {
    const made = await api.make('instances', machine('steady', 'work'));
    injectFaults(stack, [
      { kind: 'instance', operation: 'apply', match: 'steady', times: 1, code: 'no_luck', permanent: true },
    ]);
    const job = await ended(
      await api.patch('/v1/instances/steady', { desiredPowerState: 'stopped', tags: { a: 'b' } }),
    );
    expect(job.state).toBe('failed');
    const after = await until('the values of before', async () => {
      const { body } = await api.get('/v1/instances/steady');
      return body.powerState === 'running' && body;
    });
    expect(after).toMatchObject({ desiredPowerState: 'running', tags: {} });
    expect(after.generation).toBeGreaterThan(made.generation + 1);
    await api.remove('instances', 'steady');
  });

  it('under way makes others wait, and gives way to a removal', async () => {
    injectFaults(stack, [{ kind: 'instance', operation: 'apply', match: 'slow', delayMs: 60_000 }]);
    const made = await api.post('/v1/instances', machine('slow', 'work'));
    await until('the step', async () => (await api.get(`/v1/jobs/${made.body.job.id}`)).body.steps.length === 4);
    for (const answer of [
      await api.patch('/v1/instances/slow', { tags: { a: 'b' } }),
      await api.post('/v1/instances/slow/stop', {}),
    ]) {
      expect(expectProblem(answer, 409, 'busy').blockers).toMatchObject([{ kind: 'job', id: made.body.job.id }]);
    }
    const removed = await api.delete('/v1/instances/slow');
    const second = await api.delete('/v1/instances/slow');
    expect(second.body.job.id).toBe(removed.body.job.id);
    // What the removal undid first cannot be brought back by cancelling it.
    expectProblem(await api.post(`/v1/jobs/${removed.body.job.id}/cancel`, {}), 409, 'not_cancellable');
    expect(await ended(removed)).toMatchObject({ state: 'succeeded' });
    expect(await ended(made)).toMatchObject({ state: 'cancelled' });
    expectProblem(await api.get('/v1/instances/slow'), 404, 'not_found');
    expect((await api.get('/v1/networks/work/leases')).body.items).toEqual([]);
  });

  it('that is cancelled undoes what it did', async () => {
    injectFaults(stack, [{ kind: 'instance', operation: 'apply', match: 'never', delayMs: 60_000 }]);
    const made = await api.post('/v1/instances?wait=1s', machine('never', 'work'));
    expect(made.status).toBe(202);
    expect((await api.post(`/v1/jobs/${made.body.job.id}/cancel`, {})).status).toBe(202);
    expect(await ended(made)).toMatchObject({ state: 'cancelled', cancellable: false });
    expectProblem(await api.get(`/v1/instances/${made.body.id}`), 404, 'not_found');
    expect((await api.get('/v1/networks/work')).body.addresses.used).toBe(0);
    clearFaults(stack);
    await api.make('instances', machine('never', 'work'));
    await api.remove('instances', 'never');
  });

  it('that took too long fails, is undone, and succeeds when its user asks again once the cause is gone', async () => {
    injectFaults(stack, [{ kind: 'instance', operation: 'apply', match: 'tardy', delayMs: 120_000 }]);
    const made = await api.post('/v1/instances', machine('tardy', 'work'));
    const { id } = made.body.job;
    // As if its time had passed: a step has ten minutes and more.
    await until('its step’s time is over', async () => {
      const passed = await sql`update job_step set deadline_at = now() - interval '1 second'
        where tenant_id = 'initech' and job_id = ${id} and name = 'machine runs' and deadline_at is not null`.execute(
        db.operator,
      );
      await sql`update job set run_at = now() where tenant_id = 'initech' and id = ${id} and finished_at is null`.execute(
        db.operator,
      );
      return passed.numAffectedRows! > 0n;
    });
    const failed = await ended(made);
    expect(failed).toMatchObject({ state: 'failed', error: { code: 'step_timed_out' } });
    expect((await api.get('/v1/instances/tardy')).body).toMatchObject({
      state: 'failed',
      interfaces: made.body.interfaces,
    });
    clearFaults(stack);
    expect((await api.post(`/v1/jobs/${id}/retry`, {})).status).toBe(202);
    expect((await api.get(`/v1/jobs/${id}?wait=30s`)).body).toMatchObject({ state: 'succeeded', error: null });
    expect((await api.get('/v1/instances/tardy')).body).toMatchObject({
      state: 'ready',
      powerState: 'running',
      interfaces: made.body.interfaces,
    });
    await api.remove('instances', 'tardy');
  }, 90_000);

  it('is cancelled at any moment: then nothing is left of it, or it was done already', async () => {
    const outcomes: string[] = [];
    for (const [n, afterMs] of [0, 15, 30, 60, 90, 120, 180, 250, 350, 500].entries()) {
      const name = `moment-${n}`;
      const made = await api.post('/v1/instances', machine(name, 'work'));
      expect(made.status).toBe(202);
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      const cancel = await api.post(`/v1/jobs/${made.body.job.id}/cancel`, {});
      if (cancel.status !== 202) expectProblem(cancel, 409, 'not_cancellable');
      const { state } = await ended(made);
      expect(['cancelled', 'succeeded'], `cancelled ${afterMs} ms after`).toContain(state);
      if (cancel.status === 202) expect(state).toBe('cancelled');
      outcomes.push(state);
      if (state === 'succeeded') await api.remove('instances', name);
      else expectProblem(await api.get(`/v1/instances/${name}`), 404, 'not_found');
      expect((await api.get('/v1/networks/work')).body.addresses.used).toBe(0);
      expect((await api.get('/v1/disks')).body.items).toEqual([]);
    }
    expect(outcomes[0]).toBe('cancelled');
    const left = await sql`select from placement p join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
      where p.tenant_id = 'initech' and r.name like 'moment-%'`.execute(db.operator);
    expect(left.rows).toEqual([]);
    const reserved = await sql`select from reservation where tenant_id = 'initech'`.execute(db.operator);
    expect(reserved.rows).toEqual([]);
  }, 120_000);
});
