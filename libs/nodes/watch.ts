/**
 * What happens to nodes by the clock and not by a message: silence becomes a change of state that is written down, alarms
 * are raised and cleared, fences fall due, old events are pruned. Every replica looks; all of it is safe to do from several
 * at once, and is done by comparing rows, so that nothing is missed for a crash.
 */
import { sql } from 'kysely';
import { type Database, isDatabaseAway } from '#libs/db';
import { askDueFences, dropNeedlessFences } from './fencer.js';
import { syncNodeAlarms } from './node-alarms.js';

export interface NodeWatchLog {
  warn(fields: object, message: string): void;
}

export interface NodeWatchOptions {
  log: NodeWatchLog;
  everyMs?: number;
  /** After a start the agents get so long to dial in again, before their silence counts. */
  firstMs?: number;
  /** How long a node is unreachable before somebody is told. */
  alarmAfterSeconds?: number;
  /** How long a node is unreachable before it is fenced; absent: it is not. */
  fenceAfterSeconds?: number;
}

const PRUNED_AT_ONCE = 1_000;

export class NodeWatch {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private stopping = false;

  constructor(
    private readonly db: Database,
    private readonly options: NodeWatchOptions,
  ) {}

  start(): void {
    const { everyMs = 5_000, firstMs = 30_000 } = this.options;
    this.timer = setTimeout(() => this.next(everyMs), firstMs);
    this.timer.unref();
  }

  /** Resolves when what is under way has ended. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.timer);
    await this.running;
  }

  private next(everyMs: number): void {
    this.running = this.look().then(() => {
      if (this.stopping) return;
      this.timer = setTimeout(() => this.next(everyMs), everyMs);
      this.timer.unref();
    });
  }

  private async look(): Promise<void> {
    try {
      await this.round();
    } catch (error) {
      if (!isDatabaseAway(error)) this.options.log.warn({ err: error }, 'watching the nodes failed; it is tried again');
    }
  }

  async round(): Promise<void> {
    const { alarmAfterSeconds = 120, fenceAfterSeconds } = this.options;
    await tellSilence(this.db);
    await dropNeedlessFences(this.db);
    if (fenceAfterSeconds !== undefined) await askDueFences(this.db, fenceAfterSeconds);
    await freeHeldOfGone(this.db);
    await syncNodeAlarms(this.db, alarmAfterSeconds);
    await pruneEvents(this.db);
  }
}

/** Touches the nodes whose state has changed by silence alone: the trigger on the row writes it down. */
async function tellSilence(db: Database): Promise<void> {
  await sql`
    with silent as (
      select n.id from node n where n.told_state is distinct from node_state(n) order by n.id for no key update skip locked)
    update node n set told_state = n.told_state from silent where n.id = silent.id`.execute(db.operator);
}

/** A removal that ended while the node was being fenced may have held an address for it still. */
async function freeHeldOfGone(db: Database): Promise<void> {
  await sql`delete from held_address h using node n where n.id = h.node_id and n.gone_at is not null`.execute(
    db.operator,
  );
}

async function pruneEvents(db: Database): Promise<void> {
  await sql`
    delete from node_event where id in (
      select id from node_event where at < now() - interval '90 days' order by at limit ${PRUNED_AT_ONCE})`.execute(
    db.operator,
  );
}
