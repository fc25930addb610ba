/**
 * Global images, as the administrator brings them in: content first, then the row, so that a row never lacks its content.
 * A crash in between leaves content without a row, which `sweepContents` removes. Rows and contents are kept true to each
 * other by one advisory lock. Functions with `tx` work in the caller's transaction, which spans tenants.
 */
import { sql } from 'kysely';
import {
  type Blocker,
  isName,
  isUuid,
  nameRule,
  newId,
  printable,
  RhyzomeError,
  SYSTEM_TENANT,
  type Tags,
  tagProblems,
} from '#libs/core';
import type { Tx } from '#libs/db';
import type { ContentStore, InspectedImage, StoredContent } from '#libs/storage';
import { lockContent, removeContentIfUnused } from './collecting.js';
import { osInfoFindings } from './image.dto.js';
import { PLACEHOLDER_SHA256 } from './placeholder.js';

export interface GlobalImage {
  id: string;
  name: string;
  tags: Tags;
  state: string;
  format: 'qcow2' | 'raw';
  sizeBytes: number;
  virtualSizeBytes: number;
  sha256: string;
  osInfo: Record<string, string>;
  /** True: nothing that boots; for the sim driver. */
  placeholder: boolean;
  createdAt: Date;
  updatedAt: Date;
  createdBy: string;
}

export interface ImageImport {
  name: string;
  tags?: Tags;
  osInfo?: Record<string, string>;
  content: StoredContent & Pick<InspectedImage, 'format' | 'virtualSizeBytes'>;
  /** Puts this content in the place of another one under the same name. */
  replace?: boolean;
  createdBy: string;
}

const MAX_BLOCKERS = 20;

type ImageRow = Omit<GlobalImage, 'placeholder'>;

const selectImage = sql<ImageRow>`
  select r.id, r.name, r.tags, r.state, k.format, k.size_bytes as "sizeBytes", k.virtual_size_bytes as "virtualSizeBytes",
    k.sha256, k.os_info as "osInfo", r.created_at as "createdAt", r.updated_at as "updatedAt", r.created_by as "createdBy"
  from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
  where r.tenant_id = ${SYSTEM_TENANT} and r.kind = 'image'`;

const withPlaceholder = (row: ImageRow): GlobalImage => ({ ...row, placeholder: row.sha256 === PLACEHOLDER_SHA256 });

export async function listGlobalImages(tx: Tx): Promise<GlobalImage[]> {
  return (await sql<ImageRow>`${selectImage} order by r.name`.execute(tx)).rows.map(withPlaceholder);
}

/** By id or name. Throws RhyzomeError `not_found`. */
export async function findGlobalImage(tx: Tx, idOrName: string): Promise<GlobalImage> {
  const found = await maybeImage(tx, idOrName);
  if (!found) throw noImage(idOrName);
  return found;
}

/** What is wrong with a name, tags and further information; throws RhyzomeError `invalid`. Before content is copied. */
export function checkImageImport(asked: Pick<ImageImport, 'name' | 'tags' | 'osInfo'>): void {
  const problems: { pointer: string; message: string }[] = [];
  if (!isName(asked.name)) problems.push({ pointer: '/name', message: nameRule });
  for (const { message } of tagProblems(asked.tags ?? {})) problems.push({ pointer: '/tags', message });
  for (const { pointer = '', message } of osInfoFindings(asked.osInfo))
    problems.push({ pointer: `/osInfo${pointer}`, message });
  const [first] = problems;
  if (!first) return;
  throw new RhyzomeError('invalid', `${first.pointer}: ${first.message}`, {
    errors: problems.map((problem) => ({ ...problem, code: 'invalid_format' })),
  });
}

/**
 * Makes the row of a content that is in the store. The same name and content again change tags and osInfo where these are
 * given, and nothing else. Throws RhyzomeError `name_taken`, `in_use` (replacing what instances use), and `conflict` when
 * the content is gone again.
 */
export async function addGlobalImage(
  tx: Tx,
  store: ContentStore,
  asked: ImageImport,
): Promise<{ image: GlobalImage; outcome: 'created' | 'changed' | 'unchanged'; replaced?: string }> {
  checkImageImport(asked);
  await oneAtATime(tx);
  await lockContent(tx, asked.content.sha256);
  if (!(await store.has(asked.content.sha256)))
    throw new RhyzomeError('conflict', 'The content was removed by somebody else meanwhile; import it again.');
  const before = await maybeImage(tx, asked.name);
  if (!before) {
    await insertImage(tx, asked);
    return { image: await findGlobalImage(tx, asked.name), outcome: 'created' };
  }
  const isOther = before.sha256 !== asked.content.sha256;
  if (isOther && !asked.replace)
    throw new RhyzomeError(
      'name_taken',
      `There is an image ${asked.name} with other content (sha256 ${before.sha256}). --replace puts this one in its place.`,
    );
  if (isOther) await refuseWhileUsed(tx, before);
  const isSame = (a: object, b?: object) => b === undefined || JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
  if (!isOther && isSame(before.tags, asked.tags) && isSame(before.osInfo, asked.osInfo))
    return { image: before, outcome: 'unchanged' };
  await changeImage(tx, before.id, asked);
  const image = await findGlobalImage(tx, asked.name);
  return { image, outcome: 'changed', ...(isOther && { replaced: before.sha256 }) };
}

/** Takes the row away; the content goes by `removeContentIfUnused` once that is committed. Throws `not_found`, `in_use`. */
export async function removeGlobalImage(tx: Tx, idOrName: string): Promise<GlobalImage> {
  await oneAtATime(tx);
  const found = await findGlobalImage(tx, idOrName);
  await refuseWhileUsed(tx, found);
  await tx.deleteFrom('resource').where('tenant_id', '=', SYSTEM_TENANT).where('id', '=', found.id).execute();
  return found;
}

/** Removes what crashed imports left: contents without an image that are older than `olderThanMs`. */
export async function sweepContents(tx: Tx, store: ContentStore, olderThanMs: number): Promise<StoredContent[]> {
  const removed: StoredContent[] = [];
  for await (const { sha256, sizeBytes, storedAt } of store.list()) {
    if (Date.now() - storedAt.getTime() < olderThanMs) continue;
    if (await removeContentIfUnused(tx, store, sha256)) removed.push({ sha256, sizeBytes });
  }
  return removed;
}

/** Until the transaction ends, no other administrator adds or removes a global image. */
async function oneAtATime(tx: Tx): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended('rhyzome.image-contents', 0))`.execute(tx);
}

async function maybeImage(tx: Tx, idOrName: string): Promise<GlobalImage | undefined> {
  const which = isUuid(idOrName) ? sql`r.id = ${idOrName}` : sql`r.name = ${idOrName}`;
  const [row] = (await sql<ImageRow>`${selectImage} and ${which}`.execute(tx)).rows;
  return row && withPlaceholder(row);
}

async function insertImage(tx: Tx, asked: ImageImport): Promise<void> {
  const id = newId();
  const ready = {
    type: 'Ready',
    status: 'true',
    reason: 'Ready',
    message: '',
    lastTransitionTime: new Date().toISOString(),
    observedGeneration: 1,
  };
  await tx
    .insertInto('resource')
    .values({
      tenant_id: SYSTEM_TENANT,
      id,
      kind: 'image',
      name: asked.name,
      tags: JSON.stringify(asked.tags ?? {}),
      state: 'ready',
      conditions: JSON.stringify([ready]),
      observed_generation: 1,
      created_by: asked.createdBy,
    })
    .execute();
  await tx
    .insertInto('image')
    .values({
      tenant_id: SYSTEM_TENANT,
      id,
      visibility: 'global',
      ...contentColumns(asked),
      os_info: JSON.stringify(asked.osInfo ?? {}),
    })
    .execute();
}

async function changeImage(tx: Tx, id: string, asked: ImageImport): Promise<void> {
  await tx
    .updateTable('image')
    .set({ ...contentColumns(asked), ...(asked.osInfo && { os_info: JSON.stringify(asked.osInfo) }) })
    .where('tenant_id', '=', SYSTEM_TENANT)
    .where('id', '=', id)
    .execute();
  await tx
    .updateTable('resource')
    .set((eb) => ({
      ...(asked.tags && { tags: JSON.stringify(asked.tags) }),
      generation: eb('generation', '+', 1),
      observed_generation: eb('generation', '+', 1),
    }))
    .where('tenant_id', '=', SYSTEM_TENANT)
    .where('id', '=', id)
    .execute();
}

function contentColumns({ content }: ImageImport) {
  return {
    format: content.format,
    size_bytes: content.sizeBytes,
    virtual_size_bytes: content.virtualSizeBytes,
    sha256: content.sha256,
  };
}

/** Locks the image, so that nothing that is being made can come to use it, and refuses if one does. */
async function refuseWhileUsed(tx: Tx, image: GlobalImage): Promise<void> {
  await sql`select 1 from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${SYSTEM_TENANT} and r.id = ${image.id} for update`.execute(tx);
  const { rows: users } = await sql<Blocker & { tenant: string; total: number }>`
    select r.kind, r.id, r.name, d.relation, r.tenant_id as tenant, count(*) over () as total
    from (
      select tenant_id, resource_id, min(relation) as relation from dependency
      where target_tenant_id = ${SYSTEM_TENANT} and target_id = ${image.id} group by tenant_id, resource_id) d
    join resource r on r.tenant_id = d.tenant_id and r.id = d.resource_id
    order by r.tenant_id, r.name limit ${MAX_BLOCKERS}`.execute(tx);
  const total = users[0]?.total ?? 0;
  if (total === 0) return;
  const named = users.map((user) => `\n  ${user.kind} ${user.name} of tenant ${user.tenant} (${user.id})`).join('');
  const more = total - users.length;
  throw new RhyzomeError(
    'in_use',
    `The image ${image.name} is in use:${named}${more > 0 ? `\n  and ${more} more` : ''}`,
    { blockers: users.map(({ total: _total, ...blocker }) => blocker), extensions: { more } },
  );
}

function sorted(object: object): [string, unknown][] {
  return Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1));
}

function noImage(idOrName: string): RhyzomeError {
  return new RhyzomeError(
    'not_found',
    `There is no global image “${printable(idOrName)}”. \`rhyzome image list\` names them.`,
  );
}
