/** Removing many at once: what depends on a resource with it, and all that a selector picks. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseScopes } from '#libs/auth';
import { newId, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { kinds } from '#libs/kinds';
import {
  addEdges,
  type Caller,
  type ChangeOptions,
  type ChangeResult,
  type Claim,
  dropEdges,
  hashRequest,
  type KindDefinition,
  type KindResource,
} from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';

const network = kinds.find(({ name }) => name === 'network')! as KindDefinition;

/** A kind whose resources need those whose ids stand in their tags; one of the name `stuck` cannot be removed. */
const gadget: KindDefinition = {
  ...network,
  name: 'gadget',
  plural: 'gadgets',
  controllers: [],
  make: (scope) => {
    const plain = network.make(scope) as KindResource;
    const [claim, release] = [plain.claim.bind(plain), plain.release.bind(plain)];
    // The class asks for rows of the kind that it is made with.
    return Object.assign(plain, {
      kind: gadget,
      claim: async (tx: Tx, asked: Claim<any>) => {
        await claim(tx, asked);
        const { id, tenantId, tags } = plain.getCore();
        const edges = Object.keys(tags)
          .filter((key) => key.startsWith('on-'))
          .map((key) => ({ targetTenantId: tenantId, targetId: tags[key]!, relation: 'needs' }));
        await addEdges(tx, { tenantId, id }, edges, (gone) => new RhyzomeError('conflict', `${gone} is going`));
      },
      release: async (tx: Tx) => {
        await release(tx);
        await dropEdges(tx, plain.getCore());
      },
      remove: async () => {
        if (plain.getCore().name === 'stuck') throw new RhyzomeError('job_failed', 'It is glued.');
      },
    });
  },
};

let platform: Platform;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [...kinds, gadget] });
});
afterAll(() => platform?.close());

async function make(caller: Caller, name: string, on: string[] = [], more: object = {}): Promise<string> {
  const tags = Object.fromEntries(on.map((id, n) => [`on-${n}`, id]));
  const body = { name, subnet: '10.0.0.0/24', tags: { ...tags, made: 'here' }, ...more };
  const change = await platform.pipeline.create(caller, gadget, body);
  await platform.done(caller, change);
  return change.body.id;
}

const remove = (caller: Caller, which: string, options: ChangeOptions = { cascade: true }): Promise<ChangeResult> =>
  platform.pipeline.remove(caller, gadget, which, options);

async function names(caller: Caller): Promise<string[]> {
  const { items } = await platform.reader.list(caller, gadget, { sort: 'name', pageSize: '500' });
  return items.map(({ name }) => name);
}

describe('cascade', () => {
  test('takes away what depends on it first, however far, and answers with all of it', async () => {
    const caller = await platform.tenant();
    const root = await make(caller, 'root');
    const middle = await make(caller, 'middle', [root]);
    await make(caller, 'leaf', [middle, root]);
    await make(caller, 'other');
    await expect(remove(caller, root, {})).rejects.toMatchObject({ code: 'in_use' });
    const change = await remove(caller, root);
    const { cascade } = change.body as unknown as { cascade: { name: string; kind: string; job: { id: string } }[] };
    expect(cascade.map(({ name, kind }) => [kind, name])).toEqual([
      ['gadget', 'leaf'],
      ['gadget', 'middle'],
    ]);
    const job = await platform.done(caller, change);
    expect((job.steps as { name: string; state: string }[])[0]).toMatchObject({
      name: 'what depends on it is gone',
      state: 'succeeded',
    });
    expect(await names(caller)).toEqual(['other']);
    const ends: number[] = [];
    for (const id of [...cascade.map((one) => one.job.id), change.jobId!]) {
      ends.push(Date.parse((await platform.jobs.get(caller, id)).finishedAt as string));
    }
    expect([...ends].sort((a, b) => a - b)).toEqual(ends);
  });

  test('says in a dry run what would go, and takes nothing', async () => {
    const caller = await platform.tenant();
    const root = await make(caller, 'root');
    const leaf = await make(caller, 'leaf', [root]);
    const { body, status } = await remove(caller, 'root', { cascade: true, dryRun: true });
    expect(status).toBe(200);
    expect(body.cascade).toEqual([{ kind: 'gadget', id: leaf, name: 'leaf' }]);
    for (const id of [root, leaf]) {
      expect((await platform.reader.get(caller, gadget, id)).body.state).toBe('ready');
    }
  });

  test('is all or nothing: protected ones, missing permission, stale ETag, too many', async () => {
    const caller = await platform.tenant();
    const root = await make(caller, 'root');
    const kept = await make(caller, 'kept', [root], { deletionProtection: true });
    await make(caller, 'free', [root]);
    await expect(remove(caller, root)).rejects.toMatchObject({
      code: 'protected',
      details: { blockers: [{ kind: 'gadget', id: kept, name: 'kept', relation: 'needs' }] },
    });
    const narrow: Caller = { ...caller, actor: { ...caller.actor, scopes: parseScopes('network:* *:read') } };
    const base = await platform.done(
      caller,
      await platform.pipeline.create(caller, network, { name: 'base', subnet: '10.0.0.0/24' }),
    );
    const baseId = (base.resource as { id: string }).id;
    await make(caller, 'upon', [baseId]);
    await expect(platform.pipeline.remove(narrow, network, 'base', { cascade: true })).rejects.toMatchObject({
      code: 'forbidden',
    });
    await expect(remove(caller, root, { cascade: true, ifMatch: '"99"' })).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    expect(await names(caller)).toEqual(['free', 'kept', 'root', 'upon']);
    const states = await platform.reader.list(caller, gadget, { state: 'ready', count: 'true' });
    expect(states.totalCount).toBe(4);
    const { tenantId } = caller.actor;
    await platform.db.operatorTransaction(async (tx) => {
      const rows = sql`select ${tenantId}::text as tenant_id, gen_random_uuid() as id, n from generate_series(1, 201) n`;
      await sql`with many as materialized (${rows}), made as (
          insert into resource (tenant_id, id, kind, name, state, created_by)
          select tenant_id, id, 'gadget', 'many-' || n, 'ready', 't' from many returning id)
        insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
        select ${tenantId}, id, ${tenantId}, ${baseId}, 'needs' from made`.execute(tx);
    });
    await expect(platform.pipeline.remove(caller, network, 'base', { cascade: true })).rejects.toMatchObject({
      code: 'in_use',
      message: expect.stringContaining('More than 200'),
    });
  });

  test('tells which dependant stayed and why, and leaves the target as it was', async () => {
    const caller = await platform.tenant();
    const root = await make(caller, 'root');
    const stuck = await make(caller, 'stuck', [root]);
    const change = await remove(caller, root);
    const job = await platform.ended(caller, change.jobId!);
    expect(job).toMatchObject({
      state: 'failed',
      error: {
        code: 'in_use',
        detail: expect.stringMatching(/“stuck” has failed.*It is glued/),
        blockers: [{ kind: 'gadget', id: stuck, name: 'stuck', relation: 'needs' }],
      },
    });
    expect((await platform.reader.get(caller, gadget, root)).body.state).toBe('ready');
    expect((await platform.reader.get(caller, gadget, stuck)).body.state).toBe('failed');
    // Without a dependant it goes.
    await platform.db.operatorTransaction((tx) =>
      sql`delete from resource where id = ${stuck} and tenant_id = ${caller.actor.tenantId}`.execute(tx),
    );
    await platform.done(caller, await remove(caller, root));
  });

  test('asked for twice is one removal', async () => {
    const caller = await platform.tenant();
    const root = await make(caller, 'root');
    await make(caller, 'leaf', [root]);
    const changes = await Promise.all([remove(caller, root), remove(caller, root), remove(caller, root)]);
    expect(new Set(changes.map(({ jobId }) => jobId)).size).toBe(1);
    await platform.done(caller, changes[0]!);
    expect(await names(caller)).toEqual([]);
  });

  test('beside creates, removals and other cascades ends, and leaves nothing without what it needs', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(20), fc.nat(20)), { maxLength: 14 }),
        fc.array(fc.nat(9), { minLength: 1, maxLength: 4 }),
        async (edges, targets) => {
          const caller = await platform.tenant();
          const ids: string[] = [];
          for (let n = 0; n < 10; n++) {
            const on = edges.filter(([from, to]) => from % 10 === n && to % 10 < n).map(([, to]) => ids[to % 10]!);
            ids.push(await make(caller, `g-${n}`, [...new Set(on)]));
          }
          const expected = new Set(['conflict', 'not_found', 'in_use', 'precondition_failed']);
          const settle = async (work: Promise<ChangeResult>) => {
            try {
              const { jobId } = await work;
              const { error } = await platform.ended(caller, jobId!);
              if (error && !expected.has((error as { code: string }).code)) throw new Error(JSON.stringify(error));
            } catch (error) {
              if (!(error instanceof RhyzomeError) || !expected.has(error.code)) throw error;
            }
          };
          const late = targets.map((target, n) =>
            platform.pipeline.create(caller, gadget, {
              name: `late-${n}`,
              subnet: '10.0.0.0/24',
              tags: { 'on-0': ids[target]! },
            }),
          );
          const work = [...targets.map((target) => remove(caller, ids[target]!)), remove(caller, ids[5]!, {}), ...late];
          await Promise.all(work.map(settle));
          const left = await sql`select r.name from resource r where r.tenant_id = ${caller.actor.tenantId}
            and (r.state not in ('ready', 'failed') or exists (
              select from jsonb_each_text(r.tags) t where t.key like 'on-%' and not exists (
                select from resource n where n.tenant_id = r.tenant_id and n.id = t.value::uuid)))`.execute(
            platform.db.operator,
          );
          expect(left.rows).toEqual([]);
        },
      ),
      { numRuns: 8 },
    );
  }, 120_000);
});

describe('removal by selector', () => {
  const removeMatching = (caller: Caller, raw: Record<string, string>, options: ChangeOptions = {}) =>
    platform.pipeline.removeMatching(caller, gadget, raw, options);

  test('takes what matches and can go, and tells of the rest', async () => {
    const caller = await platform.tenant();
    const used = await make(caller, 'used', [], { tags: { tier: 'x' } });
    await make(caller, 'plain', [], { tags: { tier: 'x' } });
    await make(caller, 'kept', [], { tags: { tier: 'x' }, deletionProtection: true });
    await make(caller, 'user', [used]);
    const dry = await removeMatching(caller, { tagSelector: 'tier=x' }, { dryRun: true });
    expect(Object.fromEntries(dry.body.items.map(({ name, status, job }) => [name, [status, job]]))).toEqual({
      used: [409, undefined],
      plain: [200, undefined],
      kept: [409, undefined],
    });
    const { body } = await removeMatching(caller, { tagSelector: 'tier=x' });
    const byName = Object.fromEntries(body.items.map((item) => [item.name, item]));
    expect(byName.plain).toMatchObject({ status: 202, job: { state: 'queued' } });
    expect(byName.kept?.problem).toMatchObject({ code: 'protected', status: 409 });
    expect(byName.used?.problem).toMatchObject({ code: 'in_use', blockers: [{ name: 'user' }] });
    expect(body.remaining).toBe(0);
    await platform.ended(caller, byName.plain!.job!.id);
    expect(await names(caller)).toEqual(['kept', 'used', 'user']);
    expect((await removeMatching(caller, { tagSelector: 'made=here', name: 'user' })).body.items).toHaveLength(1);
    const audit = await platform.db.operator
      .selectFrom('audit')
      .select(['resource_name', 'result', 'code'])
      .where('tenant_id', '=', caller.actor.tenantId)
      .where('action', '=', 'gadget.delete')
      .where('code', '=', 'protected')
      .execute();
    expect(audit).toContainEqual({ resource_name: 'kept', result: 'refused', code: 'protected' });
  });

  test('needs a selector and knows lists’ filters only', async () => {
    const caller = await platform.tenant();
    const refusal = (raw: Record<string, string>) => removeMatching(caller, raw).catch((error: RhyzomeError) => error);
    expect(await refusal({})).toMatchObject({ code: 'invalid', details: { errors: [{ parameter: 'tagSelector' }] } });
    expect(await refusal({ name: 'x' })).toMatchObject({ details: { errors: [{ parameter: 'tagSelector' }] } });
    for (const parameter of ['pageSize', 'pageToken', 'sort', 'count', 'colour', 'cascade']) {
      expect(await refusal({ tagSelector: 'a', [parameter]: '1' })).toMatchObject({
        details: { errors: [{ parameter, code: 'unknown_parameter' }] },
      });
    }
    const viewer = { ...caller, actor: { ...caller.actor, roles: ['viewer' as const] } };
    await expect(platform.pipeline.removeMatching(viewer, network, { tagSelector: 'a' })).rejects.toMatchObject({
      code: 'forbidden',
    });
  });

  test('goes on with the same request until nothing remains, and never touches another tenant', async () => {
    const [caller, other] = [await platform.tenant(), await platform.tenant()];
    for (const { actor } of [caller, other]) {
      await platform.db.operatorTransaction(async (tx) => {
        await sql`insert into resource (tenant_id, id, kind, name, state, created_by, tags)
          select ${actor.tenantId}, gen_random_uuid(), 'network', 'n-' || n, 'ready', 't', '{"old": "yes"}'
          from generate_series(1, 603) n`.execute(tx);
        await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
          select tenant_id, id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from resource
          where tenant_id = ${actor.tenantId}`.execute(tx);
      });
    }
    const key = { idempotency: { subject: 's', key: newId(), hash: hashRequest('x') } };
    const ask = (options: ChangeOptions = {}) =>
      platform.pipeline.removeMatching(caller, network, { tagSelector: 'old=yes' }, options);
    const first = await ask(key);
    expect(first.body).toMatchObject({ remaining: 103 });
    expect(first.body.items).toHaveLength(500);
    expect(await ask(key)).toEqual({ ...first, isReplay: true });
    const second = await ask();
    expect(second.body.items).toHaveLength(103);
    expect(second.body.remaining).toBe(0);
    const seen = new Set([...first.body.items, ...second.body.items].map(({ id }) => id));
    expect(seen.size).toBe(603);
    const left = await platform.reader.list(other, network, { state: 'ready', count: 'true' });
    expect(left.totalCount).toBe(603);
  }, 60_000);
});
