/**
 * Rhyzome on a real Keycloak: one server and one installation for all suites, in the order in which they stand here. Each
 * suite is a file of its own. Skipped where there is no Keycloak; the name of the suite then says how to get it.
 */
import { afterAll, beforeAll, describe } from 'vitest';
import { adminApiContract, masterToken } from '../../libs/devissuer/admin-api.contract.js';
import { changes } from './changes.js';
import { Lab, missing, openServer } from './lab.js';
import { logins } from './logins.js';
import { modes } from './modes.js';
import { outage } from './outage.js';
import { provisioning } from './provisioning.js';
import { type TestTenant, tenantWithAdmin } from './tenant.js';

const why = missing ? ` (skipped: ${missing})` : '';
// Before any suite is known: that of the library wants to know where it is.
const server = missing ? undefined : await openServer();
if (server) process.env.KEYCLOAK_URL = server.keycloak.url;
afterAll(async () => {
  delete process.env.KEYCLOAK_URL;
  await server?.close();
}, 60_000);

describe.skipIf(!server)(`on a real Keycloak${why}`, { timeout: 180_000 }, () => {
  let lab: Lab;
  let tenant: TestTenant;
  beforeAll(async () => {
    lab = await Lab.open(server!);
    tenant = await tenantWithAdmin(lab, 'acme');
  }, 400_000);
  afterAll(() => lab?.close(), 120_000);

  logins(() => ({ lab, tenant }));
  outage(() => ({ lab, tenant }));
  provisioning(() => ({ lab }));
  modes(() => ({ lab }));
  changes(() => ({ lab, tenant }));
});

// That the development issuer is like it.
describe.skipIf(!server)(`a Keycloak's admin API${why}`, { timeout: 180_000 }, () =>
  adminApiContract(async () => {
    const { url } = server!.keycloak;
    const { KEYCLOAK_ADMIN: username = 'admin', KEYCLOAK_ADMIN_PASSWORD: password = 'admin' } = process.env;
    const form = { grant_type: 'password', client_id: 'admin-cli', username, password };
    return { url, token: () => masterToken(url, form), stop: async () => undefined };
  }),
);

await import('../../libs/identity/keycloak.contract.js');
await import('../../libs/identity/keycloak-crashes.contract.js');
