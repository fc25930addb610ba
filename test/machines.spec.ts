/** What else happens to machines and networks in their lives: guests that shut down, names that change, nodes that are away. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { EventStream } from './harness/events.js';
import { expectProblem } from './harness/expect-problem.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { rhyzome, runProgram } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
const machine = (name: string, more = {}) => ({
  name,
  image: 'tiny',
  vcpus: 1,
  memoryMiB: 64,
  interfaces: [{ network: 'home' }],
  ...more,
});
beforeAll(async () => {
  // Not the one that most suites share: the node goes away here, and a tenant is suspended.
  stack = await stackNamed('unlucky', { driver: 'sim' });
  api = await apiOf(stack);
  await api.make('networks', { name: 'home', subnet: '10.130.0.0/24', domain: 'home.test' });
}, 120_000);
afterEach(() => clearFaults(stack));
afterAll(async () => {
  await api.remove('networks', 'home');
});

const get = async (name: string) => (await api.get(`/v1/instances/${name}`)).body;

describe('a guest that shuts itself down', () => {
  it('stays down, or is started again where that is wished', async () => {
    await api.make('instances', machine('stays'));
    await api.make('instances', machine('rises', { restartPolicy: 'always' }));
    injectFaults(stack, [{ kind: 'instance', operation: 'shutdown', times: 2 }]);
    await until('stays is down', async () => (await get('stays')).powerState === 'stopped');
    expect(await get('stays')).toMatchObject({ desiredPowerState: 'stopped', state: 'ready' });
    const console = async () => (await api.get('/v1/instances/rises/console')).text;
    await until('rises booted again', async () => (await console()).includes('boot 2 of rises'));
    await until('rises is up', async () => (await get('rises')).powerState === 'running');
    expect(await get('rises')).toMatchObject({ desiredPowerState: 'running' });
    const started = await api.post('/v1/instances/stays/start?wait=30s', {});
    expect(started.body).toMatchObject({ powerState: 'running', job: { state: 'succeeded' } });
    await Promise.all([api.remove('instances', 'stays'), api.remove('instances', 'rises')]);
  });
});

describe('a name', () => {
  it('can change, is free for others then, and goes with the lease', async () => {
    const made = await api.make('instances', machine('before'));
    await api.patch('/v1/instances/before?wait=30s', { name: 'after' });
    expectProblem(await api.get('/v1/instances/before'), 404, 'not_found');
    expect(await get('after')).toMatchObject({ id: made.id, state: 'ready' });
    expect((await api.get('/v1/networks/home/leases')).body.items).toMatchObject([{ hostname: 'after' }]);
    await api.make('instances', machine('before'));
    expectProblem(await api.patch('/v1/instances/before', { name: 'after' }), 409, 'name_taken', '/name');
    await Promise.all([api.remove('instances', 'before'), api.remove('instances', 'after')]);
  });
});

describe('what is protected', () => {
  it('is not deleted until it no longer is', async () => {
    await api.make('instances', machine('guarded', { deletionProtection: true }));
    expectProblem(await api.delete('/v1/instances/guarded'), 409, 'protected');
    await api.patch('/v1/instances/guarded?wait=30s', { deletionProtection: false });
    await api.remove('instances', 'guarded');
  });
});

describe('a static lease', () => {
  it('keeps its address from machines, and gives it back', async () => {
    const lease = { mac: '52-54-00-AA-BB-CC', ip: '10.130.0.2', hostname: 'printer' };
    const made = await api.post('/v1/networks/home/leases', lease);
    expect(made).toMatchObject({
      status: 201,
      body: { ip: '10.130.0.2', mac: '52:54:00:aa:bb:cc', automatic: false, instance: null },
    });
    const named = await api.make('instances', machine('beside'));
    expect(named.interfaces[0].ip).toBe('10.130.0.3');
    expect((await api.get('/v1/networks/home/leases?automatic=false')).body.items).toHaveLength(1);
    expect((await api.delete(`/v1/networks/home/leases/${made.body.id}`)).status).toBe(204);
    expectProblem(await api.delete(`/v1/networks/home/leases/${made.body.id}`), 404, 'not_found');
    const next = await api.make('instances', machine('next', { interfaces: [{ network: 'home', ip: '10.130.0.2' }] }));
    expect(next.interfaces[0].ip).toBe('10.130.0.2');
    await Promise.all([api.remove('instances', 'beside'), api.remove('instances', 'next')]);
  });
});

describe('a node that is away', () => {
  it('is told as such, and catches up when it is back', async () => {
    await api.make('instances', machine('lonely'));
    const { pid } = stack.dev;
    // While the supervisor stands still, nobody starts the agent again.
    process.kill(pid, 'SIGSTOP');
    try {
      stack.kill('agent');
      await until('the console is away', async () => (await api.get('/v1/instances/lonely/console')).status === 503);
      expectProblem(await api.get('/v1/instances/lonely/console'), 503, 'node_unreachable');
      const stopped = await api.post('/v1/instances/lonely/stop?wait=1s', {});
      expect(stopped.status).toBe(202);
      const job = await until('the job waits', async () => {
        const { body } = await api.get(`/v1/jobs/${stopped.body.job.id}`);
        return body.state === 'waiting' && body;
      });
      expect(job.message).toMatch(/node1 is away/);
      process.kill(pid, 'SIGCONT');
      expect((await api.get(`/v1/jobs/${job.id}?wait=30s`)).body).toMatchObject({ state: 'succeeded' });
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    expect(await get('lonely')).toMatchObject({ powerState: 'stopped' });
    await api.remove('instances', 'lonely');
  }, 90_000);

  it('that is cordoned takes no new machine', async () => {
    await rhyzome(stack, 'node', 'cordon', 'node1');
    try {
      expectProblem(await api.post('/v1/instances', machine('homeless')), 409, 'no_capacity');
    } finally {
      await rhyzome(stack, 'node', 'uncordon', 'node1');
    }
    await api.make('instances', machine('homeless'));
    await api.remove('instances', 'homeless');
  });
});

describe('the admin command', () => {
  it('refuses to delete a tenant that has resources, and names them', async () => {
    const { status, stderr, stdout } = await runProgram('cli', [
      '--config',
      stack.dev.config,
      'tenant',
      'delete',
      'acme',
    ]);
    expect(status).toBe(1);
    expect(stderr + stdout).toContain('home');
    expect((await rhyzome(stack, 'tenant', 'show', 'acme')).id).toBe('acme');
    const nowhere = await runProgram('cli', ['--config', stack.dev.config, 'tenant', 'show', 'nobody']);
    expect(nowhere.status).toBe(3);
  });

  it('suspends a tenant: its tokens are refused and its streams end, until it is active again', async () => {
    const globex = await apiOf(stack, 'globex');
    await globex.make('networks', { name: 'quiet', subnet: '10.131.0.0/29' });
    await rhyzome(stack, 'tenant', 'update', 'globex', '--suspend');
    await until('the refusal', async () => (await globex.get('/v1/networks')).status === 401);
    expectProblem(await globex.get('/v1/networks'), 401, 'unauthenticated');
    expect((await api.get('/v1/networks')).status).toBe(200);
    await rhyzome(stack, 'tenant', 'update', 'globex', '--activate');
    await until('the way in', async () => (await globex.get('/v1/networks')).status === 200);
    await globex.remove('networks', 'quiet');
  });

  it('sees the jobs of a tenant', async () => {
    const jobs = await rhyzome(stack, 'job', 'list', '--tenant', 'acme');
    expect(jobs.length).toBeGreaterThan(5);
  });
});

describe('a stream of events', () => {
  it('ends with its token', async () => {
    const expiring = { ...goodClaims(stack, 'acme'), exp: Math.floor(Date.now() / 1000) + 2 };
    const stream = await EventStream.open(
      stack.dev.api,
      clientWith(stack.dev.api, await signed(stack, 'acme', expiring)),
    );
    await until('the token’s end', () => Date.now() / 1000 > expiring.exp + 0.1);
    await api.patch('/v1/networks/home?wait=30s', { tags: { seen: 'not' } });
    await until('the end of the stream', () => stream.hasEnded, 20_000);
    expect(stream.seen.filter(({ data }) => data.resource?.tags?.seen)).toEqual([]);
  });
});
