/**
 * The whole OpenAPI document, exercised on a real stack: every operation, and every status that it says it may answer with.
 * Most is provoked alike for all; what a kind needs to be made stands in coverage/, what single routes need below.
 */
import { readFileSync } from 'node:fs';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { connectionOf } from '#libs/config';
import { Database } from '#libs/db';
import { raiseAlarm } from '#libs/jobs';
import { publicPool } from '#libs/testing';
import type { ContractContext } from '#libs/testing/contract';
import { type KindRecipe, placeholder, type World } from './coverage/kinds.js';
import { recipesOfAllKinds } from './coverage/recipes.js';
import { type Operation, operationsOf, Record } from './coverage/record.js';
import { type Replica, startReplica, Way } from './coverage/replicas.js';
import { type Answer, apiOf, type Call, type Client } from './harness/client.js';
import { rhyzome } from './harness/grpc.js';
import { type Replica as Process, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

const ABSENT = '01890000-0000-7000-8000-000000000000';
const TENANT = 'acme';
/** Plural → how it is made. */
const kindRecipes = await recipesOfAllKinds({
  get platform() {
    return { db } as ContractContext['platform'];
  },
  caller: { actor: { tenantId: TENANT } } as ContractContext['caller'],
});

let stack: Stack;
let db: Database;
let record: Record;
let operations: Operation[];
let admin: Client;
let viewer: Client;
let stranger: Client;
let reader: Client;
let nobody: Client;
let narrow: Replica;
let cutOff: Replica;
let way: Way;
let world: World;
/** A resource of each kind that stays: plural → id. */
const standing: { [plural: string]: string } = {};
let jobId: string;
let leaseId: string;
let alarmId: string;
const nodes: Process[] = [];

beforeAll(async () => {
  stack = await stackNamed('coverage', { driver: 'sim', tenants: [TENANT, 'globex'] });
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const folder = stack.data;
  db = new Database({
    app: connectionOf(settings.db, folder),
    operator: connectionOf(settings.dbOperator, folder),
    maxConnections: 3,
  });
  const document = await (await fetch(`${stack.dev.api}/v1/openapi.json`)).json();
  operations = operationsOf(document);
  record = new Record(operations);
  const { api } = stack.dev;
  admin = record.client(api, (await apiOf(stack, TENANT)).token);
  viewer = record.client(api, (await apiOf(stack, TENANT, 'viewer')).token);
  // A token that is good for nothing that there is.
  const claims = { ...goodClaims(stack, TENANT), scope: 'nothing:nothing' };
  stranger = record.client(api, await signed(stack, TENANT, claims));
  // Sees what a viewer does not, such as others' API tokens, and may change nothing.
  reader = record.client(api, await signed(stack, TENANT, { ...claims, scope: '*:read' }));
  nobody = record.client(api, undefined);
  narrow = await startReplica(stack, 'narrow', (changed) => {
    const rates = { tenantPerSecond: 1, tenantBurst: 1, userPerSecond: 1, userBurst: 1 };
    changed.api.rateLimit = rates;
  });
  cutOff = await startCutOff();
  await prepareWorld();
}, 300_000);
afterAll(async () => {
  for (const node of nodes) await node.kill();
  await narrow?.stop();
  await cutOff?.stop();
  await db?.close();
  await stack?.stop();
});

/** Its database is another process's from its first request on. */
async function startCutOff(): Promise<Replica> {
  const database = new URL(stack.dev.database);
  way = await Way.to(database.hostname, Number(database.port));
  return startReplica(stack, 'cut-off', (changed) => {
    for (const name of ['db', 'dbOperator', 'dbOwner']) {
      const url = new URL(changed[name]);
      url.host = `127.0.0.1:${way.port}`;
      changed[name] = url.href;
    }
  });
}

async function alarmAbout(instance: string): Promise<string> {
  return db.tenantTransaction(TENANT, async (tx) => {
    const resource = { kind: 'instance', id: instance };
    const late = { code: 'job_overdue', cause: instance, message: 'It is late.' } as const;
    await raiseAlarm(tx, { tenantId: TENANT, ...late, resource });
    return (await tx.selectFrom('alarm').select('id').executeTakeFirstOrThrow()).id;
  });
}

async function prepareWorld(): Promise<void> {
  await publicPool({ db }, 'coverage', '198.51.100.1', '198.51.100.250');
  const lan = await admin.make('networks', { name: 'lan', subnet: '10.91.0.0/24' });
  const machine = await admin.make('instances', {
    name: 'machine',
    image: 'tiny',
    vcpus: 1,
    memoryMiB: 64,
    interfaces: [{ network: 'lan' }],
  });
  const data = await admin.make('disks', { name: 'data', sizeGiB: 1 });
  await admin.make('publicaddresses', { name: 'front', pool: 'coverage' });
  world = { network: lan.id, instance: machine.id, disk: data.id };
  jobId = machine.job.id;
  alarmId = await alarmAbout(machine.id);
  const lease = await admin.post(`/v1/networks/${lan.id}/leases`, { mac: '52:54:00:00:00:01' });
  leaseId = lease.body.id;
  for (const [plural, recipe] of Object.entries(kindRecipes)) {
    await recipe.prepare?.(admin);
    standing[plural] = await createOne(plural, recipe, `standing-${plural}`);
  }
}

async function createOne(plural: string, recipe: KindRecipe, name: string): Promise<string> {
  const made = await admin.post(`/v1/${plural}`, recipe.create(world, name));
  if (made.status !== 202) throw new Error(`POST ${plural}: ${made.status} ${made.text}`);
  await recipe.fulfil?.(admin, made.body.id);
  await succeeded(made);
  return made.body.id;
}

async function succeeded({ body, status, text }: Answer): Promise<void> {
  expect(status, text).toBe(202);
  const { body: job } = await admin.get(`/v1/jobs/${body.job.id}?wait=60s`);
  expect(job, JSON.stringify(job.error)).toMatchObject({ state: 'succeeded' });
}

const pluralOf = ({ template }: Operation) => template.split('/')[2]!;

/** The path of an operation with what stands in it. */
function pathOf(operation: Operation, isAbsent = false): string {
  const plural = pluralOf(operation);
  return operation.template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    if (isAbsent) return ABSENT;
    if (name === 'network') return world.network;
    if (name === 'lease') return leaseId;
    if (plural === 'alarms') return alarmId;
    return plural === 'jobs' ? jobId : (standing[plural] ?? ABSENT);
  });
}

/** A request that would be carried out if nothing stood against it. */
function goodCall({ template, method }: Operation): Call {
  const [, , plural = '', which, action] = template.split('/');
  const recipe = kindRecipes[plural];
  if (method === 'POST' && which === undefined && recipe) return { json: recipe.create(world, 'never') };
  if (method === 'PATCH' && recipe) return { json: recipe.patch };
  if (method === 'PUT') return { raw: placeholder(), headers: { 'content-type': 'application/octet-stream' } };
  if (action === 'leases') return method === 'POST' ? { json: { mac: '52:54:00:00:00:99' } } : {};
  const body = recipe?.actions?.find(([name]) => name === action)?.[1];
  return method === 'POST' ? { json: body ?? {} } : {};
}

const withQuery = (path: string, query: string) => `${path}?${query}`;
const bulk = (operation: Operation) =>
  operation.method === 'DELETE' && !operation.template.includes('{') ? 'tagSelector=none%3Dsuch' : '';

/** What provokes a status in any operation; statuses that are not here have scenarios of their own. */
const provocations: { [status: number]: (operation: Operation) => Promise<unknown> } = {
  400: (operation) => admin.call(operation.method, pathOf(operation), { raw: '{', headers: jsonType(operation) }),
  401: (operation) => nobody.call(operation.method, pathOf(operation)),
  403: async (operation) => {
    const path = withQuery(pathOf(operation), bulk(operation));
    for (const client of [viewer, stranger, reader]) await client.call(operation.method, path, goodCall(operation));
  },
  404: (operation) => admin.call(operation.method, pathOf(operation, true), goodCall(operation)),
  406: (operation) => {
    const { headers, ...call } = goodCall(operation);
    return admin.call(operation.method, pathOf(operation), { ...call, headers: { ...headers, accept: 'image/png' } });
  },
  409: inProgress,
  412: (operation) => {
    return admin.call(operation.method, pathOf(operation), { ...goodCall(operation), headers: { 'if-match': '"0"' } });
  },
  413: (operation) =>
    admin.call(operation.method, pathOf(operation), { raw: JSON.stringify({ name: 'x'.repeat(1_100_000) }) }),
  415: (operation) =>
    admin.call(operation.method, pathOf(operation), { raw: 'name=x', headers: { 'content-type': 'text/plain' } }),
  422: (operation) => admin.call(operation.method, withQuery(pathOf(operation), 'colour=red'), goodCall(operation)),
  429: (operation) => untilSeen(narrow, operation, 429, 'colour=red'),
  503: (operation) => untilSeen(cutOff, operation, 503, bulk(operation)),
};

const jsonType = ({ method }: Operation) => ({
  'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json',
});

async function untilSeen(replica: Replica, operation: Operation, status: number, query: string): Promise<void> {
  const client = record.client(replica.base, admin.token);
  for (let tries = 0; tries < 4 && !record.has(operation, status); tries++) {
    await client.call(operation.method, withQuery(pathOf(operation), query), goodCall(operation));
  }
}

/** Somebody else's request with the same key is under way: held by the lock that it would hold. */
async function inProgress(operation: Operation): Promise<void> {
  if (!operation.takesKey) return;
  const key = `held-${operation.method}-${operation.template.replaceAll(/[^a-z]/g, '')}`;
  const { sub } = JSON.parse(Buffer.from(admin.token.split('.')[1]!, 'base64url').toString());
  await db.operatorTransaction(async (tx) => {
    await sql`select pg_advisory_xact_lock(hashtextextended(${`${TENANT}/${sub}/${key}`}, 1))`.execute(tx);
    const call = goodCall(operation);
    const headers = { ...call.headers, 'idempotency-key': key };
    await admin.call(operation.method, withQuery(pathOf(operation), bulk(operation)), { ...call, headers });
  });
}

describe('each kind', () => {
  for (const [plural, recipe] of Object.entries(kindRecipes)) {
    test(`${plural} are made, changed, acted on and removed`, () => live(plural, recipe), 120_000);
  }
});

async function live(plural: string, recipe: KindRecipe): Promise<void> {
  const base = `/v1/${plural}`;
  await admin.post(`${base}?dryRun=true`, recipe.create(world, 'dry'));
  const id = await createOne(plural, recipe, `live-${plural}`);
  const one = `${base}/${id}`;
  expect((await admin.get(one)).status).toBe(200);
  expect((await admin.get(one, { 'if-none-match': '*' })).status).toBe(304);
  expect((await admin.get(base)).status).toBe(200);
  await admin.get(`${one}/metrics`);
  expect((await admin.patch(`${one}?dryRun=true`, recipe.patch)).status).toBe(200);
  await succeeded(await admin.patch(one, recipe.patch));
  for (const [action, body] of recipe.actions ?? []) {
    const dry = await admin.post(`${one}/${action}?dryRun=true`, body);
    expect(dry.status, `${action}: ${dry.text}`).toBe(200);
    await succeeded(await admin.post(`${one}/${action}`, body));
  }
  expect((await admin.delete(`${base}?tagSelector=none%3Dsuch`)).status).toBe(200);
  expect((await admin.delete(`${one}?dryRun=true`)).status).toBe(200);
  await succeeded(await admin.delete(one));
}

describe('routes of their own', () => {
  test('machines and disks move', { timeout: 120_000 }, async () => {
    for (const name of ['east', 'west']) {
      const node = await simNode(stack, name, [{ address: stack.dev.grpc }]);
      node.launch();
      nodes.push(node);
    }
    const isUp = ({ name, state }: { name: string; state: string }) => name !== 'node1' && state === 'up';
    await until('two more nodes', async () => (await rhyzome(stack, 'node', 'list')).filter(isUp).length === 2, 60_000);
    await rhyzome(stack, 'tenant', 'update', TENANT, '--may-migrate');
    await rhyzome(stack, 'node', 'cordon', 'node1');
    const mover = { name: 'mover', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
    await admin.make('instances', mover);
    expect((await admin.post('/v1/instances/mover/migrate?dryRun=true', {})).status).toBe(200);
    await succeeded(await admin.post('/v1/instances/mover/migrate', {}));
    await admin.remove('instances', 'mover');
    await admin.make('disks', { name: 'mover', sizeGiB: 1 });
    expect((await admin.post('/v1/disks/mover/migrate?dryRun=true', {})).status).toBe(200);
    await succeeded(await admin.post('/v1/disks/mover/migrate', {}));
    await admin.remove('disks', 'mover');
    // What else there is here stays together.
    for (const name of ['east', 'west']) await rhyzome(stack, 'node', 'cordon', name);
    await rhyzome(stack, 'node', 'uncordon', 'node1');
  });

  test('leases', async () => {
    const base = `/v1/networks/${world.network}/leases`;
    const made = await admin.post(base, { mac: '52:54:00:00:00:02' });
    expect(made.status).toBe(201);
    expect((await admin.post(base, { mac: '52:54:00:00:00:02' })).status).toBe(409);
    const { items } = (await admin.get(base)).body;
    const automatic = items.find((lease: { automatic: boolean }) => lease.automatic);
    expect((await admin.delete(`${base}/${automatic.id}`)).status).toBe(409);
    expect((await admin.delete(`${base}/${made.body.id}`)).status).toBe(204);
  });

  test('deleted disks', async () => {
    const ids: string[] = [];
    for (const name of ['gone-1', 'gone-2']) {
      const { id } = await admin.make('disks', { name, sizeGiB: 1 });
      ids.push(id);
      await succeeded(await admin.delete(`/v1/disks/${id}`));
    }
    standing['deleted-disks'] = ids[0]!;
    expect((await admin.get('/v1/deleted-disks')).status).toBe(200);
    const taken = await admin.post(`/v1/deleted-disks/${ids[0]}/restore`, { name: 'data' });
    expect(taken.status, taken.text).toBe(409);
    expect((await admin.post(`/v1/deleted-disks/${ids[1]}/restore`, {})).status).toBe(200);
    const { id } = await admin.make('disks', { name: 'gone-3', sizeGiB: 1 });
    await succeeded(await admin.delete(`/v1/disks/${id}`));
    expect((await admin.delete(`/v1/deleted-disks/${id}`)).status).toBe(204);
  });

  test('the content of an image', async () => {
    const path = `/v1/images/${standing.images}/content`;
    const octets = { 'content-type': 'application/octet-stream' };
    expect((await admin.call('PUT', path, { raw: placeholder(), headers: octets })).status).toBe(409);
    const made = await admin.post('/v1/images', { name: 'too-much', sizeBytes: 10 });
    const large = { ...octets, 'content-range': `bytes 0-9/${2 ** 45}` };
    await admin.call('PUT', `/v1/images/${made.body.id}/content`, { raw: '0123456789', headers: large });
    await admin.call('PUT', `/v1/images/${made.body.id}/content`, { raw: placeholder(), headers: octets });
    await succeeded(await admin.delete(`/v1/images/${made.body.id}`));
  });

  test('jobs are cancelled and retried', async () => {
    const waiting = await admin.post('/v1/images', { name: 'cancelled' });
    expect((await admin.post(`/v1/jobs/${waiting.body.job.id}/cancel`, {})).status).toBe(202);
    expect((await admin.post(`/v1/jobs/${jobId}/cancel`, {})).status).toBe(409);
    expect((await admin.post(`/v1/jobs/${jobId}/retry`, {})).status).toBe(409);
    const wrong = await admin.post('/v1/images', { name: 'wrong', sha256: 'ab'.repeat(32) });
    const headers = { 'content-type': 'application/octet-stream' };
    await admin.call('PUT', `/v1/images/${wrong.body.id}/content?wait=30s`, { raw: placeholder(), headers });
    await until('the failure', async () => {
      return (await admin.get(`/v1/jobs/${wrong.body.job.id}`)).body.state === 'failed';
    });
    const retried = await admin.post(`/v1/jobs/${wrong.body.job.id}/retry`, {});
    expect(retried.status, retried.text).toBe(202);
    await succeeded(await admin.delete(`/v1/images/${wrong.body.id}`));
  });

  test('events are followed, and too old a cursor is told', async () => {
    expect((await admin.get('/v1/events?since=0')).status).toBe(200);
    await sql`insert into event_counter (tenant_id, last, pruned) values ('globex', 9, 7)
      on conflict (tenant_id) do update set last = 9, pruned = 7`.execute(db.operator);
    const other = record.client(stack.dev.api, (await apiOf(stack, 'globex')).token);
    expect((await other.get('/v1/events?since=3')).status).toBe(410);
  });

  test('consoles', async () => {
    const path = `/v1/instances/${standing.instances}/console`;
    expect((await admin.get(path)).status).toBe(200);
    expect((await admin.get(`${path}/attach`)).status).toBe(426);
    expect(await upgraded(`${path}/attach`)).toBe(101);
    await succeeded(await admin.post(`/v1/instances/${standing.instances}/stop`, {}));
    expect(await upgraded(`${path}/attach`)).toBe(409);
    await succeeded(await admin.post(`/v1/instances/${standing.instances}/start`, {}));
  }, 60_000);

  test('why something is allowed or not', async () => {
    const why = (client: Client, query: string) => client.get(`/v1/permissions/explain?${query}`);
    expect((await why(admin, 'verb=reboot&resource=instance/machine')).body).toMatchObject({ allowed: true });
    expect((await why(viewer, 'verb=reboot&resource=instance/machine')).body).toMatchObject({ allowed: false });
    expect((await why(admin, `verb=read&resource=network/${ABSENT}`)).status).toBe(404);
    const about = 'verb=read&resource=instance/machine&subject=group/ops';
    expect((await why(admin, about)).body).toMatchObject({ subject: 'group/ops', allowed: false });
    const claims = { ...goodClaims(stack, TENANT), scope: 'instance:read' };
    const narrowed = record.client(stack.dev.api, await signed(stack, TENANT, claims));
    expect((await why(narrowed, about)).status).toBe(403);
  });

  test('the place that people log in at, which nobody changes this way', async () => {
    const one = '/v1/realms/login';
    expect((await admin.get(one)).status).toBe(200);
    expect((await admin.get(one, { 'if-none-match': '*' })).status).toBe(304);
    expect((await admin.get(`${one}/metrics`)).status).toBe(200);
  });

  test('what is only read', async () => {
    for (const path of [
      '/v1/quotas',
      '/v1/permissions',
      '/v1/audit',
      '/v1/audit/export',
      '/v1/jobs',
      '/v1/alarms',
      `/v1/alarms/${alarmId}`,
      `/v1/wireguardpeers/${standing.wireguardpeers}/config`,
    ]) {
      expect((await admin.get(path)).status, path).toBe(200);
    }
  });
});

/** The status that a WebSocket's handshake is answered with. */
async function upgraded(path: string): Promise<number> {
  const socket = new WebSocket(stack.dev.api.replace('http', 'ws') + path, {
    headers: { authorization: `Bearer ${admin.token}` },
  });
  const status = await new Promise<number>((resolve, reject) => {
    socket.once('open', () => resolve(101));
    socket.once('unexpected-response', (_, answer) => resolve(answer.statusCode ?? 0));
    socket.once('error', reject);
  });
  socket.on('error', () => undefined);
  socket.terminate();
  record.note('GET', path, status);
  return status;
}

/** What any request can be answered with, whether its description says so or not. */
const everywhere = [401, 406, 422, 429, 503];

test('every status that the description names is seen, and no other', async () => {
  const provoke = async (statuses: (status: number) => boolean) => {
    for (const operation of operations) {
      for (const status of new Set([...operation.statuses, ...everywhere])) {
        if (!statuses(status) || record.has(operation, status)) continue;
        await provocations[status]?.(operation);
      }
    }
  };
  await provoke((status) => status < 429 || status === 429);
  way.cut();
  await provoke((status) => status === 503);
  expect({ missing: record.missing, undocumented: record.undocumented }).toEqual({ missing: [], undocumented: [] });
}, 300_000);
