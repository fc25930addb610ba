/**
 * `rhyzome tenant` with a real Keycloak: provisioning in both modes, a first login with the one-time password, suspension,
 * a move and a deletion, as Keycloak and the tokens show them. Skipped, with its reason, where KEYCLOAK_URL names none.
 */
import 'reflect-metadata';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { type KeycloakIdentity, provideIdentity } from '#libs/identity';
import { kinds } from '#libs/kinds';
import { narrowingScopes } from '#libs/kinds/realm';
import { type Platform, startPlatform } from '#libs/testing';
import {
  admin,
  byPassword,
  claimsOf,
  makeClient,
  open,
  prefix,
  removeAll,
  settle,
  shared,
  url,
  userOf,
  why,
} from '../../../libs/identity/test-keycloak.js';
import { runCli } from '../program.js';

let platform: Platform;
let identity: KeycloakIdentity;
let dir: string;
const id = `t${newId().replaceAll('-', '').slice(-10)}`;
const realm = prefix + id;

async function ok(...args: string[]): Promise<string> {
  const told = { out: '', err: '' };
  const status = await runCli(['--config', join(dir, 'rhyzome-api.json'), ...args], {
    out: (text) => {
      told.out += text;
    },
    err: (text) => {
      told.err += text;
    },
  });
  if (status !== 0) throw new Error(`rhyzome ${args.join(' ')}: ${status}: ${told.err}`);
  return told.out;
}

const passwordIn = (text: string) => /\b([a-z2-9]{5}-){4}[a-z2-9]{5}\b/.exec(text)![0];

describe.skipIf(url === undefined)(`rhyzome tenant with Keycloak${why}`, { timeout: 240_000 }, () => {
  beforeAll(async () => {
    await makeClient();
    identity = open();
    provideIdentity(identity);
    platform = await startPlatform({ kinds });
    dir = mkdtempSync(join(tmpdir(), 'rhyzome-tenant-'));
    const keycloak = { url, clientId: 'rhyzome', clientSecret: 'unused by the command' };
    writeFileSync(join(dir, 'rhyzome-api.json'), JSON.stringify({ db: platform.url, keycloak }));
  }, 240_000);
  afterAll(async () => {
    provideIdentity(undefined);
    await platform?.close();
    identity?.close();
    await removeAll([id]);
    rmSync(dir, { recursive: true, force: true });
  }, 240_000);

  it('makes a realm whose first administrator logs in with the password that was printed', async () => {
    const began = performance.now();
    const password = passwordIn(await ok('tenant', 'create', id, '--display-name', 'Acme', '--admin', 'alice'));
    console.info(`tenant create with ${narrowingScopes().length} scopes: ${Math.round(performance.now() - began)} ms`);
    expect(await byPassword(realm, 'alice', password)).toMatchObject({
      error_description: 'Account is not fully set up',
    });
    expect(await byPassword(realm, 'alice', 'another')).toMatchObject({
      error_description: 'Invalid user credentials',
    });
    await settle(realm, 'alice', 'a password of her own');
    const claims = claimsOf(await byPassword(realm, 'alice', 'a password of her own'));
    expect(claims).toMatchObject({ iss: `${url}/realms/${realm}` });
    expect(claims.realm_access.roles).toContain('admin');
    const cli = await admin.get<any[]>(`/${realm}/clients?clientId=rhyzome-cli`);
    expect(cli[0].optionalClientScopes).toEqual(expect.arrayContaining(narrowingScopes()));
    // The same again changes nothing.
    await ok('tenant', 'create', id, '--display-name', 'Acme', '--admin', 'alice');
    expect(await byPassword(realm, 'alice', 'a password of her own')).toHaveProperty('access_token');
  });

  it('suspends and resumes', async () => {
    await ok('tenant', 'suspend', id);
    expect(await byPassword(realm, 'alice', 'a password of her own')).toHaveProperty('error');
    await ok('tenant', 'resume', id);
    expect(await byPassword(realm, 'alice', 'a password of her own')).toHaveProperty('access_token');
  });

  it('moves to an organization, where the administrator gets a new password', async () => {
    await ok('tenant', 'move', id, '--to', 'organization');
    const password = passwordIn(await ok('tenant', 'admin', id));
    expect(await byPassword(shared, `alice@${id}`, password)).toMatchObject({
      error_description: 'Account is not fully set up',
    });
    await settle(shared, `alice@${id}`, 'a password of her own');
    expect(claimsOf(await byPassword(shared, `alice@${id}`, 'a password of her own'))).toMatchObject({
      organization: [id],
      groups: [`/${id}/roles/admin`],
    });
    expect(await admin.get(`/${realm}`)).toMatchObject({ enabled: false });
    await ok('tenant', 'move', id, '--remove-left', '--force');
    expect(await admin.get(`/${realm}`)).toBeUndefined();
  });

  it('is deleted with its people', async () => {
    await ok('tenant', 'delete', id, '--force');
    expect(await userOf(shared, `alice@${id}`)).toBeUndefined();
    expect(await admin.get<any[]>(`/${shared}/organizations`)).toEqual([]);
  });
});
