/** The way of a tenant from a token to a running machine and back to nothing, on the simulated node. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { type Stack, sharedStack } from './harness/stack.js';

let stack: Stack;
let api: Client;
beforeAll(async () => {
  stack = await sharedStack('sim');
  api = await apiOf(stack);
});

/** What the simulated machine holds by now. */
function onNode(): { networks: [string, unknown][]; instances: [string, any][] } {
  return JSON.parse(readFileSync(join(stack.data, 'agent', 'sim-state.json'), 'utf8'));
}

it('goes from a network over a machine that runs with an address of its own to nothing at all', async () => {
  const accepted = await api.post('/v1/networks', { name: 'way', subnet: '10.20.0.0/24', tags: { env: 'test' } });
  expect(accepted).toMatchObject({ status: 202, body: { name: 'way', kind: 'network', job: { state: 'queued' } } });
  expect(accepted.headers.get('location')).toBe(`/v1/jobs/${accepted.body.job.id}`);
  const job = await api.get(`/v1/jobs/${accepted.body.job.id}?wait=30s`);
  expect(job.body).toMatchObject({ state: 'succeeded', progress: 100, error: null, action: 'create' });

  const machine = await api.make('instances', {
    name: 'web',
    image: 'tiny',
    vcpus: 1,
    memoryMiB: 128,
    interfaces: [{ network: 'way' }],
  });
  expect(machine).toMatchObject({ state: 'ready', powerState: 'running', node: 'node1' });
  const [{ ip, mac, network }] = machine.interfaces;
  expect([ip, network]).toEqual(['10.20.0.2', accepted.body.id]);
  const leases = await api.get('/v1/networks/way/leases');
  expect(leases.body.items).toMatchObject([{ ip, mac, automatic: true, instance: machine.id, hostname: 'web' }]);
  const console = await api.get('/v1/instances/web/console');
  expect(console.headers.get('content-type')).toMatch(/^text\/plain/);
  expect(console.text).toContain(`address=${ip}`);

  const stopped = await api.post('/v1/instances/web/stop?wait=30s', {});
  expect(stopped).toMatchObject({ status: 200, body: { powerState: 'stopped', desiredPowerState: 'stopped' } });
  const started = await api.patch('/v1/instances/web?wait=30s', { desiredPowerState: 'running', tags: { tier: 'a' } });
  expect(started.body).toMatchObject({ powerState: 'running', state: 'ready', tags: { tier: 'a' } });
  expect((await api.post('/v1/instances/web/reboot?wait=30s', {})).body.job.state).toBe('succeeded');
  expect((await api.get('/v1/instances/web/console')).text).toContain('boot 3 of web');

  const inUse = expectProblem(await api.delete('/v1/networks/way'), 409, 'in_use');
  expect(inUse.blockers).toMatchObject([{ kind: 'instance', id: machine.id, name: 'web' }]);
  await api.remove('instances', 'web');
  expectProblem(await api.get(`/v1/instances/${machine.id}`), 404, 'not_found');
  expect((await api.get('/v1/networks/way/leases')).body.items).toEqual([]);
  await api.remove('networks', 'way');
  expect(onNode().instances.filter(([id]) => id === machine.id)).toEqual([]);
  expect(onNode().networks.filter(([id]) => id === network)).toEqual([]);
});

it('lets a further machine enroll, as `npm start` says', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-enrolled-'));
  const bin = (program: string, ...argv: string[]) =>
    promisify(execFile)(process.execPath, [resolve(import.meta.dirname, '..', 'bin', `${program}.js`), ...argv]);
  try {
    const { stdout } = await bin('rhyzome', '--config', stack.dev.config, 'node', 'enroll', 'joins');
    const [, command] = /rhyzome-agent (enroll .*)$/m.exec(stdout) ?? [];
    const pki = { ca: 'ca.pem', cert: 'node.pem', key: 'node-key.pem' };
    const agent = { controller: stack.dev.grpc, stateDir: 'state', driver: 'sim', pki };
    writeFileSync(join(dir, 'agent.json'), JSON.stringify({ agent }));
    const joined = await bin('rhyzome-agent', ...command!.split(' '), '--config', join(dir, 'agent.json'));
    expect(joined.stdout).toContain('This machine is now the node joins');
  } finally {
    rmSync(dir, { recursive: true });
  }
});

it('gives an address again at once after it was freed', async () => {
  await api.make('networks', { name: 'again', subnet: '10.20.1.0/29' });
  const machine = { image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'again', ip: '10.20.1.4' }] };
  for (const name of ['first', 'second', 'first']) {
    const made = await api.make('instances', { name, ...machine });
    expect(made.interfaces[0].ip).toBe('10.20.1.4');
    expect((await api.get(`/v1/instances/${name}/console`)).text).toContain('address=10.20.1.4');
    await api.remove('instances', name);
  }
  await api.remove('networks', 'again');
});
