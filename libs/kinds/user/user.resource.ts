/**
 * Kind user: a person of the tenant. Its account stands at the tenant's place at the identity provider, where its jobs keep
 * it; whether its tokens are accepted is decided here, in the transaction of the request. A one-time password lives in the
 * request that made it and in its answer; the job carries its hash.
 */
import { type Actor, dropApiTokens, enableSubjects, leaveSubjects, putSubject, refuseGivingMore } from '#libs/auth';
import { type FieldError, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { identity, newOneTimePassword, type PasswordHash } from '#libs/identity';
import { findGroups } from '#libs/kinds/group';
import { keptPlaceOf, placeOf } from '#libs/kinds/realm';
import { type Claim, inTransaction, type Job, RowResource } from '#libs/resources';
import {
  columnsOf,
  groupNames,
  loginUser,
  putMemberships,
  refuseLastAdmin,
  takingEmail,
  type UserDocument,
  type UserRow,
  unmadeGroup,
} from './user.rows.js';

export type { UserRow } from './user.rows.js';

/** Keycloak's own limit. */
const MIN_NAME = 3;

export class UserResource extends RowResource<UserDocument, UserRow> {
  private told: { oneTimePassword: string } | undefined;

  protected documentOf(row: UserRow) {
    return {
      ...(row.email !== null && { email: row.email }),
      ...(row.first_name !== null && { firstName: row.first_name }),
      ...(row.last_name !== null && { lastName: row.last_name }),
      ...(row.role !== null && { role: row.role }),
      groups: row.groups,
    };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    const errors: FieldError[] = [];
    if (isNew && this.asked.name.length < MIN_NAME)
      errors.push({ pointer: '/name', code: 'too_short', message: `must be at least ${MIN_NAME} characters` });
    if (this.asked.email !== undefined) this.asked.email = this.asked.email.toLowerCase();
    const { groups = [] } = this.asked;
    // Those that it is in already stay, also where one is being removed or its changer may not see it.
    const known = new Set(this.row?.groups);
    const found = await findGroups(
      this.scope,
      groups.filter((one) => !known.has(one)),
    );
    for (const [index, one] of groups.entries()) {
      if (known.has(one) || found.has(one)) continue;
      errors.push({ pointer: `/groups/${index}`, code: 'not_found', message: 'is no group that you may use' });
    }
    this.asked.groups = [...new Set(groups.map((one) => found.get(one)?.id ?? one))];
    return errors;
  }

  async claim(tx: Tx, claim: Claim<UserDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { email, groups = [] } = this.asked;
    if (claim.action === 'create') {
      await keptPlaceOf(inTransaction(tx, tenantId), 'users');
      await this.refuseGiving(tx, undefined);
      if (claim.isRetry) return;
      const columns = { ...columnsOf(this.asked), ...(await this.newInvitation()) };
      const insert = tx.insertInto('tenant_user').values({ tenant_id: tenantId, id, ...columns });
      await takingEmail(tx, this.core, email, insert.execute());
    } else {
      if (!claim.isRestore) await this.refuseGiving(tx, claim.previous);
      const update = tx
        .updateTable('tenant_user')
        .set(columnsOf(this.asked))
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id);
      if (claim.isRestore) await update.execute();
      else {
        const { previous } = claim;
        if (previous.role === 'admin' && this.asked.role !== 'admin') await refuseLastAdmin(tx, this.core);
        await takingEmail(tx, this.core, email, update.execute());
      }
    }
    await putMemberships(tx, this.core, groups);
  }

  /** What is new in this change is his to give; an address can be used to get a password by. */
  private async refuseGiving(tx: Tx, previous: UserDocument | undefined): Promise<void> {
    const { actor } = this.scope;
    if (!actor) return;
    const { role, groups = [], email } = this.asked;
    const scope = inTransaction(tx, this.core.tenantId);
    const added = groups.filter((one) => !previous?.groups?.includes(one));
    const given = {
      roles: role !== undefined && role !== previous?.role ? [role] : [],
      groups: await groupNames(scope, added),
    };
    await refuseGivingMore(tx, actor, given, `give this to the user “${this.core.name}”`);
    if (previous && email !== undefined && email !== previous.email) await this.refuseTakingOver(tx, actor, previous);
  }

  private async refuseTakingOver(tx: Tx, actor: Actor | undefined, document = this.asked): Promise<void> {
    if (!actor) return;
    const holding = {
      roles: document.role ? [document.role] : [],
      groups: await groupNames(inTransaction(tx, this.core.tenantId), document.groups ?? []),
      holders: [this.core.id],
    };
    await refuseGivingMore(tx, actor, holding, `let somebody log in as the user “${this.core.name}”`);
  }

  async refuseUndoing(tx: Tx, action: string, previous: UserDocument | undefined): Promise<void> {
    if (action === 'disable' || action === 'delete') await this.refuseTakingOver(tx, this.scope.actor);
    if (action !== 'update' || !previous) return;
    const current = this.document();
    this.propose(this.core, previous);
    await this.refuseGiving(tx, current);
  }

  private async newInvitation() {
    const { password, hash } = await newOneTimePassword();
    this.told = { oneTimePassword: password };
    return { invitation: JSON.stringify(hash), last_invited_at: new Date() };
  }

  /** On a retry the one that was told is still on its way. */
  async claimInvitation(tx: Tx, isRetry: boolean): Promise<void> {
    if (!this.row!.enabled) throw new RhyzomeError('not_ready', 'The user is disabled; enable it first.');
    await this.refuseTakingOver(tx, this.scope.actor);
    if (!isRetry) await this.set(tx, await this.newInvitation());
  }

  /** In the transaction of the request: its tokens are refused, or accepted again, from then on. */
  async claimEnabled(tx: Tx, enabled: boolean): Promise<void> {
    if (enabled) await this.refuseTakingOver(tx, this.scope.actor);
    else await refuseLastAdmin(tx, this.core);
    await this.setEnabled(tx, enabled);
  }

  private async setEnabled(tx: Tx, enabled: boolean): Promise<void> {
    await this.set(tx, { enabled });
    await enableSubjects(tx, this.owner(), enabled);
  }

  secrets(): Record<string, unknown> | undefined {
    return this.told;
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    const isDone = outcome === 'succeeded';
    const isInvitation = action === 'create' || action === 'invite';
    // A failed one may be retried, with the password that was told.
    if (isInvitation && outcome !== 'failed') await this.set(tx, { invitation: null });
    if (action === 'enable' && !isDone) await this.setEnabled(tx, false);
    // Where it fails, its tokens are refused all the same.
    if (action === 'disable' && outcome === 'cancelled') await this.setEnabled(tx, true);
    if (action === 'delete' && outcome === 'cancelled') await enableSubjects(tx, this.owner(), this.row!.enabled);
  }

  /** Its tokens go on being refused; its API tokens go with it. */
  async release(tx: Tx): Promise<void> {
    await leaveSubjects(tx, this.owner());
    await dropApiTokens(tx, this.owner());
  }

  async create(_core: ResourceCore, job: Job<Tx>): Promise<void> {
    job.plan(2);
    await this.waitForGroups(job);
    await job.step('make its account', {
      outside: (signal) => this.putAccount({ isInvited: true, signal }),
      act: (tx, subject) => this.noteSubject(tx, subject),
      undoOutside: (signal) => this.removeAccount(signal),
    });
  }

  async update(job: Job<Tx>): Promise<void> {
    const { previous } = job.request as { previous: UserDocument };
    job.plan(2);
    await this.waitForGroups(job);
    await job.step('change its account', {
      outside: (signal) => this.putAccount({ signal }),
      act: (tx, subject) => this.noteSubject(tx, subject),
      undoOutside: async (signal) => {
        await this.putAccount({ document: previous, signal });
      },
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(1);
    await job.step('remove its account', {
      outside: (signal) => this.removeAccount(signal),
      act: async () => undefined,
      cancellable: false,
    });
  }

  async perform(action: string, job: Job<Tx>): Promise<void> {
    job.plan(1);
    if (action === 'invite') {
      // The password that it had cannot be had back.
      await job.step('give it the one-time password', {
        outside: (signal) => this.putAccount({ isInvited: true, signal }),
        act: (tx, subject) => this.noteSubject(tx, subject),
        cancellable: false,
      });
      return;
    }
    const enabled = action === 'enable';
    await job.step(enabled ? 'enable its account' : 'disable its account and end its sessions', {
      outside: async (signal) => {
        const subject = await this.putAccount({ enabled, signal });
        if (!enabled) await identity().endSessions(await keptPlaceOf(this.scope, 'users'), this.core.name, signal);
        return subject;
      },
      act: (tx, subject) => this.noteSubject(tx, subject),
      undoOutside: async (signal) => {
        await this.putAccount({ enabled: !enabled, signal });
      },
    });
  }

  /** The identity provider refuses groups that it has not got yet. */
  private async waitForGroups(job: Job<Tx>): Promise<void> {
    const probe = async (tx: Tx): Promise<true | Waiting> => {
      const { groups } = await this.fresh(tx);
      const missing = await unmadeGroup(tx, this.core.tenantId, groups);
      if (!missing) return true;
      if (missing.state === 'failed')
        throw new RhyzomeError('not_ready', `The group “${missing.name}” has failed; retry its job or delete it.`);
      return new Waiting(`Waiting for the group “${missing.name}”.`, false, missing.id);
    };
    // The groups' own jobs have limits, and wait for an identity provider that is away.
    await job.wait('its groups are there', probe, { deadlineMs: false });
  }

  /** Brings the account to what stands here, or to another document. Returns the `sub` of its tokens. */
  private async putAccount(how: {
    document?: UserDocument;
    enabled?: boolean;
    isInvited?: boolean;
    signal: AbortSignal;
  }): Promise<string> {
    const { scope } = this;
    const now = await new UserResource(scope, this.kind).load(this.core);
    const { enabled, invitation } = now.row!;
    const password: PasswordHash | undefined = (how.isInvited && invitation) || undefined;
    const account = await loginUser(scope, how.document ?? now.asked, how.enabled ?? enabled, password);
    const { subject } = await identity().putUser(await keptPlaceOf(scope, 'users'), account, how.signal);
    return subject;
  }

  private async removeAccount(signal: AbortSignal): Promise<void> {
    const place = await placeOf(this.scope);
    if (place) await identity().removeUser(place, this.core.name, signal);
  }

  private async noteSubject(tx: Tx, subject: string): Promise<void> {
    const row = await this.fresh(tx);
    await putSubject(tx, this.owner(), subject, row.enabled && row.state !== 'deleting');
    if (row.subject !== subject) await this.set(tx, { subject });
  }

  private owner() {
    return { tenantId: this.core.tenantId, kind: 'user' as const, resourceId: this.core.id };
  }

  private async set(
    tx: Tx,
    columns: {
      enabled?: boolean;
      subject?: string;
      invitation?: string | null;
      last_invited_at?: Date;
    },
  ): Promise<void> {
    await tx
      .updateTable('tenant_user')
      .set(columns)
      .where('tenant_id', '=', this.core.tenantId)
      .where('id', '=', this.core.id)
      .execute();
  }
}

/** Its removal is asked for: from then on its tokens are refused. The command may remove a tenant's last administrator. */
export async function leave(tx: Tx, core: ResourceCore, actor: Actor | undefined): Promise<void> {
  if (actor && actor.via !== 'admin') await refuseLastAdmin(tx, core);
  await enableSubjects(tx, { tenantId: core.tenantId, resourceId: core.id }, false);
}
