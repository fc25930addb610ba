/**
 * Processes that are killed in the middle of a create and of a delete, and a database that is away: all come back by
 * themselves, each job ends once, and nothing is left or doubled.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { EventStream, type SeenEvent } from './harness/events.js';
import { expectProblem } from './harness/expect-problem.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { type ProcessName, type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
beforeAll(async () => {
  stack = await stackNamed('unlucky', { driver: 'sim' });
  api = await apiOf(stack);
  await api.make('networks', { name: 'lan', subnet: '10.90.0.0/24' });
}, 120_000);
afterEach(() => clearFaults(stack));
afterAll(async () => {
  await api.remove('networks', 'lan');
});

/** The answer when there is one: a server that starts again is asked again, and one without a database, too. */
function patiently(ask: () => Promise<Answer>): Promise<Answer> {
  return until(
    'an answer',
    async () => {
      try {
        const answer = await ask();
        return answer.status === 503 ? undefined : answer;
      } catch (error) {
        // Nobody listens, or the connection was cut.
        if (error instanceof TypeError) return undefined;
        throw error;
      }
    },
    40_000,
    100,
  );
}

/** The job when it has ended. */
async function endOf(jobId: string): Promise<any> {
  return until(`the end of job ${jobId}`, async () => {
    const { body } = await patiently(() => api.get(`/v1/jobs/${jobId}?wait=5s`));
    return body.finishedAt !== null && body;
  });
}

/** Machines that the node has. */
function onNode(): string[] {
  const { instances } = JSON.parse(readFileSync(join(stack.data, 'agent', 'sim-state.json'), 'utf8'));
  return instances.map(([id]: [string]) => id);
}

/** Until the job waits for the node, which the fault makes slow. */
async function underWay(answer: Answer): Promise<void> {
  expect({ status: answer.status, text: answer.text }).toMatchObject({ status: 202 });
  await until('the wait for the machine', async () => {
    const { body } = await api.get(`/v1/jobs/${answer.body.job.id}`);
    return ['machine runs', 'machine is gone'].includes(body.steps.at(-1)?.name);
  });
}

async function crash(victim: ProcessName): Promise<void> {
  const before = stack.kill(victim);
  await stack.restarted(victim, before);
}

/** Events of a resource that say that one of its jobs has succeeded, by job. */
async function endsTold(resourceId: string, wanted: number): Promise<string[]> {
  const stream = await EventStream.open(stack.dev.api, api, `?since=0&resource=${resourceId}`);
  const ends = () => stream.seen.flatMap(({ data }) => (data.job?.state === 'succeeded' ? data.job.id : []));
  await until(`${wanted} ends`, () => ends().length >= wanted);
  // One more would come at once.
  await sleep(300);
  await stream.close();
  return ends();
}

describe.each<ProcessName>(['api', 'grpc', 'agent', 'database'])('%s, killed', (victim) => {
  it('in the middle of a create and of a delete, comes back, and both end once', async () => {
    const name = `during-${victim}`;
    injectFaults(stack, [
      { kind: 'instance', operation: 'apply', match: name, times: 1, delayMs: 1_500 },
      { kind: 'instance', operation: 'remove', match: name, times: 1, delayMs: 1_500 },
    ]);
    const made = await api.post('/v1/instances', {
      name,
      image: 'tiny',
      vcpus: 1,
      memoryMiB: 64,
      interfaces: [{ network: 'lan' }],
    });
    await underWay(made);
    await crash(victim);
    expect(await endOf(made.body.job.id)).toMatchObject({ state: 'succeeded', attempts: 1, error: null });
    const machine = await patiently(() => api.get(`/v1/instances/${name}`));
    expect(machine.body).toMatchObject({ state: 'ready', powerState: 'running', interfaces: made.body.interfaces });
    expect(onNode()).toEqual([made.body.id]);

    const removed = await patiently(() => api.delete(`/v1/instances/${name}`));
    await underWay(removed);
    await crash(victim);
    expect(await endOf(removed.body.job.id)).toMatchObject({ state: 'succeeded', error: null });
    expectProblem(await patiently(() => api.get(`/v1/instances/${made.body.id}`)), 404, 'not_found');
    expect(onNode()).toEqual([]);
    const leases = await patiently(() => api.get('/v1/networks/lan/leases'));
    expect(leases.body.items).toEqual([]);
    const jobs = await api.get(`/v1/jobs?resource=${made.body.id}`);
    expect(jobs.body.items.map(({ action }: any) => action)).toEqual(['create', 'delete']);
    expect(await endsTold(made.body.id, 2)).toEqual([made.body.job.id, removed.body.job.id]);
  }, 120_000);
});

describe('a request', () => {
  it('whose answer is lost by a crash makes one resource when it is sent again with its key', async () => {
    const body = { name: 'once', subnet: '10.91.0.0/29' };
    const key = { 'idempotency-key': `crash-${Date.now()}` };
    const lost = api.post('/v1/networks', body, key).catch((error: unknown) => error);
    await sleep(10);
    await crash('api');
    await lost;
    const answer = await patiently(() => api.post('/v1/networks', body, key));
    expect(answer.status).toBe(202);
    await endOf(answer.body.job.id);
    const { items } = (await api.get('/v1/networks?name=once')).body;
    expect(items).toMatchObject([{ id: answer.body.id, state: 'ready' }]);
    await api.remove('networks', 'once');
  }, 60_000);

  it('of many under way while the workers are killed ends, once', async () => {
    const names = Array.from({ length: 10 }, (_, n) => `many-${n}`);
    const machine = { image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
    const made = await Promise.all(names.map((name) => api.post('/v1/instances', { name, ...machine })));
    await crash('grpc');
    for (const { body } of made) expect(await endOf(body.job.id)).toMatchObject({ state: 'succeeded' });
    expect(onNode().sort()).toEqual(made.map(({ body }) => body.id).sort());
    const removed = await Promise.all(names.map((name) => api.delete(`/v1/instances/${name}`)));
    await crash('agent');
    for (const { body } of removed) expect(await endOf(body.job.id)).toMatchObject({ state: 'succeeded' });
    expect(onNode()).toEqual([]);
    expect((await api.get('/v1/networks/lan')).body.addresses.used).toBe(0);
  }, 120_000);
});

describe('a reader of events', () => {
  it('that goes on where it was cut off, again and again, sees each once and in order', async () => {
    const names = Array.from({ length: 12 }, (_, n) => `stream-${n}`);
    const all: SeenEvent[] = [];
    let done = false;
    const first = await EventStream.open(stack.dev.api, api);
    // Its first comment says from where it tells.
    const start = await until('the first comment', () => first.comments[0]?.split(' ').at(-1));
    await first.close();
    const reading = (async () => {
      while (!done) {
        const since = { 'last-event-id': all.at(-1)?.id ?? start };
        const stream = await EventStream.open(stack.dev.api, api, '', since).catch(() => undefined);
        await until('a cut', () => done || !stream || stream.hasEnded || stream.wasCut, 60_000);
        await stream?.close();
        all.push(...(stream?.seen ?? []));
        await sleep(50);
      }
    })();
    const changes = (async () => {
      for (const [n, name] of names.entries()) {
        const body = { name, subnet: `10.93.${n}.0/29` };
        const made = await patiently(() => api.post('/v1/networks', body, { 'idempotency-key': `${name}-${start}` }));
        await endOf(made.body.job.id);
        await endOf((await patiently(() => api.delete(`/v1/networks/${name}`))).body.job.id);
      }
    })();
    for (const victim of ['api', 'grpc', 'api'] as const) {
      await sleep(500);
      await crash(victim);
    }
    await changes;
    const replay = await EventStream.open(stack.dev.api, api, `?since=${start}`);
    const isLast = ({ type, data }: SeenEvent) => type === 'resource.deleted' && data.resource?.name === names.at(-1);
    await replay.next('of the last removal', isLast);
    await sleep(500);
    done = true;
    await reading;
    await replay.close();
    expect(all.map(({ id }) => id)).toEqual(replay.seen.map(({ id }) => id));
    // What ended just before gets its numbers a moment later, and may come first.
    const ofThese = all.filter(({ data }) => names.includes(data.resource?.name));
    const deleted = ofThese.filter(({ type }) => type === 'resource.deleted').map(({ data }) => data.resource.name);
    expect(deleted).toEqual(names);
  }, 120_000);
});

describe('a database that is away for ten seconds', () => {
  it('is told as 503 with Retry-After, and then all goes on in the same processes', async () => {
    const { pid: supervisor, config } = stack.dev;
    const { api: settings } = JSON.parse(readFileSync(config, 'utf8'));
    const monitoring = async (path: string) => (await fetch(`http://${settings.monitoring}${path}`)).status;
    injectFaults(stack, [{ kind: 'instance', operation: 'apply', match: 'patient', times: 1, delayMs: 2_000 }]);
    const machine = { name: 'patient', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
    const made = await api.post('/v1/instances', machine);
    await underWay(made);
    const stream = await EventStream.open(stack.dev.api, api);
    const pids = (['api', 'grpc', 'agent'] as const).map((name) => stack.pid(name));
    const database = { pid: stack.pid('database'), start: '' };
    // While the supervisor stands still, nobody starts the database again.
    process.kill(supervisor, 'SIGSTOP');
    try {
      process.kill(database.pid, 'SIGINT');
      await until('503', async () => (await api.get('/v1/networks/lan')).status === 503);
      const until_ = Date.now() + 10_000;
      while (Date.now() < until_) {
        for (const answer of [
          await api.get('/v1/networks/lan'),
          await api.get('/v1/networks?pageSize=5'),
          await api.post('/v1/networks', { name: 'away', subnet: '10.92.0.0/29' }),
          await api.delete('/v1/instances/patient'),
        ])
          expectProblem(answer, 503, 'database_unavailable');
        expectProblem(await api.get('/v1/networks', { authorization: 'Bearer garbage' }), 401, 'unauthenticated');
        expect([await monitoring('/healthz'), await monitoring('/readyz')]).toEqual([200, 503]);
        await sleep(1_000);
      }
    } finally {
      process.kill(supervisor, 'SIGCONT');
    }
    const back = await patiently(() => api.get('/v1/networks/lan'));
    expect(back.status).toBe(200);
    expect(await endOf(made.body.job.id)).toMatchObject({ state: 'succeeded' });
    await until('readiness', async () => (await monitoring('/readyz')) === 200);
    expect((await api.get('/v1/instances/patient')).body).toMatchObject({ state: 'ready', powerState: 'running' });
    expectProblem(await api.get('/v1/networks/away'), 404, 'not_found');
    await api.remove('instances', 'patient');
    expect((['api', 'grpc', 'agent'] as const).map((name) => stack.pid(name))).toEqual(pids);
    await stream.close();
  }, 120_000);
});
