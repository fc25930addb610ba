/** `rhyzome job`: what is under way for all tenants, and an operator's word where one is needed. */
import { Command, Option } from 'commander';
import type { JobRow, JobStepRow } from '#libs/jobs';
import type { Change, Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { wholeNumber } from '../option-values.js';
import { fields, table } from '../table.js';

const states = ['queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelling', 'cancelled'];

interface TenantFlag {
  tenant?: string;
}

interface Found {
  row: JobRow;
  steps: JobStepRow[];
}

export function jobCommand(context: Context): Command {
  return new Command('job')
    .description('jobs of all tenants')
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(retry(context))
    .addCommand(cancel(context))
    .addCommand(resolve(context));
}

function list(context: Context): Command {
  return new Command('list')
    .description('jobs, the newest first')
    .option('--tenant <id>', 'of this tenant only')
    .addOption(new Option('--state <state>', 'in this state only').choices(states))
    .option('--limit <n>', 'how many', wholeNumber(1, 1000), 50)
    .action(async (flags: TenantFlag & { state?: string; limit: number }) => {
      const { listJobs } = await import('../jobs.js');
      const rows = await context.read((tx) => listJobs(tx, flags));
      const cells = rows.map((j) => [
        j.id,
        j.tenant_id,
        `${j.action} ${j.kind} ${j.resource_name}`,
        j.state,
        `${j.progress} %`,
        j.created_at,
        j.message,
      ]);
      const headings = ['ID', 'TENANT', 'WHAT', 'STATE', 'DONE', 'CREATED', 'MESSAGE'];
      context.show(await Promise.all(rows.map((row) => view({ row }))), table(headings, cells));
    });
}

function show(context: Context): Command {
  return ofOneJob('show', 'one job with its steps').action(async (id: string, { tenant }: TenantFlag) => {
    const { findJob } = await import('../jobs.js');
    const found = await context.read((tx) => findJob(tx, id, tenant));
    context.show(await view(found), words(found));
  });
}

function retry(context: Context): Command {
  return ofOneJob('retry', 'the stored request of a failed job again').action((id: string, { tenant }: TenantFlag) =>
    change(context, 'retry', id, tenant, 'is queued again', async ({ tx }, row) => {
      const [{ KindRegistry, retryJob }, { kinds }, { actInTenant }] = await Promise.all([
        import('#libs/resources'),
        import('#libs/kinds'),
        import('../jobs.js'),
      ]);
      await actInTenant(tx, row.tenant_id);
      await retryJob(tx, new KindRegistry(kinds), row.tenant_id, row.id);
    }),
  );
}

function cancel(context: Context): Command {
  return ofOneJob('cancel', 'undo what a job has done so far').action((id: string, { tenant }: TenantFlag) =>
    change(context, 'cancel', id, tenant, 'is being undone', async ({ tx }, row) => {
      const [{ cancelWithResource }, { actInTenant }] = await Promise.all([
        import('#libs/resources'),
        import('../jobs.js'),
      ]);
      await actInTenant(tx, row.tenant_id);
      await cancelWithResource(tx, row);
    }),
  );
}

function resolve(context: Context): Command {
  return ofOneJob('resolve', 'say whether a deed happened of which the node does not know')
    .option('--done', 'it happened: go on')
    .option('--redo', 'it did not, or may happen twice: do it again')
    .option('--tombstone', 'a removal: do not wait for a node that is away, which removes it when it is back')
    .action((id: string, flags: TenantFlag & { done?: boolean; redo?: boolean; tombstone?: boolean }) => {
      if (Number(flags.done ?? 0) + Number(flags.redo ?? 0) + Number(flags.tombstone ?? 0) !== 1)
        throw new CliError(exitStatus.usage, 'usage', 'Say one of --done, --redo and --tombstone.');
      if (flags.tombstone) return giveUp(context, id, flags.tenant);
      const word = flags.done ? 'done' : 'redo';
      return change(context, `resolve-${word}`, id, flags.tenant, 'goes on', async ({ tx }, row) => {
        const [{ resolveDeed }, { wakeJobs }] = await Promise.all([import('#libs/nodes'), import('#libs/jobs')]);
        await resolveDeed(tx, row.tenant_id, row, word);
        await wakeJobs(tx, row.tenant_id, [row.resource_id]);
      });
    });
}

function giveUp(context: Context, id: string, tenant: string | undefined): Promise<void> {
  return change(context, 'resolve-tombstone', id, tenant, 'goes on', async ({ tx }, row) => {
    const [{ entombNow }, { lockSubject, wakeJobs }] = await Promise.all([import('#libs/nodes'), import('#libs/jobs')]);
    const { tenant_id: tenantId } = row;
    await lockSubject(tx, tenantId, row.resource_id);
    // It may be at another resource's removal: an instance's at its disk.
    await entombNow(tx, tenantId, [row.resource_id, ...(row.waits_for ? [row.waits_for] : [])]);
    await wakeJobs(tx, tenantId, [row.resource_id]);
  });
}

function ofOneJob(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .argument('<id>')
    .option('--tenant <id>', 'refuse the job if it is not of this tenant');
}

/** Finds the job, changes it and leaves the audit row with its tenant, all in one transaction. */
async function change(
  context: Context,
  verb: string,
  id: string,
  tenant: string | undefined,
  outcome: string,
  work: (change: Change, row: JobRow) => Promise<void>,
): Promise<void> {
  const { findJob } = await import('../jobs.js');
  const found = await context.change(async (in_) => {
    const { row } = await findJob(in_.tx, id, tenant);
    await work(in_, row);
    await in_.audit({
      tenantId: row.tenant_id,
      action: `job.${verb}`,
      kind: 'job',
      resourceId: row.id,
      resourceName: row.resource_name,
    });
    return findJob(in_.tx, id, tenant);
  });
  context.show(await view(found), `Job ${id} ${outcome}: it is ${found.row.state}.`);
}

/** As the REST API shows it, and whose it is. */
async function view({ row, steps }: { row: JobRow; steps?: JobStepRow[] }): Promise<Record<string, unknown>> {
  const { jobView } = await import('#libs/resources');
  return { tenant: row.tenant_id, ...jobView(row, steps) };
}

function words({ row, steps }: Found): string {
  const error = row.error as { code: string; message: string } | null;
  const about = fields({
    id: row.id,
    tenant: row.tenant_id,
    what: `${row.action} ${row.kind} ${row.resource_name} (${row.resource_id})`,
    state: row.state,
    done: `${row.progress} %`,
    message: row.message,
    error: error && `${error.code}: ${error.message}`,
    attempts: row.attempts,
    created: `${row.created_at.toISOString()} by ${row.created_by}`,
    started: row.started_at,
    finished: row.finished_at,
  });
  if (steps.length === 0) return about;
  const rows = steps.map((s) => [s.ordinal, s.name, s.state, s.started_at, s.finished_at, s.message]);
  return `${about}\n\n${table(['STEP', 'NAME', 'STATE', 'STARTED', 'FINISHED', 'MESSAGE'], rows)}`;
}
