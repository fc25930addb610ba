/** Users as administrators keep them, over the control plane and an identity provider in memory. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory, type Actor, adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { isPasswordOf } from '#libs/identity';
import { apitoken } from '#libs/kinds/apitoken';
import { grant } from '#libs/kinds/grant';
import { group } from '#libs/kinds/group';
import { network } from '#libs/kinds/network';
import { realm } from '#libs/kinds/realm';
import { serviceaccount } from '#libs/kinds/serviceaccount';
import { user } from '#libs/kinds/user';
import { type Caller, hashRequest, type KindDefinition } from '#libs/resources';
import { callerIn, giveLoginPlace, loginPlaceOf, memoryIdentity, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;
let access: AccessDirectory;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, grant, realm, group, user, serviceaccount, apitoken] });
  access = new AccessDirectory(platform.db);
  platform.listener.on('rhyzome_access', (tenantId) => access.forget(tenantId));
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  await giveLoginPlace(platform, caller.actor.tenantId);
});

async function make(kind: KindDefinition, body: object, by = caller): Promise<Record<string, any>> {
  const change = await platform.pipeline.create(by, kind, body);
  await platform.done(by, change);
  return { ...(await view(kind, change.body.id)), ...change.secrets };
}

const view = async (kind: KindDefinition, id: string): Promise<Record<string, any>> =>
  (await platform.reader.get(caller, kind, id)).body;
const patch = async (name: string, change: object, by = caller) =>
  platform.done(by, await platform.pipeline.update(by, user, name, change));
const act = async (name: string, action: string, by = caller) => {
  const change = await platform.pipeline.act(by, user, name, action, {});
  await platform.done(by, change);
  return change;
};
const remove = async (kind: KindDefinition, name: string, by = caller) =>
  platform.done(by, await platform.pipeline.remove(by, kind, name));
const account = (name: string) => loginPlaceOf(caller.actor.tenantId).users.get(name);

/** Somebody who logs in with a JWT of the tenant's realm. */
function tokenOf(subject: string, more: Partial<Actor> = {}): Actor {
  return { tenantId: caller.actor.tenantId, subject, roles: [], groups: [], scopes: null, via: 'token', ...more };
}
const enter = (actor: Actor) =>
  access.enrich(actor).then(
    () => 'welcome',
    (error) => error.reason as string,
  );
/** What the tenant's grants give to it, as a request has it. */
const withGrants = async (actor: Actor): Promise<Caller> => ({ actor: await access.enrich(actor), requestId: newId() });

describe('an invited user', () => {
  test('has an account with a one-time password that only the answer to the invitation tells', async () => {
    await make(group, { name: 'ops' });
    const alice = await make(user, {
      name: 'alice',
      email: 'Alice@Acme.Example',
      firstName: 'Alice',
      role: 'operator',
      groups: ['ops'],
    });
    expect(alice).toMatchObject({ email: 'alice@acme.example', lastName: null, enabled: true, role: 'operator' });
    expect(alice.subject).toBe(account('alice')!.subject);
    expect(Date.now() - Date.parse(alice.lastInvitedAt)).toBeLessThan(20_000);
    expect(account('alice')).toMatchObject({ role: 'operator', groups: ['ops'], enabled: true, isTemporary: true });
    expect(await isPasswordOf(alice.oneTimePassword, account('alice')!.password!)).toBe(true);
    expect(await view(user, 'alice')).not.toHaveProperty('oneTimePassword');
    expect(await tablesWith(alice.oneTimePassword)).toEqual([]);
    // Not even what it was hashed to.
    expect(await tablesWith(JSON.parse(account('alice')!.password!.secretData).value)).toEqual([]);
    expect((await view(group, 'ops')).members).toEqual({ total: 1 });
  });

  test('is not told again by the same request with the same key, and gets another one by a new invitation', async () => {
    const options = { idempotency: { subject: caller.actor.subject, key: 'k', hash: hashRequest('alice') } };
    const first = await platform.pipeline.create(caller, user, { name: 'alice' }, options);
    await platform.done(caller, first);
    const again = await platform.pipeline.create(caller, user, { name: 'alice' }, options);
    expect(again.replay).toBeDefined();
    expect(JSON.stringify(again)).not.toContain(first.secrets!.oneTimePassword);
    account('alice')!.isTemporary = false;
    const { secrets } = await act('alice', 'invite');
    expect(secrets!.oneTimePassword).not.toBe(first.secrets!.oneTimePassword);
    expect(account('alice')).toMatchObject({ isTemporary: true });
    expect(await isPasswordOf(secrets!.oneTimePassword as string, account('alice')!.password!)).toBe(true);
  });

  test('waits for groups that are not made yet, and has an address that nobody else has', async () => {
    memoryIdentity().away = true;
    const ops = await platform.pipeline.create(caller, group, { name: 'ops' });
    const alice = await platform.pipeline.create(caller, user, {
      name: 'alice',
      groups: ['ops'],
      email: 'a@b.example',
    });
    await expect
      .poll(async () => (await platform.jobs.get(caller, alice.jobId!)).message, { timeout: 5_000 })
      .toContain('ops');
    memoryIdentity().away = false;
    await platform.done(caller, ops);
    await platform.done(caller, alice);
    expect(account('alice')!.groups).toEqual(['ops']);
    await expect(make(user, { name: 'bob', email: 'A@B.example' })).rejects.toMatchObject({
      code: 'already_exists',
      details: { errors: [{ pointer: '/email' }] },
    });
    await expect(make(user, { name: 'al' })).rejects.toMatchObject({ code: 'invalid' });
  }, 60_000);

  test('is there only where Rhyzome keeps the tenant’s people', async () => {
    const stranger = await platform.tenant();
    for (const kind of [user, group]) {
      await expect(platform.pipeline.create(stranger, kind, { name: 'alice' })).rejects.toMatchObject({
        code: 'not_managed',
      });
    }
  });
});

describe('a change of a user', () => {
  test('reaches its account; the group that goes takes its membership', async () => {
    await make(group, { name: 'ops' });
    await make(group, { name: 'dev' });
    await make(user, { name: 'alice', role: 'viewer', groups: ['ops', 'dev'] });
    await patch('alice', { lastName: 'Liddell', role: null });
    expect(account('alice')).toMatchObject({ lastName: 'Liddell', role: null, groups: ['dev', 'ops'] });
    await remove(group, 'ops');
    expect(account('alice')!.groups).toEqual(['dev']);
    expect((await view(user, 'alice')).groups).toEqual([(await view(group, 'dev')).id]);
    await patch('alice', { groups: [] });
    expect(account('alice')!.groups).toEqual([]);
  });

  test('that cannot be done is taken back, outside, too', async () => {
    await make(user, { name: 'alice', role: 'viewer' });
    const memory = memoryIdentity();
    memory.away = true;
    const change = await platform.pipeline.update(caller, user, 'alice', { role: 'operator' });
    await platform.jobs.cancel(caller, change.jobId!);
    memory.away = false;
    expect((await platform.ended(caller, change.jobId!)).state).toBe('cancelled');
    expect(account('alice')!.role).toBe('viewer');
    expect((await view(user, 'alice')).role).toBe('viewer');
  }, 60_000);

  test('does not change the name', async () => {
    await make(user, { name: 'alice' });
    await expect(patch('alice', { name: 'alicia' })).rejects.toMatchObject({
      code: 'invalid',
      details: { errors: [{ pointer: '/name', code: 'immutable' }] },
    });
  });
});

describe('a disabled or removed user', () => {
  test('is refused from the request on, before its job has done anything', async () => {
    const alice = await make(user, { name: 'alice', role: 'viewer' });
    const token = tokenOf(alice.subject, { roles: ['viewer'] });
    expect(await enter(token)).toBe('welcome');
    memoryIdentity().away = true;
    const change = await platform.pipeline.act(caller, user, 'alice', 'disable', {});
    await expect.poll(() => enter(token), { timeout: 5_000 }).toBe('subject_disabled');
    memoryIdentity().away = false;
    await platform.done(caller, change);
    expect(account('alice')).toMatchObject({ enabled: false, endedSessions: 1 });
    await expect(act('alice', 'invite')).rejects.toMatchObject({ code: 'not_ready' });
    await act('alice', 'enable');
    expect(account('alice')!.enabled).toBe(true);
    await expect.poll(() => enter(token), { timeout: 5_000 }).toBe('welcome');
    memoryIdentity().away = true;
    const removal = await platform.pipeline.remove(caller, user, 'alice');
    await expect.poll(() => enter(token), { timeout: 5_000 }).toBe('subject_disabled');
    memoryIdentity().away = false;
    await platform.done(caller, removal);
    expect(account('alice')).toBeUndefined();
    // Its tokens may live on, and somebody else of its name is somebody else.
    expect(await enter(token)).toBe('subject_disabled');
    const other = await make(user, { name: 'alice' });
    expect(other.subject).not.toBe(alice.subject);
    expect(await enter({ ...token })).toBe('subject_disabled');
  }, 60_000);

  test('is welcome again when its removal was cancelled', async () => {
    const alice = await make(user, { name: 'alice' });
    memoryIdentity().away = true;
    const removal = await platform.pipeline.remove(caller, user, 'alice');
    const cancelled = await platform.jobs.cancel(caller, removal.jobId!).then(
      () => true,
      () => false,
    );
    memoryIdentity().away = false;
    await platform.ended(caller, removal.jobId!);
    expect(cancelled).toBe(true);
    await expect.poll(() => enter(tokenOf(alice.subject)), { timeout: 5_000 }).toBe('welcome');
  }, 60_000);

  test('is never the last administrator, of many that go at once neither', async () => {
    await make(user, { name: 'alice', role: 'admin' });
    const last = { code: 'last_admin' };
    await expect(patch('alice', { role: 'operator' })).rejects.toMatchObject(last);
    await expect(act('alice', 'disable')).rejects.toMatchObject(last);
    await expect(remove(user, 'alice')).rejects.toMatchObject(last);
    for (const name of ['bob', 'carol']) await make(user, { name, role: 'admin' });
    const outcomes = await Promise.allSettled([
      remove(user, 'alice'),
      patch('bob', { role: null }),
      act('carol', 'disable'),
    ]);
    expect(outcomes.filter(({ status }) => status === 'rejected')).toMatchObject([{ reason: last }]);
    const { items } = await platform.reader.list(caller, user, { role: 'admin' });
    expect(items.filter(({ enabled }) => enabled)).toHaveLength(1);
    // The command may: it removes whole tenants.
    const admin = { actor: adminActor(caller.actor.tenantId, 'root'), requestId: newId() };
    await remove(user, items.find(({ enabled }) => enabled)!.id, admin);
  });
});

describe('nobody gives more than he has', () => {
  /** May do all with users, and nothing else. */
  async function keeper(more: Partial<Actor> = {}): Promise<Caller> {
    await make(grant, {
      name: `g-${newId().slice(-12)}`,
      subject: { sub: 'nora' },
      verbs: ['*'],
      kinds: ['user', 'group'],
    });
    return withGrants(tokenOf('nora', more));
  }
  const tooMuch = { code: 'forbidden' };

  test('a role', async () => {
    const nora = await keeper();
    await make(user, { name: 'dora' }, nora);
    for (const role of ['viewer', 'operator', 'admin'])
      await expect(make(user, { name: 'bob', role }, nora), role).rejects.toMatchObject(tooMuch);
    await expect(patch('dora', { role: 'admin' }, nora)).rejects.toMatchObject(tooMuch);
    const operator = await keeper({ roles: ['operator'] });
    await make(user, { name: 'otto', role: 'operator' }, operator);
    await expect(patch('otto', { role: 'admin' }, operator)).rejects.toMatchObject(tooMuch);
    // A token for users alone is not one for all that an administrator may do.
    const narrow = callerIn(caller.actor.tenantId);
    const scoped = { ...narrow, actor: { ...narrow.actor, scopes: [{ kind: 'user', verb: '*' }] } };
    await expect(make(user, { name: 'eve', role: 'admin' }, scoped)).rejects.toMatchObject(tooMuch);
  });

  test('a way to log in as somebody who has more', async () => {
    await make(user, { name: 'alice', role: 'admin', email: 'alice@acme.example' });
    const nora = await keeper();
    await expect(act('alice', 'invite', nora)).rejects.toMatchObject(tooMuch);
    await expect(patch('alice', { email: 'nora@acme.example' }, nora)).rejects.toMatchObject(tooMuch);
    await patch('alice', { firstName: 'Alice' }, nora);
    expect(account('alice')).toMatchObject({ email: 'alice@acme.example', firstName: 'Alice' });
  });

  test('a group whose grants he has not', async () => {
    await make(group, { name: 'ops' });
    await make(group, { name: 'idle' });
    await make(grant, { name: 'for-ops', subject: { group: 'ops' }, verbs: ['create'], kinds: ['network'] });
    const nora = await keeper();
    await make(user, { name: 'dora', groups: ['idle'] }, nora);
    await expect(patch('dora', { groups: ['ops'] }, nora)).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('for-ops'),
    });
    await expect(remove(group, 'ops')).rejects.toMatchObject({
      code: 'in_use',
      details: { blockers: [{ kind: 'grant' }] },
    });
  });
});

test('goes along with its groups, its API tokens and a new sub when the tenant’s login place moves', async () => {
  const { tenantId } = caller.actor;
  await make(group, { name: 'ops' });
  const alice = await make(user, { name: 'alice', role: 'admin', email: 'a@b.example', groups: ['ops'] });
  const dora = await make(user, { name: 'dora' });
  await act('dora', 'disable');
  const token = await make(apitoken, { name: 'mine' }, { actor: tokenOf(alice.subject), requestId: newId() });
  const root = { actor: adminActor(tenantId, 'root'), requestId: newId() };
  await platform.done(root, await platform.pipeline.update(root, realm, 'login', { mode: 'organization' }));
  const there = memoryIdentity().placeOf(tenantId, 'organization')!.users;
  expect(there.get('alice')).toMatchObject({ role: 'admin', groups: ['ops'], email: 'a@b.example', enabled: true });
  expect(there.get('dora')).toMatchObject({ enabled: false });
  const { subject } = await view(user, 'alice');
  expect(subject).toBe(there.get('alice')!.subject);
  expect(subject).not.toBe(alice.subject);
  expect(await enter(tokenOf(subject))).toBe('welcome');
  for (const disabled of [dora.subject, there.get('dora')!.subject])
    expect(await enter(tokenOf(disabled))).toBe('subject_disabled');
  const { items } = await platform.reader.list({ actor: tokenOf(subject), requestId: newId() }, apitoken, {});
  expect(items).toMatchObject([{ id: token.id, subject }]);
  // From now on changes reach the new place.
  await patch('alice', { firstName: 'Alice' });
  expect(there.get('alice')!.firstName).toBe('Alice');
}, 60_000);

async function tablesWith(text: string): Promise<string[]> {
  const tables = await sql<{ name: string }>`select table_name as name from information_schema.columns
    where table_schema = 'public' and column_name = 'tenant_id'`.execute(platform.db.operator);
  const found: string[] = [];
  for (const { name } of tables.rows) {
    const rows = await sql`select 1 from ${sql.table(name)} t where strpos(t::text, ${text}) > 0 limit 1`.execute(
      platform.db.operator,
    );
    if (rows.rows.length > 0) found.push(name);
  }
  return found;
}
