/**
 * From a bearer token to an actor: signature, claims, tenant. Nothing is asked of the identity provider on a request's
 * path once its keys are known, and a token that was verified once is not verified again until it expires, its key is
 * withdrawn, its tenant is suspended or its issuer removed.
 */
import { hash } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, exportJWK, jwtVerify } from 'jose';
import { RhyzomeError } from '#libs/core';
import type { IssuerDirectory, IssuerEntry, IssuerTenant } from '#libs/tenants';
import type { Actor } from './actor.js';
import { InvalidToken } from './bearer.js';
import { thumbprintOf } from './jwk-set.js';
import { KeySource, type KeySourceOptions } from './key-source.js';
import { LruMap } from './lru-map.js';
import {
  actorOf,
  allowedAlgorithms,
  checkAudience,
  checkClaims,
  checkHeader,
  maxTokenBytes,
  organizationOf,
} from './token-claims.js';

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
  /** Empty: the whole issuer is the tenant's. */
  organization: string;
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
      // A withdrawn key is refused within a minute: after 25 s and a request that takes 5, or at once when it was idle.
      refreshMs: options.refreshMs ?? 25_000,
      staleMs: options.staleMs ?? 45_000,
      staleWaitMs: options.staleWaitMs ?? 2000,
      idleMs: options.idleMs ?? 300_000,
      memory: options.memory,
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
      const actor = await this.recall(key);
      if (actor) return actor;
      const verified = await this.check(bearer);
      this.cache.set(key, verified);
      return verified.actor;
    } catch (error) {
      this.counts.refused += 1;
      throw error;
    }
  }

  /** Ends what reads keys in the background. */
  close(): void {
    for (const source of this.sources.values()) source.close();
    this.sources.clear();
  }

  /** A verified token's actor, when everything that may have changed since is as it was. */
  private async recall(key: string): Promise<Actor | undefined> {
    const known = this.cache.get(key);
    if (!known) return undefined;
    const source = this.sources.get(known.issuer);
    if (source?.use()) await source.renew();
    const entry = this.options.directory.find(known.issuer);
    const tenant = entry && tenantIn(entry, known.organization);
    const isSame =
      tenant?.tenantId === known.actor.tenantId &&
      tenant.tenantState === 'active' &&
      this.audienceOf(tenant) === known.audience &&
      source?.jwksUri === entry?.jwksUri &&
      source?.has(known.keyThumbprint) &&
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
    // A realm of its own is closed with its tenant: its keys could not be had.
    if (entry.owner) refuseSuspended(entry.owner);
    const source = this.sourceOf(issuer, entry);
    if (source.use()) await source.renew();
    this.counts.verified += 1;
    const { payload, key } = await jwtVerify(token, source.resolve, {
      algorithms: allowedAlgorithms,
      issuer,
      clockTolerance: this.leewaySeconds,
      requiredClaims: ['exp', 'sub'],
    }).catch((error: unknown) => {
      throw inWords(error);
    });
    checkClaims(payload, Date.now() / 1000, this.leewaySeconds);
    const organization = organizationOf(payload, entry);
    const tenant = await this.tenantOf(issuer, entry, organization);
    const audience = this.audienceOf(tenant);
    checkAudience(payload.aud, audience);
    const keyThumbprint = await thumbprintOf(await exportJWK(key));
    const actor = actorOf(payload, tenant, organization !== '');
    return { actor, issuer, organization, audience, keyThumbprint, expiresAtMs: payload.exp! * 1000 };
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
    if (entry) return entry;
    this.sources.get(issuer)?.close();
    this.sources.delete(issuer);
    throw unknownIssuer();
  }

  /** Whose a token is whose signature and organization are known. One that is suspended is told so. */
  private async tenantOf(issuer: string, entry: IssuerEntry, organization: string): Promise<IssuerTenant> {
    let tenant = tenantIn(entry, organization);
    if (!tenant) {
      const later = await this.options.directory.lookAgain?.(issuer);
      tenant = later && tenantIn(later, organization);
    }
    if (!tenant) {
      throw new InvalidToken('organization', 'The organization of the token is not one of a tenant here.');
    }
    refuseSuspended(tenant);
    return tenant;
  }

  private sourceOf(issuer: string, { jwksUri }: IssuerEntry): KeySource {
    const known = this.sources.get(issuer);
    if (known?.jwksUri === jwksUri) return known;
    known?.close();
    const source = new KeySource(issuer, jwksUri, this.keyOptions);
    this.sources.set(issuer, source);
    return source;
  }

  private audienceOf(tenant: IssuerTenant): string {
    return tenant.audience ?? this.options.audience;
  }
}

/** An issuer with an owner knows no organizations, so that a claim cannot choose another tenant. */
function tenantIn(entry: IssuerEntry, organization: string): IssuerTenant | undefined {
  return organization === '' ? entry.owner : entry.organizations.get(organization);
}

function refuseSuspended({ tenantState }: IssuerTenant): void {
  if (tenantState === 'active') return;
  throw new InvalidToken('tenant_suspended', 'The tenant of this token is suspended.');
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
      if (claim === 'nbf') return new InvalidToken('not_yet_valid', 'The token is not valid yet.', error);
      return new InvalidToken('claim', `The claim ${claim ?? 'set'} of the token is missing or wrong.`, error);
    default:
      return new InvalidToken('malformed', 'The token is not a well-formed signed JWT.', error);
  }
}
