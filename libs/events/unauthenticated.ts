/**
 * Counts refusals of callers that nobody could be held to (no valid token, a certificate without rights), for the
 * operators. Counted in memory per reason, address and claimed issuer, and written together every few seconds: a flood
 * costs one small statement, bounded memory and bounded rows. What was not written yet is lost when the process dies.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';

export interface Unauthenticated {
  /** Why; a word, not a sentence. */
  reason: string;
  /** Address that it came from. */
  source?: string;
  /** What the token says of who made it, or `service:NAME` of a certificate. Not verified. */
  issuer?: string;
  /** GET, …; gRPC. */
  method: string;
  /** The route's template, or the gRPC method; never what was put into it. */
  path?: string;
  requestId?: string;
}

interface Entry {
  reason: string;
  source: string;
  issuer: string;
  method: string;
  path: string;
  request_id: string;
  first_at: string;
  last_at: string;
  count: number;
}

const EVERY_MS = 5_000;
/** Further ones between two writes are counted together, by their reason. */
const MAX_ENTRIES = 500;

export class UnauthenticatedLog {
  private entries = new Map<string, Entry>();
  private readonly timer: NodeJS.Timeout;
  private writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly db: Database,
    private readonly log: { warn(fields: object, message: string): void },
    everyMs = EVERY_MS,
  ) {
    this.timer = setInterval(() => void this.flush(), everyMs).unref();
  }

  tell(refusal: Unauthenticated): void {
    const reason = short(refusal.reason, 64);
    const source = short(refusal.source, 64);
    const issuer = short(refusal.issuer, 255);
    const now = new Date().toISOString();
    const key = JSON.stringify([reason, source, issuer]);
    const entry =
      this.entries.get(key) ??
      (this.entries.size < MAX_ENTRIES ? this.begin(key, reason, source, issuer, now) : this.overflow(reason, now));
    entry.count += 1;
    entry.last_at = now;
    entry.method = short(refusal.method, 64);
    entry.path = short(refusal.path, 255);
    entry.request_id = short(refusal.requestId, 128);
  }

  private overflow(reason: string, now: string): Entry {
    const key = JSON.stringify([reason, '', '']);
    return this.entries.get(key) ?? this.begin(key, reason, '', '', now);
  }

  private begin(key: string, reason: string, source: string, issuer: string, now: string): Entry {
    const entry = {
      reason,
      source,
      issuer,
      method: '',
      path: '',
      request_id: '',
      first_at: now,
      last_at: now,
      count: 0,
    };
    this.entries.set(key, entry);
    return entry;
  }

  /** Writes what was counted; what cannot be written now is counted on. Never rejects. */
  flush(): Promise<void> {
    this.writing = this.writing.then(() => this.write());
    return this.writing;
  }

  private async write(): Promise<void> {
    if (this.entries.size === 0) return;
    const taken = this.entries;
    this.entries = new Map();
    try {
      const rows = JSON.stringify([...taken.values()]);
      await this.db.unscopedRead(sql`select tell_unauthenticated(${rows}::jsonb)`.compile(this.db.builder));
    } catch (error) {
      const isAway = error instanceof RhyzomeError && error.code === 'database_unavailable';
      if (!isAway) this.log.warn({ err: error }, 'writing down unauthenticated requests failed; it is tried again');
      this.takeBack(taken);
    }
  }

  /** Counts on what could not be written, together with what came since. */
  private takeBack(taken: Map<string, Entry>): void {
    const since = this.entries;
    this.entries = taken;
    for (const [key, entry] of since) {
      const known =
        taken.get(key) ?? (taken.size < MAX_ENTRIES ? undefined : this.overflow(entry.reason, entry.first_at));
      if (!known) taken.set(key, entry);
      else {
        const { method, path, request_id, last_at } = entry;
        Object.assign(known, { method, path, request_id, last_at, count: known.count + entry.count });
      }
    }
  }

  /** Writes what is left. */
  async close(): Promise<void> {
    clearInterval(this.timer);
    await this.flush();
  }
}

function short(text: string | undefined, length: number): string {
  return (text ?? '').replaceAll(/[^\x20-\x7e]/g, '?').slice(0, length);
}
