/** Whatever is sent, in bodies, paths and queries, is answered by a 2xx or a 4xx problem; a dry run keeps it without effect. */
import { toUSVString } from 'node:util';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { sharedStack } from './harness/stack.js';

let api: Client;
beforeAll(async () => {
  const stack = await sharedStack('sim');
  api = await apiOf(stack, 'initech');
}, 120_000);

const runs = { numRuns: 150, endOnFailure: true };
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom('10.140.0.0/24', '10.140.0.1', 'tiny', 'running', '', '\u0000', '\ud800', '__proto__', '1e999'),
);
const value = fc.oneof(text, fc.jsonValue({ maxDepth: 3 }), fc.double(), fc.constantFrom(null, true, 2 ** 53, -0));

/** Bodies that have some of the right fields, with whatever in them. */
const bodyOf = (fields: string[]) =>
  fc.dictionary(fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...fields) }, text), value, { maxKeys: 8 });

function expectAnswered(answer: Answer): void {
  if (answer.status >= 200 && answer.status < 400) return;
  expect(answer.status).toBeGreaterThanOrEqual(400);
  expect(answer.status).toBeLessThan(500);
  expectProblem(answer, answer.status, answer.body?.code);
}

const fields = {
  networks: ['name', 'subnet', 'gateway', 'dns', 'domain', 'mtu', 'tags', 'deletionProtection'],
  instances: ['name', 'image', 'vcpus', 'memoryMiB', 'diskGiB', 'interfaces', 'tags', 'desiredPowerState'],
};

describe('any body', () => {
  it.each(Object.entries(fields))(
    'of a create in %s',
    async (plural, names) => {
      const send = async (body: unknown) => expectAnswered(await api.post(`/v1/${plural}?dryRun=true`, body));
      await fc.assert(fc.asyncProperty(bodyOf(names), send), runs);
    },
    60_000,
  );

  it('of a patch', async () => {
    await api.make('networks', { name: 'any', subnet: '10.140.0.0/24' });
    const send = async (body: unknown) => expectAnswered(await api.patch('/v1/networks/any?dryRun=true', body));
    await fc.assert(fc.asyncProperty(bodyOf(fields.networks), send), runs);
    expect((await api.get('/v1/networks/any')).body).toMatchObject({ generation: 1, name: 'any' });
    await api.remove('networks', 'any');
  }, 60_000);
});

it('any path and query', async () => {
  const segment = fc.oneof(
    text,
    fc.constantFrom('networks', 'instances', 'jobs', 'images', 'leases', 'console', 'audit'),
  );
  const parameter = fc.tuple(
    fc.oneof(text, fc.constantFrom('pageSize', 'pageToken', 'sort', 'tagSelector', 'name', 'state', 'count')),
    text,
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(segment, { maxLength: 4 }),
      fc.array(parameter, { maxLength: 3 }),
      async (path, query) => {
        const safely = (part: string) => encodeURIComponent(toUSVString(part));
        const search = query.map(([name, given]) => `${safely(name)}=${safely(given)}`).join('&');
        expectAnswered(await api.get(`/v1/${path.map(safely).join('/')}?${search}`));
      },
    ),
    { ...runs, numRuns: 300 },
  );
}, 60_000);
