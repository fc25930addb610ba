/** Requests by node:http, which sends what fetch would not: malformed paths, huge headers, bodies without a type. */
import { request as httpRequest } from 'node:http';
import type { Answer } from './client.js';

/** Sends it to `base` with this token, as it is. */
export function sendRaw(
  base: string,
  token: string,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: string,
): Promise<Answer> {
  const authorization = `Bearer ${token}`;
  return new Promise((resolve, reject) => {
    const sent = httpRequest(base + path, { method, headers: { authorization, ...headers } }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const fields = Object.entries(response.headers).map(([name, value]): [string, string] => [name, String(value)]);
        const isJson = /json/.test(response.headers['content-type'] ?? '');
        resolve({
          status: response.statusCode ?? 0,
          headers: new Headers(fields),
          text,
          body: isJson && text !== '' ? JSON.parse(text) : undefined,
        });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}
