/**
 * Runs the configured fence command for the nodes that somebody, or the clock, wants fenced. Each attempt is a row before
 * and after; a process that dies in its middle leaves a lease that runs out, and the command is run again: it must bear that.
 */
import { spawn } from 'node:child_process';
import { sql } from 'kysely';
import { type Database, isDatabaseAway } from '#libs/db';
import { clearAlarm, raiseAlarm } from '#libs/jobs';
import type { KindRegistry } from '#libs/resources';
import { declareGone, wakeJobsOfNode } from './fence.js';

export interface FenceSettings {
  /** Program and arguments; `{node}` in them is the node's name. Never a shell's. */
  command: readonly string[];
  /** What takes longer has failed. */
  timeoutSeconds: number;
  /** Absent: only when an administrator asks. */
  afterSeconds?: number;
}

export interface FencerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

interface Claimed {
  id: string;
  node_id: string;
  name: string;
  epoch: number;
  attempts: number;
  asked_by: string;
}

const AT_ONCE = 4;
const LAST_WORDS_MS = 500;
const MAX_DETAIL_CHARACTERS = 2_000;
/** Beyond the command's own time, for the record of how it ended. */
const LEASE_MARGIN_SECONDS = 15;

export class Fencer {
  private readonly ending = new AbortController();
  private readonly running = new Set<Promise<void>>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly settings: FenceSettings,
    private readonly log: FencerLog,
  ) {}

  start(everyMs = 2_000): void {
    this.timer = setInterval(() => void this.look(), everyMs);
    this.timer.unref();
  }

  /** Ends the commands under way; another replica runs them again. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.ending.abort();
    await Promise.all(this.running);
  }

  private async look(): Promise<void> {
    try {
      await this.takeUp();
    } catch (error) {
      if (!isDatabaseAway(error)) this.log.error({ err: error }, 'fences cannot be looked for; it is tried again');
    }
  }

  /** Takes up what is due; resolves when it is under way. */
  async takeUp(): Promise<void> {
    const free = AT_ONCE - this.running.size;
    if (free <= 0 || this.ending.signal.aborted) return;
    const leaseSeconds = this.settings.timeoutSeconds + LEASE_MARGIN_SECONDS;
    const due = await sql<Claimed>`
      with due as (
        select id from node_fence where finished_at is null and how = 'command' and run_at <= now()
          and (lease_until is null or lease_until < now()) order by run_at limit ${free} for update skip locked)
      update node_fence f set state = 'running', attempts = attempts + 1,
        lease_until = now() + make_interval(secs => ${leaseSeconds})
      from due, node n where f.id = due.id and n.id = f.node_id
      returning f.id, f.node_id, n.name, f.epoch, f.attempts, f.asked_by`.execute(this.db.operator);
    for (const fence of due.rows) {
      const work = this.fence(fence)
        .catch((error: unknown) =>
          this.log.error({ node: fence.name, err: error }, 'how a fence ended cannot be recorded; it is repeated'),
        )
        .finally(() => this.running.delete(work));
      this.running.add(work);
    }
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await Promise.all(this.running);
  }

  private async fence(fence: Claimed): Promise<void> {
    const { name } = fence;
    this.log.warn({ node: name, attempt: fence.attempts, askedBy: fence.asked_by }, 'a node is being fenced');
    const outcome = await runFenceCommand(this.settings, name, this.ending.signal);
    if (this.ending.signal.aborted && !outcome.succeeded) return this.giveBack(fence);
    if (!outcome.succeeded) return this.fail(fence, outcome.detail);
    await this.succeed(fence, outcome.detail);
    this.log.warn({ node: name }, 'a node is fenced');
    await wakeJobsOfNode(this.db, fence.node_id);
  }

  private async giveBack({ id, attempts }: Claimed): Promise<void> {
    await sql`
      update node_fence set state = 'asked', lease_until = null, run_at = now()
      where id = ${id} and state = 'running' and attempts = ${attempts}`.execute(this.db.operator);
  }

  private async succeed(fence: Claimed, detail: string): Promise<void> {
    await this.db.operatorTransaction(async (tx) => {
      const node = await sql<{ id: string; name: string; epoch: number; state: 'unreachable' }>`
        select n.id, n.name, n.epoch, node_state(n) as state from node n where n.id = ${fence.node_id}
        for no key update`.execute(tx);
      const ended = await sql`
        update node_fence set state = 'succeeded', detail = ${detail}, finished_at = now(), lease_until = null
        where id = ${fence.id} and finished_at is null and attempts = ${fence.attempts} returning 1`.execute(tx);
      await clearAlarm(tx, alarmOf(fence));
      // Somebody else was faster, or an administrator's word.
      if (ended.rows.length === 0 || node.rows[0]?.epoch !== fence.epoch) return;
      await declareGone(tx, this.registry, node.rows[0]);
    });
  }

  /** One that an administrator waits for has failed; one by the clock is tried on, more and more rarely. */
  private async fail(fence: Claimed, detail: string): Promise<void> {
    this.log.error({ node: fence.name, detail }, 'a node cannot be fenced');
    const isByClock = fence.asked_by === 'rhyzome';
    const delaySeconds = Math.min(600, 15 * 2 ** (fence.attempts - 1));
    await this.db.operatorTransaction(async (tx) => {
      await sql`
        update node_fence set detail = ${detail}, lease_until = null,
          state = ${isByClock ? 'asked' : 'failed'}, finished_at = case when ${isByClock} then null else now() end,
          run_at = now() + make_interval(secs => ${delaySeconds})
        where id = ${fence.id} and finished_at is null and attempts = ${fence.attempts}`.execute(tx);
      if (!isByClock) return;
      const message = `Node ${fence.name} is away and cannot be fenced: ${detail} It is tried again; when you know that its machine is off, say \`rhyzome node fence ${fence.name} --confirm-off\`.`;
      await raiseAlarm(tx, { ...alarmOf(fence), message, nodeId: fence.node_id });
    });
  }
}

function alarmOf({ node_id }: Pick<Claimed, 'node_id'>) {
  return { tenantId: null, code: 'fence_failed', cause: node_id } as const;
}

/** Exit status 0 in time is success. `detail`: what it wrote, or why it is no success. Never throws. */
export async function runFenceCommand(
  { command, timeoutSeconds }: FenceSettings,
  node: string,
  signal: AbortSignal,
): Promise<{ succeeded: boolean; detail: string }> {
  const [program, ...args] = command.map((part) => part.replaceAll('{node}', node));
  // A group of its own, so that its end takes along what it started.
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, timeout: 0 });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-MAX_DETAIL_CHARACTERS / 2);
    });
  let why: string | undefined;
  const end = (reason: string) => {
    why ??= reason;
    if (child.pid) killGroup(child.pid);
  };
  const timer = setTimeout(() => end(`it took longer than ${timeoutSeconds} s.`), timeoutSeconds * 1000);
  const stop = () => end('rhyzome-grpc is being stopped.');
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    const status = await new Promise<string | null>((resolve) => {
      child.once('error', (error) => resolve(`it cannot be run: ${error.message}.`));
      child.once('exit', (code, by) => {
        const ended = () => resolve(code === 0 ? null : `it ended with ${by ?? `status ${code}`}.`);
        // Its last words may be on their way; what it left running may keep the pipes open.
        child.once('close', ended);
        setTimeout(ended, LAST_WORDS_MS).unref();
      });
    });
    const words = output.trim() === '' ? '' : ` It said: ${output.trim()}`;
    if (status === null && why === undefined) return { succeeded: true, detail: output.trim() };
    return { succeeded: false, detail: `${why ?? status}${words}` };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
    child.stdout.destroy();
    child.stderr.destroy();
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/**
 * Asks for the fences that the clock wants: of nodes that have been away for long enough, each once. Not while fewer than
 * half of the nodes are heard: then it is more likely this side that is cut off, and it must not switch off what works. Nor
 * while a restored database has not been compared with the nodes.
 */
export async function askDueFences(db: Database, afterSeconds: number): Promise<void> {
  await sql`
    with known as (select n.id, n.epoch, node_state(n) as state, node_away_since(n) as away_since from node n)
    insert into node_fence (id, node_id, epoch, how, asked_by)
    select gen_random_uuid(), id, epoch, 'command', 'rhyzome' from known
    where away_since < now() - make_interval(secs => ${afterSeconds}) and not nodes_are_held()
      and (select count(*) filter (where state not in ('unreachable', 'gone')) * 2 >= count(*) from known where state <> 'gone')
    on conflict (node_id) where finished_at is null do nothing`.execute(db.operator);
}

/** A node that is heard again before it was fenced needs no fence by the clock. */
export async function dropNeedlessFences(db: Database): Promise<void> {
  await sql`
    update node_fence f set state = 'failed', finished_at = now(), detail = 'the node was heard again'
    from node n where n.id = f.node_id and f.state = 'asked' and f.asked_by = 'rhyzome' and f.how = 'command'
      and node_state(n) <> 'unreachable'`.execute(db.operator);
}
