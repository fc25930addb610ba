/** What takes effect when: keys that come and go, people who are disabled or removed, tenants that are suspended. */
import { decodeProtectedHeader } from 'jose';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectProblem } from '../harness/expect-problem.js';
import { until } from '../harness/until.js';
import { askForToken, loginByCode } from './browser.js';
import type { Lab } from './lab.js';
import { invite, logInAgain, type TestTenant } from './tenant.js';

const kidOf = (token: string) => decodeProtectedHeader(token).kid;

export function changes(open: () => { lab: Lab; tenant: TestTenant }): void {
  describe('what takes effect when:', () => {
    let lab: Lab;
    let tenant: TestTenant;
    beforeAll(async () => {
      ({ lab, tenant } = open());
      await logInAgain(lab, tenant);
    });
    const status = async (token: string) => (await lab.client(token).get('/v1/networks')).status;

    describe('signing keys', () => {
      it('that are new count with their first token; withdrawn ones are refused within a minute', async () => {
        const before = (await loginByCode(tenant.issuer, tenant.admin)).access_token;
        expect(await status(before)).toBe(200);
        await lab.admin.addKey(tenant.realm, 'rotated', 200);
        const after = (await loginByCode(tenant.issuer, tenant.admin)).access_token;
        expect(kidOf(after)).not.toBe(kidOf(before));
        expect(await status(after)).toBe(200);
        // Both are published for now.
        expect(await status(before)).toBe(200);
        await lab.admin.withdrawKey(tenant.realm, 'rsa-generated');
        const withdrawn = Date.now();
        await until('refusal of the withdrawn key', async () => (await status(before)) === 401, 60_000, 500);
        expect(Date.now() - withdrawn).toBeLessThan(60_000);
        expect(await status(after)).toBe(200);
        await logInAgain(lab, tenant);
      });
    });

    describe('people', () => {
      it('who are disabled are refused with the next request, and come back when they are enabled', async () => {
        const person = await invite(tenant, { name: 'dora', role: 'viewer' });
        const { access_token, refresh_token } = await loginByCode(tenant.issuer, person);
        const own = { username: person.username, password: person.newPassword! };
        expect(await status(access_token)).toBe(200);
        await tenant.api.call('POST', '/v1/users/dora/disable?wait=60s', { json: {} });
        const refused = await until('refusal', async () => (await status(access_token)) === 401, 3000, 20);
        expect(refused).toBe(true);
        await expect(loginByCode(tenant.issuer, own)).rejects.toThrow(/disabled/i);
        const form = { grant_type: 'refresh_token', refresh_token, client_id: 'rhyzome-cli' };
        expect((await askForToken(tenant.issuer, form)).error).toBe('invalid_grant');
        await tenant.api.call('POST', '/v1/users/dora/enable?wait=60s', { json: {} });
        const again = await loginByCode(tenant.issuer, own);
        expect(await status(again.access_token)).toBe(200);
      });

      it('who are removed are refused, and gone from Keycloak', async () => {
        const person = await invite(tenant, { name: 'rita', role: 'viewer' });
        const { access_token } = await loginByCode(tenant.issuer, person);
        await tenant.api.remove('users', 'rita');
        expectProblem(await lab.client(access_token).get('/v1/networks'), 401, 'unauthenticated');
        expect(await lab.admin.user(tenant.realm, person.username)).toBeUndefined();
      });

      it('get another role with their next token', async () => {
        const person = await invite(tenant, { name: 'petra', role: 'viewer' });
        const { refresh_token } = await loginByCode(tenant.issuer, person);
        await tenant.api.call('PATCH', '/v1/users/petra?wait=60s', { json: { role: 'operator' } });
        const form = { grant_type: 'refresh_token', refresh_token, client_id: 'rhyzome-cli' };
        const { access_token } = await askForToken(tenant.issuer, form);
        expectProblem(
          await lab.client(access_token).post('/v1/networks', { name: 'n', subnet: 'nonsense' }),
          422,
          'invalid',
        );
      });
    });

    describe('a suspended tenant', () => {
      it('is refused at once, cannot log in, and goes on as before when that ends', async () => {
        const { access_token } = await loginByCode(tenant.issuer, tenant.admin);
        expect(await status(access_token)).toBe(200);
        await lab.ok('tenant', 'suspend', tenant.id);
        expect(await status(access_token)).toBe(401);
        await expect(loginByCode(tenant.issuer, tenant.admin)).rejects.toThrow();
        await lab.ok('tenant', 'resume', tenant.id);
        await until('the tenant comes in again', async () => (await status(access_token)) === 200, 10_000);
        await loginByCode(tenant.issuer, tenant.admin);
      });
    });
  });
}
