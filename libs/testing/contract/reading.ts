/** What other tenants and weak scopes see of a kind: nothing that differs from what does not exist. */

import { describe, expect, test } from 'vitest';
import { type Scope } from '#libs/auth';
import { newId, RhyzomeError } from '#libs/core';
import { Database } from '#libs/db';
import { type Caller, type KindDefinition, Pipeline, ResourceReader } from '#libs/resources';
import { renderProblem } from '#libs/rest';
import { callerIn, type Platform } from '../platform.js';
import { openCase } from './case.js';
import type { KindContract } from './fixture.js';
import { testWhere } from './where.js';

const KEY = Buffer.alloc(32, 7);

/** One resource of the kind, and somebody of its own tenant. */
async function oneOf(platform: Platform, kind: KindDefinition, fixture: KindContract) {
  if ('insert' in fixture) {
    const inserted = await fixture.insert(platform);
    return { ...inserted, caller: inserted.caller ?? (await platform.tenant()) };
  }
  const ctx = await openCase(platform, kind, fixture);
  const body = fixture.create(ctx);
  return { id: await ctx.make(kind.name, body), name: body.name, caller: ctx.caller };
}

function scoped(caller: Caller, ...scopes: Scope[]): Caller {
  return { ...caller, actor: { ...caller.actor, scopes } };
}

type Ask = (reader: ResourceReader, pipeline: Pipeline, caller: Caller, idOrName: string) => Promise<unknown>;

/** Every way to ask for one resource. */
function waysToAsk(kind: KindDefinition): Record<string, Ask> {
  const ways: Record<string, Ask> = {
    get: (reader, _, caller, which) => reader.get(caller, kind, which),
    update: (_, pipeline, caller, which) => pipeline.update(caller, kind, which, { tags: {} }),
    'dry update': (_, pipeline, caller, which) => pipeline.update(caller, kind, which, { tags: {} }, { dryRun: true }),
    delete: (_, pipeline, caller, which) => pipeline.remove(caller, kind, which),
    'conditional delete': (_, pipeline, caller, which) => pipeline.remove(caller, kind, which, { ifMatch: '"1"' }),
  };
  for (const action of Object.keys(kind.actions ?? {})) {
    ways[action] = (_, pipeline, caller, which) => pipeline.act(caller, kind, which, action, {});
  }
  return ways;
}

/** Asks with a database of its own; returns the problem and the statements that it took. */
async function ask(platform: Platform, way: Ask, caller: Caller, which: string) {
  const statements: string[] = [];
  const db = new Database({ app: platform.connection, maxConnections: 1, onQuery: (text) => statements.push(text) });
  try {
    const answer = await way(new ResourceReader(db, KEY), new Pipeline(db, platform.registry), caller, which).catch(
      (e: unknown) => e,
    );
    if (!(answer instanceof RhyzomeError)) throw new Error(`not refused: ${JSON.stringify(answer)}`);
    const problem = renderProblem(answer, 'request', '/');
    return { statements, problem: JSON.parse(JSON.stringify(problem).replaceAll(which, 'WHICH')) as unknown };
  } finally {
    await db.close();
  }
}

export function describeReading(kind: KindDefinition, at: () => Platform, fixture: KindContract): void {
  const isPublic = 'insert' in fixture && fixture.isPublic;
  describe('who sees it', () => {
    testWhere(!isPublic)(
      'for another tenant it is as what does not exist: the same statements, the same answer',
      async () => {
        const platform = at();
        const { id, name } = await oneOf(platform, kind, fixture);
        const stranger = await platform.tenant();
        for (const [verb, way] of Object.entries(waysToAsk(kind))) {
          const absent = await ask(platform, way, stranger, newId());
          expect(absent.problem, verb).toMatchObject({ status: 404, body: { code: 'not_found' } });
          expect(await ask(platform, way, stranger, id), verb).toEqual(absent);
          expect(await ask(platform, way, stranger, name), `${verb} by name`).toEqual(
            await ask(platform, way, stranger, 'absent'),
          );
        }
        expect((await platform.reader.list(stranger, kind, { count: 'true' })).totalCount).toBe(0);
      },
    );

    testWhere(isPublic)('every tenant reads it and none changes it', async () => {
      const platform = at();
      const { id, name, caller } = await oneOf(platform, kind, fixture);
      expect((await platform.reader.get(caller, kind, name)).body.id).toBe(id);
      expect((await platform.reader.list(caller, kind, { name })).items).toMatchObject([{ id }]);
      for (const [verb, way] of Object.entries(waysToAsk(kind))) {
        if (verb === 'get') continue;
        expect((await ask(platform, way, caller, id)).problem, verb).toMatchObject({ body: { code: 'forbidden' } });
      }
    });

    test('a viewer reads and changes nothing', async () => {
      const platform = at();
      const { id, caller } = await oneOf(platform, kind, fixture);
      const viewer = callerIn(caller.actor.tenantId, 'viewer');
      const isPersonal = 'isPersonal' in fixture && fixture.isPersonal;
      if (!isPersonal) expect((await platform.reader.get(viewer, kind, id)).body.id).toBe(id);
      // What is somebody else's own business, it may not know of.
      const refusal = isPersonal ? { status: 404, code: 'not_found' } : { status: 403, code: 'forbidden' };
      for (const [verb, way] of Object.entries(waysToAsk(kind))) {
        if (verb === 'get' && !isPersonal) continue;
        const { problem } = await ask(platform, way, viewer, id);
        expect(problem, verb).toMatchObject({ status: refusal.status, body: { code: refusal.code } });
      }
      const code = isPersonal ? 'invalid' : 'forbidden';
      await expect(platform.pipeline.create(viewer, kind, {})).rejects.toMatchObject({ code });
    });

    test('a token’s scopes narrow what its role allows', async () => {
      const platform = at();
      const { id, caller } = await oneOf(platform, kind, fixture);
      const other = scoped(caller, { kind: 'other', verb: '*' });
      for (const [verb, way] of Object.entries(waysToAsk(kind))) {
        // Who may not read it may not know of it.
        expect((await ask(platform, way, other, id)).problem, verb).toMatchObject({ status: 404 });
      }
      await expect(platform.reader.list(other, kind, {})).rejects.toMatchObject({ code: 'forbidden' });
      await expect(platform.pipeline.create(other, kind, {})).rejects.toMatchObject({ code: 'forbidden' });
      const reading = scoped(caller, { kind: kind.name, verb: 'read' });
      expect((await platform.reader.get(reading, kind, id)).body.id).toBe(id);
      await expect(platform.pipeline.remove(reading, kind, id)).rejects.toMatchObject({ code: 'forbidden' });
    });
  });
}
