/** Workers and their leases on a real database; the work itself is told by each test. */
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  cancelJob,
  type JobHandler,
  type JobOutcome,
  type JobRow,
  type JobRun,
  JobRunner,
  jobValues,
  wakeJobs,
  wakeWorkers,
} from '#libs/jobs';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { Parked } from './run.js';

const TENANT = 'acme';
type Work = (job: JobRun, worker: string) => Promise<void>;

let database: TestDatabase;
const runners: JobRunner[] = [];
/** By action. */
const works = new Map<string, Work>();
const settled: { job: string; outcome: JobOutcome; code: string | undefined }[] = [];
const logs: string[] = [];

beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'Acme')`.execute(database.db.operator);
  await database.listener.start();
});
afterEach(async () => {
  await Promise.all(runners.splice(0).map((runner) => runner.stop(500)));
});
afterAll(() => database?.close());

const log = {
  info: (_: object, message: string) => void logs.push(message),
  warn: (_: object, message: string) => void logs.push(message),
  error: (_: object, message: string) => void logs.push(message),
};

function startRunner(
  name = 'one',
  options: { workers?: number; leaseMs?: number; maxFailures?: number } = {},
): JobRunner {
  const handler: JobHandler = {
    run: (row, job) => works.get(row.action)!(job, name),
    begin: async () => undefined,
    settle: async (_, row, outcome, failure) => {
      settled.push({ job: row.id, outcome, code: failure?.code });
    },
  };
  const runner = new JobRunner(database.db, database.listener, handler, { log, ...options });
  runners.push(runner);
  runner.start();
  return runner;
}

async function enqueue(work: Work, more: { supersedes?: string; resourceId?: string } = {}): Promise<string> {
  const id = newId();
  const action = `act-${id}`;
  works.set(action, work);
  await inTenant((tx) => {
    const values = jobValues({
      tenantId: TENANT,
      id,
      resourceId: more.resourceId ?? newId(),
      kind: 'thing',
      resourceName: 'thing',
      action,
      request: {},
      createdBy: 'test',
      supersedes: more.supersedes,
    });
    wakeWorkers();
    return tx.insertInto('job').values(values).execute();
  });
  return id;
}

function inTenant<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
  return database.db.tenantTransaction(TENANT, work);
}

async function jobOf(id: string): Promise<JobRow> {
  return database.db.operator.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
}

async function stepsOf(id: string): Promise<string[]> {
  const steps = await database.db.operator
    .selectFrom('job_step')
    .select(['name', 'state'])
    .where('job_id', '=', id)
    .orderBy('ordinal')
    .execute();
  return steps.map(({ name, state }) => `${name}: ${state}`);
}

function until(id: string, state: string): Promise<void> {
  return expect.poll(async () => (await jobOf(id)).state, { timeout: 8_000, interval: 10 }).toBe(state);
}

/** Somewhere to be held until it opens. */
function gate() {
  let open: () => void = () => undefined;
  let arrive: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  const arrived = new Promise<void>((resolve) => (arrive = resolve));
  return {
    open,
    arrived,
    pass: () => {
      arrive();
      return opened;
    },
  };
}

const expire = () =>
  sql`update job set lease_until = now() - interval '1 second', run_at = now() where finished_at is null and lease_until is not null`.execute(
    database.db.operator,
  );

describe('leases', () => {
  test('who has lost its lease writes nothing more', async () => {
    const gates = { one: gate(), two: gate() };
    const ran: string[] = [];
    const id = await enqueue(async (job, worker) => {
      await job.step('first', { act: async () => void ran.push(`first by ${worker}`) });
      await gates[worker as 'one' | 'two'].pass();
      await job.step('second', { act: async () => void ran.push(`second by ${worker}`) });
    });
    startRunner('one', { leaseMs: 60_000 });
    await gates.one.arrived;
    const { fence } = await jobOf(id);
    await expire();
    startRunner('two');
    await gates.two.arrived;
    const taken = await jobOf(id);
    expect(taken.fence).toBeGreaterThan(fence);
    logs.length = 0;
    gates.one.open();
    await expect.poll(() => logs).toContain('the job is no longer ours');
    expect(ran).toEqual(['first by one']);
    expect({ ...(await jobOf(id)), lease_until: null }).toEqual({ ...taken, lease_until: null });
    gates.two.open();
    await until(id, 'succeeded');
    expect(ran).toEqual(['first by one', 'second by two']);
    expect(settled.filter(({ job }) => job === id)).toHaveLength(1);
  });

  test('are renewed while the work goes on, however long', async () => {
    const workers: string[] = [];
    const id = await enqueue(async (job, worker) => {
      workers.push(worker);
      await new Promise((resolve) => setTimeout(resolve, 1_200));
      await job.step('late', { act: async () => undefined });
    });
    startRunner('one', { leaseMs: 300 });
    await expect.poll(() => workers).toHaveLength(1);
    startRunner('two', { leaseMs: 300 });
    await until(id, 'succeeded');
    expect(workers).toEqual(['one']);
  });

  test('of a killed worker run out, and another goes on after the last step that was recorded', async () => {
    const ran: string[] = [];
    const held = gate();
    const id = await enqueue(async (job, worker) => {
      const result = await job.step('first', { act: async () => ({ by: worker }) });
      ran.push(`${worker} knows first by ${result.by}`);
      if (worker === 'killed') await held.pass();
      await job.step('second', { act: async () => undefined });
    });
    const killed = startRunner('killed', { leaseMs: 300 });
    await held.arrived;
    await killed.stop(0);
    startRunner('other', { leaseMs: 300 });
    await until(id, 'succeeded');
    expect(ran).toEqual(['killed knows first by killed', 'other knows first by killed']);
    held.open();
  });

  test('let two workers share 200 jobs, each done once', async () => {
    const done = new Map<string, string[]>();
    const ids = await Promise.all(
      Array.from({ length: 200 }, () =>
        enqueue(async (job, worker) => {
          await job.step('once', { act: async () => void done.set(job.id, [...(done.get(job.id) ?? []), worker]) });
        }),
      ),
    );
    startRunner('one', { workers: 6 });
    startRunner('two', { workers: 6 });
    await expect.poll(() => done.size, { timeout: 15_000 }).toBe(200);
    await Promise.all(ids.map((id) => until(id, 'succeeded')));
    expect([...done.values()].filter((workers) => workers.length !== 1)).toEqual([]);
    expect(new Set([...done.values()].flat())).toEqual(new Set(['one', 'two']));
    const counts = await sql<{ n: number }>`select count(*)::int as n from job
      where id = any(${ids}::uuid[]) and state = 'succeeded' and attempts = 1 and progress = 100`.execute(
      database.db.operator,
    );
    expect(counts.rows).toEqual([{ n: 200 }]);
  });
});

describe('failures', () => {
  test('that are nobody’s are tried again with growing pauses', async () => {
    const at: number[] = [];
    const id = await enqueue(async (job) => {
      await job.step('flaky', {
        act: async () => {
          at.push(Date.now());
          if (at.length < 4) throw new Error('flaky');
        },
      });
    });
    startRunner();
    await until(id, 'succeeded');
    const pauses = at.slice(1).map((time, i) => time - at[i]!);
    // 250 ms doubling, half of it jitter.
    expect(pauses[0]).toBeGreaterThanOrEqual(120);
    expect(pauses[2]).toBeGreaterThanOrEqual(480);
    expect(await jobOf(id)).toMatchObject({ failures: 0, attempts: 1 });
  });

  test('for good undo what was done, last first, and say nothing of our insides', async () => {
    const undone: string[] = [];
    const step = (name: string) => ({
      act: async () => name,
      undo: async (_: unknown, result: string | undefined) => void undone.push(result!),
    });
    const id = await enqueue(async (job) => {
      await job.step('one', step('one'));
      await job.step('two', step('two'));
      await job.step('three', {
        act: async () => {
          throw new Error('secret detail');
        },
        undo: async () => void undone.push('three'),
      });
    });
    startRunner('one', { maxFailures: 2 });
    await until(id, 'failed');
    expect(undone).toEqual(['two', 'one']);
    const job = await jobOf(id);
    expect(job.error).toMatchObject({ code: 'internal' });
    expect(JSON.stringify(job.error)).not.toContain('secret');
    expect(settled.find((one) => one.job === id)).toEqual({ job: id, outcome: 'failed', code: 'internal' });
    expect(await stepsOf(id)).toEqual(['one: undone', 'two: undone']);
  });

  test('that have a reason end the job at once with it', async () => {
    let tries = 0;
    const id = await enqueue(async (job) => {
      await job.step('refused', {
        act: async () => {
          tries++;
          throw new RhyzomeError('no_capacity', 'No room.', { extensions: { short: ['vcpus'] } });
        },
      });
    });
    startRunner();
    await until(id, 'failed');
    expect(tries).toBe(1);
    expect((await jobOf(id)).error).toEqual({
      code: 'no_capacity',
      message: 'No room.',
      details: { short: ['vcpus'] },
    });
  });

  test('of an undo are an alarm, and are tried on', async () => {
    let tries = 0;
    const id = await enqueue(async (job) => {
      await job.step('one', {
        act: async () => undefined,
        undo: async () => {
          if (++tries < 3) throw new Error('stuck');
        },
      });
      throw new RhyzomeError('job_failed', 'no');
    });
    startRunner('one', { maxFailures: 2 });
    await expect
      .poll(() => jobOf(id), { timeout: 8_000 })
      .toMatchObject({
        phase: 'undo',
        finished_at: null,
        lease_owner: null,
        message: expect.stringMatching(/^Undoing does not succeed/),
      });
    expect(logs).toContain('an undo does not succeed');
    await database.db.operator
      .updateTable('job')
      .set({ run_at: new Date(0) })
      .where('id', '=', id)
      .execute();
    await until(id, 'failed');
  });

  test('by another version of the program, which has other steps, repeat nothing', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await enqueue(async (job, worker) => {
      await job.step(worker === 'old' ? 'before' : 'after', { act: async () => void ran.push(worker) });
      if (worker === 'old') await held.pass();
    });
    const old = startRunner('old');
    await held.arrived;
    await old.stop(0);
    await expire();
    startRunner('new', { maxFailures: 1 });
    await expect.poll(async () => (await jobOf(id)).phase, { timeout: 5_000 }).toBe('undo');
    expect(ran).toEqual(['old']);
    held.open();
    await database.db.operator.deleteFrom('job').where('id', '=', id).execute();
  });
});

describe('waiting', () => {
  test('gives the worker back, shows what for, and goes on when it is woken', async () => {
    let isThere = false;
    const resourceId = newId();
    const id = await enqueue(
      async (job) => {
        expect(await job.wait('node', async () => (isThere ? 'yes' : new Waiting('Node n1 is away.', true)))).toBe(
          'yes',
        );
      },
      { resourceId },
    );
    const runner = startRunner('one', { workers: 1 });
    await until(id, 'waiting');
    await expect.poll(() => runner.running).toBe(0);
    expect(await jobOf(id)).toMatchObject({ message: 'Node n1 is away.', lease_owner: null });
    expect(await stepsOf(id)).toEqual(['node: waiting']);
    isThere = true;
    await inTenant((tx) => wakeJobs(tx, TENANT, [resourceId]));
    await until(id, 'succeeded');
  });

  test('does not lose who wakes it between its look and its parking', async () => {
    let isThere = false;
    const held = gate();
    const resourceId = newId();
    const id = await enqueue(
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
    startRunner('one', { workers: 1 });
    await held.arrived;
    isThere = true;
    await inTenant((tx) => wakeJobs(tx, TENANT, [resourceId]));
    const woken = Date.now();
    held.open();
    await until(id, 'succeeded');
    expect(Date.now() - woken).toBeLessThan(1_500);
  });
});

describe('cancelling', () => {
  const cancel = (id: string) => inTenant<JobRow>((tx) => cancelJob(tx, TENANT, id));
  const nothing = { act: async () => undefined };

  test('a queued job never begins', async () => {
    let began = false;
    const id = await enqueue(async (job) => {
      await job.step('one', {
        act: async () => {
          began = true;
        },
      });
    });
    expect(await cancel(id)).toMatchObject({ state: 'cancelling', cancellable: false });
    startRunner();
    await until(id, 'cancelled');
    expect(began).toBe(false);
    expect(settled.find((one) => one.job === id)?.outcome).toBe('cancelled');
  });

  test('a running one is undone from its next write on', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await enqueue(async (job) => {
      await job.step('one', { act: async () => void ran.push('one'), undo: async () => void ran.push('undo one') });
      await held.pass();
      await job.step('two', { act: async () => void ran.push('two') });
    });
    startRunner();
    await held.arrived;
    await cancel(id);
    held.open();
    await until(id, 'cancelled');
    expect(ran).toEqual(['one', 'undo one']);
  });

  test('one that has nothing left to do but to end is undone, too', async () => {
    const held = gate();
    const ran: string[] = [];
    const id = await enqueue(async (job) => {
      await job.step('one', { act: async () => void ran.push('one'), undo: async () => void ran.push('undo one') });
      await held.pass();
    });
    startRunner();
    await held.arrived;
    await cancel(id);
    held.open();
    await until(id, 'cancelled');
    expect(ran).toEqual(['one', 'undo one']);
  });

  test('a waiting one is undone at once', async () => {
    let undone = false;
    const id = await enqueue(async (job) => {
      await job.step('one', {
        ...nothing,
        undo: async () => {
          undone = true;
        },
      });
      await job.wait('for ever', async () => new Waiting('for ever', true));
    });
    startRunner();
    await until(id, 'waiting');
    await cancel(id);
    await until(id, 'cancelled');
    expect(undone).toBe(true);
    expect(await jobOf(id)).toMatchObject({ message: null });
    expect(await stepsOf(id)).toEqual(['one: undone', 'for ever: undone']);
  });

  test('one that is being undone goes on being undone; a failed one says that it is too late', async () => {
    const id = await enqueue(async (job) => {
      await job.step('one', { ...nothing, undo: async () => undefined, undone: async () => new Waiting('slow') });
      await job.wait('for ever', async () => new Waiting('for ever'));
    });
    startRunner();
    await expect.poll(() => stepsOf(id)).toContain('for ever: waiting');
    await cancel(id);
    await expect.poll(() => stepsOf(id)).toContain('one: undoing');
    expect(await cancel(id)).toMatchObject({ state: 'cancelling' });
    await database.db.operator
      .updateTable('job')
      .set({ outcome: 'failed', state: 'running' })
      .where('id', '=', id)
      .execute();
    await expect(cancel(id)).rejects.toMatchObject({ code: 'not_cancellable' });
    await database.db.operator.deleteFrom('job').where('id', '=', id).execute();
  });

  test('an ended one, one past what can be undone, and none at all are refused', async () => {
    const held = gate();
    const ended = await enqueue(async (job) => void (await job.step('one', nothing)));
    const id = await enqueue(async (job) => {
      await job.step('no way back', { ...nothing, cancellable: false });
      await held.pass();
    });
    startRunner();
    await until(ended, 'succeeded');
    await held.arrived;
    for (const job of [ended, id]) await expect(cancel(job)).rejects.toMatchObject({ code: 'not_cancellable' });
    await expect(cancel(newId())).rejects.toMatchObject({ code: 'not_found' });
    held.open();
    await until(id, 'succeeded');
  });
});

describe('a job that takes another’s place', () => {
  test('undoes the other’s steps first, whose worker writes no more', async () => {
    const held = gate();
    const ran: string[] = [];
    const resourceId = newId();
    const first = await enqueue(
      async (job, worker) => {
        await job.step('make', { act: async () => void ran.push('make'), undo: async () => void ran.push('unmake') });
        if (worker === 'one') await held.pass();
        await job.step('more', { act: async () => void ran.push('more') });
      },
      { resourceId },
    );
    const one = startRunner('one', { workers: 1 });
    await held.arrived;
    // What the pipeline writes when a removal comes.
    await sql`update job set state = 'cancelled', finished_at = now(), fence = fence + 1, lease_owner = null,
      lease_until = null where id = ${first}`.execute(database.db.operator);
    const second = await enqueue(
      async (job) => void (await job.step('remove', { act: async () => void ran.push('remove') })),
      {
        resourceId,
        supersedes: first,
      },
    );
    held.open();
    await one.stop();
    startRunner('two');
    await until(second, 'succeeded');
    expect(ran).toEqual(['make', 'unmake', 'remove']);
    expect(await stepsOf(first)).toEqual(['make: undone']);
  });
});
