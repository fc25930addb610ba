/**
 * Who may log in to a realm: the development users and clients that every realm has, and those that the admin API has
 * made, which win where both have a name. Answers in the words of oidc-provider and of Keycloak's claims.
 */
import { randomUUID, timingSafeEqual } from 'node:crypto';
import type { ClientMetadata } from 'oidc-provider';
import { hashPassword, isPasswordOf } from '#libs/identity';
import type { ClientState, RealmState, UserState } from './realm-state.js';
import type { RealmSecrets } from './secrets.js';

/** The users of every development realm, each with its realm roles. They share the realm's password. */
export const devUsers: Record<string, { name: string; roles: string[] }> = {
  alice: { name: 'Alice Admin', roles: ['admin'] },
  oscar: { name: 'Oscar Operator', roles: ['operator'] },
  vera: { name: 'Vera Viewer', roles: ['viewer'] },
  nora: { name: 'Nora Norole', roles: [] },
};

/** Service clients of a realm by id, with the roles of their service accounts. */
export function serviceClients(realm: string): Record<string, string[]> {
  return { [`${realm}-admin`]: ['admin'], [`${realm}-operator`]: ['operator'], [`${realm}-viewer`]: ['viewer'] };
}

/** Somebody who has logged in, as tokens tell it. */
export interface Account {
  subject: string;
  username: string;
  name?: string;
  email?: string;
  roles: string[];
  groups: string[];
}

export type LoginOutcome = { accountId: string; mustChange: boolean } | undefined;

const deviceGrant = 'urn:ietf:params:oauth:grant-type:device_code';

export class RealmDirectory {
  constructor(
    readonly name: string,
    private readonly secrets: RealmSecrets,
    /** What the admin API has made; undefined: nothing. */
    private readonly state: () => RealmState | undefined,
    private readonly save: () => Promise<void>,
  ) {}

  /** False: nobody gets tokens. */
  get isEnabled(): boolean {
    return this.state()?.realm.enabled ?? true;
  }

  /** Seconds; undefined for clients that every development realm has. */
  accessTokenLifespan(clientId: string | undefined): number | undefined {
    const state = this.state();
    return state?.clients.some((client) => client.clientId === clientId) ? state.realm.accessTokenLifespan : undefined;
  }

  client(id: string): ClientMetadata | undefined {
    const made = this.state()?.clients.find((client) => client.clientId === id);
    if (made) return made.enabled === false ? undefined : metadataOf(made);
    if (Object.hasOwn(serviceClients(this.name), id)) return serviceClient(id, this.secrets);
    if (id === `${this.name}-console`) return consoleClient(id);
    return id === 'rhyzome-cli' ? commandClient(id) : undefined;
  }

  /** Undefined: no such account, or a disabled one. */
  account(subject: string): Account | undefined {
    const user = this.state()?.users.find(({ id }) => id === subject);
    if (user) return user.enabled ? this.accountOf(user) : undefined;
    const known = Object.hasOwn(devUsers, subject) ? devUsers[subject] : undefined;
    if (!known) return undefined;
    const email = `${subject}@${this.name}.example`;
    return { subject, username: subject, name: known.name, email, roles: known.roles, groups: [] };
  }

  /** Whose token a client gets by its own credentials. */
  serviceAccount(clientId: string): Account {
    const client = this.state()?.clients.find((made) => made.clientId === clientId);
    const user = client && this.state()?.users.find(({ serviceAccountOf }) => serviceAccountOf === client.id);
    if (user) return this.accountOf(user);
    const roles = serviceClients(this.name)[clientId] ?? [];
    return { subject: clientId, username: `service-account-${clientId}`, roles, groups: [] };
  }

  async logIn(username: string, password: string): Promise<LoginOutcome> {
    const user = this.userNamed(username);
    if (!user) {
      const isRight = Object.hasOwn(devUsers, username) && isSame(password, this.secrets.userPassword);
      return isRight ? { accountId: username, mustChange: false } : undefined;
    }
    const credential = user.credentials.find(({ type }) => type === 'password');
    if (!user.enabled || !credential || !(await isPasswordOf(password, credential))) return undefined;
    return { accountId: user.id, mustChange: user.requiredActions.includes('UPDATE_PASSWORD') };
  }

  /** In the place of the one-time password. */
  async changePassword(accountId: string, password: string): Promise<void> {
    const user = this.state()?.users.find(({ id }) => id === accountId);
    if (!user) throw new Error('The account is gone.');
    const hash = await hashPassword(password);
    const others = user.credentials.filter(({ type }) => type !== 'password');
    user.credentials = [...others, { id: randomUUID(), type: 'password', createdDate: Date.now(), ...hash }];
    user.requiredActions = user.requiredActions.filter((action) => action !== 'UPDATE_PASSWORD');
    await this.save();
  }

  /** Of a password that somebody chooses: the realm's policy, as far as it is about length. */
  get minPasswordLength(): number {
    return Number(/\blength\((\d{1,3})\)/.exec(this.state()?.realm.passwordPolicy ?? '')?.[1] ?? 8);
  }

  /** To choose from on the login page. */
  get loginNames(): { username: string; name: string }[] {
    const made = this.state()?.users.filter(({ serviceAccountOf, enabled }) => !serviceAccountOf && enabled) ?? [];
    const others = Object.keys(devUsers).filter((username) => !made.some((user) => user.username === username));
    return [
      ...made.map((user) => ({ username: user.username, name: nameOf(user) ?? user.username })),
      ...others.map((username) => ({ username, name: devUsers[username]!.name })),
    ];
  }

  private userNamed(username: string): UserState | undefined {
    const wanted = username.toLowerCase();
    return this.state()?.users.find((user) => user.username === wanted && !user.serviceAccountOf);
  }

  private accountOf(user: UserState): Account {
    const { roles = [], groups = [] } = this.state() ?? {};
    return {
      subject: user.id,
      username: user.username,
      name: nameOf(user),
      email: user.email,
      roles: roles.filter(({ id }) => user.roles.includes(id)).map(({ name }) => name),
      groups: groups.filter(({ id }) => user.groups.includes(id)).map((group) => this.groupClaim(group)),
    };
  }

  /** As the realm's group mapper writes them. */
  private groupClaim({ name, path }: { name: string; path: string }): string {
    const mappers = this.state()?.clientScopes.flatMap(({ protocolMappers }) => protocolMappers) ?? [];
    const mapper = mappers.find(({ protocolMapper }) => protocolMapper === 'oidc-group-membership-mapper');
    return mapper?.config?.['full.path'] === 'true' ? path : name;
  }
}

function nameOf(user: UserState): string | undefined {
  return [user.firstName, user.lastName].filter(Boolean).join(' ') || undefined;
}

function isSame(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function serviceClient(id: string, secrets: RealmSecrets): ClientMetadata {
  return {
    client_id: id,
    client_secret: secrets.clientSecrets[id],
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  };
}

const loopbackRedirects = ['http://127.0.0.1/callback', 'http://localhost/callback'];

/** The public client of browsers: authorization code with PKCE, loopback redirects (RFC 8252). */
function consoleClient(id: string): ClientMetadata {
  return {
    client_id: id,
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: loopbackRedirects,
  };
}

/** The public client of `rhyzome login`: the device flow (RFC 8628). */
function commandClient(id: string): ClientMetadata {
  return {
    client_id: id,
    client_name: 'the rhyzome command',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: [deviceGrant, 'refresh_token'],
    response_types: [],
    redirect_uris: [],
  };
}

/** A client of Keycloak's in oidc-provider's words. Redirects with a wildcard become this machine's own. */
function metadataOf(client: ClientState): ClientMetadata {
  const attributes = (client.attributes ?? {}) as Record<string, string>;
  const exact = ((client.redirectUris ?? []) as string[]).filter((uri) => !uri.includes('*') && /^https?:/.test(uri));
  const grantTypes = [
    ...(client.standardFlowEnabled === false ? [] : ['authorization_code']),
    ...(attributes['oauth2.device.authorization.grant.enabled'] === 'true' ? [deviceGrant] : []),
  ];
  if (grantTypes.length > 0) grantTypes.push('refresh_token');
  if (client.serviceAccountsEnabled) grantTypes.push('client_credentials');
  const isNative = exact.length === 0 || exact.every((uri) => uri.startsWith('http://'));
  return {
    client_id: client.clientId,
    ...(client.name && { client_name: client.name }),
    application_type: isNative ? 'native' : 'web',
    grant_types: grantTypes,
    response_types: grantTypes.includes('authorization_code') ? ['code'] : [],
    redirect_uris: exact.length > 0 ? exact : loopbackRedirects,
    ...authenticationOf(client, attributes),
  };
}

function authenticationOf(client: ClientState, attributes: Record<string, string>): Partial<ClientMetadata> {
  if (client.publicClient) return { token_endpoint_auth_method: 'none' };
  if (client.clientAuthenticatorType !== 'client-jwt') return { client_secret: client.secret };
  return {
    token_endpoint_auth_method: 'private_key_jwt',
    jwks: JSON.parse(attributes['jwks.string'] ?? '{"keys":[]}'),
  };
}
