/** A tenant with a place in Keycloak as `rhyzome tenant create` makes it, and its people as they log in. */

import type { Client } from '../harness/client.js';
import { loginByCode, type Person, type Tokens } from './browser.js';
import { type Lab, sharedRealm } from './lab.js';

export interface TestTenant {
  id: string;
  issuer: string;
  realm: string;
  /** The first administrator, who has set a password of their own. */
  admin: Person;
  /** Ends with the access token's five minutes. */
  tokens: Tokens;
  api: Client;
}

export const ownPassword = (name: string) => `${name} likes long passwords`;

/** Somebody who has a one-time password, and who sets an own one with it. In a shared realm names have their tenant. */
export function newcomer(issuer: string, tenant: string, name: string, oneTimePassword: string): Person {
  const username = issuer.endsWith(`/realms/${sharedRealm}`) ? `${name}@${tenant}` : name;
  return { username, password: oneTimePassword, newPassword: ownPassword(name) };
}

/** Runs `rhyzome tenant create`, whose administrator is `<id>admin`. */
export async function createTenant(lab: Lab, id: string, ...more: string[]) {
  const name = `${id}admin`;
  const made = await lab.json(
    ...['tenant', 'create', id, '--display-name', `Tenant ${id}`, '--admin', name],
    ...['--admin-email', `${name}@example.org`, ...more],
  );
  const issuer: string = made.issuers[0].issuer;
  return { issuer, person: newcomer(issuer, id, made.admin.name, made.admin.oneTimePassword) };
}

/** `rhyzome tenant admin`: a new one-time password for the only administrator. */
export async function invitedAdmin(lab: Lab, id: string) {
  const [{ issuer }] = (await lab.json('tenant', 'show', id)).issuers;
  const { name, oneTimePassword } = await lab.json('tenant', 'admin', id);
  return { issuer: issuer as string, person: newcomer(issuer, id, name, oneTimePassword) };
}

/** A tenant whose administrator has logged in for the first time. */
export async function tenantWithAdmin(lab: Lab, id: string, ...more: string[]): Promise<TestTenant> {
  return firstLogin(lab, id, await createTenant(lab, id, ...more));
}

export async function firstLogin(
  lab: Lab,
  id: string,
  { issuer, person }: { issuer: string; person: Person },
): Promise<TestTenant> {
  const tokens = await loginByCode(issuer, person);
  const admin = { username: person.username, password: person.newPassword! };
  const realm = new URL(issuer).pathname.split('/').at(-1)!;
  return { id, issuer, realm, admin, tokens, api: lab.client(tokens.access_token) };
}

/** The administrator logs in again: the tokens of before may have come to their end. */
export async function logInAgain(lab: Lab, tenant: TestTenant): Promise<void> {
  tenant.tokens = await loginByCode(tenant.issuer, tenant.admin);
  tenant.api = lab.client(tenant.tokens.access_token);
}

/** Invites a user and waits until Keycloak has them. */
export async function invite(tenant: TestTenant, user: Record<string, unknown>): Promise<Person> {
  const answer = await tenant.api.call('POST', '/v1/users?wait=60s', { json: user });
  if (answer.status !== 200 && answer.status !== 201) throw new Error(`no user: ${answer.status} ${answer.text}`);
  if (answer.body.state !== 'ready') throw new Error(`the user is not ready: ${answer.text}`);
  return newcomer(tenant.issuer, tenant.id, answer.body.name, answer.body.oneTimePassword);
}
