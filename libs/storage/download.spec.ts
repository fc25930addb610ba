/** Downloads from a real HTTP server on the loopback, whose address is allowed or not by each test. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { download, PartStore, type Resolve, SourceGuard } from './index.js';

const bytes = randomBytes(500_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
let dir: string;
let parts: PartStore;
let server: Server;
let port: number;
let id: string;
let requests: { url: string; host: string | undefined; range: string | undefined; from: string | undefined }[];
let answer: (request: IncomingMessage, response: ServerResponse) => void;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'download-'));
  parts = new PartStore(dir);
  server = createServer((request, response) => {
    const { host, range, 'if-range': from } = request.headers;
    requests.push({ url: request.url!, host, range, from: from as string | undefined });
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(() => {
  id = newId();
  requests = [];
  answer = (request, response) => serve(request, response);
});

/** The content as a good server gives it, ranges too. */
function serve(request: IncomingMessage, response: ServerResponse): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? -1);
  response.setHeader('etag', '"v1"');
  const isOther = request.headers['if-range'] !== undefined && request.headers['if-range'] !== '"v1"';
  if (start < 0 || isOther) response.end(bytes);
  else if (start >= bytes.length) response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
  else {
    const range = `bytes ${start}-${bytes.length - 1}/${bytes.length}`;
    response
      .writeHead(206, { 'content-range': range, 'content-length': bytes.length - start })
      .end(bytes.subarray(start));
  }
}

const local = new SourceGuard({ allowed: ['127.0.0.0/8'] });
const options = { maxBytes: 1e6, signal: new AbortController().signal, retryMs: 10 };
const at = (path: string, host = '127.0.0.1') => `http://${host}:${port}${path}`;
const get = (url: string, guard = local, more: object = {}) => download(guard, parts, id, url, { ...options, ...more });
const digest = async () => (await parts.digest(id)).sha256;

describe('a download', () => {
  it('brings the whole content', async () => {
    await get(at('/image'));
    expect(await digest()).toBe(sha256);
  });

  it('goes on where a worker died, and where the connection broke', async () => {
    await parts.write(id, 0, [bytes.subarray(0, 200_000)] as never, { maxBytes: 1e6 });
    let broken = 0;
    answer = (request, response) => {
      if (broken++ > 0) return serve(request, response);
      response.writeHead(206, {
        'content-range': 'bytes 200000-499999/500000',
        'content-length': 300_000,
        etag: '"v1"',
      });
      response.write(bytes.subarray(200_000, 350_000), () => response.destroy());
    };
    await get(at('/image'));
    expect(await digest()).toBe(sha256);
    const [first, second] = requests;
    expect(first).toMatchObject({ range: 'bytes=200000-', from: undefined });
    expect(second!.from).toBe('"v1"');
    // Not all that was sent has arrived; what has is kept.
    const offset = Number(/^bytes=(\d+)-$/.exec(second!.range!)![1]);
    expect(offset).toBeGreaterThan(200_000);
    expect(offset).toBeLessThanOrEqual(350_000);
  });

  it('begins anew where the content is another one by now, or the server cannot go on', async () => {
    await parts.write(id, 0, [Buffer.alloc(200_000, 'x')] as never, { maxBytes: 1e6 });
    answer = (_, response) => response.end(bytes);
    await get(at('/image'));
    expect(await digest()).toBe(sha256);
  });

  it('that had come whole is done', async () => {
    await parts.write(id, 0, [bytes] as never, { maxBytes: 1e6 });
    await get(at('/image'));
    expect(await digest()).toBe(sha256);
    expect(requests).toHaveLength(1);
  });

  it('connects to the address that was judged, whatever the name is a moment later', async () => {
    const asked: string[] = [];
    const rebinding: Resolve = async (host) => {
      asked.push(host);
      return [{ address: asked.length === 1 ? '127.0.0.1' : '10.0.0.1', family: 4 }];
    };
    await get(at('/image', 'mirror.example'), new SourceGuard({ allowed: ['127.0.0.1/32'] }, rebinding));
    expect(asked).toEqual(['mirror.example']);
    expect(requests[0]!.host).toBe(`mirror.example:${port}`);
    expect(await digest()).toBe(sha256);
  });

  it('never connects to an address that is closed', async () => {
    await expect(get(at('/image'), new SourceGuard())).rejects.toMatchObject({ code: 'source_refused' });
    const named = new SourceGuard({}, async () => [{ address: '127.0.0.1', family: 4 as const }]);
    await expect(get('http://inside.example/', named)).rejects.toMatchObject({ code: 'source_refused' });
    expect(requests).toEqual([]);
  });

  it('judges each redirect anew, by the address that its name has then', async () => {
    answer = (request, response) =>
      request.url === '/start'
        ? response.writeHead(302, { location: at('/inside', 'b.example') }).end()
        : serve(request, response);
    const guard = new SourceGuard({ allowed: ['127.0.0.1/32'] }, async (host) => [
      { address: host === 'a.example' ? '127.0.0.1' : '127.0.0.2', family: 4 },
    ]);
    await expect(get(at('/start', 'a.example'), guard)).rejects.toMatchObject({ code: 'source_refused' });
    expect(requests.map(({ url }) => url)).toEqual(['/start']);
    await expect(get(at('/start', 'b.example'), guard)).rejects.toMatchObject({ code: 'source_refused' });
  });

  it('follows five redirects and no more', async () => {
    answer = (request, response) => {
      const left = Number(request.url!.slice(1));
      if (left > 0) response.writeHead(307, { location: `/${left - 1}` }).end();
      else serve(request, response);
    };
    await get(at('/5'));
    expect(await digest()).toBe(sha256);
    id = newId();
    await expect(get(at('/6'), local, { retryMs: 1 })).rejects.toMatchObject({ code: 'source_unavailable' });
  });

  it('is not led to another scheme', async () => {
    for (const location of ['file:///etc/passwd', 'ftp://a.example/', 'http://u:p@127.0.0.1/']) {
      answer = (_, response) => response.writeHead(302, { location }).end();
      await expect(get(at('/')), location).rejects.toMatchObject({ code: 'source_refused' });
    }
  });

  it('larger than allowed is refused, announced or not', async () => {
    await expect(get(at('/image'), local, { maxBytes: 499_999 })).rejects.toMatchObject({ code: 'body_too_large' });
    answer = (_, response) => {
      response.write(bytes.subarray(0, 300_000));
      response.end(bytes.subarray(300_000));
    };
    await expect(get(at('/image'), local, { maxBytes: 499_999 })).rejects.toMatchObject({ code: 'body_too_large' });
  });

  it('tells what the source answered, and where it is, but not its path or query', async () => {
    answer = (_, response) => response.writeHead(403).end();
    const refused = await get(at('/secret?token=s3cret')).catch((error: Error) => error);
    expect(refused).toMatchObject({
      code: 'source_unavailable',
      message: 'The host 127.0.0.1 answered with status 403.',
    });
    expect(requests).toHaveLength(1);
  });

  it('is tried again where that may help, and not for ever', async () => {
    answer = (_, response) => response.writeHead(503).end();
    await expect(get(at('/'), local, { retryMs: 1 })).rejects.toMatchObject({ code: 'source_unavailable' });
    expect(requests).toHaveLength(5);
  });

  it('ends with the signal, at once', async () => {
    answer = (_, response) => void response.write(bytes.subarray(0, 1000));
    const cancel = new AbortController();
    const running = get(at('/'), local, { signal: cancel.signal });
    await expect.poll(() => requests.length).toBe(1);
    const reason = new Error('cancelled');
    cancel.abort(reason);
    await expect(running).rejects.toBe(reason);
  });

  it('that stalls is given up', async () => {
    answer = (_, response) => void response.write(bytes.subarray(0, 1000));
    const stalling = get(at('/'), local, { stallMs: 40, retryMs: 1 });
    await expect(stalling).rejects.toMatchObject({ code: 'source_unavailable' });
  });
});
