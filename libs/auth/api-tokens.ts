/**
 * From an API token to an actor. The database knows hashes only, and is asked once for a token: what it said is kept until
 * the token expires or something of its tenant's permissions changes (AccessDirectory hears of that), which a revoked
 * token, a disabled owner and a suspended tenant are. All that is asked at one time goes in one statement, one at a time,
 * and unknown tokens are remembered for a moment, so that who guesses keeps the database from nobody.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import type { AccessDirectory } from './access-directory.js';
import type { Actor, Role } from './actor.js';
import { hashOfApiToken, isApiToken } from './api-token-format.js';
import type { BearerVerifier } from './authenticator.js';
import { InvalidToken } from './bearer.js';
import { LruMap } from './lru-map.js';
import { parseScopes } from './scope.js';

export interface ApiTokensOptions {
  /** Tokens kept in memory, and as many unknown ones. Default 10,000. */
  maxCached?: number;
  /** How long an unknown token is refused without a look. Default 3000. */
  refusedMs?: number;
  /** How often the uses of tokens are written down. Default 60,000. */
  writeMs?: number;
  onError?: (error: unknown) => void;
}

interface TokenRow {
  hash: Buffer;
  tenant_id: string;
  id: string;
  name: string;
  tenant_state: string;
  /** Of the tenant's permissions, when the row was read. */
  epoch: number;
  subject: string;
  roles: string[];
  groups: string[];
  scopes: string[] | null;
  expires_at: Date;
}

interface Answer {
  row: TokenRow | undefined;
  /** What AccessDirectory had heard of before the row was read. */
  changes: number;
}

interface Known {
  actor: Actor;
  id: string;
  expiresAtMs: number;
  generation: number;
}

/** Hashes in one statement, and tokens that wait for one. */
const MAX_BATCH = 200;
const MAX_WAITING = 2_000;
/** No generation is this: the row is read again when the token comes again. */
const ALREADY_OLD = -1;

export class ApiTokens implements BearerVerifier {
  /** For metrics and tests: statements that were asked because of tokens. */
  lookups = 0;
  private readonly known: LruMap<string, Known>;
  private readonly refusedUntilMs: LruMap<string, number>;
  private readonly refusedMs: number;
  private readonly writeMs: number;
  private readonly onError: (error: unknown) => void;
  private readonly waiting = new Map<string, { hash: Buffer; answer: PromiseWithResolvers<Answer> }>();
  private asking = false;
  /** Ids by tenant that came since the last write. */
  private used = new Map<string, string>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly db: Database,
    private readonly access: AccessDirectory,
    options: ApiTokensOptions = {},
  ) {
    this.known = new LruMap(options.maxCached ?? 10_000);
    this.refusedUntilMs = new LruMap(options.maxCached ?? 10_000);
    this.refusedMs = options.refusedMs ?? 3_000;
    this.writeMs = options.writeMs ?? 60_000;
    this.onError = options.onError ?? (() => undefined);
  }

  /** Begins to write down when tokens were used; `stop` writes for the last time. */
  start(): void {
    this.timer ??= setInterval(() => void this.writeUses(), this.writeMs).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.timer = undefined;
    await this.writeUses();
  }

  /** Throws InvalidToken (401), or RhyzomeError `overloaded`, `database_unavailable`. */
  async verify(bearer: string): Promise<Actor> {
    if (!isApiToken(bearer)) throw unknown();
    const hash = hashOfApiToken(bearer);
    const key = hash.toString('base64');
    let known = this.recall(key);
    if (!known) {
      if ((this.refusedUntilMs.get(key) ?? 0) > Date.now()) throw unknown();
      known = await this.lookUp(key, hash);
    }
    if (known.expiresAtMs <= Date.now()) throw unknown();
    this.used.set(known.id, known.actor.tenantId);
    return known.actor;
  }

  private recall(key: string): Known | undefined {
    const known = this.known.get(key);
    return known && known.generation === this.access.generationOf(known.actor.tenantId) ? known : undefined;
  }

  private async lookUp(key: string, hash: Buffer): Promise<Known> {
    const { row, changes } = await this.ask(key, hash);
    if (!row) {
      this.known.delete(key);
      this.refusedUntilMs.set(key, Date.now() + this.refusedMs);
      throw unknown();
    }
    // Before the generation is asked: one that a later epoch makes is another.
    this.access.noteEpoch(row.tenant_id, row.epoch);
    if (row.tenant_state !== 'active') {
      this.known.delete(key);
      throw new InvalidToken('tenant_suspended', 'The tenant of this token is suspended.');
    }
    const isCurrent = changes === this.access.changes;
    const known: Known = {
      actor: actorOf(row),
      id: row.id,
      expiresAtMs: row.expires_at.getTime(),
      // Something changed while it was read: it may be older than that.
      generation: isCurrent ? this.access.generationOf(row.tenant_id) : ALREADY_OLD,
    };
    this.known.set(key, known);
    return known;
  }

  private ask(key: string, hash: Buffer): Promise<Answer> {
    const asked = this.waiting.get(key);
    if (asked) return asked.answer.promise;
    if (this.waiting.size >= MAX_WAITING) {
      throw new RhyzomeError('overloaded', 'Too many tokens are asked for at the moment; try again.', {
        retryAfterSeconds: 1,
      });
    }
    const answer = Promise.withResolvers<Answer>();
    this.waiting.set(key, { hash, answer });
    if (!this.asking) void this.askAll();
    return answer.promise;
  }

  /** One statement after the other, until nobody waits. */
  private async askAll(): Promise<void> {
    this.asking = true;
    while (this.waiting.size > 0) {
      const batch = [...this.waiting].slice(0, MAX_BATCH);
      const { changes } = this.access;
      try {
        const rows = await this.read(batch.map(([, { hash }]) => hash));
        const byKey = new Map(rows.map((row) => [row.hash.toString('base64'), row]));
        for (const [key, { answer }] of batch) answer.resolve({ row: byKey.get(key), changes });
      } catch (error) {
        for (const [, { answer }] of batch) answer.reject(error);
      } finally {
        // Until now, whoever asked for one of them joined.
        for (const [key] of batch) this.waiting.delete(key);
      }
    }
    this.asking = false;
  }

  private read(hashes: Buffer[]): Promise<TokenRow[]> {
    this.lookups += 1;
    const query = sql<TokenRow>`select * from api_tokens(${hashes}::bytea[])`;
    return this.db.unscopedRead(query.compile(this.db.builder));
  }

  private async writeUses(): Promise<void> {
    if (this.used.size === 0) return;
    const used = this.used;
    this.used = new Map();
    try {
      const query = sql`select note_api_tokens_used(${[...used.values()]}::text[], ${[...used.keys()]}::uuid[])`;
      await this.db.unscopedRead(query.compile(this.db.builder));
    } catch (error) {
      // It is told too late or not at all when they were used; nothing else depends on it.
      this.onError(error);
    }
  }
}

/** Unknown, revoked, expired or not well-formed: who has no token learns nothing about those that there are. */
const unknown = () => new InvalidToken('unknown_token', 'The API token is unknown, revoked or expired.');

function actorOf(row: TokenRow): Actor {
  return Object.freeze({
    tenantId: row.tenant_id,
    subject: row.subject,
    name: row.name,
    roles: Object.freeze(row.roles as Role[]),
    groups: Object.freeze(row.groups),
    scopes: row.scopes === null ? null : (parseScopes(row.scopes.join(' ')) ?? []),
    via: 'apitoken',
    tokenExpiresAt: row.expires_at,
  });
}
