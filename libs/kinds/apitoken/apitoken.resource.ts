/**
 * Kind apitoken: a bearer token that acts as its maker or as a service account, until it ends or is revoked. The token is
 * in the answer to its create and nowhere else; here is its SHA-256. Nothing is done outside.
 */
import { sql } from 'kysely';
import {
  type Actor,
  accountSubject,
  actorNow,
  authorize,
  newApiToken,
  parseScopes,
  refuseGivingMore,
  type Scope,
  scopeWithin,
} from '#libs/auth';
import { type FieldError, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { findServiceaccount } from '#libs/kinds/serviceaccount';
import { type Claim, type CoreDocument, type CoreRow, type Job, RowResource } from '#libs/resources';
import { DAY_MS, DEFAULT_DAYS } from './apitoken.dto.js';

export interface ApitokenDocument extends CoreDocument {
  serviceAccount?: string;
  expiresAt?: string;
  expiresInDays?: number;
  scopes?: string[];
}

export interface ApitokenRow extends CoreRow {
  prefix: string;
  subject: string;
  service_account_id: string | null;
  scopes: string[] | null;
  expires_at: Date;
  last_used_at: Date | null;
  revoked: boolean;
}

/** So that nobody fills the database who may do nothing else. */
const MAX_OF_SUBJECT = 100;

export class ApitokenResource extends RowResource<ApitokenDocument, ApitokenRow> {
  private account: ResourceCore | undefined;
  private told: { token: string } | undefined;

  protected documentOf(row: ApitokenRow) {
    return {
      ...(row.service_account_id !== null && { serviceAccount: row.service_account_id }),
      ...(row.scopes !== null && { scopes: row.scopes }),
      expiresAt: row.expires_at.toISOString(),
    };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return [];
    const { serviceAccount, expiresAt, expiresInDays, scopes = [] } = this.asked;
    const errors: FieldError[] = [];
    if (expiresAt !== undefined && expiresInDays !== undefined)
      errors.push({ pointer: '/expiresInDays', code: 'exclusive', message: 'cannot stand beside expiresAt' });
    if (serviceAccount !== undefined) {
      this.account = await findServiceaccount(this.scope, serviceAccount);
      if (!this.account)
        errors.push({
          pointer: '/serviceAccount',
          code: 'not_found',
          message: 'is no service account that you may use',
        });
    }
    const { scopes: own } = this.asker();
    for (const [index, scope] of scopes.entries()) {
      if (own === null || own.some((one) => scopeWithin(parse(scope), one))) continue;
      errors.push({
        pointer: `/scopes/${index}`,
        code: 'invalid_value',
        message: 'is more than your own token’s scopes',
      });
    }
    return errors;
  }

  async claim(tx: Tx, claim: Claim<ApitokenDocument>): Promise<void> {
    if (claim.action === 'update' || claim.isRetry) return;
    const { tenantId, id } = this.core;
    const actor = this.asker();
    const acting = this.account ? await this.forAccount(tx, actor, this.account) : await ofOneself(tx, actor);
    await refuseTooMany(tx, tenantId, acting.subject);
    const { token, hash, prefix } = newApiToken();
    const { expiresAt, expiresInDays = DEFAULT_DAYS, scopes } = this.asked;
    await tx
      .insertInto('apitoken')
      .values({
        tenant_id: tenantId,
        id,
        hash,
        prefix,
        ...acting,
        service_account_id: this.account?.id ?? null,
        scopes: scopes ?? actor.scopes?.map(({ kind, verb }) => `${kind}:${verb}`) ?? null,
        // As it was read when it was judged: PostgreSQL reads fewer offsets and days.
        expires_at: new Date(expiresAt ?? Date.now() + expiresInDays * DAY_MS),
      })
      .execute();
    this.told = { token };
  }

  /** Throws RhyzomeError `forbidden`: an API token that could make others would have no end. */
  private asker(): Actor {
    const { actor } = this.scope;
    if (!actor) throw new Error('an API token is made by a request');
    if (actor.via === 'apitoken') throw new RhyzomeError('forbidden', 'An API token cannot make API tokens.');
    return actor;
  }

  /** Whoever has a token of the account may do all that the account may, so he must have that himself. */
  private async forAccount(tx: Tx, actor: Actor, account: ResourceCore) {
    authorize(actor, 'update', account);
    await refuseGivingMore(tx, actor, { holders: [account.id] }, 'make a token of this service account');
    return { subject: accountSubject(account.id), roles: [], groups: [] };
  }

  secrets(): Record<string, unknown> | undefined {
    return this.told;
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    if (action === 'delete' && outcome === 'cancelled') await revoke(tx, this.core, false);
  }

  async release(_tx: Tx): Promise<void> {}
  async create(_core: ResourceCore, _job: Job<Tx>): Promise<void> {}
  async update(_job: Job<Tx>): Promise<void> {}
  async remove(_job: Job<Tx>): Promise<void> {}
}

function parse(scope: string): Scope {
  return parseScopes(scope)![0]!;
}

/**
 * Throws RhyzomeError `forbidden` for who has no tokens of their own, services and the command; InvalidToken for who was
 * removed just now: what he made then would outlive him.
 */
async function ofOneself(tx: Tx, actor: Actor) {
  if (actor.via !== 'token') {
    throw new RhyzomeError('forbidden', 'Only users make tokens that act as themselves; name a serviceAccount.');
  }
  await actorNow(tx, actor);
  return { subject: actor.subject, roles: [...actor.roles], groups: [...(actor.groups ?? [])] };
}

async function refuseTooMany(tx: Tx, tenantId: string, subject: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.apitokens.${tenantId}/${subject}`}, 0))`.execute(
    tx,
  );
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from apitoken
    where tenant_id = ${tenantId} and subject = ${subject}`.execute(tx);
  if (rows[0]!.n < MAX_OF_SUBJECT) return;
  throw new RhyzomeError('limit_reached', `There may be ${MAX_OF_SUBJECT} tokens of one owner; delete some.`);
}

/** Refused from the commit on, or accepted again where the removal was cancelled. */
export async function revoke(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>, revoked: boolean): Promise<void> {
  await tx
    .updateTable('apitoken')
    .set({ revoked })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', core.id)
    .execute();
}
