/** Steps that run twice, and workers that die at each of their transactions: the end is whole, or undone. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { KindDefinition, ResourceView } from '#libs/resources';
import type { ObedientNode } from '../obedient-node.js';
import { type Platform, startPlatform } from '../platform.js';
import { changesIn, expectAsBefore, expectWhole, openCase, present } from './case.js';
import { type Crash, CrashLab } from './crash-lab.js';
import type { ChangeableKind, ContractContext } from './fixture.js';

/** No job of a kind takes more transactions than this. */
const MAX_TRANSACTIONS = 40;
/** Before the commit of one is what after the commit of the one before it is, but for the first. */
const momentsOf = (at: number): Crash['when'][] => (at === 1 ? ['before commit', 'after commit'] : ['after commit']);

export function describeCrashes(kind: KindDefinition, kinds: readonly KindDefinition[], fixture: ChangeableKind): void {
  describe('when workers die', () => {
    let platform: Platform;
    let lab: CrashLab;
    beforeAll(async () => {
      platform = await startPlatform({ kinds, workers: false });
      lab = new CrashLab(platform);
      await fixture.install?.(platform);
    });
    afterAll(() => platform?.close());
    const open = () =>
      openCase(platform, kind, fixture, async (caller, change) => (await lab.finish(caller, change)).job);

    /** What no node makes from now on. */
    function refuse(refused: (row: Parameters<ObedientNode['refuse']>[0]) => boolean): void {
      for (const node of platform.nodes) {
        node.refuse = (row) => (refused(row) ? { code: 'refused', message: 'the test says no' } : undefined);
      }
    }

    /** Every change of the kind in turn. */
    const changesOf = (ctx: ContractContext, id: string) => changesIn(ctx, fixture, () => id, fixture.more);

    /** Calls `work` with later and later deaths until one is past the end; returns how many were before it. */
    async function atEachTransaction(work: (crash: Crash) => Promise<boolean>): Promise<number> {
      for (let at = 1; at <= MAX_TRANSACTIONS; at++) {
        let died = false;
        for (const when of momentsOf(at)) died = (await work({ at, when })) || died;
        if (!died) return at - 1;
      }
      throw new Error(`still dying at transaction ${MAX_TRANSACTIONS}`);
    }

    test('each change is whole when others take over, wherever its worker died', { timeout: 120_000 }, async () => {
      const deaths = await atEachTransaction(async (crash) => {
        const ctx = await open();
        const before = await present(ctx);
        const what = `${crash.when} of transaction ${crash.at}`;
        const create = await platform.pipeline.create(ctx.caller, kind, fixture.create(ctx));
        const created = await lab.finish(ctx.caller, create, crash);
        expect(created.job.state, `create, death ${what}`).toBe('succeeded');
        await expectWhole(ctx, fixture);
        let died = created.died;
        for (const { name, ask } of changesOf(ctx, create.body.id)) {
          const { job, died: diedHere } = await lab.finish(ctx.caller, await ask(), crash);
          expect(job.state, `${name}, death ${what}`).toBe('succeeded');
          died ||= diedHere;
        }
        await expectAsBefore(ctx, before);
        await expectWhole(ctx, fixture);
        return died;
      });
      expect(deaths).toBeGreaterThan(0);
    });

    test('a create that is cancelled after a death disappears, or was too far and is whole', {
      timeout: 120_000,
    }, async () => {
      await atEachTransaction(async (crash) => {
        const ctx = await open();
        const before = await present(ctx);
        const create = await platform.pipeline.create(ctx.caller, kind, fixture.create(ctx));
        if (!(await lab.run(ctx.caller, create.jobId!, crash))) return false;
        const refusal = await platform.jobs.cancel(ctx.caller, create.jobId!).then(
          () => undefined,
          (error: { code: string }) => error.code,
        );
        const job = await lab.takeOver(ctx.caller, create.jobId!);
        expect(job.state).toBe(refusal === 'not_cancellable' ? 'succeeded' : 'cancelled');
        if (job.state === 'succeeded') {
          await lab.finish(ctx.caller, await platform.pipeline.remove(ctx.caller, kind, create.body.id));
        }
        await expectAsBefore(ctx, before);
        await expectWhole(ctx, fixture);
        return true;
      });
    });

    test('a removal takes the place of a create whose worker died', { timeout: 120_000 }, async () => {
      await atEachTransaction(async (crash) => {
        const ctx = await open();
        const before = await present(ctx);
        const create = await platform.pipeline.create(ctx.caller, kind, fixture.create(ctx));
        if (!(await lab.run(ctx.caller, create.jobId!, crash))) return false;
        const remove = await platform.pipeline.remove(ctx.caller, kind, create.body.id);
        // What undoes another job's steps first cannot itself be undone.
        const isReplacing = (await platform.jobs.get(ctx.caller, create.jobId!)).state === 'cancelled';
        expect((await platform.jobs.get(ctx.caller, remove.jobId!)).cancellable).toBe(!isReplacing);
        // The removal's worker dies at the same place.
        const { job } = await lab.finish(ctx.caller, remove, crash);
        expect(job.state).toBe('succeeded');
        await expectAsBefore(ctx, before);
        await expectWhole(ctx, fixture);
        return true;
      });
    });

    test('a create that the node refuses fails wherever its worker died, and is retried or removed', {
      timeout: 120_000,
    }, async () => {
      await atEachTransaction(async (crash) => {
        const ctx = await open();
        const before = await present(ctx);
        refuse((row) => row.kind === kind.name);
        const create = await platform.pipeline.create(ctx.caller, kind, fixture.create(ctx));
        const { job, died } = await lab.finish(ctx.caller, create, crash);
        refuse(() => false);
        await expectWhole(ctx, fixture);
        if (job.state === 'failed') {
          expect((await platform.reader.get(ctx.caller, kind, create.body.id)).body.state).toBe('failed');
          await platform.jobs.retry(ctx.caller, create.jobId!);
          const retried = await lab.finish(ctx.caller, create, crash);
          expect(retried.job).toMatchObject({ state: 'succeeded', attempts: 2 });
          await expectWhole(ctx, fixture);
        } else expect(job.state).toBe('succeeded');
        await lab.finish(ctx.caller, await platform.pipeline.remove(ctx.caller, kind, create.body.id));
        await expectAsBefore(ctx, before);
        return died;
      });
    });

    test('a removal that is cancelled after a death leaves it as it was, or was too far and is done', {
      timeout: 120_000,
    }, async () => {
      for (let at = 0; at < MAX_TRANSACTIONS; at++) {
        const ctx = await open();
        const empty = await present(ctx);
        const id = await ctx.make(kind.name, fixture.create(ctx));
        const before = await present(ctx);
        const remove = await platform.pipeline.remove(ctx.caller, kind, id);
        // At 0 nobody has begun it.
        if (at > 0 && !(await lab.run(ctx.caller, remove.jobId!, { at, when: 'after commit' }))) return;
        const refusal = await platform.jobs
          .cancel(ctx.caller, remove.jobId!)
          .catch((error: { code: string }) => error.code);
        const { state } = await lab.takeOver(ctx.caller, remove.jobId!);
        expect(state).toBe(refusal === 'not_cancellable' ? 'succeeded' : 'cancelled');
        await expectAsBefore(ctx, state === 'cancelled' ? before : empty);
        await expectWhole(ctx, fixture);
        if (state !== 'cancelled') continue;
        expect((await platform.reader.get(ctx.caller, kind, id)).body.state).toBe('ready');
        expect((await lab.finish(ctx.caller, await platform.pipeline.remove(ctx.caller, kind, id))).job.state).toBe(
          'succeeded',
        );
        await expectAsBefore(ctx, empty);
      }
    });

    /** What a user had set is so again, under a new generation, which the nodes were told. */
    async function expectRestored(ctx: ContractContext, before: ResourceView): Promise<void> {
      const { body } = await platform.reader.get(ctx.caller, kind, before.id);
      const known = Object.fromEntries(Object.keys(fixture.patch).map((key) => [key, before[key]]));
      expect(body).toMatchObject({ ...known, state: 'ready', generation: 3, observedGeneration: 3 });
      expect(body.conditions).toContainEqual(expect.objectContaining({ type: 'LastChange', status: 'false' }));
      const told = await sql<{ generation: number }>`select generation from placement
        where tenant_id = ${ctx.caller.actor.tenantId} and resource_id = ${before.id} and present`.execute(
        platform.db.operator,
      );
      for (const { generation } of told.rows) expect(generation).toBe(3);
      await expectWhole(ctx, fixture);
    }

    test('an update that is cancelled after a death has the values before back', { timeout: 120_000 }, async () => {
      await atEachTransaction(async (crash) => {
        const ctx = await open();
        const id = await ctx.make(kind.name, fixture.create(ctx));
        const before = (await platform.reader.get(ctx.caller, kind, id)).body;
        const change = await platform.pipeline.update(ctx.caller, kind, id, fixture.patch);
        if (!(await lab.run(ctx.caller, change.jobId!, crash))) return false;
        const refusal = await platform.jobs
          .cancel(ctx.caller, change.jobId!)
          .catch((error: { code: string }) => error.code);
        const { state } = await lab.takeOver(ctx.caller, change.jobId!);
        expect(state).toBe(refusal === 'not_cancellable' ? 'succeeded' : 'cancelled');
        if (state === 'cancelled') await expectRestored(ctx, before);
        return true;
      });
    });

    test('an update that the node refuses has the values before back, wherever its worker died', {
      timeout: 120_000,
    }, async () => {
      await atEachTransaction(async (crash) => {
        const ctx = await open();
        const id = await ctx.make(kind.name, fixture.create(ctx));
        const before = (await platform.reader.get(ctx.caller, kind, id)).body;
        const change = await platform.pipeline.update(ctx.caller, kind, id, fixture.patch);
        refuse((row) => row.resource_id === id);
        const { job, died } = await lab.finish(ctx.caller, change, crash);
        refuse(() => false);
        if (job.state === 'failed') await expectRestored(ctx, before);
        else expect(job.state).toBe('succeeded');
        return died;
      });
    });

    test('each step done twice gives the same end as once', async () => {
      const ctx = await open();
      const before = await present(ctx);
      const create = await platform.pipeline.create(ctx.caller, kind, fixture.create(ctx));
      await lab.run(ctx.caller, create.jobId!, undefined, true);
      expect((await platform.jobs.get(ctx.caller, create.jobId!)).state).toBe('succeeded');
      for (const { name, ask } of changesOf(ctx, create.body.id)) {
        const change = await ask();
        await lab.run(ctx.caller, change.jobId!, undefined, true);
        expect((await platform.jobs.get(ctx.caller, change.jobId!)).state, name).toBe('succeeded');
        await expectWhole(ctx, fixture);
      }
      await expectAsBefore(ctx, before);
    });
  });
}
