/**
 * The development issuer: one HTTP server on loopback with a realm per tenant, in the shape of Keycloak, so that
 * `npm start` and the tests have real tokens without a Keycloak. Not for production: its users share a password.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type Provider from 'oidc-provider';
import { serveLogin } from './login.js';
import { makeRealm, serviceClients } from './realm.js';
import { loadRealmSecrets, writeDurably } from './secrets.js';

export interface DevIssuerOptions {
  /** 0: the port of the last start with this dataDir if it is free, so that old tokens stay valid; else any. */
  port: number;
  /** Default 127.0.0.1. */
  host?: string;
  tenants: string[];
  /** Keeps keys and secrets, 0700. */
  dataDir: string;
  /** Default 3600. */
  accessTokenTtlSeconds?: number;
}

/** How to get tokens of one realm. */
export interface RealmAccess {
  issuer: string;
  /** The client whose service account is admin. */
  clientId: string;
  clientSecret: string;
  /** All service clients of the realm: `<tenant>-admin`, `<tenant>-operator`, `<tenant>-viewer` → secret. */
  clientSecrets: Record<string, string>;
  /** Public client for authorization code + PKCE, redirect http://127.0.0.1:*\/callback. */
  consoleClientId: string;
  /** Password of the users in `devUsers`. */
  userPassword: string;
}

export interface DevIssuer {
  /** Base URL without a slash at the end. */
  url: string;
  tenants: Record<string, RealmAccess>;
  /** Adds a realm while running; does nothing when it exists. */
  addTenant(tenant: string): Promise<RealmAccess>;
  stop(): Promise<void>;
}

interface Realm {
  provider: Provider;
  handle: (request: IncomingMessage, response: ServerResponse) => Promise<void>;
  access: RealmAccess;
}

const realmPath = /^\/realms\/([a-z0-9]{1,63})(\/[^?]*)?(?:\?|$)/;

/** Starts the issuer. Throws when the port is taken. */
export async function startIssuer(options: DevIssuerOptions): Promise<DevIssuer> {
  const realms = new Map<string, Realm>();
  const server = createServer((request, response) => {
    serve(realms, request, response).catch((error: Error) => {
      if (!response.headersSent) response.writeHead(400, { 'content-type': 'text/plain' });
      response.end(`${error.message}\n`);
    });
  });
  const host = options.host ?? '127.0.0.1';
  const port = await listen(server, host, options.port, join(options.dataDir, 'port'), options.dataDir);
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  const tenants: Record<string, RealmAccess> = {};

  const addTenant = async (tenant: string): Promise<RealmAccess> => {
    const known = realms.get(tenant);
    if (known) return known.access;
    const realm = await openRealm(tenant, url, options);
    realms.set(tenant, realm);
    tenants[tenant] = realm.access;
    return realm.access;
  };
  const stop = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    await closed;
  };
  try {
    for (const tenant of options.tenants) await addTenant(tenant);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, tenants, addTenant, stop };
}

async function openRealm(tenant: string, url: string, options: DevIssuerOptions): Promise<Realm> {
  if (!/^[a-z0-9]{1,63}$/.test(tenant)) throw new Error(`“${tenant}” is no tenant id (lower-case letters and digits).`);
  const issuer = `${url}/realms/${tenant}`;
  const secrets = await loadRealmSecrets(options.dataDir, tenant, Object.keys(serviceClients(tenant)));
  const accessTokenTtlSeconds = options.accessTokenTtlSeconds ?? 3600;
  const provider = makeRealm({ realm: tenant, issuer, secrets, accessTokenTtlSeconds });
  const clientId = `${tenant}-admin`;
  const access = {
    issuer,
    clientId,
    clientSecret: secrets.clientSecrets[clientId] ?? '',
    clientSecrets: secrets.clientSecrets,
    consoleClientId: `${tenant}-console`,
    userPassword: secrets.userPassword,
  };
  const callback = provider.callback();
  return { provider, access, handle: async (request, response) => void (await callback(request, response)) };
}

async function serve(realms: Map<string, Realm>, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = request.url ?? '/';
  const match = realmPath.exec(url);
  const realm = match?.[1] ? realms.get(match[1]) : undefined;
  if (!realm || !match) {
    response.writeHead(404, { 'content-type': 'application/json' });
    response.end('{"error":"Realm does not exist"}\n');
    return;
  }
  if (match[2]?.startsWith('/interaction/')) {
    return serveLogin(realm.provider, realm.access.userPassword, request, response);
  }
  // oidc-provider mounted below a path: it finds its mount point by comparing originalUrl with url.
  const mount = `/realms/${match[1]}`;
  Object.assign(request, { originalUrl: url, baseUrl: mount });
  request.url = url.slice(mount.length) || '/';
  await realm.handle(request, response);
}

/** Listens, on the remembered port when any will do, and remembers the port. */
async function listen(server: Server, host: string, port: number, file: string, dataDir: string): Promise<number> {
  const remembered = port === 0 ? await readPort(file) : port;
  try {
    await listenOn(server, host, remembered);
  } catch (error) {
    if (port !== 0 || remembered === 0) throw error;
    await listenOn(server, host, 0);
  }
  const actual = (server.address() as AddressInfo).port;
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  await writeDurably(file, String(actual));
  return actual;
}

async function readPort(file: string): Promise<number> {
  try {
    const port = Number(await readFile(file, 'utf8'));
    return Number.isInteger(port) && port > 0 && port < 65_536 ? port : 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}

function listenOn(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}
