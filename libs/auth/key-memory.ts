/**
 * The issuers' keys in the database, as some server read them last: what a server that starts while an identity provider
 * is away takes tokens by. Public keys only; written when they have changed, and now and then so that they count as fresh.
 */
import { isDeepStrictEqual } from 'node:util';
import { sql } from 'kysely';
import type { Database } from '#libs/db';

export interface IssuerKeys {
  jwksUri: string;
  /** A JWK set (RFC 7517, section 5). */
  jwks: object;
}

export interface KeyMemory {
  /** Undefined: nobody has read them lately. */
  recall(issuer: string): Promise<IssuerKeys | undefined>;
  /** Never throws: keys that could not be written down serve all the same. */
  remember(issuer: string, keys: IssuerKeys): Promise<void>;
}

export interface StoredKeysOptions {
  /** Keys that nobody could read for so long count no more. Default a day. */
  maxAgeMs?: number;
  /** Unchanged keys are written again after so long. Default 10 minutes. */
  writeMs?: number;
  onError?: (error: unknown) => void;
}

export class StoredKeys implements KeyMemory {
  private readonly written = new Map<string, { keys: IssuerKeys; at: number }>();
  private readonly maxAgeMs: number;
  private readonly writeMs: number;

  constructor(
    private readonly db: Database,
    private readonly options: StoredKeysOptions = {},
  ) {
    this.maxAgeMs = options.maxAgeMs ?? 24 * 3_600_000;
    this.writeMs = options.writeMs ?? 600_000;
  }

  async recall(issuer: string): Promise<IssuerKeys | undefined> {
    const query = sql<IssuerKeys>`
      select jwks_uri as "jwksUri", jwks
      from remembered_issuer_keys(${issuer}, make_interval(secs => ${this.maxAgeMs / 1000}))`;
    const [keys] = await this.db.unscopedRead(query.compile(this.db.builder));
    return keys;
  }

  async remember(issuer: string, keys: IssuerKeys): Promise<void> {
    const last = this.written.get(issuer);
    const isFresh = last !== undefined && performance.now() - last.at < this.writeMs;
    if (isFresh && isDeepStrictEqual(last.keys, keys)) return;
    this.written.set(issuer, { keys, at: performance.now() });
    const query = sql`select remember_issuer_keys(${issuer}, ${keys.jwksUri}, ${JSON.stringify(keys.jwks)}::jsonb)`;
    try {
      await this.db.unscopedRead(query.compile(this.db.builder));
    } catch (error) {
      this.written.delete(issuer);
      this.options.onError?.(error);
    }
  }
}
