/** The development issuer’s tokens against the verifier that rhyzome-api uses. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TokenVerifier } from '#libs/auth';
import { apiAudience, type DevIssuer, startIssuer } from './index.js';

let dataDir: string;
let issuer: DevIssuer;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'devissuer-'));
  issuer = await startIssuer({ port: 0, tenants: ['acme', 'globex'], dataDir, accessTokenTtlSeconds: 2 });
});

afterAll(async () => {
  await issuer?.stop();
  await rm(dataDir, { recursive: true, force: true });
});

const makeVerifier = () =>
  new TokenVerifier({
    audience: apiAudience,
    directory: {
      find: (url) => {
        const tenantId = Object.keys(issuer.tenants).find((id) => issuer.tenants[id]!.issuer === url);
        const owner = tenantId ? ({ tenantId, tenantState: 'active', audience: null } as const) : undefined;
        return owner && { jwksUri: null, owner, organizations: new Map() };
      },
    },
  });

async function tokenOf(tenant: string, role: string, scope?: string): Promise<string> {
  const client_id = `${tenant}-${role}`;
  const client_secret = issuer.tenants[tenant]!.clientSecrets[client_id]!;
  const response = await fetch(`${issuer.tenants[tenant]!.issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams({ grant_type: 'client_credentials', client_id, client_secret, ...(scope && { scope }) }),
  });
  return ((await response.json()) as { access_token: string }).access_token;
}

it('issues tokens that Rhyzome accepts, in the right tenant with the right role', async () => {
  const verifier = makeVerifier();
  expect(await verifier.verify(await tokenOf('acme', 'admin'))).toMatchObject({
    tenantId: 'acme',
    subject: 'acme-admin',
    roles: ['admin'],
    scopes: null,
  });
  expect(await verifier.verify(await tokenOf('globex', 'viewer', 'network:read'))).toMatchObject({
    tenantId: 'globex',
    roles: ['viewer'],
    scopes: [{ kind: 'network', verb: 'read' }],
  });
});

it('issues tokens that outlive a restart of the issuer, and expire when they should', async () => {
  const token = await tokenOf('acme', 'operator');
  await issuer.stop();
  issuer = await startIssuer({ port: 0, tenants: ['acme', 'globex'], dataDir, accessTokenTtlSeconds: 2 });
  const verifier = makeVerifier();
  expect(await verifier.verify(token)).toMatchObject({ roles: ['operator'] });
  await new Promise((resolve) => setTimeout(resolve, 2100));
  await expect(verifier.verify(token)).rejects.toThrow('expired');
});
