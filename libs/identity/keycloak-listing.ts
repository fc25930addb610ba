/**
 * All that this installation made in Keycloak, listed: its places, and who and what stands in them. What does not carry the
 * installation's id is somebody else's, and is not in any of it.
 */
import type { KeycloakConfig } from '#libs/config';
import { RhyzomeError } from '#libs/core';
import type { KeptAccount, KeptPlace } from './identity-provider.js';
import type { KeycloakGroups } from './keycloak-groups.js';
import type { KeycloakPeople } from './keycloak-people.js';
import type { KeycloakRealms } from './keycloak-realms.js';
import { type Space, spaceOf } from './keycloak-space.js';

/** Of people and programs; groups come as Keycloak gives them. */
const PAGE = 100;

export class KeycloakListing {
  constructor(
    private readonly config: KeycloakConfig,
    private readonly realms: KeycloakRealms,
    private readonly groups: KeycloakGroups,
    private readonly people: KeycloakPeople,
  ) {}

  async *places(signal?: AbortSignal): AsyncGenerator<KeptPlace> {
    const { realmPrefix, sharedRealm } = this.config;
    for (const realm of await this.realms.names(realmPrefix, signal)) {
      const tenantId = realm.slice(realmPrefix.length);
      if (tenantId !== '' && (await this.isKept(this.space({ tenantId, mode: 'realm' }), signal)))
        yield { tenantId, mode: 'realm' };
    }
    if (!(await this.isKept(this.space({ tenantId: '', mode: 'organization' }), signal))) return;
    for await (const tenantId of this.groups.organizations(sharedRealm, signal))
      yield { tenantId, mode: 'organization' };
  }

  async *accounts(place: KeptPlace, signal?: AbortSignal): AsyncGenerator<KeptAccount[]> {
    const space = this.space(place);
    if (!(await this.isKept(space, signal))) return;
    const { realm } = space;
    for await (const groups of this.groups.below(realm, space.groupPath(''), signal))
      yield groups.filter((group) => this.groups.isOurs(group)).map(({ name }) => ({ sort: 'group', name }));
    const users = this.people.all(space, signal);
    yield* pages(users, ({ username }) => accountOf('user', space.nameOfUser(username)));
    const programs = this.realms.programs(realm, signal, space.ofTenant);
    yield* pages(programs, ({ clientId }) => accountOf('program', space.nameOfProgram(clientId)));
  }

  private space(place: KeptPlace): Space {
    return spaceOf({ ...place, displayName: '' }, this.config);
  }

  /** Whether the realm is there and this installation's. */
  private async isKept(space: Space, signal?: AbortSignal): Promise<boolean> {
    try {
      return (await this.realms.find(space, signal)) !== undefined;
    } catch (error) {
      if (error instanceof RhyzomeError && error.code === 'conflict') return false;
      throw error;
    }
  }
}

/** Undefined: somebody gave it a name that nothing here has made; whose it is cannot be told. */
function accountOf(sort: KeptAccount['sort'], name: string | undefined): KeptAccount | undefined {
  return name === undefined ? undefined : { sort, name };
}

async function* pages<T>(
  all: AsyncIterable<T>,
  accountOf: (one: T) => KeptAccount | undefined,
): AsyncGenerator<KeptAccount[]> {
  let page: KeptAccount[] = [];
  for await (const one of all) {
    const account = accountOf(one);
    if (account) page.push(account);
    if (page.length < PAGE) continue;
    yield page;
    page = [];
  }
  yield page;
}
