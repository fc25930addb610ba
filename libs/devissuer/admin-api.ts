/**
 * Keycloak's admin API, as much of it as Rhyzome uses: realms with roles, groups, users, clients and client scopes, for
 * one administering client of the realm `master`. What it does not have answers 404, so that a test against it fails
 * rather than pretends.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type AdminAnswer, AdminRefusal, type AdminRoute, done, found, textOf } from './admin-answer.js';
import { clientRoutes } from './admin-clients.js';
import { peopleRoutes } from './admin-people.js';
import { newRealm, type RealmState, type RealmStates } from './realm-state.js';
import type { AdminClient } from './secrets.js';

const MAX_BODY_BYTES = 1024 * 1024;
const TOKEN_SECONDS = 60;
export const masterTokenPath = '/realms/master/protocol/openid-connect/token';

export interface AdminApiOptions {
  states: RealmStates;
  client: AdminClient;
  /** What a realm has open ends; null: everybody's. */
  endSessions(realm: string, accountId: string | null): void;
  onRemoved(realm: string): Promise<void>;
}

const routes: readonly AdminRoute[] = [...clientRoutes, ...peopleRoutes];

export class AdminApi {
  /** Tokens that were given out → when they end. */
  private readonly tokens = new Map<string, number>();

  constructor(private readonly options: AdminApiOptions) {}

  /** Answers a POST to `masterTokenPath`: client credentials (RFC 6749, section 4.4), the secret as Basic or in the form. */
  async serveToken(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const form = new URLSearchParams(await bodyOf(request));
    const { clientId, clientSecret } = this.options.client;
    const [basicId, basicSecret] = basicOf(request.headers.authorization);
    const isKnown = isSame(basicId ?? form.get('client_id') ?? '', clientId);
    const isRight = isSame(basicSecret ?? form.get('client_secret') ?? '', clientSecret);
    if (!isKnown || !isRight) {
      const error_description = 'Invalid client or Invalid client credentials';
      return send(response, { status: 401, body: { error: 'unauthorized_client', error_description } });
    }
    if (form.get('grant_type') !== 'client_credentials')
      return send(response, { status: 400, body: { error: 'unsupported_grant_type' } });
    const now = Date.now();
    for (const [token, end] of this.tokens) if (end <= now) this.tokens.delete(token);
    const access_token = randomBytes(32).toString('base64url');
    this.tokens.set(access_token, now + TOKEN_SECONDS * 1000);
    send(response, { status: 200, body: { access_token, expires_in: TOKEN_SECONDS, token_type: 'Bearer', scope: '' } });
  }

  /** Answers anything below /admin/. `base` is the issuer's URL, for Location. */
  async serve(request: IncomingMessage, response: ServerResponse, base: string): Promise<void> {
    const url = new URL(request.url ?? '/', base);
    try {
      const token = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
      if ((this.tokens.get(token) ?? 0) <= Date.now()) throw new AdminRefusal(401, 'HTTP 401 Unauthorized');
      const body = parsed(await bodyOf(request));
      const answer = await this.answer(request.method ?? 'GET', url, body);
      send(response, answer, answer.madeId === undefined ? undefined : `${base}${url.pathname}/${answer.madeId}`);
    } catch (error) {
      if (!(error instanceof AdminRefusal)) throw error;
      const member = error.status === 401 || error.status === 404 ? 'error' : 'errorMessage';
      send(response, { status: error.status, body: { [member]: error.message } });
    }
  }

  private async answer(method: string, url: URL, body: any): Promise<AdminAnswer> {
    const [, , root, name, ...rest] = url.pathname.split('/').map(decodeURIComponent);
    if (root !== 'realms') throw new AdminRefusal(404, 'HTTP 404 Not Found');
    const { states } = this.options;
    if (name === undefined || name === '') return this.realms(method, body);
    const realm = states.get(name);
    if (!realm) throw new AdminRefusal(404, 'Realm not found.');
    if (rest.length === 0) return this.realm(method, realm, body);
    for (const [verb, pattern, handler] of routes) {
      const params = verb === method ? matched(pattern, rest) : undefined;
      if (!params) continue;
      const endSessions = (accountId: string | null) => this.options.endSessions(name, accountId);
      const answer = handler({ realm, params, query: url.searchParams, body, endSessions });
      if (method !== 'GET') await states.save(name);
      return answer;
    }
    throw new AdminRefusal(404, 'HTTP 404 Not Found');
  }

  private async realms(method: string, body: any): Promise<AdminAnswer> {
    const { states } = this.options;
    if (method === 'GET') return found(states.names.map((name) => states.get(name)!.realm));
    if (method !== 'POST') throw new AdminRefusal(405, 'HTTP 405 Method Not Allowed');
    const name = textOf(body?.realm, 'realm');
    if (!/^[a-z0-9][a-z0-9_-]{0,62}$/.test(name)) throw new AdminRefusal(400, `${name} is no name for a realm here`);
    if (name === 'master' || states.get(name)) throw new AdminRefusal(409, `Realm ${name} already exists`);
    await states.add(newRealm(body));
    return { status: 201, madeId: name };
  }

  private async realm(method: string, state: RealmState, body: any): Promise<AdminAnswer> {
    const name = state.realm.realm;
    if (method === 'GET') return found(state.realm);
    if (method === 'PUT') {
      const { id: _id, realm: _name, defaultRole: _role, attributes, ...rest } = body ?? {};
      Object.assign(state.realm, rest, { attributes: { ...state.realm.attributes, ...attributes } });
      await this.options.states.save(name);
      if (!state.realm.enabled) this.options.endSessions(name, null);
      return done;
    }
    if (method !== 'DELETE') throw new AdminRefusal(405, 'HTTP 405 Method Not Allowed');
    await this.options.states.remove(name);
    await this.options.onRemoved(name);
    return done;
  }
}

/** What the pattern's parameters are; undefined: it does not fit. A last parameter `:path` takes the rest. */
function matched(pattern: string, segments: string[]): string[] | undefined {
  const wanted = pattern.split('/');
  if (wanted.at(-1) === ':path' && segments.length > wanted.length)
    return matched(pattern, [...segments.slice(0, wanted.length - 1), segments.slice(wanted.length - 1).join('/')]);
  if (wanted.length !== segments.length) return undefined;
  const params: string[] = [];
  for (const [at, segment] of wanted.entries()) {
    if (segment.startsWith(':')) params.push(segments[at]!);
    else if (segment !== segments[at]) return undefined;
  }
  return params;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new AdminRefusal(413, 'The body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parsed(text: string): unknown {
  if (text === '') return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) throw new AdminRefusal(400, 'Cannot parse the JSON');
    throw error;
  }
}

function basicOf(header: string | undefined): [string?, string?] {
  const encoded = /^Basic (.+)$/i.exec(header ?? '')?.[1];
  if (!encoded) return [];
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const at = text.indexOf(':');
  // RFC 6749, section 2.3.1: both are form-encoded.
  return [text.slice(0, at), text.slice(at + 1)].map((part) => decodeURIComponent(part.replaceAll('+', ' '))) as [
    string,
    string,
  ];
}

function isSame(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function send(response: ServerResponse, { status, body }: AdminAnswer, location?: string): void {
  response.writeHead(status, {
    ...(body !== undefined && { 'content-type': 'application/json' }),
    ...(location && { location }),
    'cache-control': 'no-store',
  });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}
