/** Groups and organizations of Keycloak that are this installation's, found by path and alias. */
import { RhyzomeError } from '#libs/core';
import type { LoginPlace } from './identity-provider.js';
import type { KeycloakApi } from './keycloak-api.js';
import { type GroupRepresentation, INSTALLATION, type OrganizationRepresentation, TENANT } from './keycloak-model.js';
import { at } from './keycloak-realms.js';

const PAGE = 100;

export class KeycloakGroups {
  constructor(
    private readonly api: KeycloakApi,
    private readonly installation: string,
  ) {}

  /** By its path, e.g. `/acme/groups/ops`. */
  async find(realm: string, path: string, signal?: AbortSignal): Promise<GroupRepresentation | undefined> {
    return this.api.get<GroupRepresentation>(`${at(realm, 'group-by-path')}${at(...partsOf(path))}`, { signal });
  }

  /** Right below the path (`/`: the topmost ones), a page at a time; also those that somebody else made. */
  async *below(realm: string, path: string, signal?: AbortSignal): AsyncGenerator<GroupRepresentation[]> {
    const parent = path === '/' ? null : await this.find(realm, path, signal);
    if (parent === undefined) return;
    const where = parent ? at(realm, 'groups', parent.id, 'children') : at(realm, 'groups');
    for (let first = 0; ; first += PAGE) {
      const query = new URLSearchParams({ first: String(first), max: String(PAGE), briefRepresentation: 'false' });
      const page = (await this.api.get<GroupRepresentation[]>(`${where}?${query}`, { signal })) ?? [];
      yield page;
      if (page.length < PAGE) return;
    }
  }

  /** Tenants whose organizations this installation made. */
  async *organizations(realm: string, signal?: AbortSignal): AsyncGenerator<string> {
    for (let first = 0; ; first += PAGE) {
      const query = new URLSearchParams({ first: String(first), max: String(PAGE), briefRepresentation: 'false' });
      const path = `${at(realm, 'organizations')}?${query}`;
      const page = (await this.api.get<OrganizationRepresentation[]>(path, { signal })) ?? [];
      for (const { alias, attributes } of page)
        if (attributes?.[INSTALLATION]?.[0] === this.installation && attributes[TENANT]?.[0] === alias) yield alias;
      if (page.length < PAGE) return;
    }
  }

  isOurs(group: GroupRepresentation): boolean {
    return group.attributes?.[INSTALLATION]?.[0] === this.installation;
  }

  /** With those above it. Throws RhyzomeError `conflict` where somebody else made one of them. */
  async put(realm: string, path: string, tenantId: string, signal?: AbortSignal): Promise<GroupRepresentation> {
    const found = await this.find(realm, path, signal);
    if (found) return this.ours(found, realm);
    const parts = partsOf(path);
    const name = parts.at(-1)!;
    const parent =
      parts.length > 1 ? await this.put(realm, `/${parts.slice(0, -1).join('/')}`, tenantId, signal) : null;
    const attributes = { [INSTALLATION]: [this.installation], [TENANT]: [tenantId] };
    const where = parent ? at(realm, 'groups', parent.id, 'children') : at(realm, 'groups');
    await this.api.create(where, { name, attributes }, { signal });
    const made = await this.find(realm, path, signal);
    if (!made) throw new RhyzomeError('identity_provider_unavailable', 'Keycloak does not show a group it has made.');
    return this.ours(made, realm);
  }

  /** With those below it; one that somebody else made stays. */
  async remove(realm: string, path: string, signal?: AbortSignal): Promise<void> {
    const found = await this.find(realm, path, signal);
    if (found && this.isOurs(found)) await this.api.remove(at(realm, 'groups', found.id), undefined, { signal });
  }

  /** Undefined where there is none of the tenant's. Throws RhyzomeError `conflict` for one that somebody else made. */
  async organization(realm: string, tenantId: string, signal?: AbortSignal) {
    const query = new URLSearchParams({ search: tenantId, exact: 'true', briefRepresentation: 'false' });
    const path = `${at(realm, 'organizations')}?${query}`;
    const found = (await this.api.get<OrganizationRepresentation[]>(path, { signal }))?.find(
      ({ alias, name }) => alias === tenantId || name === tenantId,
    );
    if (!found || found.attributes?.[INSTALLATION]?.[0] === this.installation) return found;
    throw new RhyzomeError(
      'conflict',
      `Keycloak has an organization ${tenantId} that this installation did not make; it is left alone.`,
    );
  }

  async putOrganization(realm: string, place: LoginPlace, signal?: AbortSignal): Promise<void> {
    const { tenantId, displayName } = place;
    const found = await this.organization(realm, tenantId, signal);
    if (found) {
      if (found.description !== displayName)
        await this.putOrganizationFields(realm, found, { description: displayName }, signal);
      return;
    }
    const document = {
      name: tenantId,
      alias: tenantId,
      enabled: true,
      description: displayName,
      domains: [],
      attributes: { [INSTALLATION]: [this.installation], [TENANT]: [tenantId] },
    };
    if (await this.api.create(at(realm, 'organizations'), document, { signal })) return;
    // Throws where whoever was quicker is somebody else.
    await this.organization(realm, tenantId, signal);
  }

  async putOrganizationFields(
    realm: string,
    organization: OrganizationRepresentation,
    change: Partial<OrganizationRepresentation>,
    signal?: AbortSignal,
  ): Promise<void> {
    const path = at(realm, 'organizations', organization.id);
    await this.api.put('PUT', path, { ...organization, ...change }, { signal });
  }

  private ours(group: GroupRepresentation, realm: string): GroupRepresentation {
    if (this.isOurs(group)) return group;
    throw new RhyzomeError(
      'conflict',
      `Keycloak’s realm ${realm} has a group ${group.path} that this installation did not make; it is left alone.`,
    );
  }
}

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}
