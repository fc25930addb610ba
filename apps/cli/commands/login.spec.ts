/** `rhyzome login`, `whoami`, `token` and `logout` against the development issuer; the API is what little they ask of one. */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type DevIssuer, startIssuer } from '#libs/devissuer';
import { Browser, submit } from '../../../libs/devissuer/test-browser.js';
import { runCli } from '../program.js';

let issuer: DevIssuer;
let api: Server;
let apiUrl: string;
let dir: string;
let folder: string;
/** What the API answers to whoami; undefined: 401. */
let takes: boolean;
let names: string[];
const before = { xdg: process.env.XDG_CONFIG_HOME, api: process.env.RHYZOME_API };

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rhyzome-login-'));
  // Shorter than the margin after a second, so that tokens have to be fetched anew.
  issuer = await startIssuer({ port: 0, tenants: ['acme'], dataDir: join(dir, 'issuer'), accessTokenTtlSeconds: 31 });
  api = createServer((request, response) => {
    const send = (status: number, body: object) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    if (request.url === '/.well-known/oauth-protected-resource')
      return send(200, { resource: apiUrl, ...(names.length > 0 && { authorization_servers: names }) });
    if (!takes) return send(401, { detail: 'The token has expired.' });
    const claims = JSON.parse(Buffer.from(request.headers.authorization!.split('.')[1]!, 'base64url').toString());
    const { sub: subject, name, realm_access } = claims;
    const roles = realm_access.roles.filter((role: string) => role !== 'offline_access');
    send(200, { subject, name, tenant: 'acme', roles, groups: [], via: 'token', expiresAt: null, items: [] });
  });
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve));
  apiUrl = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
});

afterAll(async () => {
  api?.close();
  await issuer?.stop();
  rmSync(dir, { recursive: true, force: true });
});

beforeEach(() => {
  takes = true;
  names = [issuer.tenants.acme!.issuer];
  process.env.XDG_CONFIG_HOME = mkdtempSync(join(dir, 'home-'));
  folder = join(process.env.XDG_CONFIG_HOME, 'rhyzome');
  delete process.env.RHYZOME_API;
});

afterEach(() => {
  for (const [name, value] of Object.entries({ XDG_CONFIG_HOME: before.xdg, RHYZOME_API: before.api })) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

async function run(args: string[], onError: (text: string) => void = () => undefined) {
  let out = '';
  let err = '';
  const status = await runCli(args, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
      onError(text);
    },
  });
  return { status, out, err };
}

/** As `run`, with somebody at the browser. */
async function logIn(args: string[] = [], decide: 'alice' | 'nobody' = 'alice') {
  let browsing: Promise<unknown> | undefined;
  const outcome = await run(['login', '--api', apiUrl, ...args], (text) => {
    const page = /^ {2}(http\S+)$/m.exec(text)?.[1];
    if (page) browsing = approve(page, decide);
  });
  await browsing;
  return outcome;
}

async function approve(page: string, decide: 'alice' | 'nobody'): Promise<void> {
  const browser = new Browser();
  const asked = await submit(browser, await browser.visit(page));
  if (decide === 'nobody') return void (await submit(browser, asked, { abort: 'yes' }));
  const { userPassword } = issuer.tenants.acme!;
  await submit(browser, await submit(browser, asked), { username: decide, password: userPassword });
}

const kept = () => JSON.parse(readFileSync(join(folder, 'sessions.json'), 'utf8'));

/** As if the access token were about to end. */
function age(): void {
  const sessions = kept();
  sessions.byApi[apiUrl].expiresAt = new Date(Date.now() + 5000).toISOString();
  writeFileSync(join(folder, 'sessions.json'), JSON.stringify(sessions));
}

describe('login', () => {
  it('finds the issuer by the API, and keeps the tokens for this user alone', async () => {
    const { status, out, err } = await logIn(['--scope', 'network:read']);
    expect({ status, out }).toEqual({
      status: 0,
      out: `Logged in at ${apiUrl} as Alice Admin of tenant acme (admin).\n`,
    });
    expect(err).toMatch(/To log in, open\n\n {2}http\S+\/realms\/acme\/device\?user_code=\S+\n/);
    expect(err).not.toContain(kept().byApi[apiUrl].accessToken);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    expect(statSync(join(folder, 'sessions.json')).mode & 0o777).toBe(0o600);
    const who = await run(['whoami']);
    expect(who).toMatchObject({ status: 0, err: '' });
    expect(who.out).toMatch(/^subject +alice$/m);
    expect(who.out).toMatch(/^roles +admin$/m);
    const asJson = JSON.parse((await run(['whoami', '--json'])).out);
    expect(asJson).toMatchObject({ api: apiUrl, subject: 'alice', tenant: 'acme', roles: ['admin'], groups: [] });
    const { out: token } = await run(['token', '--api', `${apiUrl}/`]);
    expect(JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString())).toMatchObject({
      sub: 'alice',
      scope: 'network:read',
    });
  });

  it('ends with words when it is refused, and keeps nothing', async () => {
    expect(await logIn([], 'nobody')).toMatchObject({
      status: 1,
      err: expect.stringContaining('The login was refused.'),
    });
    takes = false;
    expect(await logIn()).toMatchObject({ status: 1, err: expect.stringContaining('does not take this login') });
    expect(await run(['whoami'])).toMatchObject({ status: 1, err: expect.stringContaining('not logged in') });
  });

  it('says what it needs to know', async () => {
    expect(await run(['login'])).toMatchObject({ status: 2, err: expect.stringContaining('Which API?') });
    for (const url of ['nonsense', 'http://api.example.org', 'https://api.example.org/?x', 'ftp://127.0.0.1'])
      expect((await run(['login', '--api', url])).status, url).toBe(2);
    names = [];
    expect(await run(['login', '--api', apiUrl])).toMatchObject({
      status: 2,
      err: expect.stringContaining('--issuer'),
    });
    const json = await run(['login', '--api', apiUrl, '--json']);
    expect(JSON.parse(json.err)).toMatchObject({ error: { code: 'issuer_unknown' } });
  });

  it('needs no word where the API and the issuer are known from before', async () => {
    names = [];
    expect(await logIn(['--issuer', issuer.tenants.acme!.issuer])).toMatchObject({ status: 0 });
    process.env.RHYZOME_API = apiUrl;
    expect(await logIn()).toMatchObject({ status: 0 });
    expect(await run(['login', '--client-id', 'nobody'])).toMatchObject({
      status: 1,
      err: expect.stringContaining('Where your tenant logs in elsewhere now, --issuer names the new place.'),
    });
  });
});

describe('a login', () => {
  it('is refreshed once by many commands at once, and goes on', async () => {
    await logIn();
    for (let round = 0; round < 3; round++) {
      age();
      const first = kept().byApi[apiUrl];
      const tokens = await Promise.all(Array.from({ length: 6 }, () => run(['token'])));
      // Had the refresh token been used twice, the issuer would have ended the login.
      expect(new Set(tokens.map(({ status, out, err }) => `${status} ${out}${err}`)).size).toBe(1);
      expect(tokens[0]).toMatchObject({ status: 0, out: `${kept().byApi[apiUrl].accessToken}\n` });
      expect(kept().byApi[apiUrl].refreshToken).not.toBe(first.refreshToken);
    }
    expect(statSync(join(folder, 'sessions.json')).mode & 0o777).toBe(0o600);
  });

  it('is refreshed although a command that held the lock was killed', async () => {
    await logIn();
    age();
    const dead = { id: 'x', host: (await import('node:os')).hostname(), pid: 2 ** 22 + 1, at: Date.now() };
    writeFileSync(join(folder, 'sessions.lock'), JSON.stringify(dead));
    expect(await run(['token'])).toMatchObject({ status: 0 });
  });

  it('says when it has ended', async () => {
    await logIn();
    const { refreshToken } = kept().byApi[apiUrl];
    expect(await run(['logout'])).toMatchObject({ status: 0, out: `Logged out at ${apiUrl}.\n`, err: '' });
    expect(kept()).toEqual({ current: null, byApi: {} });
    await logIn();
    const sessions = kept();
    // The one of before, which the logout has revoked.
    sessions.byApi[apiUrl].refreshToken = refreshToken;
    writeFileSync(join(folder, 'sessions.json'), JSON.stringify(sessions));
    age();
    expect(await run(['token'])).toMatchObject({ status: 1, err: expect.stringContaining('has ended. Log in again') });
    expect(await run(['logout', '--api', 'http://127.0.0.1:1'])).toMatchObject({ status: 1 });
  });
});

describe('a file of tokens that others can read', () => {
  it('is refused, whoever made it so', async () => {
    await logIn();
    const file = join(folder, 'sessions.json');
    chmodSync(file, 0o640);
    expect(await run(['token'])).toMatchObject({ status: 78, err: expect.stringContaining(`chmod 600 ${file}`) });
    chmodSync(file, 0o600);
    chmodSync(folder, 0o755);
    expect(await run(['token'])).toMatchObject({ status: 78, err: expect.stringContaining(`chmod 700 ${folder}`) });
    chmodSync(folder, 0o700);
    expect(await run(['token'])).toMatchObject({ status: 0 });
    const elsewhere = join(dir, 'elsewhere.json');
    writeFileSync(elsewhere, readFileSync(file), { mode: 0o600 });
    rmSync(file);
    symlinkSync(elsewhere, file);
    expect(await run(['token'])).toMatchObject({ status: 78 });
  });

  it('and nothing is written where the folder is open', async () => {
    mkdirSync(folder, { mode: 0o755 });
    chmodSync(folder, 0o755);
    expect(await run(['whoami'])).toMatchObject({ status: 78 });
  });
});
