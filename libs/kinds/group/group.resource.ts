/**
 * Kind group: users who are given the same together. Tokens name it, so it stands at the tenant's place at the identity
 * provider, where its jobs keep it; who is in it, the users say.
 */
import type { FieldError, ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import { identity } from '#libs/identity';
import { keptPlaceOf, placeOf } from '#libs/kinds/realm';
import { type Claim, type CoreDocument, type CoreRow, inTransaction, type Job, RowResource } from '#libs/resources';

export interface GroupDocument extends CoreDocument {
  description?: string;
}

export interface GroupRow extends CoreRow {
  description: string | null;
  members: number;
}

export class GroupResource extends RowResource<GroupDocument, GroupRow> {
  protected documentOf(row: GroupRow) {
    return { ...(row.description !== null && { description: row.description }) };
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    return [];
  }

  async claim(tx: Tx, claim: Claim<GroupDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const columns = { description: this.asked.description ?? null };
    if (claim.action === 'update') {
      await tx
        .updateTable('tenant_group')
        .set(columns)
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
      return;
    }
    await keptPlaceOf(inTransaction(tx, tenantId), 'groups');
    if (claim.isRetry) return;
    await tx
      .insertInto('tenant_group')
      .values({ tenant_id: tenantId, id, ...columns })
      .execute();
  }

  /** Who was in it is so no more: memberships go with its row. */
  async release(_tx: Tx): Promise<void> {}

  async create({ name }: ResourceCore, job: Job<Tx>): Promise<void> {
    job.plan(1);
    await job.step('make it at the identity provider', {
      outside: async (signal) => identity().putGroup(await keptPlaceOf(this.scope, 'groups'), name, signal),
      act: async () => undefined,
      undoOutside: (signal) => this.removeOutside(signal),
    });
  }

  /** What it is for stands here alone. */
  async update(_job: Job<Tx>): Promise<void> {}

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(1);
    await job.step('remove it at the identity provider', {
      outside: (signal) => this.removeOutside(signal),
      act: async () => undefined,
      cancellable: false,
    });
  }

  private async removeOutside(signal: AbortSignal): Promise<void> {
    const place = await placeOf(this.scope);
    if (place) await identity().removeGroup(place, this.core.name, signal);
  }
}
