/** Tenants in one realm that they share, each an organization, and tenants that move from one way of being kept to another. */
import { beforeAll, describe, expect, it } from 'vitest';
import { expectProblem } from '../harness/expect-problem.js';
import { claimsOf, loginByCode } from './browser.js';
import type { Lab } from './lab.js';
import { invite, invitedAdmin, newcomer, type TestTenant, tenantWithAdmin } from './tenant.js';

export function modes(open: () => { lab: Lab }): void {
  describe('tenants that share a realm', () => {
    let lab: Lab;
    let one: TestTenant;
    let two: TestTenant;
    beforeAll(async () => {
      ({ lab } = open());
      one = await tenantWithAdmin(lab, 'orgone', '--mode', 'organization');
      two = await tenantWithAdmin(lab, 'orgtwo', '--mode', 'organization');
    }, 180_000);

    it('have one issuer, and their tokens say whose they are', () => {
      expect(one.issuer).toBe(two.issuer);
      expect(claimsOf(one.tokens.access_token)).toMatchObject({ organization: ['orgone'] });
      expect(claimsOf(two.tokens.access_token)).toMatchObject({ organization: ['orgtwo'] });
    });

    it('see nothing of each other', async () => {
      const { id } = await one.api.make('groups', { name: 'ops' });
      expect((await two.api.get('/v1/groups')).body.items).toEqual([]);
      expectProblem(await two.api.get(`/v1/groups/${id}`), 404, 'not_found');
    });

    it('have people with roles and groups of their own, of the same names, too', async () => {
      const inOne = await invite(one, { name: 'otto', role: 'operator', groups: ['ops'] });
      const inTwo = await invite(two, { name: 'otto', role: 'viewer' });
      expect(inOne.username).not.toBe(inTwo.username);
      const claims = claimsOf((await loginByCode(one.issuer, inOne)).access_token);
      expect(claims.groups.sort()).toEqual(['/orgone/groups/ops', '/orgone/roles/operator']);
      const viewer = lab.client((await loginByCode(two.issuer, inTwo)).access_token);
      expectProblem(await viewer.post('/v1/networks', { name: 'n', subnet: '10.0.0.0/24' }), 403, 'forbidden');
    });

    it('get no token for another’s organization', async () => {
      const asked = loginByCode(one.issuer, one.admin, { scope: 'openid organization:orgtwo' });
      const got = await asked.then(
        ({ access_token }) => claimsOf(access_token).organization ?? [],
        () => [],
      );
      expect(got).not.toContain('orgtwo');
    });

    it('are suspended one by one', async () => {
      await lab.ok('tenant', 'suspend', 'orgtwo');
      expect((await two.api.get('/v1/networks')).status).toBe(401);
      expect((await one.api.get('/v1/networks')).status).toBe(200);
      await expect(loginByCode(two.issuer, two.admin)).rejects.toThrow();
      await loginByCode(one.issuer, one.admin);
      await lab.ok('tenant', 'resume', 'orgtwo');
      await loginByCode(two.issuer, two.admin);
    });
  });

  describe('a tenant that moves', () => {
    it('goes from an organization to a realm of its own, with its people, who set new passwords', async () => {
      const { lab } = open();
      const before = await tenantWithAdmin(lab, 'mover', '--mode', 'organization');
      await before.api.make('groups', { name: 'ops' });
      await invite(before, { name: 'mona', role: 'operator', groups: ['ops'] });
      const after = await moved(lab, 'mover', 'realm');
      expect(after.issuer).not.toBe(before.issuer);
      // What the shared realm has signed is nobody's now.
      expect((await before.api.get('/v1/networks')).status).toBe(401);
      const tokens = await loginByCode(after.issuer, after.person);
      const api = lab.client(tokens.access_token);
      expect((await api.get('/v1/users/mona')).body).toMatchObject({ role: 'operator', state: 'ready' });
      const mona = await api.call('POST', '/v1/users/mona/invite?wait=60s', { json: {} });
      expect(mona).toMatchObject({ status: 200, body: { job: { state: 'succeeded' } } });
      const person = newcomer(after.issuer, 'mover', 'mona', mona.body.oneTimePassword);
      const claims = claimsOf((await loginByCode(after.issuer, person)).access_token);
      expect(claims.groups).toContain('/ops');
      expect(claims.realm_access.roles).toContain('operator');
    });
  });
}

async function moved(lab: Lab, id: string, to: 'realm' | 'organization') {
  await lab.ok('tenant', 'move', id, '--to', to);
  return invitedAdmin(lab, id);
}
