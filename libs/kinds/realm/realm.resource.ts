/**
 * Kind realm: where the tenant's people and programs log in. Its jobs bring the identity provider to what the tenant's own
 * row says (its name, whether it is suspended) and to the scopes that this version knows, and move people from one place to
 * another. `rhyzome tenant` asks for all of it.
 */
import { sql, type UpdateObject } from 'kysely';
import { type FieldError, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import { type DB, type Tx, violatedUnique } from '#libs/db';
import { identity, type LoginPlace, type PlaceAddress } from '#libs/identity';
import { type Claim, type CoreDocument, type CoreRow, type Job, RowResource } from '#libs/resources';
import { type Moved, moverOf, moversInOrder } from './moving.js';
import type { RealmMode } from './realm.dto.js';
import { narrowingScopes } from './scopes.js';

export interface RealmDocument extends CoreDocument {
  mode: RealmMode;
  leftPlace?: RealmMode;
}

export interface RealmRow extends CoreRow {
  mode: RealmMode;
  place_mode: RealmMode;
  left_mode: RealmMode | null;
  issuer: string | null;
  organization: string | null;
  open: boolean;
}

/** What the identity provider was told. */
interface Told {
  address: PlaceAddress;
  displayName: string;
  open: boolean;
  scopes: string[];
}

/** All people and programs of a tenant, each asked of the identity provider by itself. */
const BRING_MS = 2 * 3_600_000;

/** Of each kind, those that are at the new place. */
type Along = Record<string, Moved[]>;

export class RealmResource extends RowResource<RealmDocument, RealmRow> {
  protected documentOf(row: RealmRow) {
    return { mode: row.mode, ...(row.left_mode !== null && { leftPlace: row.left_mode }) };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    const left = this.row?.left_mode ?? undefined;
    const { leftPlace, mode } = this.asked;
    if (isNew || leftPlace === undefined || leftPlace === left) return [];
    return [{ pointer: '/leftPlace', code: 'invalid_value', message: `only a move sets it (to ${mode})` }];
  }

  async claim(tx: Tx, claim: Claim<RealmDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { mode } = this.asked;
    if (claim.action === 'update') {
      // A move that failed late and is asked for again has left a place, too, but not the one that it goes to.
      if (!claim.isRestore && mode !== claim.previous.mode && this.row?.left_mode === mode)
        throw new RhyzomeError(
          'conflict',
          `The place that was left at the last move is still there: remove it first (rhyzome tenant move ${tenantId} --remove-left).`,
        );
      await tx.updateTable('realm').set({ mode }).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    } else if (!claim.isRetry) {
      try {
        await tx.insertInto('realm').values({ tenant_id: tenantId, id, mode, place_mode: mode }).execute();
      } catch (error) {
        if (!violatedUnique(error)) throw error;
        throw new RhyzomeError('already_exists', 'The tenant has a realm already.');
      }
    }
  }

  async release(_tx: Tx): Promise<void> {}

  async create(_core: ResourceCore, job: Job<Tx>): Promise<void> {
    const { mode } = this.asked;
    job.plan(1);
    await job.step<PlaceAddress, Told>(`make the ${mode}`, {
      outside: (signal) => this.tell(mode, signal),
      act: async (tx, told) => {
        await this.settleAt(tx, mode, told);
        return told.address;
      },
      undoOutside: (signal) => this.removeOurs(mode, signal),
      undo: (tx) => this.set(tx, { issuer: null, organization: null }),
    });
  }

  async update(job: Job<Tx>): Promise<void> {
    const { previous, document } = job.request as { previous: RealmDocument; document: RealmDocument };
    if (previous.mode !== document.mode) return this.move(job, previous.mode, document.mode);
    if (previous.leftPlace && !document.leftPlace) return this.removeLeft(job, previous.leftPlace);
    job.plan(1);
    await job.step<void, Told>(`bring the ${document.mode} up to date`, {
      outside: (signal) => this.tell(document.mode, signal),
      act: (tx, told) => this.settleAt(tx, document.mode, told),
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    const { issuer, organization, place_mode: mode, left_mode: left } = this.row!;
    job.plan(left ? 3 : 2);
    // First: its tokens are refused before anything else is gone.
    await job.step('forget the issuer', {
      act: async (tx) => {
        await this.set(tx, { issuer: null, organization: null });
        return { issuer, organization };
      },
      undo: (tx, was) => this.set(tx, was ?? { issuer, organization }),
    });
    if (left)
      await job.step(`remove the ${left} that was left`, {
        outside: (signal) => this.removeOurs(left, signal),
        act: async () => undefined,
        cancellable: false,
      });
    await job.step(`remove the ${mode}`, {
      outside: (signal) => this.removeOurs(mode, signal),
      act: async () => undefined,
      cancellable: false,
    });
  }

  /**
   * People are made at the new place while the old one serves; then, in one transaction, the issuer and everybody's
   * subject change; then whoever was made at the old place meanwhile follows, and the old place is closed.
   */
  private async move(job: Job<Tx>, from: RealmMode, to: RealmMode): Promise<void> {
    job.plan(6);
    const told = await job.step<Told, Told>(`make the ${to}`, {
      outside: (signal) => this.tell(to, signal),
      act: async (_tx, made) => made,
      undoOutside: (signal) => this.removeUnused(to, signal),
    });
    const along = await job.step<Along, Along>('make people and programs there', {
      deadlineMs: BRING_MS,
      outside: (signal) => this.bring(to, signal),
      act: async (_tx, made) => made,
    });
    await job.step(`log in at the ${to}`, {
      act: async (tx) => {
        await this.settleAt(tx, to, told);
        await this.set(tx, { left_mode: from });
        await this.noteAll(tx, along);
      },
      cancellable: false,
    });
    // Other jobs, which have limits of their own.
    const probe = (tx: Tx) => this.probeOthers(tx, `log in at the ${to}`);
    await job.wait('changes of people that were under way have ended', probe, { deadlineMs: false });
    await job.step<void, Along>('bring those who came meanwhile', {
      deadlineMs: BRING_MS,
      outside: (signal) => this.bring(to, signal),
      act: (tx, made) => this.noteAll(tx, made),
    });
    await job.step(`close the ${from}`, {
      outside: async (signal) => identity().setPlaceEnabled(await this.place(from), false, signal),
      act: async () => undefined,
    });
  }

  private async removeLeft(job: Job<Tx>, left: RealmMode): Promise<void> {
    job.plan(1);
    await job.step(`remove the ${left} that was left`, {
      outside: (signal) => this.removeOurs(left, signal),
      act: (tx) => this.set(tx, { left_mode: null }),
      cancellable: false,
    });
  }

  /** Brings a place to what the tenant's row and this version say. */
  private async tell(mode: RealmMode, signal: AbortSignal): Promise<Told> {
    const place = await this.place(mode);
    const { state } = await this.tenant();
    const scopes = narrowingScopes();
    const open = state === 'active';
    const address = await identity().putPlace(place, scopes, signal);
    await identity().putScopes(place, scopes, signal);
    await identity().setPlaceEnabled(place, open, signal);
    return { address, displayName: place.displayName, open, scopes };
  }

  private async bring(mode: RealmMode, signal: AbortSignal): Promise<Along> {
    const place = await this.place(mode);
    const along: Along = {};
    for (const mover of moversInOrder()) along[mover.kind] = await mover.put(this.scope, place, signal);
    return along;
  }

  private async noteAll(tx: Tx, along: Along): Promise<void> {
    for (const [kind, all] of Object.entries(along))
      for (const moved of all) await moverOf(kind)?.note(tx, this.core.tenantId, moved);
  }

  /** A change that began before the issuer was switched may still be about the old place. */
  private async probeOthers(tx: Tx, step: string): Promise<true | Waiting> {
    const kinds = moversInOrder().map(({ kind }) => kind);
    const result = await sql<{ kind: string; name: string }>`
      select kind, resource_name as name from job
      where tenant_id = ${this.core.tenantId} and kind = any (${kinds}::text[]) and finished_at is null
        and started_at < (select s.finished_at from job_step s join job j on j.tenant_id = s.tenant_id and j.id = s.job_id
          where j.tenant_id = ${this.core.tenantId} and j.resource_id = ${this.core.id} and j.finished_at is null
            and s.name = ${step})
      limit 1`.execute(tx);
    const [one] = result.rows;
    return one ? new Waiting(`A change of ${one.kind} ${one.name} has not ended.`) : true;
  }

  /** What somebody else made under its name is not ours to remove. */
  private async removeOurs(mode: RealmMode, signal: AbortSignal): Promise<void> {
    try {
      await identity().removePlace(await this.place(mode), signal);
    } catch (error) {
      if (!(error instanceof RhyzomeError && error.code === 'conflict')) throw error;
    }
  }

  /** What a failed move had made; once people log in there, it stays, and the same move again goes on with it. */
  private async removeUnused(mode: RealmMode, signal: AbortSignal): Promise<void> {
    const query = this.scope.builder
      .selectFrom('realm')
      .select('place_mode')
      .where('tenant_id', '=', this.core.tenantId)
      .where('id', '=', this.core.id);
    const [row] = await this.scope.rows(query.compile());
    if (row && row.place_mode !== mode) await this.removeOurs(mode, signal);
  }

  private async settleAt(tx: Tx, mode: RealmMode, { address, displayName, open, scopes }: Told): Promise<void> {
    const { issuer, organization } = address;
    try {
      await this.set(tx, { place_mode: mode, issuer, organization, display_name: displayName, open, scopes });
    } catch (error) {
      if (!violatedUnique(error)) throw error;
      throw new RhyzomeError('conflict', `The issuer ${issuer} is another tenant’s already.`);
    }
  }

  private async set(tx: Tx, columns: UpdateObject<DB, 'realm'>): Promise<void> {
    const { tenantId, id } = this.core;
    await tx.updateTable('realm').set(columns).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
  }

  private async place(mode: RealmMode): Promise<LoginPlace> {
    const { displayName } = await this.tenant();
    return { tenantId: this.core.tenantId, mode, displayName };
  }

  private async tenant(): Promise<{ displayName: string; state: string }> {
    const query = sql<{ displayName: string; state: string }>`
      select display_name as "displayName", state from tenant where id = ${this.core.tenantId}`;
    const [tenant] = await this.scope.rows(query.compile(this.scope.builder));
    return tenant!;
  }
}
