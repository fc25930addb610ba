/**
 * `rhyzome tenant` with a place for people at the identity provider (in memory), and workers that run its jobs: what it
 * prints once, what it does again after it was killed or gave up, and what is left in the end.
 */
import 'reflect-metadata';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { isPasswordOf, MemoryIdentity, provideIdentity } from '#libs/identity';
import { kinds } from '#libs/kinds';
import { type Platform, startPlatform } from '#libs/testing';
import { runCli } from '../program.js';

let platform: Platform;
let memory: MemoryIdentity;
let dir: string;
let id: string;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  dir = mkdtempSync(join(tmpdir(), 'rhyzome-tenant-'));
  const keycloak = { url: 'http://127.0.0.1:1', clientId: 'rhyzome', clientSecret: 'unused by the command' };
  writeFileSync(join(dir, 'rhyzome-api.json'), JSON.stringify({ db: platform.url, keycloak }));
});
beforeEach(() => {
  memory = new MemoryIdentity();
  provideIdentity(memory);
  id = `t${newId().replaceAll('-', '').slice(-10)}`;
});
afterEach(() => provideIdentity(undefined));
afterAll(async () => {
  await platform?.close();
  rmSync(dir, { recursive: true, force: true });
});

async function run(...args: string[]) {
  return runWith(undefined, ...args);
}

async function runWith(answer: string | undefined, ...args: string[]) {
  const told = { out: '', err: '' };
  const status = await runCli(['--config', join(dir, 'rhyzome-api.json'), ...args], {
    out: (text) => {
      told.out += text;
    },
    err: (text) => {
      told.err += text;
    },
    ...(answer !== undefined && { ask: async () => answer }),
  });
  return { status, ...told };
}

async function ok(...args: string[]): Promise<string> {
  const outcome = await run(...args);
  if (outcome.status !== 0) throw new Error(`rhyzome ${args.join(' ')}: ${outcome.status}: ${outcome.err}`);
  return outcome.out;
}

const json = async (...args: string[]) => JSON.parse(await ok(...args, '--json'));
const passwordIn = (text: string) => /\b([a-z2-9]{5}-){4}[a-z2-9]{5}\b/.exec(text)?.[0];

describe('rhyzome tenant create', () => {
  it('says in its own words what is wrong with the administrator, and goes on with another', async () => {
    expect(await run('tenant', 'create', id, '--admin', 'al')).toMatchObject({
      status: 2,
      err: expect.stringContaining('The administrator’s name must be at least 3 characters. What was made stays;'),
    });
    expect(passwordIn(await ok('tenant', 'create', id, '--admin', 'alice'))).toBeDefined();
  });

  it('makes the realm and a first administrator, whose one-time password is printed once and kept nowhere', async () => {
    const said = await ok(
      'tenant',
      'create',
      id,
      '--display-name',
      'Acme',
      '--admin',
      'alice',
      '--admin-email',
      'a@x.example',
    );
    const password = passwordIn(said)!;
    const { users, place } = memory.placeOf(id)!;
    expect(place.displayName).toBe('Acme');
    expect(users.get('alice')).toMatchObject({ role: 'admin', email: 'a@x.example', enabled: true, isTemporary: true });
    expect(await isPasswordOf(password, users.get('alice')!.password!)).toBe(true);
    expect(await ok('tenant', 'show', id)).toContain(`https://id.example/realms/${id} (kept by Rhyzome)`);
    const dump = await platform.db.operator.selectFrom('job').select('request').where('tenant_id', '=', id).execute();
    expect(JSON.stringify(dump)).not.toContain(password);
    // The same again changes nothing, and has no password to print.
    const again = await ok('tenant', 'create', id, '--display-name', 'Acme', '--admin', 'alice');
    expect(passwordIn(again)).toBeUndefined();
    expect(again).toContain(`rhyzome tenant admin ${id} alice`);
    expect(await isPasswordOf(password, memory.placeOf(id)!.users.get('alice')!.password!)).toBe(true);
    expect((await run('tenant', 'create', id, '--display-name', 'Another')).err).toContain('There is a tenant');
  });

  it('gives up waiting, and goes on when it is given again', async () => {
    memory.away = true;
    const waiting = await run('tenant', 'create', id, '--timeout', '1');
    expect(waiting).toMatchObject({ status: 1, out: '' });
    expect(waiting.err).toMatch(/The identity provider is away\..*\n.*is waiting after 1 s, and goes on/s);
    const later = run('tenant', 'create', id, '--admin', 'alice');
    memory.away = false;
    const done = await later;
    expect(done.status).toBe(0);
    expect(passwordIn(done.out)).toBeDefined();
  });

  it('tries again what failed', async () => {
    memory.occupy({ tenantId: id, mode: 'realm' });
    expect(await run('tenant', 'create', id)).toMatchObject({
      status: 1,
      err: expect.stringContaining('did not make'),
    });
    memory = new MemoryIdentity();
    provideIdentity(memory);
    await ok('tenant', 'create', id);
    expect(memory.placeOf(id)).toBeDefined();
  });

  it('has no realm where the tenant brings an issuer of its own, and refuses what contradicts', async () => {
    await ok('tenant', 'create', id, '--issuer', `https://idp.example/${id}`, '--organization', 'x');
    expect(memory.places.size).toBe(0);
    expect((await json('tenant', 'show', id)).issuers).toMatchObject([{ organization: 'x' }]);
    const cases: [string[], RegExp][] = [
      [['tenant', 'create', 'x1', '--issuer', 'https://i.example', '--mode', 'realm'], /contradict/],
      [['tenant', 'create', 'x1', '--issuer', 'https://i.example', '--admin', 'a'], /needs a realm/],
      [['tenant', 'create', 'x1', '--admin', 'a', '--no-wait'], /--no-wait/],
      [['tenant', 'create', 'x1', '--admin-email', 'a@x.example'], /belongs to --admin/],
      [['tenant', 'create', 'x1', '--mode', 'both'], /Allowed choices/],
      [['tenant', 'move', id], /Say where/],
      [['tenant', 'move', id, '--to', 'issuer'], /belong together/],
    ];
    for (const [args, message] of cases)
      expect(await run(...args), args.join(' ')).toMatchObject({ status: 2, err: expect.stringMatching(message) });
    expect((await run('tenant', 'show', 'x1')).status).toBe(3);
  });
});

describe('rhyzome tenant', () => {
  it('suspends and resumes: nobody can log in meanwhile', async () => {
    await ok('tenant', 'create', id);
    await ok('tenant', 'suspend', id);
    expect(memory.placeOf(id)!.enabled).toBe(false);
    expect(await json('tenant', 'show', id)).toMatchObject({ state: 'suspended' });
    // With the provider away the tokens are refused all the same; the realm follows later.
    await ok('tenant', 'resume', id);
    expect(memory.placeOf(id)!.enabled).toBe(true);
    memory.away = true;
    expect((await run('tenant', 'suspend', id, '--timeout', '1')).status).toBe(1);
    expect(await json('tenant', 'show', id)).toMatchObject({ state: 'suspended' });
    memory.away = false;
    await ok('tenant', 'suspend', id);
    expect(memory.placeOf(id)!.enabled).toBe(false);
    await ok('tenant', 'update', id, '--activate', '--display-name', 'New');
    expect(memory.placeOf(id)).toMatchObject({ enabled: true, place: { displayName: 'New' } });
  });

  it('gives an administrator a new one-time password, and makes one that is not there', async () => {
    await ok('tenant', 'create', id);
    expect((await run('tenant', 'admin', id)).err).toContain('name one to make');
    const first = passwordIn(await ok('tenant', 'admin', id, 'alice'))!;
    const second = passwordIn(await ok('tenant', 'admin', id))!;
    expect(second).not.toBe(first);
    expect(await isPasswordOf(second, memory.placeOf(id)!.users.get('alice')!.password!)).toBe(true);
    await ok('tenant', 'admin', id, 'bertha');
    expect((await run('tenant', 'admin', id)).err).toContain('alice, bertha');
  });

  it('is deleted with its users and its realm, after a word', async () => {
    await ok('tenant', 'create', id, '--admin', 'alice');
    expect(await run('tenant', 'delete', id)).toMatchObject({ status: 2, err: expect.stringContaining('--force') });
    expect(await runWith('no', 'tenant', 'delete', id)).toMatchObject({ status: 1 });
    expect(memory.placeOf(id)!.users.size).toBe(1);
    expect(await runWith('yes', 'tenant', 'delete', id)).toMatchObject({ status: 0 });
    expect(memory.places.size).toBe(0);
    expect((await run('tenant', 'show', id)).status).toBe(3);
    await ok('tenant', 'create', id);
  });

  it('goes on deleting where it had stopped', async () => {
    await ok('tenant', 'create', id);
    memory.away = true;
    expect((await run('tenant', 'delete', id, '--force', '--timeout', '1')).status).toBe(1);
    expect(await json('tenant', 'show', id)).toMatchObject({ state: 'suspended' });
    memory.away = false;
    await ok('tenant', 'delete', id, '--force');
    expect(memory.places.size).toBe(0);
  });

  it('moves its people to an organization and back, and to an issuer of its own', async () => {
    await ok('tenant', 'create', id, '--admin', 'alice');
    await ok('tenant', 'move', id, '--to', 'organization');
    const there = memory.placeOf(id, 'organization')!;
    expect(there.users.get('alice')).toMatchObject({ role: 'admin', password: null });
    expect(await json('tenant', 'show', id)).toMatchObject({
      issuers: [{ issuer: 'https://id.example/realms/shared', organization: id, managed: true }],
    });
    const subjects = () => platform.db.operator.selectFrom('subject').selectAll().where('tenant_id', '=', id).execute();
    expect((await subjects()).find(({ subject }) => subject === there.users.get('alice')!.subject)?.enabled).toBe(true);
    expect(memory.placeOf(id)!.enabled).toBe(false);
    // The same again changes nothing.
    await ok('tenant', 'move', id, '--to', 'organization');
    expect(await ok('tenant', 'admin', id)).toContain(`The user alice@${id} logs in`);
    expect((await run('tenant', 'move', id, '--to', 'realm')).err).toContain('--remove-left');
    await ok('tenant', 'move', id, '--remove-left', '--force');
    expect(memory.placeOf(id)).toBeUndefined();
    await ok('tenant', 'move', id, '--to', 'realm', '--remove-left', '--force');
    expect([...memory.places.keys()]).toEqual([`realm/${id}`]);

    await ok('tenant', 'move', id, '--to', 'issuer', '--issuer', `https://idp.example/${id}`, '--force');
    expect(memory.places.size).toBe(0);
    expect((await json('tenant', 'show', id)).issuers).toMatchObject([{ issuer: `https://idp.example/${id}` }]);
    await ok('tenant', 'move', id, '--to', 'realm');
    expect((await json('tenant', 'show', id)).issuers).toMatchObject([{ managed: true }]);
  });
});
