/** What the benchmark runs on: a PostgreSQL of its own, rhyzome-api and the bare server beside it, and 500 networks. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { newId } from '#libs/core';
import { createPool, migrate } from '#libs/db';
import { startPostgres } from '#libs/devdb';
import { startIssuer } from '#libs/devissuer';
import { initPki, issueCertificate } from '#libs/pki';

const dist = fileURLToPath(new URL('..', import.meta.url));
const checkout = fileURLToPath(new URL('../..', import.meta.url));

export interface BenchServer {
  url: string;
  pid: number;
}

export interface BenchStack {
  rhyzome: BenchServer;
  bare: BenchServer;
  token: string;
  /** As superuser, for a look at the server. A secret. */
  dbUrl: string;
  ids: string[];
  /** Statements that rhyzome-api has sent so far. */
  statements(): Promise<number>;
  stop(): Promise<void>;
}

export const ROWS = 500;

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  return port;
}

export async function startStack(): Promise<BenchStack> {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-bench-'));
  const postgres = await startPostgres({ dir: join(dir, 'postgres') });
  const issuer = await startIssuer({ port: 0, tenants: ['acme'], dataDir: join(dir, 'issuer') });
  const url = postgres.superuserUrl('postgres');
  await migrate({ connectionString: url }, join(checkout, 'sql/migrations'));
  const ids = await seed(url, issuer.tenants.acme!.issuer);
  const ports = { api: await freePort(), monitoring: await freePort(), bare: await freePort() };
  const config = await writeConfig(dir, url, ports);
  const children = [
    spawn(process.execPath, [join(dist, 'apps/api/main.js'), '--config', config], {
      stdio: ['ignore', 'ignore', 'inherit'],
    }),
    spawn(process.execPath, [join(dist, 'bench/bare.js')], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, DATABASE_URL: url, PORT: String(ports.bare) },
    }),
  ] as const;
  const monitoring = `http://127.0.0.1:${ports.monitoring}`;
  await until(`${monitoring}/readyz`);
  await until(`http://127.0.0.1:${ports.bare}/networks`);
  return {
    rhyzome: { url: `http://127.0.0.1:${ports.api}/v1`, pid: children[0].pid! },
    bare: { url: `http://127.0.0.1:${ports.bare}`, pid: children[1].pid! },
    dbUrl: url,
    token: await fetchToken(issuer.tenants.acme!),
    ids,
    statements: async () => {
      const text = await (await fetch(`${monitoring}/metrics`)).text();
      return Number(/^rhyzome_database_statements_total (\d+)/m.exec(text)?.[1]);
    },
    stop: async () => {
      await Promise.all(children.map(end));
      await issuer.stop();
      await postgres.stop();
      rmSync(dir, { recursive: true });
    },
  };
}

async function seed(connectionString: string, issuer: string): Promise<string[]> {
  const pool = createPool({ connectionString }, null, { max: 1 });
  const ids = Array.from({ length: ROWS }, newId);
  await pool.query("insert into tenant (id, display_name) values ('acme', 'Acme')");
  await pool.query("insert into tenant_issuer (issuer, tenant_id) values ($1, 'acme')", [issuer]);
  await pool.query(
    `insert into resource (tenant_id, id, kind, name, state, created_by)
     select 'acme', id, 'network', 'net-' || n, 'ready', 'bench' from unnest($1::uuid[]) with ordinality as ids (id, n)`,
    [ids],
  );
  await pool.query(
    `insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
     select 'acme', id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from unnest($1::uuid[]) as ids (id)`,
    [ids],
  );
  await pool.query(
    'create table bare_network (id uuid primary key default gen_random_uuid(), name text not null unique, subnet cidr not null, created_at timestamptz not null default now())',
  );
  await pool.query('analyze');
  await pool.end();
  return ids;
}

async function writeConfig(dir: string, db: string, ports: { api: number; monitoring: number }): Promise<string> {
  const pki = join(dir, 'pki');
  mkdirSync(pki, { mode: 0o700 });
  await initPki({ dir: pki });
  const { ca, cert, key } = await issueCertificate({ dir: pki, type: 'server', name: 'bench', dns: ['localhost'] });
  const file = join(dir, 'rhyzome-api.json');
  // What is measured is the server, not its limits.
  const rateLimit = { tenantPerSecond: 1e6, tenantBurst: 1e6, userPerSecond: 1e6, userBurst: 1e6 };
  const api = { listen: `127.0.0.1:${ports.api}`, monitoring: `127.0.0.1:${ports.monitoring}`, rateLimit };
  writeFileSync(file, JSON.stringify({ db, pki: { ca, cert, key }, api, log: { level: 'warn' } }), { mode: 0o600 });
  return file;
}

export async function fetchToken(tenant: { issuer: string; clientId: string; clientSecret: string }): Promise<string> {
  const response = await fetch(`${tenant.issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: tenant.clientId,
      client_secret: tenant.clientSecret,
    }),
  });
  return ((await response.json()) as { access_token: string }).access_token;
}

export async function until(url: string): Promise<void> {
  for (let tries = 0; tries < 1200; tries++) {
    const ok = await fetch(url).then(
      (response) => response.ok,
      () => false,
    );
    if (ok) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${url} does not answer`);
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
}

/** CPU time of a process so far, user and system, in ms (proc(5)). */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Resident memory of a process in MiB. */
export function residentMiB(pid: number): number {
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024);
}

/** The same of a process with its children, those that have ended included. */
export function treeCpuMs(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
  const ofChildren = children.map((child) => {
    try {
      return cpuMs(Number(child));
    } catch {
      return 0; // It ended between two looks.
    }
  });
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  const ofEnded = (Number(fields[13]) + Number(fields[14])) * 10;
  return cpuMs(pid) + ofEnded + ofChildren.reduce((sum, ms) => sum + ms, 0);
}

const YARDSTICK = Array.from({ length: 200 }, (_, n) => ({
  id: `row-${n}`,
  tags: { n: String(n) },
  sizes: [n, n * 2],
}));

/**
 * How fast this machine is right now: milliseconds for work of always the same size, the best of ten. Virtual machines share
 * their cores with others, and the same program may take half as long again an hour later.
 */
export function yardstickMs(): number {
  const once = () => {
    const began = performance.now();
    for (let n = 0; n < 200; n += 1) JSON.parse(JSON.stringify(YARDSTICK));
    return performance.now() - began;
  };
  return Math.min(...Array.from({ length: 10 }, once));
}
