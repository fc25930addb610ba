/** Kind sample-thing: a row with a note, and nothing outside of the database. */
import type { FieldError, ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import { type Claim, type CoreDocument, type CoreRow, type Job, RowResource } from '#libs/resources';

export interface SampleThingDocument extends CoreDocument {
  note: string;
}

export interface SampleThingRow extends CoreRow {
  note: string;
}

export class SampleThingResource extends RowResource<SampleThingDocument, SampleThingRow> {
  protected documentOf(row: SampleThingRow) {
    return { note: row.note };
  }

  /** What only other rows can tell goes here: references, addresses in subnets. The DTO has checked the rest. */
  async validate(_isNew: boolean): Promise<FieldError[]> {
    return [];
  }

  /**
   * In the request's own transaction: the kind's row, and whatever two requests may race for. With `isRetry` the row is
   * there already; with `isRestore` an update is taken back.
   */
  async claim(tx: Tx, claim: Claim<SampleThingDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const columns = { note: this.asked.note };
    if (claim.action === 'update') {
      await tx
        .updateTable('sample_thing')
        .set(columns)
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
    } else if (!claim.isRetry) {
      await tx
        .insertInto('sample_thing')
        .values({ tenant_id: tenantId, id, ...columns })
        .execute();
    }
  }

  /** Its row goes with that of the resource; what else `claim` took is given back here. */
  async release(_tx: Tx): Promise<void> {}

  /**
   * Outside work goes into steps, each with its undo beside it, then a wait until it is so:
   * `job.step('tell the nodes', { act, undo, undone })`, `job.wait('nodes have it', probe)`. Both run again after a crash.
   */
  async create(_core: ResourceCore, _job: Job<Tx>): Promise<void> {}

  /** A failed update needs no undo here: `claim` runs again with the values before. */
  async update(_job: Job<Tx>): Promise<void> {}

  async remove(_job: Job<Tx>): Promise<void> {}
}
