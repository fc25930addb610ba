/** Deeds: what is not a state but happens once (reboot). The id is the job's, so that asking twice is asking once. */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import { clearAlarm, raiseAlarm } from '#libs/jobs';

export interface NewDeed {
  /** Operation id; the agent keeps it around the effect. */
  id: string;
  nodeId: string;
  verb: string;
  arguments?: object;
  /** A repetition after a crash in the middle does no harm. */
  repeatable: boolean;
  /** The resource whose job asks, where it is not the deed's own. */
  askedBy?: string;
}

export async function askDeed(tx: Tx, core: ResourceCore, deed: NewDeed): Promise<void> {
  wakeAfterCommit('rhyzome_node', deed.nodeId);
  await tx
    .insertInto('deed')
    .values({
      tenant_id: core.tenantId,
      id: deed.id,
      node_id: deed.nodeId,
      kind: core.kind,
      resource_id: core.id,
      verb: deed.verb,
      arguments: JSON.stringify(deed.arguments ?? {}),
      repeatable: deed.repeatable,
      asked_by: deed.askedBy ?? null,
    })
    .onConflict((oc) => oc.columns(['tenant_id', 'id']).doNothing())
    .execute();
}

/** What a deed that is done gave back; null: nothing, as when an operator said that it happened. */
export interface DoneDeed {
  result: Record<string, unknown> | null;
}

/** Whether the deed is done. Throws RhyzomeError `job_failed`; an unclear one waits for an operator's word. */
export async function probeDeed(tx: Tx, core: Pick<ResourceCore, 'tenantId'>, id: string): Promise<DoneDeed | Waiting> {
  const deed = await tx
    .selectFrom('deed as d')
    .innerJoin('node as n', 'n.id', 'd.node_id')
    .select(['d.state', 'd.failure', 'd.result', 'n.name as node'])
    .select(sql<boolean>`node_connected(n)`.as('isConnected'))
    .where('d.tenant_id', '=', core.tenantId)
    .where('d.id', '=', id)
    .executeTakeFirst();
  const failure = deed?.failure as { code: string; message: string } | null | undefined;
  switch (deed?.state) {
    case 'done':
      return { result: deed.result as DoneDeed['result'] };
    case 'failed':
      throw new RhyzomeError('job_failed', failure?.message ?? 'The node refused.', {
        extensions: { reason: failure?.code ?? 'unknown' },
      });
    case 'unclear':
      return new Waiting('It is not clear whether this happened; an operator has to say.', true);
    default:
      if (deed && !deed.isConnected) return new Waiting(`Node ${deed.node} is away; it goes on when it is back.`, true);
      return new Waiting('The node has been asked.');
  }
}

/** Somebody has to look; by the resource's own lock, which the caller has. */
export async function raiseUnclear(
  tx: Tx,
  deed: {
    tenantId: string;
    id: string;
    nodeId: string;
    kind: string;
    resourceId: string;
    verb: string;
    askedBy: string;
  },
): Promise<void> {
  const { tenantId } = deed;
  const job = await tx
    .selectFrom('job')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', deed.askedBy)
    .where('finished_at', 'is', null)
    .executeTakeFirst();
  await raiseAlarm(tx, {
    tenantId,
    code: 'outcome_unclear',
    cause: deed.id,
    message: `The node cannot say whether the ${deed.verb} happened; an operator has to look and to say.`,
    resource: { kind: deed.kind, id: deed.resourceId },
    jobId: job?.id,
    nodeId: deed.nodeId,
  });
}

/** Takes back what a node has not done yet; nobody has to say any more what came of it. */
export async function withdrawDeed(tx: Tx, core: Pick<ResourceCore, 'tenantId'>, id: string): Promise<void> {
  const taken = await tx
    .deleteFrom('deed')
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', id)
    .where('state', '!=', 'done')
    .returning('state')
    .execute();
  if (taken.some(({ state }) => state === 'unclear')) {
    await clearAlarm(tx, { tenantId: core.tenantId, code: 'outcome_unclear', cause: id });
  }
}

/**
 * An operator's word on the unclear deed of a job, which has the job's id or one that the job has given it: it happened, or
 * do it again. Throws RhyzomeError `conflict`.
 */
export async function resolveDeed(
  tx: Tx,
  tenantId: string,
  job: { id: string; resource_id?: string },
  word: 'done' | 'redo',
): Promise<void> {
  const result = await tx
    .updateTable('deed')
    .set(word === 'done' ? { state: 'done', finished_at: new Date() } : { state: 'asked', repeatable: true })
    .where('tenant_id', '=', tenantId)
    .where((eb) =>
      eb.or([eb('id', '=', job.id), ...(job.resource_id ? [eb('resource_id', '=', job.resource_id)] : [])]),
    )
    .where('state', '=', 'unclear')
    .returning(['id', 'node_id'])
    .executeTakeFirst();
  if (!result) {
    throw new RhyzomeError('conflict', 'The job does not wait for a word on a deed whose outcome is unclear.');
  }
  await clearAlarm(tx, { tenantId, code: 'outcome_unclear', cause: result.id });
  wakeAfterCommit('rhyzome_node', result.node_id);
}
