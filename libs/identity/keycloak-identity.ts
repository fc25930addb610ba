/** The identity provider that operators have: Keycloak, by its admin API. One method a call of the interface, no more. */
import type { KeycloakConfig } from '#libs/config';
import { RhyzomeError } from '#libs/core';
import {
  type IdentityProvider,
  type KeptAccount,
  type KeptPlace,
  type LoginPlace,
  type LoginProgram,
  type LoginUser,
  loginRoles,
  type PlaceAddress,
} from './identity-provider.js';
import { KeycloakApi } from './keycloak-api.js';
import { KeycloakGroups } from './keycloak-groups.js';
import { KeycloakListing } from './keycloak-listing.js';
import { KeycloakPeople } from './keycloak-people.js';
import { KeycloakRealms } from './keycloak-realms.js';
import { type Space, spaceOf } from './keycloak-space.js';

export interface KeycloakSettings extends KeycloakConfig {
  /** Of the installation; marks all that it makes. */
  installationId: string;
  /** What tokens must name. */
  audience: string;
}

export class KeycloakIdentity implements IdentityProvider {
  private readonly api: KeycloakApi;
  private readonly realms: KeycloakRealms;
  private readonly groups: KeycloakGroups;
  private readonly people: KeycloakPeople;
  private readonly listing: KeycloakListing;

  constructor(private readonly settings: KeycloakSettings) {
    const { installationId, audience, redirectUris } = settings;
    this.api = new KeycloakApi(settings);
    this.realms = new KeycloakRealms(this.api, { installation: installationId, audience, redirectUris });
    this.groups = new KeycloakGroups(this.api, installationId);
    this.people = new KeycloakPeople(this.api, this.realms, this.groups, installationId);
    this.listing = new KeycloakListing(settings, this.realms, this.groups, this.people);
  }

  close(): void {
    this.api.close();
  }

  async putPlace(place: LoginPlace, scopes: readonly string[], signal?: AbortSignal): Promise<PlaceAddress> {
    const space = this.space(place);
    const { realm, isShared, ofTenant } = space;
    await this.realms.put(space, scopes, signal);
    if (isShared) {
      await this.groups.putOrganization(realm, place, signal);
      for (const role of loginRoles) await this.groups.put(realm, space.rolePath(role)!, ofTenant, signal);
      await this.groups.put(realm, `/${ofTenant}/groups`, ofTenant, signal);
    } else await this.realms.putRoles(realm, loginRoles, signal);
    const { publicUrl, url } = this.settings;
    return {
      issuer: `${publicUrl ?? url}/realms/${encodeURIComponent(realm)}`,
      organization: isShared ? ofTenant : null,
    };
  }

  async putScopes(place: LoginPlace, scopes: readonly string[], signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    await this.mustBeThere(space, signal);
    await this.realms.addScopes(space, scopes, signal);
  }

  async setPlaceEnabled(place: LoginPlace, enabled: boolean, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (!space.isShared) return this.realms.setEnabled(space, enabled, signal);
    await this.mustBeThere(space, signal);
    const organization = await this.groups.organization(space.realm, space.ofTenant, signal);
    if (!organization) throw new RhyzomeError('conflict', `Keycloak has no organization ${space.ofTenant}.`);
    // First: users that are put from now on follow it.
    if (organization.enabled !== enabled)
      await this.groups.putOrganizationFields(space.realm, organization, { enabled }, signal);
    await this.people.setAllEnabled(space, enabled, signal);
  }

  async removePlace(place: LoginPlace, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (!space.isShared) return this.realms.remove(space, signal);
    if (!(await this.realms.find(space, signal))) return;
    await this.people.removeAll(space, signal);
    await this.groups.remove(space.realm, `/${space.ofTenant}`, signal);
    const organization = await this.groups.organization(space.realm, space.ofTenant, signal);
    if (organization)
      await this.api.remove(
        `/${encodeURIComponent(space.realm)}/organizations/${encodeURIComponent(organization.id)}`,
        undefined,
        { signal },
      );
  }

  async putUser(place: LoginPlace, user: LoginUser, signal?: AbortSignal): Promise<{ subject: string }> {
    const space = this.space(place);
    await this.mustBeThere(space, signal);
    return this.people.putUser(space, user, signal);
  }

  async removeUser(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (await this.realms.find(space, signal)) await this.people.removeUser(space, name, signal);
  }

  async endSessions(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (await this.realms.find(space, signal)) await this.people.endSessions(space, name, signal);
  }

  async putGroup(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    await this.mustBeThere(space, signal);
    await this.groups.put(space.realm, space.groupPath(name), space.ofTenant, signal);
  }

  async removeGroup(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (await this.realms.find(space, signal)) await this.groups.remove(space.realm, space.groupPath(name), signal);
  }

  async putProgram(place: LoginPlace, program: LoginProgram, signal?: AbortSignal) {
    const space = this.space(place);
    await this.mustBeThere(space, signal);
    const known = await this.realms.scopeIds(space.realm, signal);
    const narrowing = [...known.keys()].filter((name) => name.includes(':'));
    return this.people.putProgram(space, program, narrowing, signal);
  }

  async removeProgram(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void> {
    const space = this.space(place);
    if (await this.realms.find(space, signal)) await this.people.removeProgram(space, name, signal);
  }

  listPlaces(signal?: AbortSignal): AsyncIterable<KeptPlace> {
    return this.listing.places(signal);
  }

  listAccounts(place: KeptPlace, signal?: AbortSignal): AsyncIterable<KeptAccount[]> {
    return this.listing.accounts(place, signal);
  }

  private space(place: LoginPlace): Space {
    return spaceOf(place, this.settings);
  }

  /** Throws RhyzomeError `conflict` where the realm is not there or is somebody else's. */
  private async mustBeThere(space: Space, signal?: AbortSignal): Promise<void> {
    if (await this.realms.find(space, signal)) return;
    throw new RhyzomeError('conflict', `Keycloak has no realm ${space.realm}.`);
  }
}
