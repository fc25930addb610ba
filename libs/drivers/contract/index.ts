/**
 * What an agent can drive: one capability a kind, implemented by each driver. The agent's reconciler knows only this
 * file; it never knows which hypervisor or which network stack lies behind it. Shapes of `spec` here are the JSON that
 * the controller sends as desired state; every field comes from the controller's database and is checked again by the
 * driver before it reaches a command line, a file path or XML.
 */

import type { Incoming, MigrationProgress, MigrationWire } from './migration.js';

export * from './migration.js';

/** One resource on this machine. `id` is a UUID; outer names derive from it and the installation's id. */
export interface Ref {
  tenantId: string;
  kind: string;
  id: string;
}

/** A virtual network of one tenant. Addresses IPv4 in dotted form, IPv6 as RFC 5952 writes them. */
export interface NetworkSpec {
  /** CIDR without host bits, e.g. 10.20.0.0/24. */
  subnet: string;
  gateway: string;
  /** IPv6 CIDR without host bits; a /64 is for SLAAC (RFC 4862), a longer prefix for DHCPv6 (RFC 8415). Null: no IPv6. */
  subnet6: string | null;
  gateway6: string | null;
  /** MAC of the gateway; follows from the network's id, the same on every node. */
  gatewayMac: string;
  /** Resolvers handed out by DHCP; empty: the gateway itself forwards. */
  dns: string[];
  domain: string | null;
  mtu: number;
  /** Every address that anything may have on this network; nothing else gets one. */
  leases: LeaseSpec[];
  /** Public addresses that belong to one guest each, both ways (1:1 NAT). */
  publicAddresses: PublicAddressSpec[];
  /** Ports of public addresses that lead to a guest. */
  forwards: ForwardSpec[];
  /**
   * In their order, the first that matches decides; empty: everything may pass, as without a firewall. What no rule
   * matches: `out` passes; `in` passes only to guests of which no `in` rule says what is allowed. From guest to guest is
   * `out` of one and `in` of the other, and both must pass. DHCP, DNS, ARP, neighbour discovery and metadata between a
   * guest and its router always pass.
   */
  firewall: FirewallRuleSpec[];
  /** The network's VPN door; null: it has none. */
  wireguard: WireguardSpec | null;
  /** How it spans other nodes; null or absent: it is on this machine alone, with its router. */
  overlay?: OverlaySpec | null;
}

export interface LeaseSpec {
  ip: string;
  mac: string;
  hostname: string | null;
  /** Null where the network has no IPv6. */
  ip6: string | null;
  /** Which of the overlay's nodes it is on; null or absent: it is on this machine, or nowhere. */
  node?: number | null;
}

/**
 * A network that stands on several nodes: its frames go between them in VXLAN (RFC 7348), to the node that has the
 * destination and to no other. All its routing is done by one of them; the others have no parts of its router: there
 * publicAddresses, forwards, firewall, wireguard and host names are empty.
 */
export interface OverlaySpec {
  /** Of this network alone in the whole installation. */
  vni: number;
  /** This machine's address among the nodes, and the UDP port at which it listens. */
  address: string;
  port: number;
  /** The others that have the network. */
  nodes: OverlayNode[];
  /** Which of them has the router; null: this machine. */
  router: number | null;
  /** The network has a firewall, which its router is: no guest's packet goes past it. */
  walled: boolean;
}

/** No guest's MAC: what answers guests at the metadata address has it where their router is on another node. */
export const annexMac = '0e:52:5a:fe:a9:fe';

export interface OverlayNode {
  address: string;
  port: number;
}

export interface PublicAddressSpec {
  publicIp: string;
  ip: string;
}

export interface ForwardSpec {
  publicIp: string;
  protocol: 'tcp' | 'udp';
  port: number;
  ip: string;
  targetPort: number;
}

/**
 * Stateful: answers to what was let through pass, and a connection that stands is asked again when the rules change.
 * Addresses and ports are the guest's own, not the public ones before them. Selectors are resolved to addresses by the
 * controller.
 */
export interface FirewallRuleSpec {
  id: string;
  /** Seen from the guests. */
  direction: 'in' | 'out';
  action: 'allow' | 'deny';
  protocol: 'any' | 'tcp' | 'udp' | 'icmp';
  /** Destination ports of tcp and udp; empty: all. */
  ports: { from: number; to: number }[];
  /** The other side: addresses or CIDRs of either family; null: anybody. */
  remotes: string[] | null;
  /** The guests that it is about: addresses of either family; null: all of the network. */
  guests: string[] | null;
}

/** A WireGuard interface in the network's router. Keys are base64 (32 bytes). */
export interface WireguardSpec {
  privateKey: string;
  /** UDP port on the node's uplink. */
  port: number;
  /** The router's own address in the tunnel, CIDR. */
  address: string;
  peers: { publicKey: string; presharedKey: string | null; allowedIps: string[] }[];
}

export interface NetworkStatus {
  /** Where peers reach the VPN door, `address:port`; absent without one or without an uplink. */
  wireguardEndpoint?: string;
}

/** A disk. What it is made from counts only while it does not exist yet. */
export interface DiskSpec {
  /** Never below what it is; a larger value grows it, also while it is in use. */
  sizeBytes: number;
  image: ImageSpec | null;
  /** A snapshot on the same machine. At most one of image and snapshot is set; neither: it is empty. */
  snapshot: { diskId: string; snapshotId: string } | null;
  /** Its content comes from another node; until it has, nothing may use it. */
  incoming?: Incoming;
  /** Where its file is on storage that several nodes share; absent: it is on this machine's own. */
  shared?: SharedPlace;
}

/** A file on shared storage is one node's at a time, which alone opens, changes and removes it. */
export interface SharedPlace {
  storage: string;
  /** Of the storage: one of the same name with other files has another. */
  storageId: string;
  /** Whose it is to be: this machine's id as a node. */
  node: string;
  /** Nodes that it may be taken from: they are off, or have let go of it. Where there are any, it was made already. */
  takeFrom: string[];
}

export interface DiskStatus {
  sizeBytes: number;
}

/** The fixed state of a disk at one moment. Made once: one that is lost is a failure, never made again. */
export interface SnapshotSpec {
  diskId: string;
}

export interface SnapshotStatus {
  /** Bytes that the disk held on this machine when it was taken. */
  sizeBytes: number;
  /** Size of the disk then, as its machine saw it. */
  virtualSizeBytes: number;
}

/** A virtual machine. Its networks and disks are desired on the same node. */
export interface InstanceSpec {
  name: string;
  vcpus: number;
  memoryMiB: number;
  /** Those that are attached, by slot. What is not here any more is detached, also from a running machine. */
  disks: AttachedDiskSpec[];
  interfaces: InterfaceSpec[];
  powerState: 'running' | 'stopped';
  restartPolicy: 'stay' | 'always';
  guest: GuestSpec;
  /** It comes from another node: all is made ready for it, and only the migration itself starts it. */
  incoming?: Incoming;
}

export interface AttachedDiskSpec {
  diskId: string;
  /** 0 is the first virtio disk (vda), 1 the second (vdb) …; stays while the disk is attached. */
  slot: number;
  /** 1 is booted from first; null: never. */
  bootOrder: number | null;
}

/** What a guest is told of itself: by the NoCloud seed and over the metadata address. */
export interface GuestSpec {
  hostname: string;
  tags: Record<string, string>;
  /** As cloud-init takes it; null: none. */
  userData: string | null;
  /** Public keys as authorized_keys(5) has them. */
  sshKeys: string[];
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
  ip6: string | null;
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

/** `permanent`: trying the same again cannot help. */
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
