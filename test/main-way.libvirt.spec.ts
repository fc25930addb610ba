/**
 * The way of a tenant from a token to a machine that boots on a real hypervisor, and back to nothing; what two tenants
 * with the same addresses see of each other; and what survives an agent and a node that die.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost, machineState } from '#libs/drivers/host';
import { canBuildTiny } from '../tools/tiny-image/index.js';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { NodeHost } from './harness/node-host.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const missing = [await canHost(), canBuildTiny()].flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: machines on libvirt: ${missing.join('; ')}`);

const subnet = '10.31.0.0/24';
const size = { image: 'tiny', vcpus: 1, memoryMiB: 128 };

describe.skipIf(missing.length > 0)('on libvirt', () => {
  let stack: Stack;
  let host: NodeHost;
  let acme: Client;
  let globex: Client;
  let machineBefore: Record<string, string>;
  let linksBefore: string[];

  beforeAll(async () => {
    machineBefore = await machineState();
    stack = await sharedStack('libvirt');
    host = NodeHost.of(stack);
    linksBefore = await host.links();
    acme = await apiOf(stack, 'acme');
    globex = await apiOf(stack, 'globex');
  }, 240_000);
  afterAll(async () => {
    if (machineBefore) expect(await machineState()).toEqual(machineBefore);
  });

  const consoleOf = async (api: Client, name: string): Promise<string> =>
    (await api.get(`/v1/instances/${name}/console`)).text;
  const booted = (api: Client, name: string, times = 1) =>
    until(
      `boot ${times} of ${name}`,
      async () => (await consoleOf(api, name)).split('tiny: ready').length > times,
      90_000,
      300,
    );
  const emulatorOf = (id: string) => host.processes('qemu-system', id).map(({ pid }) => pid);

  it('boots machines of two tenants with the same addresses, each among its own', async () => {
    const made = await Promise.all(
      [acme, globex].map(async (api, index) => {
        const network = await api.make('networks', { name: 'lan', subnet });
        const name = index === 0 ? 'alpha' : 'beta';
        const machine = await api.make('instances', { name, ...size, interfaces: [{ network: 'lan' }] });
        expect(machine).toMatchObject({ state: 'ready', powerState: 'running', node: 'node1' });
        expect(machine.interfaces[0].ip).toBe('10.31.0.2');
        return { api, network, name, machine };
      }),
    );
    for (const { api, network, name, machine } of made) {
      await booted(api, name);
      expect(await consoleOf(api, name)).toMatch(new RegExp(`address=10\\.31\\.0\\.2\\r?\\nhostname=${name}`));
      expect(await host.reached(network.id, machine.interfaces[0].ip)).toContain(`${name} 10.31.0.2`);
    }
    const [first, second] = made;
    const neighbour = await acme.make('instances', { name: 'gamma', ...size, interfaces: [{ network: 'lan' }] });
    expect(neighbour.interfaces[0].ip).toBe('10.31.0.3');
    await booted(acme, 'gamma');
    const fromNeighbour = (network: string) => host.reached(network, '10.31.0.2', '/cgi-bin/reach.cgi?10.31.0.3');
    await until('alpha reaches gamma', async () => (await fromNeighbour(first!.network.id)).includes('gamma'), 30_000);
    expect(await fromNeighbour(second!.network.id)).toContain('unreachable');
    await acme.remove('instances', 'gamma');
    expect(emulatorOf(neighbour.id)).toEqual([]);
  }, 240_000);

  it('stops, starts, reboots and removes a machine, as its console shows', async () => {
    const { id } = (await globex.get('/v1/instances/beta')).body;
    const changed = async (answer: Promise<Answer>, powerState: string) =>
      expect((await answer).body).toMatchObject({ state: 'ready', powerState, job: { state: 'succeeded' } });
    await changed(globex.post('/v1/instances/beta/stop?wait=60s', {}), 'stopped');
    expect(emulatorOf(id)).toEqual([]);
    expect(await consoleOf(globex, 'beta')).toContain('power button');
    await changed(globex.patch('/v1/instances/beta?wait=60s', { desiredPowerState: 'running' }), 'running');
    await booted(globex, 'beta', 2);
    await changed(globex.post('/v1/instances/beta/reboot?wait=60s', {}), 'running');
    await booted(globex, 'beta', 3);
    await globex.remove('instances', 'beta');
    expect(emulatorOf(id)).toEqual([]);
  }, 240_000);

  it('leaves machines running when the agent dies, and drives on when it is back', async () => {
    const { id } = (await acme.get('/v1/instances/alpha')).body;
    const before = emulatorOf(id);
    expect(before).toHaveLength(1);
    const agent = stack.kill('agent');
    await stack.restarted('agent', agent);
    const patched = await acme.patch('/v1/instances/alpha?wait=60s', { tags: { seen: 'after' } });
    expect(patched.body).toMatchObject({ state: 'ready', powerState: 'running', job: { state: 'succeeded' } });
    expect(emulatorOf(id)).toEqual(before);
  }, 120_000);

  it('brings machines and networks back after the node lost its power', async () => {
    const alpha = (await acme.get('/v1/instances/alpha')).body;
    const [{ network, ip }] = alpha.interfaces;
    const agent = stack.kill('agent');
    await host.losePower();
    await stack.restarted('agent', agent);
    expect(await host.reached(network, ip, '/', 120_000)).toContain(`alpha ${ip}`);
    expect((await acme.get('/v1/instances/alpha')).body).toMatchObject({ state: 'ready', powerState: 'running' });
    expect(await consoleOf(acme, 'alpha')).toContain(`address=${ip}`);
  }, 240_000);

  it('gives a freed address to another machine at once', async () => {
    const asked = { ...size, interfaces: [{ network: 'lan', ip: '10.31.0.2' }] };
    expectProblem(
      await acme.post('/v1/instances', { name: 'delta', ...asked }),
      409,
      'address_in_use',
      '/interfaces/0/ip',
    );
    await acme.remove('instances', 'alpha');
    const delta = await acme.make('instances', { name: 'delta', ...asked });
    expect(await host.reached(delta.interfaces[0].network, '10.31.0.2', '/', 90_000)).toContain('delta 10.31.0.2');
    expect(await consoleOf(acme, 'delta')).toMatch(/address=10\.31\.0\.2\r?\nhostname=delta/);
  }, 180_000);

  it('leaves nothing of what was deleted', async () => {
    await acme.remove('instances', 'delta');
    for (const api of [acme, globex]) {
      expect((await api.get('/v1/networks/lan/leases')).body.items).toEqual([]);
      await api.remove('networks', 'lan');
    }
    await until('an empty node', async () => {
      const { data } = stack;
      const left = (folder: string) => {
        const path = join(data, 'agent', folder);
        return existsSync(path) ? readdirSync(path) : [];
      };
      return (
        [...left('instance'), ...left('network'), ...(await host.domains()), ...(await host.routers())].length === 0
      );
    });
    expect(await host.links()).toEqual(linksBefore);
    expect(host.processes('dnsmasq')).toEqual([]);
    expect(host.processes('qemu-system')).toEqual([]);
  }, 120_000);
});
