/** Ways to become somebody who has more: all that comes with an account counts, and as it is in that moment. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory, type Actor } from '#libs/auth';
import { newId } from '#libs/core';
import { apitoken } from '#libs/kinds/apitoken';
import { grant } from '#libs/kinds/grant';
import { group } from '#libs/kinds/group';
import { network } from '#libs/kinds/network';
import { serviceaccount } from '#libs/kinds/serviceaccount';
import { user } from '#libs/kinds/user';
import type { Caller, KindDefinition } from '#libs/resources';
import { giveLoginPlace, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let admin: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, grant, group, user, serviceaccount, apitoken] });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  admin = await platform.tenant();
  await giveLoginPlace(platform, admin.actor.tenantId);
});

async function make(kind: KindDefinition, body: object, by = admin): Promise<Record<string, any>> {
  const change = await platform.pipeline.create(by, kind, { name: `x-${newId().slice(-12)}`, ...body });
  await platform.done(by, change);
  return (await platform.reader.get(admin, kind, change.body.id)).body;
}
const give = (subject: object, verbs: string[], kinds: string[]) => make(grant, { subject, verbs, kinds });
const invite = (name: string, by: Caller) => platform.pipeline.act(by, user, name, 'invite', {});

/** As a server has it in memory once it has seen its token. */
async function enter(subject: string, roles: Actor['roles'] = []): Promise<Caller> {
  const { tenantId } = admin.actor;
  const base: Actor = { tenantId, subject, roles, groups: [], scopes: null, via: 'token' };
  return { actor: await new AccessDirectory(platform.db).enrich(base), requestId: newId() };
}

async function keeper(roles: Actor['roles'] = []): Promise<Caller> {
  await give({ sub: 'nora' }, ['*'], ['user', 'serviceaccount']);
  return enter('nora', roles);
}

describe('what comes with an account', () => {
  test('is also what grants give to its sub', async () => {
    const { subject } = await make(user, { name: 'alice' });
    await give({ sub: subject }, ['delete'], ['network']);
    const nora = await keeper();
    await expect(invite('alice', nora)).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('network:delete'),
    });
    await platform.done(admin, await platform.pipeline.act(admin, user, 'alice', 'disable', {}));
    await expect(platform.pipeline.act(nora, user, 'alice', 'enable', {})).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('of a service account, too', async () => {
    const { id } = await make(serviceaccount, { name: 'ci' });
    await give({ sub: `account:${id}` }, ['delete'], ['network']);
    const nora = await keeper();
    const body = { name: 'its', serviceAccount: 'ci' };
    await expect(platform.pipeline.create(nora, apitoken, body)).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('network:delete'),
    });
    await platform.pipeline.create(admin, apitoken, body);
  });

  test('has the audit trail and all API tokens where it has all kinds, which an operator has not', async () => {
    const alice = await make(user, { name: 'alice' });
    await give({ user: alice.id }, ['read'], ['*']);
    const operator = await keeper(['operator']);
    await expect(invite('alice', operator)).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('grant “'),
    });
    await give({ sub: 'nora' }, ['read'], ['audit', 'apitoken']);
    await invite('alice', await enter('nora', ['operator']));
  });
});

describe('what is cancelled', () => {
  /** As if nobody had come to it yet. */
  const waiting = (jobId: string) =>
    sql`update job set state = 'queued', finished_at = null, run_at = now() + interval '1 hour', progress = 0, cancellable = true
      where id = ${jobId}`.execute(platform.db.operator);

  test('comes back only by those who could give it', async () => {
    await make(user, { name: 'alice', role: 'admin' });
    await make(user, { name: 'bob', role: 'admin' });
    const nora = await keeper(['viewer']);
    const demoted = await platform.pipeline.update(admin, user, 'alice', { role: 'viewer' });
    await platform.done(admin, demoted);
    await waiting(demoted.jobId!);
    await expect(platform.jobs.cancel(nora, demoted.jobId!)).rejects.toMatchObject({ code: 'forbidden' });
    await platform.jobs.cancel(admin, demoted.jobId!);
    await platform.ended(admin, demoted.jobId!);
    const disabled = await platform.pipeline.act(admin, user, 'bob', 'disable', {});
    await platform.done(admin, disabled);
    await waiting(disabled.jobId!);
    await expect(platform.jobs.cancel(nora, disabled.jobId!)).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('is undone by whoever may change it where nothing is given by it', async () => {
    await make(user, { name: 'alice', role: 'viewer' });
    const nora = await keeper(['viewer']);
    const renamed = await platform.pipeline.update(admin, user, 'alice', { tags: { team: 'a' } });
    await platform.done(admin, renamed);
    await waiting(renamed.jobId!);
    await platform.jobs.cancel(nora, renamed.jobId!);
  });

  test('and of service accounts: keys, and that they are let in', async () => {
    const { id } = await make(serviceaccount, { name: 'ci' });
    await give({ sub: `account:${id}` }, ['delete'], ['network']);
    const nora = await keeper();
    const disabled = await platform.pipeline.act(admin, serviceaccount, 'ci', 'disable', {});
    await platform.done(admin, disabled);
    await waiting(disabled.jobId!);
    await expect(platform.jobs.cancel(nora, disabled.jobId!)).rejects.toMatchObject({ code: 'forbidden' });
    await platform.jobs.cancel(admin, disabled.jobId!);
  });
});

describe('a server that has not heard of it yet', () => {
  test('lets nobody give what was taken from him', async () => {
    await make(user, { name: 'alice', role: 'viewer' });
    const whole = await give({ sub: 'nora' }, ['*'], ['*']);
    await give({ sub: 'nora' }, ['*'], ['user']);
    const stale = await enter('nora', ['viewer']);
    await platform.done(admin, await platform.pipeline.remove(admin, grant, whole.id));
    const body = { name: 'bob', role: 'admin' };
    await expect(platform.pipeline.create(stale, user, body)).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('makes no API token for somebody who was removed', async () => {
    const { subject, id } = await make(user, { name: 'alice', role: 'viewer' });
    const stale = await enter(subject, ['viewer']);
    await platform.done(admin, await platform.pipeline.remove(admin, user, id));
    await expect(platform.pipeline.create(stale, apitoken, { name: 'late' })).rejects.toMatchObject({
      reason: 'subject_disabled',
    });
  });
});
