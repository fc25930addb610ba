/**
 * KeycloakIdentity against a real Keycloak: all calls in both modes, done twice, and what a token says then.
 * test/keycloak/keycloak.spec.ts starts one and runs this; without it this suite is skipped and says so.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hashPassword, type KeptPlace, KeycloakIdentity, type LoginPlace } from './index.js';
import {
  admin,
  byKey,
  byPassword,
  claimsOf,
  makeClient,
  open,
  prefix,
  programKey,
  removeAll,
  scopes,
  settle,
  shared,
  tokenOf,
  url,
  userOf,
  why,
} from './test-keycloak.js';

const acme: LoginPlace = { tenantId: 'acme', mode: 'realm', displayName: 'Acme Ltd' };

async function placesOf(of: KeycloakIdentity = identity): Promise<string[]> {
  const all: string[] = [];
  for await (const { tenantId, mode } of of.listPlaces()) all.push(`${mode} ${tenantId}`);
  return all.sort();
}

async function accountsOf(place: KeptPlace, of: KeycloakIdentity = identity): Promise<string[]> {
  const all: string[] = [];
  for await (const page of of.listAccounts(place)) for (const { sort, name } of page) all.push(`${sort} ${name}`);
  return all.sort();
}

let identity: KeycloakIdentity;

describe.skipIf(url === undefined)(`Keycloak${why}`, { timeout: 180_000 }, () => {
  beforeAll(async () => {
    await makeClient();
    identity = open();
  }, 120_000);

  afterAll(async () => {
    identity.close();
    await removeAll(['acme', 'taken']);
  }, 180_000);

  describe('a realm of the tenant’s own', () => {
    const realm = `${prefix}acme`;

    it('is made, and made again without a change', async () => {
      const address = { issuer: `${url}/realms/${realm}`, organization: null };
      expect(await identity.putPlace(acme, scopes)).toEqual(address);
      const before = await admin.get(`/${realm}`);
      const clients = await admin.get<any[]>(`/${realm}/clients`);
      expect(before).toMatchObject({
        displayName: 'Acme Ltd',
        enabled: true,
        sslRequired: 'external',
        bruteForceProtected: true,
        accessTokenLifespan: 300,
        revokeRefreshToken: true,
        registrationAllowed: false,
      });
      expect(clients.find((c) => c.clientId === 'rhyzome-console')).toMatchObject({
        publicClient: true,
        directAccessGrantsEnabled: false,
        redirectUris: ['https://console.example/*'],
        attributes: expect.objectContaining({ 'pkce.code.challenge.method': 'S256' }),
      });
      expect(clients.find((c) => c.clientId === 'rhyzome-cli').optionalClientScopes).toEqual(
        expect.arrayContaining(scopes),
      );
      expect(await identity.putPlace({ ...acme, displayName: 'Acme' }, scopes)).toEqual(address);
      expect(await admin.get(`/${realm}`)).toEqual({ ...before, displayName: 'Acme' });
      const sorted = (all: any[]) =>
        all.map((c) => ({ ...c, optionalClientScopes: c.optionalClientScopes.toSorted(), defaultClientScopes: 0 }));
      expect(sorted(await admin.get(`/${realm}/clients`))).toEqual(sorted(clients));
    });

    it('goes on where its making had stopped, and gets what was taken from it again', async () => {
      const [cli] = await admin.get<any[]>(`/${realm}/clients?clientId=rhyzome-cli`);
      const all = await admin.get<any[]>(`/${realm}/client-scopes`);
      const scope = all.find(({ name }) => name === 'rhyzome');
      await admin.raw('DELETE', `/${realm}/clients/${cli.id}`);
      await admin.raw(
        'DELETE',
        `/${realm}/client-scopes/${scope.id}/protocol-mappers/models/${scope.protocolMappers[0].id}`,
      );
      await admin.raw('DELETE', `/${realm}/roles/viewer`);
      await identity.putPlace(acme, [...scopes, 'disk:read']);
      expect(await admin.get(`/${realm}/roles/viewer`)).toMatchObject({ name: 'viewer' });
      const [again] = await admin.get<any[]>(`/${realm}/clients?clientId=rhyzome-cli`);
      expect(again.optionalClientScopes).toContain('disk:read');
      const mended = (await admin.get<any[]>(`/${realm}/client-scopes`)).find(({ name }) => name === 'rhyzome');
      expect(mended.protocolMappers.map(({ name }: any) => name).sort()).toEqual([
        'rhyzome audience',
        'rhyzome groups',
      ]);
    });

    it('has users with roles and groups, whose tokens say so', async () => {
      await identity.putGroup(acme, 'ops');
      await identity.putGroup(acme, 'ops');
      const alice = { name: 'a', enabled: true, role: 'admin', groups: ['ops'], email: 'a@acme.example' } as const;
      const password = await hashPassword('one-time-of-a');
      const { subject } = await identity.putUser(acme, { ...alice, password });
      // Right, and has to be changed first.
      expect(await byPassword(realm, 'a', 'one-time-of-a')).toMatchObject({
        error_description: 'Account is not fully set up',
      });
      await settle(realm, 'a', 'a password of her own');
      // A repetition, as after a crash, takes nothing back.
      expect(await identity.putUser(acme, { ...alice, password })).toEqual({ subject });
      const claims = claimsOf(await byPassword(realm, 'a', 'a password of her own', 'network:read'));
      expect(claims).toMatchObject({ sub: subject, groups: ['/ops'], iss: `${url}/realms/${realm}` });
      expect(claims.aud).toContain('urn:rhyzome:api');
      expect(claims.realm_access.roles).toContain('admin');
      expect(claims.scope.split(' ')).toContain('network:read');

      expect(await placesOf()).toEqual(['realm acme']);
      expect(await accountsOf(acme)).toEqual(['group ops', 'user a']);
      await identity.putUser(acme, { ...alice, role: 'viewer', groups: [], email: null });
      const later = claimsOf(await byPassword(realm, 'a', 'a password of her own'));
      expect(later.realm_access.roles).toContain('viewer');
      expect(later.realm_access.roles).not.toContain('admin');
      expect(later.groups ?? []).toEqual([]);
      expect((await userOf(realm, 'a')).email).toBeUndefined();
    });

    it('ends sessions, disables and removes', async () => {
      const session = await byPassword(realm, 'a', 'a password of her own');
      await identity.endSessions(acme, 'a');
      const refresh = { grant_type: 'refresh_token', client_id: 'by-password', refresh_token: session.refresh_token! };
      expect(await tokenOf(`${url}/realms/${realm}`, refresh)).toMatchObject({ error: 'invalid_grant' });
      await identity.putUser(acme, { name: 'a', enabled: false, role: 'viewer', groups: [] });
      expect(await byPassword(realm, 'a', 'a password of her own')).toMatchObject({
        error_description: 'Account disabled',
      });
      await identity.removeUser(acme, 'a');
      await identity.removeUser(acme, 'a');
      expect(await userOf(realm, 'a')).toBeUndefined();
      await identity.removeGroup(acme, 'ops');
      await identity.removeGroup(acme, 'ops');
      await expect(
        identity.putUser(acme, { name: 'a', enabled: true, role: null, groups: ['ops'] }),
      ).rejects.toMatchObject({ code: 'not_found' });
    });

    it('has programs that log in with their own keys', async () => {
      const [first, second] = [await programKey(), await programKey()];
      const made = await identity.putProgram(acme, { name: 'deploy', jwks: first.jwks });
      expect(made.clientId).toBe('acme.deploy');
      const claims = claimsOf(await byKey(realm, made.clientId, first));
      expect(claims).toMatchObject({ sub: made.subject });
      expect(claims.aud).toContain('urn:rhyzome:api');
      expect(await identity.putProgram(acme, { name: 'deploy', jwks: second.jwks })).toEqual(made);
      expect(await byKey(realm, made.clientId, first)).toHaveProperty('error');
      expect(await byKey(realm, made.clientId, second)).toHaveProperty('access_token');
      await identity.putScopes(acme, [...scopes, 'snapshot:read']);
      const [client] = await admin.get<any[]>(`/${realm}/clients?clientId=acme.deploy`);
      expect(client.optionalClientScopes).toContain('snapshot:read');
      await identity.removeProgram(acme, 'deploy');
      await identity.removeProgram(acme, 'deploy');
      expect(await byKey(realm, made.clientId, second)).toHaveProperty('error');
    });

    it('lets nobody in while it is closed', async () => {
      await identity.putUser(acme, { name: 'carol', enabled: true, role: 'viewer', groups: [] });
      await settle(realm, 'carol', 'a password of her own');
      const session = await byPassword(realm, 'carol', 'a password of her own');
      await identity.setPlaceEnabled(acme, false);
      expect(await byPassword(realm, 'carol', 'a password of her own')).toHaveProperty('error');
      await identity.setPlaceEnabled(acme, true);
      const refresh = { grant_type: 'refresh_token', client_id: 'by-password', refresh_token: session.refresh_token! };
      expect(await tokenOf(`${url}/realms/${realm}`, refresh)).toHaveProperty('error');
      expect(await byPassword(realm, 'carol', 'a password of her own')).toHaveProperty('access_token');
    });

    it('leaves alone what somebody else made', async () => {
      await admin.raw('POST', '', { realm: `${prefix}taken`, enabled: true });
      const taken: LoginPlace = { ...acme, tenantId: 'taken' };
      await expect(identity.putPlace(taken, scopes)).rejects.toMatchObject({ code: 'conflict' });
      await expect(identity.removePlace(taken)).rejects.toMatchObject({ code: 'conflict' });
      expect(await admin.get(`/${prefix}taken`)).toMatchObject({ enabled: true });

      const stranger = open({ installationId: randomUUID() });
      await expect(stranger.putPlace(acme, scopes)).rejects.toMatchObject({ code: 'conflict' });
      await expect(stranger.removePlace(acme)).rejects.toMatchObject({ code: 'conflict' });
      await expect(stranger.setPlaceEnabled(acme, false)).rejects.toMatchObject({ code: 'conflict' });
      stranger.close();

      await admin.raw('POST', `/${realm}/users`, { username: 'by-hand', enabled: true });
      const put = identity.putUser(acme, { name: 'by-hand', enabled: false, role: 'admin', groups: [] });
      await expect(put).rejects.toMatchObject({ code: 'conflict' });
      await identity.removeUser(acme, 'by-hand');
      expect(await userOf(realm, 'by-hand')).toMatchObject({ enabled: true });
    });

    it('is removed with all that is in it, once and again', async () => {
      await identity.removePlace(acme);
      await identity.removePlace(acme);
      expect(await admin.get(`/${realm}`)).toBeUndefined();
      await expect(identity.putGroup(acme, 'ops')).rejects.toMatchObject({ code: 'conflict' });
      await identity.removeUser(acme, 'carol');
    });
  });

  describe('an organization of a shared realm', () => {
    const place: LoginPlace = { ...acme, mode: 'organization' };
    const other: LoginPlace = { tenantId: 'globex', mode: 'organization', displayName: 'Globex' };
    const own = 'a password of her own';

    it('is made beside others, with people of the same name', async () => {
      const address = { issuer: `${url}/realms/${shared}`, organization: 'acme' };
      expect(await identity.putPlace(place, scopes)).toEqual(address);
      expect(await identity.putPlace(place, scopes)).toEqual(address);
      expect(await identity.putPlace(other, scopes)).toMatchObject({ organization: 'globex' });
      for (const one of [place, other]) {
        await identity.putGroup(one, 'ops');
        await identity.putUser(one, {
          name: 'alice',
          enabled: true,
          role: 'operator',
          groups: ['ops'],
          email: 'a@x.example',
        });
        await settle(shared, `alice@${one.tenantId}`, own);
      }
      const claims = claimsOf(await byPassword(shared, 'alice@acme', own));
      expect(claims).toMatchObject({ organization: ['acme'], iss: address.issuer });
      expect(claims.aud).toContain('urn:rhyzome:api');
      expect(claims.groups.sort()).toEqual(['/acme/groups/ops', '/acme/roles/operator']);
      const globex = claimsOf(await byPassword(shared, 'alice@globex', own));
      expect(globex.organization).toEqual(['globex']);
      expect(globex.sub).not.toBe(claims.sub);
      await identity.putUser(place, { name: 'alice', enabled: true, role: null, groups: ['ops'] });
      expect((await userOf(shared, 'alice@acme')).email).toBeUndefined();
      await identity.putUser(place, {
        name: 'alice',
        enabled: true,
        role: null,
        groups: ['ops'],
        email: 'b@x.example',
      });
      expect(claimsOf(await byPassword(shared, 'alice@acme', own)).groups).toEqual(['/acme/groups/ops']);
    });

    it('has programs of its own', async () => {
      const key = await programKey();
      const made = await identity.putProgram(place, { name: 'deploy', jwks: key.jwks });
      expect(await identity.putProgram(place, { name: 'deploy', jwks: key.jwks })).toEqual(made);
      expect(claimsOf(await byKey(shared, made.clientId, key))).toMatchObject({
        sub: made.subject,
        organization: ['acme'],
      });
    });

    it('is closed for its own people only, and opened for those who were not disabled', async () => {
      const bob = { name: 'bob', enabled: false, role: null, groups: [] };
      expect(await identity.putUser(place, bob)).toEqual(await identity.putUser(place, bob));
      await identity.setPlaceEnabled(place, false);
      expect(await byPassword(shared, 'alice@acme', own)).toMatchObject({ error_description: 'Account disabled' });
      expect(await byPassword(shared, 'alice@globex', own)).toHaveProperty('access_token');
      // One who is made meanwhile waits, too.
      await identity.putUser(place, { name: 'carol', enabled: true, role: null, groups: [] });
      expect(await userOf(shared, 'carol@acme')).toMatchObject({ enabled: false });
      await identity.setPlaceEnabled(place, true);
      expect(await byPassword(shared, 'alice@acme', own)).toHaveProperty('access_token');
      expect(await userOf(shared, 'carol@acme')).toMatchObject({ enabled: true });
      expect(await userOf(shared, 'alice@acme')).toMatchObject({ enabled: true, email: 'b@x.example' });
      expect(await userOf(shared, 'bob@acme')).toMatchObject({ enabled: false });
    });

    it('lists what this installation made, in it and beside it, and nothing else', async () => {
      await admin.raw('POST', `/${shared}/users`, { username: 'stranger@acme', enabled: true });
      await admin.raw('POST', `/${shared}/organizations`, { name: 'theirs', alias: 'theirs', domains: [] });
      expect(await placesOf()).toEqual(['organization acme', 'organization globex']);
      expect(await accountsOf(place)).toEqual(['group ops', 'program deploy', 'user alice', 'user bob', 'user carol']);
      expect(await accountsOf({ tenantId: 'theirs', mode: 'organization' })).toEqual([]);
      expect(await accountsOf({ tenantId: 'nobody', mode: 'realm' })).toEqual([]);
      const others = open({ installationId: randomUUID() });
      expect(await placesOf(others)).toEqual([]);
      expect(await accountsOf(place, others)).toEqual([]);
      others.close();
      const [theirs] = await admin.get<any[]>(`/${shared}/organizations?search=theirs&exact=true`);
      await admin.raw('DELETE', `/${shared}/organizations/${theirs.id}`);
    });

    it('is removed with its people, and nobody else’s', async () => {
      await identity.removePlace(place);
      await identity.removePlace(place);
      expect(await userOf(shared, 'alice@acme')).toBeUndefined();
      expect(await admin.get(`/${shared}/clients?clientId=acme.deploy`)).toEqual([]);
      expect(await admin.get<any[]>(`/${shared}/organizations`)).toMatchObject([{ alias: 'globex' }]);
      expect((await admin.get<any[]>(`/${shared}/groups`)).map(({ path }) => path)).toEqual(['/globex']);
      expect(await byPassword(shared, 'alice@globex', own)).toHaveProperty('access_token');
    });
  });

  it('says that it is away, and why, without a secret', async () => {
    const wrong = new KeycloakIdentity({ ...(open() as any).settings, clientSecret: 'another secret' });
    const refused = await wrong.putPlace(acme, []).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'identity_provider_unavailable' });
    expect(String((refused as Error).message)).not.toContain('another secret');
    wrong.close();
  });
});
