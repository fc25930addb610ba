/** Following a tenant's events as they are numbered; behind server-sent events and gRPC's Watch. */
import { Doorbell } from '#libs/core';
import type { Listener } from '#libs/db';
import type { EventFilter, EventReader, TenantEvent } from './reader.js';

export interface FollowOptions {
  tenantId: string;
  /** Number of the last event that the follower has seen. */
  since: number;
  filter: EventFilter;
  /** Ends the following. */
  signal: AbortSignal;
  /** After so long without an event, null is yielded. */
  idleMs: number;
  /** Asked before each look; throws or says false when the follower may no longer. */
  isWelcome(): Promise<boolean>;
}

/** Yields each event once and in order, and null where nothing came for a while. */
export async function* followEvents(
  reader: EventReader,
  listener: Listener,
  options: FollowOptions,
): AsyncGenerator<TenantEvent | null> {
  const { tenantId, filter, signal, idleMs } = options;
  const bell = new Doorbell();
  const off = listener.on('rhyzome_numbered', bell.ring);
  signal.addEventListener('abort', bell.ring);
  try {
    for (let since = options.since; !signal.aborted && (await options.isWelcome()); ) {
      const { events, upTo, more } = await reader.read(tenantId, since, filter);
      since = upTo;
      yield* events;
      if (!more && !(await bell.wait(idleMs))) yield null;
    }
  } finally {
    off();
    signal.removeEventListener('abort', bell.ring);
  }
}
