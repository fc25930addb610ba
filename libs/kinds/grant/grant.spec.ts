/** Grants: what they give, and when. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AccessDirectory, isAllowed, may } from '#libs/auth';
import { newId } from '#libs/core';
import { JobRunner } from '#libs/jobs';
import { network } from '#libs/kinds/network';
import { type Caller, ResourceJobs } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { MAX_GRANTS } from './grant.resource.js';
import { grant } from './index.js';
import { GivingLab, refusal } from './test-giving.js';

const log = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };

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
    const made = await lab.give(admin, {
      subject: ops,
      verbs: ['read', 'update'],
      kinds: ['network'],
      tagSelector: 'env in (dev,test)',
    });
    expect(made).toMatchObject({
      subject: ops,
      rules: [{ verbs: ['read', 'update'], kinds: ['network'], tagSelector: 'env in (dev,test)' }],
    });
    const { actor } = await lab.as({ groups: ['ops'] });
    expect(isAllowed(actor, 'update', lab.core({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'delete', lab.core({ env: 'dev' }))).toBe(false);
    expect(isAllowed(actor, 'read', lab.core({ env: 'prod' }))).toBe(false);
    expect(may((await lab.as({ groups: ['others'] })).actor, 'read', 'network')).toBe(false);
    const patch = { tagSelector: null, verbs: ['read'] };
    await platform.done(admin, await platform.pipeline.update(admin, grant, made.id, patch));
    const later = (await lab.as({ groups: ['ops'] })).actor;
    expect(isAllowed(later, 'read', lab.core({ env: 'prod' }))).toBe(true);
    expect(isAllowed(later, 'update', lab.core({ env: 'dev' }))).toBe(false);
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

  test('takes a resource by the name “null” for a name', async () => {
    const made = await lab.give(admin, { subject: ops, verbs: ['read'], kinds: ['network'] });
    const error = await refusal(platform.pipeline.update(admin, grant, made.id, { resources: ['null'] }));
    expect(error).toMatchObject({ code: 'invalid', details: { errors: [{ pointer: '/resources/0' }] } });
  });

  test('of single resources is answered by id, and knows none that its author may not read', async () => {
    const [mine, other] = [await lab.lan({ team: 'a' }), await lab.lan({ team: 'b' })];
    await lab.give(admin, { subject: ops, verbs: ['read', 'update'], kinds: ['network'], tagSelector: 'team=a' });
    await lab.give(admin, { subject: ops, verbs: ['create'], kinds: ['grant'] });
    const author = await lab.as({ groups: ['ops'] });
    const what = { subject: { sub: 'bob' }, verbs: ['read'], kinds: ['network'] };
    const made = await lab.give(author, { ...what, resources: [mine.name] });
    expect(made.resources).toEqual([mine.id]);
    const { actor } = await lab.as({ subject: 'bob' });
    expect(isAllowed(actor, 'read', { ...lab.core({}), id: mine.id })).toBe(true);
    const absent = newId();
    const told = async (id: string) => {
      const error = await refusal(platform.pipeline.create(author, grant, { name: 'no', ...what, resources: [id] }));
      return JSON.stringify([error.code, error.message, error.details]);
    };
    expect(await told(other.id)).toBe(await told(absent));
    expect(await told(other.id)).toContain('/resources/0');
    // Its tags go, and with them what its author has of it; the grant by id stays.
    await platform.done(admin, await platform.pipeline.update(admin, network, mine.id, { tags: {} }));
    expect(isAllowed((await lab.as({ subject: 'bob' })).actor, 'read', { ...lab.core({}), id: mine.id })).toBe(true);
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
