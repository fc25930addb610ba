/**
 * A person at Keycloak's own pages, without a browser: keeps cookies, follows redirects, fills in the forms as they come
 * (name, login, a new password, consent) and gives what the pages lead to. Knows Keycloak's forms by their fields, as a person
 * does, and no admin API.
 */
import { createHash, randomBytes } from 'node:crypto';

export interface Person {
  username: string;
  password: string;
  /** What is set where a page asks for a new one. */
  newPassword?: string;
}

export interface Tokens {
  status: number;
  access_token: string;
  refresh_token: string;
  error?: string;
  error_description?: string;
  expires_in?: number;
}

/** Pages of one window; nothing of it is kept. */
export class Browser {
  private readonly cookies = new Map<string, string>();
  /** What the forms were, in their order: name, login, new-password, consent, user-code. */
  readonly seen: string[] = [];

  /**
   * Opens a page and fills in its forms as this person until a page has none, or leads away from Keycloak: then the
   * address that it leads to. Throws with Keycloak's own words where it refuses.
   */
  async go(url: string, person: Person, leavesTo?: string): Promise<{ url: string; html: string }> {
    let page = await this.open(url, undefined, leavesTo);
    for (let forms = 0; forms < 8; forms++) {
      if (leavesTo && page.url.startsWith(leavesTo)) return page;
      const form = formIn(page.html);
      if (!form) return page;
      const filled = fill(form, person);
      if (!filled) return page;
      const refused = messageIn(page.html);
      if (refused && this.seen.at(-1) === filled.what) throw new Error(`Keycloak says: ${refused}`);
      this.seen.push(filled.what);
      page = await this.open(new URL(form.action, page.url).href, new URLSearchParams(filled.fields), leavesTo);
    }
    throw new Error(`Keycloak asks again and again: ${this.seen.join(', ')}`);
  }

  private async open(url: string, body: URLSearchParams | undefined, leavesTo: string | undefined) {
    let [next, form] = [url, body];
    for (let redirects = 0; redirects < 10; redirects++) {
      if (leavesTo && next.startsWith(leavesTo)) return { url: next, html: '' };
      const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
      const answer = await fetch(next, {
        method: form ? 'POST' : 'GET',
        body: form,
        redirect: 'manual',
        headers: { cookie, 'accept-language': 'en' },
        signal: AbortSignal.timeout(60_000),
      });
      for (const line of answer.headers.getSetCookie()) {
        const [name, value] = line.split(';', 1)[0]!.split(/=(.*)/s) as [string, string];
        this.cookies.set(name, value);
      }
      const location = answer.headers.get('location');
      if (!location) return { url: next, html: await answer.text() };
      await answer.body?.cancel();
      [next, form] = [new URL(location, next).href, undefined];
    }
    throw new Error(`too many redirects from ${url}`);
  }
}

interface Form {
  action: string;
  fields: Map<string, string>;
}

function formIn(html: string): Form | undefined {
  const [, head, inner] = /<form\b([^>]*)>([\s\S]*?)<\/form>/i.exec(html) ?? [];
  if (head === undefined || inner === undefined) return undefined;
  const fields = new Map<string, string>();
  for (const [, attributes = ''] of inner.matchAll(/<(?:input|button)\b([^>]*)>/gi)) {
    const name = attribute(attributes, 'name');
    if (name) fields.set(name, attribute(attributes, 'value') ?? '');
  }
  return { action: attribute(head, 'action') ?? '', fields };
}

function attribute(text: string, name: string): string | undefined {
  const value = new RegExp(`\\b${name}="([^"]*)"`, 'i').exec(text)?.[1];
  return value?.replaceAll('&amp;', '&').replaceAll('&quot;', '"').replaceAll('&#39;', "'");
}

/** Which form it is, and what is sent; undefined for one that is no person's business here. */
function fill({ fields }: Form, { username, password, newPassword }: Person) {
  const given = Object.fromEntries(fields);
  if (fields.has('password-new')) {
    if (!newPassword) throw new Error('Keycloak asks for a new password');
    return { what: 'new-password', fields: { ...given, 'password-new': newPassword, 'password-confirm': newPassword } };
  }
  if (fields.has('password')) return { what: 'login', fields: { ...given, username, password } };
  // A realm with organizations asks for the name alone first: it might lead to an organization's own provider.
  if (fields.has('username')) return { what: 'name', fields: { ...given, username } };
  if (fields.has('accept')) {
    const { cancel: _no, ...rest } = given;
    return { what: 'consent', fields: { ...rest, accept: 'Yes' } };
  }
  if (fields.has('device_user_code')) return { what: 'user-code', fields: given };
  return undefined;
}

/** What a page complains of: beside a field, above the form, or alone. */
function messageIn(html: string): string | undefined {
  const places = [
    /id="input-error[^"]*"[^>]*>([\s\S]*?)<\/(?:span|div)>/gi,
    /kc-feedback-text"[^>]*>([\s\S]*?)<\/span>/gi,
  ];
  return places
    .flatMap((place) => [...html.matchAll(place)])
    .map(([, inner = '']) => textOf(inner))
    .find((text) => text !== '');
}

/** What a page says, without its markup. */
export function textOf(html: string): string {
  return html
    .replace(/<(script|style)[\s\S]*?<\/\1>/gi, '')
    .replace(/<[^>]+>/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
}

/** The token endpoint of an issuer. */
export async function askForToken(issuer: string, form: Record<string, string>): Promise<Tokens> {
  const answer = await fetch(`${issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams(form),
    signal: AbortSignal.timeout(60_000),
  });
  return { status: answer.status, ...((await answer.json()) as object) } as Tokens;
}

/** Authorization code with PKCE (RFC 6749 §4.1, RFC 7636) through the real pages. */
export async function loginByCode(
  issuer: string,
  person: Person,
  {
    clientId = 'rhyzome-cli',
    redirectUri = 'http://127.0.0.1:9999/callback',
    scope = 'openid',
    browser = new Browser(),
  } = {},
): Promise<Tokens & { seen: string[] }> {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(8).toString('hex');
  const query = new URLSearchParams({
    response_type: 'code',
    client_id: clientId,
    redirect_uri: redirectUri,
    scope,
    state,
    ...challengeOf(verifier),
  });
  const end = await browser.go(`${issuer}/protocol/openid-connect/auth?${query}`, person, redirectUri);
  const answer = new URL(end.url).searchParams;
  const code = answer.get('code');
  if (!code) throw new Error(`no code: ${answer.get('error') ?? textOf(end.html)}`);
  if (answer.get('state') !== state) throw new Error('the state is another');
  const form = { grant_type: 'authorization_code', code, code_verifier: verifier };
  const tokens = await askForToken(issuer, { ...form, client_id: clientId, redirect_uri: redirectUri });
  return { ...tokens, seen: browser.seen };
}

/** RFC 7636, S256. */
const challengeOf = (verifier: string) => ({
  code_challenge: createHash('sha256').update(verifier).digest('base64url'),
  code_challenge_method: 'S256',
});

export interface DeviceStart {
  device_code: string;
  user_code: string;
  verification_uri: string;
  verification_uri_complete: string;
  interval: number;
  /** Known to the device alone: the clients must use PKCE, here as well. */
  code_verifier: string;
}

/** The device's first step (RFC 8628 §3.1). */
export async function startDevice(issuer: string, clientId = 'rhyzome-cli', scope = 'openid'): Promise<DeviceStart> {
  const code_verifier = randomBytes(32).toString('base64url');
  const answer = await fetch(`${issuer}/protocol/openid-connect/auth/device`, {
    method: 'POST',
    body: new URLSearchParams({ client_id: clientId, scope, ...challengeOf(code_verifier) }),
  });
  if (!answer.ok) throw new Error(`the device flow does not begin: ${answer.status} ${await answer.text()}`);
  return { ...((await answer.json()) as DeviceStart), code_verifier };
}

/** The device's question whether its person has agreed (RFC 8628 §3.4). */
export function askAsDevice(
  issuer: string,
  { device_code, code_verifier }: DeviceStart,
  clientId = 'rhyzome-cli',
): Promise<Tokens> {
  const grant_type = 'urn:ietf:params:oauth:grant-type:device_code';
  return askForToken(issuer, { grant_type, device_code, code_verifier, client_id: clientId });
}

export function claimsOf(token: string): Record<string, any> {
  return JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString('utf8'));
}
