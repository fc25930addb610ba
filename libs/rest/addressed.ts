/**
 * Where a request came from and which host it asked for: as its connection says, or, where that is a trusted proxy's, as the
 * proxy says (Forwarded, RFC 7239; X-Forwarded-For, -Host, -Proto). Nobody else is believed.
 */
import type { IncomingMessage } from 'node:http';
import ipaddr from 'ipaddr.js';
import { parseAuthority, RhyzomeError } from '#libs/core';
import type { HostOwner } from '#libs/tenants';

export interface Addressed {
  /** The client's address: the nearest one that is no trusted proxy's. */
  readonly client: string;
  readonly scheme: 'http' | 'https';
  /** As the client asked for it, with the port: for URLs. Undefined: HTTP/1.0 without a Host. */
  readonly authority: string | undefined;
  /** In lower case, without port, brackets and a dot at the end. */
  readonly host: string | undefined;
  /** Whose host it is; undefined: no tenant's, and all are served at it. */
  readonly owner: HostOwner | undefined;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asked which host; set before anything else is done. Not `request.ip`, which is the proxy's address. */
    addressed: Addressed;
  }
}

interface Hop {
  /** Undefined: the proxy does not say (`unknown`, or an obfuscated name). */
  address: string | undefined;
  host?: string;
  scheme?: string;
}

/** What a request's headers say of the client, as far as they are believed. */
type Told = Partial<Pick<Hop, 'address' | 'host' | 'scheme'>>;

const MAX_HOPS = 50;

export class Addressing {
  private readonly trusted: [ipaddr.IPv4 | ipaddr.IPv6, number][];

  constructor(
    private readonly ownerOf: (host: string) => HostOwner | undefined,
    /** `api.trustedProxies`: CIDRs. */
    trustedProxies: readonly string[] = [],
  ) {
    this.trusted = trustedProxies.map((range) => ipaddr.parseCIDR(range));
  }

  /** Throws RhyzomeError `malformed_request`: no Host or several, one that is none, proxies' headers that contradict. */
  of(request: IncomingMessage): Addressed {
    const sent = oneHost(request);
    const peer = plain(request.socket.remoteAddress ?? '');
    const told = this.trusts(peer) ? this.told(request, peer) : {};
    const authority = told.host ?? sent;
    const parsed = authority === undefined ? undefined : parseAuthority(authority);
    if (authority !== undefined && !parsed) throw malformed('The host of the request is not a host name or address.');
    const isTls = (request.socket as { encrypted?: boolean }).encrypted === true;
    const scheme = told.scheme === 'https' || (told.scheme !== 'http' && isTls) ? 'https' : 'http';
    const host = parsed?.host;
    const owner = host === undefined ? undefined : this.ownerOf(host);
    return { client: told.address ?? peer, scheme, authority, host, owner };
  }

  private trusts(address: string): boolean {
    if (this.trusted.length === 0 || !ipaddr.isValid(address)) return false;
    const parsed = ipaddr.parse(address);
    return this.trusted.some(
      ([network, bits]) =>
        network.kind() === parsed.kind() && (parsed.match as (n: typeof network, b: number) => boolean)(network, bits),
    );
  }

  /** Both kinds of headers, which must agree: a proxy may set one and pass on what a client put into the other. */
  private told(request: IncomingMessage, peer: string): Told {
    const { headers } = request;
    const byForwarded = headers.forwarded === undefined ? {} : this.believed(peer, parseForwarded(headers.forwarded));
    const byX = this.believedX(request, peer);
    for (const key of ['address', 'host', 'scheme'] as const) {
      const [one, other] = [byForwarded[key], byX[key]];
      if (one !== undefined && other !== undefined && one.toLowerCase() !== other.toLowerCase())
        throw malformed('Forwarded and X-Forwarded-* of the request contradict each other.');
    }
    return { ...byX, ...byForwarded };
  }

  /** From the nearest hop on, as far as each was told by a trusted one; what the last trusted one said counts. */
  private believed(peer: string, hops: readonly Hop[]): Told {
    let address = peer;
    let told: Told = {};
    for (const hop of hops.toReversed()) {
      if (!this.trusts(address)) break;
      told = { ...defined({ host: hop.host, scheme: hop.scheme }), address };
      if (hop.address === undefined) break;
      address = hop.address;
      told.address = address;
    }
    return told;
  }

  private believedX({ headers }: IncomingMessage, peer: string): Told {
    const hosts = entriesOf(headers['x-forwarded-host']);
    const schemes = entriesOf(headers['x-forwarded-proto']);
    const addresses = entriesOf(headers['x-forwarded-for']);
    // Not every proxy adds to every list: where their lengths differ, the nearest proxy's word is the last.
    const at = (list: string[], i: number) => (list.length === addresses.length ? list[i] : list.at(-1));
    if (addresses.length === 0) return defined({ host: hosts.at(-1), scheme: schemeOf(schemes.at(-1)) });
    const hops = addresses.map((text, i) => ({
      address: nodeOf(text),
      host: at(hosts, i),
      scheme: schemeOf(at(schemes, i)),
    }));
    return this.believed(peer, hops);
  }
}

/** RFC 9112 §3.2: exactly one Host in HTTP/1.1. Node keeps the first of several and would not tell. */
function oneHost({ rawHeaders, headers, httpVersionMinor, httpVersionMajor }: IncomingMessage): string | undefined {
  let count = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    if (name.length === 4 && name.toLowerCase() === 'host') count += 1;
  }
  if (count > 1) throw malformed('The request has more than one Host header.');
  if (count === 0 && httpVersionMajor === 1 && httpVersionMinor > 0) throw malformed('The request has no Host header.');
  return headers.host;
}

const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
/** RFC 7239 §4: a pair, or nothing, and what ends it. Written so that no text takes more than linear time. */
const pairShape = new RegExp(`[ \\t]*(?:(${token})=(?:(${token})|"((?:[^"\\\\]|\\\\.)*)")[ \\t]*)?(;|,|$)`, 'y');

/** The elements of a Forwarded header. Throws RhyzomeError `malformed_request`. */
function parseForwarded(text: string): Hop[] {
  const hops: Hop[] = [];
  let pairs: Record<string, string> = {};
  pairShape.lastIndex = 0;
  for (;;) {
    const match = pairShape.exec(text);
    if (!match) throw malformed('The Forwarded header is malformed (RFC 7239).');
    const [, name, bare, quoted, end] = match;
    if (name !== undefined) pairs[name.toLowerCase()] = bare ?? quoted!.replaceAll(/\\(.)/g, '$1');
    if (end === ';') continue;
    const { for: from, host, proto } = pairs;
    if (Object.keys(pairs).length > 0)
      hops.push({
        address: from === undefined ? undefined : nodeOf(from),
        ...defined({ host, scheme: schemeOf(proto) }),
      });
    if (hops.length > MAX_HOPS) throw malformed(`The request went through more than ${MAX_HOPS} proxies.`);
    pairs = {};
    if (end === '') return hops;
  }
}

function entriesOf(header: string | string[] | undefined): string[] {
  if (header === undefined) return [];
  const entries = String(header)
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '');
  if (entries.length > MAX_HOPS) throw malformed(`The request went through more than ${MAX_HOPS} proxies.`);
  return entries;
}

/** RFC 7239 §6: an address with or without a port; undefined for what names none. */
function nodeOf(text: string): string | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?|([\d.]{7,15})(?::\d{1,5})?|([0-9A-Fa-f:.]{2,45}))$/.exec(
    text,
  );
  const address = match?.[1] ?? match?.[2] ?? match?.[3];
  if (address === undefined) return undefined;
  return ipaddr.IPv6.isValid(address) || ipaddr.IPv4.isValidFourPartDecimal(address) ? plain(address) : undefined;
}

function schemeOf(text: string | undefined): string | undefined {
  const scheme = text?.toLowerCase();
  return scheme === 'http' || scheme === 'https' ? scheme : undefined;
}

/** An IPv4 address that came through an IPv6 socket, as IPv4; else in lower case. */
function plain(address: string): string {
  return address.toLowerCase().replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/, '');
}

function defined<T extends object>(entries: T): Partial<T> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as Partial<T>;
}

function malformed(message: string): RhyzomeError {
  return new RhyzomeError('malformed_request', message);
}
