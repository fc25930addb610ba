/** A Keycloak that hangs, or is gone: logins stop, requests with valid tokens do not, jobs wait and go on afterwards. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../harness/until.js';
import { loginByCode } from './browser.js';
import type { Lab } from './lab.js';
import { logInAgain, newcomer, type TestTenant } from './tenant.js';

export function outage(open: () => { lab: Lab; tenant: TestTenant }): void {
  describe('while Keycloak is away', () => {
    let lab: Lab;
    let tenant: TestTenant;
    beforeAll(async () => {
      ({ lab, tenant } = open());
      await logInAgain(lab, tenant);
    });
    afterEach(() => lab.keycloak.resume());

    it('requests are served as before, logins are not, and a new user is there when it is back', async () => {
      const fresh = await loginByCode(tenant.issuer, tenant.admin);
      const api = lab.client(tenant.tokens.access_token);
      expect((await api.get('/v1/networks')).status).toBe(200);
      lab.keycloak.freeze();
      const times: number[] = [];
      for (let i = 0; i < 40; i++) {
        const started = performance.now();
        expect((await api.get('/v1/networks')).status).toBe(200);
        times.push(performance.now() - started);
      }
      // A token that was never seen: its key is known.
      expect((await lab.client(fresh.access_token).get('/v1/networks')).status).toBe(200);
      expect(times.sort((a, b) => a - b)[20]).toBeLessThan(1000);
      // A server that starts now: what the one before it read serves.
      await lab.kill('api');
      lab.start('api');
      await lab.serving('api');
      expect((await lab.client(fresh.access_token).get('/v1/networks')).status).toBe(200);
      const login = fetch(`${tenant.issuer}/.well-known/openid-configuration`, { signal: AbortSignal.timeout(1000) });
      await expect(login).rejects.toThrow();

      const asked = await api.post('/v1/users', { name: 'late', role: 'viewer' });
      expect(asked.status).toBe(202);
      await until(
        'the job waits, and says for what',
        async () => {
          const { state, message } = (await api.get(`/v1/jobs/${asked.body.job.id}`)).body;
          return state === 'waiting' && message.startsWith('Keycloak is away');
        },
        60_000,
      );
      lab.keycloak.resume();
      await until('the user', async () => (await api.get('/v1/users/late')).body.state === 'ready', 90_000, 250);
      const person = newcomer(tenant.issuer, tenant.id, 'late', asked.body.oneTimePassword);
      const tokens = await loginByCode(tenant.issuer, person);
      expect((await lab.client(tokens.access_token).get('/v1/networks')).status).toBe(200);
    });
  });
}
