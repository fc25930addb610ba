/**
 * What a stack leaves behind: nothing after a stop, nothing that the next start does not clean up after a crash; the data
 * stay, and the machine's own names, resolver, links and firewall are what they were all the time.
 */
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canHost, machineState } from '#libs/drivers/host';
import { isRunning, type ProcessIdentity, processIdentity, waitForEnd } from '../libs/devdb/process-identity.js';
import { apiOf, clientWith } from './harness/client.js';
import { NodeHost } from './harness/node-host.js';
import { Stack, sharedStack, startStack } from './harness/stack.js';
import { until } from './harness/until.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: the footprint of libvirt: ${ability.reason}`);

let folder: string;
let stacks: Stack[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-footprint-'));
  chmodSync(folder, 0o711);
  stacks = [];
});
afterEach(async () => {
  for (const stack of stacks) await stack.stop();
  rmSync(folder, { recursive: true, force: true });
}, 90_000);

async function start(name: string, driver: 'sim' | 'libvirt'): Promise<Stack> {
  const data = join(folder, name);
  const stack = new Stack(data, await startStack(data, { driver, tenants: ['acme'] }));
  stacks.push(stack);
  return stack;
}

function processesOf({ dev }: Stack): ProcessIdentity[] {
  return [dev.pid, ...Object.values(dev.processes)].map((pid) => processIdentity(pid)!);
}

describe('a stack', () => {
  it('keeps its data over a crash, and leaves no process after that or after a stop', async () => {
    const first = await start('kept', 'sim');
    const api = await apiOf(first);
    const network = await api.make('networks', { name: 'kept', subnet: '10.160.0.0/24' });
    const machine = { name: 'kept', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'kept' }] };
    const { id } = await api.make('instances', machine);
    const left = processesOf(first);
    process.kill(first.dev.pid, 'SIGKILL');
    await waitForEnd(left[0]!, 5_000);

    const second = await start('kept', 'sim');
    for (const one of left) expect(isRunning(one)).toBe(false);
    // The token of before is still good: the issuer kept its key.
    const again = clientWith(second.dev.api, api.token);
    expect((await again.get('/v1/networks/kept')).body).toMatchObject({ id: network.id, addresses: { used: 1 } });
    expect((await again.get('/v1/instances/kept')).body).toMatchObject({ id, state: 'ready', powerState: 'running' });
    await again.remove('instances', 'kept');
    await again.remove('networks', 'kept');
    const processes = processesOf(second);
    expect(await second.stop()).toBe(0);
    for (const one of processes) expect(isRunning(one)).toBe(false);
    expect(existsSync(join(second.data, 'dev.json'))).toBe(false);
  }, 180_000);

  it('holds secrets where only their owner reads them', async () => {
    const stack = await sharedStack('sim');
    const { dev } = stack;
    const mode = (file: string) => statSync(file).mode & 0o777;
    for (const file of [dev.config, dev.pki.key, join(stack.data, 'dev.json'), join(stack.data, 'issuer', 'acme.json')])
      expect([file, mode(file)]).toEqual([file, 0o600]);
    const secrets = [
      ...Object.values(dev.tenants).map(({ clientSecret }) => clientSecret),
      new URL(dev.database).password,
    ];
    const api = await apiOf(stack);
    await api.get('/v1/networks');
    for (const program of ['api', 'grpc', 'agent'] as const)
      for (const secret of [...secrets, api.token]) expect(stack.log(program)).not.toContain(secret);
  }, 90_000);
});

describe.skipIf(!ability.ok)('a stack on libvirt', () => {
  it('changes nothing of the machine, runs beside another, and leaves nothing after a crash', async () => {
    const before = await machineState();
    const beside = await sharedStack('sim');
    const first = await start('one', 'libvirt');
    expect(await machineState()).toEqual(before);
    expect(first.dev.api).not.toBe(beside.dev.api);
    expect((await (await apiOf(beside)).get('/v1/networks')).status).toBe(200);
    expect(NodeHost.of(first).processes('libvirtd')).toHaveLength(1);

    const left = processesOf(first);
    const daemons = NodeHost.of(first)
      .processes('')
      .map(({ pid }) => processIdentity(pid)!);
    process.kill(first.dev.pid, 'SIGKILL');
    await waitForEnd(left[0]!, 5_000);
    const next = await start('one', 'libvirt');
    await until('the old host is gone', () => [...left, ...daemons].every((one) => !isRunning(one)));
    expect(await machineState()).toEqual(before);
    const host = NodeHost.of(next);
    expect(host.processes('libvirtd')).toHaveLength(1);
    const daemon = processIdentity(host.processes('libvirtd')[0]!.pid)!;
    expect(await next.stop()).toBe(0);
    expect(isRunning(daemon)).toBe(false);
    expect(await machineState()).toEqual(before);
  }, 240_000);
});
