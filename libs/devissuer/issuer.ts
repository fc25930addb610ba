/**
 * The development issuer: one HTTP server on loopback with a realm per tenant and Keycloak's admin API, in the shape of
 * Keycloak, so that `npm start` and the tests have real tokens without one. Not for production: its users share a
 * password. Realms of the options are there from the start, but the admin API knows only what was made by it.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { AdminApi, masterTokenPath } from './admin-api.js';
import { RealmDirectory, serviceClients } from './directory.js';
import { serveLogin } from './login.js';
import { makeRealm, type OpenRealm } from './realm.js';
import { RealmStates } from './realm-state.js';
import { type AdminClient, loadAdminClient, loadRealmSecrets, removeRealmSecrets, writeDurably } from './secrets.js';

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
  /** Public client for the device flow. */
  commandClientId: string;
  /** Password of the users in `devUsers`. */
  userPassword: string;
}

export interface DevIssuer {
  /** Base URL without a slash at the end. */
  url: string;
  /** Of the options, and those that were added. */
  tenants: Record<string, RealmAccess>;
  /** Whoever may use the admin API below `{url}/admin`, by client credentials of the realm `master`. */
  admin: AdminClient;
  /** Adds a realm while running; does nothing when it exists. */
  addTenant(tenant: string): Promise<RealmAccess>;
  stop(): Promise<void>;
}

interface Realm extends OpenRealm {
  directory: RealmDirectory;
  handle: (request: IncomingMessage, response: ServerResponse) => Promise<void>;
  access: RealmAccess;
}

const realmPath = /^\/realms\/([a-z0-9][a-z0-9_-]{0,62})(\/[^?]*)?(?:\?|$)/;
/** What gives a disabled realm's tokens away. */
const givesTokens = /^\/(interaction|device|protocol\/openid-connect\/(auth|token))(\/|$)/;

/** Starts the issuer. Throws when the port is taken. */
export async function startIssuer(options: DevIssuerOptions): Promise<DevIssuer> {
  const { dataDir } = options;
  const [states, admin] = await Promise.all([RealmStates.open(dataDir), loadAdminClient(dataDir)]);
  let realms: Realms | undefined;
  const server = createServer((request, response) => {
    const served = realms ? realms.serve(request, response) : Promise.reject(new Error('Starting.'));
    served.catch((error: Error) => {
      const status = request.url?.startsWith('/admin/') ? 500 : 400;
      if (!response.headersSent) response.writeHead(status, { 'content-type': 'text/plain' });
      response.end(`${error.message}\n`);
    });
  });
  const host = options.host ?? '127.0.0.1';
  const port = await listen(server, host, options.port, join(dataDir, 'port'), dataDir);
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  realms = new Realms(url, options, states, admin);
  const opened = realms;
  const stop = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    await closed;
  };
  try {
    for (const tenant of options.tenants) await opened.addTenant(tenant);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, tenants: opened.tenants, admin, addTenant: (tenant) => opened.addTenant(tenant), stop };
}

/** The realms of one issuer, opened when they are first asked for. */
class Realms {
  readonly tenants: Record<string, RealmAccess> = {};
  private readonly opened = new Map<string, Promise<Realm>>();
  private readonly api: AdminApi;

  constructor(
    private readonly url: string,
    private readonly options: DevIssuerOptions,
    private readonly states: RealmStates,
    client: AdminClient,
  ) {
    this.api = new AdminApi({
      states,
      client,
      endSessions: (name, accountId) =>
        void this.opened.get(name)?.then((realm) => realm.sessions.endSessions(accountId)),
      onRemoved: (name) => this.onRemoved(name),
    });
  }

  async addTenant(tenant: string): Promise<RealmAccess> {
    if (!/^[a-z0-9]{1,63}$/.test(tenant) || tenant === 'master')
      throw new Error(`“${tenant}” is no tenant id (lower-case letters and digits, and not master).`);
    this.tenants[tenant] ??= (await this.open(tenant)).access;
    return this.tenants[tenant];
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.url ?? '/';
    if (url === masterTokenPath && request.method === 'POST') return this.api.serveToken(request, response);
    if (url.startsWith('/admin/')) return this.api.serve(request, response, this.url);
    const [, name, path] = realmPath.exec(url) ?? [];
    const realm =
      name && (this.states.get(name) || Object.hasOwn(this.tenants, name)) ? await this.open(name) : undefined;
    if (!realm) return refuse(response, 404, { error: 'Realm does not exist' });
    if (!realm.directory.isEnabled && path && givesTokens.test(path))
      return refuse(response, 403, { error: 'access_denied', error_description: 'Realm not enabled' });
    if (path?.startsWith('/interaction/')) return serveLogin(realm.provider, realm.directory, request, response);
    // oidc-provider mounted below a path: it finds its mount point by comparing originalUrl with url.
    const mount = `/realms/${name}`;
    Object.assign(request, { originalUrl: url, baseUrl: mount });
    request.url = url.slice(mount.length) || '/';
    await realm.handle(request, response);
  }

  private open(name: string): Promise<Realm> {
    const known = this.opened.get(name) ?? this.make(name);
    this.opened.set(name, known);
    known.catch(() => this.opened.delete(name));
    return known;
  }

  private async make(name: string): Promise<Realm> {
    const issuer = `${this.url}/realms/${name}`;
    const secrets = await loadRealmSecrets(this.options.dataDir, name, Object.keys(serviceClients(name)));
    const { states } = this;
    const directory = new RealmDirectory(
      name,
      secrets,
      () => states.get(name),
      () => states.save(name),
    );
    const accessTokenTtlSeconds = this.options.accessTokenTtlSeconds ?? 3600;
    const made = makeRealm({ issuer, secrets, directory, accessTokenTtlSeconds });
    const clientId = `${name}-admin`;
    const access = {
      issuer,
      clientId,
      clientSecret: secrets.clientSecrets[clientId] ?? '',
      clientSecrets: secrets.clientSecrets,
      consoleClientId: `${name}-console`,
      commandClientId: 'rhyzome-cli',
      userPassword: secrets.userPassword,
    };
    const callback = made.provider.callback();
    return {
      ...made,
      directory,
      access,
      handle: async (request, response) => void (await callback(request, response)),
    };
  }

  /** A realm of the options goes on as it was before the admin API made it; others are gone with their keys. */
  private async onRemoved(name: string): Promise<void> {
    (await this.opened.get(name))?.sessions.endSessions(null);
    if (Object.hasOwn(this.tenants, name)) return;
    this.opened.delete(name);
    await removeRealmSecrets(this.options.dataDir, name);
  }
}

function refuse(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
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
