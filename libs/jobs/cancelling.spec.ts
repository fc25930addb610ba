/** Cancelling a job at each moment of its life. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId, Waiting } from '#libs/core';
import { cancelJob, type JobRow } from '#libs/jobs';
import { gate, JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

describe('cancelling', () => {
  const cancel = (id: string) => lab.inTenant<JobRow>((tx) => cancelJob(tx, JOB_TENANT, id));
  const nothing = { act: async () => undefined };

  test('a queued job never begins', async () => {
    let began = false;
    const id = await lab.enqueue(async (job) => {
      await job.step('one', {
        act: async () => {
          began = true;
        },
      });
    });
    expect(await cancel(id)).toMatchObject({ state: 'cancelling', cancellable: false });
    lab.startRunner();
    await lab.until(id, 'cancelled');
    expect(began).toBe(false);
    expect(lab.settled.find((one) => one.job === id)?.outcome).toBe('cancelled');
  });

  test('a running one is undone from its next write on', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('one', { act: async () => void ran.push('one'), undo: async () => void ran.push('undo one') });
      await held.pass();
      await job.step('two', { act: async () => void ran.push('two') });
    });
    lab.startRunner();
    await held.arrived;
    await cancel(id);
    held.open();
    await lab.until(id, 'cancelled');
    expect(ran).toEqual(['one', 'undo one']);
  });

  test('one that has nothing left to do but to end is undone, too', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('one', { act: async () => void ran.push('one'), undo: async () => void ran.push('undo one') });
      await held.pass();
    });
    lab.startRunner();
    await held.arrived;
    await cancel(id);
    held.open();
    await lab.until(id, 'cancelled');
    expect(ran).toEqual(['one', 'undo one']);
  });

  test('a waiting one is undone at once', async () => {
    let undone = false;
    const id = await lab.enqueue(async (job) => {
      await job.step('one', {
        ...nothing,
        undo: async () => {
          undone = true;
        },
      });
      await job.wait('for ever', async () => new Waiting('for ever', true));
    });
    lab.startRunner();
    await lab.until(id, 'waiting');
    await cancel(id);
    await lab.until(id, 'cancelled');
    expect(undone).toBe(true);
    expect(await lab.jobOf(id)).toMatchObject({ message: null });
    expect(await lab.stepsOf(id)).toEqual(['one: undone', 'for ever: undone']);
  });

  test('one that is being undone goes on being undone; a failed one says that it is too late', async () => {
    const id = await lab.enqueue(async (job) => {
      await job.step('one', { ...nothing, undo: async () => undefined, undone: async () => new Waiting('slow') });
      await job.wait('for ever', async () => new Waiting('for ever'));
    });
    lab.startRunner();
    await expect.poll(() => lab.stepsOf(id)).toContain('for ever: waiting');
    await cancel(id);
    await expect.poll(() => lab.stepsOf(id)).toContain('one: undoing');
    expect(await cancel(id)).toMatchObject({ state: 'cancelling' });
    await lab.db.operator
      .updateTable('job')
      .set({ outcome: 'failed', state: 'running' })
      .where('id', '=', id)
      .execute();
    await expect(cancel(id)).rejects.toMatchObject({ code: 'not_cancellable' });
    await lab.db.operator.deleteFrom('job').where('id', '=', id).execute();
  });

  test('an ended one, one past what can be undone, and none at all are refused', async () => {
    const held = gate();
    const ended = await lab.enqueue(async (job) => void (await job.step('one', nothing)));
    const id = await lab.enqueue(async (job) => {
      await job.step('no way back', { ...nothing, cancellable: false });
      await held.pass();
    });
    lab.startRunner();
    await lab.until(ended, 'succeeded');
    await held.arrived;
    for (const job of [ended, id]) await expect(cancel(job)).rejects.toMatchObject({ code: 'not_cancellable' });
    await expect(cancel(newId())).rejects.toMatchObject({ code: 'not_found' });
    held.open();
    await lab.until(id, 'succeeded');
  });
});
