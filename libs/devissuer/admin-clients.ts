/** The part of Keycloak's admin API that is about a realm itself, its clients and their scopes. */
import { randomBytes, randomUUID } from 'node:crypto';
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
import type { ClientState, RealmState, Representation } from './realm-state.js';

type ScopeList = 'defaultClientScopes' | 'optionalClientScopes';

const scopeRoutes = (path: string, list: ScopeList, holder: (call: AdminCall) => Record<ScopeList, string[]>) =>
  [
    ['GET', path, (call) => found(call.realm.clientScopes.filter(({ name }) => holder(call)[list].includes(name)))],
    ['PUT', `${path}/:scope`, (call) => assignScope(call, holder(call), list)],
    ['DELETE', `${path}/:scope`, (call) => takeScope(call, holder(call), list)],
  ] satisfies AdminRoute[];

export const clientRoutes: readonly AdminRoute[] = [
  ['GET', 'clients', listClients],
  ['POST', 'clients', addClient],
  ['GET', 'clients/:id', ({ realm, params }) => found(clientWith(realm, params[0]!))],
  ['PUT', 'clients/:id', updateClient],
  ['DELETE', 'clients/:id', removeClient],
  ['GET', 'clients/:id/service-account-user', serviceAccountUser],
  ['GET', 'clients/:id/client-secret', clientSecret],
  ...scopeRoutes('clients/:id/default-client-scopes', 'defaultClientScopes', clientOf),
  ...scopeRoutes('clients/:id/optional-client-scopes', 'optionalClientScopes', clientOf),
  ...scopeRoutes('default-default-client-scopes', 'defaultClientScopes', ({ realm }) => realm),
  ...scopeRoutes('default-optional-client-scopes', 'optionalClientScopes', ({ realm }) => realm),
  ['GET', 'client-scopes', ({ realm }) => found(realm.clientScopes)],
  ['POST', 'client-scopes', addClientScope],
  ['GET', 'client-scopes/:id', ({ realm, params }) => found(clientScopeWith(realm, params[0]!))],
  ['PUT', 'client-scopes/:id', updateClientScope],
  ['DELETE', 'client-scopes/:id', removeClientScope],
  [
    'GET',
    'client-scopes/:id/protocol-mappers/models',
    ({ realm, params }) => found(clientScopeWith(realm, params[0]!).protocolMappers),
  ],
  ['POST', 'client-scopes/:id/protocol-mappers/models', addMapper],
  ['PUT', 'client-scopes/:id/protocol-mappers/models/:mapper', updateMapper],
  ['DELETE', 'client-scopes/:id/protocol-mappers/models/:mapper', removeMapper],
  ['POST', 'logout-all', logOutAll],
  ['POST', 'push-revocation', () => found({})],
  ['GET', 'users/profile', ({ realm }) => found(realm.realm.userProfile ?? { attributes: [] })],
  ['PUT', 'users/profile', setProfile],
];

function clientWith(realm: RealmState, id: string): ClientState {
  return orMissing(
    realm.clients.find((client) => client.id === id),
    'Could not find client',
  );
}

function clientOf({ realm, params }: AdminCall): ClientState {
  return clientWith(realm, params[0]!);
}

function listClients({ realm, query }: AdminCall) {
  const wanted = query.get('clientId');
  const isSearch = query.get('search') === 'true';
  const fits = (id: string) => wanted === null || (isSearch ? id.includes(wanted) : id === wanted);
  return found(
    paged(
      realm.clients.filter(({ clientId }) => fits(clientId)),
      query,
    ),
  );
}

function addClient({ realm, body }: AdminCall) {
  const clientId = textOf(body?.clientId, 'clientId');
  if (realm.clients.some((client) => client.clientId === clientId))
    throw new AdminRefusal(409, `Client ${clientId} already exists`);
  const isPublic = body.publicClient === true;
  const client: ClientState = {
    enabled: true,
    standardFlowEnabled: true,
    directAccessGrantsEnabled: false,
    serviceAccountsEnabled: false,
    clientAuthenticatorType: 'client-secret',
    redirectUris: [],
    attributes: {},
    protocol: 'openid-connect',
    ...(!isPublic && { secret: randomBytes(24).toString('base64url') }),
    defaultClientScopes: [...realm.defaultClientScopes],
    optionalClientScopes: [...realm.optionalClientScopes],
    ...body,
    id: body.id ?? randomUUID(),
    clientId,
  };
  realm.clients.push(client);
  ensureServiceAccount(realm, client);
  return { status: 201, madeId: client.id };
}

/** Scopes of a client have addresses of their own: here they are left as they are. */
function updateClient(call: AdminCall) {
  const client = clientOf(call);
  const { id: _id, defaultClientScopes: _d, optionalClientScopes: _o, attributes, ...rest } = call.body ?? {};
  Object.assign(client, rest, { attributes: { ...client.attributes, ...attributes } });
  ensureServiceAccount(call.realm, client);
  return done;
}

function removeClient(call: AdminCall) {
  const { id } = clientOf(call);
  call.realm.clients = call.realm.clients.filter((client) => client.id !== id);
  call.realm.users = call.realm.users.filter((user) => user.serviceAccountOf !== id);
  return done;
}

function ensureServiceAccount(realm: RealmState, { id, clientId, serviceAccountsEnabled }: ClientState): void {
  if (!serviceAccountsEnabled || realm.users.some((user) => user.serviceAccountOf === id)) return;
  realm.users.push({
    id: randomUUID(),
    username: `service-account-${clientId.toLowerCase()}`,
    emailVerified: false,
    enabled: true,
    requiredActions: [],
    createdTimestamp: Date.now(),
    credentials: [],
    roles: [realm.realm.defaultRole.id],
    groups: [],
    serviceAccountOf: id,
  });
}

function serviceAccountUser(call: AdminCall) {
  const { id } = clientOf(call);
  const user = call.realm.users.find(({ serviceAccountOf }) => serviceAccountOf === id);
  if (!user) throw new AdminRefusal(400, 'Service account not enabled for the client');
  const { credentials: _c, roles: _r, groups: _g, serviceAccountOf: _s, ...shown } = user;
  return found(shown);
}

function clientSecret(call: AdminCall) {
  return found({ type: 'secret', value: clientOf(call).secret });
}

function clientScopeWith(realm: RealmState, id: string) {
  return orMissing(
    realm.clientScopes.find((scope) => scope.id === id),
    'Could not find client scope',
  );
}

function assignScope({ realm, params }: AdminCall, holder: Record<ScopeList, string[]>, list: ScopeList) {
  const { name } = clientScopeWith(realm, params.at(-1)!);
  // As Keycloak: what is one sort already does not become the other.
  if (!holder.defaultClientScopes.includes(name) && !holder.optionalClientScopes.includes(name))
    holder[list].push(name);
  return done;
}

function takeScope({ realm, params }: AdminCall, holder: Record<ScopeList, string[]>, list: ScopeList) {
  const { name } = clientScopeWith(realm, params.at(-1)!);
  holder[list] = holder[list].filter((known) => known !== name);
  return done;
}

function withIds(mappers: Representation[] | undefined): Representation[] {
  return (mappers ?? []).map((mapper) => ({ ...mapper, id: mapper.id ?? randomUUID() }));
}

function addClientScope({ realm, body }: AdminCall) {
  const name = textOf(body?.name, 'name');
  if (realm.clientScopes.some((scope) => scope.name === name))
    throw new AdminRefusal(409, `Client Scope ${name} already exists`);
  const id = body.id ?? randomUUID();
  realm.clientScopes.push({ attributes: {}, ...body, id, name, protocolMappers: withIds(body.protocolMappers) });
  return { status: 201, madeId: id };
}

function updateClientScope({ realm, params, body }: AdminCall) {
  const scope = clientScopeWith(realm, params[0]!);
  const { id: _id, name: _name, protocolMappers: _mappers, ...rest } = body ?? {};
  Object.assign(scope, rest);
  return done;
}

function removeClientScope({ realm, params }: AdminCall) {
  const { id, name } = clientScopeWith(realm, params[0]!);
  realm.clientScopes = realm.clientScopes.filter((scope) => scope.id !== id);
  for (const holder of [realm, ...realm.clients]) {
    holder.defaultClientScopes = holder.defaultClientScopes.filter((known) => known !== name);
    holder.optionalClientScopes = holder.optionalClientScopes.filter((known) => known !== name);
  }
  return done;
}

function addMapper({ realm, params, body }: AdminCall) {
  const scope = clientScopeWith(realm, params[0]!);
  if (scope.protocolMappers.some(({ name }) => name === body?.name))
    throw new AdminRefusal(409, 'Protocol mapper exists with same name');
  const [made] = withIds([body]);
  scope.protocolMappers.push(made!);
  return { status: 201, madeId: made!.id };
}

function mapperOf({ realm, params }: AdminCall) {
  const { protocolMappers } = clientScopeWith(realm, params[0]!);
  const mapper = protocolMappers.find(({ id }) => id === params[1]);
  return orMissing(mapper, 'Model not found');
}

function updateMapper(call: AdminCall) {
  const { id: _id, ...rest } = call.body ?? {};
  Object.assign(mapperOf(call), rest);
  return done;
}

function removeMapper(call: AdminCall) {
  const { id } = mapperOf(call);
  const scope = clientScopeWith(call.realm, call.params[0]!);
  scope.protocolMappers = scope.protocolMappers.filter((mapper) => mapper.id !== id);
  return done;
}

function logOutAll({ endSessions }: AdminCall) {
  endSessions(null);
  return found({});
}

function setProfile({ realm, body }: AdminCall) {
  realm.realm.userProfile = body;
  return found(body);
}
