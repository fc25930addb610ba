/**
 * The public keys of one issuer: where they are (OpenID Connect discovery, or told), kept in memory, and read again while
 * they are used, so that a withdrawn key is refused soon, whatever the traffic. They serve on while the identity provider
 * is away; while it has been away since this process began, what another one read last serves. One request for them at a
 * time, none too often.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  createRemoteJWKSet,
  customFetch,
  type FlattenedJWSInput,
  type JWSHeaderParameters,
  type JWTVerifyGetKey,
  type RemoteJWKSet,
} from 'jose';
import { allowInsecureRequests, discovery, None } from 'openid-client';
import { printable, RhyzomeError } from '#libs/core';
import { isSafe, keysAnswer, readLimited, thumbprintsOf } from './jwk-set.js';
import type { IssuerKeys, KeyMemory } from './key-memory.js';

export interface KeySourceOptions {
  /** Of one request to the identity provider, at most. */
  httpTimeoutMs: number;
  /** How often a token with an unknown key makes the keys be read again; a few times in a row are free. */
  cooldownMs: number;
  /** After a failed read: how long nobody tries again. */
  retryMs: number;
  /** Keys that are in use are read again in the background about so often. */
  refreshMs: number;
  /** Keys older than this are read again before the next token is taken: nobody has used them for a while. */
  staleMs: number;
  /** How long that token waits for it at most, before the keys that are known serve. */
  staleWaitMs: number;
  /** Keys that no token has asked for so long are not read in the background any more. */
  idleMs: number;
  /** What keys outlive a process in; absent: nothing. */
  memory?: KeyMemory;
}

const maxJwksBytes = 262_144;
/** Reads for unknown keys that need not wait for the cooldown: a rotation shortly after another read is seen at once. */
const freeReads = 3;

export class KeySource {
  private set: RemoteJWKSet | undefined;
  private opening: Promise<RemoteJWKSet> | undefined;
  private readAt = Number.NEGATIVE_INFINITY;
  private usedAt = Number.NEGATIVE_INFINITY;
  private failure: { at: number; cause: unknown } | undefined;
  /** What another process read, looked up once while the provider cannot be asked and nothing was read here. */
  private recalled: Promise<IssuerKeys | undefined> | undefined;
  private reading: Promise<void> | undefined;
  private lookingAgain: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;
  private thumbprints: ReadonlySet<string> = new Set();
  /** Reads that unknown keys may still cause. */
  private allowance = freeReads;
  private allowanceAt = performance.now();

  constructor(
    readonly issuer: string,
    readonly jwksUri: string | null,
    private readonly options: KeySourceOptions,
  ) {}

  /** For jose. Throws `identity_provider_unavailable` when keys are needed and cannot be had. */
  readonly resolve: JWTVerifyGetKey = async (header, token) => {
    const set = await this.open();
    try {
      return await this.find(set, header, token);
    } catch (error) {
      throw isTokensFault(error) ? error : this.unavailable(error);
    }
  };

  /** Whether a key, by its RFC 7638 thumbprint, is still published as far as is known. */
  has(thumbprint: string): boolean {
    return this.thumbprints.has(thumbprint);
  }

  /** A token of this issuer has come: its keys are kept fresh for a while. True: `renew` first. */
  use(): boolean {
    this.usedAt = performance.now();
    this.watch();
    if (!this.set) return false;
    if (this.usedAt - this.readAt < this.options.staleMs) return false;
    // While the provider is known to be away, tokens need not wait each; the background goes on asking.
    return !this.failure || this.usedAt - this.failure.at >= this.options.staleMs;
  }

  /** Reads the keys again, and waits a little for it. Never throws: the old ones stay when it fails or takes long. */
  async renew(): Promise<void> {
    const timeout = new AbortController();
    const waited = sleep(this.options.staleWaitMs, undefined, { signal: timeout.signal }).catch(() => undefined);
    await Promise.race([this.read(), waited]);
    timeout.abort();
  }

  /** Forgets the issuer: nothing is read in the background any more. */
  close(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.usedAt = Number.NEGATIVE_INFINITY;
  }

  /** Reads in the background until no token has come for a while. Jittered, so that replicas do not ask together. */
  private watch(): void {
    if (this.timer) return;
    const { refreshMs, retryMs, idleMs } = this.options;
    const everyMs = this.failure ? Math.min(refreshMs, retryMs * 2) : refreshMs;
    this.timer = setTimeout(
      () => {
        this.timer = undefined;
        if (performance.now() - this.usedAt > idleMs) return;
        void this.read().then(() => {
          if (performance.now() - this.usedAt <= idleMs) this.watch();
        });
      },
      everyMs * (0.75 + Math.random() / 4),
    ).unref();
  }

  /** One read at a time. Never throws. */
  private read(): Promise<void> {
    if (!this.set) return Promise.resolve();
    this.reading ??= this.set
      .reload()
      .catch(() => undefined) // noted where it is fetched; the keys that are known serve on
      .finally(() => {
        this.reading = undefined;
      });
    return this.reading;
  }

  private async find(set: RemoteJWKSet, header: JWSHeaderParameters | undefined, token: FlattenedJWSInput) {
    try {
      return await set(header, token);
    } catch (error) {
      if (!isUnknownKey(error)) throw error;
      if (this.isPausing()) throw this.failure?.cause;
      if (!this.lookingAgain && !this.takeAllowance()) throw error;
      this.lookingAgain ??= set.reload().finally(() => {
        this.lookingAgain = undefined;
      });
      await this.lookingAgain;
      return await set(header, token);
    }
  }

  /** A bucket of few reads that fills slowly: whoever makes up key ids makes nobody ask for keys all the time. */
  private takeAllowance(): boolean {
    const { cooldownMs } = this.options;
    const now = performance.now();
    const filled = cooldownMs > 0 ? (now - this.allowanceAt) / cooldownMs : freeReads;
    this.allowance = Math.min(freeReads, this.allowance + filled);
    this.allowanceAt = now;
    if (this.allowance < 1) return false;
    this.allowance -= 1;
    return true;
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
      const uri = await this.findJwksUri();
      if (!isSafe(new URL(uri))) throw new Error('Keys are read over https (or http on loopback) only.');
      return createRemoteJWKSet(new URL(uri), {
        timeoutDuration: this.options.httpTimeoutMs + 1000, // its own end; fetchKeys comes before
        // When to read again is decided here.
        cooldownDuration: Number.POSITIVE_INFINITY,
        cacheMaxAge: Number.POSITIVE_INFINITY,
        [customFetch]: (url, init) => this.fetchKeys(url, init),
      });
    } catch (cause) {
      this.failure = { at: performance.now(), cause };
      throw this.unavailable(cause);
    }
  }

  private async findJwksUri(): Promise<string> {
    if (this.jwksUri !== null) return this.jwksUri;
    try {
      return await this.discoverJwksUri();
    } catch (cause) {
      this.failure = { at: performance.now(), cause };
      const keys = await this.recall();
      if (keys) return keys.jwksUri;
      throw cause;
    }
  }

  /** Undefined: nobody has read them lately, or somewhere else than they are now. Never throws. */
  private async recall(): Promise<IssuerKeys | undefined> {
    const { memory } = this.options;
    if (!memory) return undefined;
    this.recalled ??= memory.recall(this.issuer).catch(() => {
      this.recalled = undefined; // the database is away as well: asked again with the next token
      return undefined;
    });
    const keys = await this.recalled;
    return keys && (this.jwksUri === null || this.jwksUri === keys.jwksUri) ? keys : undefined;
  }

  /** Whoever waits for the first keys need not wait long where another process's can serve. */
  private async patienceMs(): Promise<number> {
    const { httpTimeoutMs, staleWaitMs } = this.options;
    const hasOwn = this.set?.jwks() !== undefined;
    return !hasOwn && (await this.recall()) ? Math.min(httpTimeoutMs, staleWaitMs) : httpTimeoutMs;
  }

  private async discoverJwksUri(): Promise<string> {
    const server = new URL(this.issuer);
    if (!isSafe(server)) throw new Error('An issuer is asked over https (or http on loopback) only.');
    const found = await discovery(server, 'rhyzome', undefined, None(), {
      timeout: (await this.patienceMs()) / 1000,
      execute: server.protocol === 'http:' ? [allowInsecureRequests] : [],
    });
    const uri = found.serverMetadata().jwks_uri;
    if (!uri) throw new Error('The issuer’s metadata has no jwks_uri.');
    return uri;
  }

  /** jose's fetch, with a pause after failures and a size limit. */
  private async fetchKeys(url: string, init: RequestInit): Promise<Response> {
    if (this.isPausing()) return this.fallBack(this.failure?.cause);
    // Keys are as old as the question: one that was withdrawn while the answer travelled may be in it.
    const askedAt = performance.now();
    try {
      const response = await fetch(url, { ...init, signal: AbortSignal.timeout(await this.patienceMs()) });
      const body = await readLimited(response, maxJwksBytes);
      if (response.status !== 200) throw new Error(`The issuer answered ${response.status} when asked for its keys.`);
      const jwks = JSON.parse(body) as object;
      this.thumbprints = await thumbprintsOf(jwks);
      this.failure = undefined;
      this.readAt = askedAt;
      void this.options.memory?.remember(this.issuer, { jwksUri: url, jwks });
      return keysAnswer(body);
    } catch (cause) {
      this.failure = { at: performance.now(), cause };
      return this.fallBack(cause);
    }
  }

  /** What another process read, as long as none of this one's own are there. Throws `cause` where there is nothing. */
  private async fallBack(cause: unknown): Promise<Response> {
    const keys = this.set?.jwks() ? undefined : await this.recall();
    if (!keys) throw cause;
    this.thumbprints = await thumbprintsOf(keys.jwks);
    return keysAnswer(JSON.stringify(keys.jwks));
  }

  private isPausing(): boolean {
    return this.failure !== undefined && performance.now() - this.failure.at < this.options.retryMs;
  }

  private unavailable(cause: unknown): RhyzomeError {
    if (cause instanceof RhyzomeError) return cause;
    const message = `The identity provider ${printable(this.issuer)} cannot be asked for its keys; try again.`;
    return new RhyzomeError('identity_provider_unavailable', message, { retryAfterSeconds: 5, cause });
  }
}

function isUnknownKey(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === 'ERR_JWKS_NO_MATCHING_KEY';
}

function isTokensFault(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return isUnknownKey(error) || code === 'ERR_JWKS_MULTIPLE_MATCHING_KEYS' || code === 'ERR_JOSE_NOT_SUPPORTED';
}
