/** The development issuer's pages: as little HTML as a browser needs, and nothing that is fetched from elsewhere. */
import type { IncomingMessage, ServerResponse } from 'node:http';

const maxFormBytes = 4096;

/** A whole page. `body` is HTML: what comes from people goes through `escaped`. */
export function page(title: string, body: string): string {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(title)}</title>\n<h1>${escaped(title)}</h1>\n${body}</html>\n`;
}

/** Text for HTML's content and quoted attributes. */
export function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

export function sendPage(response: ServerResponse, status: number, html: string): void {
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  response.end(html);
}

/** Throws when it is larger than a form of ours can be. */
export async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  let text = '';
  for await (const chunk of request) {
    text += String(chunk);
    if (text.length > maxFormBytes) throw new Error('The form is too large.');
  }
  return new URLSearchParams(text);
}
