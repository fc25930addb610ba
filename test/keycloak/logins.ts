/** All ways in which people and programs of a tenant log in at a real Keycloak, and what their tokens give here. */
import { randomUUID } from 'node:crypto';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectProblem } from '../harness/expect-problem.js';
import { until } from '../harness/until.js';
import { askAsDevice, askForToken, Browser, claimsOf, loginByCode, startDevice } from './browser.js';
import { folderIn, type Lab } from './lab.js';
import { invite, type TestTenant } from './tenant.js';

export function logins(open: () => { lab: Lab; tenant: TestTenant }): void {
  describe('people', () => {
    let lab: Lab;
    let tenant: TestTenant;
    beforeAll(() => ({ lab, tenant } = open()));

    it('log in with a one-time password once, and with their own from then on', async () => {
      const person = await invite(tenant, { name: 'vera', role: 'viewer', email: 'vera@example.org' });
      const first = await loginByCode(tenant.issuer, person);
      expect(first.seen).toEqual(['login', 'new-password']);
      await expect(loginByCode(tenant.issuer, person)).rejects.toThrow('Invalid username or password');
      const own = { username: person.username, password: person.newPassword! };
      const later = await loginByCode(tenant.issuer, own, {
        clientId: 'rhyzome-console',
        redirectUri: 'https://console.example/in',
      });
      expect(later.seen).toEqual(['login']);
      const api = lab.client(later.access_token);
      expect((await api.get('/v1/networks')).status).toBe(200);
      expectProblem(await api.post('/v1/networks', { name: 'n', subnet: '10.0.0.0/24' }), 403, 'forbidden');
      expectProblem(
        await api.get('/v1/networks', { authorization: `Bearer ${later.refresh_token}` }),
        401,
        'unauthenticated',
      );
    });

    it('have the groups and the role in their token that they have here', async () => {
      await tenant.api.make('groups', { name: 'ops' });
      await tenant.api.make('groups', { name: 'dev' });
      const person = await invite(tenant, { name: 'oscar', groups: ['ops', 'dev'] });
      await tenant.api.make('grants', {
        name: 'ops-nets',
        subject: { group: 'ops' },
        verbs: ['*'],
        kinds: ['network'],
      });
      const { access_token } = await loginByCode(tenant.issuer, person);
      const api = lab.client(access_token);
      expect((await api.get('/v1/networks')).status).toBe(200);
      expectProblem(await api.get('/v1/instances'), 403, 'forbidden');
    });

    it('narrow a token by the scopes that they ask for', async () => {
      const { access_token } = await loginByCode(tenant.issuer, tenant.admin, { scope: 'openid network:read' });
      expect(claimsOf(access_token).scope.split(' ')).toContain('network:read');
      const api = lab.client(access_token);
      expect((await api.get('/v1/networks')).status).toBe(200);
      expectProblem(await api.get('/v1/instances'), 403, 'forbidden');
    });

    it('get new tokens for a refresh token, which counts once', async () => {
      const { access_token, refresh_token } = await loginByCode(tenant.issuer, tenant.admin);
      const form = { grant_type: 'refresh_token', refresh_token, client_id: 'rhyzome-cli' };
      const next = await askForToken(tenant.issuer, form);
      expect(next.access_token).not.toBe(access_token);
      expect((await lab.client(next.access_token).get('/v1/networks')).status).toBe(200);
      expect(await askForToken(tenant.issuer, form)).toMatchObject({ status: 400, error: 'invalid_grant' });
    });

    it('log in at a device that has no browser, after they have agreed to it', async () => {
      const device = await startDevice(tenant.issuer);
      expect(await askAsDevice(tenant.issuer, device)).toMatchObject({ error: 'authorization_pending' });
      const browser = new Browser();
      await browser.go(device.verification_uri_complete, tenant.admin);
      expect(browser.seen).toContain('consent');
      const tokens = await until('tokens for the device', async () => {
        const answer = await askAsDevice(tenant.issuer, device);
        return answer.status === 200 ? answer : undefined;
      });
      expect((await lab.client(tokens.access_token).get('/v1/networks')).status).toBe(200);
    });

    it('log in by `rhyzome login`, and are who they are by `rhyzome whoami`', async () => {
      const home = { XDG_CONFIG_HOME: folderIn(lab, 'cli') };
      const login = lab.begin(['login', '--api', lab.api, '--issuer', tenant.issuer], home);
      const address = await until('the address to open', () => /https?:\S+user_code=\S+/.exec(login.said())?.[0]);
      await new Browser().go(address, tenant.admin);
      expect(await login.ended).toMatchObject({ status: 0 });
      const who = await lab.rhyzome(['whoami'], home);
      expect(who).toMatchObject({ status: 0, out: expect.stringContaining(tenant.admin.username) });
      const token = (await lab.rhyzome(['token'], home)).out.trim();
      expect((await lab.client(token).get('/v1/networks')).status).toBe(200);
      expect((await lab.rhyzome(['logout'], home)).status).toBe(0);
      expect((await lab.rhyzome(['token'], home)).status).not.toBe(0);
    });
  });

  describe('programs', () => {
    let lab: Lab;
    let tenant: TestTenant;
    beforeAll(() => ({ lab, tenant } = open()));

    it('log in with a key that only they have (private_key_jwt), and do what grants say', async () => {
      const [mine, other] = [await newKey(), await newKey()];
      const account = await tenant.api.make('serviceaccounts', { name: 'deployer', publicKeys: { keys: [mine.jwk] } });
      const tokens = await askByKey(tenant.issuer, account.clientId, mine);
      expect(tokens).toMatchObject({ status: 200 });
      expect(claimsOf(tokens.access_token).sub).toBe(account.subject);
      const api = lab.client(tokens.access_token);
      expectProblem(await api.get('/v1/networks'), 403, 'forbidden');
      await tenant.api.make('grants', {
        ...{ name: 'deploys', subject: { serviceAccount: 'deployer' }, verbs: ['read'], kinds: ['network'] },
      });
      expect((await api.get('/v1/networks')).status).toBe(200);
      expect(await askByKey(tenant.issuer, account.clientId, other)).toMatchObject({ error: 'invalid_client' });
      await tenant.api.call('DELETE', '/v1/serviceaccounts/deployer?cascade=true&wait=60s');
      expectProblem(await api.get('/v1/networks'), 401, 'unauthenticated');
      expect((await askByKey(tenant.issuer, account.clientId, mine)).status).not.toBe(200);
    });
  });
}

async function newKey() {
  const { publicKey, privateKey } = await generateKeyPair('RS256');
  const kid = randomUUID();
  return { kid, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg: 'RS256', use: 'sig' } };
}

/** Client credentials by an assertion that the key signs (RFC 7523). */
export async function askByKey(issuer: string, clientId: string, key: Awaited<ReturnType<typeof newKey>>) {
  const assertion = await new SignJWT()
    .setProtectedHeader({ alg: 'RS256', kid: key.kid })
    .setIssuer(clientId)
    .setSubject(clientId)
    .setAudience(issuer)
    .setJti(randomUUID())
    .setIssuedAt()
    .setExpirationTime('60s')
    .sign(key.privateKey);
  return askForToken(issuer, {
    grant_type: 'client_credentials',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion,
  });
}
