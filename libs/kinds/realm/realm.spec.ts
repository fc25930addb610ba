/** What is kind realm's own: it follows its tenant, moves with its people, and ends in the same state whenever a job died. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { MemoryIdentity, provideIdentity } from '#libs/identity';
import { type Caller, type ChangeResult, inTransaction } from '#libs/resources';
import { findTenant, updateTenant } from '#libs/tenants';
import { callerIn, type Platform, startPlatform } from '#libs/testing';
import { narrowingScopes, placeOf, REALM_NAME, realm } from './index.js';

let platform: Platform;
let memory: MemoryIdentity;
let tenantId: string;
let admin: Caller;

beforeAll(async () => {
  platform = await startPlatform({ kinds: [realm] });
});
beforeEach(async () => {
  memory = new MemoryIdentity();
  provideIdentity(memory);
  tenantId = (await platform.tenant()).actor.tenantId;
  admin = { actor: adminActor(tenantId, 'admin:test'), requestId: newId() };
});
afterEach(() => provideIdentity(undefined));
afterAll(() => platform?.close());

const make = (mode: 'realm' | 'organization' = 'realm') =>
  platform.pipeline.create(admin, realm, { name: REALM_NAME, mode });
const made = async (mode: 'realm' | 'organization' = 'realm') => platform.done(admin, await make(mode));
const change = (patch: object) => platform.pipeline.update(admin, realm, REALM_NAME, patch);
const ended = (result: ChangeResult) => platform.ended(admin, result.jobId!);
const shown = async () => (await platform.reader.get(admin, realm, REALM_NAME)).body as unknown as Record<string, any>;
const issuers = () => platform.db.operatorTransaction(async (tx) => (await findTenant(tx, tenantId)).issuers);
const place = () => platform.db.operatorTransaction((tx) => placeOf(inTransaction(tx, tenantId)));

describe('a realm', () => {
  it('is made with its tenant’s name and all scopes, and its issuer becomes the tenant’s', async () => {
    await made();
    expect(await shown()).toMatchObject({
      state: 'ready',
      mode: 'realm',
      issuer: `https://id.example/realms/${tenantId}`,
      organization: null,
      enabled: true,
      leftPlace: null,
    });
    expect(memory.placeOf(tenantId)).toMatchObject({ scopes: narrowingScopes(), enabled: true });
    expect(narrowingScopes()).toEqual(expect.arrayContaining(['*:*', 'realm:read', 'audit:read']));
    expect(await issuers()).toMatchObject([{ issuer: `https://id.example/realms/${tenantId}`, managed: true }]);
    expect(await place()).toEqual({ tenantId, mode: 'realm', displayName: tenantId });
  });

  it('is one, and nobody but the administrator makes, changes or removes it, or has a say in its jobs', async () => {
    await made();
    await expect(make('organization')).rejects.toMatchObject({ code: 'name_taken' });
    const other = platform.pipeline.create(admin, realm, { name: 'another', mode: 'realm' });
    await expect(other).rejects.toMatchObject({ code: 'already_exists' });
    const user = callerIn(tenantId, 'admin');
    const refused = { code: 'method_not_allowed' };
    await expect(platform.pipeline.create(user, realm, { name: 'x', mode: 'realm' })).rejects.toMatchObject(refused);
    await expect(platform.pipeline.update(user, realm, REALM_NAME, {})).rejects.toMatchObject(refused);
    await expect(platform.pipeline.remove(user, realm, REALM_NAME)).rejects.toMatchObject(refused);
    const all = platform.pipeline.removeMatching(user, realm, { tagSelector: '!x' });
    await expect(all).rejects.toMatchObject(refused);
    memory.away = true;
    const { jobId } = await change({});
    await expect(platform.jobs.cancel(user, jobId!)).rejects.toMatchObject(refused);
    memory.away = false;
    await platform.ended(admin, jobId!);
  });

  it('waits while the identity provider is away, and says so', async () => {
    memory.away = true;
    const result = await make();
    await expect
      .poll(() => platform.jobs.get(admin, result.jobId!), { timeout: 10_000 })
      .toMatchObject({ state: 'waiting', message: 'The identity provider is away.' });
    expect(await issuers()).toEqual([]);
    expect(await place()).toBeUndefined();
    const waiting = {
      type: 'Waiting',
      reason: 'identity_provider_unavailable',
      message: 'The identity provider is away.',
    };
    expect((await shown()).conditions).toEqual([expect.objectContaining(waiting)]);
    memory.away = false;
    expect(await ended(result)).toMatchObject({ state: 'succeeded' });
    expect((await shown()).conditions).toMatchObject([{ type: 'Ready', status: 'true' }]);
    expect(await issuers()).toHaveLength(1);
  });

  it('takes nothing over that is there already, and removes nothing that it did not make', async () => {
    memory.occupy({ tenantId, mode: 'realm' });
    expect(await ended(await make())).toMatchObject({ state: 'failed', error: { code: 'conflict' } });
    expect(await shown()).toMatchObject({ state: 'failed', issuer: null, enabled: false });
    expect(await issuers()).toEqual([]);
    await platform.done(admin, await platform.pipeline.remove(admin, realm, REALM_NAME));
  });

  it('follows its tenant: suspended, renamed, active again, at a job’s or upkeep’s instance', async () => {
    await made();
    const set = (to: object) => platform.db.operatorTransaction((tx) => updateTenant(tx, tenantId, to));
    await set({ state: 'suspended', displayName: 'Renamed' });
    await platform.done(admin, await change({}));
    expect(memory.placeOf(tenantId)).toMatchObject({ enabled: false, place: { displayName: 'Renamed' } });
    expect(await shown()).toMatchObject({ enabled: false });
    await set({ state: 'active' });
    const before = memory.calls.length;
    await realm.upkeep!(platform.db, new AbortController().signal);
    await expect.poll(shown, { timeout: 10_000 }).toMatchObject({ enabled: true, state: 'ready' });
    expect(memory.placeOf(tenantId)!.enabled).toBe(true);
    // Nothing is behind now: the next round does nothing.
    const calls = memory.calls.length;
    expect(calls).toBeGreaterThan(before);
    await realm.upkeep!(platform.db, new AbortController().signal);
    expect(memory.calls).toHaveLength(calls);
  });

  it('gets the scopes of new kinds by upkeep', async () => {
    await made();
    await sql`update realm set scopes = array['*:*'] where tenant_id = ${tenantId}`.execute(platform.db.operator);
    memory.placeOf(tenantId)!.scopes = ['*:*'];
    await realm.upkeep!(platform.db, new AbortController().signal);
    await expect.poll(() => memory.placeOf(tenantId)!.scopes, { timeout: 10_000 }).toEqual(narrowingScopes());
  });

  it('takes over an issuer that its tenant had, and no other tenant’s', async () => {
    const url = `https://id.example/realms/${tenantId}`;
    const mine = { issuer: url, audience: null, jwksUri: null };
    await platform.db.operatorTransaction((tx) => updateTenant(tx, tenantId, { issuers: [mine] }));
    await made();
    expect(await issuers()).toMatchObject([{ issuer: url, managed: true }]);
    const other = (await platform.tenant()).actor.tenantId;
    const theirs = { ...mine, issuer: `https://id.example/realms/shared`, organization: 'x' };
    await platform.db.operatorTransaction((tx) => updateTenant(tx, other, { issuers: [theirs] }));
    await sql`update tenant_issuer set organization = ${tenantId} where tenant_id = ${other}`.execute(
      platform.db.operator,
    );
    expect(await ended(await change({ mode: 'organization' }))).toMatchObject({
      state: 'failed',
      error: { code: 'conflict' },
    });
    expect(await issuers()).toMatchObject([{ issuer: url, managed: true }]);
    await sql`delete from tenant_issuer where tenant_id = ${other}`.execute(platform.db.operator);
  });

  it('is removed with its issuer', async () => {
    await made('organization');
    expect(await issuers()).toMatchObject([{ issuer: 'https://id.example/realms/shared', organization: tenantId }]);
    await platform.done(admin, await platform.pipeline.remove(admin, realm, REALM_NAME));
    expect(memory.places.size).toBe(0);
    expect(await issuers()).toEqual([]);
    expect(await place()).toBeUndefined();
  });
});

describe('a move', () => {
  it('closes the old place, which goes at a word, and lets nobody move onto what is left', async () => {
    await made();
    await platform.done(admin, await change({ mode: 'organization' }));
    expect(await shown()).toMatchObject({
      mode: 'organization',
      organization: tenantId,
      leftPlace: 'realm',
      enabled: true,
    });
    expect(await issuers()).toMatchObject([{ issuer: 'https://id.example/realms/shared', organization: tenantId }]);
    expect(memory.placeOf(tenantId, 'realm')!.enabled).toBe(false);
    expect(memory.placeOf(tenantId, 'organization')!.enabled).toBe(true);
    await expect(change({ mode: 'realm' })).rejects.toMatchObject({ code: 'conflict' });
    await platform.done(admin, await change({ leftPlace: null }));
    expect(memory.placeOf(tenantId, 'realm')).toBeUndefined();
    await platform.done(admin, await change({ mode: 'realm' }));
    expect(await issuers()).toMatchObject([{ issuer: `https://id.example/realms/${tenantId}` }]);
  });

  it('leaves all as it was when the new place cannot be made', async () => {
    await made();
    memory.occupy({ tenantId, mode: 'organization' });
    expect(await ended(await change({ mode: 'organization' }))).toMatchObject({ state: 'failed' });
    expect(await shown()).toMatchObject({ mode: 'realm', leftPlace: null, state: 'ready', enabled: true });
    expect(await issuers()).toMatchObject([{ issuer: `https://id.example/realms/${tenantId}` }]);
    expect(memory.placeOf(tenantId)!.enabled).toBe(true);
  });
});

/** What a user and an operator see in the end. */
async function state() {
  const { mode, issuer, organization, enabled, leftPlace, state: is } = await shown();
  const places = [...memory.places].map(([key, { enabled: open, scopes }]) => ({
    key: key.replace(tenantId, 'T'),
    open,
    scopes: scopes.length,
  }));
  const all = (await issuers()).map(({ issuer: one, organization: of }) => `${one} ${of}`);
  return JSON.parse(
    JSON.stringify({ mode, issuer, organization, enabled, leftPlace, is, places, all }).replaceAll(tenantId, 'T'),
  );
}

describe('a job that dies at the identity provider', () => {
  const cases: [name: string, prepare: () => Promise<unknown>, act: () => Promise<ChangeResult>, calls: number][] = [
    ['create', async () => undefined, () => make(), 3],
    ['move', () => made(), () => change({ mode: 'organization' }), 4],
  ];
  it.each(cases)('ends %s in the same state, wherever that was', async (_name, prepare, act, calls) => {
    await prepare();
    await platform.done(admin, await act());
    const expected = await state();
    for (let call = 1; call <= calls; call++)
      for (const when of ['before', 'after'] as const) {
        memory = new MemoryIdentity();
        provideIdentity(memory);
        tenantId = (await platform.tenant()).actor.tenantId;
        admin = { actor: adminActor(tenantId, 'admin:test'), requestId: newId() };
        await prepare();
        memory.dieAt(call, when);
        await platform.done(admin, await act());
        expect(await state(), `${when} call ${call}`).toEqual(expected);
      }
  });
});
