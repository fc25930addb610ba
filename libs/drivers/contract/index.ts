/**
 * What an agent can drive: one capability a kind, implemented by each driver. The agent's reconciler knows only this
 * file; it never knows which hypervisor or which network stack lies behind it. Shapes of `spec` here are the JSON that
 * the controller sends as desired state; every field comes from the controller's database and is checked again by the
 * driver before it reaches a command line, a file path or XML.
 */

import type { ImageSpec } from './machine-spec.js';
import type { MigrationProgress, MigrationWire } from './migration.js';

export * from './driver-error.js';
export * from './machine-spec.js';
export * from './migration.js';
export * from './network-spec.js';
export * from './sendings.js';

/** One resource on this machine. `id` is a UUID; outer names derive from it and the installation's id. */
export interface Ref {
  tenantId: string;
  kind: string;
  id: string;
}

/** What a driver found on the machine under this installation's name. */
export interface Found<Status> {
  ref: Ref;
  status: Status;
  /**
   * True: it is not as apply left it, and nobody wished it so (the machine restarted, an emulator crashed, parts are
   * missing): applying again puts it right.
   */
  damaged?: boolean;
}

/** One kind, made real on this machine. Every method is idempotent and safe to call again after a crash at any point. */
export interface Capability<Spec, Status> {
  readonly kind: string;
  /** Kinds that must be applied before and removed after this one. */
  readonly after: readonly string[];
  /** Makes it so, whatever was there before. Throws DriverError. */
  apply(ref: Ref, spec: Spec, signal: AbortSignal): Promise<Status>;
  /** Takes it away with everything that apply made; nothing there is success. */
  remove(ref: Ref, signal: AbortSignal): Promise<void>;
  /**
   * Stops it at once, without asking it and without deleting anything: it is no longer this machine's to run. Not running
   * or not there is success. Absent: nothing of the kind runs.
   */
  halt?(ref: Ref): Promise<void>;
  /** All that exists of this kind under this installation's name. */
  inventory(): Promise<Found<Status>[]>;
  /** A deed, e.g. reboot; gives what its asker needs to know of it. Throws DriverError `unknown_verb`. */
  operate?(
    ref: Ref,
    verb: string,
    args: unknown,
    signal: AbortSignal,
    progress?: (progress: MigrationProgress) => void,
  ): Promise<object | undefined>;
  /** A deed has come that ends another one, which may be under way: called before it waits for its turn. */
  interrupt?(ref: Ref, verb: string, args: unknown): void;
  /** Calls back when the observed status changed by itself (a guest that shut down). Returns its end. */
  watch?(onChange: (found: Found<Status>) => void): () => void;
  /** The end of the serial log, oldest byte first, in chunks. */
  consoleLog?(ref: Ref, tailBytes: number): AsyncIterable<Uint8Array>;
  /** The serial line itself. One at a time for a resource; who shares it among viewers is the caller. */
  console?(ref: Ref): Promise<ConsoleLine>;
  /** What each of them uses now. */
  metrics?(): Promise<{ ref: Ref; metrics: Metric[] }[]>;
  /** Images that something on this machine builds on, by sha256; they are not evicted. */
  imagesInUse?(): Promise<ReadonlySet<string>>;
}

export interface ConsoleLine {
  /** What the guest writes; ends with the machine. */
  output: AsyncIterable<Uint8Array>;
  write(data: Uint8Array): Promise<void>;
  close(): void;
}

export interface Metric {
  /** snake_case with its unit, e.g. `cpu_seconds_total`. */
  name: string;
  type: 'counter' | 'gauge';
  labels?: Record<string, string>;
  value: number;
}

export interface MachineCapacity {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

export interface ImageSource {
  /** The local path of an image, fetched and checked if need be. Throws DriverError `image_unavailable`. */
  path(image: ImageSpec, signal: AbortSignal): Promise<string>;
}

export interface ContentSink {
  /** Takes content from this machine into the content store. Goes on where an earlier try for the same operation stopped. Throws DriverError `content_store_failed`. */
  put(operationId: string, path: string, signal: AbortSignal): Promise<{ sha256: string; sizeBytes: number }>;
}

export interface Driver {
  readonly name: string;
  capabilities: readonly Capability<any, any>[];
  capacity(): Promise<MachineCapacity>;
  /** Where other nodes reach this machine; null or absent: nowhere. */
  underlay?(): Promise<MachineUnderlay | null>;
  /** The storage that it shares with other machines, where it makes disks; null or absent: none. */
  sharedStorage?(): { name: string; id: string } | null;
  /** Ends watchers and children that must not outlive the agent; machines and networks stay. */
  close(): Promise<void>;
}

export interface MachineUnderlay {
  /** IPv4. */
  address: string;
  /** UDP, for VXLAN. */
  port: number;
  /** The largest MTU of a network that it carries; null: not known now, since the address is on none of its links. */
  networkMtu: number | null;
}

/** What every driver is made with. */
export interface DriverContext {
  /** Short lower-case id of the installation (first 8 hex digits of its UUID), part of every outer name. */
  installation: string;
  /** Directory of the agent's own, durable state; exists. */
  stateDir: string;
  images: ImageSource;
  content: ContentSink;
  /** Unix socket of the agent's metadata service; null: guests have none. */
  metadataSocket: string | null;
  migration: MigrationWire;
  log: DriverLog;
}

export interface DriverLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}
