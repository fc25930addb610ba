/**
 * Realms with what every place needs in them: settings, clients for people, the client scope, and one optional scope for
 * each permission. What is missing is made and what was made differently is set right, one thing at a time, so that it can
 * be done again at any moment.
 */
import { RhyzomeError } from '#libs/core';
import type { KeycloakApi } from './keycloak-api.js';
import {
  type ClientRepresentation,
  type ClientScopeRepresentation,
  defaultScopes,
  INSTALLATION,
  mappersOf,
  newNarrowingScope,
  newPublicClient,
  newRealm,
  newTokenScope,
  profileForUs,
  publicClients,
  type RealmRepresentation,
  ROLE,
  SCOPE,
  TENANT,
  type UserProfile,
} from './keycloak-model.js';

/** Making and deleting a realm took a busy Keycloak ten seconds. */
export const REALM_TIMEOUT_MS = 120_000;
const AT_ONCE = 4;
const PAGE = 100;

export interface RealmSettings {
  installation: string;
  audience: string;
  redirectUris: readonly string[];
}

/** A realm, and whose it is: one tenant's, or shared. */
export interface RealmPlan {
  realm: string;
  displayName: string;
  /** Null: shared by tenants, with Keycloak's organizations. */
  tenantId: string | null;
}

export class KeycloakRealms {
  constructor(
    private readonly api: KeycloakApi,
    private readonly settings: RealmSettings,
  ) {}

  /** The realm where it is this installation's and for this tenant; undefined where there is none. Throws `conflict`. */
  async find(plan: RealmPlan, signal?: AbortSignal): Promise<RealmRepresentation | undefined> {
    const found = await this.api.get<RealmRepresentation>(at(plan.realm), { signal });
    if (!found) return undefined;
    const { [INSTALLATION]: owner, [TENANT]: tenant = null } = found.attributes ?? {};
    if (owner === this.settings.installation && tenant === plan.tenantId) return found;
    throw new RhyzomeError(
      'conflict',
      `Keycloak has a realm ${plan.realm} that this installation did not make for this; it is left alone.`,
    );
  }

  /** Names of all realms that the client may see and that begin so, whoever made them. */
  async names(prefix: string, signal?: AbortSignal): Promise<string[]> {
    // Without their settings: a thousand whole ones are more than an answer may have.
    const query = new URLSearchParams({ briefRepresentation: 'true' });
    const all = (await this.api.get<{ realm: string }[]>(`?${query}`, { signal })) ?? [];
    return all.map(({ realm }) => realm).filter((name) => name.startsWith(prefix));
  }

  async put(plan: RealmPlan, scopes: readonly string[], signal?: AbortSignal): Promise<void> {
    const { realm, displayName } = plan;
    let found = await this.find(plan, signal);
    if (!found) {
      const attributes = {
        [INSTALLATION]: this.settings.installation,
        ...(plan.tenantId !== null && { [TENANT]: plan.tenantId }),
      };
      const document = newRealm(realm, displayName, attributes, plan.tenantId === null);
      const made = await this.api.create('', document, { signal, timeoutMs: REALM_TIMEOUT_MS });
      // Somebody was quicker; whose is it?
      if (!made) found = await this.find(plan, signal);
    }
    if (found && found.displayName !== displayName)
      await this.api.put('PUT', at(realm), { realm, displayName }, { signal });
    await this.putProfile(realm, signal);
    await this.putScopes(realm, scopes, signal);
    await this.putClients(plan, scopes, signal);
  }

  /** Realm roles that tokens carry in `realm_access.roles`. */
  async putRoles(realm: string, roles: readonly string[], signal?: AbortSignal): Promise<void> {
    for (const name of roles) {
      const there = await this.api.get(at(realm, 'roles', name), { signal });
      if (!there) await this.api.create(at(realm, 'roles'), { name }, { signal });
    }
  }

  /** Also for the clients that are there: programs and people's. */
  async addScopes(plan: RealmPlan, scopes: readonly string[], signal?: AbortSignal): Promise<void> {
    await this.putScopes(plan.realm, scopes, signal);
    await this.putClients(plan, scopes, signal);
    const known = await this.scopeIds(plan.realm, signal);
    for await (const client of this.programs(plan.realm, signal))
      await this.offer(plan.realm, client, [], scopes, known, signal);
  }

  async setEnabled(plan: RealmPlan, enabled: boolean, signal?: AbortSignal): Promise<void> {
    const found = await this.find(plan, signal);
    if (!found) throw new RhyzomeError('conflict', `Keycloak has no realm ${plan.realm}.`);
    if (found.enabled !== enabled)
      await this.api.put('PUT', at(plan.realm), { realm: plan.realm, enabled }, { signal });
    // Whoever was logged in logs in again: a session from before may be why the realm was closed.
    if (!enabled) await this.api.put('POST', at(plan.realm, 'logout-all'), undefined, { signal });
  }

  async remove(plan: RealmPlan, signal?: AbortSignal): Promise<void> {
    if (!(await this.find(plan, signal))) return;
    await this.api.remove(at(plan.realm), undefined, { signal, timeoutMs: REALM_TIMEOUT_MS });
  }

  /** Clients of the realm that are programs of tenants, all or one tenant's. */
  async *programs(realm: string, signal?: AbortSignal, tenantId?: string): AsyncGenerator<ClientRepresentation> {
    const search: Record<string, string> = tenantId === undefined ? {} : { clientId: `${tenantId}.`, search: 'true' };
    for (let first = 0; ; first += PAGE) {
      const query = new URLSearchParams({ ...search, first: String(first), max: String(PAGE) });
      const page = (await this.api.get<ClientRepresentation[]>(`${at(realm, 'clients')}?${query}`, { signal })) ?? [];
      for (const client of page) {
        const { [INSTALLATION]: owner, [ROLE]: role, [TENANT]: tenant } = client.attributes ?? {};
        const isOurs = owner === this.settings.installation && role === 'program';
        if (isOurs && (tenantId === undefined || tenant === tenantId)) yield client;
      }
      if (page.length < PAGE) return;
    }
  }

  /** Ids of the realm's client scopes by name. */
  async scopeIds(realm: string, signal?: AbortSignal): Promise<Map<string, ClientScopeRepresentation>> {
    const all = (await this.api.get<ClientScopeRepresentation[]>(at(realm, 'client-scopes'), { signal })) ?? [];
    return new Map(all.map((scope) => [scope.name, scope]));
  }

  private async putProfile(realm: string, signal?: AbortSignal): Promise<void> {
    const path = at(realm, 'users', 'profile');
    const profile = await this.api.get<UserProfile>(path, { signal });
    if (profile && profile.unmanagedAttributePolicy !== 'ADMIN_EDIT')
      await this.api.put('PUT', path, profileForUs(profile), { signal });
  }

  private async putScopes(realm: string, scopes: readonly string[], signal?: AbortSignal): Promise<void> {
    const known = await this.scopeIds(realm, signal);
    const { audience } = this.settings;
    const token = known.get(SCOPE);
    if (!token) await this.api.create(at(realm, 'client-scopes'), newTokenScope(audience), { signal });
    else await this.putMappers(realm, token, signal);
    const missing = scopes.filter((scope) => !known.has(scope));
    for (let i = 0; i < missing.length; i += AT_ONCE) {
      const few = missing.slice(i, i + AT_ONCE);
      await Promise.all(
        few.map((scope) => this.api.create(at(realm, 'client-scopes'), newNarrowingScope(scope), { signal })),
      );
    }
  }

  private async putMappers(realm: string, scope: ClientScopeRepresentation, signal?: AbortSignal): Promise<void> {
    const path = at(realm, 'client-scopes', scope.id, 'protocol-mappers', 'models');
    for (const mapper of mappersOf(this.settings.audience)) {
      const there = scope.protocolMappers?.find(({ name }) => name === mapper.name);
      if (!there) await this.api.create(path, mapper, { signal });
      else if (Object.entries(mapper.config).some(([key, value]) => there.config[key] !== value))
        await this.api.put('PUT', `${path}/${there.id}`, { ...mapper, id: there.id }, { signal });
    }
  }

  private async putClients(plan: RealmPlan, scopes: readonly string[], signal?: AbortSignal): Promise<void> {
    const { realm } = plan;
    const { installation, redirectUris } = this.settings;
    const defaults = defaultScopes(plan.tenantId === null);
    let known: Map<string, ClientScopeRepresentation> | undefined;
    for (const client of publicClients(redirectUris)) {
      const there = await this.client(realm, client.clientId, signal);
      if (!there) {
        const document = { defaultClientScopes: defaults, optionalClientScopes: ['offline_access', ...scopes] };
        await this.api.create(
          at(realm, 'clients'),
          { ...newPublicClient(client, installation), ...document },
          { signal },
        );
        continue;
      }
      this.refuseForeign(realm, there);
      if (!sameSet(there.redirectUris ?? [], client.redirectUris))
        await this.api.put(
          'PUT',
          at(realm, 'clients', there.id),
          { clientId: client.clientId, redirectUris: client.redirectUris },
          { signal },
        );
      known ??= await this.scopeIds(realm, signal);
      await this.offer(realm, there, defaults, scopes, known, signal);
    }
  }

  /** Undefined where there is none of that client id. */
  async client(realm: string, clientId: string, signal?: AbortSignal): Promise<ClientRepresentation | undefined> {
    const query = new URLSearchParams({ clientId });
    const found = await this.api.get<ClientRepresentation[]>(`${at(realm, 'clients')}?${query}`, { signal });
    return found?.find((client) => client.clientId === clientId);
  }

  /** Throws RhyzomeError `conflict` for a client that somebody else made. */
  refuseForeign(realm: string, client: ClientRepresentation): void {
    if (client.attributes?.[INSTALLATION] === this.settings.installation) return;
    throw new RhyzomeError(
      'conflict',
      `Keycloak’s realm ${realm} has a client ${client.clientId} that this installation did not make; it is left alone.`,
    );
  }

  /** Attaches the scopes that the client does not have yet. */
  private async offer(
    realm: string,
    client: ClientRepresentation,
    defaults: readonly string[],
    optional: readonly string[],
    known: Map<string, ClientScopeRepresentation>,
    signal?: AbortSignal,
  ): Promise<void> {
    const has = new Set([...(client.defaultClientScopes ?? []), ...(client.optionalClientScopes ?? [])]);
    const wanted = [
      ...defaults.map((name) => ['default-client-scopes', name] as const),
      ...optional.map((name) => ['optional-client-scopes', name] as const),
    ].filter(([, name]) => !has.has(name) && known.has(name));
    for (const [list, name] of wanted)
      await this.api.put('PUT', at(realm, 'clients', client.id, list, known.get(name)!.id), undefined, { signal });
  }
}

/** A path of the admin API below /admin/realms. */
export function at(...parts: string[]): string {
  return parts.map((part) => `/${encodeURIComponent(part)}`).join('');
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((entry) => b.includes(entry));
}
