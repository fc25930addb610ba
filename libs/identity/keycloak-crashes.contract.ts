/**
 * Broken off at a request to a real Keycloak, before it or after its effect, and done again: what is there in the end is
 * what is there without. A proxy on loopback cuts the connection; for Keycloak that is a process that died.
 */
import { randomInt } from 'node:crypto';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hashPassword, KeycloakIdentity, type LoginPlace, type LoginPlaceMode, type PasswordHash } from './index.js';
import { admin, makeClient, open, prefix, programKey, removeAll, scopes, shared, url, why } from './test-keycloak.js';

/** Forwards all, and cuts the `at`th request to the admin API. */
class Cutter {
  count = 0;
  at = 0;
  when: 'before' | 'after' = 'before';
  private server!: Server;

  async listen(): Promise<string> {
    this.server = createServer((incoming, outgoing) => {
      const isCut = incoming.url!.startsWith('/admin') && ++this.count === this.at;
      if (isCut && this.when === 'before') return void incoming.socket.destroy();
      const { method, headers } = incoming;
      const forwarded = request(new URL(incoming.url!, url), { method, headers }, (answer) => {
        if (isCut) return void incoming.socket.destroy();
        outgoing.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(outgoing);
      });
      forwarded.on('error', () => incoming.socket.destroy());
      incoming.pipe(forwarded);
    });
    await new Promise<void>((listening) => this.server.listen(0, '127.0.0.1', listening));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

describe.skipIf(url === undefined)(`Keycloak, broken off${why}`, { timeout: 300_000 }, () => {
  const cutter = new Cutter();
  let identity: KeycloakIdentity;
  let password: PasswordHash;
  let jwks: object;
  const tenants: string[] = [];

  beforeAll(async () => {
    await makeClient();
    password = await hashPassword('one-time');
    ({ jwks } = await programKey());
    const { settings } = open() as unknown as { settings: ConstructorParameters<typeof KeycloakIdentity>[0] };
    identity = new KeycloakIdentity({ ...settings, url: await cutter.listen(), publicUrl: url! });
  }, 120_000);
  afterAll(async () => {
    identity?.close();
    cutter.close();
    await removeAll(tenants);
  }, 300_000);

  /** All that a tenant's place has, once. */
  async function makeAll(place: LoginPlace): Promise<void> {
    await identity.putPlace(place, scopes);
    await identity.putGroup(place, 'ops');
    const alice = { name: 'alice', enabled: true, role: 'admin', groups: ['ops'], email: 'a@x.example' } as const;
    await identity.putUser(place, { ...alice, password });
    await identity.putUser(place, { ...alice, role: 'viewer', email: null });
    await identity.putProgram(place, { name: 'deploy', jwks });
    await identity.putScopes(place, [...scopes, 'disk:read']);
    await identity.setPlaceEnabled(place, false);
    await identity.setPlaceEnabled(place, true);
  }

  /** As steps of jobs are: again, until it is through. */
  async function untilDone(work: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (attempt === 5 || (error as { code?: string }).code !== 'identity_provider_unavailable') throw error;
      }
    }
  }

  /** What there is, without ids and the tenant's own name. */
  async function stateOf({ tenantId, mode }: LoginPlace): Promise<unknown> {
    const realm = mode === 'realm' ? prefix + tenantId : shared;
    const users = await admin.get<any[]>(`/${realm}/users?q=rhyzome.tenant:${tenantId}&briefRepresentation=false`);
    const people = [];
    for (const { id, username, enabled, email, attributes, requiredActions } of users) {
      const groups = (await admin.get<any[]>(`/${realm}/users/${id}/groups`)).map(({ path }) => path).sort();
      const roles = (await admin.get<any[]>(`/${realm}/users/${id}/role-mappings/realm`))
        .map(({ name }) => name)
        .sort();
      const credentials = (await admin.get<any[]>(`/${realm}/users/${id}/credentials`)).map(({ type }) => type);
      people.push({ username, enabled, email, attributes, requiredActions, groups, roles, credentials });
    }
    const clients = (await admin.get<any[]>(`/${realm}/clients?clientId=${tenantId}.&search=true`))
      .concat(mode === 'realm' ? await admin.get<any[]>(`/${realm}/clients?clientId=rhyzome-&search=true`) : [])
      .map(({ clientId, enabled, defaultClientScopes, optionalClientScopes }) => ({
        clientId,
        enabled,
        scopes: [...defaultClientScopes, '|', ...optionalClientScopes].sort(),
      }));
    const { enabled } = await admin.get(`/${realm}`);
    const state = JSON.stringify({
      enabled,
      people,
      clients: clients.sort((a, b) => (a.clientId < b.clientId ? -1 : 1)),
    });
    return JSON.parse(state.replaceAll(tenantId, 'TENANT'));
  }

  /** All of them took four minutes; a few, others each time, are enough for every day. */
  const everyOf = (requests: number) => Number(process.env.KEYCLOAK_CUT_EVERY) || Math.ceil(requests / 2);

  it.each<LoginPlaceMode>(['realm', 'organization'])('ends %s in the same state', async (mode) => {
    const placeOf = (tenantId: string): LoginPlace => ({ tenantId, mode, displayName: 'Broken' });
    const one = (n: number) => {
      const tenantId = `${mode.slice(0, 3)}broken${n}`;
      if (mode === 'realm') tenants.push(tenantId);
      return placeOf(tenantId);
    };
    // What is shared is there before requests are counted.
    if (mode === 'organization') await identity.putPlace(one(9999), [...scopes, 'disk:read']);
    cutter.at = 0;
    cutter.count = 0;
    await makeAll(one(0));
    const requests = cutter.count;
    const expected = await stateOf(one(0));
    const every = everyOf(requests);
    for (let at = randomInt(1, every + 1); at <= requests; at += every) {
      const place = one(at);
      Object.assign(cutter, { count: 0, at, when: at % 2 ? 'before' : 'after' });
      await untilDone(() => makeAll(place));
      expect(await stateOf(place), `${cutter.when} request ${at} of ${requests}`).toEqual(expected);
      Object.assign(cutter, { count: 0, at: 2, when: 'after' });
      await untilDone(() => identity.removePlace(place));
      expect(
        await admin.get<any[]>(
          mode === 'realm' ? `/${prefix}${place.tenantId}` : `/${shared}/users?q=rhyzome.tenant:${place.tenantId}`,
        ),
      ).toEqual(mode === 'realm' ? undefined : []);
    }
  });
});
