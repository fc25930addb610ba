/** Rhyzome on a real Keycloak. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KeycloakIdentity, hashPassword } from '#libs/identity';
import { askAsDevice, askForToken, Browser, claimsOf, loginByCode, startDevice, textOf } from './browser.js';
import { Lab, missing } from './lab.js';

describe.skipIf(missing !== undefined)(`on a real Keycloak${missing ? ` (${missing})` : ''}`, { timeout: 120_000 }, () => {
  let lab: Lab;
  beforeAll(async () => {
    const t = Date.now();
    lab = await Lab.open();
    console.log('open', Date.now() - t);
  }, 400_000);
  afterAll(() => lab?.close(), 120_000);

  it('logs in', async () => {
    const identity = new KeycloakIdentity({ ...JSON.parse((await import('node:fs')).readFileSync(lab.config, 'utf8')).keycloak, mode: 'realm', adminRealm: 'master', sharedRealm: 'rhyzome', realmPrefix: '', installationId: 'x', audience: 'urn:rhyzome:api' });
    const place = { tenantId: 'acme', mode: 'realm', displayName: 'Acme' } as const;
    const { issuer } = await identity.putPlace(place, ['network:read']);
    await identity.putUser(place, { name: 'ada', enabled: true, role: 'admin', groups: [], email: 'ada@acme.example', password: await hashPassword('one-time-password-1') });
    await lab.ok('tenant', 'create', 'acme', '--issuer', issuer);
    const tokens = await loginByCode(issuer, { username: 'ada', password: 'one-time-password-1', newPassword: 'correct-horse-1' });
    console.log(tokens.seen, claimsOf(tokens.access_token));
    expect((await lab.client(tokens.access_token).get('/v1/networks')).status).toBe(200);
    const d = await startDevice(issuer);
    console.log(d, await askAsDevice(issuer, d));
    const b = new Browser();
    const p = await b.go(d.verification_uri_complete, { username: 'ada', password: 'correct-horse-1' });
    console.log(b.seen, textOf(p.html).slice(0, 300));
    console.log(Object.keys(await askAsDevice(issuer, d)));
  });
});
