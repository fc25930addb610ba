/** Prometheus metrics of the gRPC server. */

import { sql } from 'kysely';
import { Gauge, type Registry } from 'prom-client';
import { alarmCodes } from '#libs/core';
import { type Database, isDatabaseAway } from '#libs/db';
import type { EventNumberer } from '#libs/events';
import type { JobRunner } from '#libs/jobs';
import type { NodeHub } from '#libs/nodes';

interface Measured {
  db: Database;
  hub: NodeHub;
  runner: JobRunner;
  numberer: EventNumberer;
}

export function grpcMetrics(registry: Registry, { db, hub, runner, numberer }: Measured): void {
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  gauge('rhyzome_node_streams', 'Node streams that this replica holds.', () => hub.size);
  gauge('rhyzome_jobs_running', 'Jobs that this replica runs right now.', () => runner.running);
  gauge('rhyzome_event_leader', '1 on the replica that numbers events.', () => (numberer.isLeader ? 1 : 0));
  new Gauge({
    name: 'rhyzome_alarms_open',
    help: 'Alarms of all tenants and of the platform that are not cleared; every replica says the same.',
    labelNames: ['code', 'severity'],
    registers: [registry],
    async collect() {
      const counts = await openAlarms(db);
      this.reset();
      if (!counts) return;
      for (const [code, { severity }] of Object.entries(alarmCodes)) this.set({ code, severity }, counts.get(code) ?? 0);
    },
  });
}

/** Undefined while the database is away: what is not known is not said, and the other metrics are. */
async function openAlarms(db: Database): Promise<Map<string, number> | undefined> {
  const counting = sql<{ code: string; count: number }>`
    select code, count(*)::int as count from alarm where cleared_at is null group by code`.execute(db.operator);
  const counted = await counting.catch((error) => {
    if (!isDatabaseAway(error)) throw error;
    return undefined;
  });
  return counted && new Map(counted.rows.map(({ code, count }) => [code, count]));
}
