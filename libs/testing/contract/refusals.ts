/** Wrong input: each field of wrong type, null, unknown, read-only or immutable is refused with where it stands. */
import { describe, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { type JsonSchema, schemaOf } from '#libs/openapi';
import { coreReadOnly, type KindDefinition } from '#libs/resources';
import type { Platform } from '../platform.js';
import { expectWhole, openCase, rowCounts } from './case.js';
import type { ChangeableKind } from './fixture.js';

/** A value of another type than the schema's. */
function wrongFor(schema: JsonSchema): unknown {
  const types = [schema.type].flat();
  return types.includes('string') ? 7 : types.includes('array') || types.includes('object') ? 'text' : 'x';
}

interface Wrong {
  change: object;
  pointer: string;
}

/** What is wrong whatever the kind. */
function wrongBodies(dto: new () => object): Wrong[] {
  const properties = Object.entries((schemaOf(dto).properties ?? {}) as Record<string, JsonSchema>);
  const inputs = properties.filter(([, schema]) => !schema.readOnly);
  return [
    ...inputs.flatMap(([name, schema]): Wrong[] => [
      { change: { [name]: wrongFor(schema) }, pointer: `/${name}` },
      { change: { [name]: { nested: [] } }, pointer: `/${name}` },
    ]),
    { change: { noSuchField: 1 }, pointer: '/noSuchField' },
    { change: { 'a/b~c': 1 }, pointer: '/a~1b~0c' },
    { change: JSON.parse('{"__proto__": {"name": "x"}}') as object, pointer: '/__proto__' },
    { change: { name: '' }, pointer: '/name' },
    { change: { name: 'x'.repeat(64) }, pointer: '/name' },
    { change: { name: 'Upper' }, pointer: '/name' },
    { change: { name: 'nul\0' }, pointer: '/name' },
    { change: { tags: { 'not ok!': 'v' } }, pointer: '/tags/not ok!' },
    { change: { tags: { k: 'x'.repeat(256) } }, pointer: '/tags/k' },
  ];
}

/** All of a body's own fields, those of a prototype's name too. */
function laidOver(body: object, change: object): object {
  return JSON.parse(
    `{${[body, change]
      .map((part) => JSON.stringify(part).slice(1, -1))
      .filter(Boolean)
      .join()}}`,
  );
}

async function pointersOf(work: Promise<unknown>): Promise<(string | undefined)[]> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (!(outcome instanceof RhyzomeError)) throw new Error(`not refused as such: ${String(outcome)}`);
  expect(outcome.code).toBe('invalid');
  return (outcome.details.errors ?? []).map(({ pointer }) => pointer);
}

const isAtOrBelow = (pointer: string) => (found: string | undefined) =>
  found === pointer || (found?.startsWith(`${pointer}/`) ?? false);

export function describeRefusals(kind: KindDefinition, at: () => Platform, fixture: ChangeableKind): void {
  describe('wrong input', () => {
    test('of a create is refused with where it stands, and leaves nothing', async () => {
      const { pipeline } = at();
      const ctx = await openCase(at(), kind, fixture);
      await expectWhole(ctx, fixture);
      const rows = await rowCounts(at(), ctx.caller.actor.tenantId);
      const required = (schemaOf(kind.dto.create).required ?? []) as string[];
      const readOnly = [...coreReadOnly, ...(kind.readOnly ?? [])];
      const nulls = required.map((name) => ({ change: { [name]: null }, pointer: `/${name}` }));
      const sent = readOnly.map((name) => ({ change: { [name]: 'x' }, pointer: `/${name}` }));
      for (const { change, pointer } of [...wrongBodies(kind.dto.create), ...nulls, ...sent, ...fixture.invalid]) {
        const body = laidOver(fixture.create(ctx), change);
        const pointers = await pointersOf(pipeline.create(ctx.caller, kind, body));
        expect(pointers.some(isAtOrBelow(pointer)), `${JSON.stringify(change)}: ${pointers}`).toBe(true);
      }
      for (const name of required) {
        const body: Record<string, unknown> = { ...fixture.create(ctx) };
        delete body[name];
        expect(await pointersOf(pipeline.create(ctx.caller, kind, body)), name).toEqual([`/${name}`]);
      }
      for (const body of [null, [], 'text', 7, true]) {
        await expect(pipeline.create(ctx.caller, kind, body)).rejects.toMatchObject({
          code: expect.stringMatching(/^(invalid|not_an_object)$/),
        });
      }
      expect(await rowCounts(at(), ctx.caller.actor.tenantId)).toEqual(rows);
    });

    test('of a change is refused with where it stands, and changes nothing', async () => {
      const { pipeline, reader } = at();
      const ctx = await openCase(at(), kind, fixture);
      const id = await ctx.make(kind.name, fixture.create(ctx));
      const before = await reader.get(ctx.caller, kind, id);
      await expectWhole(ctx, fixture);
      const rows = await rowCounts(at(), ctx.caller.actor.tenantId);
      const immutable = kind.immutable ?? [];
      const readOnly = [...coreReadOnly, ...(kind.readOnly ?? []), ...immutable];
      const sent = readOnly.map((name) => ({ change: { [name]: 'x' }, pointer: `/${name}` }));
      const ofKind = fixture.invalid.filter(({ pointer }) => !immutable.includes(pointer.split('/')[1]!));
      for (const { change, pointer } of [...wrongBodies(kind.dto.update), ...sent, ...ofKind]) {
        const pointers = await pointersOf(pipeline.update(ctx.caller, kind, id, change));
        expect(pointers.some(isAtOrBelow(pointer)), `${JSON.stringify(change)}: ${pointers}`).toBe(true);
      }
      expect(await pointersOf(pipeline.update(ctx.caller, kind, id, { name: null }))).toContain('/name');
      for (const patch of [null, [], 'text', 7]) {
        await expect(pipeline.update(ctx.caller, kind, id, patch)).rejects.toMatchObject({ code: 'not_an_object' });
      }
      for (const action of Object.keys(kind.actions ?? {})) {
        const body = { noSuchField: 1 };
        expect(await pointersOf(pipeline.act(ctx.caller, kind, id, action, body)), action).toContain('/noSuchField');
      }
      await expect(pipeline.act(ctx.caller, kind, id, 'no-such-action', {})).rejects.toMatchObject({
        code: 'not_found',
      });
      expect(await reader.get(ctx.caller, kind, id)).toEqual(before);
      const { audit: _, ...after } = await rowCounts(at(), ctx.caller.actor.tenantId);
      expect(after).toEqual(Object.fromEntries(Object.entries(rows).filter(([table]) => table !== 'audit')));
    });

    test('of a list is refused with its parameter', async () => {
      const { reader } = at();
      const ctx = await openCase(at(), kind, fixture);
      const wrong: Record<string, unknown>[] = [
        { pageSize: '0' },
        { pageSize: 'ten' },
        { pageToken: 'AAAA' },
        { sort: 'secret' },
        { tagSelector: 'a=(b' },
        { count: 'maybe' },
        { noSuchFilter: 'x' },
        { name: ['a', 'b'] },
      ];
      for (const query of wrong) {
        await expect(reader.list(ctx.caller, kind, query), JSON.stringify(query)).rejects.toMatchObject({
          code: 'invalid',
          details: { errors: [{ parameter: Object.keys(query)[0] }] },
        });
      }
    });
  });
}
