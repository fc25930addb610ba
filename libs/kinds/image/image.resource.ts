/**
 * Kind image. Tenants read the global ones; they are imported and removed by the administrator, straight on the database
 * and the content store (import.ts), so its jobs have nothing to do outside.
 */
import { type FieldError, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  type CoreDocument,
  type CoreRow,
  coreOf,
  findResource,
  type KindDefinition,
  type KindResource,
  type RowScope,
} from '#libs/resources';

export interface ImageRow extends CoreRow {
  visibility: 'global' | 'published' | 'private';
  format: 'qcow2' | 'raw';
  size_bytes: number;
  virtual_size_bytes: number;
  sha256: string;
  os_info: Record<string, unknown>;
}

export class ImageResource implements KindResource<CoreDocument> {
  private core!: ResourceCore;
  private asked!: CoreDocument;

  constructor(
    private readonly scope: RowScope,
    private readonly kind: KindDefinition,
  ) {}

  getCore(): ResourceCore {
    return this.core;
  }

  async load(core: ResourceCore): Promise<this> {
    const row = await findResource(this.scope, this.kind, core.id);
    if (!row) throw notFound('image', core.id);
    this.core = coreOf(row);
    this.asked = { name: row.name, tags: row.tags, deletionProtection: row.deletion_protection };
    return this;
  }

  propose(core: ResourceCore, document: CoreDocument): void {
    this.core = core;
    this.asked = document;
  }

  document(): CoreDocument {
    return this.asked;
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    return [];
  }

  async claim(): Promise<void> {
    throw administratorsOnly();
  }

  async release(_tx: Tx): Promise<void> {
    throw administratorsOnly();
  }

  async create(): Promise<void> {
    throw administratorsOnly();
  }

  async update(): Promise<void> {
    throw administratorsOnly();
  }

  async remove(): Promise<void> {
    throw administratorsOnly();
  }
}

function administratorsOnly(): RhyzomeError {
  return new RhyzomeError('forbidden', 'Images are imported and removed by the administrators.');
}
