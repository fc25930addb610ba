/** Prometheus metrics of the gRPC server. */

import { Gauge, type Registry } from 'prom-client';
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
      const counts = await countNodes(db).catch((error: unknown) => {
        if (isDatabaseAway(error)) return undefined;
        throw error;
      });
      if (counts) for (const state of nodeStates) this.set({ state }, counts[state]);
    },
  });
}
