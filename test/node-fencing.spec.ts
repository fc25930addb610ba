/** A node that dies: what is deleted on it ends, its addresses wait for the fence, and what comes back runs nothing foreign. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { issue, rhyzome, runProgram } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

const root = resolve(import.meta.dirname, '..');
let stack: Stack;
let api: Client;
let second: ChildProcess;
beforeAll(async () => {
  // Not the one that most suites share: the node dies here.
  stack = await stackNamed('unlucky', { driver: 'sim' });
  api = await apiOf(stack);
  second = await startSecondNode();
  await rhyzome(stack, 'node', 'cordon', 'node2');
  await api.make('networks', { name: 'wide', subnet: '10.140.0.0/24' });
}, 120_000);
afterAll(async () => {
  process.kill(stack.dev.pid, 'SIGCONT');
  await rhyzome(stack, 'node', 'tombstones', '--after', '10');
  for (const name of ['web', 'again', 'stays']) await api.remove('instances', name);
  await api.remove('networks', 'wide');
  second.kill('SIGTERM');
  await until('the end of the second agent', () => second.exitCode !== null || second.signalCode !== null);
  await rhyzome(stack, 'node', 'remove', 'node2');
  await rhyzome(stack, 'node', 'uncordon', 'node1');
}, 120_000);

/** Another agent with the sim driver, on the stack's server. */
async function startSecondNode(): Promise<ChildProcess> {
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const folder = join(stack.data, 'node2');
  mkdirSync(folder, { recursive: true });
  const { ca, cert, key } = await issue(stack, 'node', 'node2');
  const config = join(folder, 'rhyzome-api.json');
  const agent = { ...settings.agent, stateDir: join(folder, 'agent'), pki: { ca, cert, key } };
  writeFileSync(config, JSON.stringify({ agent }), { mode: 0o600 });
  const log = openSync(join(folder, 'agent.log'), 'a', 0o600);
  const main = join(root, 'dist', 'apps', 'agent', 'main.js');
  const child = spawn(process.execPath, [main, '--config', config], { cwd: root, stdio: ['ignore', log, log] });
  closeSync(log);
  await until(
    'the second node',
    async () => {
      if (child.exitCode !== null) throw new Error(readFileSync(join(folder, 'agent.log'), 'utf8'));
      return (await stateOf('node2')) === 'up';
    },
    90_000,
  );
  return child;
}

async function stateOf(node: string): Promise<string | undefined> {
  const nodes = await rhyzome(stack, 'node', 'list');
  return nodes.find(({ name }: { name: string }) => name === node)?.state;
}

const machine = (name: string, ip?: string) => ({
  ...{ name, image: 'tiny', vcpus: 1, memoryMiB: 64 },
  interfaces: [{ network: 'wide', ...(ip && { ip }) }],
});

/** What stands on the first node's machine, by name. */
function onFirstNode(): Record<string, string> {
  const { instances } = JSON.parse(readFileSync(join(stack.data, 'agent', 'sim-state.json'), 'utf8'));
  const all: [string, { spec: { name: string }; powerState: string }][] = instances;
  return Object.fromEntries(all.map(([, { spec, powerState }]) => [spec.name, powerState]));
}

it('deletions end, addresses wait for the fence, and the node stops what is not its own when it is back', async () => {
  await api.make('instances', machine('web', '10.140.0.9'));
  await api.make('instances', machine('stays'));
  await rhyzome(stack, 'node', 'uncordon', 'node2');
  await rhyzome(stack, 'node', 'tombstones', '--after', '0');
  // While the supervisor stands still, nobody starts the agent again; its machines run on.
  process.kill(stack.dev.pid, 'SIGSTOP');
  stack.kill('agent');
  const deleted = await api.delete('/v1/instances/web');
  expect(deleted.status).toBe(202);
  const refused = await runProgram('cli', ['--config', stack.dev.config, 'node', 'fence', 'node1', '--confirm-off']);
  expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining('its machine is on') });
  const job = await until(
    'the deletion’s end',
    async () => {
      const { body } = await api.get(`/v1/jobs/${deleted.body.job.id}?wait=30s`);
      return body.finishedAt !== null && body;
    },
    90_000,
  );
  expect(job.state).toBe('succeeded');
  expect(onFirstNode()).toMatchObject({ web: 'running', stays: 'running' });

  expectProblem(await api.post('/v1/instances', machine('web', '10.140.0.9')), 409, 'address_in_use');
  expect((await api.make('instances', machine('web'))).node).not.toBe('node1');
  expect(await rhyzome(stack, 'node', 'show', 'node1')).toMatchObject({
    state: 'unreachable',
    tombstones: expect.arrayContaining([expect.objectContaining({ kind: 'instance', name: 'web', tenant: 'acme' })]),
    heldAddresses: [{ ip: '10.140.0.9', network: 'wide', tenant: 'acme' }],
  });

  expect(await rhyzome(stack, 'node', 'fence', 'node1', '--confirm-off')).toMatchObject({ state: 'gone', epoch: 2 });
  await api.make('instances', machine('again', '10.140.0.9'));
  const alarm = await until('what its users are told', async () => {
    const { conditions } = (await api.get('/v1/instances/stays')).body;
    return conditions.find(({ type, reason }: Record<string, string>) => type === 'Alarm' && reason === 'node_gone');
  });
  expect(alarm.message).toContain('Node node1');

  process.kill(stack.dev.pid, 'SIGCONT');
  await until('the node is back', async () => (await stateOf('node1')) === 'cordoned');
  await until('nothing foreign is there', () => !('web' in onFirstNode()));
  expect(onFirstNode()).toEqual({ stays: 'running' });
  await until('nothing is left to remove', async () => {
    const { tombstones } = await rhyzome(stack, 'node', 'show', 'node1');
    return tombstones.length === 0;
  });
  expect(stack.log('agent')).toContain('what is no longer ours stops first');
}, 180_000);

it('a node that is fenced while it is connected loses its stream, and has to stop before it counts again', async () => {
  const before = (await rhyzome(stack, 'node', 'show', 'node2')).epoch;
  await rhyzome(stack, 'node', 'fence', 'node2', '--confirm-off', '--force');
  const log = () => readFileSync(join(stack.data, 'node2', 'agent.log'), 'utf8');
  await until('it has stopped', async () => (await stateOf('node2')) === 'cordoned');
  expect(log()).toContain('this node was fenced');
  expect(await rhyzome(stack, 'node', 'show', 'node2')).toMatchObject({ epoch: before + 1 });
  expect((await api.get('/v1/instances/again')).body.powerState).toBe('running');
}, 60_000);
