/**
 * What an agent can drive: one capability a kind, implemented by each driver. The agent's reconciler knows only this
 * file; it never knows which hypervisor or which network stack lies behind it. Shapes of `spec` here are the JSON that
 * the controller sends as desired state; every field comes from the controller's database and is checked again by the
 * driver before it reaches a command line, a file path or XML.
 */

/** One resource on this machine. `id` is a UUID; outer names derive from it and the installation's id. */
export interface Ref {
  tenantId: string;
  kind: string;
  id: string;
}

/** A virtual network of one tenant. All addresses IPv4 in dotted form. */
export interface NetworkSpec {
  /** CIDR without host bits, e.g. 10.20.0.0/24. */
  subnet: string;
  gateway: string;
  /** MAC of the gateway; follows from the network's id, the same on every node. */
  gatewayMac: string;
  /** Resolvers handed out by DHCP; empty: the gateway itself forwards. */
  dns: string[];
  domain: string | null;
  mtu: number;
  /** Every address that anything may have on this network; nothing else gets one. */
  leases: LeaseSpec[];
}

export interface LeaseSpec {
  ip: string;
  mac: string;
  hostname: string | null;
}

/** A virtual machine. Its networks are desired on the same node. */
export interface InstanceSpec {
  name: string;
  vcpus: number;
  memoryMiB: number;
  /** Size of the boot disk; null: the image's virtual size. Never below it. */
  diskGiB: number | null;
  image: ImageSpec;
  interfaces: InterfaceSpec[];
  powerState: 'running' | 'stopped';
  restartPolicy: 'stay' | 'always';
}

export interface ImageSpec {
  /** Lower-case hex of the content; also its address in the content store. */
  sha256: string;
  format: 'qcow2' | 'raw';
  sizeBytes: number;
  virtualSizeBytes: number;
}

export interface InterfaceSpec {
  networkId: string;
  mac: string;
  ip: string;
}

export interface InstanceStatus {
  powerState: 'running' | 'stopped' | 'paused' | 'unknown';
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

/** A failure with a stable code. `permanent`: trying the same again cannot help. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
  constructor(
    readonly code: string,
    message: string,
    readonly options: { permanent?: boolean; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
  }
  get permanent(): boolean {
    return this.options.permanent ?? false;
  }
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
  /** All that exists of this kind under this installation's name. */
  inventory(): Promise<Found<Status>[]>;
  /** A deed, e.g. reboot. Throws DriverError `unknown_verb`. */
  operate?(ref: Ref, verb: string, args: unknown, signal: AbortSignal): Promise<void>;
  /** Calls back when the observed status changed by itself (a guest that shut down). Returns its end. */
  watch?(onChange: (found: Found<Status>) => void): () => void;
  /** The end of the serial log, oldest byte first, in chunks. */
  consoleLog?(ref: Ref, tailBytes: number): AsyncIterable<Uint8Array>;
}

export interface MachineCapacity {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

/** Gives the local path of an image, fetched and checked if need be. Throws DriverError `image_unavailable`. */
export interface ImageSource {
  path(image: ImageSpec, signal: AbortSignal): Promise<string>;
}

export interface Driver {
  readonly name: string;
  capabilities: readonly Capability<any, any>[];
  capacity(): Promise<MachineCapacity>;
  /** Ends watchers and children that must not outlive the agent; machines and networks stay. */
  close(): Promise<void>;
}

/** What every driver is made with. */
export interface DriverContext {
  /** Short lower-case id of the installation (first 8 hex digits of its UUID), part of every outer name. */
  installation: string;
  /** Directory of the agent's own, durable state; exists. */
  stateDir: string;
  images: ImageSource;
  log: DriverLog;
}

export interface DriverLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}
