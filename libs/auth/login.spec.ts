/** The device flow against an issuer that answers as the test says, and what an API says of its issuers. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { endLogin, issuersOf, refreshLogin, startDeviceLogin } from './login.js';

type Reply = { status?: number; body?: object | string; drop?: boolean };

let server: Server;
let url: string;
let device: Record<string, unknown>;
/** What the token endpoint answers, one after the other; the last one stays. */
let answers: Reply[];
let polls: { at: number; form: URLSearchParams }[];
let wellKnown: Reply;

async function formOf(request: IncomingMessage): Promise<URLSearchParams> {
  let text = '';
  for await (const chunk of request) text += String(chunk);
  return new URLSearchParams(text);
}

function answer(response: ServerResponse, { status = 200, body = {}, drop = false }: Reply): void {
  if (drop) return void response.destroy();
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(typeof body === 'string' ? body : JSON.stringify(body));
}

/** Nobody listens there. */
async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

beforeAll(async () => {
  server = createServer(async (request, response) => {
    const form = await formOf(request);
    switch (request.url) {
      case '/issuer/.well-known/openid-configuration':
        return answer(response, {
          body: {
            issuer: `${url}/issuer`,
            token_endpoint: `${url}/token`,
            device_authorization_endpoint: `${url}/device`,
            revocation_endpoint: `${url}/revoke`,
          },
        });
      case '/device':
        if (form.get('client_id') !== 'cli')
          return answer(response, {
            status: 401,
            body: { error: 'invalid_client', error_description: 'Not "this" one' },
          });
        return answer(response, {
          body: { ...device, scope: form.get('scope'), challenge: form.get('code_challenge') },
        });
      case '/token':
        polls.push({ at: Date.now(), form });
        return answer(response, (answers.length > 1 ? answers.shift() : answers[0])!);
      case '/revoke':
        return answer(response, { body: {} });
      default:
        return answer(response, request.url?.startsWith('/.well-known/') ? wellKnown : { status: 404 });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(() => server.close());

beforeEach(() => {
  polls = [];
  device = {
    device_code: 'secret-of-the-device',
    user_code: 'ABCD-EFGH',
    verification_uri: `${url}/enter`,
    expires_in: 600,
    interval: 0.05,
  };
});

const client = () => ({ issuer: `${url}/issuer`, clientId: 'cli' });
const pending = { status: 400, body: { error: 'authorization_pending' } };
const granted = { body: { access_token: 'a', refresh_token: 'r', token_type: 'Bearer', expires_in: 300 } };

describe('the device flow', () => {
  it('waits until the person has decided, with the proof that it was the one who asked', async () => {
    answers = [pending, pending, granted];
    const started = await startDeviceLogin(client(), ['network:read']);
    expect(started).toMatchObject({ userCode: 'ABCD-EFGH', verificationUriComplete: null });
    const tokens = await started.tokens();
    expect(tokens).toMatchObject({ accessToken: 'a', refreshToken: 'r' });
    expect(tokens.expiresAt.getTime()).toBeGreaterThan(Date.now() + 290_000);
    expect(polls).toHaveLength(3);
    expect(polls[0]!.form.get('device_code')).toBe('secret-of-the-device');
    expect(polls[0]!.form.get('code_verifier')).toMatch(/^[\w-]{43,}$/);
  });

  it('asks less often when it is told to slow down', async () => {
    answers = [{ status: 400, body: { error: 'slow_down' } }, granted];
    await (await startDeviceLogin(client(), [])).tokens();
    // RFC 8628, section 3.5: by five seconds.
    expect(polls[1]!.at - polls[0]!.at).toBeGreaterThanOrEqual(5000);
  }, 15_000);

  it('goes on after a connection that failed and after a proxy’s 502', async () => {
    answers = [{ drop: true }, { status: 502, body: 'Bad gateway' }, granted];
    expect(await (await startDeviceLogin(client(), [])).tokens()).toMatchObject({ accessToken: 'a' });
    expect(polls).toHaveLength(3);
  });

  it('ends with words when it was refused, when it took too long, and when it is stopped', async () => {
    answers = [{ status: 400, body: { error: 'access_denied' } }];
    await expect((await startDeviceLogin(client(), [])).tokens()).rejects.toMatchObject({ code: 'login_denied' });
    answers = [{ status: 400, body: { error: 'expired_token' } }];
    await expect((await startDeviceLogin(client(), [])).tokens()).rejects.toMatchObject({ code: 'login_expired' });
    answers = [pending];
    device.expires_in = 1;
    await expect((await startDeviceLogin(client(), [])).tokens()).rejects.toMatchObject({ code: 'login_expired' });
    const stopped = (await startDeviceLogin(client(), [])).tokens(AbortSignal.abort(new Error('stopped')));
    await expect(stopped).rejects.toThrow('stopped');
  });

  it('says what is wrong with the client and with the issuer', async () => {
    await expect(startDeviceLogin({ ...client(), clientId: 'other' }, [])).rejects.toMatchObject({
      code: 'login_refused',
      message: expect.stringMatching(/client other .*invalid_client, Not "this" one/),
    });
    await expect(startDeviceLogin({ issuer: `${url}/nobody`, clientId: 'cli' }, [])).rejects.toMatchObject({
      code: 'login_refused',
    });
    const port = await freePort();
    await expect(startDeviceLogin({ issuer: `http://127.0.0.1:${port}/x`, clientId: 'cli' }, [])).rejects.toMatchObject(
      {
        code: 'issuer_unavailable',
        message: expect.stringContaining('ECONNREFUSED'),
      },
    );
    for (const issuer of ['http://id.example/realms/acme', 'nonsense'])
      await expect(startDeviceLogin({ issuer, clientId: 'cli' }, [])).rejects.toMatchObject({ code: 'issuer_unknown' });
  });
});

describe('afterwards', () => {
  it('gives new tokens, keeps a refresh token that has no successor, and tells an end from an outage', async () => {
    answers = [{ body: { access_token: 'b', token_type: 'Bearer', expires_in: 60 } }];
    expect(await refreshLogin(client(), 'r')).toMatchObject({ accessToken: 'b', refreshToken: 'r' });
    answers = [{ status: 400, body: { error: 'invalid_grant' } }];
    await expect(refreshLogin(client(), 'r')).rejects.toMatchObject({ code: 'session_ended' });
    answers = [{ status: 503, body: 'down' }];
    await expect(refreshLogin(client(), 'r')).rejects.toMatchObject({ code: 'issuer_unavailable' });
    await expect(endLogin(client(), 'r')).resolves.toBeUndefined();
  });
});

describe('what an API says of its issuers (RFC 9728)', () => {
  it('is believed for this API only', async () => {
    wellKnown = { body: { resource: url, authorization_servers: ['https://id.example/realms/acme'] } };
    expect(await issuersOf(url)).toEqual(['https://id.example/realms/acme']);
    expect(await issuersOf(`${url}/`)).toEqual(['https://id.example/realms/acme']);
    wellKnown = { body: { resource: url } };
    expect(await issuersOf(url)).toEqual([]);
    wellKnown = { status: 404 };
    expect(await issuersOf(url)).toEqual([]);
    wellKnown = { body: { resource: 'https://api.example', authorization_servers: ['https://evil.example'] } };
    await expect(issuersOf(url)).rejects.toMatchObject({ code: 'api_unavailable' });
  });

  it('is refused when it is no such thing', async () => {
    for (const reply of [{ body: 'no JSON' }, { status: 500 }, { body: `"${'x'.repeat(70_000)}"` }, { drop: true }]) {
      wellKnown = reply;
      await expect(issuersOf(url)).rejects.toMatchObject({ code: 'api_unavailable' });
    }
  });
});
