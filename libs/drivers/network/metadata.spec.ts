/** The metadata address: who asks is told to the agent's socket, and nobody can ask as somebody else. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost, commandLine } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';
import { askMetadata, type MetadataServer, serveMetadata } from './lab-metadata.js';
import { namespaceName } from './names.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: metadata: ${ability.reason}`);

describe.skipIf(!ability.ok)('the metadata address', () => {
  let lab: Lab;
  let server: MetadataServer;
  const [a, b] = [networkRef('acme'), networkRef('globex')];

  beforeAll(async () => {
    lab = await Lab.open('rz-meta');
    server = await serveMetadata(lab, join(lab.dir, 'a directory: with, all!!', 'metadata.sock'));
    for (const [guest, ref, n] of [
      ['a10', a, 10],
      ['a11', a, 11],
      ['b10', b, 10],
    ] as const) {
      await lab.networks().apply(ref, networkSpec(lease(10), lease(11)), never);
      await lab.plug(guest, ref, lease(n).mac);
      expect(await lab.dhcp(guest)).toContain(`10.77.1.${n}`);
    }
  });
  afterAll(async () => {
    server?.close();
    await lab?.close();
  });

  const ask = (guest: string, bind?: string, limitS?: number) => askMetadata(lab, guest, bind, limitS);
  const pids = async () =>
    (await lab.sh(`for n in ${namespaceName(lab.installation, a.id)}; do ip netns pids $n; done`)).trim().split('\n');

  it('tells who asks, in each network by itself, and waits for the answer', async () => {
    expect(await ask('a10')).toBe(`you are ${a.id} 10.77.1.10`);
    expect(await ask('a11')).toBe(`you are ${a.id} 10.77.1.11`);
    expect(await ask('b10')).toBe(`you are ${b.id} 10.77.1.10`);
    server.answerMs = 1500;
    expect(await ask('a10')).toBe(`you are ${a.id} 10.77.1.10`);
    server.answerMs = 0;
    const many = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(i % 2 ? 'a10' : 'a11')));
    expect(many.filter((text) => text === '')).toEqual([]);
  }, 60_000);

  it('answers nobody who asks as another', async () => {
    await lab.run('ip -n a11 addr add 10.77.1.99/24 dev eth0');
    expect(await ask('a11', ',bind=10.77.1.99', 4)).toBe('');
    expect(server.seen.filter((who) => who.includes('10.77.1.99'))).toEqual([]);
  }, 20_000);

  it('comes back when its program ended, and goes with the network', async () => {
    const networks = lab.networks();
    const damaged = async () => (await networks.inventory()).filter((one) => one.damaged).map(({ ref }) => ref.id);
    expect(await damaged()).toEqual([]);
    for (const damage of [
      `kill -9 $(cat ${lab.stateDir}/network/${a.id}/metadata.pid)`,
      `rm ${lab.stateDir}/network/${a.id}/metadata.pid`,
    ]) {
      await lab.sh(damage);
      await sleep(100);
      expect(await damaged()).toEqual([a.id]);
      await networks.apply(a, networkSpec(lease(10), lease(11)), never);
      expect(await ask('a10'), damage).toBe(`you are ${a.id} 10.77.1.10`);
      expect(await damaged()).toEqual([]);
      expect(await pids()).toHaveLength(2);
    }
    await lab.sh(`kill -9 $(cat ${lab.stateDir}/network/${a.id}/dnsmasq.pid)`);
    expect(await damaged()).toEqual([a.id]);
    // Without the service, nothing listens.
    lab.metadataSocket = null;
    await lab.networks().apply(a, networkSpec(lease(10), lease(11)), never);
    expect(await ask('a10')).toBe('');
    expect(await pids()).toHaveLength(1);
    for (const guest of ['a10', 'a11', 'b10']) await lab.unplug(guest);
    const pid = await readFile(join(lab.stateDir, 'network', b.id, 'metadata.pid'), 'utf8');
    expect(await commandLine(Number(pid))).not.toBeNull();
    for (const ref of [a, b]) await networks.remove(ref, never);
    expect(await commandLine(Number(pid))).toBeNull();
    expect(await lab.run('ip netns')).toBe('');
  }, 60_000);
});
