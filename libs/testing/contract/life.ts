/** The whole life of a resource, each change's dry run, and its dependants. */

import { describe, expect, test } from 'vitest';
import type { KindDefinition } from '#libs/resources';
import type { Platform } from '../platform.js';
import { expectAsBefore, expectWhole, openCase, present, rowCounts } from './case.js';
import type { ChangeableKind } from './fixture.js';
import { testWhere } from './where.js';

export function describeLife(kind: KindDefinition, at: () => Platform, fixture: ChangeableKind): void {
  describe('life', () => {
    test('is created, found, changed, acted on, removed, and leaves nothing but its history', async () => {
      const platform = at();
      const { pipeline, reader } = platform;
      const ctx = await openCase(platform, kind, fixture);
      const { caller } = ctx;
      const before = await present(ctx);
      const body = fixture.create(ctx);
      const created = await pipeline.create(caller, kind, body);
      expect(created).toMatchObject({ status: 202, body: { name: body.name, state: 'pending', generation: 1 } });
      expect(await platform.done(caller, created)).toMatchObject({ action: 'create', progress: 100, attempts: 1 });
      const { id } = created.body;
      const found = await reader.get(caller, kind, body.name);
      expect(found.body).toMatchObject({ id, kind: kind.name, state: 'ready', generation: 1, observedGeneration: 1 });
      expect((await reader.get(caller, kind, id)).body).toEqual(found.body);
      expect((await reader.list(caller, kind, { name: body.name })).items).toEqual([found.body]);

      const patched = await pipeline.update(caller, kind, id, fixture.patch);
      expect(patched.body).toMatchObject({ state: 'updating', generation: 2 });
      await platform.done(caller, patched);
      const changed = await reader.get(caller, kind, id);
      expect(changed.body).toMatchObject({ ...fixture.patch, state: 'ready', observedGeneration: 2 });
      expect(changed.etag).not.toBe(found.etag);
      for (const [action, actionBody] of Object.entries(fixture.actions ?? {})) {
        await platform.done(caller, await pipeline.act(caller, kind, id, action, actionBody));
        expect((await reader.get(caller, kind, id)).body.state, action).toBe('ready');
      }
      expect(Object.keys(kind.actions ?? {}).sort(), 'each action has a body in the fixture').toEqual(
        [...Object.keys(fixture.actions ?? {}), ...(fixture.elsewhere ?? [])].sort(),
      );
      await expectWhole(ctx, fixture);

      await platform.done(caller, await pipeline.remove(caller, kind, id));
      await expect(reader.get(caller, kind, id)).rejects.toMatchObject({ code: 'not_found' });
      await expectAsBefore(ctx, before);
      await expectWhole(ctx, fixture);
      // The name is free again.
      await platform.done(caller, await pipeline.create(caller, kind, body));
    });

    test('a dry run of each change answers as the change would and leaves no row anywhere', async () => {
      const platform = at();
      const { pipeline, reader } = platform;
      const ctx = await openCase(platform, kind, fixture);
      const id = await ctx.make(kind.name, fixture.create(ctx));
      const before = await reader.get(ctx.caller, kind, id);
      await expectWhole(ctx, fixture);
      const { tenantId } = ctx.caller.actor;
      const rows = await rowCounts(platform, tenantId);
      const dryRun = true;
      const body = fixture.create(ctx);
      const answers = [
        await pipeline.create(ctx.caller, kind, body, { dryRun }),
        await pipeline.update(ctx.caller, kind, id, fixture.patch, { dryRun }),
        await pipeline.remove(ctx.caller, kind, id, { dryRun }),
      ];
      expect(answers[0]!.body).toMatchObject({ name: body.name });
      expect(answers[1]!.body).toMatchObject(fixture.patch);
      for (const [action, actionBody] of Object.entries(fixture.actions ?? {})) {
        const answer = await pipeline.act(ctx.caller, kind, id, action, actionBody, { dryRun }).catch((e: Error) => e);
        // An action that the state does not allow is refused dry as well; only that leaves a row, in the audit.
        if (answer instanceof Error) expect(answer).toMatchObject({ code: 'not_ready' });
        else answers.push(answer);
      }
      for (const answer of answers) {
        expect(answer.status).toBe(200);
        expect(answer.jobId).toBeUndefined();
        expect(answer.body).not.toHaveProperty('job');
      }
      expect({ ...(await rowCounts(platform, tenantId)), audit: 0 }).toEqual({ ...rows, audit: 0 });
      expect(await reader.get(ctx.caller, kind, id)).toEqual(before);
    });

    testWhere(fixture.dependant)(
      'what something needs is not removed, and the answer names what needs it',
      async () => {
        const platform = at();
        const ctx = await openCase(platform, kind, fixture);
        const id = await ctx.make(kind.name, fixture.create(ctx));
        const { kind: other, body } = fixture.dependant!(ctx, id);
        const change = await platform.pipeline.create(ctx.caller, platform.registry.get(other), body);
        const blockers = [{ kind: other, id: change.body.id, name: change.body.name }];
        // Under way, and when it is done.
        for (const state of ['pending', 'ready']) {
          for (const dryRun of [true, false]) {
            await expect(platform.pipeline.remove(ctx.caller, kind, id, { dryRun }), state).rejects.toMatchObject({
              code: 'in_use',
              details: { blockers },
            });
          }
          await platform.done(ctx.caller, change);
        }
        await platform.done(
          ctx.caller,
          await platform.pipeline.remove(ctx.caller, platform.registry.get(other), change.body.id),
        );
        await platform.done(ctx.caller, await platform.pipeline.remove(ctx.caller, kind, id));
        await expectWhole(ctx, fixture);
      },
    );

    test('what is protected is not removed until its protection is taken off', async () => {
      const platform = at();
      const ctx = await openCase(platform, kind, fixture);
      const id = await ctx.make(kind.name, { ...fixture.create(ctx), deletionProtection: true });
      await expect(platform.pipeline.remove(ctx.caller, kind, id)).rejects.toMatchObject({ code: 'protected' });
      await platform.done(
        ctx.caller,
        await platform.pipeline.update(ctx.caller, kind, id, { deletionProtection: false }),
      );
      await platform.done(ctx.caller, await platform.pipeline.remove(ctx.caller, kind, id));
    });
  });
}
