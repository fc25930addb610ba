/**
 * The settings of all processes: one file, of which each process takes what it needs. The types say what a process
 * gets after defaults; the shapes say what a file may hold.
 */
import ipaddr from 'ipaddr.js';
import { domainOf } from '#libs/core';
import { type AgentConfig, agentShape } from './agent-config.js';
import { ConnectionStringError, parseConnection } from './connection.js';
import { type KeycloakConfig, keycloakShape } from './keycloak-config.js';
import { type IssuerConfig, type PkiConfig, pkiWithIssuerShape } from './pki-config.js';
import {
  address,
  endpoint,
  integer,
  list,
  object,
  oneOf,
  optional,
  path,
  required,
  type Shape,
  text,
  url,
} from './shape.js';

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

/** A domain, in one form. */
const domainName: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given === undefined) return given;
  const domain = given.includes(':') ? undefined : domainOf(given);
  if (domain === undefined)
    place.problems.push({ pointer: place.pointer, message: 'must be a domain, e.g. api.example.org' });
  return domain ?? given;
};

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

/** Sections that a process may need and that have a default for every member. */
export const sectionsWithDefaults: ReadonlySet<string> = new Set(['api', 'grpc']);

export const configShape = object<RhyzomeConfig>({
  db: optional(connection()),
  dbOperator: optional(connection()),
  dbOwner: optional(connection()),
  pki: optional(pkiWithIssuerShape),
  api: optional(api),
  grpc: optional(grpc),
  agent: optional(agentShape),
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
