/**
 * Where a tenant's people log in, as the command keeps it: asks the pipeline for changes of its realm and its first users,
 * as the administrator, and waits for their jobs. Each call ends in the same state however often it is done; what a killed
 * one has begun goes on in rhyzome-grpc.
 */

import type { FieldError } from '#libs/core';
import type { Database } from '#libs/db';
import type { JobRow } from '#libs/jobs';
import type { ChangeResult, KindDefinition, KindRegistry, Pipeline } from '#libs/resources';
import { administrator, type Context } from './context.js';
import { CliError, exitStatus } from './exit-status.js';

/** How long a command waits for jobs, and whether it does. */
export interface WaitFlags {
  wait: boolean;
  timeout: number;
}

type Mode = 'realm' | 'organization';

interface Known {
  id: string;
  name: string;
  state: string;
}

const LOOK_MS = 200;
/** Nobody has taken the job up by then. */
const QUIET_MS = 10_000;

export class TenantLogin {
  private constructor(
    private readonly context: Context,
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly pipeline: Pipeline,
    readonly tenantId: string,
    private readonly flags: WaitFlags,
  ) {}

  static async open(context: Context, db: Database, tenantId: string, flags: WaitFlags): Promise<TenantLogin> {
    const [{ KindRegistry, Pipeline }, { kinds }] = await Promise.all([
      import('#libs/resources'),
      import('#libs/kinds'),
    ]);
    const registry = new KindRegistry(kinds);
    return new TenantLogin(context, db, registry, new Pipeline(db, registry), tenantId, flags);
  }

  /** The tenant's realm; undefined where an issuer of its own is all that it has. */
  async realm(): Promise<(Known & { mode: Mode; placeMode: Mode; leftMode: Mode | null }) | undefined> {
    return this.db.operatorTransaction((tx) =>
      tx
        .selectFrom('realm as k')
        .innerJoin('resource as r', (join) => join.onRef('r.tenant_id', '=', 'k.tenant_id').onRef('r.id', '=', 'k.id'))
        .select(['r.id', 'r.name', 'r.state'])
        .select((eb) => [
          eb.ref('k.mode').$castTo<Mode>().as('mode'),
          eb.ref('k.place_mode').$castTo<Mode>().as('placeMode'),
          eb.ref('k.left_mode').$castTo<Mode | null>().as('leftMode'),
        ])
        .where('k.tenant_id', '=', this.tenantId)
        .executeTakeFirst(),
    );
  }

  /** Makes it, or goes on where an earlier command had stopped. */
  async makeRealm(mode: Mode): Promise<void> {
    const there = await this.realm();
    if (there && there.mode !== mode)
      throw new CliError(
        exitStatus.refused,
        'conflict',
        `Tenant ${this.tenantId} logs in by ${there.mode} already; \`tenant move\` changes that.`,
      );
    const { REALM_NAME } = await import('#libs/kinds/realm');
    if (there) await this.goOn('realm', there);
    else
      await this.finish(
        await this.pipeline.create(await this.caller(), this.kind('realm'), { name: REALM_NAME, mode }),
      );
  }

  /** Changes it, or brings it to what the tenant's row says now. */
  async changeRealm(patch: object): Promise<void> {
    const there = await this.realm();
    if (!there) return;
    await this.settle(there);
    await this.finish(await this.pipeline.update(await this.caller(), this.kind('realm'), there.id, patch));
  }

  /** With all that is in it at the identity provider. */
  async removeRealm(): Promise<void> {
    const there = await this.realm();
    if (there) await this.finish(await this.pipeline.remove(await this.caller(), this.kind('realm'), there.id));
  }

  /** What the user types in to log in. */
  async loginName(name: string): Promise<string> {
    const { loginNameOf } = await import('#libs/identity');
    const there = await this.realm();
    return there ? loginNameOf({ tenantId: this.tenantId, mode: there.placeMode }, name) : name;
  }

  /** Makes an administrator; the one-time password where that was done now, null where the user is there already. */
  async makeAdmin(name: string, email: string | undefined): Promise<string | null> {
    const there = await this.find('user', name);
    if (there) {
      await this.goOn('user', there);
      return null;
    }
    const body = { name, role: 'admin', ...(email !== undefined && { email }) };
    const made = await this.pipeline.create(await this.caller(), this.kind('user'), body).catch(inOptionsWords);
    await this.finish(made);
    return String(made.secrets?.oneTimePassword);
  }

  /** A new one-time password for a user who is there. */
  async invite(name: string): Promise<string> {
    const there = await this.find('user', name);
    if (there) await this.settle(there);
    const invited = await this.pipeline.act(await this.caller(), this.kind('user'), name, 'invite', {});
    await this.finish(invited);
    return String(invited.secrets?.oneTimePassword);
  }

  /** Enabled administrators, the oldest first. */
  async admins(): Promise<string[]> {
    const rows = await this.db.operatorTransaction((tx) =>
      tx
        .selectFrom('tenant_user as k')
        .innerJoin('resource as r', (join) => join.onRef('r.tenant_id', '=', 'k.tenant_id').onRef('r.id', '=', 'k.id'))
        .select('r.name')
        .where('k.tenant_id', '=', this.tenantId)
        .where('k.role', '=', 'admin')
        .where('k.enabled', '=', true)
        .orderBy('r.created_at')
        .execute(),
    );
    return rows.map(({ name }) => name);
  }

  /** All of a kind, with what depends on them. */
  async removeAll(kind: string): Promise<void> {
    const rows = await this.db.operatorTransaction((tx) =>
      tx.selectFrom('resource').select('id').where('tenant_id', '=', this.tenantId).where('kind', '=', kind).execute(),
    );
    const caller = await this.caller();
    const removals: ChangeResult[] = [];
    for (const { id } of rows)
      removals.push(await this.pipeline.remove(caller, this.kind(kind), id, { cascade: true }));
    for (const removal of removals) await this.finish(removal);
  }

  private kind(name: string): KindDefinition {
    return this.registry.get(name);
  }

  private async caller() {
    const [{ adminActor }, { newId }] = await Promise.all([import('#libs/auth'), import('#libs/core')]);
    return { actor: adminActor(this.tenantId, administrator()), requestId: newId() };
  }

  private async find(kind: string, name: string): Promise<Known | undefined> {
    return this.db.operatorTransaction((tx) =>
      tx
        .selectFrom('resource')
        .select(['id', 'name', 'state'])
        .where('tenant_id', '=', this.tenantId)
        .where('kind', '=', kind)
        .where('name', '=', name)
        .executeTakeFirst(),
    );
  }

  /** A resource that an earlier command had asked for: its job is waited for, and one that failed is tried again. */
  private async goOn(kind: string, there: Known): Promise<void> {
    const job = await this.lastJob(there.id);
    if (job && !job.finished_at) return this.waitFor(job.id);
    if (there.state !== 'failed' || job?.state !== 'failed') return;
    const [{ retryJob }, { actInTenant }] = await Promise.all([import('#libs/resources'), import('./jobs.js')]);
    await this.context.changeOn(this.db, async ({ tx, audit }) => {
      await actInTenant(tx, this.tenantId);
      await retryJob(tx, this.registry, this.tenantId, job.id);
      await audit({
        tenantId: this.tenantId,
        action: 'job.retry',
        kind,
        resourceId: there.id,
        resourceName: there.name,
      });
    });
    await this.waitFor(job.id);
  }

  /** Waits for a job that is under way, however it ends: the next change may come then. */
  private async settle(there: Known): Promise<void> {
    const job = await this.lastJob(there.id);
    if (job && !job.finished_at) await this.ended(job.id);
  }

  private async lastJob(resourceId: string): Promise<JobRow | undefined> {
    return this.db.operatorTransaction((tx) =>
      tx
        .selectFrom('job')
        .selectAll()
        .where('tenant_id', '=', this.tenantId)
        .where('resource_id', '=', resourceId)
        .orderBy('created_at', 'desc')
        .orderBy('id', 'desc')
        .limit(1)
        .executeTakeFirst(),
    );
  }

  private async finish(change: ChangeResult): Promise<void> {
    if (change.jobId) await this.waitFor(change.jobId);
  }

  private async waitFor(jobId: string): Promise<void> {
    if (!this.flags.wait) return;
    const job = await this.ended(jobId);
    if (job.state === 'succeeded') return;
    const error = job.error as { code: string; message: string } | null;
    throw new CliError(
      exitStatus.refused,
      error?.code ?? 'job_cancelled',
      `The job ${job.id} (${job.action} ${job.kind} ${job.resource_name}) ${job.state}${error ? `: ${error.message}` : '.'} ` +
        'The same command goes on from there.',
    );
  }

  /** Tells what the job is at. Throws CliError when the time is up; the job goes on without the command. */
  private async ended(jobId: string): Promise<JobRow> {
    const began = Date.now();
    let told = '';
    let isQuiet = true;
    for (;;) {
      const job = await this.db.operatorTransaction((tx) =>
        tx
          .selectFrom('job')
          .selectAll()
          .where('tenant_id', '=', this.tenantId)
          .where('id', '=', jobId)
          .executeTakeFirstOrThrow(),
      );
      if (job.finished_at) return job;
      const words = job.message ?? '';
      if (words !== '' && words !== told) this.context.tell(`${job.kind} ${job.resource_name}: ${words}`);
      if (words !== '') told = words;
      const waited = Date.now() - began;
      if (isQuiet && waited > QUIET_MS && job.state === 'queued') {
        isQuiet = false;
        this.context.tell('nobody has taken up the job yet: does rhyzome-grpc run?');
      }
      if (waited > this.flags.timeout * 1000)
        throw new CliError(
          exitStatus.refused,
          'not_finished',
          `The job ${jobId} is ${job.state} after ${this.flags.timeout} s, and goes on${told && ` (${told})`}. The same command waits for it again.`,
        );
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }
}

/** The pipeline points into a body that whoever typed a command has not seen. */
function inOptionsWords(error: Error & { code?: string; details?: { errors?: readonly FieldError[] } }): never {
  const [first] = error.details?.errors ?? [];
  if (error.code !== 'invalid' || !first?.pointer) throw error;
  throw new CliError(
    exitStatus.usage,
    'invalid',
    `The administrator’s ${first.pointer.slice(1)} ${first.message}. What was made stays; the same command with another one goes on.`,
    { cause: error },
  );
}
