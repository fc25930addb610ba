/**
 * What the resources of all kinds do alike: they are loaded from their row, hold what their user set as a document, and
 * take on what he asks for. A kind adds how the two follow from each other, what it claims, and its work.
 */
import { type FieldError, notFound, type ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  type Claim,
  type CoreDocument,
  type CoreRow,
  inTransaction,
  type Job,
  type KindDefinition,
  type KindResource,
  type RowScope,
} from './kind.js';
import { coreOf, findResource } from './repository.js';

export abstract class RowResource<Document extends CoreDocument, Row extends CoreRow>
  implements KindResource<Document>
{
  protected core!: ResourceCore;
  /** What its user asks for; of a loaded one, what stands. */
  protected asked!: Document;
  /** As it was loaded; undefined for a new one. */
  protected row: Row | undefined;

  constructor(
    readonly scope: RowScope,
    protected readonly kind: KindDefinition,
  ) {}

  /** The kind's own part of the document; fields without a value are left out. */
  protected abstract documentOf(row: Row): Omit<Document, keyof CoreDocument>;

  getCore(): ResourceCore {
    return this.core;
  }

  async load(core: ResourceCore): Promise<this> {
    const row = (await findResource(this.scope, this.kind, core.id)) as Row | undefined;
    if (!row) throw notFound(this.kind.name, core.id);
    this.row = row;
    this.core = coreOf(row);
    const { name, tags, deletion_protection: deletionProtection } = row;
    this.asked = { name, tags, deletionProtection, ...this.documentOf(row) } as Document;
    return this;
  }

  propose(core: ResourceCore, document: Document): void {
    this.core = core;
    this.asked = document;
  }

  document(): Document {
    return this.asked;
  }

  /** The row as it stands in a transaction. Throws RhyzomeError `not_found`. */
  protected async fresh(tx: Tx): Promise<Row> {
    const row = await findResource(inTransaction(tx, this.core.tenantId), this.kind, this.core.id);
    if (!row) throw notFound(this.kind.name, this.core.id);
    return row as Row;
  }

  abstract validate(isNew: boolean): Promise<FieldError[]>;
  abstract claim(tx: Tx, claim: Claim<Document>): Promise<void>;
  abstract release(tx: Tx): Promise<void>;
  abstract create(core: ResourceCore, job: Job<Tx>): Promise<void>;
  abstract update(job: Job<Tx>): Promise<void>;
  abstract remove(job: Job<Tx>): Promise<void>;
}
