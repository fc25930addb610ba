/**
 * What a large image costs: starts a Rhyzome of its own as `npm start` does, sends an image in, lets the job check it, and
 * fetches it as a node does; says how far each process's memory rose above idle.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { residentMiB } from './stack.js';

const checkout = fileURLToPath(new URL('../..', import.meta.url));
const MIB = 2 ** 20;
const START_MS = 180_000;
const JOB_MS = 300_000;
const IDLE_MS = 3_000;
const SAMPLE_MS = 50;

interface DevJson {
  api: string;
  grpc: string;
  processes: Record<string, number>;
  tenants: Record<string, { issuer: string; clientId: string; clientSecret: string }>;
}

/** A disk as they are: one MiB of sixteen is data, the rest is zeros. */
async function* disk(sizeMiB: number, data: Buffer): AsyncGenerator<Buffer> {
  const zeros = Buffer.alloc(MIB);
  for (let n = 0; n < sizeMiB; n++) yield n % 16 === 0 ? data : zeros;
}

/** Runs `work` and says how far each process's memory rose above what it was before, at most. */
async function watched(pids: Record<string, number>, work: () => Promise<void>): Promise<Stage> {
  await sleep(IDLE_MS);
  const idle = Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, residentMiB(pid)]));
  const most = { ...idle };
  const timer = setInterval(() => {
    for (const [name, pid] of Object.entries(pids)) most[name] = Math.max(most[name]!, residentMiB(pid));
  }, SAMPLE_MS);
  const began = performance.now();
  await work().finally(() => clearInterval(timer));
  const seconds = Number(((performance.now() - began) / 1000).toFixed(1));
  const rise = Object.fromEntries(
    Object.keys(pids).map((name) => [name, { idle: idle[name]!, above: most[name]! - idle[name]! }]),
  );
  return { seconds, residentMiB: rise };
}

async function started(data: string): Promise<{ dev: DevJson; supervisor: ChildProcess }> {
  const ports = ['api', 'grpc', 'issuer'].flatMap((name) => [`--${name}-port`, '0']);
  const args = [join(checkout, 'tools/start.mjs'), '--data', data, '--driver', 'sim', '--tenants', 'acme', ...ports];
  const supervisor = spawn(process.execPath, args, { cwd: checkout, stdio: 'ignore' });
  const file = join(data, 'dev.json');
  for (const end = Date.now() + START_MS; !existsSync(file); await sleep(200)) {
    if (Date.now() > end || supervisor.exitCode !== null) throw new Error('npm start does not come up');
  }
  return { dev: JSON.parse(readFileSync(file, 'utf8')) as DevJson, supervisor };
}

async function tokenOf({ issuer, clientId, clientSecret }: DevJson['tenants'][string]): Promise<string> {
  const form = { grant_type: 'client_credentials', client_id: clientId, client_secret: clientSecret };
  const answer = await fetch(`${issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams(form),
  });
  return ((await answer.json()) as { access_token: string }).access_token;
}

type Api = (method: string, path: string, body?: object) => Promise<any>;

function apiWith(dev: DevJson, token: string): Api {
  return async (method, path, body) => {
    const headers = { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) };
    const answer = await fetch(dev.api + path, { method, headers, ...(body && { body: JSON.stringify(body) }) });
    const told = (await answer.json()) as any;
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(told)}`);
    return told;
  };
}

/** The whole body, as fast as the server takes it. */
async function send(dev: DevJson, token: string, id: string, sizeMiB: number, data: Buffer): Promise<void> {
  const headers = {
    authorization: `Bearer ${token}`,
    'content-type': 'application/octet-stream',
    'content-length': sizeMiB * MIB,
  };
  const sending = request(`${dev.api}/v1/images/${id}/content`, { method: 'PUT', headers });
  const answered = once(sending, 'response');
  Readable.from(disk(sizeMiB, data), { objectMode: false, highWaterMark: MIB }).pipe(sending);
  const [response] = await answered;
  response.resume();
  if (response.statusCode !== 202) throw new Error(`the upload was answered with ${response.statusCode}`);
}

async function ended(api: Api, jobId: string): Promise<void> {
  for (const end = Date.now() + JOB_MS; ; await sleep(200)) {
    const job = await api('GET', `/v1/jobs/${jobId}`);
    if (job.state === 'succeeded') return;
    if (job.state === 'failed' || Date.now() > end) throw new Error(JSON.stringify(job));
  }
}

export interface Stage {
  seconds: number;
  /** By process. */
  residentMiB: Record<string, { idle: number; above: number }>;
}

export interface ImageCosts {
  sizeMiB: number;
  upload: Stage;
  check: Stage;
  fetchByNode: Stage;
}

export async function benchImages(gib: number): Promise<ImageCosts> {
  const sizeMiB = Math.round(gib * 1024);
  const folder = mkdtempSync(join(tmpdir(), 'rhyzome-bench-images-'));
  let running: ChildProcess | undefined;
  try {
    const { dev, supervisor } = await started(join(folder, 'data'));
    running = supervisor;
    return { sizeMiB, ...(await stages(dev, sizeMiB)) };
  } finally {
    running?.kill('SIGTERM');
    if (running && running.exitCode === null) await once(running, 'exit');
    rmSync(folder, { recursive: true, force: true });
  }
}

async function stages(dev: DevJson, sizeMiB: number): Promise<Omit<ImageCosts, 'sizeMiB'>> {
  const token = await tokenOf(dev.tenants.acme!);
  const api = apiWith(dev, token);
  const data = randomBytes(MIB);
  const hash = createHash('sha256');
  for await (const chunk of disk(sizeMiB, data)) hash.update(chunk);
  const announced = { name: 'large', sha256: hash.digest('hex'), sizeBytes: sizeMiB * MIB, format: 'raw' };
  const { id, job } = await api('POST', '/v1/images', announced);
  const { api: apiPid, grpc: grpcPid, agent: agentPid } = dev.processes as Record<'api' | 'grpc' | 'agent', number>;
  const upload = await watched({ api: apiPid, grpc: grpcPid }, () => send(dev, token, id, sizeMiB, data));
  const check = await watched({ grpc: grpcPid }, () => ended(api, job.id));
  const fetchByNode = await watched({ grpc: grpcPid, agent: agentPid }, async () => {
    // The node has the disk when it has fetched the image.
    const made = await api('POST', '/v1/disks', { name: 'large', image: id });
    await ended(api, made.job.id);
  });
  return { upload, check, fetchByNode };
}

export function printImages({ sizeMiB, ...all }: ImageCosts): void {
  console.log(`\nan image of ${sizeMiB} MiB: resident memory above idle, MiB\n`);
  console.table(
    Object.entries(all).map(([stage, { seconds, residentMiB: resident }]) => ({
      stage,
      seconds,
      ...Object.fromEntries(Object.entries(resident).map(([name, { above }]) => [name, above])),
    })),
  );
}
