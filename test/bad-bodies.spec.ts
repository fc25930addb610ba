/** Bodies that are wrong in one field: each gets a 422 that points at it, and nothing of it is left. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { sharedStack } from './harness/stack.js';
import {
  called,
  readOnlyCommon,
  type WrongField,
  wrongCommon,
  wrongInstance,
  wrongLease,
  wrongNetwork,
} from './harness/wrong-bodies.js';

let api: Client;
let before: unknown;
const network = { name: 'good', subnet: '10.50.0.0/24' };
const instance = { name: 'good', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'bad' }] };

/** All that a user could see of what the tests made, but for times. */
async function everything(): Promise<unknown[]> {
  const lists = ['/v1/networks', '/v1/instances', '/v1/networks/bad/leases'].map(
    async (path) => (await api.get(path)).body.items as Record<string, unknown>[],
  );
  return (await Promise.all(lists)).map((items) => items.map(({ updatedAt: _, ...item }) => item));
}

beforeAll(async () => {
  const stack = await sharedStack('sim');
  api = await apiOf(stack);
  await api.make('networks', { name: 'bad', subnet: '10.50.0.0/29' });
  await api.make('instances', { ...instance, name: 'standing', interfaces: [{ network: 'bad', ip: '10.50.0.2' }] });
  before = await everything();
}, 120_000);

afterAll(async () => {
  await api.remove('instances', 'standing');
  await api.remove('networks', 'bad');
});

/** Sends every wrong value, some at a time, and tells all that were not refused as they should be at once. */
async function allRefused(fields: WrongField[], send: (field: WrongField) => Promise<Answer>): Promise<void> {
  const wrong: string[] = [];
  for (let at = 0; at < fields.length; at += 8) {
    await Promise.all(
      fields.slice(at, at + 8).map(async (field) => {
        const answer = await send(field);
        try {
          const { errors } = expectProblem(answer, 422, 'invalid');
          const pointer = field[2] ?? `/${field[0]}`;
          const pointers = errors.map((error: any) => error.pointer);
          if (!pointers.includes(pointer)) wrong.push(`${called(field)}: points at ${pointers}, not at ${pointer}`);
        } catch {
          wrong.push(`${called(field)}: ${answer.status} ${answer.text.slice(0, 200)}`);
        }
      }),
    );
  }
  expect(wrong).toEqual([]);
}

const missing = (body: object, field: string) =>
  Object.fromEntries(Object.entries(body).filter(([key]) => key !== field));
const isNull = (fields: string[]): WrongField[] => fields.map((field) => [field, null]);
const readOnly = (fields: string[]): WrongField[] => fields.map((field) => [field, 'x']);

describe('a create', () => {
  it('of a network is refused for any wrong field', async () => {
    const fields = [
      ...wrongCommon,
      ...wrongNetwork,
      ...isNull(['name', 'tags', 'deletionProtection', 'subnet', 'gateway', 'dns', 'domain', 'mtu']),
      ...readOnly([...readOnlyCommon, 'addresses']),
    ];
    await allRefused(fields, ([field, value]) => api.post('/v1/networks', { ...network, [field]: value }));
    await allRefused(
      [
        ['name', undefined],
        ['subnet', undefined],
      ],
      ([field]) => api.post('/v1/networks', missing(network, field)),
    );
  });

  it('of an instance is refused for any wrong field', async () => {
    const fields = [
      ...wrongCommon,
      ...wrongInstance,
      ...isNull(['name', 'image', 'vcpus', 'memoryMiB', 'interfaces', 'desiredPowerState', 'restartPolicy', 'diskGiB']),
      ...readOnly([...readOnlyCommon, 'powerState', 'node']),
    ];
    await allRefused(fields, ([field, value]) => api.post('/v1/instances', { ...instance, [field]: value }));
    await allRefused(
      ['name', 'image', 'vcpus', 'memoryMiB', 'interfaces'].map((field): WrongField => [field, undefined]),
      ([field]) => api.post('/v1/instances', missing(instance, field)),
    );
  });

  it('of a lease is refused for any wrong field', async () => {
    const lease = { mac: '52:54:00:12:34:56', ip: '10.50.0.5', hostname: 'printer' };
    const fields = [...wrongLease, ...isNull(['mac', 'ip', 'hostname'])];
    await allRefused(fields, ([field, value]) => api.post('/v1/networks/bad/leases', { ...lease, [field]: value }));
    await allRefused([['mac', undefined]], () => api.post('/v1/networks/bad/leases', missing(lease, 'mac')));
  });

  it('with several things wrong tells all of them', async () => {
    const answer = await api.post('/v1/networks', { name: 'UPPER', subnet: 'x', mtu: 5, foo: 1, id: 'x' });
    const { errors } = expectProblem(answer, 422, 'invalid');
    expect(errors.map(({ pointer }: any) => pointer).sort()).toEqual(['/foo', '/id', '/mtu', '/name', '/subnet']);
    expect(errors.map(({ code }: any) => code)).toContain('unknown_field');
    expect(errors.map(({ code }: any) => code)).toContain('read_only');
  });
});

describe('a patch', () => {
  it('of a network is refused for any wrong field', async () => {
    const fields = [
      ...wrongCommon,
      ...wrongNetwork.filter(([field]) => field !== 'gateway'),
      ...isNull(['name', 'subnet']),
      ...readOnly([...readOnlyCommon, 'addresses']),
    ];
    await allRefused(fields, ([field, value]) => api.patch('/v1/networks/bad', { [field]: value }));
  });

  it('of an instance is refused for any wrong field, and for those that only a create may set', async () => {
    const settable = new Set(['desiredPowerState', 'restartPolicy']);
    const fields = [
      ...wrongCommon,
      ...wrongInstance.filter(([field]) => settable.has(field)),
      ...isNull(['name']),
      ...readOnly([...readOnlyCommon, 'powerState', 'node']),
      ...(['image', 'vcpus', 'memoryMiB', 'diskGiB', 'interfaces'] as const).map(
        (field): WrongField => [field, field === 'image' ? 'tiny' : field === 'interfaces' ? [{ network: 'bad' }] : 2],
      ),
    ];
    await allRefused(fields, ([field, value]) => api.patch('/v1/instances/standing', { [field]: value }));
  });

  it('of a subnet that would leave a lease outside is refused', async () => {
    const answer = await api.patch('/v1/networks/bad', { subnet: '10.50.1.0/29' });
    expectProblem(answer, 409, 'in_use', '/subnet');
    expectProblem(await api.patch('/v1/networks/bad', { gateway: '10.50.0.2' }), 409, 'in_use');
  });
});

describe('an action', () => {
  it('takes no field that it does not know', async () => {
    for (const action of ['start', 'stop', 'reboot'])
      expectProblem(await api.post(`/v1/instances/standing/${action}`, { force: true }), 422, 'invalid', '/force');
    for (const body of [[], 'x', 5])
      expectProblem(await api.post('/v1/instances/standing/stop', body), 400, 'not_an_object');
    expectProblem(await api.post('/v1/instances/standing/explode', {}), 404, 'not_found');
    expectProblem(await api.post('/v1/networks/bad/start', {}), 404, 'not_found');
  });
});

describe('what is taken', () => {
  it('is refused in the answer itself', async () => {
    expectProblem(await api.post('/v1/networks', { name: 'bad', subnet: '10.51.0.0/29' }), 409, 'name_taken', '/name');
    const taken = { ...instance, interfaces: [{ network: 'bad', ip: '10.50.0.2' }] };
    expectProblem(await api.post('/v1/instances', taken), 409, 'address_in_use', '/interfaces/0/ip');
    const lease = { mac: '52:54:00:12:34:56', ip: '10.50.0.2' };
    expectProblem(await api.post('/v1/networks/bad/leases', lease), 409, 'address_in_use', '/ip');
    const { items } = (await api.get('/v1/networks/bad/leases')).body;
    expectProblem(await api.post('/v1/networks/bad/leases', { mac: items[0].mac }), 409, 'mac_in_use', '/mac');
    const managed = await api.delete(`/v1/networks/bad/leases/${items[0].id}`);
    expect(expectProblem(managed, 409, 'managed').blockers).toMatchObject([{ kind: 'instance' }]);
    const huge = { ...instance, vcpus: 256, memoryMiB: 16_777_216 };
    expect(expectProblem(await api.post('/v1/instances', huge), 409, 'no_capacity')).toHaveProperty('wouldFit');
  });

  it('goes to exactly one of those who ask at once', async () => {
    const named = await Promise.all(
      Array.from({ length: 10 }, (_, n) => api.post('/v1/networks', { name: 'race', subnet: `10.52.${n}.0/29` })),
    );
    expect(named.filter(({ status }) => status === 202)).toHaveLength(1);
    for (const answer of named) if (answer.status !== 202) expectProblem(answer, 409, 'name_taken');
    await api.get(`/v1/jobs/${named.find(({ status }) => status === 202)!.body.job.id}?wait=30s`);
    await api.remove('networks', 'race');

    const leases = await Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        api.post('/v1/networks/bad/leases', { mac: `52:54:00:00:01:0${n}`, ip: '10.50.0.6' }),
      ),
    );
    const won = leases.filter(({ status }) => status === 201);
    expect(won).toHaveLength(1);
    for (const answer of leases) if (answer.status !== 201) expectProblem(answer, 409, 'address_in_use');
    expect((await api.delete(`/v1/networks/bad/leases/${won[0]!.body.id}`)).status).toBe(204);
  });

  it('goes to as many as there are addresses, of fifty who ask at once', async () => {
    await api.make('networks', { name: 'crowd', subnet: '10.53.0.0/29' });
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        api.post('/v1/instances', { ...instance, name: `crowd-${n}`, interfaces: [{ network: 'crowd' }] }),
      ),
    );
    const won = answers.filter(({ status }) => status === 202);
    expect(won).toHaveLength(5);
    expect(new Set(won.map(({ body }) => body.interfaces[0].ip)).size).toBe(5);
    for (const answer of answers) if (answer.status !== 202) expectProblem(answer, 409, 'no_free_address');
    expect((await api.get('/v1/networks/crowd')).body.addresses).toEqual({ total: 5, used: 5 });
    await Promise.all(won.map(({ body }) => api.remove('instances', body.id)));
    expect((await api.get('/v1/networks/crowd')).body.addresses).toEqual({ total: 5, used: 0 });
    await api.remove('networks', 'crowd');
  }, 90_000);
});

describe('what races', () => {
  it('a network that is deleted and a machine that is made on it: one of them wins', async () => {
    for (let round = 0; round < 6; round += 1) {
      await api.make('networks', { name: 'torn', subnet: '10.54.0.0/29' });
      const wanted = { ...instance, name: 'torn', interfaces: [{ network: 'torn' }] };
      const [removed, made] = await Promise.all([api.delete('/v1/networks/torn'), api.post('/v1/instances', wanted)]);
      if (made.status === 202) {
        expect(expectProblem(removed, 409, 'in_use').blockers).toMatchObject([{ kind: 'instance', name: 'torn' }]);
        await api.remove('instances', 'torn');
        await api.remove('networks', 'torn');
      } else {
        expect([made.status, removed.status]).toEqual([made.body.code === 'conflict' ? 409 : 422, 202]);
        await api.get(`/v1/jobs/${removed.body.job.id}?wait=30s`);
        expectProblem(await api.get('/v1/networks/torn'), 404, 'not_found');
      }
    }
  }, 60_000);

  it('changes of one state by many: one is taken, the others are told', async () => {
    const etag = (await api.get('/v1/networks/bad')).headers.get('etag')!;
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, n) => api.patch('/v1/networks/bad', { tags: { n: `${n}` } }, { 'if-match': etag })),
    );
    const taken = answers.filter(({ status }) => status === 202);
    expect(taken).toHaveLength(1);
    for (const answer of answers)
      if (answer.status !== 202) expectProblem(answer, 412, 'precondition_failed', 'If-Match');
    await api.get(`/v1/jobs/${taken[0]!.body.job.id}?wait=30s`);
    await api.patch('/v1/networks/bad?wait=30s', { tags: null });
    before = await everything();
  });
});

it('none of what was refused has left anything', async () => {
  expect(await everything()).toEqual(before);
  const open = (await api.get('/v1/jobs?pageSize=500&sort=-createdAt')).body.items;
  expect(open.filter(({ finishedAt }: any) => finishedAt === null)).toEqual([]);
});
