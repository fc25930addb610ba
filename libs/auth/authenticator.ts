/**
 * From a bearer token of either sort to an actor with all that permissions are decided on. What the servers ask, for
 * requests and for streams that go on.
 */
import type { AccessDirectory } from './access-directory.js';
import type { Actor } from './actor.js';

/** Knows one sort of bearer token. The same object for the same token, as long as nothing about it changes. */
export interface BearerVerifier {
  /** Throws InvalidToken (401), or RhyzomeError when it cannot be known at the moment. */
  verify(bearer: string): Promise<Actor>;
}

/** API tokens begin so; no JWT does. */
export const API_TOKEN_PREFIX = 'rhz_';

export class Authenticator implements BearerVerifier {
  constructor(
    private readonly tokens: BearerVerifier,
    private readonly access: AccessDirectory,
    /** Absent: there are no API tokens here, and the other verifier refuses them. */
    private readonly apiTokens?: BearerVerifier,
  ) {}

  async verify(bearer: string): Promise<Actor> {
    const verifier = this.apiTokens && bearer.startsWith(API_TOKEN_PREFIX) ? this.apiTokens : this.tokens;
    return this.access.enrich(await verifier.verify(bearer));
  }

  /** Something that a tenant's permissions are decided on was changed by this process. */
  forget(tenantId: string): void {
    this.access.forget(tenantId);
  }
}
