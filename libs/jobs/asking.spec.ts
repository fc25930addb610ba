/** A step and the wait for what it asked for, in one transaction. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { cancelJob, wakeJobs, wakeWaiters } from '#libs/jobs';
import { JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

/** A job that asks for what comes later, and what it did. */
function asking({ on, newsOf }: { on?: string; newsOf?: string } = {}) {
  const seen = { isThere: false, acts: [] as Tx[], looks: [] as Tx[], undone: 0 };
  const work: Parameters<JobLab['enqueue']>[0] = (job) =>
    job.ask('ask for it', {
      act: async (tx) => void seen.acts.push(tx),
      undo: async () => {
        seen.undone += 1;
      },
      newsOf: () => newsOf,
      until: {
        name: 'it is there',
        probe: async (tx) => {
          seen.looks.push(tx);
          return seen.isThere ? 'yes' : new Waiting('Node n1 is at work.', false, on);
        },
      },
    });
  return { seen, work };
}

const wake = (id: string) => lab.inTenant((tx) => wakeJobs(tx, JOB_TENANT, [id]));

describe('asking', () => {
  test('gives the job back in the transaction that asks, and goes on with the news', async () => {
    const { seen, work } = asking();
    const resourceId = newId();
    const id = await lab.enqueue(work, { resourceId });
    lab.startRunner();
    await expect.poll(() => lab.stepsOf(id)).toEqual(['ask for it: succeeded', 'it is there: waiting']);
    expect(await lab.jobOf(id)).toMatchObject({ state: 'running', message: 'Node n1 is at work.', lease_owner: null });
    expect(seen.acts).toHaveLength(1);
    expect(seen.looks).toEqual(seen.acts);
    seen.isThere = true;
    await wake(resourceId);
    await lab.until(id, 'succeeded');
    expect(await lab.stepsOf(id)).toEqual(['ask for it: succeeded', 'it is there: succeeded']);
    expect([seen.acts.length, seen.looks.length]).toEqual([1, 2]);
  });

  test('goes on at once where there is nothing to wait for', async () => {
    const { seen, work } = asking();
    seen.isThere = true;
    const id = await lab.enqueue(work);
    lab.startRunner();
    await lab.until(id, 'succeeded');
    expect(await lab.stepsOf(id)).toEqual(['ask for it: succeeded', 'it is there: succeeded']);
  });

  test.each([
    ['that the step names: one look', true, 1],
    ['that nobody named: it looks again once that is written down', false, 3],
  ])('waits for news of another %s', async (_, isNamed, looks) => {
    const other = newId();
    const { seen, work } = asking({ on: other, newsOf: isNamed ? other : undefined });
    const id = await lab.enqueue(work);
    lab.startRunner();
    await expect.poll(async () => (await lab.jobOf(id)).waits_for).toBe(other);
    await expect.poll(async () => (await lab.jobOf(id)).lease_owner).toBeNull();
    expect(seen.looks).toHaveLength(looks);
    seen.isThere = true;
    await lab.inTenant((tx) => wakeWaiters(tx, JOB_TENANT, other));
    await lab.until(id, 'succeeded');
  });

  test('is undone when it is cancelled while it waits', async () => {
    const { seen, work } = asking();
    const id = await lab.enqueue(work);
    lab.startRunner();
    await expect.poll(() => lab.stepsOf(id)).toEqual(['ask for it: succeeded', 'it is there: waiting']);
    await lab.inTenant((tx) => cancelJob(tx, JOB_TENANT, id));
    await lab.until(id, 'cancelled');
    expect(seen.undone).toBe(1);
  });

  test('has asked for nothing where the look says that it cannot be', async () => {
    let undone = 0;
    const id = await lab.enqueue((job) =>
      job.ask('ask for it', {
        act: async () => undefined,
        undo: async () => {
          undone += 1;
        },
        until: {
          name: 'it is there',
          probe: async () => {
            throw new RhyzomeError('no_capacity', 'No node has room.');
          },
        },
      }),
    );
    lab.startRunner();
    await lab.until(id, 'failed');
    expect(await lab.stepsOf(id)).toEqual([]);
    expect(undone).toBe(0);
  });
});
