/**
 * Machines that move between nodes, over the real processes with simulated machines: by an administrator's word, by the
 * tenant's where it is allowed, back again when it is cancelled or fails, and all of a node's when it is drained.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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
    const { status, stdout, stderr } = await drained(from);
    expect(status).toBe(1);
    const result = JSON.parse(stdout);
    expect(result.movedRouters).toBe(1);
    expect(stderr).toContain(`acme/lan: its router moved to ${other(from)}`);
    expect(result.left).toEqual([
      expect.objectContaining({ name: 'drained-three', why: expect.stringContaining('only while the machine is off') }),
    ]);
    expect(stderr).toMatch(/acme\/drained-one: moved in \d+\.\d s/);
    expect(await rhyzome(stack, 'node', 'show', from)).toMatchObject({ state: 'draining' });
    const rest = await drained(from, '--may-stop');
    expect(rest.status, rest.stderr).toBe(0);
    expect(JSON.parse(rest.stdout)).toMatchObject({ moved: 1, left: [] });
    for (const { id } of made) await isOnlyOn(id, other(from));
    // Nothing new comes, until it is let.
    expect(await machine('elsewhere')).toMatchObject({ node: other(from) });
    expect(await rhyzome(stack, 'node', 'uncordon', from)).toMatchObject({ state: 'up', draining: false });
    await api.remove('snapshots', snapshot.id);
  }, 180_000);
});

function drained(node: string, ...flags: string[]) {
  return runProgram('cli', ['--config', stack.dev.config, 'node', 'drain', node, ...flags, '--json'], 120_000);
}

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
