/** Service accounts with keys, over an identity provider in memory; apitoken.spec.ts has those with tokens only. */
import 'reflect-metadata';
import { generateKeyPairSync } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory } from '#libs/auth';
import { newId } from '#libs/core';
import { apitoken } from '#libs/kinds/apitoken';
import { grant } from '#libs/kinds/grant';
import { network } from '#libs/kinds/network';
import { serviceaccount } from '#libs/kinds/serviceaccount';
import type { Caller } from '#libs/resources';
import { callerIn, giveLoginPlace, loginPlaceOf, memoryIdentity, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, grant, serviceaccount, apitoken] });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  await giveLoginPlace(platform, caller.actor.tenantId);
});

const newKey = () => generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' });
const program = (name: string) => loginPlaceOf(caller.actor.tenantId).programs.get(name);

async function make(body: object): Promise<Record<string, any>> {
  const change = await platform.pipeline.create(caller, serviceaccount, { name: 'ci', ...body });
  await platform.done(caller, change);
  return (await platform.reader.get(caller, serviceaccount, change.body.id)).body;
}

async function patch(change: object, by = caller): Promise<Record<string, any>> {
  await platform.done(by, await platform.pipeline.update(by, serviceaccount, 'ci', change));
  return (await platform.reader.get(caller, serviceaccount, 'ci')).body;
}

const enter = (subject: string) =>
  new AccessDirectory(platform.db).enrich({ ...caller.actor, subject, roles: [] }).then(
    ({ resourceId }) => resourceId,
    (error) => error.reason as string,
  );

describe('a service account with keys', () => {
  test('has a client that logs in by them, and is known by the sub of its tokens', async () => {
    const account = await make({ publicKeys: { keys: [newKey()] } });
    const [key] = account.publicKeys.keys;
    expect(key).toMatchObject({ kty: 'EC', use: 'sig', kid: expect.stringMatching(/^[\w-]{43}$/) });
    expect(program('ci')).toMatchObject({
      jwks: account.publicKeys,
      clientId: account.clientId,
      subject: account.subject,
    });
    expect(await enter(account.subject)).toBe(account.id);
    const changed = await patch({ publicKeys: { keys: [newKey(), key] } });
    expect(program('ci')!.jwks).toEqual(changed.publicKeys);
    expect(changed.subject).toBe(account.subject);
  });

  test('without them has no client, and what that had is refused', async () => {
    const account = await make({ publicKeys: { keys: [newKey()] } });
    const changed = await patch({ publicKeys: null });
    expect(changed).toMatchObject({ publicKeys: null, clientId: null, subject: null });
    expect(program('ci')).toBeUndefined();
    expect(await enter(account.subject)).toBe('subject_disabled');
  });

  test('that is disabled or removed is refused from the request on', async () => {
    const { subject, id } = await make({ publicKeys: { keys: [newKey()] } });
    await platform.done(caller, await platform.pipeline.act(caller, serviceaccount, id, 'disable', {}));
    expect(await enter(subject)).toBe('subject_disabled');
    await platform.done(caller, await platform.pipeline.act(caller, serviceaccount, id, 'enable', {}));
    expect(await enter(subject)).toBe(id);
    memoryIdentity().away = true;
    const removal = await platform.pipeline.remove(caller, serviceaccount, id);
    expect(await enter(subject)).toBe('subject_disabled');
    memoryIdentity().away = false;
    await platform.done(caller, removal);
    expect(program('ci')).toBeUndefined();
    expect(await enter(subject)).toBe('subject_disabled');
  }, 60_000);

  test('takes the API tokens along that it made for itself', async () => {
    const { subject, id } = await make({ publicKeys: { keys: [newKey()] } });
    const itself: Caller = { actor: { ...caller.actor, subject, roles: [] }, requestId: newId() };
    const change = await platform.pipeline.create(itself, apitoken, { name: 'its-own' });
    await platform.done(itself, change);
    await platform.done(caller, await platform.pipeline.remove(caller, serviceaccount, id));
    await expect(platform.reader.get(caller, apitoken, change.body.id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('has its keys back when a change of them is cancelled', async () => {
    const account = await make({ publicKeys: { keys: [newKey()] } });
    memoryIdentity().away = true;
    const change = await platform.pipeline.update(caller, serviceaccount, 'ci', { publicKeys: null });
    await platform.jobs.cancel(caller, change.jobId!);
    memoryIdentity().away = false;
    await platform.ended(caller, change.jobId!);
    const after = (await platform.reader.get(caller, serviceaccount, 'ci')).body;
    expect(after).toMatchObject({ publicKeys: account.publicKeys, subject: account.subject });
    expect(program('ci')!.jwks).toEqual(account.publicKeys);
  }, 60_000);

  test('is not taken over by keys of who has less', async () => {
    const account = await make({});
    await platform.done(
      caller,
      await platform.pipeline.create(caller, grant, {
        name: 'for-ci',
        subject: { serviceAccount: 'ci' },
        verbs: ['create'],
        kinds: ['network'],
      }),
    );
    await platform.done(
      caller,
      await platform.pipeline.create(caller, grant, {
        name: 'for-nora',
        subject: { sub: 'nora' },
        verbs: ['*'],
        kinds: ['serviceaccount'],
      }),
    );
    const base = { ...callerIn(caller.actor.tenantId, 'viewer', 'nora').actor, roles: [] };
    const nora = { actor: await new AccessDirectory(platform.db).enrich(base), requestId: newId() };
    await expect(patch({ publicKeys: { keys: [newKey()] } }, nora)).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('network:create'),
    });
    expect((await patch({ description: 'builds' }, nora)).id).toBe(account.id);
  });
});

test('a tenant with an identity provider of its own has service accounts without keys', async () => {
  const stranger = await platform.tenant();
  await expect(
    platform.pipeline.create(stranger, serviceaccount, { name: 'ci', publicKeys: { keys: [newKey()] } }),
  ).rejects.toMatchObject({ code: 'not_managed', details: { errors: [{ pointer: '/publicKeys' }] } });
  await platform.done(stranger, await platform.pipeline.create(stranger, serviceaccount, { name: 'ci' }));
});
