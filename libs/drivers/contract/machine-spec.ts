/** What a node is told of machines, their disks and snapshots, as the JSON that the controller sends. */
import type { Incoming } from './migration.js';

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
  /** It is awaited from a node behind a fence: from now on only the controller's word has it run here. */
  closed?: true;
}
