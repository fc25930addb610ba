/** What fails in a job: tried again, undone, told; and what it waits for. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId, RhyzomeError, Waiting } from '#libs/core';
import { wakeJobs } from '#libs/jobs';
import { gate, JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';
import { Parked } from './outside.js';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

describe('failures', () => {
  test('that are nobody’s are tried again with growing pauses', async () => {
    const at: number[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('flaky', {
        act: async () => {
          at.push(Date.now());
          if (at.length < 4) throw new Error('flaky');
        },
      });
    });
    lab.startRunner();
    await lab.until(id, 'succeeded');
    const pauses = at.slice(1).map((time, i) => time - at[i]!);
    // 250 ms doubling, half of it jitter.
    expect(pauses[0]).toBeGreaterThanOrEqual(120);
    expect(pauses[2]).toBeGreaterThanOrEqual(480);
    expect(await lab.jobOf(id)).toMatchObject({ failures: 0, attempts: 1 });
  });

  test('of a system elsewhere that is away are waited out, however many, and the user sees what for', async () => {
    let isAway = true;
    let tries = 0;
    const id = await lab.enqueue(async (job) => {
      await job.step('ask', {
        act: async () => {
          tries++;
          if (isAway) throw new RhyzomeError('identity_provider_unavailable', 'It does not answer.');
        },
      });
    });
    lab.startRunner('one', { maxFailures: 2 });
    await expect.poll(() => tries, { timeout: 15_000 }).toBeGreaterThan(2);
    expect(await lab.jobOf(id)).toMatchObject({ state: 'waiting', message: 'It does not answer.', phase: 'do' });
    isAway = false;
    await lab.until(id, 'succeeded');
    expect(await lab.jobOf(id)).toMatchObject({ message: null, error: null });
  });

  test('for good undo what was done, last first, and say nothing of our insides', async () => {
    const undone: string[] = [];
    const step = (name: string) => ({
      act: async () => name,
      undo: async (_: unknown, result: string | undefined) => void undone.push(result!),
    });
    const id = await lab.enqueue(async (job) => {
      await job.step('one', step('one'));
      await job.step('two', step('two'));
      await job.step('three', {
        act: async () => {
          throw new Error('secret detail');
        },
        undo: async () => void undone.push('three'),
      });
    });
    lab.startRunner('one', { maxFailures: 2 });
    await lab.until(id, 'failed');
    expect(undone).toEqual(['two', 'one']);
    const job = await lab.jobOf(id);
    expect(job.error).toMatchObject({ code: 'internal' });
    expect(JSON.stringify(job.error)).not.toContain('secret');
    expect(lab.settled.find((one) => one.job === id)).toEqual({ job: id, outcome: 'failed', code: 'internal' });
    expect(await lab.stepsOf(id)).toEqual(['one: undone', 'two: undone']);
  });

  test('that have a reason end the job at once with it', async () => {
    let tries = 0;
    const id = await lab.enqueue(async (job) => {
      await job.step('refused', {
        act: async () => {
          tries++;
          throw new RhyzomeError('no_capacity', 'No room.', { extensions: { short: ['vcpus'] } });
        },
      });
    });
    lab.startRunner();
    await lab.until(id, 'failed');
    expect(tries).toBe(1);
    expect((await lab.jobOf(id)).error).toEqual({
      code: 'no_capacity',
      message: 'No room.',
      details: { short: ['vcpus'] },
    });
  });

  test('of an undo are an alarm, and are tried on', async () => {
    let tries = 0;
    const id = await lab.enqueue(async (job) => {
      await job.step('one', {
        act: async () => undefined,
        undo: async () => {
          if (++tries < 3) throw new Error('stuck');
        },
      });
      throw new RhyzomeError('job_failed', 'no');
    });
    lab.startRunner('one', { maxFailures: 2 });
    await expect
      .poll(() => lab.jobOf(id), { timeout: 8_000 })
      .toMatchObject({
        phase: 'undo',
        finished_at: null,
        lease_owner: null,
        message: expect.stringMatching(/^Undoing does not succeed/),
      });
    expect(lab.logs).toContain('an undo does not succeed');
    await lab.db.operator
      .updateTable('job')
      .set({ run_at: new Date(0) })
      .where('id', '=', id)
      .execute();
    await lab.until(id, 'failed');
  });

  test('by another version of the program, which has other steps, repeat nothing', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await lab.enqueue(async (job, worker) => {
      await job.step(worker === 'old' ? 'before' : 'after', { act: async () => void ran.push(worker) });
      if (worker === 'old') await held.pass();
    });
    const old = lab.startRunner('old');
    await held.arrived;
    await old.stop(0);
    await lab.expire();
    lab.startRunner('new', { maxFailures: 1 });
    await expect.poll(async () => (await lab.jobOf(id)).phase, { timeout: 5_000 }).toBe('undo');
    expect(ran).toEqual(['old']);
    held.open();
    await lab.db.operator.deleteFrom('job').where('id', '=', id).execute();
  });
});

describe('waiting', () => {
  test('gives the worker back, shows what for, and goes on when it is woken', async () => {
    let isThere = false;
    const resourceId = newId();
    const id = await lab.enqueue(
      async (job) => {
        expect(await job.wait('node', async () => (isThere ? 'yes' : new Waiting('Node n1 is away.', true)))).toBe(
          'yes',
        );
      },
      { resourceId },
    );
    const runner = lab.startRunner('one', { workers: 1 });
    await lab.until(id, 'waiting');
    await expect.poll(() => runner.running).toBe(0);
    expect(await lab.jobOf(id)).toMatchObject({ message: 'Node n1 is away.', lease_owner: null });
    expect(await lab.stepsOf(id)).toEqual(['node: waiting']);
    isThere = true;
    await lab.inTenant((tx) => wakeJobs(tx, JOB_TENANT, [resourceId]));
    await lab.until(id, 'succeeded');
  });

  test('does not lose who wakes it between its look and its parking', async () => {
    let isThere = false;
    const held = gate();
    const resourceId = newId();
    const id = await lab.enqueue(
      async (job) => {
        try {
          await job.wait('node', async () => (isThere ? true : new Waiting('not yet')));
        } catch (error) {
          if (error instanceof Parked) await held.pass();
          throw error;
        }
      },
      { resourceId },
    );
    lab.startRunner('one', { workers: 1 });
    await held.arrived;
    isThere = true;
    await lab.inTenant((tx) => wakeJobs(tx, JOB_TENANT, [resourceId]));
    const woken = Date.now();
    held.open();
    await lab.until(id, 'succeeded');
    expect(Date.now() - woken).toBeLessThan(1_500);
  });
});
