/** A tenant's users and programs in Keycloak: made, changed, disabled and removed, and what groups and roles users have. */
import { RhyzomeError } from '#libs/core';
import { type LoginProgram, type LoginUser, loginRoles } from './identity-provider.js';
import type { KeycloakApi } from './keycloak-api.js';
import type { KeycloakGroups } from './keycloak-groups.js';
import {
  type ClientRepresentation,
  defaultScopes,
  ENABLED,
  type GroupRepresentation,
  INSTALLATION,
  newProgramClient,
  PASSWORD,
  type RoleRepresentation,
  TENANT,
  type UserRepresentation,
} from './keycloak-model.js';
import { at, type KeycloakRealms } from './keycloak-realms.js';
import type { Space } from './keycloak-space.js';
import { passwordMark } from './one-time-password.js';

const PAGE = 100;
/** Of one user, in Keycloak: more is refused when they are given. */
const MAX_GROUPS = 1000;

export class KeycloakPeople {
  constructor(
    private readonly api: KeycloakApi,
    private readonly realms: KeycloakRealms,
    private readonly groups: KeycloakGroups,
    private readonly installation: string,
  ) {}

  async putUser(space: Space, user: LoginUser, signal?: AbortSignal): Promise<{ subject: string }> {
    const { realm } = space;
    const isOpen = await this.isOpen(space, signal);
    const wanted = await this.groupsOf(space, user, signal);
    const before = await this.user(space, user.name, signal);
    const document = this.userDocument(space, user, user.enabled && isOpen, before);
    // Keycloak takes no address from an organization's member, who is one again right after.
    if (before && document.email === '' && space.isShared) await this.leave(space, before.id, signal);
    if (before) await this.api.put('PUT', at(realm, 'users', before.id), document, { signal });
    else await this.api.create(at(realm, 'users'), document, { signal });
    const made = before ?? (await this.user(space, user.name, signal));
    if (!made) throw new RhyzomeError('identity_provider_unavailable', 'Keycloak does not show a user it has made.');
    if (space.isShared) await this.join(space, made.id, signal);
    else await this.putRole(space, made.id, user, signal);
    await this.putMemberships(space, made.id, wanted, signal);
    return { subject: made.id };
  }

  async removeUser(space: Space, name: string, signal?: AbortSignal): Promise<void> {
    const found = await this.lookUp(space, name, signal);
    if (found && this.isOurs(space, found))
      await this.api.remove(at(space.realm, 'users', found.id), undefined, { signal });
  }

  async endSessions(space: Space, name: string, signal?: AbortSignal): Promise<void> {
    const found = await this.lookUp(space, name, signal);
    if (found && this.isOurs(space, found)) await this.logOut(space, found.id, signal);
  }

  async putProgram(space: Space, program: LoginProgram, scopes: readonly string[], signal?: AbortSignal) {
    const { realm } = space;
    const clientId = space.clientId(program.name);
    const before = await this.realms.client(realm, clientId, signal);
    if (before) this.realms.refuseForeign(realm, before);
    const enabled = before?.enabled ?? (await this.isOpen(space, signal));
    const document = newProgramClient(program, {
      clientId,
      tenantId: space.ofTenant,
      installation: this.installation,
      enabled,
    });
    if (before) await this.api.put('PUT', at(realm, 'clients', before.id), document, { signal });
    else {
      const defaultClientScopes = defaultScopes(space.isShared);
      const whole = { ...document, defaultClientScopes, optionalClientScopes: [...scopes] };
      await this.api.create(at(realm, 'clients'), whole, { signal });
    }
    const made = before ?? (await this.realms.client(realm, clientId, signal));
    const path = made && at(realm, 'clients', made.id, 'service-account-user');
    const account = path && (await this.api.get<UserRepresentation>(path, { signal }));
    if (!account)
      throw new RhyzomeError('identity_provider_unavailable', 'Keycloak does not show a client it has made.');
    if (space.isShared) await this.join(space, account.id, signal);
    return { subject: account.id, clientId };
  }

  async removeProgram(space: Space, name: string, signal?: AbortSignal): Promise<void> {
    const { realm } = space;
    const found = await this.realms.client(realm, space.clientId(name), signal);
    if (found && found.attributes?.[INSTALLATION] === this.installation)
      await this.api.remove(at(realm, 'clients', found.id), undefined, { signal });
  }

  /** Opens or closes everybody of a tenant in the shared realm; those that were disabled on their own stay so. */
  async setAllEnabled(space: Space, enabled: boolean, signal?: AbortSignal): Promise<void> {
    const { realm } = space;
    for await (const user of this.all(space, signal)) {
      const stays = user.attributes?.[ENABLED]?.[0] === 'false';
      const isEnabled = enabled && !stays;
      // The whole of it: Keycloak takes away what a PUT leaves out.
      if (user.enabled !== isEnabled)
        await this.api.put('PUT', at(realm, 'users', user.id), { ...user, enabled: isEnabled }, { signal });
      if (!enabled) await this.logOut(space, user.id, signal);
    }
    for await (const client of this.realms.programs(realm, signal, space.ofTenant)) {
      if (client.enabled !== enabled)
        await this.api.put('PUT', at(realm, 'clients', client.id), changed(client, { enabled }), { signal });
    }
  }

  /** Everybody of a tenant in the shared realm. */
  async removeAll(space: Space, signal?: AbortSignal): Promise<void> {
    const users: string[] = [];
    for await (const user of this.all(space, signal)) users.push(user.id);
    for (const id of users) await this.api.remove(at(space.realm, 'users', id), undefined, { signal });
    const clients: string[] = [];
    for await (const client of this.realms.programs(space.realm, signal, space.ofTenant)) clients.push(client.id);
    for (const id of clients) await this.api.remove(at(space.realm, 'clients', id), undefined, { signal });
  }

  /** Everybody whom this installation made in a place. */
  async *all(space: Space, signal?: AbortSignal): AsyncGenerator<UserRepresentation> {
    for (let first = 0; ; first += PAGE) {
      const query = new URLSearchParams({
        q: `${TENANT}:${space.ofTenant}`,
        first: String(first),
        max: String(PAGE),
        briefRepresentation: 'false',
      });
      const path = `${at(space.realm, 'users')}?${query}`;
      const page = (await this.api.get<UserRepresentation[]>(path, { signal })) ?? [];
      for (const user of page) if (this.isOurs(space, user)) yield user;
      if (page.length < PAGE) return;
    }
  }

  /** A realm that is closed closes for all; an organization does not, and its people are closed one by one. */
  private async isOpen(space: Space, signal?: AbortSignal): Promise<boolean> {
    if (!space.isShared) return true;
    return (await this.groups.organization(space.realm, space.ofTenant, signal))?.enabled ?? true;
  }

  private userDocument(space: Space, user: LoginUser, enabled: boolean, before: UserRepresentation | undefined) {
    const mark = user.password && passwordMark(user.password);
    const isNew = mark !== undefined && before?.attributes?.[PASSWORD]?.[0] !== mark;
    return {
      username: space.username(user.name),
      enabled,
      // An empty one takes away what was there; where nothing was, Keycloak refuses it of an organization's member.
      email: user.email ?? (before?.email && ''),
      firstName: user.firstName ?? (before?.firstName && ''),
      lastName: user.lastName ?? (before?.lastName && ''),
      attributes: {
        ...before?.attributes,
        [INSTALLATION]: [this.installation],
        [TENANT]: [space.ofTenant],
        [ENABLED]: [String(user.enabled)],
        ...(mark && { [PASSWORD]: [mark] }),
      },
      ...(isNew && { credentials: [{ type: 'password', ...user.password, temporary: true }] }),
    };
  }

  /** The tenant's user of that name. Throws RhyzomeError `conflict` for one that somebody else made. */
  private async user(space: Space, name: string, signal?: AbortSignal): Promise<UserRepresentation | undefined> {
    const found = await this.lookUp(space, name, signal);
    if (!found || this.isOurs(space, found)) return found;
    throw new RhyzomeError(
      'conflict',
      `Keycloak’s realm ${space.realm} has a user ${found.username} that this installation did not make; it is left alone.`,
    );
  }

  private async lookUp(space: Space, name: string, signal?: AbortSignal): Promise<UserRepresentation | undefined> {
    const username = space.username(name);
    const query = new URLSearchParams({ username, exact: 'true', briefRepresentation: 'false' });
    const found = await this.api.get<UserRepresentation[]>(`${at(space.realm, 'users')}?${query}`, { signal });
    return found?.find((user) => user.username === username);
  }

  private isOurs(space: Space, user: UserRepresentation): boolean {
    const { [INSTALLATION]: owner, [TENANT]: tenant } = user.attributes ?? {};
    return owner?.[0] === this.installation && tenant?.[0] === space.ofTenant;
  }

  private async logOut(space: Space, id: string, signal?: AbortSignal): Promise<void> {
    await this.api.put('POST', at(space.realm, 'users', id, 'logout'), undefined, { signal });
  }

  /** 409: a member already. */
  private async join(space: Space, userId: string, signal?: AbortSignal): Promise<void> {
    await this.api.create(await this.membersPath(space, signal), userId, { signal });
  }

  private async leave(space: Space, userId: string, signal?: AbortSignal): Promise<void> {
    await this.api.remove(`${await this.membersPath(space, signal)}/${userId}`, undefined, { signal });
  }

  private async membersPath({ realm, ofTenant }: Space, signal?: AbortSignal): Promise<string> {
    const organization = await this.groups.organization(realm, ofTenant, signal);
    if (!organization) throw new RhyzomeError('conflict', `Keycloak has no organization ${ofTenant}.`);
    return at(realm, 'organizations', organization.id, 'members');
  }

  private async putRole(space: Space, userId: string, user: LoginUser, signal?: AbortSignal): Promise<void> {
    const { realm } = space;
    const path = at(realm, 'users', userId, 'role-mappings', 'realm');
    const has = (await this.api.get<RoleRepresentation[]>(path, { signal })) ?? [];
    const names: readonly string[] = loginRoles;
    const surplus = has.filter(({ name }) => names.includes(name) && name !== user.role);
    if (surplus.length > 0) await this.api.remove(path, surplus, { signal });
    if (user.role === null || has.some(({ name }) => name === user.role)) return;
    const role = await this.api.get<RoleRepresentation>(at(realm, 'roles', user.role), { signal });
    if (!role) throw new RhyzomeError('conflict', `Keycloak’s realm ${realm} has no role ${user.role}.`);
    await this.api.put('POST', path, [role], { signal });
  }

  /** The groups that the user should be in. Throws RhyzomeError `not_found`. */
  private async groupsOf(space: Space, user: LoginUser, signal?: AbortSignal): Promise<GroupRepresentation[]> {
    const role = user.role === null ? null : space.rolePath(user.role);
    const wanted: GroupRepresentation[] = [];
    if (role !== null) wanted.push(await this.groups.put(space.realm, role, space.ofTenant, signal));
    for (const name of user.groups) {
      const found = await this.groups.find(space.realm, space.groupPath(name), signal);
      if (!found) throw new RhyzomeError('not_found', `Keycloak has no group ${name} of ${space.ofTenant}.`);
      wanted.push(found);
    }
    return wanted;
  }

  /** Groups that somebody else made are none of our business. */
  private async putMemberships(
    space: Space,
    userId: string,
    wanted: readonly GroupRepresentation[],
    signal?: AbortSignal,
  ): Promise<void> {
    const path = at(space.realm, 'users', userId, 'groups');
    const query = `?briefRepresentation=false&max=${MAX_GROUPS}`;
    const has = (await this.api.get<GroupRepresentation[]>(path + query, { signal })) ?? [];
    for (const group of has)
      if (this.groups.isOurs(group) && !wanted.some(({ id }) => id === group.id))
        await this.api.remove(`${path}/${group.id}`, undefined, { signal });
    for (const group of wanted)
      if (!has.some(({ id }) => id === group.id))
        await this.api.put('PUT', `${path}/${group.id}`, undefined, { signal });
  }
}

/** What a PUT of a client must name beside what changes. */
function changed(client: ClientRepresentation, change: Partial<ClientRepresentation>) {
  return { clientId: client.clientId, ...change };
}
