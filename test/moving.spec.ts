/**
 * Machines that move between nodes, over the real processes with simulated machines: by an administrator's word, by the
 * tenant's where it is allowed, back again when it is cancelled or fails, and all of a node's when it is drained.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimFault } from '../libs/drivers/sim/faults.js';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { rhyzome, runProgram } from './harness/grpc.js';
import { nodeState, type Replica, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
const nodes = new Map<string, Replica>();
const names = ['east', 'west'];

beforeAll(async () => {
  stack = await stackNamed('moving', { driver: 'sim', tenants: ['acme'] });
  api = await apiOf(stack, 'acme');
  for (const name of names) {
    const node = await simNode(stack, name, [{ address: stack.dev.grpc }]);
    node.launch();
    nodes.set(name, node);
  }
  const up = async () => {
    const all = await rhyzome(stack, 'node', 'list');
    return names.every((name) => all.some((node: any) => node.name === name && node.state === 'up'));
  };
  await until('both nodes are up', up, 60_000);
  // Everything is on those two: the stack's own node takes in no machines from others.
  await rhyzome(stack, 'node', 'cordon', 'node1');
  await api.make('networks', { name: 'lan', subnet: '10.40.0.0/24' });
}, 180_000);
afterAll(async () => {
  for (const node of nodes.values()) await node.kill();
});

const faultsOf = (name: string) => join(nodeState(stack, name), 'sim-faults.json');
const inject = (name: string, ...faults: SimFault[]) => {
  writeFileSync(`${faultsOf(name)}.new`, JSON.stringify(faults));
  renameSync(`${faultsOf(name)}.new`, faultsOf(name));
};
const calm = () => {
  for (const name of names) rmSync(faultsOf(name), { force: true });
};
/** What a node has: its machines by id. */
const has = (name: string) => {
  const state = JSON.parse(readFileSync(join(nodeState(stack, name), 'sim-state.json'), 'utf8'));
  return {
    instances: new Map<string, any>(state.instances),
    disks: new Map<string, any>(state.disks),
    snapshots: new Map<string, any>(state.snapshots),
  };
};
/** Changes rows as what the servers do behind the API would. */
const operator = async (statement: string, values: unknown[]) => {
  const client = new pg.Client({ connectionString: JSON.parse(readFileSync(stack.dev.config, 'utf8')).dbOperator });
  await client.connect();
  try {
    await client.query('set role rhyzome_operator');
    return await client.query(statement, values);
  } finally {
    await client.end();
  }
};
const other = (name: string) => (name === 'east' ? 'west' : 'east');
const machine = (name: string, more: object = {}) =>
  api.make('instances', { name, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }], ...more });
const shown = async (name: string) => (await api.get(`/v1/instances/${name}`)).body;
const jobOf = async (id: string) => (await api.get(`/v1/jobs/${id}`)).body;
const ended = async (id: string) => {
  await until(`the end of job ${id}`, async () => (await jobOf(id)).finishedAt !== null, 60_000);
  return jobOf(id);
};
/** Runs nowhere but on its node, and there is nothing of it on the other. */
const isOnlyOn = async (id: string, node: string) => {
  await until(
    `the machine is on ${node} alone`,
    () => has(node).instances.has(id) && !has(other(node)).instances.has(id),
  );
  expect(has(node).instances.get(id)?.awaited).toBeUndefined();
};

describe('a machine', () => {
  it('moves while it runs, with its address, and without its guest’s noticing', async () => {
    const made = await machine('web-1');
    const to = other(made.node);
    const moved = await rhyzome(stack, 'instance', 'migrate', 'acme/web-1', '--to', to);
    expect(moved).toMatchObject({ action: 'migrate', state: 'succeeded' });
    const now = await shown('web-1');
    expect(now).toMatchObject({ node: to, state: 'ready', powerState: 'running', interfaces: made.interfaces });
    await isOnlyOn(made.id, to);
    expect(has(to).instances.get(made.id)).toMatchObject({ boots: 1, powerState: 'running' });
    expect(has(to).disks.get(made.bootDisk).lineage).toEqual([expect.stringMatching(/^image:/)]);
    expect((await api.get(`/v1/disks/${made.bootDisk}`)).body.node).toBe(to);
    await until('its disk has left', () => !has(made.node).disks.has(made.bootDisk));
  });

  it('is moved by its tenant only where that is allowed', async () => {
    const { node } = await shown('web-1');
    expectProblem(await api.post('/v1/instances/web-1/migrate', {}), 403, 'forbidden');
    await rhyzome(stack, 'tenant', 'update', 'acme', '--may-migrate');
    expectProblem(await api.post('/v1/instances/web-1/migrate', { node: 'nowhere' }), 422, 'invalid');
    expectProblem(await api.post('/v1/instances/web-1/migrate', { node: 'node1' }), 422, 'invalid');
    const dry = await api.post('/v1/instances/web-1/migrate?dryRun=true', {});
    expect(dry.status).toBe(200);
    const answer = await api.post('/v1/instances/web-1/migrate?wait=30s', { node: other(node) });
    expect(answer.body).toMatchObject({ node: other(node), job: { state: 'succeeded' } });
  });

  it('moves stopped; and with snapshots only off, by its user’s leave', async () => {
    const made = await machine('data-1');
    const snapshot = await api.make('snapshots', { name: 'before', disk: made.bootDisk });
    expectProblem(await api.post('/v1/instances/data-1/migrate', {}), 409, 'not_ready');
    const to = other(made.node);
    const answer = await api.post('/v1/instances/data-1/migrate?wait=30s', { mayStop: true });
    expect(answer.body).toMatchObject({ node: to, powerState: 'running', job: { state: 'succeeded' } });
    expect(has(to).instances.get(made.id).boots).toBe(2);
    expect(has(to).snapshots.has(snapshot.id)).toBe(true);
    await isOnlyOn(made.id, to);
    await api.post('/v1/instances/data-1/stop?wait=30s', {});
    const back = await api.post('/v1/instances/data-1/migrate?wait=30s', { node: made.node });
    expect(back.body).toMatchObject({ node: made.node, powerState: 'stopped', job: { state: 'succeeded' } });
    // What is of the disk can still be used, where it is now.
    await api.make('disks', { name: 'copy', snapshot: snapshot.id });
    await api.remove('disks', 'copy');
  });

  it('keeps others from its disks while it is on its way, and comes back when it is cancelled', async () => {
    const { node, id, bootDisk } = await shown('web-1');
    inject(node, { kind: 'instance', operation: 'operate', match: 'web-1', delayMs: 60_000 });
    const { body } = await api.post('/v1/instances/web-1/migrate', {});
    await until('it is being sent', async () =>
      (await jobOf(body.job.id)).steps.some((s: any) => s.name === 'send it'),
    );
    expectProblem(await api.post('/v1/snapshots', { name: 'late', disk: bootDisk }), 409, 'busy');
    expectProblem(await api.patch(`/v1/disks/${bootDisk}`, { sizeGiB: 9 }), 409, 'busy');
    await until('the sending has begun', () => has(node).instances.get(id)?.outgoing !== undefined);
    await api.post(`/v1/jobs/${body.job.id}/cancel`, {});
    expect(await ended(body.job.id)).toMatchObject({ state: 'cancelled' });
    calm();
    await isOnlyOn(id, node);
    expect(await shown('web-1')).toMatchObject({ node, state: 'ready', powerState: 'running' });
    expect(has(node).instances.get(id)).toMatchObject({ powerState: 'running', boots: 1 });
  });

  it('stays where it was when its node cannot send it, and moves when that is tried again', async () => {
    const { node, id } = await shown('web-1');
    inject(node, { kind: 'instance', operation: 'operate', match: 'web-1', times: 1, code: 'migration_failed' });
    const { body } = await api.post('/v1/instances/web-1/migrate', {});
    expect(await ended(body.job.id)).toMatchObject({ state: 'failed' });
    await isOnlyOn(id, node);
    calm();
    await until('nothing of it is left there', () => !has(other(node)).instances.has(id));
    const again = await api.post(`/v1/jobs/${body.job.id}/retry`, {});
    expect(again.status).toBe(202);
    expect(await ended(body.job.id)).toMatchObject({ state: 'succeeded' });
    await isOnlyOn(id, other(node));
  });

  it('is one machine, whichever agent dies in the middle', async () => {
    for (const victim of ['sender', 'taker'] as const) {
      const { node, id } = await shown('web-1');
      inject(node, { kind: 'instance', operation: 'operate', match: 'web-1', times: 1, delayMs: 3_000 });
      const { body } = await api.post('/v1/instances/web-1/migrate', {});
      await until('the sending has begun', () => has(node).instances.get(id)?.outgoing !== undefined);
      const dying = nodes.get(victim === 'sender' ? node : other(node))!;
      await dying.kill();
      dying.launch();
      const job = await ended(body.job.id);
      calm();
      const now = await shown('web-1');
      expect(now).toMatchObject({ state: 'ready', powerState: 'running' });
      expect(now.node).toBe(job.state === 'succeeded' ? other(node) : node);
      await isOnlyOn(id, now.node);
    }
  }, 120_000);

  it('is not moved to where its networks do not reach the machines that are on them', async () => {
    await api.make('networks', { name: 'wide', subnet: '10.42.0.0/24' });
    const interfaces = [{ network: 'wide' }];
    const first = await machine('wide-1', { interfaces });
    await machine('wide-2', { interfaces });
    const { node } = first;
    if ((await shown('wide-2')).node !== node) {
      await rhyzome(stack, 'instance', 'migrate', 'acme/wide-2', '--to', node);
    }
    // As if its underlay had become too narrow for the network.
    const narrow = (mtu: number) => operator('update node set underlay_mtu = $1 where name = $2', [mtu, other(node)]);
    await narrow(1_000);
    for (const body of [{}, { node: other(node) }]) {
      const refused = await api.post('/v1/instances/wide-1/migrate', body);
      expectProblem(refused, 409, 'no_capacity');
      expect(refused.text).toContain('interfaces');
    }
    expect(await shown('wide-1')).toMatchObject({ node, state: 'ready', powerState: 'running' });
    // A network that nobody else is on goes along.
    await api.remove('instances', 'wide-2');
    const alone = await api.post('/v1/instances/wide-1/migrate?wait=30s', {});
    expect(alone.body).toMatchObject({ node: other(node), job: { state: 'succeeded' } });
    await isOnlyOn(first.id, other(node));
    await narrow(9_000);
    await api.remove('instances', 'wide-1');
    await api.remove('networks', 'wide');
  });

  it('can be deleted on its way', async () => {
    const { node, id } = await machine('short-lived');
    inject(node, { kind: 'instance', operation: 'operate', match: 'short-lived', delayMs: 60_000 });
    await api.post('/v1/instances/short-lived/migrate', {});
    await until('the sending has begun', () => has(node).instances.get(id)?.outgoing !== undefined);
    await api.remove('instances', 'short-lived');
    calm();
    await until('it is nowhere', () => names.every((name) => !has(name).instances.has(id)));
  });
});

/** Empty disks that no machine has, on a node. */
async function disksOn(node: string, ...wanted: string[]): Promise<any[]> {
  const made = [];
  for (const name of wanted) {
    const disk = await api.make('disks', { name, sizeGiB: 1 });
    if (disk.node !== node) await rhyzome(stack, 'disk', 'migrate', `acme/${name}`, '--to', node);
    made.push(disk);
  }
  return made;
}

describe('a disk that no machine has', () => {
  it('moves with its snapshots, by an administrator’s word or its tenant’s, and can be attached there', async () => {
    const disk = await api.make('disks', { name: 'alone', sizeGiB: 1 });
    const snapshot = await api.make('snapshots', { name: 'of-alone', disk: disk.id });
    const to = other(disk.node);
    expectProblem(await api.post('/v1/disks/alone/migrate', { node: 'nowhere' }), 422, 'invalid');
    expectProblem(await api.post(`/v1/disks/${(await shown('web-1')).bootDisk}/migrate`, {}), 409, 'in_use');
    const answer = await api.post('/v1/disks/alone/migrate?wait=30s', { node: to });
    expect(answer.body).toMatchObject({ node: to, state: 'ready', job: { action: 'migrate', state: 'succeeded' } });
    await until('it is there alone', () => has(to).disks.has(disk.id) && !has(disk.node).disks.has(disk.id));
    expect(has(to).snapshots.has(snapshot.id)).toBe(true);
    await until('its snapshot has left', () => !has(disk.node).snapshots.has(snapshot.id));
    const { node } = await shown('web-1');
    if (node !== to) await rhyzome(stack, 'disk', 'migrate', 'acme/alone', '--to', node);
    const attached = await api.post('/v1/disks/alone/attach?wait=30s', { instance: 'web-1' });
    expect(attached.body).toMatchObject({ job: { state: 'succeeded' } });
    await api.post('/v1/disks/alone/detach?wait=30s', {});
    await api.remove('snapshots', 'of-alone');
  });

  it('is left alone meanwhile, and stays where it was when it is cancelled or cannot be sent', async () => {
    const disk = (await api.get('/v1/disks/alone')).body;
    inject(disk.node, { kind: 'disk', operation: 'operate', match: disk.id, delayMs: 60_000 });
    const { body } = await api.post('/v1/disks/alone/migrate', {});
    await until('it is being sent', async () =>
      (await jobOf(body.job.id)).steps.some(({ name }: any) => name === 'send it'),
    );
    expectProblem(await api.post('/v1/disks/alone/attach', { instance: 'web-1' }), 409, 'busy');
    expectProblem(await api.post('/v1/snapshots', { name: 'late', disk: disk.id }), 409, 'busy');
    await api.post(`/v1/jobs/${body.job.id}/cancel`, {});
    expect(await ended(body.job.id)).toMatchObject({ state: 'cancelled' });
    await until('the other has nothing of it', () => !has(other(disk.node)).disks.has(disk.id));
    inject(disk.node, { kind: 'disk', operation: 'operate', match: disk.id, times: 1, code: 'disk_failed' });
    const failing = await api.post('/v1/disks/alone/migrate?wait=30s', {});
    expect(failing.body.job).toMatchObject({ state: 'failed' });
    calm();
    expect((await api.get('/v1/disks/alone')).body).toMatchObject({ node: disk.node, state: 'ready' });
    expect(has(disk.node).disks.has(disk.id)).toBe(true);
  });

  it('moves once, whichever agent dies in the middle, and can be deleted on its way', async () => {
    for (const victim of ['sender', 'taker'] as const) {
      const disk = (await api.get('/v1/disks/alone')).body;
      await until('nothing of it is left there', () => !has(other(disk.node)).disks.has(disk.id));
      inject(disk.node, { kind: 'disk', operation: 'operate', match: disk.id, times: 1, delayMs: 2_000 });
      const { body } = await api.post('/v1/disks/alone/migrate', {});
      await until('it is being sent', async () =>
        (await jobOf(body.job.id)).steps.some(({ name }: any) => name === 'send it'),
      );
      const dying = nodes.get(victim === 'sender' ? disk.node : other(disk.node))!;
      await dying.kill();
      dying.launch();
      const { state } = await ended(body.job.id);
      calm();
      const at = state === 'succeeded' ? other(disk.node) : disk.node;
      expect((await api.get('/v1/disks/alone')).body).toMatchObject({ node: at, state: 'ready' });
      await until('it is there alone', () => has(at).disks.has(disk.id) && !has(other(at)).disks.has(disk.id));
    }
    const disk = (await api.get('/v1/disks/alone')).body;
    inject(disk.node, { kind: 'disk', operation: 'operate', match: disk.id, delayMs: 60_000 });
    await api.post('/v1/disks/alone/migrate', {});
    await until('the other awaits it', () => has(other(disk.node)).disks.has(disk.id));
    await api.remove('disks', 'alone');
    calm();
    expect((await api.get(`/v1/deleted-disks`)).body.items.map(({ id }: any) => id)).toContain(disk.id);
    await until('the other has nothing of it', () => !has(other(disk.node)).disks.has(disk.id));
    expect(has(disk.node).disks.has(disk.id)).toBe(true);
    expect((await api.delete(`/v1/deleted-disks/${disk.id}`)).status).toBe(204);
    await until('it is nowhere', () => names.every((name) => !has(name).disks.has(disk.id)));
  }, 120_000);
});

describe('a node', () => {
  it('is drained: what can move moves, and it says what stays and why', async () => {
    const made = [];
    for (const name of ['one', 'two', 'three']) made.push(await machine(`drained-${name}`));
    const from = made[0].node;
    for (const { name, node } of made) {
      if (node !== from) await rhyzome(stack, 'instance', 'migrate', `acme/${name}`, '--to', from);
    }
    // Its networks' router, by order; it goes again before the machines have gone.
    const { nodes: standing } = await rhyzome(stack, 'network', 'show', 'acme/lan');
    expect(standing.map(({ name }: any) => name)).toContain(from);
    expect(await rhyzome(stack, 'network', 'move-router', 'acme/lan', '--to', from)).toMatchObject({ to: from });
    const snapshot = await api.make('snapshots', { name: 'held', disk: made[2].bootDisk });
    const [loose, gone] = await disksOn(from, 'loose', 'gone');
    const ofLoose = await api.make('snapshots', { name: 'of-loose', disk: loose.id });
    await api.remove('disks', gone.name);
    const { status, stdout, stderr } = await drained(from);
    expect(status).toBe(1);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ movedDisks: 1, movedRouters: 1, purged: 0 });
    expect(stderr).toContain(`acme/lan: its router moved to ${other(from)}`);
    expect(result.left).toEqual([
      expect.objectContaining({ name: 'drained-three', why: expect.stringContaining('only while the machine is off') }),
      expect.objectContaining({ kind: 'deleted disk', name: gone.name }),
    ]);
    expect(stderr).toMatch(/acme\/loose: moved in/);
    expect((await api.get(`/v1/disks/${loose.id}`)).body).toMatchObject({ node: other(from), state: 'ready' });
    expect(has(other(from)).disks.get(loose.id).lineage).toEqual(['empty']);
    expect(has(other(from)).snapshots.has(ofLoose.id)).toBe(true);
    expect(stderr).toMatch(/acme\/drained-one: moved in \d+\.\d s/);
    expect(await rhyzome(stack, 'node', 'show', from)).toMatchObject({ state: 'draining' });
    const rest = await drained(from, '--may-stop', '--purge-deleted');
    expect(rest.status, rest.stderr).toBe(0);
    expect(JSON.parse(rest.stdout)).toMatchObject({ moved: 1, purged: 1, left: [] });
    for (const { id } of made) await isOnlyOn(id, other(from));
    // It holds nothing any more: neither machines nor disks, nor what the database knows of any.
    await until('it is empty', () => {
      const { instances, disks, snapshots } = has(from);
      return instances.size + disks.size + snapshots.size === 0;
    });
    await until('nothing is placed there', async () => (await rhyzome(stack, 'node', 'show', from)).placed === 0);
    const { items } = (await api.get(`/v1/audit?resource=${gone.id}`)).body;
    expect(items.map(({ action }: any) => action)).toContain('disk.purge');
    await api.remove('snapshots', ofLoose.id);
    await api.remove('disks', loose.id);
    // Nothing new comes, until it is let.
    expect(await machine('elsewhere')).toMatchObject({ node: other(from) });
    expect(await rhyzome(stack, 'node', 'uncordon', from)).toMatchObject({ state: 'up', draining: false });
    await api.remove('snapshots', snapshot.id);
  }, 180_000);
});

function drained(node: string, ...flags: string[]) {
  return runProgram('cli', ['--config', stack.dev.config, 'node', 'drain', node, ...flags, '--json'], 120_000);
}

describe('a node that dies while it sends', () => {
  /** Behind a fence, and on again when what became of its machine is known. */
  const fenced = async (name: string) => {
    await nodes.get(name)!.kill();
    await rhyzome(stack, 'node', 'fence', name, '--confirm-off', '--force');
  };
  const back = async (name: string) => {
    calm();
    nodes.get(name)!.launch();
    await stopped(name);
  };
  const stopped = async (name: string) => {
    await until(
      `${name} is back`,
      async () => (await rhyzome(stack, 'node', 'show', name)).state === 'cordoned',
      60_000,
    );
    await rhyzome(stack, 'node', 'uncordon', name);
  };
  const isAt = (node: string, id: string, phase: string) =>
    until(`it is ${phase} on ${node}`, () => has(node).instances.get(id)?.outgoing?.phase === phase, 60_000);
  const machineOn = async (node: string, name: string) => {
    const made = await machine(name);
    if (made.node !== node) await rhyzome(stack, 'instance', 'migrate', `acme/${name}`, '--to', node);
    await isOnlyOn(made.id, node);
    return shown(name);
  };
  const tellings = async (id: string) =>
    (await operator('select 1 from deed where resource_id = $1 and verb = $2', [id, 'abandon'])).rows.length;

  it('has its machine still, if that was not let go', async () => {
    const { node, id } = await machine('kept-back');
    inject(node, { kind: 'instance', operation: 'operate', match: 'kept-back', delayMs: 60_000 });
    const { body } = await api.post('/v1/instances/kept-back/migrate', {});
    await until('the sending has begun', () => has(node).instances.get(id)?.outgoing !== undefined);
    await fenced(node);
    expect(await ended(body.job.id)).toMatchObject({ state: 'failed' });
    await until('the other has nothing of it', () => !has(other(node)).instances.has(id));
    expect(await shown('kept-back')).toMatchObject({ node });
    await back(node);
    await isOnlyOn(id, node);
    await until('it runs there', () => has(node).instances.get(id).powerState === 'running', 60_000);
    expect(has(node).instances.get(id).outgoing).toBeUndefined();
    await api.remove('instances', 'kept-back');
  }, 180_000);

  it('has lost it to the other, if that runs it, whatever was heard of that', async () => {
    const { node, id, bootDisk } = await machine('let-go');
    // Dies between letting go and hearing that it was taken; the servers last heard that it waits there.
    inject(other(node), { kind: 'release', operation: 'apply', match: 'let-go', times: 1, delayMs: 3_000 });
    const { body } = await api.post('/v1/instances/let-go/migrate', {});
    await isAt(node, id, 'releasing');
    await nodes.get(node)!.kill();
    await until('it runs there', () => has(other(node)).instances.get(id)?.powerState === 'running');
    await fenced(node);
    expect(await ended(body.job.id)).toMatchObject({ state: 'succeeded' });
    expect(await shown('let-go')).toMatchObject({ node: other(node), state: 'ready', powerState: 'running' });
    expect(has(other(node)).instances.get(id)).toMatchObject({ powerState: 'running', boots: 1 });
    await back(node);
    await isOnlyOn(id, other(node));
    await until('its disk has left', () => !has(node).disks.has(bootDisk));
    expect(has(other(node)).instances.get(id)).toMatchObject({ powerState: 'running', boots: 1 });
    await api.remove('instances', 'let-go');
  }, 180_000);

  it('has lost what is whole there and off here, though it could not let go of it any more', async () => {
    const live = await machine('whole-live');
    const cold = await machineOn(live.node, 'whole-cold');
    const snapshot = await api.make('snapshots', { name: 'of-whole', disk: cold.bootDisk });
    const { node } = live;
    inject(other(node), { kind: 'release', operation: 'apply', match: 'whole-*', code: 'deaf' });
    const jobs = [];
    for (const name of ['whole-live', 'whole-cold']) {
      jobs.push((await api.post(`/v1/instances/${name}/migrate`, { mayStop: true })).body.job.id);
    }
    for (const { id } of [live, cold]) await isAt(node, id, 'releasing');
    // The other one starts anew meanwhile, too: what it knows is on its disk.
    await nodes.get(other(node))!.kill();
    await fenced(node);
    nodes.get(other(node))!.launch();
    for (const job of jobs) expect(await ended(job)).toMatchObject({ state: 'succeeded' });
    for (const name of ['whole-live', 'whole-cold']) {
      expect(await shown(name)).toMatchObject({ node: other(node), state: 'ready', powerState: 'running' });
    }
    expect(has(other(node)).instances.get(live.id)).toMatchObject({ powerState: 'running', boots: 1 });
    expect(has(other(node)).instances.get(cold.id)).toMatchObject({ powerState: 'running', boots: 2 });
    expect(has(other(node)).snapshots.has(snapshot.id)).toBe(true);
    await back(node);
    for (const { id, bootDisk } of [live, cold]) {
      await isOnlyOn(id, other(node));
      await until('its disk has left', () => !has(node).disks.has(bootDisk));
    }
    expect(has(other(node)).instances.get(live.id)).toMatchObject({ powerState: 'running', boots: 1 });
    await api.remove('snapshots', 'of-whole');
    for (const name of ['whole-live', 'whole-cold']) await api.remove('instances', name);
  }, 180_000);

  it('has its machine back when it is back, if it had not said that it is off, or was told to have it back', async () => {
    const unsaid = await machine('unsaid');
    const cancelled = await machineOn(unsaid.node, 'cancelled');
    const { node } = unsaid;
    inject(
      other(node),
      { kind: 'state', operation: 'apply', match: 'unsaid', code: 'deaf' },
      { kind: 'release', operation: 'apply', match: 'cancelled', code: 'deaf' },
    );
    const first = (await api.post('/v1/instances/unsaid/migrate', {})).body.job.id;
    const second = (await api.post('/v1/instances/cancelled/migrate', {})).body.job.id;
    await isAt(node, unsaid.id, 'gone');
    await isAt(node, cancelled.id, 'releasing');
    await api.post(`/v1/jobs/${second}/cancel`, {});
    await until('it is told to have it back', async () => (await tellings(cancelled.id)) > 0);
    await fenced(node);
    expect(await ended(first)).toMatchObject({ state: 'failed', error: { reason: 'node_gone' } });
    expect(await ended(second)).toMatchObject({ state: 'cancelled' });
    for (const { id } of [unsaid, cancelled]) {
      await until('the other has nothing of it', () => !has(other(node)).instances.has(id));
    }
    await back(node);
    for (const { id, name, bootDisk } of [unsaid, cancelled]) {
      await until('it runs there again', () => has(node).instances.get(id).outgoing === undefined, 60_000);
      expect(has(node).instances.get(id)).toMatchObject({ powerState: 'running', boots: 2 });
      expect(has(node).disks.has(bootDisk)).toBe(true);
      await isOnlyOn(id, node);
      expect(await shown(name)).toMatchObject({ node, state: 'ready' });
      await api.remove('instances', name);
    }
  }, 180_000);

  it('has lost it as well when it lives, and only its administrator takes it for dead', async () => {
    const { node, id, bootDisk } = await machine('said-dead');
    inject(other(node), { kind: 'release', operation: 'apply', match: 'said-dead', code: 'deaf' });
    const { body } = await api.post('/v1/instances/said-dead/migrate', {});
    await isAt(node, id, 'releasing');
    await rhyzome(stack, 'node', 'fence', node, '--confirm-off', '--force');
    expect(await ended(body.job.id)).toMatchObject({ state: 'succeeded' });
    expect(await shown('said-dead')).toMatchObject({ node: other(node), state: 'ready', powerState: 'running' });
    await stopped(node);
    await isOnlyOn(id, other(node));
    await until('its disk has left', () => !has(node).disks.has(bootDisk));
    expect(has(other(node)).instances.get(id)).toMatchObject({ powerState: 'running', boots: 1 });
    await api.remove('instances', 'said-dead');
  }, 180_000);
});

describe('a node that is gone', () => {
  it('is evacuated, after it was said what is lost', async () => {
    const made = await machine('survivor');
    const from = made.node;
    const snapshot = await api.make('snapshots', { name: 'yesterday', disk: made.bootDisk });
    const image = await api.make('images', { name: 'kept', snapshot: snapshot.id });
    await until('the image is there', async () => (await api.get('/v1/images/kept')).body.sha256 !== null);
    const evacuate = (...flags: string[]) =>
      runProgram('cli', ['--config', stack.dev.config, 'node', 'evacuate', from, ...flags, '--json'], 60_000);
    expect((await evacuate('--accept-loss')).stderr).toContain('Only a node behind a fence');
    await nodes.get(from)!.kill();
    await rhyzome(stack, 'node', 'fence', from, '--confirm-off', '--force');
    const shownFirst = await evacuate();
    expect(shownFirst.status).toBe(1);
    const plan = JSON.parse(shownFirst.stdout).plan.find(({ id }: any) => id === made.id);
    expect(plan.disks).toEqual([
      expect.objectContaining({
        from: 'snapshot',
        image: expect.objectContaining({ id: image.id }),
        lostSince: snapshot.createdAt,
        lostSnapshots: ['yesterday'],
      }),
    ]);
    expect(await shown('survivor')).toMatchObject({ node: from });
    const done = JSON.parse((await evacuate('--accept-loss')).stdout).machines;
    const { job } = done.find(({ id }: any) => id === made.id);
    expect(await ended(job)).toMatchObject({ action: 'evacuate', state: 'succeeded' });
    const now = await shown('survivor');
    const to = other(from);
    expect(now).toMatchObject({ node: to, state: 'ready', powerState: 'running', interfaces: made.interfaces });
    expect(now.conditions).toContainEqual(
      expect.objectContaining({ type: 'DataLoss', status: 'true', message: expect.stringContaining('“kept”') }),
    );
    expect(has(to).disks.get(made.bootDisk).image.sha256).toBe((await api.get('/v1/images/kept')).body.sha256);
    expect((await api.get('/v1/snapshots/yesterday')).body).toMatchObject({ state: 'failed' });
    // When it comes back its machine is off, and what its disk held can still be looked at.
    nodes.get(from)!.launch();
    await until('the machine is not there any more', () => !has(from).instances.has(made.id));
    expect(has(from).disks.has(made.bootDisk)).toBe(true);
    expect(has(to).instances.get(made.id)).toMatchObject({ powerState: 'running', boots: 1 });
  }, 180_000);
});
