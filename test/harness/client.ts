/** The REST API as a user of a tenant sees it, over real HTTP with real tokens of the development issuer. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Stack } from './stack.js';

export type Role = 'admin' | 'operator' | 'viewer';

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  /** The body, parsed where it is JSON; else undefined. */
  body: any;
}

export interface Call {
  headers?: Record<string, string>;
  /** Sent as JSON. */
  json?: unknown;
  /** Sent as it is. */
  raw?: string | Uint8Array<ArrayBuffer>;
}

export interface Client {
  token: string;
  call(method: string, path: string, call?: Call): Promise<Answer>;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, json: unknown, headers?: Record<string, string>): Promise<Answer>;
  patch(path: string, json: unknown, headers?: Record<string, string>): Promise<Answer>;
  delete(path: string, headers?: Record<string, string>): Promise<Answer>;
  /** Creates and waits until it is ready; gives the resource. Throws where it does not succeed. */
  make(plural: string, json: object): Promise<any>;
  /** Deletes and waits until it is gone. */
  remove(plural: string, id: string): Promise<void>;
}

/** A client with this bearer token; undefined: with none. */
export function clientWith(base: string, token: string | undefined): Client {
  const call = async (method: string, path: string, { headers = {}, json, raw }: Call = {}): Promise<Answer> => {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const body = raw ?? (json === undefined ? undefined : JSON.stringify(json));
    const response = await fetch(base + path, {
      method,
      headers: {
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && { 'content-type': type }),
        ...headers,
      },
      body,
      signal: AbortSignal.timeout(75_000),
    });
    const text = await response.text();
    const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: isJson && text !== '' ? JSON.parse(text) : undefined,
    };
  };
  const ended = async (what: string, answer: Answer) => {
    if (answer.status !== 200 || answer.body.job?.state !== 'succeeded')
      throw new Error(`${what}: ${answer.status} ${answer.text}`);
    return answer.body;
  };
  return {
    token: token ?? '',
    call,
    get: (path, headers) => call('GET', path, { headers }),
    post: (path, json, headers) => call('POST', path, { json, headers }),
    patch: (path, json, headers) => call('PATCH', path, { json, headers }),
    delete: (path, headers) => call('DELETE', path, { headers }),
    make: async (plural, json) => ended(`POST ${plural}`, await call('POST', `/v1/${plural}?wait=60s`, { json })),
    remove: async (plural, id) => {
      await ended(`DELETE ${plural}/${id}`, await call('DELETE', `/v1/${plural}/${id}?wait=60s`));
    },
  };
}

const tokens = new Map<string, string>();

/** A client of a role in a tenant. */
export async function apiOf(stack: Stack, tenant = 'acme', role: Role = 'admin'): Promise<Client> {
  const key = `${stack.data} ${tenant} ${role}`;
  const token = tokens.get(key) ?? (await tokenOf(stack, tenant, role));
  tokens.set(key, token);
  return clientWith(stack.dev.api, token);
}

/** What the issuer keeps of a realm: its clients' secrets and the key that it signs with. */
export function realmSecrets(stack: Stack, tenant: string): { signingKey: any; clientSecrets: Record<string, string> } {
  return JSON.parse(readFileSync(join(stack.data, 'issuer', `${tenant}.json`), 'utf8'));
}

async function tokenOf(stack: Stack, tenant: string, role: Role): Promise<string> {
  const { issuer } = stack.dev.tenants[tenant]!;
  const client = `${tenant}-${role}`;
  const secret = realmSecrets(stack, tenant).clientSecrets[client]!;
  const response = await fetch(`${issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams({ grant_type: 'client_credentials', client_id: client, client_secret: secret }),
  });
  if (!response.ok) throw new Error(`no token for ${client}: ${await response.text()}`);
  return ((await response.json()) as { access_token: string }).access_token;
}
