/** `rhyzome node` on a real database, with nodes as rhyzome-grpc writes them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
});
afterAll(() => rhyzome?.remove());

async function register(name: string, heartbeatAgeSeconds: number | null, seenAgeSeconds = heartbeatAgeSeconds ?? 0) {
  const id = newId();
  const ago = (seconds: number) => new Date(Date.now() - seconds * 1000);
  const db = rhyzome.db.operator;
  const room = { vcpus: 8, memory_mib: 16_384, disk_gib: 100 };
  await db
    .insertInto('node')
    .values({
      id,
      name,
      driver: 'sim',
      agent_version: '1',
      kinds: ['instance'],
      last_seen_at: ago(seenAgeSeconds),
      ...room,
    })
    .execute();
  if (heartbeatAgeSeconds !== null)
    await db
      .insertInto('node_session')
      .values({ node_id: id, session: 1, replica: 'grpc1:7443', heartbeat_at: ago(heartbeatAgeSeconds) })
      .execute();
  return id;
}

async function resource(name: string, kind = 'instance') {
  const id = newId();
  await rhyzome.db.operator
    .insertInto('resource')
    .values({ tenant_id: 'acme', id, kind, name, state: 'ready', created_by: 'x' })
    .execute();
  return { tenant_id: 'acme', id };
}

describe('rhyzome node', () => {
  it('tells which are up, and what is reserved of them', async () => {
    const up = await register('up1', 2);
    await register('silent', 45);
    await register('gone', null, 300);
    const { id } = await resource('vm-room');
    await rhyzome.db.operator
      .insertInto('reservation')
      .values({ tenant_id: 'acme', resource_id: id, node_id: up, vcpus: 2, memory_mib: 512, disk_gib: 10 })
      .execute();
    const nodes = await rhyzome.json('node', 'list');
    expect(nodes.map(({ name, state }: { name: string; state: string }) => [name, state])).toEqual([
      ['gone', 'unreachable'],
      ['silent', 'unreachable'],
      ['up1', 'up'],
    ]);
    expect(nodes[2]).toMatchObject({
      driver: 'sim',
      cordoned: false,
      replica: 'grpc1:7443',
      capacity: { vcpus: 8, memoryMiB: 16_384, diskGiB: 100 },
      reserved: { vcpus: 2, memoryMiB: 512, diskGiB: 10 },
    });
    expect(nodes[0].lastSeenSeconds).toBeGreaterThanOrEqual(299);
    expect(await rhyzome.ok('node', 'list')).toMatch(/up1 +up +sim +2\/8 +512\/16384 +10\/100 +0 +\d+ s ago/);
    expect((await rhyzome.json('node', 'show', 'up1')).resources).toMatchObject([{ name: 'vm-room', tenant: 'acme' }]);
    expect((await rhyzome.json('node', 'show', up)).name).toBe('up1');
  });

  it('cordons and uncordons, each once', async () => {
    const id = await register('cord', 1);
    for (const verb of ['cordon', 'cordon', 'uncordon', 'uncordon', 'cordon']) await rhyzome.ok('node', verb, 'cord');
    expect(await rhyzome.json('node', 'show', 'cord')).toMatchObject({ id, cordoned: true });
    expect(await rhyzome.ok('node', 'list')).toMatch(/cord +cordoned +sim/);
    const rows = (await rhyzome.audit('system')).filter(({ resource_name }) => resource_name === 'cord');
    expect(rows.map(({ action }) => action)).toEqual(['node.cordon', 'node.uncordon', 'node.cordon']);
  });

  it('removes a node only when nothing is placed there', async () => {
    const id = await register('old', null, 900);
    const vm = await resource('vm-here');
    const leaving = newId();
    await rhyzome.db.operator
      .insertInto('placement')
      .values([
        { tenant_id: 'acme', resource_id: vm.id, node_id: id, kind: 'instance', generation: 1, present: true },
        { tenant_id: 'acme', resource_id: leaving, node_id: id, kind: 'network', generation: 1, present: false },
      ])
      .execute();
    const refused = await rhyzome.run('node', 'remove', 'old');
    expect(refused.status).toBe(1);
    expect(refused.err).toContain(`instance vm-here of tenant acme (${vm.id}, placed)`);
    expect(refused.err).toContain(`network (deleted) of tenant acme (${leaving}, leaving)`);
    const { error } = JSON.parse((await rhyzome.run('node', 'remove', 'old', '--json')).err);
    expect(error).toMatchObject({ code: 'in_use', more: 0, blockers: [{}, {}] });

    await rhyzome.db.operator.deleteFrom('placement').where('node_id', '=', id).execute();
    const deed = { node_id: id, kind: 'instance', resource_id: vm.id, verb: 'reboot', repeatable: false };
    const unclear = newId();
    await rhyzome.db.operator
      .insertInto('deed')
      .values({ tenant_id: 'acme', id: unclear, state: 'unclear', ...deed })
      .execute();
    expect((await rhyzome.run('node', 'remove', 'old')).err).toContain(`Job ${unclear} waits for a word`);
    await rhyzome.db.operator.updateTable('deed').set({ state: 'done' }).where('id', '=', unclear).execute();
    await rhyzome.ok('node', 'remove', 'old');
    expect((await rhyzome.run('node', 'show', 'old')).status).toBe(3);
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'node.remove', resource_name: 'old' });
  });

  it('makes tokens that are shown once, lists and revokes them', async () => {
    const file = rhyzome.settings(
      { ...rhyzome.connections, grpc: { enrollment: { listen: '0.0.0.0:7444' } } },
      'e.json',
    );
    const told = await rhyzome.runWith({ config: file }, 'node', 'enroll', 'new-1', '--expires', '2h');
    expect(told).toMatchObject({ status: 0, err: '' });
    expect(told.out).toMatch(/--controller 0\.0\.0\.0:7444 --token rhe_\S{32} --ca-fingerprint sha256:FINGERPRINT/);
    const made = JSON.parse(
      (
        await rhyzome.runWith(
          { config: file },
          'node',
          'enroll',
          'new-1',
          '--controller',
          'grpc.example:7444',
          '--json',
        )
      ).out,
    );
    expect(made).toMatchObject({ node: 'new-1', state: 'open', controller: 'grpc.example:7444', caFingerprint: null });
    expect((await rhyzome.run('node', 'enroll', 'new-1')).err).toContain('no grpc.enrollment');
    const listed = await rhyzome.ok('node', 'token', 'list');
    expect(listed).toMatch(new RegExp(`${made.id} +new-1 +open`));
    expect(listed).not.toContain('rhe_');
    await rhyzome.ok('node', 'token', 'revoke', made.id);
    expect(await rhyzome.ok('node', 'token', 'list')).toMatch(new RegExp(`${made.id} +new-1 +revoked`));
    expect((await rhyzome.run('node', 'token', 'revoke', newId())).status).toBe(3);
    const stored = await rhyzome.db.operator.selectFrom('enrollment_token').selectAll().execute();
    expect(JSON.stringify(stored)).not.toContain(made.token.slice(4));
    expect(await rhyzome.json('node', 'revoke', 'new-1')).toMatchObject({ certificates: 0, tokens: 2 });
    const rows = (await rhyzome.audit('system')).filter(({ resource_name }) => resource_name === 'new-1');
    const actions = rows.map(({ action }) => action);
    expect(actions).toEqual(['node.enroll', 'node.enroll', 'node.enroll', 'node.token.revoke', 'node.revoke']);
    expect(JSON.stringify(rows)).not.toContain('rhe_');
    for (const [name, ...flags] of [
      ['UP'],
      ['x', '--expires', '5s'],
      ['x', '--expires', 'soon'],
      ['x', '--label', 'a'],
    ])
      expect((await rhyzome.run('node', 'enroll', name!, ...flags)).status, name).toBe(2);
  });

  it('removes a node without its certificates only when told so', async () => {
    await register('kept', 1);
    expect(await rhyzome.ok('node', 'remove', 'kept', '--keep-certificates')).toContain('registers it again');
    await register('kept', 1);
    expect(await rhyzome.ok('node', 'remove', 'kept')).toContain('certificates are revoked');
    const revoked = await rhyzome.db.operator
      .selectFrom('revocation')
      .select('name')
      .where('name', '=', 'kept')
      .execute();
    expect(revoked).toHaveLength(1);
  });

  it('fences a node by an administrator’s word, refuses to where it is heard, and tells of what is left there', async () => {
    const id = await register('dead', null, 300);
    await register('alive', 1);
    const refused = await rhyzome.run('node', 'fence', 'alive', '--confirm-off');
    expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('its machine is on') });
    const vm = await resource('vm-lost');
    const [leaving, network] = [newId(), newId()];
    const placement = { tenant_id: 'acme', node_id: id, generation: 1 };
    await rhyzome.db.operator
      .insertInto('placement')
      .values([
        { ...placement, resource_id: vm.id, kind: 'instance', present: true },
        {
          ...placement,
          resource_id: leaving,
          kind: 'instance',
          present: false,
          tombstoned_at: new Date(),
          tombstone_name: 'old',
        },
        { ...placement, resource_id: network, kind: 'network', present: false },
      ])
      .execute();
    await rhyzome.db.operator
      .insertInto('held_address')
      .values({ tenant_id: 'acme', ip: '203.0.113.7', node_id: id, resource_id: leaving, revision: 1 })
      .execute();
    expect(await rhyzome.json('node', 'show', 'dead')).toMatchObject({
      tombstones: [{ kind: 'instance', name: 'old', tenant: 'acme' }],
      heldAddresses: [{ ip: '203.0.113.7', network: null, tenant: 'acme' }],
    });
    expect(await rhyzome.ok('node', 'fence', 'dead', '--confirm-off')).toContain('Node dead is gone (epoch 2).');
    const shown = await rhyzome.json('node', 'show', 'dead');
    expect(shown).toMatchObject({
      state: 'gone',
      epoch: 2,
      heldAddresses: [],
      fences: [{ how: 'word', state: 'succeeded' }],
    });
    expect(await rhyzome.ok('node', 'show', 'dead')).toMatch(/TOMBSTONE +NAME.*\ninstance +old +acme/);
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({
      action: 'node.fence',
      resource_name: 'dead',
      details: { how: 'word', epoch: 2 },
    });
    expect((await rhyzome.run('node', 'fence', 'dead', '--confirm-off')).err).toContain('fenced already');
    // What it has yet to remove is forgotten with it; what is placed there is not.
    expect((await rhyzome.run('node', 'remove', 'dead')).err).toContain('vm-lost');
    await rhyzome.db.operator.deleteFrom('placement').where('resource_id', '=', vm.id).execute();
    await rhyzome.ok('node', 'remove', 'dead');
  });

  it('takes a fence back that no server takes up', async () => {
    await register('lonely', null, 300);
    const refused = await rhyzome.run('node', 'fence', 'lonely');
    expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('none has grpc.fence in its settings') });
    expect((await rhyzome.json('node', 'show', 'lonely')).fences).toMatchObject([{ state: 'failed', attempts: 0 }]);
  }, 40_000);

  it('shows and changes for how long removals wait', async () => {
    expect(await rhyzome.json('node', 'tombstones')).toEqual({ minutes: 10 });
    expect(await rhyzome.ok('node', 'tombstones', '--after', '30')).toContain('for 30 minutes');
    expect((await rhyzome.run('node', 'tombstones', '--after', 'x')).status).toBe(2);
  });

  it('does not know every node', async () => {
    for (const verb of ['show', 'remove', 'cordon', 'uncordon', 'fence'])
      expect(await rhyzome.run('node', verb, 'nobody')).toMatchObject({
        status: 3,
        err: expect.stringContaining('There is no node “nobody”'),
      });
  });
});
