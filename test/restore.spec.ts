/**
 * The drill: a backup, more changes, the backup put back, and the node compared with it. What was made since stays until
 * somebody lets it go, what was deleted since does not come back empty, and in the end database and node agree.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { rhyzome } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
beforeAll(async () => {
  stack = await stackNamed('restored', { driver: 'sim' });
  api = await apiOf(stack);
}, 180_000);

const machine = (name: string, network: string) => ({
  name,
  image: 'tiny',
  vcpus: 1,
  memoryMiB: 64,
  interfaces: [{ network }],
});

/** Ids of what stands on the simulated node, by kind. */
function onNode(): Record<'networks' | 'disks' | 'instances', string[]> {
  const state = JSON.parse(readFileSync(join(stack.data, 'agent', 'sim-state.json'), 'utf8'));
  const ids = (kind: string) => state[kind].map(([id]: [string]) => id).sort();
  return { networks: ids('networks'), disks: ids('disks'), instances: ids('instances') };
}

const ids = (found: { id: string }[]) => found.map(({ id }) => id).sort();

it('restored to an older state, it tells the nodes apart, asks before it removes, and ends in agreement', async () => {
  await rhyzome(stack, 'disk', 'retention', '--off');
  const home = await api.make('networks', { name: 'home', subnet: '10.61.0.0/24' });
  const stays = await api.make('instances', machine('stays', 'home'));
  const gone = await api.make('instances', machine('gone', 'home'));
  const goneDisk = gone.bootDisk;
  const file = join(stack.data, 'drill.backup');
  const taken = await rhyzome(stack, 'backup', file);
  expect(taken.rows).toBeGreaterThan(50);
  expect(await rhyzome(stack, 'backup', 'verify', file)).toMatchObject({ id: taken.backup });

  await api.remove('instances', 'gone');
  await api.make('networks', { name: 'later', subnet: '10.62.0.0/24' });
  const later = await api.make('instances', machine('later', 'later'));
  await api.patch('/v1/instances/stays?wait=30s', { desiredPowerState: 'stopped' });
  const before = onNode();

  // The servers were not stopped: their sessions end, and they go on with what they find.
  const restored = await rhyzome(stack, 'restore', file, '--force');
  expect(restored.missingContents).toEqual([]);
  expect((await api.get('/v1/instances/later')).status).toBe(404);

  const report = () => rhyzome(stack, 'restore', 'report');
  await until('the node has told what it has', async () => {
    const { told, silent } = await report();
    return told.length === 1 && silent.length === 0;
  });
  const found = await report();
  expect(ids(found.unknown)).toEqual(ids([later, { id: later.bootDisk }, { id: later.interfaces[0].network }]));
  expect(ids(found.missing)).toEqual(ids([gone, { id: goneDisk }]));
  expect(found.different).toMatchObject([
    { id: stays.id, what: 'powerState', onNode: 'stopped', inDatabase: 'running' },
  ]);
  expect(onNode(), 'nothing was made, changed or removed meanwhile').toEqual(before);
  await expect(rhyzome(stack, 'sweep', 'approve', found.told[0], '--all')).rejects.toThrow('restored');

  const done = await rhyzome(stack, 'restore', 'finish');
  expect(ids(done.failed)).toEqual(ids([gone, { id: goneDisk }]));
  await until(
    'what the database wants is so',
    async () => (await api.get('/v1/instances/stays')).body.powerState === 'running',
  );
  expect((await api.get('/v1/instances/gone')).body).toMatchObject({ state: 'failed' });
  expect(onNode().disks, 'nothing empty in place of what was lost').not.toContain(goneDisk);
  expect(onNode().instances).toContain(later.id);

  // Watchers that had seen what is lost are told to list anew.
  const stale = await api.get('/v1/events?since=5', { accept: 'text/event-stream' });
  expectProblem(stale, 410, 'cursor_too_old');

  await api.remove('instances', 'gone');
  await letGo(found.told[0], later.bootDisk);
  await api.make('instances', machine('next', 'home'));
  const all = (await api.get('/v1/instances')).body.items;
  expect(onNode().instances).toEqual(ids(all));
  expect(onNode().networks).toEqual([home.id]);
  expect(onNode().disks).toEqual(ids((await api.get('/v1/disks')).body.items));
}, 180_000);

/** All that nobody owns: by one word what can be made again, and a disk by its name. */
async function letGo(node: string, disk: string): Promise<void> {
  await rhyzome(stack, 'sweep', 'approve', node, '--all');
  const orphans = async (): Promise<any[]> => (await rhyzome(stack, 'sweep')).orphans;
  await until('only the disk is left', async () => {
    await rhyzome(stack, 'sweep', 'now');
    const left = await orphans();
    return left.length === 1 && left[0].id === disk && left[0].fate === 'noTombstone';
  });
  await rhyzome(stack, 'sweep', 'remove', node, 'disk', disk, '--force');
  await until('nothing is nobody’s', async () => (await orphans()).length === 0);
}
