/**
 * Kind image. A tenant's image is a row first; its content is uploaded, fetched or brought by a node, and checked, by the
 * job of the create (obtaining.ts). Global images are the administrators' (import.ts). Publishing is a change of the row.
 */
import { sql } from 'kysely';
import { type FieldError, isName, isUuid, newId, type ResourceCore, RhyzomeError } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import {
  addEdges,
  type Claim,
  type CoreDocument,
  dropEdges,
  type Job,
  type Referenced,
  RowResource,
  referencedColumn,
  usable,
} from '#libs/resources';
import { imageContents } from './contents.js';
import type { ImageDocument, ImageRow } from './image.row.js';
import { obtainContent } from './obtaining.js';

export class ImageResource extends RowResource<ImageDocument, ImageRow> {
  private snapshotId: string | undefined;

  get hasContent(): boolean {
    return (this.row?.sha256 ?? null) !== null;
  }

  protected documentOf(row: ImageRow): Omit<ImageDocument, keyof CoreDocument> {
    return { osInfo: row.os_info, visibility: row.visibility };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return [];
    const { sourceUrl, snapshot, sha256, sizeBytes, format } = this.asked;
    const errors: FieldError[] = [];
    const refuse = (pointer: string, code: string, message: string) => errors.push({ pointer, code, message });
    if (sourceUrl !== undefined && snapshot !== undefined)
      refuse('/snapshot', 'invalid_value', 'is one source too many');
    if (sourceUrl !== undefined && sha256 === undefined) refuse('/sha256', 'required', 'is required with sourceUrl');
    const { maxBytes, guard } = imageContents();
    if (sizeBytes !== undefined && sizeBytes > maxBytes)
      refuse('/sizeBytes', 'out_of_range', `must be at most ${maxBytes}`);
    if (sourceUrl !== undefined && !guard.mayBeOpen(new URL(sourceUrl))) {
      refuse('/sourceUrl', 'source_refused', 'is at an address or port that nothing is fetched from');
    }
    if (snapshot === undefined) return errors;
    for (const [name, value] of Object.entries({ sha256, sizeBytes, format })) {
      if (value !== undefined)
        refuse(`/${name}`, 'invalid_value', 'is found out when the image is made from a snapshot');
    }
    this.snapshotId = await this.findSnapshot(snapshot);
    if (this.snapshotId === undefined) refuse('/snapshot', 'not_found', 'is no snapshot that you may use');
    return errors;
  }

  private async findSnapshot(reference: string): Promise<string | undefined> {
    if (!isUuid(reference) && !isName(reference)) return undefined;
    const which = isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`;
    const rows = await this.scope.rows(
      sql<{ id: string } & Referenced>`
        select r.id, ${referencedColumn} from resource r where r.tenant_id = ${this.scope.tenantId} and r.kind = 'snapshot'
          and r.state not in ('deleting', 'failed', 'pending', 'provisioning') and ${which}`.compile(
        this.scope.builder,
      ),
    );
    return usable(this.scope, rows)[0]?.id;
  }

  async claim(tx: Tx, claim: Claim<ImageDocument>): Promise<void> {
    if (claim.action === 'update') return this.claimUpdate(tx);
    const { tenantId, id } = this.core;
    const operation = newId();
    const source = claim.isRetry ? this.row!.source : this.sourceAsked();
    const snapshotId = claim.isRetry ? this.row!.source_snapshot_id : (this.snapshotId ?? null);
    if (snapshotId !== null) await this.needSnapshot(tx, snapshotId);
    if (claim.isRetry) {
      await tx
        .updateTable('image')
        .set({ operation_id: operation })
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
    } else await this.insert(tx, source, operation);
    if (source !== 'upload') return;
    await tx
      .insertInto('image_upload')
      .values({ tenant_id: tenantId, image_id: id, operation_id: operation })
      .execute();
  }

  private sourceAsked(): ImageRow['source'] {
    const { sourceUrl, snapshot } = this.asked;
    return sourceUrl !== undefined ? 'url' : snapshot !== undefined ? 'snapshot' : 'upload';
  }

  private async insert(tx: Tx, source: ImageRow['source'], operation: string): Promise<void> {
    const { sourceUrl, sha256, sizeBytes, format, osInfo } = this.asked;
    await tx
      .insertInto('image')
      .values({
        tenant_id: this.core.tenantId,
        id: this.core.id,
        visibility: 'private',
        source,
        source_url: sourceUrl ?? null,
        source_snapshot_id: this.snapshotId ?? null,
        announced_sha256: sha256?.toLowerCase() ?? null,
        announced_size_bytes: sizeBytes ?? null,
        announced_format: format ?? null,
        operation_id: operation,
        os_info: JSON.stringify(osInfo ?? {}),
      })
      .execute();
  }

  /** The snapshot stays as long as the image is made from it. */
  private async needSnapshot(tx: Tx, snapshotId: string): Promise<void> {
    const edge = { targetTenantId: this.core.tenantId, targetId: snapshotId, relation: 'is made from' };
    await addEdges(tx, this.core, [edge], () => new RhyzomeError('conflict', 'The snapshot is being removed.'));
  }

  private async claimUpdate(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    const visibility = this.asked.visibility ?? 'private';
    const isPublished = visibility === 'published';
    await sql`
      update image k set os_info = ${JSON.stringify(this.asked.osInfo ?? {})}::jsonb, visibility = ${visibility},
        publisher_name = case when ${isPublished} then
          coalesce(k.publisher_name, (select display_name from tenant t where t.id = ${tenantId})) end
      where k.tenant_id = ${tenantId} and k.id = ${id}`.execute(tx);
    await sql`
      update resource set published = ${isPublished}
      where tenant_id = ${tenantId} and id = ${id} and published <> ${isPublished}`.execute(tx);
  }

  async release(tx: Tx): Promise<void> {
    await dropEdges(tx, this.core);
    wakeAfterCommit('rhyzome_content');
  }

  async settled(tx: Tx, action: string): Promise<void> {
    if (action === 'create') await dropEdges(tx, this.core);
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    await obtainContent(core, this.row!, job);
  }

  /** Nothing is outside of the database but the content, which stays. */
  async update(_job: Job<Tx>): Promise<void> {}

  /** The content goes once nothing names it (collecting.ts). */
  async remove(_job: Job<Tx>): Promise<void> {}
}
