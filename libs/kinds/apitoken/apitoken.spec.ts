/** API tokens as their owners use them: made once, good until they end or are revoked, never more than their owner. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory, type Actor, ApiTokens, Authenticator, isApiToken, may, newApiToken } from '#libs/auth';
import { newId } from '#libs/core';
import { apitoken } from '#libs/kinds/apitoken';
import { grant } from '#libs/kinds/grant';
import { group } from '#libs/kinds/group';
import { network } from '#libs/kinds/network';
import { serviceaccount } from '#libs/kinds/serviceaccount';
import { user } from '#libs/kinds/user';
import { type Caller, hashRequest, type KindDefinition } from '#libs/resources';
import { callerIn, giveLoginPlace, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;
/** Two replicas of the API. */
let replicas: { access: AccessDirectory; tokens: ApiTokens; authenticator: Authenticator }[];

beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, grant, group, user, serviceaccount, apitoken] });
  const noJwts = { verify: () => Promise.reject(new Error('no JWT in these tests')) };
  replicas = [1, 2].map(() => {
    const access = new AccessDirectory(platform.db);
    const tokens = new ApiTokens(platform.db, access, { refusedMs: 60_000 });
    return { access, tokens, authenticator: new Authenticator(noJwts, access, tokens) };
  });
  // The first hears of changes at once; the second is deaf and compares epochs.
  platform.listener.on('rhyzome_access', (tenantId) => replicas[0]!.access.forget(tenantId));
  for (const { access } of replicas) access.start();
});
afterAll(async () => {
  for (const { access, tokens } of replicas) {
    access.stop();
    await tokens.stop();
  }
  await platform?.close();
});
beforeEach(async () => {
  caller = await platform.tenant();
  await giveLoginPlace(platform, caller.actor.tenantId);
});

async function make(kind: KindDefinition, body: object, as = caller): Promise<Record<string, any>> {
  const change = await platform.pipeline.create(as, kind, { name: `x-${newId().slice(-12)}`, ...body });
  await platform.done(as, change);
  return { ...(await platform.reader.get(as, kind, change.body.id)).body, ...change.secrets, change };
}

const verify = (token: string, replica = 0) => replicas[replica]!.authenticator.verify(token);
const as = (actor: Actor): Caller => ({ actor, requestId: newId() });
const refused = { code: 'unauthenticated', reason: 'unknown_token' };

describe('an API token', () => {
  test('is shown once, is nowhere in the database, and acts as its maker', async () => {
    const { token, prefix, expiresAt, change } = await make(apitoken, {});
    expect(isApiToken(token)).toBe(true);
    expect(token.startsWith(prefix)).toBe(true);
    const days = (Date.parse(expiresAt) - Date.now()) / 86_400_000;
    expect(days).toBeGreaterThan(89.9);
    expect(days).toBeLessThanOrEqual(90);
    expect(JSON.stringify(change.body)).not.toContain(token);
    const tables = await sql<{ name: string }>`select table_name as name from information_schema.columns
      where table_schema = 'public' and column_name = 'tenant_id'`.execute(platform.db.operator);
    for (const { name } of tables.rows) {
      const found = await sql`select 1 from ${sql.table(name)} t where strpos(t::text, ${token}) > 0 limit 1`.execute(
        platform.db.operator,
      );
      expect(found.rows, name).toEqual([]);
    }
    const actor = await verify(token);
    const { tenantId, subject, roles } = caller.actor;
    expect(actor).toMatchObject({ tenantId, subject, roles, via: 'apitoken', scopes: null });
    expect(actor.tokenExpiresAt!.toISOString()).toBe(expiresAt);
  });

  test('is not told again by the same request with the same key', async () => {
    const idempotency = { subject: caller.actor.subject, key: 'k', hash: hashRequest('one') };
    const first = await platform.pipeline.create(caller, apitoken, { name: 'one' }, { idempotency });
    const again = await platform.pipeline.create(caller, apitoken, { name: 'one' }, { idempotency });
    expect(first.secrets).toBeDefined();
    expect(again.replay).toBeDefined();
    expect(JSON.stringify(again)).not.toContain(first.secrets!.token as string);
  });

  test('asks the database once on each replica, and once more when something changed', async () => {
    const { token } = await make(apitoken, {});
    const asked = () => replicas.map(({ tokens, access }) => [tokens.lookups, access.lookups]);
    for (const replica of [0, 1]) await verify(token, replica);
    const before = asked();
    for (let i = 0; i < 20; i++) for (const replica of [0, 1]) await verify(token, replica);
    expect(asked()).toEqual(before);
  });

  test('is refused within seconds of its revocation on every replica', async () => {
    const { token, id } = await make(apitoken, {});
    for (const replica of [0, 1]) await verify(token, replica);
    await platform.pipeline.remove(caller, apitoken, id);
    for (const replica of [0, 1]) {
      await expect
        .poll(() => verify(token, replica).then(String, (error) => error.reason), { timeout: 5_000, interval: 50 })
        .toBe('unknown_token');
    }
  });

  test('is refused once it has ended, also where it is remembered', async () => {
    // Offsets that PostgreSQL does not read.
    const far = new Date(Date.now() + 20 * 3_600_000 + 60_000).toISOString().replace('Z', '+20:00');
    expect(
      Math.abs(Date.parse((await make(apitoken, { expiresAt: far })).expiresAt) - Date.now() - 60_000),
    ).toBeLessThan(5_000);
    const { token } = await make(apitoken, { expiresAt: new Date(Date.now() + 1_500).toISOString() });
    await verify(token);
    await new Promise((resolve) => setTimeout(resolve, 1_600));
    await expect(verify(token)).rejects.toMatchObject(refused);
  });

  test('is refused while its tenant is suspended', async () => {
    const { token } = await make(apitoken, {});
    const set = (state: string) =>
      sql`update tenant set state = ${state} where id = ${caller.actor.tenantId}`.execute(platform.db.operator);
    await verify(token);
    await set('suspended');
    await expect
      .poll(() => verify(token).then(String, (error) => error.reason), { timeout: 5_000, interval: 50 })
      .toBe('tenant_suspended');
    await set('active');
    await expect.poll(() => verify(token).then(() => 'welcome', String), { timeout: 5_000 }).toBe('welcome');
  });

  test('that nobody made is refused in the words of a revoked one, and does not ask twice', async () => {
    const { token } = await make(apitoken, {});
    const mistyped = `${token.slice(0, -1)}${token.endsWith('0') ? '1' : '0'}`;
    const before = replicas[0]!.tokens.lookups;
    await expect(verify(mistyped)).rejects.toMatchObject(refused);
    for (const junk of ['rhz_', `rhz_${'a'.repeat(33)}`, `rhz_${'a'.repeat(100_000)}`, 'rhz_ü'])
      await expect(verify(junk)).rejects.toMatchObject(refused);
    expect(replicas[0]!.tokens.lookups).toBe(before);
    const guess = newApiToken().token;
    await Promise.all(Array.from({ length: 50 }, () => expect(verify(guess)).rejects.toMatchObject(refused)));
    await expect(verify(guess)).rejects.toMatchObject(refused);
    expect(replicas[0]!.tokens.lookups).toBe(before + 1);
    // Many different ones at once go together.
    const guesses = Array.from({ length: 300 }, () => newApiToken().token);
    await Promise.all(guesses.map((one) => expect(verify(one)).rejects.toMatchObject(refused)));
    expect(replicas[0]!.tokens.lookups).toBeLessThanOrEqual(before + 5);
  });

  test('is narrowed by its scopes, which are within those of its maker’s token', async () => {
    const narrow = as({
      ...caller.actor,
      scopes: [
        { kind: 'apitoken', verb: '*' },
        { kind: 'network', verb: 'read' },
      ],
    });
    const { token } = await make(apitoken, { scopes: ['network:read'] }, narrow);
    const actor = await verify(token);
    expect([may(actor, 'read', 'network'), may(actor, 'create', 'network')]).toEqual([true, false]);
    await expect(make(apitoken, { scopes: ['network:read', 'network:*'] }, narrow)).rejects.toMatchObject({
      code: 'invalid',
      details: { errors: [{ pointer: '/scopes/1' }] },
    });
    // Without any it has its maker's.
    const { token: same } = await make(apitoken, {}, narrow);
    expect(may(await verify(same), 'create', 'network')).toBe(false);
  });

  test('makes no API tokens, and is its maker’s to list and revoke', async () => {
    const { tenantId } = caller.actor;
    const vera = callerIn(tenantId, 'viewer', 'vera');
    const { token, id } = await make(apitoken, {}, vera);
    await make(apitoken, {}, callerIn(tenantId, 'viewer', 'otto'));
    const actor = await verify(token);
    await expect(platform.pipeline.create(as(actor), apitoken, { name: 'more' })).rejects.toMatchObject({
      code: 'forbidden',
    });
    const admins = await verify((await make(apitoken, {})).token);
    await expect(platform.pipeline.create(as(admins), apitoken, { name: 'more' })).rejects.toMatchObject({
      code: 'forbidden',
    });
    const nobody = as({ ...callerIn(tenantId, 'viewer', 'nobody').actor, roles: [] });
    expect((await platform.reader.list(nobody, apitoken, {})).items).toEqual([]);
    const mine = as({ ...vera.actor, roles: [] });
    expect((await platform.reader.list(mine, apitoken, { count: 'true' })).totalCount).toBe(1);
    await expect(platform.pipeline.remove(nobody, apitoken, id)).rejects.toMatchObject({ code: 'not_found' });
    await platform.done(mine, await platform.pipeline.remove(mine, apitoken, id));
  });

  test('of one owner there are at most a hundred', async () => {
    const owner = callerIn(caller.actor.tenantId, 'viewer', 'greedy');
    for (let i = 0; i < 100; i++) await platform.pipeline.create(owner, apitoken, { name: `t-${i}` });
    await expect(platform.pipeline.create(owner, apitoken, { name: 'more' })).rejects.toMatchObject({
      code: 'limit_reached',
    });
  }, 30_000);

  test('says when it was used last, and using it is no change', async () => {
    const { token, id, lastUsedAt } = await make(apitoken, {});
    expect(lastUsedAt).toBeNull();
    await verify(token);
    await replicas[0]!.tokens.stop();
    const { body } = await platform.reader.get(caller, apitoken, id);
    expect(Date.now() - Date.parse(body.lastUsedAt as string)).toBeLessThan(10_000);
    const before = replicas[0]!.tokens.lookups;
    await verify(token);
    expect(replicas[0]!.tokens.lookups).toBe(before);
  });
});

describe('a token of a service account', () => {
  const grantTo = (account: string, more: object) =>
    make(grant, { subject: { serviceAccount: account }, verbs: ['read', 'update'], kinds: ['network'], ...more });

  test('may do what grants give to the account, until that is disabled or removed', async () => {
    const account = await make(serviceaccount, {});
    const { token, subject, id } = await make(apitoken, { serviceAccount: account.name });
    expect(subject).toBe(`account:${account.id}`);
    expect(may(await verify(token), 'read', 'network')).toBe(false);
    await grantTo(account.name, {});
    await expect.poll(async () => may(await verify(token), 'update', 'network'), { timeout: 5_000 }).toBe(true);
    expect(await verify(token)).toMatchObject({ roles: [], groups: [], resourceId: account.id });
    await platform.done(caller, await platform.pipeline.act(caller, serviceaccount, account.id, 'disable', {}));
    await expect
      .poll(() => verify(token).then(String, (error) => error.reason), { timeout: 5_000 })
      .toBe('subject_disabled');
    await platform.done(caller, await platform.pipeline.act(caller, serviceaccount, account.id, 'enable', {}));
    await expect.poll(() => verify(token).then(() => 'welcome', String), { timeout: 5_000 }).toBe('welcome');
    const { items } = await platform.reader.list(caller, grant, {});
    for (const one of items) await platform.done(caller, await platform.pipeline.remove(caller, grant, one.id));
    await platform.done(caller, await platform.pipeline.remove(caller, serviceaccount, account.id));
    await expect
      .poll(() => verify(token).then(String, (error) => error.code), { timeout: 5_000 })
      .toBe('unauthenticated');
    await expect(platform.reader.get(caller, apitoken, id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('is made by nobody who has less than the account', async () => {
    const account = await make(serviceaccount, {});
    await grantTo(account.name, { verbs: ['*'] });
    const { tenantId } = caller.actor;
    await make(grant, {
      subject: { sub: 'nora' },
      verbs: ['read', 'update', 'create'],
      kinds: ['serviceaccount', 'apitoken'],
    });
    const noras = async () => {
      const { authenticator: _, access } = replicas[0]!;
      return as(await access.enrich({ ...callerIn(tenantId, 'viewer', 'nora').actor, roles: [] }));
    };
    const attempt = async () =>
      platform.pipeline.create(await noras(), apitoken, { name: 'up', serviceAccount: account.name });
    await expect(attempt()).rejects.toMatchObject({ code: 'forbidden', message: expect.stringContaining('network:') });
    await make(grant, { subject: { sub: 'nora' }, verbs: ['*'], kinds: ['network'] });
    await expect
      .poll(
        () =>
          attempt().then(
            () => 'made',
            (error) => error.message,
          ),
        { timeout: 5_000 },
      )
      .toBe('made');
    const viewer = callerIn(tenantId, 'viewer');
    await expect(make(apitoken, { serviceAccount: account.name }, viewer)).rejects.toMatchObject({ code: 'forbidden' });
  });
});

describe('a user’s token', () => {
  test('never has more than the user has now, and goes with the user', async () => {
    const { tenantId } = caller.actor;
    await make(group, { name: 'ops' });
    const alice = await make(user, { name: 'alice', role: 'operator', groups: ['ops'] });
    const login: Caller = {
      requestId: newId(),
      actor: {
        tenantId,
        subject: alice.subject,
        roles: ['operator'],
        groups: ['ops', 'dev'],
        scopes: null,
        via: 'token',
      },
    };
    const { token, id } = await make(apitoken, {}, login);
    expect(await verify(token)).toMatchObject({ roles: ['operator'], groups: ['ops'] });
    const change = async (patch: object) =>
      platform.done(caller, await platform.pipeline.update(caller, user, 'alice', patch));
    await change({ role: 'viewer', groups: [] });
    await expect.poll(() => verify(token), { timeout: 5_000 }).toMatchObject({ roles: ['viewer'], groups: [] });
    await change({ role: 'admin' });
    await expect.poll(() => verify(token), { timeout: 5_000 }).toMatchObject({ roles: ['operator'] });
    await make(user, { name: 'bob', role: 'admin' });
    await platform.done(caller, await platform.pipeline.remove(caller, user, 'alice'));
    await expect
      .poll(() => verify(token).then(String, (error) => error.code), { timeout: 5_000 })
      .toBe('unauthenticated');
    await expect(platform.reader.get(caller, apitoken, id)).rejects.toMatchObject({ code: 'not_found' });
  });
});
