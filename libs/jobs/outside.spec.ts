/** Steps with work outside of any transaction: cancelled, taken over, stopped and crowded. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { cancelJob } from '#libs/jobs';
import { gate, JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

/** Work that ends only by being aborted. */
function endless(aborts: unknown[], begun: () => void = () => undefined) {
  return (signal: AbortSignal) =>
    new Promise<never>((_, reject) => {
      begun();
      signal.addEventListener('abort', () => {
        aborts.push((signal.reason as Error).name);
        reject(new Error('cut off'));
      });
    });
}

describe('work outside', () => {
  test('is done before the transaction, which gets what it gave; neither again once that is recorded', async () => {
    const ran: string[] = [];
    const held = gate();
    const id = await lab.enqueue(async (job, worker) => {
      const result = await job.step('fetch', {
        outside: async () => {
          ran.push(`outside by ${worker}`);
          return { bytes: 7 };
        },
        act: async (_, { bytes }) => ({ twice: bytes * 2 }),
      });
      ran.push(`${worker} has ${result.twice}`);
      if (worker === 'one') await held.pass();
    });
    const one = lab.startRunner('one', { leaseMs: 300 });
    await held.arrived;
    await one.stop(0);
    lab.startRunner('two', { leaseMs: 300 });
    await lab.until(id, 'succeeded');
    expect(ran).toEqual(['outside by one', 'one has 14', 'two has 14']);
    held.open();
  });

  test('is aborted by a cancel, and what it had begun is undone', async () => {
    const aborts: unknown[] = [];
    const undone: unknown[] = [];
    const begun = gate();
    const id = await lab.enqueue(async (job) => {
      await job.step('fetch', {
        message: 'fetching',
        outside: endless(aborts, () => void begun.pass()),
        act: async () => 'never',
        undo: async (_, result) => void undone.push(result ?? 'begun'),
      });
    });
    lab.startRunner();
    await begun.arrived;
    expect(await lab.stepsOf(id)).toEqual(['fetch: running']);
    expect((await lab.jobOf(id)).message).toBe('fetching');
    await lab.inTenant((tx) => cancelJob(tx, JOB_TENANT, id));
    await lab.until(id, 'cancelled');
    expect(aborts).toEqual(['CancelRequested']);
    expect(undone).toEqual(['begun']);
    expect(await lab.stepsOf(id)).toEqual(['fetch: undone']);
  });

  test('is undone outside, too, without holding the job, and again where that went wrong', async () => {
    const undone: string[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('make', {
        outside: async () => 'thing',
        act: async (_, thing) => thing,
        undoOutside: async (_, thing) => {
          // Whoever renews the lease needs the row that a transaction would hold.
          const free = await lab.inTenant((tx) =>
            tx.selectFrom('job').select('id').where('id', '=', id).forUpdate().skipLocked().execute(),
          );
          undone.push(`${thing}, ${free.length} free`);
          if (undone.length === 1) throw new RhyzomeError('identity_provider_unavailable', 'It is away.');
        },
        undo: async () => void undone.push('rows'),
      });
      throw new RhyzomeError('conflict', 'no further');
    });
    lab.startRunner();
    await lab.until(id, 'failed');
    expect(undone).toEqual(['thing, 1 free', 'thing, 1 free', 'rows']);
  });

  test('is aborted when the lease is lost, and done by who has it now', async () => {
    const aborts: unknown[] = [];
    const begun = gate();
    const id = await lab.enqueue(async (job, worker) => {
      await job.step('fetch', {
        outside: worker === 'one' ? endless(aborts, () => void begun.pass()) : async () => worker as never,
        act: async (_, by) => by,
      });
    });
    lab.startRunner('one', { leaseMs: 60_000 });
    await begun.arrived;
    await lab.expire();
    lab.startRunner('two');
    await lab.until(id, 'succeeded');
    await expect.poll(() => aborts).toEqual(['LeaseLost']);
  });

  test('gives the job back at once when the process ends', async () => {
    const aborts: unknown[] = [];
    const begun = gate();
    const id = await lab.enqueue(async (job, worker) => {
      await job.step('fetch', {
        outside: worker === 'one' ? endless(aborts, () => void begun.pass()) : async () => undefined as never,
        act: async () => undefined,
      });
    });
    const one = lab.startRunner('one', { leaseMs: 60_000 });
    await begun.arrived;
    await one.stop();
    expect(aborts).toEqual(['Stopping']);
    expect(await lab.jobOf(id)).toMatchObject({ lease_owner: null, state: 'running', failures: 0 });
    lab.startRunner('two');
    await lab.until(id, 'succeeded');
  });

  test('is renewed and outlasts its first lease', async () => {
    const workers: string[] = [];
    const id = await lab.enqueue(async (job, worker) => {
      await job.step('slow', {
        outside: async () => {
          workers.push(worker);
          await new Promise((resolve) => setTimeout(resolve, 4_000));
        },
        act: async () => undefined,
      });
    });
    lab.startRunner('one', { leaseMs: 1_500 });
    await expect.poll(() => workers, { timeout: 10_000 }).toHaveLength(1);
    lab.startRunner('two', { leaseMs: 1_500 });
    await lab.until(id, 'succeeded');
    expect(workers).toEqual(['one']);
  });

  test('that fails for good fails the job with its reason', async () => {
    const undone: string[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('fetch', {
        outside: async () => {
          throw new RhyzomeError('conflict', 'not that one');
        },
        act: async () => undefined,
        undo: async () => void undone.push('fetch'),
      });
    });
    lab.startRunner();
    await lab.until(id, 'failed');
    expect((await lab.jobOf(id)).error).toMatchObject({ code: 'conflict', message: 'not that one' });
    expect(undone).toEqual(['fetch']);
  });

  test('of one tenant leaves workers for others: only so much of it runs at once', async () => {
    const open = gate();
    let running = 0;
    let most = 0;
    const slow = () =>
      lab.enqueue(async (job) => {
        await job.step('slow', {
          outside: async () => {
            most = Math.max(most, ++running);
            await open.pass();
            running -= 1;
          },
          act: async () => undefined,
        });
      });
    const ids = await Promise.all(Array.from({ length: 8 }, slow));
    lab.startRunner('one', { workers: 8 });
    await open.arrived;
    const quick = await lab.enqueue(async (job) => {
      await job.step('quick', { act: async () => undefined });
    });
    await lab.until(quick, 'succeeded');
    open.open();
    for (const id of ids) await lab.until(id, 'succeeded');
    expect(most).toBe(2);
  });
});
