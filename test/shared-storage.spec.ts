/**
 * Nodes that share their storage, over the real processes with simulated machines: a machine moves without its disks, comes
 * up elsewhere with all that was on them when its node is lost, and whatever a node removes is never what another one has.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { rhyzome, runProgram } from './harness/grpc.js';
import { nodeState, type Replica, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
let pool: string;
const nodes = new Map<string, Replica>();
const names = ['left', 'right'];

const launch = async (name: string, dir: string) => {
  const migration = { listen: '127.0.0.1:0' };
  const storage = { shared: 'pool-a', dir };
  const node = await simNode(stack, name, [{ address: stack.dev.grpc }], false, { migration, storage });
  nodes.set(name, node);
  node.launch();
};

beforeAll(async () => {
  stack = await stackNamed('shared', { driver: 'sim', tenants: ['acme'] });
  api = await apiOf(stack, 'acme');
  pool = join(stack.data, 'pool');
  mkdirSync(pool, { mode: 0o711 });
  for (const name of names) await launch(name, pool);
  const up = async () => {
    const all = await rhyzome(stack, 'node', 'list');
    return names.every((name) => all.some((node: any) => node.name === name && node.state === 'up'));
  };
  await until('both nodes are up', up, 60_000);
  await rhyzome(stack, 'node', 'cordon', 'node1');
  await api.make('networks', { name: 'lan', subnet: '10.41.0.0/24' });
}, 180_000);
afterAll(async () => {
  for (const node of nodes.values()) await node.kill();
});

const other = (name: string) => names.find((one) => one !== name)!;
const has = (name: string) => {
  const file = join(nodeState(stack, name), 'sim-state.json');
  const state = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  return {
    instances: new Map<string, any>(state.instances),
    disks: new Map<string, any>(state.disks),
    snapshots: new Map<string, any>(state.snapshots),
  };
};
const folderOf = (disk: string) => {
  const { installationId } = JSON.parse(readFileSync(join(nodeState(stack, 'left'), 'installation.json'), 'utf8'));
  return join(pool, `rhyzome-${installationId.slice(0, 8)}`, 'disk', disk);
};
const shown = async (name: string) => (await api.get(`/v1/instances/${name}`)).body;
const ended = async (id: string) => {
  const job = async () => (await api.get(`/v1/jobs/${id}`)).body;
  await until(`the end of job ${id}`, async () => (await job()).finishedAt !== null, 60_000);
  return job();
};
/** Its disk is that node's, for the node itself and for the note on the storage, and no other node knows of it. */
const isHeldBy = async (disk: string, node: string) => {
  const { id } = await rhyzome(stack, 'node', 'show', node);
  const note = join(folderOf(disk), 'owner.json');
  await until(`disk ${disk} is ${node}'s alone`, () => {
    const isNoted = existsSync(note) && JSON.parse(readFileSync(note, 'utf8')).node === id;
    return isNoted && has(node).disks.has(disk) && !has(other(node)).disks.has(disk);
  });
};
const machine = (name: string) =>
  api.make('instances', { name, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] });
const evacuated = (node: string, ...flags: string[]) =>
  runProgram('cli', ['--config', stack.dev.config, 'node', 'evacuate', node, ...flags, '--json'], 60_000);

describe('on shared storage', () => {
  it('a machine moves while it runs, with its snapshots, and its disk stays where it is', async () => {
    const made = await machine('web');
    const snapshot = await api.make('snapshots', { name: 'before', disk: made.bootDisk });
    await isHeldBy(made.bootDisk, made.node);
    expect(await rhyzome(stack, 'node', 'show', made.node)).toMatchObject({ storage: 'pool-a' });
    const to = other(made.node);
    const moved = await rhyzome(stack, 'instance', 'migrate', 'acme/web');
    expect(moved).toMatchObject({ action: 'migrate', state: 'succeeded' });
    expect(await shown('web')).toMatchObject({ node: to, state: 'ready', powerState: 'running' });
    await isHeldBy(made.bootDisk, to);
    expect(has(to).instances.get(made.id)).toMatchObject({ boots: 1, powerState: 'running' });
    expect(has(to).disks.get(made.bootDisk).lineage).toEqual([expect.stringMatching(/^image:/)]);
    // Its snapshot is in the same file, and was taken away by nobody.
    expect(existsSync(join(folderOf(made.bootDisk), `snapshot-${snapshot.id}.json`))).toBe(true);
    await api.make('disks', { name: 'copy', snapshot: snapshot.id });
    await api.remove('disks', 'copy');
  });

  it('a machine of a node that is lost comes up on another, and nothing on its disks is lost', async () => {
    const made = await shown('web');
    const [from, to] = [made.node, other(made.node)];
    // Something that only the disk itself knows of.
    await api.post('/v1/instances/web/stop?wait=30s', {});
    await api.post('/v1/snapshots/before/restore?wait=30s', {});
    await api.post('/v1/instances/web/start?wait=30s', {});
    const { lineage } = has(from).disks.get(made.bootDisk);
    expect(lineage).toHaveLength(2);
    // A disk that no machine has moves without a byte, too.
    const loose = await api.make('disks', { name: 'loose', sizeGiB: 1 });
    if (loose.node !== from) await rhyzome(stack, 'disk', 'migrate', 'acme/loose', '--to', from);
    await isHeldBy(loose.id, from);
    await nodes.get(from)!.kill();
    await rhyzome(stack, 'node', 'fence', from, '--confirm-off', '--force');
    const plan = JSON.parse((await evacuated(from)).stdout).plan.find(({ id }: any) => id === made.id);
    expect(plan.disks).toEqual([
      expect.objectContaining({ from: 'shared', storage: 'pool-a', lostSince: null, lostSnapshots: [] }),
    ]);
    const { machines } = JSON.parse((await evacuated(from, '--lossless')).stdout);
    expect(await ended(machines.find(({ id }: any) => id === made.id).job)).toMatchObject({ state: 'succeeded' });
    const now = await shown('web');
    expect(now).toMatchObject({ node: to, state: 'ready', powerState: 'running', interfaces: made.interfaces });
    expect(now.conditions).toContainEqual(
      expect.objectContaining({ type: 'DataLoss', status: 'false', message: expect.stringContaining('Nothing on') }),
    );
    expect(has(to).disks.get(made.bootDisk).lineage).toEqual(lineage);
    await until('its snapshot is there', () => has(to).snapshots.size === 1);
    expect(await rhyzome(stack, 'disk', 'migrate', 'acme/loose')).toMatchObject({ state: 'succeeded' });
    expect((await api.get('/v1/disks/loose')).body).toMatchObject({ node: to, state: 'ready' });
    expect((await api.get('/v1/snapshots/before')).body).toMatchObject({ state: 'ready' });

    // The node that was lost is back: it forgets the machine and its disk, and leaves the file to the one that has it.
    nodes.get(from)!.launch();
    await until('it has forgotten the machine', () => !has(from).instances.has(made.id), 60_000);
    await isHeldBy(made.bootDisk, to);
    await isHeldBy(loose.id, to);
    expect(has(from).snapshots.size).toBe(0);
    const swept = await rhyzome(stack, 'sweep');
    expect(swept.orphans).toEqual([]);
    await rhyzome(stack, 'node', 'uncordon', from);
    // It can go back, and what is deleted goes from the storage.
    expect(await rhyzome(stack, 'instance', 'migrate', 'acme/web', '--to', from)).toMatchObject({ state: 'succeeded' });
    await isHeldBy(made.bootDisk, from);
    expect(has(from).disks.get(made.bootDisk).lineage).toEqual(lineage);
    await api.remove('snapshots', 'before');
    await api.remove('instances', 'web');
    const folder = folderOf(made.bootDisk);
    await until('the file has gone', () => !existsSync(folder));
    await api.remove('disks', 'loose');
    // Deleted, it can be had back, and lies where it lay.
    expect(await api.post(`/v1/deleted-disks/${loose.id}/restore`, {})).toMatchObject({ status: 200 });
    await isHeldBy(loose.id, to);
    await api.remove('disks', 'loose');
  }, 180_000);

  it('a machine is not evacuated to a node that does not see its disks', async () => {
    const made = await machine('lonely');
    const [from, to] = [made.node, other(made.node)];
    await rhyzome(stack, 'node', 'cordon', to);
    await rhyzome(stack, 'node', 'uncordon', 'node1');
    await nodes.get(from)!.kill();
    await rhyzome(stack, 'node', 'fence', from, '--confirm-off', '--force');
    const { machines } = JSON.parse((await evacuated(from, '--accept-loss')).stdout);
    expect(machines).toEqual([expect.objectContaining({ job: null, why: expect.stringContaining('pool-a') })]);
    expect(await shown('lonely')).toMatchObject({ node: from });
    await rhyzome(stack, 'node', 'uncordon', to);
    await rhyzome(stack, 'node', 'cordon', 'node1');
    // And one that was not evacuated starts where it was, once its node is back.
    nodes.get(from)!.launch();
    await until('it runs again', () => has(from).instances.get(made.id)?.powerState === 'running', 60_000);
    await rhyzome(stack, 'node', 'uncordon', from);
  }, 120_000);

  it('a node that names the same storage and sees other files is not let in', async () => {
    const elsewhere = join(stack.data, 'not-mounted');
    mkdirSync(elsewhere, { mode: 0o711 });
    await launch('wrong', elsewhere);
    await nodes.get('wrong')!.logged('the controller is not ours, or refuses us');
    const [line] = nodes.get('wrong')!.lines('the controller is not ours, or refuses us');
    expect(line.reason).toContain('“pool-a” of this node has other files');
    // It has joined the installation, and takes nothing.
    expect(await rhyzome(stack, 'node', 'show', 'wrong')).toMatchObject({ kinds: [], storage: null });
    await nodes.get('wrong')!.kill();
  });
});
