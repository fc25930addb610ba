/**
 * The public keys of one issuer: where they are (OpenID Connect discovery, or told), kept in memory, read again in the
 * background, and still used while the identity provider is away. One request for them at a time, none too often.
 */
import {
  calculateJwkThumbprint,
  createRemoteJWKSet,
  customFetch,
  type JWK,
  type JWTVerifyGetKey,
  type RemoteJWKSet,
} from 'jose';
import { allowInsecureRequests, discovery, None } from 'openid-client';
import { printable, RhyzomeError } from '#libs/core';

export interface KeySourceOptions {
  httpTimeoutMs: number;
  /** After a read: how long unknown keys make nobody read again. */
  cooldownMs: number;
  /** After a failed read: how long nobody tries again. */
  retryMs: number;
  /** Keys older than this are read again in the background. */
  refreshMs: number;
}

const maxJwksBytes = 262_144;

export class KeySource {
  private set: RemoteJWKSet | undefined;
  private opening: Promise<RemoteJWKSet> | undefined;
  private readAt = 0;
  private failure: { at: number; cause: unknown } | undefined;
  private refreshing: Promise<void> | undefined;
  private thumbprints: ReadonlySet<string> = new Set();

  constructor(
    readonly issuer: string,
    readonly jwksUri: string | null,
    private readonly options: KeySourceOptions,
  ) {}

  /** For jose. Throws `identity_provider_unavailable` when keys are needed and cannot be had. */
  readonly resolve: JWTVerifyGetKey = async (header, token) => {
    const set = await this.open();
    try {
      return await set(header, token);
    } catch (error) {
      throw isTokensFault(error) ? error : this.unavailable(error);
    }
  };

  /** Whether a key, by its RFC 7638 thumbprint, is still published as far as is known. */
  has(thumbprint: string): boolean {
    return this.thumbprints.has(thumbprint);
  }

  /** Starts reading the keys again when they are old; never waits, never throws. The old ones stay when it fails. */
  keepFresh(): void {
    const { set } = this;
    if (!set || this.refreshing || Date.now() - this.readAt < this.options.refreshMs || this.isPausing()) return;
    this.refreshing = set
      .reload()
      .catch((cause: unknown) => {
        this.failure = { at: Date.now(), cause };
      })
      .finally(() => {
        this.refreshing = undefined;
      });
  }

  private async open(): Promise<RemoteJWKSet> {
    if (this.set) return this.set;
    if (this.isPausing()) throw this.unavailable(this.failure?.cause);
    this.opening ??= this.discover().finally(() => {
      this.opening = undefined;
    });
    this.set = await this.opening;
    return this.set;
  }

  private async discover(): Promise<RemoteJWKSet> {
    try {
      const uri = this.jwksUri ?? (await this.discoverJwksUri());
      if (!isSafe(new URL(uri))) throw new Error('Keys are read over https (or http on loopback) only.');
      return createRemoteJWKSet(new URL(uri), {
        timeoutDuration: this.options.httpTimeoutMs,
        cooldownDuration: this.options.cooldownMs,
        cacheMaxAge: Number.POSITIVE_INFINITY,
        [customFetch]: (url, init) => this.fetchKeys(url, init),
      });
    } catch (cause) {
      this.failure = { at: Date.now(), cause };
      throw this.unavailable(cause);
    }
  }

  private async discoverJwksUri(): Promise<string> {
    const server = new URL(this.issuer);
    if (!isSafe(server)) throw new Error('An issuer is asked over https (or http on loopback) only.');
    const found = await discovery(server, 'rhyzome', undefined, None(), {
      timeout: this.options.httpTimeoutMs / 1000,
      execute: server.protocol === 'http:' ? [allowInsecureRequests] : [],
    });
    const uri = found.serverMetadata().jwks_uri;
    if (!uri) throw new Error('The issuer’s metadata has no jwks_uri.');
    return uri;
  }

  /** jose's fetch, with a pause after failures and a size limit. */
  private async fetchKeys(url: string, init: RequestInit): Promise<Response> {
    if (this.isPausing()) throw this.failure?.cause;
    try {
      const response = await fetch(url, init);
      const body = await readLimited(response, maxJwksBytes);
      if (response.status !== 200) throw new Error(`The issuer answered ${response.status} when asked for its keys.`);
      this.thumbprints = await thumbprintsOf(JSON.parse(body));
      this.failure = undefined;
      this.readAt = Date.now();
      return new Response(body, { status: 200, headers: { 'content-type': 'application/json' } });
    } catch (cause) {
      this.failure = { at: Date.now(), cause };
      throw cause;
    }
  }

  private isPausing(): boolean {
    return this.failure !== undefined && Date.now() - this.failure.at < this.options.retryMs;
  }

  private unavailable(cause: unknown): RhyzomeError {
    if (cause instanceof RhyzomeError) return cause;
    const message = `The identity provider ${printable(this.issuer)} cannot be asked for its keys; try again.`;
    return new RhyzomeError('identity_provider_unavailable', message, { retryAfterSeconds: 5, cause });
  }
}

/** RFC 7638, over the public members only. */
export function thumbprintOf(key: JWK): Promise<string> {
  return calculateJwkThumbprint(key);
}

/** Of all keys that have one: a key that nobody can use must not make the others useless. */
async function thumbprintsOf(jwks: { keys?: unknown } | null): Promise<Set<string>> {
  if (!Array.isArray(jwks?.keys)) throw new Error('The issuer’s keys are no JWK set.');
  const made = await Promise.allSettled(jwks.keys.map((key: JWK) => thumbprintOf(key)));
  return new Set(made.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])));
}

function isTokensFault(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return (
    code === 'ERR_JWKS_NO_MATCHING_KEY' ||
    code === 'ERR_JWKS_MULTIPLE_MATCHING_KEYS' ||
    code === 'ERR_JOSE_NOT_SUPPORTED'
  );
}

function isSafe(url: URL): boolean {
  if (url.protocol === 'https:') return true;
  const isLoopback = url.hostname === 'localhost' || url.hostname === '[::1]' || /^127(\.\d+){3}$/.test(url.hostname);
  return url.protocol === 'http:' && isLoopback;
}

async function readLimited(response: Response, limit: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > limit) throw new Error(`The issuer’s keys are larger than ${limit} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
