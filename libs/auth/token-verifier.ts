/**
 * From a bearer token to an actor: signature, claims, tenant. Nothing is asked of the identity provider on a request's
 * path once its keys are known, and a token that was verified once is not verified again until it expires, its key is
 * withdrawn, its tenant is suspended or its issuer removed.
 */
import { hash } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, exportJWK, jwtVerify } from 'jose';
import { RhyzomeError } from '#libs/core';
import type { IssuerDirectory, IssuerEntry } from '#libs/tenants';
import type { Actor } from './actor.js';
import { InvalidToken } from './bearer.js';
import { KeySource, type KeySourceOptions, thumbprintOf } from './key-source.js';
import { LruMap } from './lru-map.js';
import { actorOf, allowedAlgorithms, checkClaims, checkHeader, maxTokenBytes } from './token-claims.js';

export interface TokenVerifierOptions extends Partial<KeySourceOptions> {
  directory: IssuerDirectory;
  /** What `aud` must contain where the issuer's row names none. */
  audience: string;
  /** For nbf and iat, not for exp. Default 30. */
  leewaySeconds?: number;
  /** Verified tokens kept in memory. Default 10,000. */
  maxCached?: number;
}

interface Verified {
  actor: Actor;
  issuer: string;
  audience: string;
  keyThumbprint: string;
  expiresAtMs: number;
}

export class TokenVerifier {
  /** For metrics: signatures that were checked, and answers from memory. */
  readonly counts = { verified: 0, remembered: 0, refused: 0 };
  private readonly cache: LruMap<string, Verified>;
  private readonly sources = new Map<string, KeySource>();
  private readonly keyOptions: KeySourceOptions;
  private readonly leewaySeconds: number;

  constructor(private readonly options: TokenVerifierOptions) {
    this.cache = new LruMap(options.maxCached ?? 10_000);
    this.leewaySeconds = options.leewaySeconds ?? 30;
    this.keyOptions = {
      httpTimeoutMs: options.httpTimeoutMs ?? 5000,
      cooldownMs: options.cooldownMs ?? 10_000,
      retryMs: options.retryMs ?? 2000,
      refreshMs: options.refreshMs ?? 300_000,
    };
  }

  /**
   * The actor of an access token. Throws InvalidToken (401), or `identity_provider_unavailable` (503) while the issuer's
   * keys are not known and cannot be had.
   */
  async verify(bearer: string): Promise<Actor> {
    try {
      if (bearer.length > maxTokenBytes) {
        throw new InvalidToken('too_large', `The token is larger than ${maxTokenBytes} bytes.`);
      }
      const key = hash('sha256', bearer, 'base64');
      const actor = this.recall(key);
      if (actor) return actor;
      const verified = await this.check(bearer);
      this.cache.set(key, verified);
      return verified.actor;
    } catch (error) {
      this.counts.refused += 1;
      throw error;
    }
  }

  /** A verified token's actor, when everything that may have changed since is as it was. */
  private recall(key: string): Actor | undefined {
    const known = this.cache.get(key);
    if (!known) return undefined;
    const entry = this.options.directory.find(known.issuer);
    const source = this.sources.get(known.issuer);
    source?.keepFresh();
    const isSame =
      entry?.tenantId === known.actor.tenantId &&
      entry.tenantState === 'active' &&
      this.audienceOf(entry) === known.audience &&
      source?.jwksUri === entry.jwksUri &&
      source.has(known.keyThumbprint) &&
      known.expiresAtMs > Date.now();
    if (isSame) {
      this.counts.remembered += 1;
      return known.actor;
    }
    this.cache.delete(key); // it is checked again, which says what is wrong with it
    return undefined;
  }

  private async check(token: string): Promise<Verified> {
    const issuer = this.peek(token);
    const entry = await this.entryOf(issuer);
    const audience = this.audienceOf(entry);
    const source = this.sourceOf(issuer, entry);
    this.counts.verified += 1;
    const { payload, key } = await jwtVerify(token, source.resolve, {
      algorithms: allowedAlgorithms,
      issuer,
      audience,
      clockTolerance: this.leewaySeconds,
      requiredClaims: ['exp', 'sub'],
    }).catch((error: unknown) => {
      throw inWords(error);
    });
    checkClaims(payload, Date.now() / 1000, this.leewaySeconds);
    const keyThumbprint = await thumbprintOf(await exportJWK(key));
    const expiresAtMs = payload.exp! * 1000;
    return { actor: actorOf(payload, entry), issuer, audience, keyThumbprint, expiresAtMs };
  }

  /** The issuer that an unverified token names; needed to find the key. */
  private peek(token: string): string {
    let header: ReturnType<typeof decodeProtectedHeader>;
    let issuer: unknown;
    try {
      header = decodeProtectedHeader(token);
      issuer = decodeJwt(token).iss;
    } catch (error) {
      throw new InvalidToken('malformed', 'The token is not a signed JWT.', error);
    }
    checkHeader(header);
    if (typeof issuer !== 'string') throw unknownIssuer();
    return issuer;
  }

  private async entryOf(issuer: string): Promise<IssuerEntry> {
    const { directory } = this.options;
    const entry = directory.find(issuer) ?? (await directory.lookAgain?.(issuer));
    if (!entry) {
      this.sources.delete(issuer);
      throw unknownIssuer();
    }
    if (entry.tenantState !== 'active') {
      throw new InvalidToken('tenant_suspended', 'The tenant of this token is suspended.');
    }
    return entry;
  }

  private sourceOf(issuer: string, entry: IssuerEntry): KeySource {
    const known = this.sources.get(issuer);
    if (known?.jwksUri === entry.jwksUri) {
      known.keepFresh();
      return known;
    }
    const source = new KeySource(issuer, entry.jwksUri, this.keyOptions);
    this.sources.set(issuer, source);
    return source;
  }

  private audienceOf(entry: IssuerEntry): string {
    return entry.audience ?? this.options.audience;
  }
}

const unknownIssuer = () => new InvalidToken('unknown_issuer', 'The issuer of the token is not one of a tenant here.');

/** jose's errors in words for the token's owner. */
function inWords(error: unknown): unknown {
  if (error instanceof RhyzomeError) return error;
  const { code, claim } = error as { code?: string; claim?: string };
  switch (code) {
    case 'ERR_JWT_EXPIRED':
      return new InvalidToken('expired', 'The token has expired.', error);
    case 'ERR_JWKS_NO_MATCHING_KEY':
    case 'ERR_JWKS_MULTIPLE_MATCHING_KEYS':
      return new InvalidToken('unknown_key', 'The token is signed with a key that its issuer does not publish.', error);
    case 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED':
      return new InvalidToken('signature', 'The signature of the token is wrong.', error);
    case 'ERR_JOSE_ALG_NOT_ALLOWED':
    case 'ERR_JOSE_NOT_SUPPORTED':
      return new InvalidToken('algorithm', 'The signature algorithm of the token is not accepted.', error);
    case 'ERR_JWT_CLAIM_VALIDATION_FAILED':
      if (claim === 'aud') return new InvalidToken('wrong_audience', 'The token is for another audience.', error);
      if (claim === 'nbf') return new InvalidToken('not_yet_valid', 'The token is not valid yet.', error);
      return new InvalidToken('claim', `The claim ${claim ?? 'set'} of the token is missing or wrong.`, error);
    default:
      return new InvalidToken('malformed', 'The token is not a well-formed signed JWT.', error);
  }
}
