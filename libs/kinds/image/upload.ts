/**
 * The receiving of an image's content, in pieces, by any replica: who may write (one at a time, under a lease in the
 * database), where the next piece begins (the size of the part file), when all has come. Knows no HTTP.
 */

import { sql } from 'kysely';
import { authorize } from '#libs/auth';
import { newId, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { lockSubject, wakeJobs } from '#libs/jobs';
import {
  auditDone,
  type Caller,
  coreOf,
  findResource,
  inTransaction,
  type KindDefinition,
  lockResource,
  perQuery,
} from '#libs/resources';
import { TooManyBytes } from '#libs/storage';
import { asStoreFailure, imageContents } from './contents.js';
import type { ImageRow } from './image.row.js';

/** What a request says of its body. */
export interface Piece {
  /** Undefined: the whole content, whatever has come before. */
  offset: number | undefined;
  /** Bytes of the body, where they are known. */
  length: number | undefined;
  /** Of the whole content, where it is known. */
  total: number | undefined;
}

export interface UploadState {
  offset: number;
  /** Of the whole content; undefined: nobody has said. */
  length: number | undefined;
  isComplete: boolean;
}

interface Writing {
  core: ResourceCore;
  operation: string;
  writer: string;
  offset: number;
  length: number | undefined;
  total: number | undefined;
}

const LEASE_MS = 20_000;
const RENEW_MS = 5_000;

export class ImageUploads {
  constructor(
    private readonly db: Database,
    private readonly kind: KindDefinition,
  ) {}

  /** How much has come. Throws RhyzomeError `not_found`, `conflict` (nothing is waited for and nothing has come). */
  async state(caller: Caller, idOrName: string): Promise<UploadState> {
    const { tenantId } = caller.actor;
    const scope = perQuery(this.db, tenantId);
    const row = (await findResource(scope, this.kind, idOrName)) as ImageRow | undefined;
    if (!row) throw notFound(this.kind.name, idOrName);
    authorize(caller.actor, 'read', { ...coreOf(row), isPublic: row.tenant_id !== tenantId }, idOrName);
    if (row.size_bytes !== null) return { offset: row.size_bytes, length: row.size_bytes, isComplete: true };
    const [upload] = await scope.rows(
      sql<{ operation: string; total: number | null; complete: boolean }>`
        select operation_id as operation, total_bytes as total, is_complete as complete from image_upload
        where tenant_id = ${tenantId} and image_id = ${row.id}`.compile(scope.builder),
    );
    if (!upload) throw notWaiting(row);
    return {
      offset: await imageContents().store.parts.size(upload.operation),
      length: upload.total ?? row.announced_size_bytes ?? undefined,
      isComplete: upload.complete,
    };
  }

  /**
   * Takes a piece in; what has come stays when it breaks off. Throws RhyzomeError `not_found`, `forbidden`, `conflict`,
   * `busy`, `wrong_offset` (with uploadOffset), `invalid`, `body_too_large`, `content_store_unavailable`.
   */
  async receive(
    caller: Caller,
    idOrName: string,
    piece: Piece,
    body: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ core: ResourceCore; state: UploadState }> {
    const { parts } = imageContents().store;
    const writing = await this.db.tenantTransaction(caller.actor.tenantId, (tx) =>
      this.begin(tx, caller, idOrName, piece),
    );
    const lease = this.keepLease(writing, signal);
    try {
      const before = await parts.size(writing.operation);
      if (piece.offset !== undefined && piece.offset !== before) throw wrongOffset(before, writing.total);
      const size = await this.write(writing, body, lease.mayGoOn);
      const state = stateAfter(writing, piece, size);
      await this.end(caller, writing, state);
      if (!state.isComplete) refuseFewer(writing, piece, size);
      return { core: writing.core, state };
    } catch (error) {
      await this.letGo(writing, await parts.size(writing.operation));
      throw asStoreFailure(error);
    } finally {
      lease.end();
    }
  }

  /** In one transaction: may it be written to, and by nobody else. */
  private async begin(tx: Tx, caller: Caller, idOrName: string, piece: Piece): Promise<Writing> {
    const { tenantId } = caller.actor;
    const found = await findResource(inTransaction(tx, tenantId), this.kind, idOrName);
    if (!found) throw notFound(this.kind.name, idOrName);
    authorize(caller.actor, 'upload', { ...coreOf(found), isPublic: found.tenant_id !== tenantId }, idOrName);
    const core = coreOf(found);
    const row = (await lockResource(tx, this.kind, core, 'no key update')) as ImageRow | undefined;
    if (!row) throw notFound(this.kind.name, idOrName);
    const result = await sql<{ operation: string; total: number | null; complete: boolean; busy: boolean }>`
      select operation_id as operation, total_bytes as total, is_complete as complete,
        coalesce(writer_until > now(), false) as busy
      from image_upload where tenant_id = ${tenantId} and image_id = ${core.id} for update`.execute(tx);
    const upload = result.rows[0];
    const isAwaited = row.state === 'pending' || row.state === 'provisioning';
    if (!upload || upload.complete || !isAwaited) throw notWaiting(row);
    if (upload.busy) {
      throw new RhyzomeError('busy', 'Another request is sending content for this image.', { retryAfterSeconds: 5 });
    }
    const known = row.announced_size_bytes ?? (piece.offset === undefined ? undefined : (upload.total ?? undefined));
    const total = totalOf(piece, known);
    const writer = newId();
    await sql`
      update image_upload set writer = ${writer}, writer_until = ${until()}, total_bytes = ${total ?? null},
        progressed_at = now()
      where tenant_id = ${tenantId} and image_id = ${core.id}`.execute(tx);
    return { core, operation: upload.operation, writer, offset: piece.offset ?? 0, length: piece.length, total };
  }

  private async write(writing: Writing, body: AsyncIterable<Uint8Array>, mayGoOn: () => void): Promise<number> {
    const { store, maxBytes } = imageContents();
    const { operation, offset, length, total } = writing;
    const most = length ?? (total === undefined ? maxBytes : total) - offset;
    try {
      return await store.parts.write(operation, offset, body, { maxBytes: most, mayGoOn });
    } catch (error) {
      if (!(error instanceof TooManyBytes)) throw error;
      await store.parts.cut(operation, offset);
      if (length === undefined && total === undefined) throw tooLarge(maxBytes);
      throw wrongLength(`The body has more than the ${most} bytes that were announced; none of it was kept.`);
    }
  }

  /** Renews the lease; `mayGoOn` throws as soon as it may be lost, or the signal aborted. */
  private keepLease(writing: Writing, signal: AbortSignal): { mayGoOn: () => void; end: () => void } {
    let heldUntil = performance.now() + LEASE_MS;
    let lost: unknown;
    const renew = async () => {
      const asked = performance.now();
      const size = await imageContents().store.parts.size(writing.operation);
      const isHeld = await this.db.tenantTransaction(writing.core.tenantId, (tx) => renewLease(tx, writing, size));
      if (isHeld) heldUntil = asked + LEASE_MS;
      else lost = cancelled();
    };
    const timer = setInterval(() => {
      // The database may be away for a while: the lease that is held counts, and then no more.
      renew().catch(() => undefined);
    }, RENEW_MS);
    const mayGoOn = () => {
      if (lost !== undefined) throw lost;
      if (signal.aborted) throw signal.reason;
      if (performance.now() > heldUntil)
        throw new RhyzomeError('database_unavailable', 'The database does not answer.');
    };
    return { mayGoOn, end: () => clearInterval(timer) };
  }

  private async end(caller: Caller, writing: Writing, state: UploadState): Promise<void> {
    const { core, operation, writer } = writing;
    await this.db.tenantTransaction(core.tenantId, async (tx) => {
      await lockSubject(tx, core.tenantId, core.id);
      const written = await sql`
        update image_upload set writer = null, writer_until = null, received_bytes = ${state.offset},
          total_bytes = ${state.length ?? null}, is_complete = ${state.isComplete}, progressed_at = now()
        where tenant_id = ${core.tenantId} and image_id = ${core.id} and operation_id = ${operation} and writer = ${writer}
        returning 1`.execute(tx);
      if (written.rows.length === 0) throw cancelled();
      if (!state.isComplete) return;
      await wakeJobs(tx, core.tenantId, [core.id]);
      await auditDone(tx, caller, 'upload', { kind: core.kind, resourceId: core.id, resourceName: core.name });
    });
  }

  /** After a failure; a lease that cannot be given back runs out. */
  private async letGo({ core, writer }: Writing, size: number): Promise<void> {
    const write = this.db.tenantTransaction(core.tenantId, (tx) =>
      sql`update image_upload set writer = null, writer_until = null, received_bytes = ${size},
          -- What was announced with a piece of which nothing was kept binds nobody.
          total_bytes = case when ${size}::bigint > 0 then total_bytes end
        where tenant_id = ${core.tenantId} and image_id = ${core.id} and writer = ${writer}`.execute(tx),
    );
    await write.catch(() => undefined);
  }
}

async function renewLease(tx: Tx, { core, writer }: Writing, size: number): Promise<boolean> {
  const renewed = await sql`
    update image_upload set writer_until = ${until()}, received_bytes = ${size},
      progressed_at = case when received_bytes < ${size} then now() else progressed_at end
    where tenant_id = ${core.tenantId} and image_id = ${core.id} and writer = ${writer} returning 1`.execute(tx);
  return renewed.rows.length > 0;
}

const until = () => sql`now() + make_interval(secs => ${LEASE_MS / 1000})`;

/** The size of the whole, once all who speak of it agree. Throws RhyzomeError `invalid`, `body_too_large`. */
function totalOf(piece: Piece, known: number | undefined): number | undefined {
  const total = piece.total ?? known;
  const { maxBytes } = imageContents();
  if (total !== undefined && total > maxBytes) throw tooLarge(maxBytes);
  if (known !== undefined && piece.total !== undefined && piece.total !== known) {
    throw wrongLength(`The content has ${piece.total} bytes here, and ${known} were announced.`);
  }
  const end = (piece.offset ?? 0) + (piece.length ?? 0);
  if (total === undefined && piece.offset !== undefined) {
    throw wrongLength('Say how many bytes the whole content has: Content-Range: bytes first-last/total.');
  }
  if (total !== undefined && end > total)
    throw wrongLength(`The piece ends beyond the ${total} bytes that were announced.`);
  return total;
}

function stateAfter(writing: Writing, piece: Piece, size: number): UploadState {
  const length = writing.total ?? (piece.offset === undefined ? size : undefined);
  return { offset: size, length, isComplete: length !== undefined && size === length };
}

/** What ended well with fewer bytes than it said; those that came are kept. */
function refuseFewer(writing: Writing, piece: Piece, size: number): void {
  const expected = piece.offset === undefined ? writing.total : writing.offset + (piece.length ?? 0);
  if (expected === undefined || size >= expected) return;
  throw wrongLength(`The body ended after ${size} bytes of ${expected}; send the rest from there on.`, {
    uploadOffset: size,
  });
}

function wrongOffset(offset: number, total: number | undefined): RhyzomeError {
  return new RhyzomeError('wrong_offset', `${offset} bytes have arrived; the next piece begins there.`, {
    errors: [{ header: 'Content-Range', code: 'wrong_offset', message: `must begin at ${offset}` }],
    extensions: { uploadOffset: offset, ...(total !== undefined && { uploadLength: total }) },
  });
}

function wrongLength(message: string, extensions?: Record<string, unknown>): RhyzomeError {
  return new RhyzomeError('invalid', message, {
    errors: [{ header: 'Content-Length', code: 'wrong_length', message }],
    extensions,
  });
}

function tooLarge(maxBytes: number): RhyzomeError {
  return new RhyzomeError('body_too_large', `An image may have at most ${maxBytes} bytes.`);
}

function cancelled(): RhyzomeError {
  return new RhyzomeError(
    'conflict',
    'The image does not wait for content any more; it was cancelled or removed meanwhile.',
  );
}

function notWaiting(row: ImageRow): RhyzomeError {
  const hint = row.state === 'failed' ? ' It has failed: retry its job, then send the content again.' : '';
  return new RhyzomeError('conflict', `The image “${row.name}” does not wait for content.${hint}`);
}
