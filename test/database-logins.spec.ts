/** The logins that the servers of a started stack really use: what they cannot do, asked of PostgreSQL itself. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as grpc from '@grpc/grpc-js';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectionOf } from '#libs/config';
import { ResourceServiceClient } from '#libs/rpc';
import { apiOf } from './harness/client.js';
import { channelOf, issue, rhyzome } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

type Login = 'db' | 'dbOperator';
const logins: Login[] = ['db', 'dbOperator'];

let stack: Stack;
const clients = {} as Record<Login, pg.Client>;

beforeAll(async () => {
  stack = await stackNamed('walls', { driver: 'sim', tenants: ['acme', 'globex'] });
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8')) as Record<Login, string>;
  for (const login of logins) {
    clients[login] = new pg.Client(connectionOf(settings[login], stack.dev.config) as pg.ClientConfig);
    await clients[login].connect();
  }
}, 120_000);
afterAll(() => Promise.all(Object.values(clients).map((client) => client.end())));

/** The SQLSTATE that it is refused with; undefined: it was done (and taken back). */
async function refusal(login: Login, ...statements: string[]): Promise<string | undefined> {
  const client = clients[login];
  await client.query('begin');
  try {
    for (const statement of statements) await client.query(statement);
    return undefined;
  } catch (error) {
    return (error as { code?: string }).code;
  } finally {
    await client.query('rollback');
  }
}

const roles = { db: 'rhyzome_app', dbOperator: 'rhyzome_operator' };
const DENIED = '42501';

describe.each(logins)('the login of %s', (login) => {
  it('is neither superuser nor owner, bypasses nothing, and is a member of its one role only', async () => {
    const { rows } = await clients[login].query(`
      select r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
        (select count(*)::int from pg_class c where c.relowner = r.oid or c.relowner = '${roles[login]}'::regrole) as owned,
        (select count(*)::int from pg_proc p where p.proowner = r.oid or p.proowner = '${roles[login]}'::regrole) as functions,
        (select array_agg(m.rolname::text order by 1) from pg_roles m where m.oid <> r.oid
          and pg_has_role(r.oid, m.oid, 'member')) as member_of
      from pg_roles r where r.rolname = session_user`);
    expect(rows).toEqual([
      {
        rolsuper: false,
        rolbypassrls: false,
        rolcreaterole: false,
        rolcreatedb: false,
        rolreplication: false,
        owned: 0,
        functions: 0,
        member_of: [roles[login]],
      },
    ]);
  });

  const others = Object.values(roles).filter((role) => role !== roles[login]);
  it.each([
    ...[...others, 'rhyzome_owner', 'postgres'].map((role) => `set role ${role}`),
    'alter table audit disable row level security',
    'alter table resource no force row level security',
    'drop policy own_tenant on resource',
    'create policy all_of_it on resource using (true)',
    'alter table audit add column x int',
    'create table public.mine (id int)',
    'create schema mine',
    "create function public.mine() returns int language sql as 'select 1'",
    'create extension pg_trgm',
    'alter role current_user bypassrls',
    'create role mine superuser',
    "copy (select 1) to program 'true'",
    "select pg_read_file('/etc/passwd')",
    'set session_replication_role = replica',
    'truncate audit',
    'delete from audit',
    "update audit set actor = 'x'",
    "insert into audit (tenant_id, id, actor, action, result, at) values ('acme', gen_random_uuid(), 'x', 'x', 'done', now())",
    "insert into audit (tenant_id, id, actor, action, result, xid) values ('acme', gen_random_uuid(), 'x', 'x', 'done', '1')",
    'delete from audit_seal',
    'update audit_seal set row_count = 0',
    'delete from audit_digest',
    'delete from audit_pruning',
    'delete from audit_unauthenticated',
    'truncate event',
    'lock table audit in access exclusive mode',
    'create trigger mine before insert on audit for each row execute function notify_tenant()',
    'create rule mine as on insert to audit do instead nothing',
  ])('is refused: %s', async (statement) => {
    expect(await refusal(login, statement)).toBe(DENIED);
    expect(await refusal(login, `set role ${roles[login]}`, statement)).toBe(DENIED);
  });

  it('finds no function of the owner’s that changes or removes audit rows', async () => {
    const { rows } = await clients[login].query<{ name: string; body: string }>(`
      select p.proname as name, pg_get_functiondef(p.oid) as body from pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.prosecdef and has_function_privilege(p.oid, 'execute')`);
    expect(rows.length).toBeGreaterThan(3);
    for (const { name, body } of rows) {
      expect(body, name).not.toMatch(/(update|delete from|truncate)\s+(public\.)?audit\b/i);
      expect(body, name).toMatch(/SET search_path TO/i);
    }
  });
});

it('the application’s login sees no tenant before one is set, and afterwards that one', async () => {
  const client = clients.db;
  const tenants = async () => (await client.query('select distinct tenant_id from audit order by 1')).rows;
  await apiOf(stack, 'acme').then((api) => api.get('/v1/networks'));
  expect(await tenants()).toEqual([]);
  await client.query('begin');
  await client.query("select set_config('rhyzome.tenant_id', 'acme', true)");
  expect(await tenants()).toEqual([{ tenant_id: 'acme' }]);
  await client.query('rollback');
  expect(await tenants()).toEqual([]);
});

describe('the audit of a running stack', () => {
  it('has refusals of users in it, is sealed by itself, and verifies', async () => {
    const viewer = await apiOf(stack, 'acme', 'viewer');
    const { status } = await viewer.post(
      '/v1/networks',
      { name: 'no', subnet: '10.9.0.0/24' },
      { 'x-request-id': 'refused-1' },
    );
    expect(status).toBe(403);
    const admin = await apiOf(stack, 'acme');
    const { items } = (await admin.get('/v1/audit?requestId=refused-1')).body;
    expect(items).toMatchObject([
      { action: 'network.create', result: 'refused', code: 'forbidden', resource: { name: 'no' } },
    ]);
    const whole = await until(
      'all is sealed',
      async () => {
        const found = await rhyzome(stack, 'audit', 'verify');
        return found.unsealed === 0 && found.batches > 0 ? found : undefined;
      },
      60_000,
    );
    expect(whole).toMatchObject({ isWhole: true, findings: [] });
    expect(stack.log('grpc')).toContain(whole.head.hash);
  });

  it('has what services were refused, to read and to change, and counts certificates without rights', async () => {
    await rhyzome(stack, 'service', 'create', 'reader', '--tenants', 'acme', '--verbs', 'image:read', '--replace');
    const channel = await channelOf(stack, await issue(stack, 'service', 'reader'));
    const client = channel.client(ResourceServiceClient);
    const metadata = new grpc.Metadata();
    metadata.set('x-request-id', 'refused-grpc-1');
    const refused = (ask: (done: (error: grpc.ServiceError | null) => void) => unknown) =>
      new Promise<number | undefined>((resolve) => ask((error) => resolve(error?.code)));
    const kind = 'network';
    const body = { name: 'no', subnet: '10.9.0.0/24' };
    const plain = { dryRun: false, idempotencyKey: '' };
    expect(await refused((done) => client.get({ tenantId: 'acme', kind, id: 'theirs' }, metadata, done))).toBe(5);
    expect(await refused((done) => client.create({ tenantId: 'acme', kind, body, ...plain }, metadata, done))).toBe(7);
    expect(await refused((done) => client.get({ tenantId: 'globex', kind, id: 'theirs' }, metadata, done))).toBe(7);
    channel.close();
    const admin = await apiOf(stack, 'acme');
    const items = await until('both are written', async () => {
      const found = (await admin.get('/v1/audit?requestId=refused-grpc-1')).body.items;
      return found.length === 2 ? found : undefined;
    });
    expect(items).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ actor: 'service:reader', action: 'network.read', code: 'not_found' }),
        expect.objectContaining({ actor: 'service:reader', action: 'network.create', code: 'forbidden' }),
      ]),
    );
    const noted = await until(
      'it is counted',
      async () => {
        const found = await rhyzome(stack, 'audit', 'unauthenticated', '--reason', 'service_rights');
        return found.length > 0 ? found : undefined;
      },
      30_000,
    );
    expect(noted).toMatchObject([{ issuer: 'service:reader', count: 1, last: { method: 'gRPC' } }]);
    await rhyzome(stack, 'service', 'remove', 'reader');
  }, 60_000);

  it('counts who came without a valid token', async () => {
    // Others come without a valid token to the same stack: these claim an issuer that nobody else does.
    const issuer = `https://nobody.example/${randomUUID()}`;
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const token = `${part({ alg: 'RS256', typ: 'JWT' })}.${part({ iss: issuer })}.e30`;
    for (let i = 0; i < 3; i++) {
      await fetch(`${stack.dev.api}/v1/networks/x`, { headers: { authorization: `Bearer ${token}` } });
    }
    const entry = await until(
      'all three are written down',
      async () => {
        const found = await rhyzome(stack, 'audit', 'unauthenticated', '--reason', 'unknown_issuer');
        return found.find((one: { issuer: string; count: number }) => one.issuer === issuer && one.count === 3);
      },
      30_000,
    );
    expect(entry).toMatchObject({ last: { method: 'GET', path: '/v1/networks/:id' } });
  });
});
