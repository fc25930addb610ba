/** Grants: what they give, when, and that nobody gives more than what he has. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory, type Actor, isAllowed, may, parseScopes } from '#libs/auth';
import { newId, type RhyzomeError } from '#libs/core';
import { JobRunner } from '#libs/jobs';
import { network } from '#libs/kinds/network';
import { type Caller, type KindDefinition, ResourceJobs } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { MAX_GRANTS } from './grant.resource.js';
import { grant } from './index.js';

const log = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };

let platform: Platform;
let admin: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, grant] });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  admin = await platform.tenant();
});

/** Somebody as he comes in at this moment. */
async function as(who: Partial<Actor>): Promise<Caller> {
  const base: Actor = {
    tenantId: admin.actor.tenantId,
    subject: 'nora',
    roles: [],
    scopes: null,
    via: 'token',
    ...who,
  };
  return { actor: await new AccessDirectory(platform.db).enrich(base), requestId: newId() };
}

async function give(author: Caller, what: object, name = `g-${newId().slice(-12)}`) {
  const change = await platform.pipeline.create(author, grant, { name, ...what });
  await platform.done(admin, change);
  return (await platform.reader.get(admin, grant, change.body.id)).body as Record<string, any>;
}

async function refusal(work: Promise<unknown>): Promise<RhyzomeError> {
  return work.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: RhyzomeError) => error,
  );
}

let subnet = 0;
async function lan(tags: Record<string, string> = {}) {
  const body = { name: `lan-${newId().slice(-12)}`, subnet: `10.${++subnet % 250}.0.0/24`, tags };
  const change = await platform.pipeline.create(admin, network, body);
  await platform.done(admin, change);
  return change.body;
}

const ops = { group: 'ops' };
const core = (tags: Record<string, string>, kind = 'network') => ({
  tenantId: admin.actor.tenantId,
  kind,
  id: 'x',
  tags,
});

describe('a grant', () => {
  test('counts from its answer on, as it is changed to, and no longer from that to its removal', async () => {
    const silent = await startPlatform({ kinds: [network, grant], workers: false });
    try {
      const caller = await silent.tenant();
      const nora = async () =>
        await new AccessDirectory(silent.db).enrich({
          ...caller.actor,
          subject: 'nora',
          roles: [],
          groups: ['ops'],
        });
      const body = { name: 'one', subject: ops, verbs: ['read'], kinds: ['network'] };
      await silent.pipeline.create(caller, grant, body);
      expect(may(await nora(), 'read', 'network')).toBe(true);
      await silent.pipeline.remove(caller, grant, 'one');
      expect(may(await nora(), 'read', 'network')).toBe(false);
      const { jobId } = await silent.pipeline.create(caller, grant, { ...body, name: 'two' });
      expect(may(await nora(), 'read', 'network')).toBe(true);
      await silent.jobs.cancel(caller, jobId!);
      expect(may(await nora(), 'read', 'network')).toBe(false);
    } finally {
      await silent.close();
    }
  });

  test('gives what it says to whom it says, as it stands', async () => {
    const made = await give(admin, {
      subject: ops,
      verbs: ['read', 'update'],
      kinds: ['network'],
      tagSelector: 'env in (dev,test)',
    });
    expect(made).toMatchObject({
      subject: ops,
      rules: [{ verbs: ['read', 'update'], kinds: ['network'], tagSelector: 'env in (dev,test)' }],
    });
    const { actor } = await as({ groups: ['ops'] });
    expect(isAllowed(actor, 'update', core({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'delete', core({ env: 'dev' }))).toBe(false);
    expect(isAllowed(actor, 'read', core({ env: 'prod' }))).toBe(false);
    expect(may((await as({ groups: ['others'] })).actor, 'read', 'network')).toBe(false);
    const patch = { tagSelector: null, verbs: ['read'] };
    await platform.done(admin, await platform.pipeline.update(admin, grant, made.id, patch));
    const later = (await as({ groups: ['ops'] })).actor;
    expect(isAllowed(later, 'read', core({ env: 'prod' }))).toBe(true);
    expect(isAllowed(later, 'update', core({ env: 'dev' }))).toBe(false);
  });

  test('gives what it gave before when its change is cancelled, and again when its removal is', async () => {
    const silent = await startPlatform({ kinds: [network, grant], workers: false });
    try {
      const caller = await silent.tenant();
      const body = { name: 'one', subject: ops, verbs: ['read'], kinds: ['network'] };
      const nora = async () =>
        new AccessDirectory(silent.db).enrich({ ...caller.actor, subject: 'nora', roles: [], groups: ['ops'] });
      const work = async (jobId: string) => {
        const runner = new JobRunner(silent.db, silent.listener, new ResourceJobs(silent.db, silent.registry), { log });
        runner.start();
        const { state } = await silent.ended(caller, jobId);
        await runner.stop();
        return state;
      };
      expect(await work((await silent.pipeline.create(caller, grant, body)).jobId!)).toBe('succeeded');
      const changed = await silent.pipeline.update(caller, grant, 'one', { verbs: ['delete'] });
      expect(may(await nora(), 'read', 'network')).toBe(false);
      await silent.jobs.cancel(caller, changed.jobId!);
      expect(await work(changed.jobId!)).toBe('cancelled');
      expect(may(await nora(), 'read', 'network')).toBe(true);
      expect(may(await nora(), 'delete', 'network')).toBe(false);
      const removed = await silent.pipeline.remove(caller, grant, 'one');
      expect(may(await nora(), 'read', 'network')).toBe(false);
      await silent.jobs.cancel(caller, removed.jobId!);
      expect(await work(removed.jobId!)).toBe('cancelled');
      expect(may(await nora(), 'read', 'network')).toBe(true);
    } finally {
      await silent.close();
    }
  });

  test('of single resources is answered by id, and knows none that its author may not read', async () => {
    const [mine, other] = [await lan({ team: 'a' }), await lan({ team: 'b' })];
    await give(admin, { subject: ops, verbs: ['read', 'update'], kinds: ['network'], tagSelector: 'team=a' });
    await give(admin, { subject: ops, verbs: ['create'], kinds: ['grant'] });
    const author = await as({ groups: ['ops'] });
    const what = { subject: { sub: 'bob' }, verbs: ['read'], kinds: ['network'] };
    const made = await give(author, { ...what, resources: [mine.name] });
    expect(made.resources).toEqual([mine.id]);
    const { actor } = await as({ subject: 'bob' });
    expect(isAllowed(actor, 'read', { ...core({}), id: mine.id })).toBe(true);
    const absent = newId();
    const told = async (id: string) => {
      const error = await refusal(platform.pipeline.create(author, grant, { name: 'no', ...what, resources: [id] }));
      return JSON.stringify([error.code, error.message, error.details]);
    };
    expect(await told(other.id)).toBe(await told(absent));
    expect(await told(other.id)).toContain('/resources/0');
    // Its tags go, and with them what its author has of it; the grant by id stays.
    await platform.done(admin, await platform.pipeline.update(admin, network, mine.id, { tags: {} }));
    expect(isAllowed((await as({ subject: 'bob' })).actor, 'read', { ...core({}), id: mine.id })).toBe(true);
  });

  test(`is one of ${MAX_GRANTS}, also for two at once`, async () => {
    const { tenantId } = admin.actor;
    await platform.db.operatorTransaction(async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
        select ${tenantId}, gen_random_uuid(), 'grant', 'many-' || n, 'ready', 't', 1
        from generate_series(1, ${MAX_GRANTS - 1}::int) n`.execute(tx);
      await sql`insert into access_grant (tenant_id, id, subject_type, subject, verbs, kinds, rules)
        select tenant_id, id, 'group', 'x', '{read}', '{network}', '[]' from resource
        where tenant_id = ${tenantId} and kind = 'grant'`.execute(tx);
    });
    const what = { subject: ops, verbs: ['read'], kinds: ['network'] };
    const outcomes = await Promise.allSettled(
      ['a', 'b', 'c'].map((name) => platform.pipeline.create(admin, grant, { name, ...what })),
    );
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'limit_reached' });
    }
  });
});

describe('whoever gives', () => {
  /** May give, and has of networks what is said. */
  async function author(more: object, who: Partial<Actor> = {}): Promise<Caller> {
    await give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    await give(admin, { subject: { sub: 'ann' }, verbs: ['read', 'update'], kinds: ['network'], ...more });
    return as({ subject: 'ann', ...who });
  }
  const what = { name: 'more', subject: ops, verbs: ['read', 'delete', 'update'], kinds: ['network'] };

  test('is refused what he has not, with a pointer to each verb', async () => {
    const ann = await author({});
    const error = await refusal(platform.pipeline.create(ann, grant, what));
    expect(error).toMatchObject({ code: 'forbidden', details: { errors: [{ pointer: '/verbs/1' }] } });
    expect(error.message).toContain('network:delete');
    const all = await refusal(platform.pipeline.create(ann, grant, { ...what, verbs: ['read'], kinds: ['*'] }));
    expect(all.details.errors).toEqual([expect.objectContaining({ pointer: '/verbs/0', code: 'forbidden' })]);
    await give(ann, { ...what, verbs: ['update', 'read'] });
  });

  test('gives by tags what he has by tags, and no more', async () => {
    const ann = await author({ tagSelector: 'env in (dev,test)' });
    const read = { ...what, verbs: ['read'] };
    for (const tagSelector of [undefined, 'env=prod', 'env', '!env', 'team=a', 'env!=prod']) {
      const body = { ...read, ...(tagSelector && { tagSelector }) };
      expect((await refusal(platform.pipeline.create(ann, grant, body))).code).toBe('forbidden');
    }
    await give(ann, { ...read, name: 'narrow', tagSelector: 'env=dev,team=a' });
    await expect(platform.pipeline.update(ann, grant, 'narrow', { tagSelector: 'team=a' })).rejects.toMatchObject({
      code: 'forbidden',
    });
    expect((await platform.reader.get(admin, grant, 'narrow')).body.tagSelector).toBe('env=dev,team=a');
  });

  test('is held to the scopes of his token', async () => {
    await author({});
    const narrow = await as({ subject: 'ann', scopes: parseScopes('grant:create network:read') });
    expect((await refusal(platform.pipeline.create(narrow, grant, { ...what, verbs: ['update'] }))).code).toBe(
      'forbidden',
    );
    await give(narrow, { ...what, verbs: ['read'] });
  });

  test('may rename what is more than he has, and not change what it gives', async () => {
    const ann = await author({});
    const big = await give(admin, { subject: ops, verbs: ['*'], kinds: ['*'] });
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
    await give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    const own = await give(admin, { subject: { sub: 'ann' }, verbs: ['read', 'update'], kinds: ['network'] });
    // What a server still has in memory.
    const stale = await as({ subject: 'ann' });
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

  test('cannot bring a role back to more than he has by deleting its last grant', async () => {
    const ann = await author({});
    const first = await give(admin, { subject: { role: 'operator' }, verbs: ['read'], kinds: ['network'] });
    const second = await give(admin, { subject: { role: 'operator' }, verbs: ['read'], kinds: ['grant'] });
    const outcomes = await Promise.allSettled(
      [first, second].map(({ id }) => platform.pipeline.remove(ann, grant, id)),
    );
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
    expect(refused).toEqual([expect.objectContaining({ reason: expect.objectContaining({ code: 'forbidden' }) })]);
    const { actor } = await as({ subject: 'olga', roles: ['operator'] });
    expect(may(actor, 'delete', 'network')).toBe(false);
    const left = outcomes[0]!.status === 'rejected' ? first : second;
    await platform.done(admin, await platform.pipeline.remove(admin, grant, left.id));
    expect(may((await as({ subject: 'olga', roles: ['operator'] })).actor, 'delete', 'network')).toBe(true);
  });
});

describe('for a service account', () => {
  const kind = { name: 'serviceaccount' } as KindDefinition;
  async function account(): Promise<string> {
    const id = newId();
    const { tenantId } = admin.actor;
    await platform.db.operatorTransaction(async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
        values (${tenantId}, ${id}, ${kind.name}, 'deployer', 'ready', 't', 1)`.execute(tx);
      await sql`insert into subject (tenant_id, subject, kind, resource_id)
        values (${tenantId}, 'sa-1', 'serviceaccount', ${id})`.execute(tx);
    });
    return id;
  }

  test('it is cut to what its author has, and stays when the author loses it', async () => {
    const id = await account();
    const grants = await give(admin, { subject: { sub: 'ann' }, verbs: ['*'], kinds: ['grant'] });
    const reads = await give(admin, { subject: { sub: 'ann' }, verbs: ['read'], kinds: ['*'] });
    await give(admin, { subject: { sub: 'ann' }, verbs: ['update'], kinds: ['network'], tagSelector: 'env=dev' });
    const ann = await as({ subject: 'ann' });
    const made = await give(ann, {
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
    const { actor } = await as({ subject: 'sa-1' });
    expect(isAllowed(actor, 'read', core({}))).toBe(true);
    expect(isAllowed(actor, 'update', core({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'update', core({ env: 'prod' }))).toBe(false);
    expect(may(actor, 'delete', 'network')).toBe(false);
  });

  test('nothing is refused', async () => {
    await account();
    await give(admin, { subject: { sub: 'ann' }, verbs: ['create', 'read'], kinds: ['grant'] });
    await give(admin, { subject: { sub: 'ann' }, verbs: ['read'], kinds: ['*'] });
    const ann = await as({ subject: 'ann' });
    const body = { name: 'no', subject: { serviceAccount: 'deployer' }, verbs: ['delete'], kinds: ['network'] };
    expect(await refusal(platform.pipeline.create(ann, grant, body))).toMatchObject({
      code: 'forbidden',
      details: { errors: [{ pointer: '/verbs/0' }] },
    });
  });

  test('the account stays for as long as its grants', async () => {
    const id = await account();
    const { tenantId } = admin.actor;
    const made = await give(admin, { subject: { serviceAccount: id }, verbs: ['read'], kinds: ['network'] });
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
