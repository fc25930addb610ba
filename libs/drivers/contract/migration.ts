/**
 * What moves a machine from one node to another asks of the agent around it: connections to the one other node that the
 * controller named, for the one operation that it told both of. Drivers know nothing of TLS and certificates.
 */
import type { Duplex } from 'node:stream';

/** What a machine or a disk that is to come from another node is waiting for. */
export interface Incoming {
  /** Of the migration; both nodes are told the same. */
  operationId: string;
  /** Name of the node that sends. */
  from: string;
  /** `live`: running, its memory with it; `cold`: switched off, its disks as files. */
  mode: MigrationMode;
  /** Of a disk: its file is on storage that both nodes share, and stays where it is. */
  stays?: boolean;
  /** Of a disk: it comes without a machine, by a deed of its own. */
  alone?: boolean;
  /**
   * Of a machine: the node that sends is behind a fence. Nothing of it is taken in or heard any more; what it said before counts.
   * `mayRun`: what is whole, and off there as it said itself, is let run. Else it may have been told to have it back.
   */
  fenced?: { mayRun: boolean };
}

export type MigrationMode = 'live' | 'cold';

export interface MigrationPeer {
  /** Name of the node, as its certificate has it. */
  node: string;
  /** host:port of its agent. */
  address: string;
}

export type Message = Record<string, unknown>;

/** The side that takes in: a question has come on a channel; after the answer, bytes flow both ways. */
export interface Asked {
  channel: string;
  question: Message;
  /** Answers, once; then the stream is the channel's. */
  accept(answer: Message): Promise<Duplex>;
}

export interface MigrationWire {
  /**
   * Takes in connections of this operation from this node, until `forget`; again: the same. What `serve` throws is told
   * to the other side.
   */
  expect(operationId: string, from: string, serve: (asked: Asked) => Promise<void>): void;
  /** Takes in no more of it, and ends what is open. */
  forget(operationId: string): void;
  /**
   * Opens a channel to the node that takes in. Throws DriverError: `peer_unreachable`, or what the other side's `serve`
   * threw.
   */
  open(
    peer: MigrationPeer,
    operationId: string,
    channel: string,
    question: Message,
    signal: AbortSignal,
  ): Promise<{ answer: Message; stream: Duplex }>;
}

/** Of a machine that is alone: nothing comes, and nobody can be reached. */
export const noMigration: MigrationWire = {
  expect: () => undefined,
  forget: () => undefined,
  open: () => Promise.reject(new Error('There is no way to other nodes here.')),
};

/** How far a migration has come, in bytes of memory and disks; told now and then. */
export interface MigrationProgress {
  doneBytes: number;
  totalBytes: number;
}

/** The deed that sends a machine away, as the controller asks for it: `migrate`. */
export interface MigrateArguments {
  operationId: string;
  to: MigrationPeer;
  mode: MigrationMode;
  /** Its disks, in the order of their slots. */
  disks: string[];
  /** Those of them whose files stay on storage that both nodes share. Absent: none. */
  shared?: string[];
  /** Whether a machine that runs may be switched off for it. */
  mayStop: boolean;
}

/**
 * The deed that takes that back, as far as it can be: `abandon`. Once a machine is off here, nothing else has it back but the
 * other node's word that it is not whole there.
 */
export interface AbandonArguments {
  operationId: string;
  /** Whose it is, once and for all: this node's, and the other will not run it; or the other's. Nobody has to be asked. */
  settled?: 'here' | 'there';
  /** Where the other node is now, should it have to be asked; default: where it was. */
  to?: MigrateArguments['to'];
}

/** What became of it. `moved`: the machine is the other node's, and is not here any more. */
export interface MigrationOutcome {
  moved: boolean;
}
