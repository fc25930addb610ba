/**
 * For tests: what plays the agent at a lab's metadata socket and says whom it takes a guest for, and how a guest asks. Not
 * exported by this library's door.
 */
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname } from 'node:path';
import type { Lab } from './lab.js';

export interface MetadataServer {
  /** Who has asked: network and address. */
  seen: string[];
  /** How long it takes for an answer. */
  answerMs: number;
  close(): void;
}

/** Serves at `path`, which is the lab's socket from then on. */
export async function serveMetadata(lab: Lab, path: string): Promise<MetadataServer> {
  const seen: string[] = [];
  const server = createServer((socket) => {
    let text = '';
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      text += data;
      if (!text.includes('\r\n\r\n')) return;
      const [who = ''] = text.split('\n', 1);
      seen.push(who);
      const body = `you are ${who}`;
      const head = `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n`;
      setTimeout(() => socket.end(head + body), served.answerMs);
    });
  });
  const served: MetadataServer = { seen, answerMs: 0, close: () => server.close() };
  await mkdir(dirname(path), { recursive: true });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  lab.metadataSocket = path;
  return served;
}

/** What a guest is told; empty: nothing. `bind`: words of socat's for where it asks from. */
export async function askMetadata(lab: Lab, guest: string, bind = '', limitS = 15): Promise<string> {
  const request = `printf 'GET /latest HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'`;
  const answer = await lab.sh(
    `${request} | ip netns exec ${guest} timeout ${limitS} socat -t ${limitS} - TCP4:169.254.169.254:80${bind} 2>&1 || true`,
  );
  return answer.split('\r\n\r\n')[1] ?? '';
}
