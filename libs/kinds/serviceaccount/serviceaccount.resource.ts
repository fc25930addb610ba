/**
 * Kind serviceaccount: a program of the tenant. Its API tokens are Rhyzome's own business; with public keys it also has a
 * client at the tenant's place at the identity provider, which its jobs keep. What it may do, grants say; it lives on
 * without whoever made it.
 */
import { accountSubject, dropApiTokens, enableSubjects, leaveSubjects, putSubject, refuseGivingMore } from '#libs/auth';
import { type FieldError, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { identity } from '#libs/identity';
import { placeOf } from '#libs/kinds/realm';
import { type Claim, type CoreDocument, type CoreRow, inTransaction, type Job, RowResource } from '#libs/resources';
import { normalized, type PublicKeys } from './public-keys.js';

export interface ServiceaccountDocument extends CoreDocument {
  description?: string;
  publicKeys?: PublicKeys;
}

export interface ServiceaccountRow extends CoreRow {
  description: string | null;
  public_keys: PublicKeys | null;
  enabled: boolean;
  client_id: string | null;
  subject: string | null;
}

/** What the identity provider answered about the client; null: there is none now. */
type Client = { subject: string; clientId: string } | null;

export class ServiceaccountResource extends RowResource<ServiceaccountDocument, ServiceaccountRow> {
  protected documentOf(row: ServiceaccountRow) {
    return {
      ...(row.description !== null && { description: row.description }),
      ...(row.public_keys !== null && { publicKeys: row.public_keys }),
    };
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    if (this.asked.publicKeys) this.asked.publicKeys = normalized(this.asked.publicKeys);
    return [];
  }

  async claim(tx: Tx, claim: Claim<ServiceaccountDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { description, publicKeys } = this.asked;
    if (publicKeys && !(claim.action === 'update' && claim.isRestore)) await this.refuseUnmanaged(tx);
    const columns = {
      description: description ?? null,
      public_keys: publicKeys ? JSON.stringify(publicKeys) : null,
    };
    if (claim.action === 'update') {
      if (!claim.isRestore) await this.refuseTakingOver(tx, claim.previous);
      await tx
        .updateTable('serviceaccount')
        .set(columns)
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
      return;
    }
    if (claim.isRetry) return;
    await tx
      .insertInto('serviceaccount')
      .values({ tenant_id: tenantId, id, ...columns })
      .execute();
    await putSubject(tx, this.owner(), accountSubject(id), true);
  }

  private owner() {
    return { tenantId: this.core.tenantId, kind: 'serviceaccount' as const, resourceId: this.core.id };
  }

  private async refuseUnmanaged(tx: Tx): Promise<void> {
    if (await placeOf(inTransaction(tx, this.core.tenantId))) return;
    throw new RhyzomeError(
      'not_managed',
      'Your tenant’s identity provider is not kept by Rhyzome: leave out publicKeys and make API tokens for it.',
      { errors: [{ pointer: '/publicKeys', code: 'not_managed', message: 'needs a realm that Rhyzome keeps' }] },
    );
  }

  /** Whoever sets its keys can log in as it. */
  private async refuseTakingOver(tx: Tx, previous: ServiceaccountDocument): Promise<void> {
    const { actor } = this.scope;
    const { publicKeys } = this.asked;
    if (!actor || !publicKeys || JSON.stringify(publicKeys) === JSON.stringify(previous.publicKeys)) return;
    await refuseGivingMore(tx, actor, { holders: [this.core.id] }, 'set the keys of this service account');
  }

  async refuseUndoing(tx: Tx, action: string, previous: ServiceaccountDocument | undefined): Promise<void> {
    const { actor } = this.scope;
    const comesBack = action === 'disable' || action === 'delete';
    if (comesBack && actor)
      await refuseGivingMore(tx, actor, { holders: [this.core.id] }, 'let this service account in');
    if (action !== 'update' || !previous) return;
    const current = this.document();
    this.propose(this.core, previous);
    await this.refuseTakingOver(tx, current);
  }

  /** In the transaction of the request: its tokens are refused, or accepted again, from then on. */
  async setEnabled(tx: Tx, enabled: boolean): Promise<void> {
    const { tenantId, id } = this.core;
    await tx
      .updateTable('serviceaccount')
      .set({ enabled })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
    await enableSubjects(tx, this.owner(), enabled);
  }

  /** A cancelled removal or action is taken back. */
  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    if (outcome === 'succeeded') return;
    if (action === 'disable' || action === 'enable') await this.setEnabled(tx, action === 'disable');
    if (action === 'delete' && outcome === 'cancelled') await enableSubjects(tx, this.owner(), this.row!.enabled);
  }

  async release(tx: Tx): Promise<void> {
    await leaveSubjects(tx, this.owner());
    await dropApiTokens(tx, this.owner());
  }

  async create(_core: ResourceCore, job: Job<Tx>): Promise<void> {
    if (!this.asked.publicKeys) return;
    job.plan(1);
    await this.keepClient(job, 'make its client', this.asked.publicKeys, undefined);
  }

  async update(job: Job<Tx>): Promise<void> {
    const { previous } = job.request as { previous: ServiceaccountDocument };
    const { publicKeys } = this.asked;
    if (!publicKeys && !previous.publicKeys) return;
    job.plan(1);
    await this.keepClient(job, 'change its client', publicKeys, previous.publicKeys);
  }

  async remove(job: Job<Tx>): Promise<void> {
    if (!this.row?.public_keys && !this.row?.client_id) return;
    job.plan(1);
    await job.step('remove its client', {
      outside: (signal) => this.putClient(undefined, signal),
      act: async () => undefined,
      cancellable: false,
    });
  }

  /** Nothing outside: its tokens are refused here. */
  async perform(_action: string, _job: Job<Tx>): Promise<void> {}

  private async keepClient(
    job: Job<Tx>,
    step: string,
    keys: PublicKeys | undefined,
    previous: PublicKeys | undefined,
  ): Promise<void> {
    let before: Client = null;
    await job.step<void, Client>(step, {
      outside: (signal) => this.putClient(keys, signal),
      act: (tx, client) => this.noteClient(tx, client),
      undoOutside: async (signal) => {
        before = await this.putClient(previous, signal);
      },
      undo: (tx) => this.noteClient(tx, before),
    });
  }

  /** Brings the client at the identity provider to these keys; without any there is none. */
  private async putClient(keys: PublicKeys | undefined, signal: AbortSignal): Promise<Client> {
    const place = await placeOf(this.scope);
    const { name } = this.core;
    if (keys) {
      if (!place) throw new RhyzomeError('not_managed', 'The tenant’s identity provider is no longer kept by Rhyzome.');
      return identity().putProgram(place, { name, jwks: keys }, signal);
    }
    if (place) await identity().removeProgram(place, name, signal);
    return null;
  }

  private async noteClient(tx: Tx, client: Client): Promise<void> {
    const row = await this.fresh(tx);
    const { tenantId, id } = this.core;
    if (row.subject !== null && row.subject !== client?.subject) {
      // What the client's tokens were is nobody any more.
      await tx
        .updateTable('subject')
        .set({ enabled: false })
        .where('tenant_id', '=', tenantId)
        .where('subject', '=', row.subject)
        .execute();
    }
    if (client) await putSubject(tx, this.owner(), client.subject, row.enabled && row.state !== 'deleting');
    await tx
      .updateTable('serviceaccount')
      .set({ client_id: client?.clientId ?? null, subject: client?.subject ?? null })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
  }
}
