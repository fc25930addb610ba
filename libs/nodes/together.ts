/** What a replica does for all the node streams that it holds at once, so that its cost does not follow from how many there are. */
import type { Database } from '#libs/db';
import type { KindRegistry } from '#libs/resources';
import { Heartbeats } from './heartbeats.js';
import { Metrics } from './metrics.js';
import { QuietReports } from './quiet-reports.js';
import type { StreamLog } from './stream-log.js';
import { Unreached } from './unreached.js';

export class Together {
  readonly heartbeats: Heartbeats;
  readonly quietReports: QuietReports;
  readonly metrics: Metrics;
  readonly unreached: Unreached;

  constructor(db: Database, registry: KindRegistry, log: StreamLog) {
    this.heartbeats = new Heartbeats(db);
    this.metrics = new Metrics(db);
    this.quietReports = new QuietReports(db, registry);
    this.unreached = new Unreached(db, registry, log);
  }
}
