/** People at a terminal: `rhyzome login` and what follows, as processes, on all of Rhyzome. Somebody else has the browser. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Browser, type Shown, submit } from '../libs/devissuer/test-browser.js';
import { startReplica } from './coverage/replicas.js';
import { apiOf, clientWith } from './harness/client.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const program = resolve(import.meta.dirname, '..', 'bin', 'rhyzome.js');

let stack: Stack;
let issuer: string;
let password: string;
const folders: string[] = [];

beforeAll(async () => {
  stack = await sharedStack('sim');
  issuer = stack.dev.tenants.acme!.issuer;
  password = JSON.parse(readFileSync(join(stack.data, 'issuer', 'acme.json'), 'utf8')).userPassword;
}, 180_000);
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Somebody's home directory. */
function home(): string {
  const folder = mkdtempSync(join(tmpdir(), 'rhyzome-home-'));
  folders.push(folder);
  return folder;
}

interface Ended {
  status: number | null;
  out: string;
  err: string;
}

/** Far from any settings file. `onError` sees standard error as it grows. */
function rhyzome(folder: string, args: string[], onError?: (err: string) => void, more = {}): Promise<Ended> {
  return new Promise((done, fail) => {
    const env = { PATH: process.env.PATH, HOME: folder, ...more };
    const child = spawn(process.execPath, [program, ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const ended: Ended = { status: null, out: '', err: '' };
    child.stdout.on('data', (chunk) => {
      ended.out += chunk;
    });
    child.stderr.on('data', (chunk) => {
      ended.err += chunk;
      onError?.(ended.err);
    });
    child.on('error', fail);
    child.on('close', (status) => done({ ...ended, status }));
  });
}

/** Logs in with these forms filled in, one after the other, where the page's address was shown. */
async function logIn(folder: string, forms: Record<string, string>[], more: string[] = []): Promise<Ended> {
  return logInWith(folder, forms, ['--api', stack.dev.api, '--issuer', issuer, ...more]);
}

async function logInWith(folder: string, forms: Record<string, string>[], args: string[], env = {}): Promise<Ended> {
  let browsing: Promise<Shown> | undefined;
  const onError = (err: string) => {
    const page = /^ {2}(http\S+)$/m.exec(err)?.[1];
    if (page) browsing ??= approve(page, forms);
  };
  const ended = await rhyzome(folder, ['login', ...args], onError, env);
  await browsing;
  return ended;
}

async function approve(address: string, forms: Record<string, string>[]): Promise<Shown> {
  const browser = new Browser();
  let page = await submit(browser, await submit(browser, await browser.visit(address)));
  for (const form of forms) page = await submit(browser, page, form);
  return page;
}

describe('a person of the tenant', () => {
  it('logs in, is told who it is, uses the token elsewhere, and logs out', async () => {
    const folder = home();
    const before = await rhyzome(folder, ['whoami']);
    expect(before).toMatchObject({ status: 1, err: expect.stringContaining('not logged in') });

    const { status, out, err } = await logIn(folder, [{ username: 'oscar', password }]);
    expect({ status, out }, err).toEqual({
      status: 0,
      out: `Logged in at ${stack.dev.api} as Oscar Operator of tenant acme (operator).\n`,
    });
    expect(statSync(join(folder, '.config', 'rhyzome', 'sessions.json')).mode & 0o777).toBe(0o600);
    const who = JSON.parse((await rhyzome(folder, ['whoami', '--json'])).out);
    expect(who).toMatchObject({ subject: 'oscar', tenant: 'acme', roles: ['operator'], issuer, api: stack.dev.api });
    expect((await rhyzome(folder, ['whoami'])).out).toMatch(/^roles +operator$/m);

    const { out: token } = await rhyzome(folder, ['token']);
    const api = clientWith(stack.dev.api, token.trim());
    expect((await api.get('/v1/networks')).status).toBe(200);
    expect((await api.post('/v1/grants', {})).status).toBe(403);

    expect(await rhyzome(folder, ['logout'])).toMatchObject({ status: 0, err: '' });
    expect((await rhyzome(folder, ['token'])).status).toBe(1);
  });

  it('can narrow its login', async () => {
    const folder = home();
    await logIn(folder, [{ username: 'alice', password }], ['--scope', 'network:read']);
    const api = clientWith(stack.dev.api, (await rhyzome(folder, ['token'])).out.trim());
    expect((await api.get('/v1/networks')).status).toBe(200);
    expect((await api.get('/v1/instances')).status).toBe(403);
  });

  it('is told what to name where the API serves many tenants at its address', async () => {
    const { status, err } = await rhyzome(home(), ['login', '--api', stack.dev.api]);
    expect(status).toBe(2);
    expect(err).toContain('--issuer');
  });
});

describe('at the tenant’s own host name', () => {
  it('the address is all that has to be named, and it is no other tenant’s', async () => {
    const replica = await startReplica(stack, 'named', (settings) => {
      settings.api.domain = 'api.localhost';
    });
    try {
      const folder = home();
      // As a resolver does that follows RFC 6761, section 6.3; not every machine's does.
      const resolver = join(folder, 'resolver.mjs');
      writeFileSync(
        resolver,
        `import dns from 'node:dns';
const { lookup } = dns;
dns.lookup = (name, ...more) => lookup(name.endsWith('.localhost') ? '127.0.0.1' : name, ...more);`,
      );
      const env = { NODE_OPTIONS: `--import ${resolver}` };
      const at = (tenant: string) => replica.base.replace('127.0.0.1', `${tenant}.api.localhost`);
      const oscar = [{ username: 'oscar', password }];
      expect(await logInWith(folder, oscar, ['--api', at('acme')], env)).toMatchObject({
        status: 0,
        out: `Logged in at ${at('acme')} as Oscar Operator of tenant acme (operator).\n`,
      });
      expect((await rhyzome(folder, ['whoami', '--json'], undefined, env)).out).toContain(`"issuer": "${issuer}"`);
      const elsewhere = await logInWith(folder, oscar, ['--api', at('globex'), '--issuer', issuer], env);
      expect(elsewhere).toMatchObject({
        status: 1,
        err: expect.stringContaining('not of the tenant of this host name'),
      });
      const nobody = await rhyzome(folder, ['login', '--api', at('nobody')], undefined, env);
      expect(nobody).toMatchObject({ status: 2, err: expect.stringContaining('does not say who gives its tokens') });
    } finally {
      await replica.stop();
    }
  });
});

describe('a user that an administrator invites', () => {
  it('chooses a password at the first login, has its groups, and is out as soon as it is disabled', async () => {
    const admin = await apiOf(stack, 'acme');
    await admin.make('groups', { name: 'nightwatch' });
    const invited = await admin.make('users', { name: 'frida', role: 'viewer', groups: ['nightwatch'] });
    const { oneTimePassword } = invited;
    const chosen = { 'password-new': 'of her own choice', 'password-confirm': 'of her own choice' };

    const folder = home();
    const first = { username: 'frida', password: oneTimePassword };
    const { status, err } = await logIn(folder, [first, chosen]);
    expect(status, err).toBe(0);
    const who = JSON.parse((await rhyzome(folder, ['whoami', '--json'])).out);
    const { subject } = (await admin.get('/v1/users/frida')).body;
    expect(who).toMatchObject({ subject, tenant: 'acme', roles: ['viewer'], groups: ['nightwatch'] });

    const again = home();
    expect(await logIn(again, [{ username: 'frida', password: chosen['password-new'] }])).toMatchObject({ status: 0 });

    expect((await admin.post('/v1/users/frida/disable?wait=30s', {})).status).toBe(200);
    await until('the disabled user is out', async () => (await rhyzome(again, ['whoami'])).status === 1, 10_000);
    expect((await rhyzome(again, ['whoami'])).err).toContain('does not take this login');
    await admin.remove('users', 'frida');
    await admin.remove('groups', 'nightwatch');
  });
});
