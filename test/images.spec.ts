/**
 * Images over real processes: an upload by curl that is killed at 60 % and goes on after the server's own death; an image
 * made from a snapshot, published, booted by another tenant, withdrawn and deleted under its machine; sources inside refused.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

const size = 20_000_000;
const content = randomBytes(size);
const sha256 = createHash('sha256').update(content).digest('hex');
const execute = promisify(execFile);

let stack: Stack;
let acme: Client;
let globex: Client;
let dir: string;
let file: string;

beforeAll(async () => {
  stack = await stackNamed('unlucky', { driver: 'sim' });
  acme = await apiOf(stack, 'acme');
  globex = await apiOf(stack, 'globex');
  dir = mkdtempSync(join(tmpdir(), 'upload-'));
  file = join(dir, 'disk.raw');
  writeFileSync(file, content);
}, 120_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const curlArguments = (path: string, more: string[]) => [
  ...['--silent', '--show-error', '--header', `Authorization: Bearer ${acme.token}`, ...more],
  `${stack.dev.api}${path}`,
];
const arrived = async (id: string) => {
  const { status, headers } = await acme.call('HEAD', `/v1/images/${id}/content`);
  return status === 200 ? Number(headers.get('upload-offset')) : -1;
};

describe('an upload by curl', () => {
  it('that was killed at 60 % goes on there, after the server died too', async () => {
    const asked = { name: 'resumed', sha256, sizeBytes: size, format: 'raw' };
    const created = await acme.post('/v1/images', asked);
    expect(created.status).toBe(202);
    const { id } = created.body;
    const path = `/v1/images/${id}/content`;
    const curl: ChildProcess = spawn('curl', curlArguments(path, ['--limit-rate', '8M', '--upload-file', file]), {
      stdio: 'ignore',
    });
    await until('60 % have arrived', async () => (await arrived(id)) >= 0.6 * size, 60_000);
    curl.kill('SIGKILL');
    await stack.restarted('api', stack.kill('api'));
    await until(
      'the server answers',
      () =>
        arrived(id)
          .then((bytes) => bytes > 0)
          .catch(() => false),
      60_000,
    );
    const offset = await arrived(id);
    expect(offset).toBeGreaterThanOrEqual(0.6 * size);
    expect(offset).toBeLessThan(size);
    const rest = join(dir, 'rest');
    writeFileSync(rest, content.subarray(offset));
    const range = `Content-Range: bytes ${offset}-${size - 1}/${size}`;
    await until(
      'the dead writer’s lease is over',
      async () => {
        const { stdout } = await execute(
          'curl',
          curlArguments(`${path}?wait=30s`, ['--header', range, '--upload-file', rest]),
        );
        const answer = JSON.parse(stdout);
        if (answer.code === 'busy') return false;
        expect(answer).toMatchObject({ id, job: { state: 'succeeded' } });
        return true;
      },
      60_000,
    );
    const image = (await acme.get(`/v1/images/${id}`)).body;
    expect(image).toMatchObject({ state: 'ready', sha256, sizeBytes: size, format: 'raw', visibility: 'private' });
    expect((await globex.get(`/v1/images/${id}`)).status).toBe(404);
    await acme.remove('images', id);
  }, 180_000);

  it('waits for its content and can be cancelled', async () => {
    const created = await acme.post('/v1/images', { name: 'never-sent' });
    const job = `/v1/jobs/${created.body.job.id}`;
    await until('waiting', async () => (await acme.get(job)).body.state === 'waiting');
    expect((await acme.get(job)).body.message).toContain(`PUT it to /v1/images/${created.body.id}/content`);
    expect((await acme.post(`${job}/cancel`, {})).status).toBe(202);
    await until('gone', async () => (await acme.get('/v1/images/never-sent')).status === 404);
  });
});

describe('a source', () => {
  it('inside the installation is refused, by address at once and by name when it is resolved', async () => {
    const asked = (sourceUrl: string) => acme.post('/v1/images?wait=30s', { name: 'inside', sourceUrl, sha256 });
    for (const url of [stack.dev.api, 'http://169.254.169.254/latest/', 'http://[::1]/', 'http://10.0.0.1/']) {
      const { errors } = expectProblem(await asked(url), 422, 'invalid');
      expect(errors).toMatchObject([{ pointer: '/sourceUrl' }]);
    }
    const named = await asked('http://localhost/image.qcow2');
    expect(named.body.job).toMatchObject({ state: 'failed', error: { code: 'source_refused' } });
    expect(JSON.stringify(named.body.job)).not.toContain('image.qcow2');
    await acme.remove('images', 'inside');
  });
});

describe('an image made from a snapshot', () => {
  it('is published, booted by another tenant, and withdrawn and deleted under its machine', async () => {
    await acme.make('networks', { name: 'golden', subnet: '10.180.0.0/24' });
    const machine = { image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'golden' }] };
    const vm = await acme.make('instances', { name: 'golden', ...machine });
    const [disk] = (await acme.get(`/v1/disks?instance=${vm.id}`)).body.items;
    const snapshot = await acme.make('snapshots', { name: 'golden', disk: disk.id });
    const image = await acme.make('images', { name: 'golden', snapshot: 'golden', osInfo: { name: 'Tiny' } });
    expect(image).toMatchObject({ source: 'snapshot', snapshot: snapshot.id, format: 'qcow2', publisher: null });
    await acme.remove('instances', vm.id);
    expect((await globex.get(`/v1/images/${image.id}`)).status).toBe(404);
    expect((await acme.post('/v1/images/golden/publish?wait=30s', {})).body.job.state).toBe('succeeded');
    const seen = (await globex.get(`/v1/images/${image.id}`)).body;
    expect(seen).toMatchObject({ visibility: 'published', publisher: { id: 'acme' }, sha256: image.sha256 });

    await globex.make('networks', { name: 'borrowed', subnet: '10.181.0.0/24' });
    const other = { ...machine, image: image.id, interfaces: [{ network: 'borrowed' }] };
    const borrowed = await globex.make('instances', { name: 'borrowed', ...other });
    expect(borrowed).toMatchObject({ image: image.id, powerState: 'running' });
    expect((await acme.post('/v1/images/golden/withdraw?wait=30s', {})).body.job.state).toBe('succeeded');
    expect((await globex.get(`/v1/images/${image.id}`)).status).toBe(404);
    const refused = await globex.post('/v1/instances', { name: 'too-late', ...other });
    expect(expectProblem(refused, 422, 'invalid').errors).toMatchObject([{ pointer: '/image' }]);
    await acme.remove('images', 'golden');
    expect((await globex.post('/v1/instances/borrowed/reboot?wait=30s', {})).body.job.state).toBe('succeeded');
    expect((await globex.get('/v1/instances/borrowed')).body).toMatchObject({ state: 'ready', powerState: 'running' });

    await globex.remove('instances', 'borrowed');
    await globex.remove('networks', 'borrowed');
    await acme.remove('snapshots', snapshot.id);
    // It had a snapshot when its machine went, and stayed.
    await acme.remove('disks', disk.id);
    expect((await acme.delete(`/v1/deleted-disks/${disk.id}`)).status).toBe(204);
    await acme.remove('networks', 'golden');
  }, 180_000);
});
