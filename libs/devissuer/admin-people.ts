/** The part of Keycloak's admin API that is about a realm's roles, groups and users. */
import { randomUUID } from 'node:crypto';
import {
  type AdminCall,
  AdminRefusal,
  type AdminRoute,
  done,
  found,
  orMissing,
  paged,
  textOf,
} from './admin-answer.js';
import type { Credential, RealmState, UserState } from './realm-state.js';

export const peopleRoutes: readonly AdminRoute[] = [
  ['GET', 'roles', ({ realm }) => found(realm.roles)],
  ['POST', 'roles', addRole],
  ['GET', 'roles/:name', ({ realm, params }) => found(roleNamed(realm, params[0]!))],
  ['PUT', 'roles/:name', ({ realm, params, body }) => merged(roleNamed(realm, params[0]!), body, ['name'])],
  ['DELETE', 'roles/:name', removeRole],
  ['GET', 'groups', listGroups],
  ['POST', 'groups', addGroup],
  ['GET', 'groups/:id', ({ realm, params }) => found(groupWith(realm, params[0]!))],
  ['PUT', 'groups/:id', ({ realm, params, body }) => merged(groupWith(realm, params[0]!), body, ['path'])],
  ['DELETE', 'groups/:id', removeGroup],
  ['GET', 'groups/:id/members', ({ realm, params, query }) => found(paged(membersOf(realm, params[0]!), query))],
  ['GET', 'group-by-path/:path', groupByPath],
  ['GET', 'users', listUsers],
  ['POST', 'users', addUser],
  ['GET', 'users/count', ({ realm }) => found(realm.users.filter(isPerson).length)],
  ['GET', 'users/:id', ({ realm, params }) => found(shown(userWith(realm, params[0]!)))],
  ['PUT', 'users/:id', updateUser],
  ['DELETE', 'users/:id', removeUser],
  ['POST', 'users/:id/logout', logOut],
  ['GET', 'users/:id/sessions', ({ realm, params }) => userWith(realm, params[0]!) && found([])],
  ['PUT', 'users/:id/reset-password', () => unsupported('reset-password: give a hash in credentials')],
  [
    'GET',
    'users/:id/credentials',
    ({ realm, params }) => found(userWith(realm, params[0]!).credentials.map(shownCredential)),
  ],
  ['PUT', 'users/:id/credentials/:credential/userLabel', labelCredential],
  ['DELETE', 'users/:id/credentials/:credential', removeCredential],
  ['GET', 'users/:id/role-mappings/realm', ({ realm, params }) => found(rolesOf(realm, userWith(realm, params[0]!)))],
  ['POST', 'users/:id/role-mappings/realm', (call) => mapRoles(call, true)],
  ['DELETE', 'users/:id/role-mappings/realm', (call) => mapRoles(call, false)],
  ['GET', 'users/:id/groups', ({ realm, params }) => found(groupsOf(realm, userWith(realm, params[0]!)))],
  ['PUT', 'users/:id/groups/:group', (call) => join(call, true)],
  ['DELETE', 'users/:id/groups/:group', (call) => join(call, false)],
];

function unsupported(what: string): never {
  throw new AdminRefusal(501, `The development issuer has no ${what}.`);
}

/** As Keycloak updates: members that are not named stay. */
function merged(target: object, body: object, fixed: readonly string[] = []) {
  const kept = Object.fromEntries(
    Object.entries(body ?? {}).filter(([name]) => name !== 'id' && !fixed.includes(name)),
  );
  Object.assign(target, kept);
  return done;
}

function roleNamed(realm: RealmState, name: string) {
  return orMissing(
    realm.roles.find((role) => role.name === name),
    'Could not find role',
  );
}

function addRole({ realm, body }: AdminCall) {
  const name = textOf(body?.name, 'name');
  if (realm.roles.some((role) => role.name === name))
    throw new AdminRefusal(409, `Role with name ${name} already exists`);
  const fixed = { id: randomUUID(), composite: false, clientRole: false, containerId: realm.realm.id };
  realm.roles.push({ attributes: {}, ...body, name, ...fixed });
  return { status: 201, madeId: name };
}

function removeRole({ realm, params }: AdminCall) {
  const { id } = roleNamed(realm, params[0]!);
  realm.roles = realm.roles.filter((role) => role.id !== id);
  for (const user of realm.users) user.roles = user.roles.filter((role) => role !== id);
  return done;
}

function groupWith(realm: RealmState, id: string) {
  return orMissing(
    realm.groups.find((group) => group.id === id),
    'Could not find group by id',
  );
}

function groupByPath({ realm, params }: AdminCall) {
  const path = `/${params[0]}`;
  return found(
    orMissing(
      realm.groups.find((group) => group.path === path),
      'Group path does not exist',
    ),
  );
}

function listGroups({ realm, query }: AdminCall) {
  const search = query.get('search');
  const isExact = query.get('exact') === 'true';
  const fits = (name: string) => search === null || (isExact ? name === search : name.includes(search));
  return found(
    paged(
      realm.groups.filter(({ name }) => fits(name)),
      query,
    ),
  );
}

function addGroup({ realm, body }: AdminCall) {
  const name = textOf(body?.name, 'name');
  if (realm.groups.some((group) => group.name === name))
    throw new AdminRefusal(409, `Top level group named '${name}' already exists.`);
  const id = randomUUID();
  realm.groups.push({ attributes: {}, ...body, id, name, path: `/${name}`, subGroupCount: 0, subGroups: [] });
  return { status: 201, madeId: id };
}

function removeGroup({ realm, params }: AdminCall) {
  const { id } = groupWith(realm, params[0]!);
  realm.groups = realm.groups.filter((group) => group.id !== id);
  for (const user of realm.users) user.groups = user.groups.filter((group) => group !== id);
  return done;
}

function membersOf(realm: RealmState, id: string) {
  const group = groupWith(realm, id);
  return realm.users.filter((user) => user.groups.includes(group.id)).map(shown);
}

function isPerson(user: UserState): boolean {
  return !user.serviceAccountOf;
}

function userWith(realm: RealmState, id: string): UserState {
  return orMissing(
    realm.users.find((user) => user.id === id),
    'User not found',
  );
}

/** Without what no answer has: credentials, and what has addresses of its own. */
function shown({ credentials: _c, roles: _r, groups: _g, serviceAccountOf: _s, ...user }: UserState) {
  return user;
}

function shownCredential({ secretData: _secret, ...credential }: Credential) {
  return credential;
}

function listUsers({ realm, query }: AdminCall) {
  const isExact = query.get('exact') === 'true';
  const search = query.get('search');
  const [attribute, value] = query.get('q')?.split(':') ?? [];
  const fits = (user: UserState) => {
    if (attribute !== undefined && user.attributes?.[attribute]?.[0] !== value) return false;
    if (search !== null && ![user.username, user.email ?? ''].some((text) => text.includes(search.toLowerCase())))
      return false;
    return ['username', 'email'].every((member) => {
      const wanted = query.get(member)?.toLowerCase();
      const value = String(user[member] ?? '').toLowerCase();
      return wanted === undefined || (isExact ? value === wanted : value.includes(wanted));
    });
  };
  return found(paged(realm.users.filter(isPerson).filter(fits), query).map(shown));
}

function refuseTaken(realm: RealmState, user: { username?: string; email?: string }, except?: string): void {
  const others = realm.users.filter(({ id }) => id !== except);
  if (others.some(({ username }) => username === user.username))
    throw new AdminRefusal(409, 'User exists with same username');
  if (user.email && !realm.realm.duplicateEmailsAllowed && others.some(({ email }) => email === user.email))
    throw new AdminRefusal(409, 'User exists with same email');
}

function addUser({ realm, body }: AdminCall) {
  const username = textOf(body?.username, 'username').toLowerCase();
  const email = body.email?.toLowerCase();
  refuseTaken(realm, { username, email });
  const { credentials, groups = [], realmRoles: _ignored, ...rest } = body;
  const user: UserState = {
    emailVerified: false,
    enabled: false,
    requiredActions: [],
    ...rest,
    id: randomUUID(),
    username,
    ...(email && { email }),
    createdTimestamp: Date.now(),
    credentials: [],
    roles: [realm.realm.defaultRole.id],
    groups: realm.groups.filter(({ path }) => groups.includes(path)).map(({ id }) => id),
  };
  setCredentials(user, credentials);
  realm.users.push(user);
  return { status: 201, madeId: user.id };
}

function updateUser({ realm, params, body, endSessions }: AdminCall) {
  const user = userWith(realm, params[0]!);
  const email = body?.email?.toLowerCase();
  refuseTaken(realm, { username: user.username, email }, user.id);
  const { credentials, ...rest } = body ?? {};
  merged(user, rest, ['username', 'groups', 'roles', 'serviceAccountOf', 'createdTimestamp']);
  if (email) user.email = email;
  setCredentials(user, credentials);
  if (!user.enabled) endSessions(user.id);
  return done;
}

/** Passwords come as hashes; each replaces the one before, and a temporary one has to be changed at the next login. */
function setCredentials(user: UserState, given: (Credential & { temporary?: boolean })[] | undefined): void {
  for (const { temporary, ...credential } of given ?? []) {
    if (temporary) user.requiredActions = [...new Set([...user.requiredActions, 'UPDATE_PASSWORD'])];
    const secretData = textOf(credential.secretData, 'secretData');
    const credentialData = textOf(credential.credentialData, 'credentialData');
    const made = { ...credential, id: randomUUID(), createdDate: Date.now(), secretData, credentialData };
    user.credentials = [...user.credentials.filter(({ type }) => type !== credential.type), made];
  }
}

function removeUser({ realm, params, endSessions }: AdminCall) {
  const { id } = userWith(realm, params[0]!);
  realm.users = realm.users.filter((user) => user.id !== id);
  endSessions(id);
  return done;
}

function logOut({ realm, params, endSessions }: AdminCall) {
  endSessions(userWith(realm, params[0]!).id);
  return done;
}

function credentialOf(realm: RealmState, [userId, id]: string[]) {
  const user = userWith(realm, userId!);
  const credential = orMissing(
    user.credentials.find((known) => known.id === id),
    'Credential not found',
  );
  return { user, credential };
}

function labelCredential({ realm, params, body }: AdminCall) {
  Object.assign(credentialOf(realm, params).credential, { userLabel: String(body) });
  return done;
}

function removeCredential({ realm, params }: AdminCall) {
  const { user, credential } = credentialOf(realm, params);
  user.credentials = user.credentials.filter(({ id }) => id !== credential.id);
  return done;
}

function rolesOf(realm: RealmState, user: UserState) {
  return realm.roles.filter(({ id }) => user.roles.includes(id));
}

function mapRoles({ realm, params, body }: AdminCall, isAdded: boolean) {
  const user = userWith(realm, params[0]!);
  const named = (Array.isArray(body) ? body : []).map(({ name }) => roleNamed(realm, name).id);
  const others = user.roles.filter((id) => !named.includes(id));
  user.roles = isAdded ? [...others, ...named] : others;
  return done;
}

function groupsOf(realm: RealmState, user: UserState) {
  return realm.groups.filter(({ id }) => user.groups.includes(id));
}

function join({ realm, params }: AdminCall, isMember: boolean) {
  const user = userWith(realm, params[0]!);
  const group = groupWith(realm, params[1]!);
  const others = user.groups.filter((id) => id !== group.id);
  user.groups = isMember ? [...others, group.id] : others;
  return done;
}
