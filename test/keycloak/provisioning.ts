/** `rhyzome tenant` at a real Keycloak: what it makes, made again, broken off in the middle, and taken away. */
import { describe, expect, it } from 'vitest';
import { until } from '../harness/until.js';
import { loginByCode } from './browser.js';
import type { Lab } from './lab.js';
import { createTenant, firstLogin, invitedAdmin, newcomer, type TestTenant } from './tenant.js';

export function provisioning(open: () => { lab: Lab }): void {
  describe('rhyzome tenant', () => {
    let fresh: TestTenant;

    it('makes a realm with all that its people need, and nothing that is open to anyone', async () => {
      const { lab } = open();
      const { issuer, person } = await createTenant(lab, 'fresh');
      await keepsNowhere(lab, person.password);
      fresh = await firstLogin(lab, 'fresh', { issuer, person });
      const realm = await lab.admin.call('GET', '/fresh');
      expect(realm).toMatchObject({
        enabled: true,
        registrationAllowed: false,
        bruteForceProtected: true,
        revokeRefreshToken: true,
        accessTokenLifespan: 300,
      });
      const clients = await lab.admin.call<any[]>('GET', '/fresh/clients');
      const ours = clients.filter(({ clientId }) => clientId.startsWith('rhyzome-'));
      expect(ours.map(({ clientId }) => clientId).sort()).toEqual(['rhyzome-cli', 'rhyzome-console']);
      for (const client of ours)
        expect(client).toMatchObject({
          publicClient: true,
          implicitFlowEnabled: false,
          directAccessGrantsEnabled: false,
        });
      const roles = await lab.admin.call<any[]>('GET', '/fresh/roles');
      expect(roles.map(({ name }) => name)).toEqual(expect.arrayContaining(['admin', 'operator', 'viewer']));
      const scopes = await lab.admin.call<any[]>('GET', '/fresh/client-scopes');
      expect(scopes.map(({ name }) => name)).toEqual(
        expect.arrayContaining(['rhyzome', 'network:read', 'grant:create']),
      );
      expect((await lab.json('tenant', 'show', 'fresh')).issuers).toEqual([expect.objectContaining({ issuer })]);
    });

    it('takes a tenant away with its realm', async () => {
      const { lab } = open();
      await lab.ok('tenant', 'delete', 'fresh', '--force');
      expect((await fresh.api.get('/v1/networks')).status).toBe(401);
      await until('the realm is gone', async () => !(await lab.admin.realmExists('fresh')));
      expect((await lab.rhyzome(['tenant', 'show', 'fresh'])).status).toBe(3);
    });

    it.each([400, 2500])('is broken off after %s ms, run again, and ends as if nothing had been', async (ms) => {
      const { lab } = open();
      const id = `broken${ms}`;
      const args = ['tenant', 'create', id, '--admin', `${id}admin`, '--admin-email', `${id}@example.org`, '--json'];
      const first = lab.begin(args);
      await new Promise((done) => setTimeout(done, ms));
      first.kill();
      await lab.kill('grpc');
      lab.start('grpc');
      await Promise.all([first.ended, lab.serving('grpc')]);
      const login = await finished(lab, id, args);
      expect((await loginByCode(login.issuer, login.person)).access_token).toBeTruthy();
      expect((await lab.admin.call<any[]>('GET', `/${id}/users`)).map(({ username }) => username)).toEqual([
        `${id}admin`,
      ]);
    });

    it('leaves alone what somebody else made', async () => {
      const { lab } = open();
      await lab.admin.call('POST', '', { realm: 'taken', displayName: 'not Rhyzome’s', enabled: true });
      const outcome = await lab.rhyzome(['tenant', 'create', 'taken', '--admin', 'takenadmin']);
      expect(outcome.status).not.toBe(0);
      expect(await lab.admin.call('GET', '/taken')).toMatchObject({ displayName: 'not Rhyzome’s', enabled: true });
      expect(await lab.admin.call('GET', '/taken/users')).toEqual([]);
    });
  });
}

/** No password in tables or logs. */
async function keepsNowhere(lab: Lab, secret: string): Promise<void> {
  expect(secret.length).toBeGreaterThan(15);
  for (const name of ['api', 'grpc'] as const) expect(lab.log(name)).not.toContain(secret);
  // The rows can be seen at all.
  expect(await lab.rowsWith('resource', 'freshadmin')).toBeGreaterThan(0);
  const tables = ['job', 'job_step', 'audit', 'event', 'idempotency', 'resource', 'tenant_user'];
  for (const table of tables) expect(await lab.rowsWith(table, secret), table).toBe(0);
}

/** The same again. Where the first run got so far that the administrator was asked for, a new password is needed. */
async function finished(lab: Lab, id: string, args: string[]) {
  const made = JSON.parse((await lab.rhyzome(args)).out);
  const { oneTimePassword } = made.admin;
  if (!oneTimePassword) return invitedAdmin(lab, id);
  const [{ issuer }] = made.issuers;
  return { issuer, person: newcomer(issuer, id, `${id}admin`, oneTimePassword) };
}
