/**
 * Audit rows of reads that were refused. Reading asks nothing of the audit, so what is refused is noted in memory and
 * written together, the same in the same moment once with its number: whoever asks for thousands of ids leaves few rows.
 * What was not written yet is lost when the process dies.
 */
import { RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import { type AuditEntry, auditValues } from './audit.js';

export type RefusedRead = Omit<AuditEntry, 'result' | 'details'>;

const WITHIN_MS = 1_000;
/** Rows of a tenant between two writes; further ones are counted together by who asked and what for. */
const MAX_OF_TENANT = 20;
const MAX_TENANTS = 1_000;

interface Noted {
  entry: RefusedRead;
  count: number;
}

export class RefusedReads {
  private noted = new Map<string, Map<string, Noted>>();
  private timer: NodeJS.Timeout | undefined;
  private writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly db: Database,
    private readonly log: { warn(fields: object, message: string): void },
  ) {}

  tell(entry: RefusedRead): void {
    const { tenantId, actor, action, resourceName = '', code = '' } = entry;
    const ofTenant = this.noted.get(tenantId) ?? new Map<string, Noted>();
    if (!this.noted.has(tenantId)) {
      if (this.noted.size >= MAX_TENANTS) return;
      this.noted.set(tenantId, ofTenant);
    }
    const own = JSON.stringify([actor, action, code, resourceName]);
    const isFull = ofTenant.size >= MAX_OF_TENANT && !ofTenant.has(own);
    const key = isFull ? JSON.stringify([actor, action, code]) : own;
    const known = ofTenant.get(key);
    if (known) known.count += 1;
    // Of further actors than there is room for, the first stands for all.
    else if (ofTenant.size < 2 * MAX_OF_TENANT) ofTenant.set(key, { entry: isFull ? unnamed(entry) : entry, count: 1 });
    else [...ofTenant.values()].at(-1)!.count += 1;
    this.timer ??= setTimeout(() => void this.flush(), WITHIN_MS).unref();
  }

  /** Never rejects; what cannot be written is told in the log. */
  flush(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    const taken = this.noted;
    this.noted = new Map();
    this.writing = this.writing.then(async () => {
      for (const [tenantId, noted] of taken) await this.write(tenantId, [...noted.values()]);
    });
    return this.writing;
  }

  private async write(tenantId: string, noted: Noted[]): Promise<void> {
    const rows = noted.map(({ entry, count }) =>
      auditValues({ ...entry, result: 'refused', ...(count > 1 && { details: { count } }) }),
    );
    try {
      await this.db.tenantTransaction(tenantId, (tx) => tx.insertInto('audit').values(rows).execute());
    } catch (error) {
      const err = error instanceof RhyzomeError ? error.message : error;
      this.log.warn({ tenant: tenantId, rows: rows.length, err }, 'refused reads could not be written down');
    }
  }

  /** Writes what is left. */
  close(): Promise<void> {
    return this.flush();
  }
}

function unnamed({ resourceName: _, resourceId: __, ...entry }: RefusedRead): RefusedRead {
  return entry;
}
