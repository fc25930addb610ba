/**
 * When a content goes: when no image and no disk, also none that was deleted and can be had back, names it any more. One
 * advisory lock a content keeps that true: whoever removes it holds it alone, whoever comes to name it shares it until that
 * is committed. A grace period covers what lies in the store before its row is written.
 */
import { sql } from 'kysely';
import { Doorbell, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Database, Listener, Tx } from '#libs/db';
import type { ContentStore, StoredContent } from '#libs/storage';

export interface CollectingLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** Older than that is what nobody will name any more. */
const GRACE_MS = 15 * 60_000;
const PART_GRACE_MS = 60 * 60_000;
const LOOK_MS = 5 * 60_000;
/** However often somebody removes something. */
const LEAST_MS = 5_000;
const BATCH = 200;

/** Until the transaction ends, nobody else names or removes this content. */
export async function lockContent(tx: Tx, sha256: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.content.${sha256}`}, 0))`.execute(tx);
}

/**
 * For whoever makes something of an image: of another tenant's, which no dependency holds, the content is not removed until
 * the transaction ends. Throws RhyzomeError `conflict` when the image was withdrawn or removed just now.
 */
export async function holdLentContent(
  tx: Tx,
  tenantId: string,
  image: { tenantId: string; id: string; sha256: string },
): Promise<void> {
  if (image.tenantId === tenantId || image.tenantId === SYSTEM_TENANT) return;
  await sql`select pg_advisory_xact_lock_shared(hashtextextended(${`rhyzome.content.${image.sha256}`}, 0))`.execute(tx);
  const found = await sql`
    select 1 from image where tenant_id = ${image.tenantId} and id = ${image.id} and sha256 = ${image.sha256}`.execute(
    tx,
  );
  if (found.rows.length === 0) throw new RhyzomeError('conflict', 'The image was withdrawn just now; take another.');
}

/** Those of these contents that something names. As operator. */
async function namedContents(tx: Tx | Database['operator'], digests: readonly string[]): Promise<Set<string>> {
  const wanted = [...digests];
  const result = await sql<{ sha256: string }>`
    select sha256 from image where sha256 = any(${wanted}::text[])
    union select image_sha256 from disk where image_sha256 = any(${wanted}::text[])
    union select image_sha256 from deleted_disk where image_sha256 = any(${wanted}::text[])`.execute(tx);
  return new Set(result.rows.map(({ sha256 }) => sha256));
}

/** Removes a content that nothing names, in a transaction that spans tenants; true if it did. */
export async function removeContentIfUnused(tx: Tx, store: ContentStore, sha256: string): Promise<boolean> {
  await lockContent(tx, sha256);
  if ((await namedContents(tx, [sha256])).has(sha256) || !(await store.has(sha256))) return false;
  await store.remove(sha256);
  return true;
}

/** Removes contents that nothing names and that are older than the grace period; returns them. */
export async function collectContents(
  db: Database,
  store: ContentStore,
  graceMs: number = GRACE_MS,
): Promise<StoredContent[]> {
  const removed: StoredContent[] = [];
  let batch: StoredContent[] = [];
  const flush = async () => {
    const named =
      batch.length > 0
        ? await namedContents(
            db.operator,
            batch.map(({ sha256 }) => sha256),
          )
        : new Set();
    for (const content of batch.filter(({ sha256 }) => !named.has(sha256))) {
      const isGone = await db.operatorTransaction((tx) => removeIfOld(tx, store, content.sha256, graceMs));
      if (isGone) removed.push(content);
    }
    batch = [];
  };
  for await (const { sha256, sizeBytes, storedAt } of store.list()) {
    if (Date.now() - storedAt.getTime() < graceMs) continue;
    batch.push({ sha256, sizeBytes });
    if (batch.length === BATCH) await flush();
  }
  await flush();
  return removed;
}

/** Its age again under the lock: somebody may have taken the same content in just now. */
async function removeIfOld(tx: Tx, store: ContentStore, sha256: string, graceMs: number): Promise<boolean> {
  await lockContent(tx, sha256);
  const storedAt = await store.storedAt(sha256);
  if (!storedAt || Date.now() - storedAt.getTime() < graceMs) return false;
  return removeContentIfUnused(tx, store, sha256);
}

/** Removes parts of tries that are over; returns how many. */
export async function collectParts(
  db: Database,
  store: ContentStore,
  graceMs: number = PART_GRACE_MS,
): Promise<number> {
  return store.parts.sweep(graceMs, async (ids) => {
    const result = await sql<{ id: string }>`
      select operation_id as id from image where operation_id = any(${ids}::uuid[])`.execute(db.operator);
    return new Set(result.rows.map(({ id }) => id));
  });
}

/** Collects from time to time, and soon after something was removed. Any number of processes may do so. */
export class ContentCollector {
  private readonly bell = new Doorbell();
  private readonly off: () => void;
  private closed = false;
  private readonly running: Promise<void>;

  constructor(
    private readonly db: Database,
    listener: Listener,
    private readonly store: ContentStore,
    private readonly log: CollectingLog,
    private readonly graceMs: number = GRACE_MS,
  ) {
    this.off = listener.on('rhyzome_content', this.bell.ring);
    this.running = this.run();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.off();
    this.bell.ring();
    await this.running;
  }

  private async run(): Promise<void> {
    while (!this.closed) {
      try {
        const contents = await collectContents(this.db, this.store, this.graceMs);
        for (const content of contents) this.log.info(content, 'a content that nothing names was removed');
        const parts = await collectParts(this.db, this.store);
        if (parts > 0) this.log.info({ parts }, 'parts that nobody finishes were removed');
      } catch (error) {
        this.log.warn({ err: error }, 'looking for contents that nothing names failed; it is tried again');
      }
      await this.pause();
    }
  }

  private async pause(): Promise<void> {
    const least = Date.now() + LEAST_MS;
    if (!this.closed) await this.bell.wait(LOOK_MS);
    while (!this.closed && Date.now() < least) await this.bell.wait(least - Date.now());
  }
}
