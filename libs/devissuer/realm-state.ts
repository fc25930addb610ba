/**
 * What the admin API has made of realms: roles, groups, people, clients and client scopes, in the shapes that Keycloak's
 * admin API speaks. One file a realm in the issuer's folder, written whole before a change is answered.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeDurably } from './secrets.js';

/** A member of a realm: at least an id; the rest as it was given. */
export interface Representation {
  id: string;
  [member: string]: any;
}

export interface Credential {
  id: string;
  type: string;
  createdDate: number;
  secretData: string;
  credentialData: string;
}

export interface UserState extends Representation {
  username: string;
  enabled: boolean;
  requiredActions: string[];
  credentials: Credential[];
  /** Ids. */
  roles: string[];
  /** Ids. */
  groups: string[];
  /** The client (its `id`) whose service account this is. */
  serviceAccountOf?: string;
}

export interface ClientState extends Representation {
  clientId: string;
  /** Names of client scopes. */
  defaultClientScopes: string[];
  optionalClientScopes: string[];
}

export interface RealmState {
  realm: Representation & { realm: string; enabled: boolean };
  roles: (Representation & { name: string })[];
  groups: (Representation & { name: string; path: string })[];
  users: UserState[];
  clients: ClientState[];
  clientScopes: (Representation & { name: string; protocolMappers: Representation[] })[];
  /** Names of the client scopes that new clients get. */
  defaultClientScopes: string[];
  optionalClientScopes: string[];
}

const suffix = '.realm.json';

/** The realms that were made by the admin API, in memory and on disk. */
export class RealmStates {
  private readonly realms = new Map<string, RealmState>();
  /** Writes under way, and those that wait for their end: one of them writes what all of them changed. */
  private readonly writing = new Map<string, Promise<void>>();
  private readonly waiting = new Map<string, Promise<void>>();

  private constructor(private readonly dataDir: string) {}

  /** Reads what is there. Throws where a file cannot be understood. */
  static async open(dataDir: string): Promise<RealmStates> {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    const states = new RealmStates(dataDir);
    for (const file of await readdir(dataDir)) {
      if (!file.endsWith(suffix)) continue;
      const state = parsed(await readFile(join(dataDir, file), 'utf8'), join(dataDir, file));
      states.realms.set(state.realm.realm, state);
    }
    return states;
  }

  get names(): string[] {
    return [...this.realms.keys()];
  }

  get(name: string): RealmState | undefined {
    return this.realms.get(name);
  }

  async add(state: RealmState): Promise<void> {
    this.realms.set(state.realm.realm, state);
    await this.save(state.realm.realm);
  }

  /** On disk before it is answered; in memory it has been changed already. */
  save(name: string): Promise<void> {
    const busy = this.writing.get(name);
    if (!busy) return this.write(name);
    const shared =
      this.waiting.get(name) ??
      busy
        // Whoever wrote hears of it.
        .catch(() => undefined)
        .then(() => {
          this.waiting.delete(name);
          return this.write(name);
        });
    this.waiting.set(name, shared);
    return shared;
  }

  private write(name: string): Promise<void> {
    const state = this.realms.get(name);
    const text = state && JSON.stringify(state);
    const file = join(this.dataDir, `${name}${suffix}`);
    const done = (text === undefined ? rm(file, { force: true }) : writeDurably(file, text)).finally(() =>
      this.writing.delete(name),
    );
    this.writing.set(name, done);
    return done;
  }

  async remove(name: string): Promise<void> {
    this.realms.delete(name);
    await this.save(name);
  }
}

function parsed(text: string, file: string): RealmState {
  try {
    return JSON.parse(text) as RealmState;
  } catch (cause) {
    throw new Error(`${file} is not JSON. Delete it, and the realm’s users and clients have to be made anew.`, {
      cause,
    });
  }
}

const builtInScopes = ['basic', 'profile', 'email', 'roles', 'web-origins', 'acr'];
const builtInOptionalScopes = ['offline_access', 'address', 'phone', 'organization'];

/** A realm as Keycloak makes one: with its own roles and client scopes, as far as somebody may name them. */
export function newRealm(given: Record<string, any>): RealmState {
  const id = given.id ?? randomUUID();
  const defaultRole = { id: randomUUID(), name: `default-roles-${given.realm}`, composite: true };
  const role = (name: string) => ({ id: randomUUID(), name, composite: false });
  return {
    realm: {
      accessTokenLifespan: 300,
      attributes: {},
      ...given,
      realm: given.realm,
      id,
      enabled: given.enabled ?? false,
      defaultRole,
    },
    roles: [defaultRole, role('offline_access'), role('uma_authorization')].map((made) => ({
      clientRole: false,
      containerId: id,
      attributes: {},
      ...made,
    })),
    groups: [],
    users: [],
    clients: [],
    clientScopes: [...builtInScopes, ...builtInOptionalScopes].map((name) => ({
      id: randomUUID(),
      name,
      protocol: 'openid-connect',
      attributes: {},
      protocolMappers: [],
    })),
    defaultClientScopes: [...builtInScopes],
    optionalClientScopes: [...builtInOptionalScopes],
  };
}
