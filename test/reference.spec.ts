/**
 * What the pages of the API and its kinds show is what happens: every command of every ```console block is run by a shell, page by page, as
 * somebody who reads it would, and its answer compared with what stands below it. A block that cannot be run here says why
 * in a comment of the page, and is counted.
 */
import { execFile } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { STATUS_CODES } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { rhyzome } from './harness/grpc.js';
import { type Entry, readPage } from './harness/page.js';
import { difference, Ids, readShown, sameText } from './harness/shown.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

const root = resolve(import.meta.dirname, '..');
const pages = [...globSync('libs/kinds/*/README.md', { cwd: root }).toSorted(), 'docs/rest-api.md'];
/** From the top down: none of them is in use when its turn comes. */
const plurals = ['grants', 'portforwards', 'publicaddresses', 'firewallrules', 'wireguardpeers', 'instances'];
plurals.push('snapshots', 'disks', 'images', 'networks', 'apitokens', 'serviceaccounts', 'users', 'groups');

/** What docs/rest-api.md tells the reader to have; curl also says the status, in a line of its own. */
const preamble = `
api() { curl -s -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' "$@"; }
curl() { command curl --max-time 75 --write-out '\\n%{http_code}' "$@"; }
rhyzome() { "$NODE" "$ROOT/bin/rhyzome.js" --config "$CONFIG" "$@"; }
`;

type Request = Extract<Entry, { is: 'request' }>;

let stack: Stack;
let acme: Client;
let folder: string;

beforeAll(async () => {
  // Of its own: pages show how much room there is, and which address is the next one.
  stack = await stackNamed('reference', { driver: 'sim', tenants: ['acme'] });
  acme = await apiOf(stack);
  folder = mkdtempSync(join(tmpdir(), 'reference-'));
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a command by bash, and gives what it wrote and, of curl, the status. */
async function run(command: string, functions = ''): Promise<{ output: string; status: number }> {
  const env = { A: stack.dev.api, TOKEN: acme.token, ROOT: root, CONFIG: stack.dev.config, NODE: process.execPath };
  const output = await new Promise<string>((done, failed) => {
    const options = { cwd: folder, env: { PATH: process.env.PATH, ...env }, timeout: 90_000 };
    execFile('bash', ['--norc', '-euc', `${preamble}${functions}\n${command}`], options, (error, stdout, stderr) =>
      error ? failed(new Error(`${command}\n${stderr}${stdout}`, { cause: error })) : done(stdout),
    );
  });
  const [, body, status] = /^([\s\S]*)\n(\d{3})$/.exec(output) ?? [undefined, output, '0'];
  return { output: body!.replaceAll('\r', ''), status: Number(status) };
}

/** A reader is slower than a job: what is under way ends before the next change. */
async function settled(): Promise<void> {
  await until('the end of all jobs', async () => {
    const { items } = (await acme.get('/v1/jobs?pageSize=50&sort=-createdAt')).body;
    return items.every(({ state }: { state: string }) => !['queued', 'running', 'cancelling'].includes(state));
  });
}

async function given({ line, command }: Entry): Promise<void> {
  await settled();
  const { output, status } = await run(command);
  if (status >= 400 || /"job":\{.*"state":"failed"/.test(output))
    throw new Error(`line ${line}, given: ${command}\n${status} ${output}`);
}

/** What is not as the page shows it; undefined: all is. */
function untrue(shown: string, output: string, status: number, ids: Ids): string | undefined {
  const problem =
    /"type": *"urn:rhyzome:problem/.test(shown) || /^HTTP\/1\.1 [45]/.test(shown) || /"status":[45]\d\d,/.test(shown);
  if (!problem && (status < 200 || status > 299)) return `the status is ${status}`;
  if (shown.trim() === '') return undefined;
  if (!shown.startsWith('HTTP/')) return untrueBody(shown, output, ids);
  const [head = '', ...body] = shown.split('\n\n');
  const [realHead = '', ...realBody] = output.split('\n\n');
  const [statusLine, ...headers] = head.split('\n');
  if (statusLine !== `HTTP/1.1 ${status} ${STATUS_CODES[status]}`) return `the status is ${status}`;
  const real = realHead.split('\n').map((header) => header.replace(/^[^:]+/, (name) => name.toLowerCase()));
  const missing = headers.find((header) => !real.some((other) => sameText(header, other, ids)));
  if (missing) return `no header is as shown: ${missing}`;
  return body.length === 0 ? undefined : untrueBody(body.join('\n\n'), realBody.join('\n\n'), ids);
}

function untrueBody(shown: string, output: string, ids: Ids): string | undefined {
  if (shown.startsWith('{')) return difference(readShown(shown), JSON.parse(output), ids);
  return sameText(shown.trimEnd(), output.trimEnd(), ids) ? undefined : 'the text is another';
}

/** Runs one command and compares: what is not true. A question is asked again for a while, as a reader would. */
async function request(entry: Request, ids: Ids, functions: string): Promise<string[]> {
  const { line, command, shown } = entry;
  const asks = !/ -(?:d|X|T) /.test(command);
  const filled = ids.fill(command);
  if (filled === undefined) return [`line ${line}: no answer before has the id in it\n$ ${command}`];
  if (!asks) await settled();
  const end = Date.now() + (asks ? 25_000 : 0);
  for (;;) {
    const { output, status } = await run(filled, functions);
    const tried = ids.copy();
    const fault = untrue(shown, output, status, tried);
    if (!fault) ids.take(tried);
    if (!fault) return [];
    if (Date.now() < end) continue;
    ids.take(tried);
    return [`line ${line}: ${fault}\n$ ${command}\n--- shown\n${shown}\n--- answered, ${status}\n${output}`];
  }
}

/** Nothing stays for the next page. */
async function clear(): Promise<void> {
  for (const plural of plurals) {
    const { items } = (await acme.get(`/v1/${plural}?pageSize=500`)).body;
    for (const { id, visibility, deletionProtection } of items) {
      if (deletionProtection) await acme.patch(`/v1/${plural}/${id}?wait=30s`, { deletionProtection: false });
      if (visibility !== 'global') await acme.remove(plural, id);
    }
  }
  for (const { id } of (await acme.get('/v1/deleted-disks')).body.items) await acme.delete(`/v1/deleted-disks/${id}`);
  for (const { name } of await rhyzome(stack, 'pool', 'list')) await rhyzome(stack, 'pool', 'delete', name);
}

describe('the page', () => {
  it.each(pages)(
    '%s shows what happens',
    async (page) => {
      const entries = readPage(readFileSync(join(root, page), 'utf8'));
      const isFunction = (command: string) => /^\w+\(\) \{/.test(command);
      const requests = entries.filter((entry) => entry.is === 'request' && !isFunction(entry.command)) as Request[];
      const skipped = requests.filter(({ notRun }) => notRun);
      expect(requests.length - skipped.length, 'requests that are run').toBeGreaterThan(0);
      const ids = new Ids();
      const faults: string[] = [];
      let functions = '';
      try {
        for (const entry of entries) {
          if (entry.is === 'given') await given(entry);
          else if (isFunction(entry.command)) functions += `${entry.command}\n`;
          else if (!entry.notRun) faults.push(...(await request(entry, ids, functions)));
        }
      } finally {
        await clear();
      }
      if (faults.length > 0) throw new Error(`${page} is not true:\n${faults.join('\n\n')}`);
      const reasons = skipped.map(({ line, notRun }) => `\n  line ${line}: ${notRun}`).join('');
      console.log(`${page}: ${requests.length - skipped.length} requests run, ${skipped.length} not${reasons}`);
    },
    180_000,
  );
});
