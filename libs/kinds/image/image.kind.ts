/** The manifest of kind image. */

import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ContentController } from './content.controller.js';
import { contentPaths } from './content.openapi.js';
import { ImageCreate, ImageUpdate, ImageView } from './image.dto.js';
import { ImageResource } from './image.resource.js';
import type { ImageDocument, ImageRow } from './image.row.js';

export const image: KindDefinition<ImageRow> = defineKind<ImageRow>({
  name: 'image',
  plural: 'images',
  description: 'What an instance boots from: global ones, a tenant’s own, and those that others publish.',
  dto: { create: ImageCreate, update: ImageUpdate, view: ImageView },
  table: 'image',
  columns: [
    'visibility',
    'publisher_name',
    'source',
    'source_url',
    'source_snapshot_id',
    'announced_sha256',
    'announced_size_bytes',
    'announced_format',
    'operation_id',
    'format',
    'size_bytes',
    'virtual_size_bytes',
    'sha256',
    'os_info',
  ],
  isShared: true,
  unshared: ['snapshot'],
  readOnly: ['visibility', 'publisher', 'source', 'virtualSizeBytes'],
  immutable: ['sourceUrl', 'snapshot', 'sha256', 'sizeBytes', 'format', 'visibility'],
  filters: {
    visibility: { column: sql.ref('k.visibility'), type: 'text', description: 'global, published or private.' },
    source: { column: sql.ref('k.source'), type: 'text', description: 'import, upload, url or snapshot.' },
    format: { column: sql.ref('k.format'), type: 'text', description: 'qcow2 or raw.' },
    sha256: { column: sql.ref('k.sha256'), type: 'text', description: 'Exactly this content.' },
  },
  view: (row) => ({
    visibility: row.visibility,
    publisher: row.publisher_name === null ? null : { id: row.tenant_id, name: row.publisher_name },
    source: row.source,
    snapshot: row.source_snapshot_id,
    format: row.format,
    sizeBytes: row.size_bytes,
    virtualSizeBytes: row.virtual_size_bytes,
    sha256: row.sha256,
    osInfo: row.os_info,
  }),
  make: (scope) => new ImageResource(scope, image),
  actions: {
    publish: {
      summary: 'Shows the image to all tenants, with this tenant’s name.',
      claim: async (resource) => shownTo(resource as ImageResource, 'published'),
    },
    withdraw: {
      summary: 'Hides a published image again. Machines of others that were made from it go on.',
      claim: async (resource) => shownTo(resource as ImageResource, 'private'),
    },
  },
  verbs: ['upload'],
  controllers: [ContentController],
  extraPaths: contentPaths,
});

function shownTo(resource: ImageResource, visibility: 'published' | 'private'): ImageDocument {
  if (!resource.hasContent) throw new RhyzomeError('not_ready', 'The image has no content yet.');
  return { ...resource.document(), visibility };
}
