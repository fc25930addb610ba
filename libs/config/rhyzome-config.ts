/**
 * The settings of all processes: one file, of which each process takes what it needs. The types say what a process
 * gets after defaults; the shapes say what a file may hold.
 */
import ipaddr from 'ipaddr.js';
import { domainOf, isIpv4 } from '#libs/core';
import { ConnectionStringError, parseConnection } from './connection.js';
import { type KeycloakConfig, keycloakShape } from './keycloak-config.js';
import {
  address,
  duration,
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
  url,
} from './shape.js';

/** Paths of PEM files, absolute. */
export interface PkiConfig {
  ca: string;
  cert: string;
  key: string;
}

/** The CA by which rhyzome-grpc issues certificates to nodes and services. */
export interface IssuerConfig {
  cert: string;
  key: string;
  /** How long what is issued holds. */
  validityMs: number;
}

const MIN_VALIDITY_MS = 20_000;
const MAX_VALIDITY_MS = 10 * 365 * 24 * 60 * 60_000;

/** What tokens must name where the settings say nothing else. */
export const DEFAULT_AUDIENCE = 'urn:rhyzome:api';

export interface ApiConfig {
  /** host:port of the REST server. */
  listen: string;
  /** host:port of health, readiness and metrics. */
  monitoring: string;
  /** What users reach it as, without a slash at the end, e.g. for Location headers behind a proxy. */
  publicUrl?: string;
  /** `api.example.org`: then `acme.api.example.org` is the host of the tenant acme. In lower case. */
  domain?: string;
  /** CIDRs of the proxies that are believed where a request comes from and which host it asked for. */
  trustedProxies: string[];
  /** The audience that a token must name. */
  audience: string;
  rateLimit: RateLimitConfig;
}

/** Requests that one replica takes: so many a second in the long run, `…Burst` at once. */
export interface RateLimitConfig {
  tenantPerSecond: number;
  tenantBurst: number;
  userPerSecond: number;
  userBurst: number;
  /** Without valid credentials, an address. */
  addressPerSecond: number;
  addressBurst: number;
}

export interface GrpcConfig {
  /** Each host:port or unix:/path. */
  listen: string[];
  /** host:port at which other replicas and rhyzome-api reach this one; its certificate must hold for the host. */
  advertise?: string;
  monitoring: string;
  /** How many jobs run at once. */
  workers: number;
  /** How a node that is away is known to be off; absent: by an administrator's word only. */
  fence?: FenceConfig;
  /** Where machines enroll, which have no certificate yet; absent: nowhere. */
  enrollment?: EnrollmentConfig;
}

export interface FenceConfig {
  /** Program and arguments, run without a shell; `{node}` stands for the node's name. Exit status 0: the machine is off. */
  command: string[];
  /** What takes longer has failed. */
  timeoutSeconds: number;
  /** How long a node must have been unreachable to be fenced without being asked; absent: never. */
  afterSeconds?: number;
}

export interface EnrollmentConfig {
  /** host:port or unix:/path. */
  listen: string;
  /** host:port at which machines reach it; the server's certificate must hold for the host. */
  advertise?: string;
}

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

/** Images that tenants bring in. */
export interface ImagesConfig {
  /** Largest content. */
  maxSizeGiB: number;
  /** Largest disk that a content may claim to be. */
  maxVirtualSizeGiB: number;
  /** CIDRs that no image is fetched from, beside all that are not global unicast: the installation's own. */
  deniedSources: string[];
  /** CIDRs that images are fetched from whatever they are, at any port: a mirror inside. */
  allowedSources: string[];
}

export interface RhyzomeConfig {
  /** Connection as role app, a libpq keyword string or URL for parseConnection. A secret. */
  db?: string;
  /** As role operator. A secret. */
  dbOperator?: string;
  /** As role owner. A secret. */
  dbOwner?: string;
  pki?: PkiConfig & { issuer?: IssuerConfig };
  api?: ApiConfig;
  grpc?: GrpcConfig;
  agent?: AgentConfig;
  /** The content store of images: a folder that all replicas share, absolute. */
  storage?: { dir: string };
  images: ImagesConfig;
  /** Where tenants' people and programs are kept; without it every tenant brings an issuer of its own. */
  keycloak?: KeycloakConfig;
  log: { level: LogLevel };
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

/** A connection string that can be parsed; stays a string, so that what reads it last holds the secret alone. */
function connection(): Shape<string> {
  const any = text();
  return (value, place) => {
    const given = any(value, place);
    if (given === undefined) return given;
    try {
      parseConnection(given, place.folder);
    } catch (error) {
      if (!(error instanceof ConnectionStringError)) throw error;
      place.problems.push({ pointer: place.pointer, message: `is not a PostgreSQL connection: ${error.message}` });
    }
    return given;
  };
}

/** CIDRs of either family, none too. */
const addressRanges: Shape<string[]> = (value, place) =>
  Array.isArray(value) && value.length === 0 ? [] : list(addressRange, 256)(value, place);

/** An address with a prefix length. */
const addressRange: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given !== undefined && !ipaddr.isValidCIDR(given))
    place.problems.push({ pointer: place.pointer, message: 'must be a CIDR, e.g. 192.0.2.0/24 or 2001:db8::/32' });
  return given;
};

const ipv4Address: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given !== undefined && !isIpv4(given))
    place.problems.push({ pointer: place.pointer, message: 'must be an IPv4 address, e.g. 192.0.2.10' });
  return given;
};

const linkName = text({ pattern: /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/, expected: 'a link’s name, e.g. eth1' });

/** A domain, in one form. */
const domainName: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given === undefined) return given;
  const domain = given.includes(':') ? undefined : domainOf(given);
  if (domain === undefined)
    place.problems.push({ pointer: place.pointer, message: 'must be a domain, e.g. api.example.org' });
  return domain ?? given;
};

const files = { ca: required(path()), cert: required(path()), key: required(path()) };
const pki = object<PkiConfig>(files);

const issuer = object<{ cert: string; key: string; validity: number }>({
  cert: required(path()),
  key: required(path()),
  validity: optional(duration(MIN_VALIDITY_MS, MAX_VALIDITY_MS), () => '30d'),
});

const pkiWithIssuer = object<PkiConfig & { issuer?: IssuerConfig }>({
  ...files,
  issuer: optional((value, place) => {
    const given = issuer(value, place);
    return given && { cert: given.cert, key: given.key, validityMs: given.validity };
  }),
});

const requests = (fallback: number) => optional(integer(1, 1_000_000), () => fallback);

const rateLimit = object<RateLimitConfig>({
  tenantPerSecond: requests(500),
  tenantBurst: requests(2000),
  userPerSecond: requests(300),
  userBurst: requests(1200),
  addressPerSecond: requests(100),
  addressBurst: requests(400),
});

const api = object<ApiConfig>({
  listen: optional(address(), () => '127.0.0.1:8080'),
  monitoring: optional(address(), () => '127.0.0.1:8081'),
  publicUrl: optional(url()),
  domain: optional(domainName),
  trustedProxies: optional(addressRanges, () => []),
  audience: optional(text(), () => DEFAULT_AUDIENCE),
  rateLimit: optional(rateLimit, () => ({})),
});

const grpc = object<GrpcConfig>({
  listen: optional(list(endpoint(), 16), () => ['127.0.0.1:7443']),
  advertise: optional(address()),
  monitoring: optional(address(), () => '127.0.0.1:8082'),
  workers: optional(integer(1, 1000), () => 10),
  fence: optional(
    object<FenceConfig>({
      command: required(list(text(), 32)),
      timeoutSeconds: optional(integer(1, 600), () => 60),
      afterSeconds: optional(integer(30, 86_400)),
    }),
  ),
  enrollment: optional(object<EnrollmentConfig>({ listen: required(endpoint()), advertise: optional(address()) })),
});

const agent = object<AgentConfig>({
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
  pki: optional(pki),
  renew: optional(flag(), () => true),
});

/** Sections that a process may need and that have a default for every member. */
export const sectionsWithDefaults: ReadonlySet<string> = new Set(['api', 'grpc']);

export const configShape = object<RhyzomeConfig>({
  db: optional(connection()),
  dbOperator: optional(connection()),
  dbOwner: optional(connection()),
  pki: optional(pkiWithIssuer),
  api: optional(api),
  grpc: optional(grpc),
  agent: optional(agent),
  storage: optional(object<{ dir: string }>({ dir: required(path()) })),
  images: optional(
    object<ImagesConfig>({
      maxSizeGiB: optional(integer(1, 65_536), () => 64),
      maxVirtualSizeGiB: optional(integer(1, 65_536), () => 2048),
      deniedSources: optional(addressRanges, () => []),
      allowedSources: optional(addressRanges, () => []),
    }),
    () => ({}),
  ),
  keycloak: optional(keycloakShape),
  log: optional(
    object<{ level: LogLevel }>({
      level: optional(oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'), () => 'info'),
    }),
    () => ({}),
  ),
});
