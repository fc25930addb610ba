/** Nobody gives more than what he has, and service accounts get what there is of it. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Actor, isAllowed, may, parseScopes } from '#libs/auth';
import { newId, type RhyzomeError } from '#libs/core';
import type { Caller } from '#libs/resources';
import type { Platform } from '#libs/testing';
import { grant } from './index.js';
import { GivingLab, refusal } from './test-giving.js';

let lab: GivingLab;
let platform: Platform;
let admin: Caller;
beforeAll(async () => {
  lab = await GivingLab.start();
  platform = lab.platform;
});
afterAll(() => lab?.close());
beforeEach(async () => {
  await lab.begin();
  admin = lab.admin;
});

const ops = { group: 'ops' };

describe('whoever gives', () => {
  /** May give, and has of networks what is said. */
  async function author(more: object, who: Partial<Actor> = {}): Promise<Caller> {
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['read', 'update'], kinds: ['network'], ...more });
    return lab.as({ subject: 'ann', ...who });
  }
  const what = { name: 'more', subject: ops, verbs: ['read', 'delete', 'update'], kinds: ['network'] };

  test('is refused what he has not, with a pointer to each verb', async () => {
    const ann = await author({});
    const error = await refusal(platform.pipeline.create(ann, grant, what));
    expect(error).toMatchObject({ code: 'forbidden', details: { errors: [{ pointer: '/verbs/1' }] } });
    expect(error.message).toContain('network:delete');
    const all = await refusal(platform.pipeline.create(ann, grant, { ...what, verbs: ['read'], kinds: ['*'] }));
    expect(all.details.errors).toEqual([expect.objectContaining({ pointer: '/verbs/0', code: 'forbidden' })]);
    await lab.give(ann, { ...what, verbs: ['update', 'read'] });
  });

  test('gives by tags what he has by tags, and no more', async () => {
    const ann = await author({ tagSelector: 'env in (dev,test)' });
    const read = { ...what, verbs: ['read'] };
    for (const tagSelector of [undefined, 'env=prod', 'env', '!env', 'team=a', 'env!=prod']) {
      const body = { ...read, ...(tagSelector && { tagSelector }) };
      expect((await refusal(platform.pipeline.create(ann, grant, body))).code).toBe('forbidden');
    }
    await lab.give(ann, { ...read, name: 'narrow', tagSelector: 'env=dev,team=a' });
    await expect(platform.pipeline.update(ann, grant, 'narrow', { tagSelector: 'team=a' })).rejects.toMatchObject({
      code: 'forbidden',
    });
    expect((await platform.reader.get(admin, grant, 'narrow')).body.tagSelector).toBe('env=dev,team=a');
  });

  test('is held to the scopes of his token', async () => {
    await author({});
    const narrow = await lab.as({ subject: 'ann', scopes: parseScopes('grant:create network:read') });
    expect((await refusal(platform.pipeline.create(narrow, grant, { ...what, verbs: ['update'] }))).code).toBe(
      'forbidden',
    );
    await lab.give(narrow, { ...what, verbs: ['read'] });
  });

  test('may rename what is more than he has, and not change what it gives', async () => {
    const ann = await author({});
    const big = await lab.give(admin, { subject: ops, verbs: ['*'], kinds: ['*'] });
    await platform.done(ann, await platform.pipeline.update(ann, grant, big.id, { name: 'bigger', tags: { a: 'b' } }));
    await expect(platform.pipeline.update(ann, grant, big.id, { verbs: ['*', 'read'] })).rejects.toMatchObject({
      code: 'forbidden',
    });
    expect((await platform.reader.get(admin, grant, big.id)).body).toMatchObject({ verbs: ['*'], name: 'bigger' });
  });

  test('is asked again when a job is tried again', async () => {
    const ann = await author({});
    const { tenantId } = admin.actor;
    const made = await platform.pipeline.create(admin, grant, { ...what, name: 'failed' });
    await platform.done(admin, made);
    await platform.db.operatorTransaction(async (tx) => {
      await sql`update job set state = 'failed' where tenant_id = ${tenantId} and id = ${made.jobId}`.execute(tx);
      await sql`update resource set state = 'failed', observed_generation = 0 where tenant_id = ${tenantId}
        and id = ${made.body.id}`.execute(tx);
    });
    expect((await refusal(platform.jobs.retry(ann, made.jobId!))).code).toBe('forbidden');
    await platform.jobs.retry(admin, made.jobId!);
    await platform.done(admin, made);
  });

  test('is looked at anew in the transaction, also when something is taken from him just then', async () => {
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    const own = await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['read', 'update'], kinds: ['network'] });
    // What a server still has in memory.
    const stale = await lab.as({ subject: 'ann' });
    const { tenantId } = admin.actor;
    let asked: Promise<RhyzomeError> | undefined;
    await platform.db.tenantTransaction(tenantId, async (tx) => {
      await sql`delete from access_rule where tenant_id = ${tenantId} and grant_id = ${own.id}`.execute(tx);
      asked = refusal(platform.pipeline.create(stale, grant, { ...what, verbs: ['read'] }));
      // Long enough for it to be done with, if it did not wait.
      await new Promise((done) => setTimeout(done, 1500));
    });
    expect(await asked).toMatchObject({ code: 'forbidden', details: { errors: [{ pointer: '/verbs/0' }] } });
  });

  test('cannot take a role’s built-in meaning from others by its first grant', async () => {
    const ann = await author({});
    const narrow = { name: 'narrow', subject: { role: 'operator' }, verbs: ['read'], kinds: ['network'] };
    expect(await refusal(platform.pipeline.create(ann, grant, narrow))).toMatchObject({
      code: 'forbidden',
      details: { errors: [{ pointer: '/subject/role' }] },
    });
    const olga = async () => (await lab.as({ subject: 'olga', roles: ['operator'] })).actor;
    expect(may(await olga(), 'delete', 'network')).toBe(true);
    await lab.give(admin, { ...narrow, name: 'first', verbs: ['update'] });
    // It is the tenant's now, and what is added takes nothing away.
    await lab.give(ann, narrow);
    expect(may(await olga(), 'read', 'network')).toBe(true);
  });

  test('cannot bring a role back to more than he has by deleting its last grant', async () => {
    const ann = await author({});
    const first = await lab.give(admin, { subject: { role: 'operator' }, verbs: ['read'], kinds: ['network'] });
    const second = await lab.give(admin, { subject: { role: 'operator' }, verbs: ['read'], kinds: ['grant'] });
    const outcomes = await Promise.allSettled(
      [first, second].map(({ id }) => platform.pipeline.remove(ann, grant, id)),
    );
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
    expect(refused).toEqual([expect.objectContaining({ reason: expect.objectContaining({ code: 'forbidden' }) })]);
    const { actor } = await lab.as({ subject: 'olga', roles: ['operator'] });
    expect(may(actor, 'delete', 'network')).toBe(false);
    const left = outcomes[0]!.status === 'rejected' ? first : second;
    await platform.done(admin, await platform.pipeline.remove(admin, grant, left.id));
    expect(may((await lab.as({ subject: 'olga', roles: ['operator'] })).actor, 'delete', 'network')).toBe(true);
  });
});

describe('for a service account', () => {
  async function account(): Promise<string> {
    const id = newId();
    const { tenantId } = admin.actor;
    await platform.db.operatorTransaction(async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
        values (${tenantId}, ${id}, 'serviceaccount', 'deployer', 'ready', 't', 1)`.execute(tx);
      await sql`insert into subject (tenant_id, subject, kind, resource_id)
        values (${tenantId}, 'sa-1', 'serviceaccount', ${id})`.execute(tx);
    });
    return id;
  }

  test('it is cut to what its author has, and stays when the author loses it', async () => {
    const id = await account();
    const grants = await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    const reads = await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['read'], kinds: ['*'] });
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['update'], kinds: ['network'], tagSelector: 'env=dev' });
    const ann = await lab.as({ subject: 'ann' });
    const made = await lab.give(ann, {
      subject: { serviceAccount: 'deployer' },
      verbs: ['read', 'update', 'delete'],
      kinds: ['network'],
    });
    expect(made).toMatchObject({ subject: { serviceAccount: id }, verbs: ['read', 'update', 'delete'] });
    expect(made.rules).toEqual([
      { verbs: ['read'], kinds: ['network'] },
      { verbs: ['update'], kinds: ['network'], tagSelector: 'env=dev' },
    ]);
    for (const { id: gone } of [grants, reads])
      await platform.done(admin, await platform.pipeline.remove(admin, grant, gone));
    const { actor } = await lab.as({ subject: 'sa-1' });
    expect(isAllowed(actor, 'read', lab.core({}))).toBe(true);
    expect(isAllowed(actor, 'update', lab.core({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'update', lab.core({ env: 'prod' }))).toBe(false);
    expect(may(actor, 'delete', 'network')).toBe(false);
  });

  test('nothing is refused', async () => {
    await account();
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['create', 'read'], kinds: ['grant'] });
    await lab.give(admin, { subject: { sub: 'ann' }, verbs: ['read'], kinds: ['*'] });
    const ann = await lab.as({ subject: 'ann' });
    const body = { name: 'no', subject: { serviceAccount: 'deployer' }, verbs: ['delete'], kinds: ['network'] };
    expect(await refusal(platform.pipeline.create(ann, grant, body))).toMatchObject({
      code: 'forbidden',
      details: { errors: [{ pointer: '/verbs/0' }] },
    });
  });

  test('the account stays for as long as its grants', async () => {
    const id = await account();
    const { tenantId } = admin.actor;
    const made = await lab.give(admin, { subject: { serviceAccount: id }, verbs: ['read'], kinds: ['network'] });
    const edge = () =>
      platform.db.tenantRead(
        tenantId,
        sql<{
          relation: string;
        }>`select relation from dependency where tenant_id = ${tenantId} and target_id = ${id}`.compile(
          platform.db.builder,
        ),
      );
    expect(await edge()).toEqual([{ relation: 'gives rights to' }]);
    await platform.done(admin, await platform.pipeline.remove(admin, grant, made.id));
    expect(await edge()).toEqual([]);
  });
});
