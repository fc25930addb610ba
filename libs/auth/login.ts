/**
 * How a person at a terminal gets tokens: the device flow (RFC 8628) with PKCE, their refresh and their end, and where an
 * API says that its tokens come from (RFC 9728). For programs of users; no server needs it.
 */
import * as oidc from 'openid-client';
import { printable } from '#libs/core';

export type LoginErrorCode =
  | 'login_denied'
  | 'login_expired'
  | 'login_refused'
  | 'session_ended'
  | 'issuer_unavailable'
  | 'issuer_unknown'
  | 'api_unavailable';

/** Nobody is logged in; the message says why and what to do. Never holds a token or a code. */
export class LoginError extends Error {
  override readonly name = 'LoginError';
  constructor(
    readonly code: LoginErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export interface LoginClient {
  /** Exactly as in the tokens' `iss`. */
  issuer: string;
  /** A public client that may use the device flow. */
  clientId: string;
}

export interface LoginTokens {
  accessToken: string;
  /** Null: the issuer gave none, and the login ends with the access token. */
  refreshToken: string | null;
  expiresAt: Date;
}

export interface DeviceLogin {
  /** What the page asks for, or shows to be compared. */
  userCode: string;
  verificationUri: string;
  /** With the code in it. */
  verificationUriComplete: string | null;
  expiresAt: Date;
  /** Polls until the person has decided. Throws LoginError `login_denied`, `login_expired`, `login_refused`. */
  tokens(signal?: AbortSignal): Promise<LoginTokens>;
}

const TIMEOUT_S = 15;
const MAX_METADATA_BYTES = 65_536;
const MAX_INTERVAL_S = 60;

/** Asks the issuer for a code (RFC 8628, section 3.1). `scope` are words beside `openid`. Throws LoginError. */
export async function startDeviceLogin(client: LoginClient, scope: readonly string[]): Promise<DeviceLogin> {
  const config = await discovered(client);
  const verifier = oidc.randomPKCECodeVerifier();
  const asked = Date.now();
  const answer = await oidc
    .initiateDeviceAuthorization(config, {
      scope: ['openid', ...scope].join(' '),
      // Keycloak asks for it where the client must use PKCE (RFC 7636), in this flow as well.
      code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    })
    .catch((error: unknown) => {
      throw inWords(error, client, `The issuer does not let the client ${client.clientId} log in here`);
    });
  const expiresAt = new Date(asked + answer.expires_in * 1000);
  return {
    userCode: answer.user_code,
    verificationUri: answer.verification_uri,
    verificationUriComplete: answer.verification_uri_complete ?? null,
    expiresAt,
    tokens: (signal) => polled(config, client, answer, verifier, expiresAt, signal),
  };
}

/** openid-client waits, and longer after `slow_down`; what it gives up on is a network that fails for a moment. */
async function polled(
  config: oidc.Configuration,
  client: LoginClient,
  answer: oidc.DeviceAuthorizationResponse,
  code_verifier: string,
  expiresAt: Date,
  signal?: AbortSignal,
): Promise<LoginTokens> {
  let interval = answer.interval ?? 5;
  for (;;) {
    const left = Math.max(expiresAt.getTime() - Date.now(), 0);
    const limit = AbortSignal.any([AbortSignal.timeout(left), ...(signal ? [signal] : [])]);
    try {
      const parameters = { code_verifier };
      const asked = { ...answer, interval };
      return tokensOf(await oidc.pollDeviceAuthorizationGrant(config, asked, parameters, { signal: limit }));
    } catch (error) {
      signal?.throwIfAborted();
      const isOver = limit.aborted || errorOf(error) === 'expired_token';
      if (isOver) throw new LoginError('login_expired', 'Nobody entered the code in time. Log in again.');
      if (errorOf(error) === 'access_denied') throw new LoginError('login_denied', 'The login was refused.');
      if (!isAway(error)) throw inWords(error, client, 'The issuer gives no tokens');
      // RFC 8628, section 3.5: twice as long after a connection that failed.
      interval = Math.min(interval * 2, MAX_INTERVAL_S);
    }
  }
}

/**
 * New tokens for a refresh token, which may be worth nothing afterwards: the answer has its successor. Throws LoginError
 * `session_ended` where the issuer takes it no longer, `issuer_unavailable` where nothing is known.
 */
export async function refreshLogin(client: LoginClient, refreshToken: string): Promise<LoginTokens> {
  const config = await discovered(client);
  try {
    const tokens = tokensOf(await oidc.refreshTokenGrant(config, refreshToken));
    return { ...tokens, refreshToken: tokens.refreshToken ?? refreshToken };
  } catch (error) {
    if (errorOf(error) === 'invalid_grant')
      throw new LoginError('session_ended', 'The login has ended.', { cause: error });
    throw inWords(error, client, 'The issuer gives no new token');
  }
}

/** The refresh token is worth nothing from now on (RFC 7009). Throws LoginError. */
export async function endLogin(client: LoginClient, refreshToken: string): Promise<void> {
  const config = await discovered(client);
  try {
    await oidc.tokenRevocation(config, refreshToken, { token_type_hint: 'refresh_token' });
  } catch (error) {
    throw inWords(error, client, 'The issuer does not end the login');
  }
}

/**
 * The issuers whose tokens an API takes, by its own word (RFC 9728, section 3); empty where it names none. `api` is its
 * base URL. Throws LoginError `api_unavailable`.
 */
export async function issuersOf(api: string): Promise<string[]> {
  const { origin, pathname } = new URL(api);
  const path = pathname.replace(/\/+$/, '');
  const address = `${origin}/.well-known/oauth-protected-resource${path}`;
  const metadata = await readMetadata(address, api);
  if (!metadata) return [];
  const { resource, authorization_servers: servers } = metadata;
  // Section 3.3: what speaks for another resource must not be believed.
  if (typeof resource !== 'string' || normalized(resource) !== normalized(api))
    throw new LoginError('api_unavailable', `${printable(address)} speaks for another API than ${printable(api)}.`);
  if (!Array.isArray(servers)) return [];
  return servers.filter((server): server is string => typeof server === 'string');
}

async function readMetadata(address: string, api: string): Promise<Record<string, unknown> | undefined> {
  try {
    const response = await fetch(address, {
      headers: { accept: 'application/json' },
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_S * 1000),
    });
    if (response.status === 404) return undefined;
    const text = await limitedText(response);
    if (response.status !== 200) throw new Error(`status ${response.status}`);
    return JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new LoginError('api_unavailable', `The API ${printable(api)} does not answer as one (${reasonOf(cause)}).`, {
      cause,
    });
  }
}

async function limitedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > MAX_METADATA_BYTES) throw new Error('too long an answer');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Without a slash at its end. */
function normalized(url: string): string {
  return URL.canParse(url) ? new URL(url).href.replace(/\/+$/, '') : url;
}

async function discovered(client: LoginClient): Promise<oidc.Configuration> {
  const { issuer, clientId } = client;
  if (!URL.canParse(issuer)) throw new LoginError('issuer_unknown', `${printable(issuer)} is no issuer’s URL.`);
  const server = new URL(issuer);
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(server.hostname);
  if (server.protocol !== 'https:' && !(server.protocol === 'http:' && isLoopback))
    throw new LoginError('issuer_unknown', 'Tokens are fetched over https only, or over http on loopback.');
  try {
    return await oidc.discovery(server, clientId, undefined, oidc.None(), {
      timeout: TIMEOUT_S,
      execute: server.protocol === 'http:' ? [oidc.allowInsecureRequests] : [],
    });
  } catch (error) {
    throw inWords(error, client, 'There is no issuer at this address');
  }
}

function tokensOf(answer: oidc.TokenEndpointResponse): LoginTokens {
  return {
    accessToken: answer.access_token,
    refreshToken: answer.refresh_token ?? null,
    // RFC 6749, section 5.1: where it says no life, none is counted on.
    expiresAt: new Date(Date.now() + (answer.expires_in ?? 0) * 1000),
  };
}

/** The issuer's `error` (RFC 6749, section 5.2). */
function errorOf(error: unknown): string | undefined {
  const { error: word } = error as { error?: unknown };
  return typeof word === 'string' ? word : undefined;
}

/** Nothing came back, or a 5xx of something in between. */
function isAway(error: unknown): boolean {
  const { name, cause, code, status } = error as { name?: string; cause?: unknown; code?: string; status?: number };
  if (name === 'TimeoutError' || code === 'OAUTH_TIMEOUT') return true;
  if (typeof status === 'number') return status >= 500;
  const response = cause instanceof Response ? cause : undefined;
  if (response) return response.status >= 500;
  return error instanceof TypeError || (cause instanceof Error && isAway(cause));
}

function inWords(error: unknown, { issuer }: LoginClient, words: string): LoginError {
  if (isAway(error))
    return new LoginError(
      'issuer_unavailable',
      `The issuer ${printable(issuer)} cannot be reached (${reasonOf(error)}). Try again.`,
      { cause: error },
    );
  return new LoginError('login_refused', `${words} (${printable(issuer)}): ${reasonOf(error)}.`, { cause: error });
}

/** What an issuer said, or the innermost reason; one line. */
function reasonOf(error: unknown): string {
  const { error_description: description } = error as { error_description?: unknown };
  const said = [errorOf(error), description].filter((part) => typeof part === 'string').join(', ');
  if (said !== '') return printable(said).replace(/\.$/, '');
  let inner = error as { message?: string; code?: string; cause?: unknown };
  while (inner.cause instanceof Error) inner = inner.cause as typeof inner;
  return printable(inner.code ?? inner.message ?? 'unknown').replace(/\.$/, '');
}
