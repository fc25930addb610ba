/** Prometheus metrics of the gRPC server. */

import { Gauge, type Registry } from 'prom-client';
import type { EventNumberer } from '#libs/events';
import type { JobRunner } from '#libs/jobs';
import type { NodeHub } from '#libs/nodes';

export function grpcMetrics(registry: Registry, hub: NodeHub, runner: JobRunner, numberer: EventNumberer): void {
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
}
