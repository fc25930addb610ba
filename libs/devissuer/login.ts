/**
 * The login page of the development issuer: one form, the users of the realm, one password. A browser uses it as it
 * stands; a test posts `login` and `password` to the same address.
 */
import { timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type Provider from 'oidc-provider';
import { devUsers } from './realm.js';

const maxFormBytes = 4096;

/** Answers GET (the form) and POST (a login) of /realms/{realm}/interaction/{uid}. */
export async function serveLogin(
  provider: Provider,
  password: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { prompt } = await provider.interactionDetails(request, response);
  if (prompt.name !== 'login') {
    await provider.interactionFinished(request, response, { error: 'access_denied' });
    return;
  }
  if (request.method !== 'POST') return sendForm(response, 200, '');
  const form = await readForm(request);
  const login = form.get('login') ?? '';
  if (!Object.hasOwn(devUsers, login) || !isSame(form.get('password') ?? '', password)) {
    return sendForm(response, 401, 'Unknown user or wrong password.');
  }
  await provider.interactionFinished(request, response, { login: { accountId: login } });
}

function sendForm(response: ServerResponse, status: number, message: string): void {
  const options = Object.entries(devUsers).map(([id, user]) => `<option value="${id}">${user.name}</option>`);
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  response.end(`<!doctype html><title>Development login</title><form method="post"><p>${message}</p>
<p><select name="login">${options.join('')}</select>
<input type="password" name="password" placeholder="password" required> <button>Sign in</button></p></form>\n`);
}

async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  let text = '';
  for await (const chunk of request) {
    text += String(chunk);
    if (text.length > maxFormBytes) throw new Error('The form is too large.');
  }
  return new URLSearchParams(text);
}

function isSame(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}
