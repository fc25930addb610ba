/** The settings of a node's agent: whom it dials, what it drives, and how it meets other nodes. */
import { isIpv4 } from '#libs/core';
import { type PkiConfig, pkiShape } from './pki-config.js';
import {
  address,
  endpoint,
  flag,
  integer,
  list,
  map,
  object,
  oneOf,
  oneOrMore,
  optional,
  path,
  required,
  type Shape,
  text,
} from './shape.js';

/** The way out of the tenants' networks. */
export interface UplinkConfig {
  /** The machine's link that outgoing traffic leaves by. */
  interface: string;
  /** Resolvers that the networks' routers ask. */
  resolvers?: string[];
  /** CIDRs that guests must not reach, beside those that are denied anyway. */
  denied?: string[];
}

/** Where the node meets the others, for networks that are on several. */
export interface UnderlayConfig {
  /** The machine's IPv4 address at which other nodes reach it. */
  address: string;
  /** The only link by which they do; its MTU counts. Default: any; that of the address's link. */
  interface?: string;
  /** UDP; default 4789. */
  port?: number;
}

/** Where other nodes bring machines to this one. */
export interface MigrationConfig {
  /** host:port; only the other nodes need to reach it. */
  listen: string;
  /** host:port at which they do; default: `listen`. */
  advertise?: string;
}

/** Storage that several nodes share: disks are made there, and come up on another node when theirs is lost. */
export interface SharedStorageConfig {
  /** Its name, the same on all nodes that see its files. */
  shared: string;
  /** Folder where it is on this machine, absolute. */
  dir: string;
}

export interface AgentConfig {
  /** Where rhyzome-grpc listens: host:port, or unix:/path; several replicas of it where there are. */
  controller: string[];
  /** The name that the controllers' certificates must hold for; default: the host in `controller`, localhost for a socket. */
  serverName?: string;
  /** Folder of the agent's durable state, absolute. */
  stateDir: string;
  /** `auto`: libvirt where it works, else sim. */
  driver: 'sim' | 'libvirt' | 'auto';
  libvirt?: { uri: string };
  network?: { uplink?: UplinkConfig; underlay?: UnderlayConfig };
  /** Absent: this node takes in no machines from others. */
  migration?: MigrationConfig;
  /** Absent: disks are made in stateDir. */
  storage?: SharedStorageConfig;
  /** Folder for what can be made again, e.g. the outcome of the KVM probe, absolute; default: in stateDir. */
  cacheDir?: string;
  labels: Record<string, string>;
  /** The node's certificate, where it is not the file's `pki`. */
  pki?: PkiConfig;
  /** Whether the agent renews its certificate by itself. */
  renew: boolean;
}

const ipv4Address: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given !== undefined && !isIpv4(given))
    place.problems.push({ pointer: place.pointer, message: 'must be an IPv4 address, e.g. 192.0.2.10' });
  return given;
};

const linkName = text({ pattern: /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/, expected: 'a link’s name, e.g. eth1' });

export const agentShape = object<AgentConfig>({
  controller: required(oneOrMore(endpoint(), 16)),
  serverName: optional(text()),
  stateDir: required(path()),
  driver: required(oneOf('sim', 'libvirt', 'auto')),
  libvirt: optional(object<{ uri: string }>({ uri: required(text()) })),
  network: optional(
    object<{ uplink?: UplinkConfig; underlay?: UnderlayConfig }>({
      underlay: optional(
        object<UnderlayConfig>({
          address: required(ipv4Address),
          interface: optional(linkName),
          port: optional(integer(1, 65_535)),
        }),
      ),
      uplink: optional(
        object<UplinkConfig>({
          interface: required(text()),
          resolvers: optional(list(text(), 8)),
          denied: optional(list(text(), 256)),
        }),
      ),
    }),
  ),
  migration: optional(object<MigrationConfig>({ listen: required(address()), advertise: optional(address()) })),
  storage: optional(
    object<SharedStorageConfig>({
      shared: required(text({ pattern: /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, expected: 'a name, e.g. pool-a' })),
      dir: required(path()),
    }),
  ),
  cacheDir: optional(path()),
  labels: optional(map(text(), 64), () => ({})),
  pki: optional(pkiShape),
  renew: optional(flag(), () => true),
});
