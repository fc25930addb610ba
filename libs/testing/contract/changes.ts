/** Conditions of changes: names, ETags, idempotency keys, one job at a time. */
import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import { type Caller, hashRequest, type IdempotentRequest, type KindDefinition } from '#libs/resources';
import { callerIn, type Platform } from '../platform.js';
import { expectWhole, openCase, rowCounts } from './case.js';
import type { ChangeableKind } from './fixture.js';

function keyed(caller: Caller, key: string, body: unknown): IdempotentRequest {
  return { subject: caller.actor.subject, key, hash: hashRequest(body) };
}

export function describeChanges(kind: KindDefinition, at: () => Platform, fixture: ChangeableKind): void {
  describe('changes', () => {
    test('a name is taken once, also of many who ask for it at once, and by a change of name', async () => {
      const { pipeline, ...platform } = at();
      const ctx = await openCase(at(), kind, fixture);
      const body = fixture.create(ctx);
      const outcomes = await Promise.allSettled(
        Array.from({ length: 5 }, () => pipeline.create(ctx.caller, kind, { ...fixture.create(ctx), name: body.name })),
      );
      const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
      expect(made).toHaveLength(1);
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') {
          expect(outcome.reason).toMatchObject({
            code: 'name_taken',
            details: { errors: [{ pointer: '/name', code: 'name_taken' }] },
          });
        }
      }
      await platform.ended(ctx.caller, made[0]!.jobId!);
      const other = await ctx.make(kind.name, fixture.create(ctx));
      const code = kind.immutable?.includes('name') ? 'invalid' : 'name_taken';
      await expect(pipeline.update(ctx.caller, kind, other, { name: body.name })).rejects.toMatchObject({ code });
      await expectWhole(ctx, fixture);
    });

    test('If-Match lets a change through only when nothing has changed since', async () => {
      const { pipeline, reader, ...platform } = at();
      const ctx = await openCase(at(), kind, fixture);
      const id = await ctx.make(kind.name, fixture.create(ctx));
      const { etag } = await reader.get(ctx.caller, kind, id);
      await platform.done(ctx.caller, await pipeline.update(ctx.caller, kind, id, fixture.patch, { ifMatch: etag }));
      const stale = { ifMatch: etag };
      const refused = { code: 'precondition_failed', details: { errors: [{ header: 'If-Match' }] } };
      await expect(pipeline.update(ctx.caller, kind, id, { tags: {} }, stale)).rejects.toMatchObject(refused);
      await expect(pipeline.remove(ctx.caller, kind, id, stale)).rejects.toMatchObject(refused);
      for (const action of Object.keys(kind.actions ?? {})) {
        await expect(pipeline.act(ctx.caller, kind, id, action, {}, stale), action).rejects.toMatchObject(refused);
      }
      const now = (await reader.get(ctx.caller, kind, id)).etag;
      await pipeline.remove(ctx.caller, kind, id, { ifMatch: `"0", ${now}` });
    });

    test('the same key and request is answered again and done once', async () => {
      const { pipeline, ...platform } = at();
      const ctx = await openCase(at(), kind, fixture);
      const body = fixture.create(ctx);
      const idempotency = keyed(ctx.caller, 'key-1', body);
      const first = await pipeline.create(ctx.caller, kind, body, { idempotency });
      const rows = await rowCounts(at(), ctx.caller.actor.tenantId);
      const again = await pipeline.create(ctx.caller, kind, body, { idempotency });
      expect(again).toMatchObject({ status: first.status, etag: first.etag, jobId: first.jobId });
      expect(again.body).toEqual(JSON.parse(JSON.stringify(first.body)));
      expect(again.replay).toBeDefined();
      const { resource, idempotency: kept } = await rowCounts(at(), ctx.caller.actor.tenantId);
      expect({ resource, kept }).toEqual({ resource: rows.resource, kept: 1 });
      await expect(
        pipeline.create(ctx.caller, kind, body, { idempotency: keyed(ctx.caller, 'key-1', 'other') }),
      ).rejects.toMatchObject({ code: 'idempotency_key_reused' });
      await platform.done(ctx.caller, first);

      const removal = { idempotency: keyed(ctx.caller, 'key-2', 'delete') };
      const removed = await pipeline.remove(ctx.caller, kind, first.body.id, removal);
      await platform.done(ctx.caller, removed);
      const replayed = await pipeline.remove(ctx.caller, kind, first.body.id, removal);
      expect(replayed).toMatchObject({ jobId: removed.jobId, replay: {} });

      // A day later the key is free for anything.
      await sql`update idempotency set created_at = now() - interval '24 hours 1 second'
        where tenant_id = ${ctx.caller.actor.tenantId}`.execute(at().db.operator);
      const later = { idempotency: keyed(ctx.caller, 'key-1', 'other') };
      const fresh = await pipeline.create(ctx.caller, kind, fixture.create(ctx), later);
      expect(fresh.replay).toBeUndefined();
    });

    test('a key does not help who has lost the permission, and a refusal is not kept', async () => {
      const { pipeline, ...platform } = at();
      const ctx = await openCase(at(), kind, fixture);
      const body = fixture.create(ctx);
      const change = await pipeline.create(ctx.caller, kind, body, { idempotency: keyed(ctx.caller, 'k', body) });
      await platform.done(ctx.caller, change);
      const remove = { idempotency: keyed(ctx.caller, 'r', 'delete') };
      await platform.done(ctx.caller, await pipeline.remove(ctx.caller, kind, change.body.id, remove));
      // The same subject, whose role has been taken away since, or who comes with a token for something else.
      const viewer = callerIn(ctx.caller.actor.tenantId, 'viewer', ctx.caller.actor.subject);
      const scopes = fixture.isPersonal ? [{ kind: 'other', verb: '*' }] : null;
      const weak = { ...viewer, actor: { ...viewer.actor, scopes } };
      await expect(pipeline.create(weak, kind, body, { idempotency: keyed(weak, 'k', body) })).rejects.toMatchObject({
        code: 'forbidden',
      });
      await expect(pipeline.remove(weak, kind, change.body.id, remove)).rejects.toMatchObject({
        code: expect.stringMatching(/^(forbidden|not_found)$/),
      });
      const { name: _, ...nameless } = body;
      const idempotency = keyed(ctx.caller, 'later', body);
      await expect(pipeline.create(ctx.caller, kind, nameless, { idempotency })).rejects.toMatchObject({
        code: 'invalid',
      });
      expect((await pipeline.create(ctx.caller, kind, body, { idempotency })).replay).toBeUndefined();
    });

    test('of two at once with one key, one is done and the other told to ask again', async () => {
      const { pipeline } = at();
      const ctx = await openCase(at(), kind, fixture);
      const body = fixture.create(ctx);
      const outcomes = await Promise.allSettled(
        Array.from({ length: 4 }, () =>
          pipeline.create(ctx.caller, kind, body, { idempotency: keyed(ctx.caller, 'once', body) }),
        ),
      );
      const ids = new Set<string>();
      for (const outcome of outcomes) {
        if (outcome.status === 'fulfilled') ids.add(outcome.value.body.id);
        else expect(outcome.reason).toMatchObject({ code: 'idempotency_in_progress' });
      }
      expect(ids.size).toBe(1);
    });

    test('a resource has one job at a time; of two removals the second joins the first', async () => {
      const { pipeline, node, ...platform } = at();
      const ctx = await openCase(at(), kind, fixture);
      const id = await ctx.make(kind.name, fixture.create(ctx));
      const outcomes = await Promise.allSettled(
        Array.from({ length: 5 }, (_, i) => pipeline.update(ctx.caller, kind, id, { tags: { n: String(i) } })),
      );
      for (const outcome of outcomes) {
        if (outcome.status === 'fulfilled') await platform.done(ctx.caller, outcome.value);
        else expect(outcome.reason).toMatchObject({ code: 'busy', details: { blockers: [{ kind: 'job' }] } });
      }
      const removals = await Promise.allSettled(Array.from({ length: 5 }, () => pipeline.remove(ctx.caller, kind, id)));
      const jobs = new Set<string | undefined>();
      for (const outcome of removals) {
        if (outcome.status === 'fulfilled') jobs.add(outcome.value.jobId);
        else expect(outcome.reason).toMatchObject({ code: 'not_found' });
      }
      expect(jobs.size).toBe(1);
      await platform.ended(ctx.caller, [...jobs][0]!);
      await node.look();
      await expectWhole(ctx, fixture);
    });
  });
}
