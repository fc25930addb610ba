/**
 * A content store of a test's own for kind image, and an HTTP server on the loopback that gives contents away and that this
 * process may fetch from. There is one a process, as the process has one store.
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ImageContents, openImageContents, provideImageContents } from '#libs/kinds/image';

export interface ContentLab {
  dir: string;
  contents: ImageContents;
  /** Gives a content away from now on. */
  serve(content: Buffer): { url: string; sha256: string };
}

const settings = { maxSizeGiB: 1, maxVirtualSizeGiB: 16, deniedSources: [], allowedSources: ['127.0.0.0/8'] };
let opened: Promise<ContentLab> | undefined;

/** Makes it at the first call; it goes with the process. */
export async function contentLab(): Promise<ContentLab> {
  opened ??= open();
  const lab = await opened;
  provideImageContents(lab.contents);
  return lab;
}

async function open(): Promise<ContentLab> {
  const dir = mkdtempSync(join(tmpdir(), 'contents-'));
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
  const served = new Map<string, Buffer>();
  const server = createServer((request, response) => {
    const content = served.get(request.url ?? '');
    if (content) response.end(content);
    else response.writeHead(404).end();
  });
  const port = await listen(server);
  return {
    dir,
    contents: openImageContents(dir, settings),
    serve: (content) => {
      const sha256 = createHash('sha256').update(content).digest('hex');
      served.set(`/${sha256}`, content);
      return { url: `http://127.0.0.1:${port}/${sha256}`, sha256 };
    },
  };
}

function listen(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
    server.unref();
  });
}
