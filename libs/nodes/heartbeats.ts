/**
 * The heartbeats of all nodes whose streams a replica holds, written down together: one statement for those of a quarter of a
 * second, however many nodes there are. Knows nothing of streams.
 */
import { Gathering } from '#libs/core';
import type { Database } from '#libs/db';
import { type Beat, recordHeartbeats } from './registry.js';

/** So long a heartbeat may wait for others. It says that a node lives; nobody waits for it. */
const GATHER_MS = 250;

export class Heartbeats {
  private readonly gathering: Gathering<Beat, boolean>;

  constructor(db: Database) {
    this.gathering = new Gathering(
      async (beats) => {
        const ours = await recordHeartbeats(db, beats);
        return beats.map(({ session }) => ours.has(session));
      },
      { waitMs: GATHER_MS },
    );
  }

  /** Resolves once it is written down; false when a later stream of the node has taken over. */
  record(beat: Beat): Promise<boolean> {
    return this.gathering.ask(beat);
  }
}
