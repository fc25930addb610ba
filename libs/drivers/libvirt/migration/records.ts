/**
 * What is noted beside a machine that moves, so that an agent that starts again knows whose the machine is. Here: it was
 * sent away, and how far that came. There: it is awaited, and whether it was let go. While either is noted, nothing but
 * the migration starts it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Incoming, MigrationMode, MigrationPeer } from '#libs/drivers/contract';
import { readJson, writeJson } from '../folders.js';
import type { Place } from '../places.js';

export interface Outgoing {
  operationId: string;
  to: MigrationPeer;
  mode: MigrationMode;
  /**
   * `sending`: it is this node's. `gone`: it is off here and whole there, and waits there to be let go; this node has it
   * back only by the other's word or the controller's. `releasing`: it may run there; here only when the controller says that it
   * never will there. `released`: it does.
   */
  phase: 'sending' | 'gone' | 'releasing' | 'released';
  /** Whether it ran here when it was sent away. */
  wasRunning: boolean;
}

export interface Awaited extends Incoming {
  /** The sender has let it go: it is this node's. */
  released: boolean;
  /** The sender has said that it is off there, and that it has it back by nobody's silence. Of what is here now. */
  left?: boolean;
  /** The sender is behind a fence, and heard no more. */
  closed?: boolean;
}

const outgoingFile = (place: Place) => join(place.dir, 'outgoing.json');
const awaitedFile = (place: Place) => join(place.dir, 'incoming.json');

export const outgoingOf = (place: Place) => readJson<Outgoing>(outgoingFile(place));
export const noteOutgoing = (place: Place, outgoing: Outgoing) => writeJson(outgoingFile(place), outgoing);
export const dropOutgoing = (place: Place) => rm(outgoingFile(place), { force: true });

export const awaitedOf = (place: Place) => readJson<Awaited>(awaitedFile(place));
export const noteAwaited = (place: Place, awaited: Awaited) => writeJson(awaitedFile(place), awaited);
export const dropAwaited = (place: Place) => rm(awaitedFile(place), { force: true });
