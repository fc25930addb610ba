/**
 * What the development issuer and a Keycloak both do when the same calls of the admin API are made: admin-api.spec.ts runs
 * it against the one, test/keycloak/keycloak.spec.ts against the other.
 */
import { randomUUID } from 'node:crypto';
import { exportJWK, generateKeyPair } from 'jose';
import * as oidc from 'openid-client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { endLogin, refreshLogin, startDeviceLogin } from '#libs/auth';
import { hashPassword } from '#libs/identity';
import { Browser, submit } from './test-browser.js';

export interface AdminTarget {
  url: string;
  /** Of an administrator of all realms. */
  token(): Promise<string>;
  stop(): Promise<void>;
}

/** A token of the realm master. */
export async function masterToken(url: string, form: Record<string, string>): Promise<string> {
  const response = await fetch(`${url}/realms/master/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams(form),
  });
  return ((await response.json()) as { access_token: string }).access_token;
}

/** To be called in a suite. */
export function adminApiContract(open: () => Promise<AdminTarget>): void {
  const realm = `dev-${randomUUID().slice(0, 8)}`;
  let target: AdminTarget;
  let token: string;

  beforeAll(async () => {
    target = await open();
    token = await target.token();
  });

  afterAll(async () => {
    await call('DELETE', '');
    await target.stop();
  });

  /** Below the realm; '/' alone is the list of realms. */
  async function call(method: string, path: string, body?: unknown) {
    const response = await fetch(`${target.url}/admin/realms${path === '/' ? '' : `/${realm}${path}`}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const made = response.headers.get('location')?.split('/').at(-1);
    return { status: response.status, body: text ? JSON.parse(text) : undefined, made };
  }
  const statusOf = async (...args: Parameters<typeof call>) => (await call(...args)).status;
  const discover = (clientId: string, auth: oidc.ClientAuth = oidc.None()) =>
    oidc.discovery(new URL(`${target.url}/realms/${realm}`), clientId, undefined, auth, {
      execute: [oidc.allowInsecureRequests],
    });

  it('makes a realm once, and says what is not there', async () => {
    expect(await call('GET', '')).toMatchObject({ status: 404, body: { error: 'Realm not found.' } });
    const attributes = { 'rhyzome.installation': 'here' };
    expect(await statusOf('POST', '/', { realm, enabled: true, displayName: 'Acme', attributes })).toBe(201);
    expect(await statusOf('POST', '/', { realm, enabled: true })).toBe(409);
    expect((await call('GET', '')).body).toMatchObject({ realm, enabled: true, displayName: 'Acme', attributes });
    expect(await statusOf('PUT', '', { displayName: 'Acme Ltd' })).toBe(204);
    expect((await call('GET', '')).body).toMatchObject({ enabled: true, displayName: 'Acme Ltd', attributes });
    const bad = await fetch(`${target.url}/admin/realms`, { headers: { authorization: 'Bearer x' } });
    expect(bad.status).toBe(401);
  });

  it('makes roles, groups and people', async () => {
    expect(await call('POST', '/roles', { name: 'operator' })).toMatchObject({ status: 201, made: 'operator' });
    expect(await statusOf('POST', '/roles', { name: 'operator' })).toBe(409);
    expect(await call('GET', '/roles/nothing')).toMatchObject({ status: 404, body: { error: 'Could not find role' } });
    const role = (await call('GET', '/roles/operator')).body;
    const group = (await call('POST', '/groups', { name: 'ops' })).made;
    expect(await statusOf('POST', '/groups', { name: 'ops' })).toBe(409);
    expect((await call('GET', '/groups?search=ops&exact=true')).body).toMatchObject([{ id: group, path: '/ops' }]);
    expect((await call('GET', '/group-by-path/ops')).body).toMatchObject({ id: group });
    expect(await statusOf('GET', '/group-by-path/nothing')).toBe(404);

    const hash = await hashPassword('one-time-1');
    const user = {
      username: 'Max',
      email: 'max@acme.example',
      firstName: 'Max',
      lastName: 'Muster',
      enabled: true,
      requiredActions: ['UPDATE_PASSWORD'],
      credentials: [{ type: 'password', temporary: true, ...hash }],
    };
    const id = (await call('POST', '/users', user)).made;
    expect(await statusOf('POST', '/users', user)).toBe(409);
    expect((await call('GET', '/users?username=max&exact=true')).body).toMatchObject([{ id, username: 'max' }]);
    expect((await call('GET', '/users?username=ma&exact=true')).body).toEqual([]);
    expect((await call('GET', `/users/${id}/credentials`)).body).toMatchObject([{ type: 'password' }]);
    expect(await statusOf('POST', `/users/${id}/role-mappings/realm`, [role])).toBe(204);
    const roles = (await call('GET', `/users/${id}/role-mappings/realm`)).body.map((r: { name: string }) => r.name);
    expect(roles.sort()).toEqual([`default-roles-${realm}`, 'operator']);
    expect(await statusOf('PUT', `/users/${id}/groups/${group}`)).toBe(204);
    expect((await call('GET', `/users/${id}/groups`)).body).toMatchObject([{ id: group, name: 'ops' }]);
    expect((await call('GET', `/groups/${group}/members`)).body).toMatchObject([{ id }]);
    expect(await statusOf('PUT', `/users/${id}/groups/nothing`)).toBe(404);
    expect(await call('DELETE', '/users/nothing')).toMatchObject({ status: 404, body: { error: 'User not found' } });
  });

  it('makes clients, and scopes for them', async () => {
    const mapper = {
      name: 'groups',
      protocol: 'openid-connect',
      protocolMapper: 'oidc-group-membership-mapper',
      config: { 'claim.name': 'groups', 'full.path': 'false', 'access.token.claim': 'true' },
    };
    const audience = {
      name: 'audience',
      protocol: 'openid-connect',
      protocolMapper: 'oidc-audience-mapper',
      config: { 'included.custom.audience': 'urn:rhyzome:api', 'access.token.claim': 'true' },
    };
    const attributes = { 'include.in.token.scope': 'false' };
    const scope = { name: 'rhyzome', protocol: 'openid-connect', attributes, protocolMappers: [mapper, audience] };
    const scopeId = (await call('POST', '/client-scopes', scope)).made;
    expect(await statusOf('POST', '/client-scopes', scope)).toBe(409);
    const narrow = (await call('POST', '/client-scopes', { name: 'network:read', protocol: 'openid-connect' })).made;
    const mappers = (await call('GET', `/client-scopes/${scopeId}/protocol-mappers/models`)).body;
    expect(mappers.map(({ name }: { name: string }) => name).sort()).toEqual(['audience', 'groups']);
    expect(await statusOf('PUT', `/default-default-client-scopes/${scopeId}`)).toBe(204);

    const client = {
      clientId: 'cli',
      publicClient: true,
      redirectUris: ['http://127.0.0.1/*'],
      attributes: { 'oauth2.device.authorization.grant.enabled': 'true', 'pkce.code.challenge.method': 'S256' },
    };
    const id = (await call('POST', '/clients', client)).made;
    expect(await statusOf('POST', '/clients', client)).toBe(409);
    expect((await call('GET', '/clients?clientId=cli')).body).toMatchObject([{ id, clientId: 'cli', enabled: true }]);
    expect(await statusOf('PUT', `/clients/${id}/optional-client-scopes/${narrow}`)).toBe(204);
    const made = (await call('GET', `/clients/${id}`)).body;
    expect(made.defaultClientScopes).toContain('rhyzome');
    expect(made.optionalClientScopes).toContain('network:read');
    expect(await call('GET', '/clients/nothing')).toMatchObject({
      status: 404,
      body: { error: 'Could not find client' },
    });
    expect(await statusOf('GET', '/client-scopes/nothing')).toBe(404);
  });

  it('logs a person in by the device flow, who has to change the one-time password first', async () => {
    const client = { issuer: `${target.url}/realms/${realm}`, clientId: 'cli' };
    const started = await startDeviceLogin(client, ['network:read']);
    const browser = new Browser();
    let page = await browser.visit(started.verificationUriComplete!);
    for (let step = 0; step < 6 && !/success|is logged in/i.test(page.text); step++) {
      const isNew = page.text.includes('name="password-new"');
      if (isNew)
        page = await submit(browser, page, { 'password-new': 'chosen-by-max', 'password-confirm': 'chosen-by-max' });
      else if (page.text.includes('name="password"'))
        page = await submit(browser, page, { username: 'max', password: 'one-time-1' });
      else page = await submit(browser, page, page.text.includes('name="accept"') ? { accept: 'Yes' } : {});
    }
    const tokens = await started.tokens();
    const claims = JSON.parse(Buffer.from(tokens.accessToken.split('.')[1]!, 'base64url').toString());
    const id = (await call('GET', '/users?username=max&exact=true')).body[0].id;
    expect(claims).toMatchObject({ sub: id, azp: 'cli', typ: 'Bearer', preferred_username: 'max', groups: ['ops'] });
    expect([claims.aud].flat()).toContain('urn:rhyzome:api');
    expect(claims.realm_access.roles).toContain('operator');
    expect(claims.scope).toContain('network:read');
    expect(claims.sid).toEqual(expect.any(String));
    expect(claims.exp - claims.iat).toBe(300);

    const again = await refreshLogin(client, tokens.refreshToken!);
    expect(await statusOf('POST', `/users/${id}/logout`)).toBe(204);
    await expect(refreshLogin(client, again.refreshToken!)).rejects.toMatchObject({ code: 'session_ended' });
    await expect(endLogin(client, again.refreshToken!)).resolves.toBeUndefined();
  });

  it('gives a program tokens by its own key, in the name of its service account', async () => {
    const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
    const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }] };
    const id = (
      await call('POST', '/clients', {
        clientId: 'robot',
        standardFlowEnabled: false,
        serviceAccountsEnabled: true,
        clientAuthenticatorType: 'client-jwt',
        attributes: { 'use.jwks.string': 'true', 'jwks.string': JSON.stringify(jwks) },
      })
    ).made;
    const account = (await call('GET', `/clients/${id}/service-account-user`)).body;
    expect(account.username).toBe('service-account-robot');
    const role = (await call('GET', '/roles/operator')).body;
    expect(await statusOf('POST', `/users/${account.id}/role-mappings/realm`, [role])).toBe(204);
    const config = await discover('robot', oidc.PrivateKeyJwt({ key: privateKey, kid: 'k1' }));
    const tokens = await oidc.clientCredentialsGrant(config);
    const claims = JSON.parse(Buffer.from(tokens.access_token.split('.')[1]!, 'base64url').toString());
    expect(claims).toMatchObject({ sub: account.id, azp: 'robot', preferred_username: 'service-account-robot' });
    expect(claims.realm_access.roles).toContain('operator');
    const other = await generateKeyPair('ES256');
    const thief = await discover('robot', oidc.PrivateKeyJwt({ key: other.privateKey, kid: 'k1' }));
    await expect(oidc.clientCredentialsGrant(thief)).rejects.toThrow();
  });

  it('gives nobody tokens while the realm is disabled', async () => {
    const client = { issuer: `${target.url}/realms/${realm}`, clientId: 'cli' };
    expect(await statusOf('PUT', '', { enabled: false })).toBe(204);
    await expect(startDeviceLogin(client, [])).rejects.toMatchObject({ code: 'login_refused' });
    expect(await statusOf('PUT', '', { enabled: true })).toBe(204);
    await expect(startDeviceLogin(client, [])).resolves.toHaveProperty('userCode');
  });

  it('removes all of it', async () => {
    const { id } = (await call('GET', '/users?username=max&exact=true')).body[0];
    expect(await statusOf('DELETE', `/users/${id}`)).toBe(204);
    expect(await statusOf('DELETE', `/users/${id}`)).toBe(404);
    token = await target.token();
    expect((await call('GET', '')).body.displayName).toBe('Acme Ltd');
    expect((await call('GET', '/users?username=max&exact=true')).body).toEqual([]);
    expect(await statusOf('DELETE', '')).toBe(204);
    expect(await statusOf('DELETE', '')).toBe(404);
    expect((await fetch(`${target.url}/realms/${realm}/.well-known/openid-configuration`)).status).toBe(404);
  });
}
