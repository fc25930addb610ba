/** What takes too long, fails too often or kills its workers: when it is given up, and when somebody is told. */
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RhyzomeError, Waiting } from '#libs/core';
import { AlarmWatch, cancelJob, wakeWorkers } from '#libs/jobs';
import { gate, JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';
import { deadlineOf } from './limits.js';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

const eventually = <T>(look: () => Promise<T>) => expect.poll(look, { timeout: 8_000 });
const nothing = { act: async () => undefined };

/** `code` of each alarm of a job, open ones only. */
async function alarmsOf(id: string): Promise<string[]> {
  const query = lab.db.operator
    .selectFrom('alarm')
    .select('code')
    .where('job_id', '=', id)
    .where('cleared_at', 'is', null);
  return (await query.orderBy('code').execute()).map(({ code }) => code);
}

/** What time does: the deadline of the step that is under way has passed. */
async function passDeadline(id: string): Promise<void> {
  await sql`update job_step set deadline_at = now() - interval '1 second' where job_id = ${id} and deadline_at is not null`.execute(
    lab.db.operator,
  );
}

async function setJob(id: string, change: Record<string, unknown>): Promise<void> {
  await lab.db.operator.updateTable('job').set(change).where('id', '=', id).execute();
}

/** Due now, as if its next look had come. */
async function wake(id: string): Promise<void> {
  await setJob(id, { run_at: new Date(0) });
  await lab.inTenant(async () => wakeWorkers());
}

async function stepOf(id: string, name: string) {
  const query = lab.db.operator.selectFrom('job_step').selectAll().where('job_id', '=', id).where('name', '=', name);
  return query.executeTakeFirst();
}

describe('a wait', () => {
  test('past its deadline fails the job, says what it waited for, and what was done is undone', async () => {
    const undone: string[] = [];
    const id = await lab.enqueue(async (job) => {
      await job.step('one', { ...nothing, undo: async () => void undone.push('one') });
      await job.wait('machine runs', async () => new Waiting('Node n1 is at work.'), { deadlineMs: 300 });
    });
    lab.startRunner();
    await lab.until(id, 'failed');
    expect((await lab.jobOf(id)).error).toEqual({
      code: 'step_timed_out',
      message: '“machine runs” did not get done within 0.3 s. It last said: Node n1 is at work.',
      details: { step: 'machine runs' },
    });
    expect(undone).toEqual(['one']);
  });

  test('keeps its deadline whoever runs the job and whatever it says', async () => {
    let looks = 0;
    const id = await lab.enqueue((job) => job.wait('late', async () => new Waiting(`Look ${++looks}.`)));
    const one = lab.startRunner('one');
    await lab.until(id, 'running');
    await eventually(() => stepOf(id, 'late')).toMatchObject({ state: 'waiting', message: 'Look 1.' });
    const { deadline_at: first } = (await stepOf(id, 'late'))!;
    expect(first!.getTime()).toBeGreaterThan(Date.now() + 10 * 60_000);
    await one.stop();
    await wake(id);
    lab.startRunner('two');
    await eventually(async () => (await stepOf(id, 'late'))!.message).toBe('Look 2.');
    expect((await stepOf(id, 'late'))!.deadline_at).toEqual(first);
    await passDeadline(id);
    await wake(id);
    await lab.until(id, 'failed');
  });

  test('for something outside has no deadline; it begins anew when it waits for its node’s work again', async () => {
    let isAway = true;
    const id = await lab.enqueue((job) =>
      job.wait('node', async () => new Waiting(isAway ? 'Node n1 is away.' : 'Node n1 is at work.', isAway)),
    );
    lab.startRunner();
    await lab.until(id, 'waiting');
    expect(await stepOf(id, 'node')).toMatchObject({ state: 'waiting', deadline_at: null });
    isAway = false;
    await wake(id);
    await eventually(async () => (await stepOf(id, 'node'))!.deadline_at).not.toBeNull();
    isAway = true;
    await passDeadline(id);
    await wake(id);
    await eventually(async () => (await stepOf(id, 'node'))!.deadline_at).toBeNull();
    await lab.inTenant((tx) => cancelJob(tx, JOB_TENANT, id));
    await lab.until(id, 'cancelled');
  });

  test('that tells how far it is begins its deadline anew whenever it gets on', async () => {
    let bytes = 1;
    const id = await lab.enqueue((job) =>
      job.wait('content', async () => new Waiting(`${bytes} bytes`), { tellsProgress: true }),
    );
    lab.startRunner();
    await eventually(() => stepOf(id, 'content')).toMatchObject({ message: '1 bytes' });
    await passDeadline(id);
    bytes = 2;
    await wake(id);
    await eventually(() => stepOf(id, 'content')).toMatchObject({ state: 'waiting', message: '2 bytes' });
    expect((await stepOf(id, 'content'))!.deadline_at!.getTime()).toBeGreaterThan(Date.now());
    await passDeadline(id);
    await wake(id);
    await lab.until(id, 'failed');
  });

  test('of a removal has none', () => {
    expect(deadlineOf({}, 'create')).toBe(900_000);
    expect(deadlineOf({}, 'delete')).toBeNull();
    expect(deadlineOf({ deadlineMs: 5 }, 'delete')).toBe(5);
    expect(deadlineOf({ deadlineMs: false }, 'create')).toBeNull();
  });
});

describe('work outside', () => {
  const endless = (signal: AbortSignal) =>
    new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(new Error('cut off'))));

  test('past its deadline is aborted, and undone', async () => {
    const undone: string[] = [];
    const id = await lab.enqueue((job) =>
      job.step('fetch', { ...nothing, deadlineMs: 300, outside: endless, undo: async () => void undone.push('fetch') }),
    );
    lab.startRunner();
    await lab.until(id, 'failed');
    expect((await lab.jobOf(id)).error).toMatchObject({ code: 'step_timed_out', details: { step: 'fetch' } });
    expect(undone).toEqual(['fetch']);
  });

  test('may take as long as it gets on', async () => {
    const begun = performance.now();
    const id = await lab.enqueue(async (job) => {
      await job.step('fetch', {
        deadlineMs: 1_500,
        progress: async () => Math.floor(performance.now()),
        outside: () => new Promise<void>((resolve) => setTimeout(resolve, 4_000)),
        act: async () => undefined,
      });
    });
    lab.startRunner();
    await lab.until(id, 'succeeded');
    expect(performance.now() - begun).toBeGreaterThan(4_000);
  });

  test('that waits for another system takes its time, and somebody is told after many tries', async () => {
    let isAway = true;
    const id = await lab.enqueue((job) =>
      job.step('ask', {
        ...nothing,
        outside: async () => {
          if (isAway) throw new RhyzomeError('identity_provider_unavailable', 'It does not answer.');
        },
      }),
    );
    lab.startRunner();
    await lab.until(id, 'waiting');
    expect(await stepOf(id, 'ask')).toMatchObject({ state: 'running', deadline_at: null });
    await setJob(id, { failures: 40 });
    await wake(id);
    await eventually(() => alarmsOf(id)).toEqual(['job_failing']);
    isAway = false;
    await wake(id);
    await lab.until(id, 'succeeded');
    expect(await alarmsOf(id)).toEqual([]);
  });
});

describe('tries', () => {
  test('are as many as the step says', async () => {
    let tries = 0;
    const id = await lab.enqueue((job) =>
      job.step('once', {
        tries: 1,
        act: async () => {
          tries++;
          throw new Error('broken');
        },
      }),
    );
    lab.startRunner();
    await lab.until(id, 'failed');
    expect(tries).toBe(1);
  });

  test('that kill their workers are an alarm, gone when the step is done, and fail the job in the end', async () => {
    const held = gate();
    const crash = (id: string, crashes: number) =>
      setJob(id, { crashes, lease_owner: 'dead', lease_until: new Date(0), run_at: new Date(0), state: 'running' });
    const id = await lab.enqueue(async (job) => {
      await job.step('one', nothing);
      await held.pass();
    });
    await crash(id, 2);
    lab.startRunner();
    await held.arrived;
    expect(await alarmsOf(id)).toEqual([]);
    expect(await lab.db.operator.selectFrom('alarm').select('code').where('job_id', '=', id).execute()).toEqual([
      { code: 'job_crashing' },
    ]);
    expect(await lab.jobOf(id)).toMatchObject({ crashes: 0 });
    held.open();
    await lab.until(id, 'succeeded');
    await lab.stopRunners();
    const bad = await lab.enqueue((job) => job.step('one', nothing));
    await crash(bad, 9);
    lab.startRunner();
    await lab.until(bad, 'failed');
    expect((await lab.jobOf(bad)).error).toMatchObject({ message: expect.stringMatching(/^10 workers died/) });
    expect(await stepOf(bad, 'one')).toBeUndefined();
  });
});

describe('a job that has not ended in time', () => {
  const late = (id: string) => setJob(id, { alarm_at: new Date(0) });

  test('is an alarm until it ends, told once, whatever it waits for', async () => {
    let isThere = false;
    const watch = new AlarmWatch(lab.db, { warn: () => undefined });
    const id = await lab.enqueue((job) =>
      job.wait('node', async () => (isThere ? true : new Waiting('Node n1 is away.', true))),
    );
    expect((await lab.jobOf(id)).alarm_at!.getTime()).toBeGreaterThan(Date.now() + 5 * 60_000);
    await watch.look();
    expect(await alarmsOf(id)).toEqual([]);
    await late(id);
    await Promise.all([watch.look(), watch.look()]);
    expect(await alarmsOf(id)).toEqual(['job_overdue']);
    lab.startRunner();
    await lab.until(id, 'waiting');
    await late(id);
    await watch.look();
    const [told, ...others] = await lab.db.operator.selectFrom('alarm').selectAll().where('job_id', '=', id).execute();
    expect(told!.message).toMatch(/should have ended by now, and goes on\. It says: Node n1 is away\.$/);
    expect(others).toEqual([]);
    isThere = true;
    await wake(id);
    await lab.until(id, 'succeeded');
    expect(await alarmsOf(id)).toEqual([]);
  });

  test('is none while it waits for its user, and may be as late as its step says', async () => {
    let hasCome = false;
    const id = await lab.enqueue(async (job) => {
      await job.wait('upload', async () => hasCome || new Waiting('PUT it.', true), { alarm: false });
      await job.wait('disk', async () => new Waiting('Node n1 is at work.'), { deadlineMs: 3_600_000 });
    });
    lab.startRunner();
    await lab.until(id, 'waiting');
    expect((await lab.jobOf(id)).alarm_at).toBeNull();
    hasCome = true;
    await wake(id);
    await eventually(() => stepOf(id, 'disk')).toMatchObject({ state: 'waiting' });
    expect((await lab.jobOf(id)).alarm_at!.getTime()).toBeGreaterThan(Date.now() + 35 * 60_000);
    await lab.inTenant((tx) => cancelJob(tx, JOB_TENANT, id));
    await lab.until(id, 'cancelled');
  });

  test('and is being undone says that what it did is still there', async () => {
    let isGone = false;
    const watch = new AlarmWatch(lab.db, { warn: () => undefined });
    const id = await lab.enqueue(async (job) => {
      await job.step('one', { ...nothing, undone: async () => isGone || new Waiting('Node n1 is at work.') });
      throw new RhyzomeError('job_failed', 'no');
    });
    lab.startRunner();
    await eventually(async () => (await stepOf(id, 'one'))?.state).toBe('undoing');
    await late(id);
    await watch.look();
    expect(await alarmsOf(id)).toEqual(['undo_stuck']);
    isGone = true;
    await wake(id);
    await lab.until(id, 'failed');
    expect(await alarmsOf(id)).toEqual([]);
  });
});
