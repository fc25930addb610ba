/** Workers and their leases on a real database; the work itself is told by each test. */

import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId, Waiting } from '#libs/core';
import { gate, type JobLab, openJobLab } from '#libs/testing';

let lab: JobLab;

beforeAll(async () => {
  lab = await openJobLab();
});
afterEach(() => lab.stopRunners());
afterAll(() => lab?.close());

describe('leases', () => {
  test('who has lost its lease writes nothing more', async () => {
    const gates = { one: gate(), two: gate() };
    const ran: string[] = [];
    const id = await lab.enqueue(async (job, worker) => {
      await job.step('first', { act: async () => void ran.push(`first by ${worker}`) });
      await gates[worker as 'one' | 'two'].pass();
      await job.step('second', { act: async () => void ran.push(`second by ${worker}`) });
    });
    lab.startRunner('one', { leaseMs: 60_000 });
    await gates.one.arrived;
    const { fence } = await lab.jobOf(id);
    await lab.expire();
    lab.startRunner('two');
    await gates.two.arrived;
    const taken = await lab.jobOf(id);
    expect(taken.fence).toBeGreaterThan(fence);
    lab.logs.length = 0;
    gates.one.open();
    await expect.poll(() => lab.logs).toContain('the job is no longer ours');
    expect(ran).toEqual(['first by one']);
    expect({ ...(await lab.jobOf(id)), lease_until: null }).toEqual({ ...taken, lease_until: null });
    gates.two.open();
    await lab.until(id, 'succeeded');
    expect(ran).toEqual(['first by one', 'second by two']);
    expect(lab.settled.filter(({ job }) => job === id)).toHaveLength(1);
  });

  test('are renewed while the work goes on, however long', async () => {
    const workers: string[] = [];
    const id = await lab.enqueue(async (job, worker) => {
      workers.push(worker);
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      await job.step('late', { act: async () => undefined });
    });
    lab.startRunner('one', { leaseMs: 1_500 });
    await expect.poll(() => workers, { timeout: 10_000 }).toHaveLength(1);
    lab.startRunner('two', { leaseMs: 1_500 });
    await lab.until(id, 'succeeded');
    expect(workers).toEqual(['one']);
  });

  test('are renewed while the process does nothing but compute', async () => {
    const held: boolean[] = [];
    const id = await lab.enqueue(async () => {
      const end = Date.now() + 4_000;
      while (Date.now() < end) Math.sqrt(end);
      // Asked before this thread has had a turn for timers.
      const row = await sql<{
        held: boolean;
      }>`select lease_until > clock_timestamp() as held from job where id = ${id}`.execute(lab.db.operator);
      held.push(row.rows[0]!.held);
    });
    lab.startRunner('one', { leaseMs: 1_800 });
    await lab.until(id, 'succeeded');
    expect(held).toEqual([true]);
  });

  test('of a killed worker run out, and another goes on after the last step that was recorded', async () => {
    const ran: string[] = [];
    const held = gate();
    const id = await lab.enqueue(async (job, worker) => {
      const result = await job.step('first', { act: async () => ({ by: worker }) });
      ran.push(`${worker} knows first by ${result.by}`);
      if (worker === 'killed') await held.pass();
      await job.step('second', { act: async () => undefined });
    });
    const killed = lab.startRunner('killed', { leaseMs: 300 });
    await held.arrived;
    await killed.stop(0);
    lab.startRunner('other', { leaseMs: 300 });
    await lab.until(id, 'succeeded');
    expect(ran).toEqual(['killed knows first by killed', 'other knows first by killed']);
    held.open();
  });

  test('let two workers share 200 jobs, each done once', async () => {
    const done = new Map<string, string[]>();
    const ids = await Promise.all(
      Array.from({ length: 200 }, () =>
        lab.enqueue(async (job, worker) => {
          await job.step('once', { act: async () => void done.set(job.id, [...(done.get(job.id) ?? []), worker]) });
        }),
      ),
    );
    lab.startRunner('one', { workers: 6 });
    lab.startRunner('two', { workers: 6 });
    await expect.poll(() => done.size, { timeout: 15_000 }).toBe(200);
    await Promise.all(ids.map((id) => lab.until(id, 'succeeded')));
    expect([...done.values()].filter((workers) => workers.length !== 1)).toEqual([]);
    expect(new Set([...done.values()].flat())).toEqual(new Set(['one', 'two']));
    const counts = await sql<{ n: number }>`select count(*)::int as n from job
      where id = any(${ids}::uuid[]) and state = 'succeeded' and attempts = 1 and progress = 100`.execute(
      lab.db.operator,
    );
    expect(counts.rows).toEqual([{ n: 200 }]);
  });
});

describe('a job that takes another’s place', () => {
  test('undoes the other’s steps first, whose worker writes no more', async () => {
    const held = gate();
    const ran: string[] = [];
    const resourceId = newId();
    const first = await lab.enqueue(
      async (job, worker) => {
        await job.step('make', { act: async () => void ran.push('make'), undo: async () => void ran.push('unmake') });
        if (worker === 'one') await held.pass();
        await job.wait('it is there', async () => new Waiting('It is not there.'));
      },
      { resourceId },
    );
    const one = lab.startRunner('one', { workers: 1 });
    await held.arrived;
    // What the pipeline writes when a removal comes.
    await sql`update job set state = 'cancelled', finished_at = now(), fence = fence + 1, lease_owner = null,
      lease_until = null where id = ${first}`.execute(lab.db.operator);
    await sql`insert into job_step (tenant_id, job_id, ordinal, name, state, started_at)
      select tenant_id, id, 2, 'it is there', 'waiting', now() from job where id = ${first}`.execute(lab.db.operator);
    const second = await lab.enqueue(
      async (job) => void (await job.step('remove', { act: async () => void ran.push('remove') })),
      {
        resourceId,
        supersedes: first,
      },
    );
    held.open();
    await one.stop();
    lab.startRunner('two');
    await lab.until(second, 'succeeded');
    expect(ran).toEqual(['make', 'unmake', 'remove']);
    expect(await lab.stepsOf(first)).toEqual(['make: undone', 'it is there: undone']);
  });
});
