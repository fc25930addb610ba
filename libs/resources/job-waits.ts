/** Waiting for the ends of jobs, of all who wait in this process together: what it costs does not follow from how many they are. */
import { Doorbell, Gathering } from '#libs/core';
import type { Database, Listener } from '#libs/db';

/** How often somebody looks although nobody rang. */
const LOOK_MS = 2_000;
/** Of one tenant. Who comes when there are so many gets an answer at once, as if the time were up. */
export const MAX_WAITING = 1_000;

interface Asked {
  tenantId: string;
  id: string;
}

export class JobWaits {
  private readonly waiting = new Map<string, number>();
  private readonly looks: Gathering<Asked, boolean>;

  constructor(
    private readonly db: Database,
    private readonly listener: Listener,
    /** Aborted when this process is about to end. */
    private readonly draining: AbortSignal,
  ) {
    this.looks = new Gathering((asked) => this.look(asked));
  }

  /** Resolves when the job has ended, the time is up or the process is about to end; true if the job ended. */
  async wait(tenantId: string, id: string, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    const before = this.waiting.get(tenantId) ?? 0;
    if (before >= MAX_WAITING) return this.looks.ask({ tenantId, id });
    this.waiting.set(tenantId, before + 1);
    const end = Date.now() + timeoutMs;
    const bell = new Doorbell();
    const off = this.listener.on('rhyzome_event', bell.ring);
    const enough = AbortSignal.any(signal ? [signal, this.draining] : [this.draining]);
    enough.addEventListener('abort', bell.ring);
    try {
      for (let left = timeoutMs; !enough.aborted; left = end - Date.now()) {
        if (await this.looks.ask({ tenantId, id })) return true;
        if (left <= 0) return false;
        await bell.wait(Math.min(left, LOOK_MS));
      }
      return false;
    } finally {
      off();
      enough.removeEventListener('abort', bell.ring);
      this.leave(tenantId);
    }
  }

  private leave(tenantId: string): void {
    const left = (this.waiting.get(tenantId) ?? 1) - 1;
    if (left > 0) this.waiting.set(tenantId, left);
    else this.waiting.delete(tenantId);
  }

  /** One statement for each tenant. A job that there is not has ended. */
  private async look(asked: readonly Asked[]): Promise<boolean[]> {
    const open = new Set<string>();
    for (const [tenantId, those] of Map.groupBy(asked, (one) => one.tenantId)) {
      const rows = await this.db.tenantRead(
        tenantId,
        this.db.builder
          .selectFrom('job')
          .select('id')
          .where('tenant_id', '=', tenantId)
          .where('id', '=', (eb) => eb.fn.any(eb.val(those.map(({ id }) => id))))
          .where('finished_at', 'is', null)
          .compile(),
      );
      for (const { id } of rows) open.add(id);
    }
    return asked.map(({ id }) => !open.has(id));
  }
}
