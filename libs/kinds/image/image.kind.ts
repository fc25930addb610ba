/** The manifest of kind image. */

import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ImageView } from './image.dto.js';
import { ImageResource, type ImageRow } from './image.resource.js';

export const image: KindDefinition<ImageRow> = defineKind<ImageRow>({
  name: 'image',
  plural: 'images',
  description: 'What an instance boots from. Global images are everybody’s.',
  dto: { create: ImageView, update: ImageView, view: ImageView },
  table: 'image',
  columns: ['visibility', 'format', 'size_bytes', 'virtual_size_bytes', 'sha256', 'os_info'],
  isShared: true,
  changes: [],
  filters: {
    visibility: { column: sql.ref('k.visibility'), type: 'text', description: 'global, published or private.' },
    format: { column: sql.ref('k.format'), type: 'text', description: 'qcow2 or raw.' },
    sha256: { column: sql.ref('k.sha256'), type: 'text', description: 'Exactly this content.' },
  },
  view: (row) => ({
    visibility: row.visibility,
    publisher: row.visibility === 'published' ? row.tenant_id : null,
    format: row.format,
    sizeBytes: row.size_bytes,
    virtualSizeBytes: row.virtual_size_bytes,
    sha256: row.sha256,
    osInfo: row.os_info,
  }),
  make: (scope) => new ImageResource(scope, image),
});
