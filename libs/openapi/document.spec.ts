/** The OpenAPI document as a whole: references, completeness, and a JSON Schema validator’s word on its schemas. */
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildOpenApi, platformPaths, validateDto } from './index.js';
import { CreateInstance, InstanceView, Resize, UpdateInstance } from './sample.dto.js';

const build = (): any =>
  buildOpenApi({
    info: { title: 'Rhyzome', version: '1' },
    kinds: [
      {
        name: 'instance',
        plural: 'instances',
        createDto: CreateInstance,
        updateDto: UpdateInstance,
        viewDto: InstanceView,
        actions: [
          { name: 'start', summary: 'Start it' },
          { name: 'resize', summary: 'Resize it', dto: Resize },
        ],
        filters: ['powerState'],
      },
      { name: 'image', plural: 'images', viewDto: Resize, actions: [], isDeletable: false },
    ],
    extraPaths: platformPaths({ $ref: '#/components/schemas/Event' }, { type: 'object' }),
    extraSchemas: { Event: { type: 'object' } },
  });

function* walk(value: unknown, path: string): Generator<[string, Record<string, any>]> {
  if (typeof value !== 'object' || value === null) return;
  yield [path, value as Record<string, any>];
  for (const [key, member] of Object.entries(value)) yield* walk(member, `${path}/${key}`);
}

const resolve = (document: any, ref: string) =>
  ref
    .slice(2)
    .split('/')
    .reduce((node, key) => node?.[key.replaceAll('~1', '/')], document);

const operations = (document: any): [string, string, any][] =>
  Object.entries<any>(document.paths).flatMap(([path, item]) =>
    Object.entries<any>(item).map(([method, operation]): [string, string, any] => [path, method, operation]),
  );

describe('buildOpenApi', () => {
  const document = build();

  it('has every uniform route', () => {
    expect(operations(document).map(([path, method]) => `${method} ${path}`)).toEqual([
      'get /v1/alarms',
      'get /v1/alarms/{id}',
      'get /v1/audit',
      'get /v1/audit/export',
      'get /v1/events',
      'get /v1/images',
      'get /v1/images/{idOrName}',
      'get /v1/instances',
      'post /v1/instances',
      'delete /v1/instances',
      'get /v1/instances/{idOrName}',
      'patch /v1/instances/{idOrName}',
      'delete /v1/instances/{idOrName}',
      'post /v1/instances/{idOrName}/resize',
      'post /v1/instances/{idOrName}/start',
      'get /v1/jobs',
      'get /v1/jobs/{id}',
      'post /v1/jobs/{id}/cancel',
      'post /v1/jobs/{id}/retry',
      'get /v1/quotas',
    ]);
  });

  it('is the same each time', () => {
    expect(JSON.stringify(build())).toBe(JSON.stringify(document));
  });

  it('refers only to what is there', () => {
    for (const [path, node] of walk(document, '#')) {
      if (typeof node.$ref === 'string') expect(resolve(document, node.$ref), `${path} → ${node.$ref}`).toBeDefined();
    }
  });

  it('is complete in each operation: ids, path parameters, descriptions, problems', () => {
    const ids = operations(document).map(([, , operation]) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const [path, method, operation] of operations(document)) {
      const parameters = operation.parameters.map((p: any) => (p.$ref ? resolve(document, p.$ref) : p));
      const named = (place: string) => parameters.filter((p: any) => p.in === place).map((p: any) => p.name);
      expect(named('path').sort(), path).toEqual([...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort());
      for (const place of ['query', 'header']) expect(new Set(named(place)).size).toBe(named(place).length);
      const responses = Object.entries<any>(operation.responses);
      expect(Object.keys(operation.responses)).toEqual(expect.arrayContaining(['401', '429', '503']));
      for (const [status, response] of responses) {
        expect(
          (response.$ref ? resolve(document, response.$ref) : response).description,
          `${method} ${path} ${status}`,
        ).toBeTruthy();
      }
      if ((method !== 'get' && path.includes('instances/')) || (method === 'post' && path === '/v1/instances'))
        expect(operation.responses[202].headers.Location).toBeDefined();
    }
  });

  const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, validateFormats: false });
  ajv.addKeyword('components');
  ajv.addSchema({ $id: 'doc', components: document.components } as object, undefined, undefined, false);
  const schema = (name: string) => ajv.compile({ $ref: `doc#/components/schemas/${name}` });

  it('has schemas that a JSON Schema validator understands', () => {
    for (const name of Object.keys(document.components.schemas)) expect(() => schema(name), name).not.toThrow();
  });

  it('has schemas that accept every body that the validation accepts', () => {
    const validate = schema('InstanceCreate');
    const body = fc.record(
      {
        name: fc.stringMatching(/^[a-z][a-z0-9]{0,5}$/),
        vcpus: fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 256 }) }, fc.constantFrom(0, 257)),
        memoryMiB: fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 64, max: 70 }) }, fc.constantFrom(63, '64')),
        interfaces: fc.array(fc.record({ network: fc.string({ maxLength: 2 }) }), { minLength: 1, maxLength: 4 }),
        note: fc.oneof(fc.string({ maxLength: 12 }), fc.constant(null)),
        tags: fc.dictionary(fc.stringMatching(/^[a-z]{1,3}$/), fc.oneof(fc.string({ maxLength: 3 }), fc.integer())),
        other: fc.boolean(),
      },
      { requiredKeys: ['name', 'interfaces'] },
    );
    let accepted = 0;
    fc.assert(
      fc.property(body, (value) => {
        const plain = JSON.parse(JSON.stringify(value));
        if (Array.isArray(validateDto(CreateInstance, plain))) return;
        accepted += 1;
        expect(validate(plain), JSON.stringify(validate.errors)).toBe(true);
      }),
      { numRuns: 3000 },
    );
    // About thirty are: enough to say something.
    expect(accepted).toBeGreaterThan(5);
  });

  it('refuses two schemas of one name', () => {
    const kind = { name: 'image', plural: 'images', viewDto: Resize, actions: [] };
    expect(() => buildOpenApi({ info: { title: 'x', version: '1' }, kinds: [kind, kind] })).toThrow('Two schemas');
  });
});
