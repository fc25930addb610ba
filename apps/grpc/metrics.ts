/** Prometheus metrics of the gRPC server. */

import { sql } from 'kysely';
import { Gauge, type Registry } from 'prom-client';
import { alarmCodes } from '#libs/core';
import { type Database, isDatabaseAway } from '#libs/db';
import type { EventNumberer } from '#libs/events';
import type { JobRunner } from '#libs/jobs';
import { countNodes, type NodeHub, nodeStates } from '#libs/nodes';

export function grpcMetrics(
  registry: Registry,
  db: Database,
  hub: NodeHub,
  runner: JobRunner,
  numberer: EventNumberer,
): void {
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
  gauge(
    'rhyzome_orphans',
    'What nobody owns on the nodes whose streams this replica holds.',
    () => hub.findings.orphans,
  );
  gauge(
    'rhyzome_missing_placements',
    'What nodes whose streams this replica holds had made and have no more.',
    () => hub.findings.missing,
  );
  gauge('rhyzome_jobs_running', 'Jobs that this replica runs right now.', () => runner.running);
  gauge('rhyzome_event_leader', '1 on the replica that numbers events.', () => (numberer.isLeader ? 1 : 0));
  nodesByState(registry, db);
  alarmsByCode(registry, db);
}

/** The same on every replica, since all ask the database; nothing while it is away. */
function nodesByState(registry: Registry, db: Database): void {
  new Gauge({
    name: 'rhyzome_nodes',
    help: 'Nodes by state.',
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      this.reset();
      const counts = await unlessAway(countNodes(db));
      if (counts) for (const state of nodeStates) this.set({ state }, counts[state]);
    },
  });
}

/** Of all tenants and of the platform; as above. */
function alarmsByCode(registry: Registry, db: Database): void {
  new Gauge({
    name: 'rhyzome_alarms_open',
    help: 'Alarms that are not cleared, by code.',
    labelNames: ['code', 'severity'],
    registers: [registry],
    async collect() {
      this.reset();
      const counts = await unlessAway(countAlarms(db));
      if (!counts) return;
      for (const [code, { severity }] of Object.entries(alarmCodes))
        this.set({ code, severity }, counts.get(code) ?? 0);
    },
  });
}

async function countAlarms(db: Database): Promise<Map<string, number>> {
  const { rows } = await sql<{ code: string; alarms: number }>`
    select code, count(*)::int as alarms from alarm where cleared_at is null group by code`.execute(db.operator);
  return new Map(rows.map(({ code, alarms }) => [code, alarms]));
}

function unlessAway<T>(answer: Promise<T>): Promise<T | undefined> {
  return answer.catch((error: unknown) => {
    if (isDatabaseAway(error)) return undefined;
    throw error;
  });
}
