/**
 * “Group ops may update and reboot instances where env in (dev,test)”, all the way: what such a person sees of lists, counts,
 * pages, jobs, events, blockers and audit, what is forbidden and what there is not, and that it ends with the grant.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Answer, apiOf, type Client, clientWith } from './harness/client.js';
import { EventStream } from './harness/events.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

const ABSENT = '01890000-0000-7000-8000-000000000000';

let stack: Stack;
let admin: Client;
let olga: Client;
const id: { [name: string]: string } = {};

/** Somebody without a role, in these groups. */
async function inGroups(sub: string, ...groups: string[]): Promise<Client> {
  const claims = { ...goodClaims(stack, 'acme'), sub, realm_access: { roles: [] }, groups };
  return clientWith(stack.dev.api, await signed(stack, 'acme', claims));
}

async function grant(
  name: string,
  group: string,
  verbs: string[],
  kinds: string[],
  tagSelector?: string,
): Promise<string> {
  const body = { name, subject: { group }, verbs, kinds, ...(tagSelector && { tagSelector }) };
  return (await admin.make('grants', body)).id;
}

const machine = (name: string, tags: Record<string, string>, network = 'lan') => ({
  name,
  tags,
  image: 'tiny',
  vcpus: 1,
  memoryMiB: 64,
  interfaces: [{ network }],
});

beforeAll(async () => {
  stack = await stackNamed('permissions', { driver: 'sim', tenants: ['acme'] });
  admin = await apiOf(stack);
  id.lan = (await admin.make('networks', { name: 'lan', subnet: '10.33.0.0/24', tags: { shared: 'yes' } })).id;
  id.secret = (await admin.make('networks', { name: 'secret', subnet: '10.34.0.0/24' })).id;
  const wanted: [string, Record<string, string>][] = [
    ['dev-1', { env: 'dev' }],
    ['test-1', { env: 'test', team: 'a' }],
    ['prod-1', { env: 'prod' }],
    ['plain-1', {}],
  ];
  for (const [name, tags] of wanted) id[name] = (await admin.make('instances', machine(name, tags))).id;
  id.grant = await grant('ops', 'ops', ['read', 'update', 'reboot'], ['instance'], 'env in (dev,test)');
  await grant('ops-networks', 'ops', ['read'], ['network'], 'shared');
  olga = await inGroups('olga', 'ops');
}, 180_000);
afterAll(() => stack?.stop());

const names = ({ body }: Answer): string[] => body.items.map(({ name }: { name: string }) => name).toSorted();
const succeeded = async (answer: Answer) => {
  expect(answer.status, answer.text).toBe(202);
  expect((await admin.get(`/v1/jobs/${answer.body.job.id}?wait=60s`)).body).toMatchObject({ state: 'succeeded' });
};
/** The same answer but for what was asked for. */
const anonymous = ({ status, body }: Answer, ...asked: string[]) => {
  const { requestId: _requestId, ...rest } = body;
  return JSON.stringify([status, rest]).replaceAll(new RegExp(asked.join('|'), 'g'), 'X');
};

describe('a member of ops', () => {
  test('finds the machines of dev and test, counted, on full pages, and no others', async () => {
    const all = await olga.get('/v1/instances?count=true');
    expect(names(all)).toEqual(['dev-1', 'test-1']);
    expect(all.body.totalCount).toBe(2);
    const first = await olga.get('/v1/instances?pageSize=1&sort=name');
    const second = await olga.get(`/v1/instances?pageSize=1&sort=name&pageToken=${first.body.nextPageToken}`);
    expect([names(first), names(second), second.body.nextPageToken]).toEqual([['dev-1'], ['test-1'], null]);
    expect(names(await olga.get('/v1/instances?tagSelector=team%3Da'))).toEqual(['test-1']);
    expect(names(await olga.get('/v1/instances?tagSelector=env%3Dprod'))).toEqual([]);
    expect(names(await olga.get('/v1/networks'))).toEqual(['lan']);
    expect((await olga.get('/v1/disks')).status).toBe(403);
  });

  test('gets them, and of others the answer for what there is not', async () => {
    expect((await olga.get('/v1/instances/dev-1')).status).toBe(200);
    for (const path of ['', '/metrics', '/console']) {
      const others = await olga.get(`/v1/instances/${id['prod-1']}${path}`);
      const absent = await olga.get(`/v1/instances/${ABSENT}${path}`);
      expect(others.status).toBe(404);
      expect(anonymous(others, id['prod-1']!)).toBe(anonymous(absent, ABSENT));
    }
    expect((await olga.get('/v1/instances/prod-1')).status).toBe(404);
    expect((await olga.patch('/v1/instances/prod-1', { tags: {} })).status).toBe(404);
    expect((await olga.post('/v1/instances/plain-1/reboot', {})).status).toBe(404);
    expect((await olga.delete('/v1/instances/prod-1')).status).toBe(404);
  });

  test('updates and reboots them, and is forbidden the rest', async () => {
    await succeeded(await olga.patch('/v1/instances/dev-1', { restartPolicy: 'always' }));
    await succeeded(await olga.post('/v1/instances/test-1/reboot', {}));
    expect((await olga.delete('/v1/instances/dev-1')).status).toBe(403);
    expect((await olga.post('/v1/instances', machine('new', { env: 'dev' }))).status).toBe(403);
    expect((await olga.delete('/v1/networks/lan')).status).toBe(403);
  });

  test('cannot put a machine out of reach by its tags, nor bring one into it', async () => {
    const out = await olga.patch('/v1/instances/dev-1', { tags: { env: 'prod' } });
    expect([out.status, out.body.errors?.[0]?.pointer]).toEqual([403, '/tags']);
    const dry = await olga.patch('/v1/instances/dev-1?dryRun=true', { tags: null });
    expect(dry.status).toBe(403);
    await succeeded(await olga.patch('/v1/instances/dev-1', { tags: { env: 'test' } }));
    await succeeded(await olga.patch('/v1/instances/dev-1', { tags: { env: 'dev' } }));
  });

  test('sees jobs and events of them alone', async () => {
    const jobs = (await olga.get('/v1/jobs?pageSize=500')).body.items;
    expect(jobs.length).toBeGreaterThan(3);
    const seen = [...new Set(jobs.map((job: any) => job.resource.name))].toSorted();
    expect(seen).toEqual(['dev-1', 'lan', 'test-1']);
    const [job] = (await admin.get(`/v1/jobs?resource=${id['prod-1']}`)).body.items;
    expect((await olga.get(`/v1/jobs/${job.id}`)).status).toBe(404);
    expect((await olga.post(`/v1/jobs/${job.id}/cancel`, {})).status).toBe(404);
    const stream = await EventStream.open(stack.dev.api, olga, '?since=0');
    await succeeded(await admin.patch('/v1/instances/prod-1', { tags: { env: 'prod', moved: 'yes' } }));
    await succeeded(await admin.patch('/v1/instances/test-1', { tags: { env: 'test', last: 'one' } }));
    const told = () => JSON.stringify(stream.seen);
    await until('the last change', async () => told().includes('"last":"one"'));
    for (const hidden of ['prod-1', 'plain-1', 'secret']) expect(told()).not.toContain(hidden);
    expect(told()).toContain('dev-1');
    stream.close();
  });

  test('uses what may be read, and nothing else, in what is made', async () => {
    await grant('ops-make', 'ops', ['create', 'delete'], ['instance'], 'env=dev');
    await grant('ops-images', 'ops', ['read'], ['image']);
    const wrong = await olga.post('/v1/instances', machine('dev-2', { env: 'test' }));
    expect([wrong.status, wrong.body.errors?.[0]?.pointer]).toEqual([403, '/tags']);
    const hidden = await olga.post('/v1/instances', machine('dev-2', { env: 'dev' }, id.secret));
    const absent = await olga.post('/v1/instances', machine('dev-2', { env: 'dev' }, ABSENT));
    expect([hidden.status, hidden.body.errors?.[0]?.pointer]).toEqual([422, '/interfaces/0/network']);
    expect(anonymous(hidden)).toBe(anonymous(absent));
    const made = await olga.post('/v1/instances?wait=60s', machine('dev-2', { env: 'dev' }));
    expect(made.status, made.text).toBe(200);
  });

  test('deletes in bulk what is in reach of both, and leaves the rest unmentioned', async () => {
    const dry = await olga.delete('/v1/instances?tagSelector=env&dryRun=true');
    expect(names(dry)).toEqual(['dev-1', 'dev-2']);
    const headers = { 'idempotency-key': 'bulk-1' };
    const path = `/v1/instances?tagSelector=${encodeURIComponent('env in (dev,prod),!keep')}&name=dev-2`;
    const done = await olga.delete(path, headers);
    expect([names(done), done.body.remaining]).toEqual([['dev-2'], 0]);
    expect((await olga.delete(path, headers)).body).toEqual(done.body);
    expect((await admin.get(`/v1/jobs/${done.body.items[0].job.id}?wait=60s`)).body.state).toBe('succeeded');
    expect((await olga.delete(path, headers)).body.items).toEqual(done.body.items);
  });

  test('is told who he is, what he may do, and why not', async () => {
    const { body } = await olga.get('/v1/permissions');
    expect(body).toMatchObject({ subject: 'olga', tenant: 'acme', roles: [], groups: ['ops'], via: 'token' });
    expect(body.items).toContainEqual({
      kind: 'instance',
      verbs: expect.arrayContaining(['read', 'update', 'reboot', 'start', 'console']),
      where: { tagSelector: 'env in (dev,test)' },
      because: { grant: { id: id.grant, name: 'ops' } },
    });
    const why = async (query: string) => (await olga.get(`/v1/permissions/explain?${query}`)).body;
    expect(await why('verb=reboot&resource=instance/dev-1')).toMatchObject({
      allowed: true,
      resource: { kind: 'instance', id: id['dev-1'], name: 'dev-1' },
      reasons: [{ allows: true, because: { grant: { name: 'ops' } } }],
    });
    const no = await why(`verb=delete&resource=${id['test-1']}`);
    expect(no.allowed).toBe(false);
    expect(JSON.stringify(no.reasons)).toContain('“ops-make” is for env=dev, and this has env=test');
    expect(JSON.stringify(no.reasons)).toContain('“ops” is for read, update, reboot, not delete');
    const hidden = await olga.get(`/v1/permissions/explain?verb=read&resource=instance/${id['prod-1']}`);
    const absent = await olga.get(`/v1/permissions/explain?verb=read&resource=instance/${ABSENT}`);
    expect([hidden.status, anonymous(hidden, id['prod-1']!)]).toEqual([404, anonymous(absent, ABSENT)]);
    const other = '/v1/permissions/explain?verb=reboot&resource=instance/prod-1&subject=group/ops';
    expect((await admin.get(other)).body).toMatchObject({ subject: 'group/ops', allowed: false });
    expect((await olga.get(other.replace('prod-1', 'dev-1'))).status).toBe(403);
    for (const query of [
      '',
      'verb=fly&resource=instance',
      'verb=read&resource=unicorn/x',
      'verb=read&verb=read&resource=disk',
    ]) {
      expect((await olga.get(`/v1/permissions/explain?${query}`)).status, query).toBe(422);
    }
  });
});

describe('what stands in the way', () => {
  let nick: Client;
  beforeAll(async () => {
    await grant('netops', 'netops', ['*'], ['network']);
    await grant('netops-dev', 'netops', ['read'], ['instance'], 'env=dev');
    nick = await inGroups('nick', 'netops');
  });

  test('is named as far as it may be read, and counted beyond that', async () => {
    const refused = await nick.delete('/v1/networks/lan');
    expect(refused.status).toBe(409);
    expect(refused.body.blockers).toEqual([expect.objectContaining({ kind: 'instance', name: 'dev-1' })]);
    expect(refused.body.detail).toContain('3 of them you may not see');
    expect((await admin.delete('/v1/networks/lan')).body.blockers).toHaveLength(4);
  });

  test('does not go along unless it may be deleted, and stays unnamed', async () => {
    const refused = await nick.delete('/v1/networks/lan?cascade=true');
    expect(refused.status).toBe(403);
    expect(refused.body.blockers.map(({ name }: any) => name)).toEqual(['dev-1']);
    for (const hidden of ['prod-1', 'plain-1', 'test-1', id['prod-1']!]) expect(refused.text).not.toContain(hidden);
  });
});

describe('afterwards', () => {
  test('the administrators find the refusals in the audit trail, and the others do not', async () => {
    const { items } = (await admin.get('/v1/audit?actor=olga&result=refused&pageSize=500')).body;
    const said = items.map(({ action, code }: any) => `${action} ${code}`);
    expect(said).toEqual(expect.arrayContaining(['instance.delete forbidden', 'instance.update forbidden']));
    expect((await olga.get('/v1/audit')).status).toBe(403);
  });

  test('a reader of the audit trail finds what was done to what he may read', async () => {
    await grant('auditors', 'auditors', ['read'], ['audit']);
    await grant('auditors-dev', 'auditors', ['read'], ['instance'], 'env=dev');
    const anna = await inGroups('anna', 'auditors');
    const rows = (await anna.get('/v1/audit?pageSize=500')).body.items;
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) if (row.resource) expect(row.resource.name).toMatch(/^dev-/);
  });

  test('it ends with the grant, at the next request', async () => {
    expect((await olga.get('/v1/instances/test-1')).status).toBe(200);
    const headers = { 'idempotency-key': 'again' };
    await succeeded(await olga.patch('/v1/instances/test-1', { restartPolicy: 'stay' }, headers));
    expect((await olga.patch('/v1/instances/test-1', { restartPolicy: 'stay' }, headers)).status).toBe(202);
    expect((await admin.delete(`/v1/grants/${id.grant}`)).status).toBe(202);
    expect((await olga.get('/v1/instances/test-1')).status).toBe(404);
    expect((await olga.get('/v1/instances')).status).toBe(403);
    expect((await olga.patch('/v1/instances/test-1', { restartPolicy: 'stay' }, headers)).status).toBe(404);
    expect(names(await olga.get('/v1/networks'))).toEqual(['lan']);
  });
});
