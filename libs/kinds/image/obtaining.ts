/**
 * How the content of an image comes to be there: awaited, fetched or asked of a node; then checked; then taken into the
 * store. Each try has an operation id of its own that names its part file, and its deed where a node is asked.
 */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { askDeed, probeDeed } from '#libs/nodes';
import type { Job } from '#libs/resources';
import { download, inspectImage } from '#libs/storage';
import { lockContent } from './collecting.js';
import { asStoreFailure, imageContents } from './contents.js';
import type { ImageRow } from './image.row.js';

/** What a content turned out to be. */
interface CheckedContent {
  sha256: string;
  sizeBytes: number;
  format: 'qcow2' | 'raw';
  virtualSizeBytes: number;
}

/** An upload that nothing comes of for so long is given up. */
const ABANDONED_HOURS = 24;
const INSPECT_MS = 60_000;
/** Nothing more has come of a content that is fetched; a node that makes one has more to do before the first byte. */
const FETCH_STALL_MS = 10 * 60_000;
const EXPORT_STALL_MS = 60 * 60_000;
/** Reading the largest image that may be, from slow shared storage. */
const CHECK_MS = 2 * 3_600_000;

/** The work of a create. */
export async function obtainContent(core: ResourceCore, row: ImageRow, job: Job<Tx>): Promise<void> {
  job.plan(4);
  if (row.source === 'upload') await awaitUpload(core, row, job);
  else if (row.source === 'url') await fetchContent(row, job);
  else await askNode(core, row, job);
  const checked = await job.step('check the content', {
    message: 'checking the content',
    deadlineMs: CHECK_MS,
    outside: (signal) => checkContent(row, signal),
    act: async (_, found) => found,
  });
  await storeContent(core, row, checked, job);
}

/** Throws away what has come; a try that was stored has nothing any more. */
async function dropPart(row: ImageRow): Promise<void> {
  if (row.operation_id !== null) await imageContents().store.parts.remove(row.operation_id);
}

async function awaitUpload(core: ResourceCore, row: ImageRow, job: Job<Tx>): Promise<void> {
  await job.step('open for content', {
    message: `PUT the content to /v1/images/${core.id}/content`,
    act: async () => undefined,
    undo: async (tx) => {
      await tx
        .deleteFrom('image_upload')
        .where('tenant_id', '=', core.tenantId)
        .where('image_id', '=', core.id)
        .execute();
      await dropPart(row);
    },
  });
  const waiting = { message: 'the content has arrived', alarm: false } as const;
  await job.wait('content arrives', (tx) => probeUpload(tx, core), waiting);
}

async function probeUpload(tx: Tx, core: ResourceCore): Promise<number | Waiting> {
  const result = await sql<{ received: number; total: number | null; complete: boolean; abandoned: boolean }>`
    select received_bytes as received, total_bytes as total, is_complete as complete,
      progressed_at < now() - make_interval(hours => ${ABANDONED_HOURS}) as abandoned
    from image_upload where tenant_id = ${core.tenantId} and image_id = ${core.id}`.execute(tx);
  const upload = result.rows[0];
  if (upload?.complete) return upload.received;
  if (!upload || upload.abandoned) {
    throw new RhyzomeError(
      'upload_abandoned',
      `No content has come for ${ABANDONED_HOURS} hours. What had come was thrown away; retry the job, then send it again.`,
    );
  }
  const so = upload.received > 0 ? ` ${upload.received} of ${upload.total ?? 'unknown'} bytes have arrived.` : '';
  return new Waiting(`Waiting for the content: PUT it to /v1/images/${core.id}/content.${so}`, true);
}

async function fetchContent(row: ImageRow, job: Job<Tx>): Promise<void> {
  await job.step('fetch the content', {
    message: 'fetching the content',
    deadlineMs: FETCH_STALL_MS,
    progress: () => sizeOfPart(row),
    outside: async (signal) => {
      const { guard, store, maxBytes } = imageContents();
      const most = Math.min(maxBytes, row.announced_size_bytes ?? maxBytes);
      await download(guard, store.parts, row.operation_id!, row.source_url!, { maxBytes: most, signal });
    },
    act: async () => undefined,
    undo: () => dropPart(row),
  });
}

/** The node of the snapshot brings it, as a disk that stands alone, into the part of this try (NodeService.PutContent). */
async function askNode(core: ResourceCore, row: ImageRow, job: Job<Tx>): Promise<void> {
  const { tenantId } = core;
  const operation = row.operation_id!;
  await job.step('ask the node for the content', {
    message: 'the node copies the snapshot',
    act: async (tx) => {
      const snapshot = { tenantId, kind: 'snapshot', id: row.source_snapshot_id!, name: '', tags: {} };
      const nodeId = await nodeOf(tx, snapshot);
      const exported = { id: operation, nodeId, verb: 'export', arguments: { operationId: operation } };
      await askDeed(tx, snapshot, { ...exported, repeatable: true, askedBy: core.id });
    },
    undo: async (tx) => {
      // Also one that is done: what it brought goes, so it would have to be asked for again.
      if (operation !== null)
        await tx.deleteFrom('deed').where('tenant_id', '=', tenantId).where('id', '=', operation).execute();
      await dropPart(row);
    },
  });
  const probe = async (tx: Tx) => {
    const answer = await probeDeed(tx, core, operation);
    if (!(answer instanceof Waiting)) return 'arrived';
    const bytes = await sizeOfPart(row);
    return answer.outside || bytes === 0 ? answer : new Waiting(`${bytes} bytes of the content have arrived.`);
  };
  await job.wait('content arrives', probe, { deadlineMs: EXPORT_STALL_MS, tellsProgress: true });
}

/** How much of the content has come. */
async function sizeOfPart(row: ImageRow): Promise<number> {
  return imageContents().store.parts.size(row.operation_id!);
}

async function nodeOf(tx: Tx, snapshot: ResourceCore): Promise<string> {
  const result = await sql<{ node_id: string }>`
    select node_id from placement
    where tenant_id = ${snapshot.tenantId} and resource_id = ${snapshot.id} and present limit 1`.execute(tx);
  const node = result.rows[0]?.node_id;
  if (!node) throw new RhyzomeError('job_failed', 'The snapshot is on no node any more.');
  return node;
}

/** What it is, decided from the bytes. Throws RhyzomeError `checksum_mismatch`, `image_refused`, `job_failed`. */
async function checkContent(row: ImageRow, signal: AbortSignal): Promise<CheckedContent> {
  const { store, partPath, maxVirtualBytes } = imageContents();
  const operation = row.operation_id!;
  try {
    // A node may hold a second call open and go on writing into what was found to be right.
    if (row.source === 'snapshot') await store.parts.seal(operation);
    const { sha256, sizeBytes } = await store.parts.digest(operation, signal);
    if (row.announced_size_bytes !== null && sizeBytes !== row.announced_size_bytes) {
      throw mismatch(`has ${sizeBytes} bytes and not ${row.announced_size_bytes}`);
    }
    if (row.announced_sha256 !== null && sha256 !== row.announced_sha256) {
      throw mismatch(`has the sha256 ${sha256} and not ${row.announced_sha256}`, { sha256 });
    }
    const { format, virtualSizeBytes } = await inspectImage(partPath(operation), {
      maxVirtualSizeBytes: maxVirtualBytes,
      isRawElse: true,
      timeoutMs: INSPECT_MS,
      ...(row.announced_format === 'raw' && { format: 'raw' as const }),
    });
    if (row.announced_format !== null && format !== row.announced_format) {
      throw mismatch(`is ${format} and not ${row.announced_format}`);
    }
    return { sha256, sizeBytes, format, virtualSizeBytes };
  } catch (error) {
    if (error instanceof RhyzomeError && error.code === 'not_found') {
      throw new RhyzomeError('job_failed', 'The content that was said to be there is not. Retry the job.', {
        cause: error,
      });
    }
    throw asStoreFailure(error);
  }
}

function mismatch(what: string, extensions?: Record<string, unknown>): RhyzomeError {
  const message = `The content ${what}. It was thrown away; retry the job with the right one.`;
  return new RhyzomeError('checksum_mismatch', message, { extensions });
}

/** Row and content become true together; nobody collects the content meanwhile. */
async function storeContent(core: ResourceCore, row: ImageRow, content: CheckedContent, job: Job<Tx>): Promise<void> {
  const write = (tx: Tx, changes: object) =>
    tx.updateTable('image').set(changes).where('tenant_id', '=', core.tenantId).where('id', '=', core.id).execute();
  await job.step('take the content into the store', {
    act: async (tx) => {
      await lockContent(tx, content.sha256);
      await imageContents().store.adopt(imageContents().partPath(row.operation_id!), content.sha256);
      await write(tx, {
        sha256: content.sha256,
        size_bytes: content.sizeBytes,
        virtual_size_bytes: content.virtualSizeBytes,
        format: content.format,
        source_url: null,
        operation_id: null,
      });
      await tx
        .deleteFrom('image_upload')
        .where('tenant_id', '=', core.tenantId)
        .where('image_id', '=', core.id)
        .execute();
    },
    undo: async (tx) => {
      await write(tx, { sha256: null, size_bytes: null, virtual_size_bytes: null, format: null });
    },
  });
}
