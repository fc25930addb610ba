/** Following a tenant's events as they are numbered; behind server-sent events and gRPC's Watch. */
import { Doorbell } from '#libs/core';
import type { Listener } from '#libs/db';
import type { EventFilter, EventReader, TenantEvent } from './reader.js';

export interface FollowOptions {
  tenantId: string;
  /** Number of the last event that the follower has seen. */
  since: number;
  /** Asked before each look: what the follower may see changes with its permissions. */
  filter(): EventFilter;
  /** Ends the following, also between two events of one look. */
  signal: AbortSignal;
  /** After so long without an event, null is yielded. */
  idleMs: number;
}

/** Yields each event once and in order, and null where nothing came for a while. */
export async function* followEvents(
  reader: EventReader,
  listener: Listener,
  options: FollowOptions,
): AsyncGenerator<TenantEvent | null> {
  const { tenantId, signal, idleMs } = options;
  const bell = new Doorbell();
  const off = listener.on('rhyzome_numbered', bell.ring);
  signal.addEventListener('abort', bell.ring);
  try {
    for (let since = options.since; !signal.aborted; ) {
      const { events, upTo, more } = await reader.read(tenantId, since, options.filter());
      since = upTo;
      for (const event of events) {
        if (signal.aborted) return;
        yield event;
      }
      if (!more && !(await bell.wait(idleMs))) yield null;
    }
  } finally {
    off();
    signal.removeEventListener('abort', bell.ring);
  }
}
