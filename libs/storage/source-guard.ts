/**
 * Which addresses content may be fetched from. A tenant names the URL, and the control plane fetches it: without this guard
 * he would read what only the control plane reaches. An address must be global unicast (RFC 6890 and the IANA registries
 * behind it) and none of the installation's own; it is judged when it is connected to, not by its name.
 */
import { lookup as systemLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { RhyzomeError } from '#libs/core';

export interface SourceRules {
  /** CIDRs that nothing is fetched from, beside those that are refused anyway. */
  denied?: readonly string[];
  /** CIDRs that are allowed whatever they are, at any port: a mirror inside. They come first. */
  allowed?: readonly string[];
}

export interface ResolvedAddress {
  address: string;
  family: 4 | 6;
}

/** All addresses of a host name. */
export type Resolve = (host: string) => Promise<readonly ResolvedAddress[]>;

type Cidr = [ipaddr.IPv4 | ipaddr.IPv6, number];

const MAX_URL_CHARACTERS = 2_000;
const RESOLVE_MS = 10_000;
/** All of IPv6 that is given out for global unicast (RFC 4291 §2.4, IANA). */
const globalUnicast6 = ipaddr.IPv6.parseCIDR('2000::/3');

/** What is wrong with the URL itself, in words for its field; undefined: nothing. */
export function sourceUrlProblem(text: string): string | undefined {
  if (text.length > MAX_URL_CHARACTERS) return `must be at most ${MAX_URL_CHARACTERS} characters long`;
  if (!URL.canParse(text) || !/^https?:\/\//i.test(text)) return 'must be an http or https URL';
  const url = new URL(text);
  if (url.username !== '' || url.password !== '') return 'must hold no user name and no password';
  if (url.hash !== '') return 'must have no fragment';
  return url.hostname === '' ? 'must name a host' : undefined;
}

export class SourceGuard {
  private readonly denied: Cidr[];
  private readonly allowed: Cidr[];

  /** @param resolve the system's resolver by default. */
  constructor(
    rules: SourceRules = {},
    private readonly resolve: Resolve = resolveBySystem,
  ) {
    this.denied = (rules.denied ?? []).map((cidr) => ipaddr.parseCIDR(cidr));
    this.allowed = (rules.allowed ?? []).map((cidr) => ipaddr.parseCIDR(cidr));
  }

  /**
   * The addresses of the URL's host, each of which may be connected to; nothing may resolve it again. Throws RhyzomeError
   * `source_refused` where any of them may not, and `source_unavailable` where there is none.
   */
  async addressesOf(url: URL): Promise<ResolvedAddress[]> {
    if (sourceUrlProblem(url.href) !== undefined) throw refused('That is no URL that may be fetched.');
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const family = isIP(host);
    const found = family ? [{ address: host, family: family as 4 | 6 }] : await this.lookUp(host);
    if (found.length === 0) throw new RhyzomeError('source_unavailable', `The host ${host} has no address.`);
    const isMirror = found.every(({ address }) => this.matches(this.allowed, address));
    if (isMirror) return [...found];
    if (found.some(({ address }) => !this.isOpen(address))) {
      throw refused(`The host ${host} is at an address that nothing is fetched from.`);
    }
    if (url.port !== '') throw refused('Only the ports 80 (http) and 443 (https) are fetched from.');
    return [...found];
  }

  /** False where the URL alone says that it is refused, before anybody resolves its host. */
  mayBeOpen(url: URL): boolean {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    if (isIP(host)) return this.matches(this.allowed, host) || (url.port === '' && this.isOpen(host));
    return url.port === '' || this.allowed.length > 0;
  }

  /** Whether an address may be connected to; text that is none may not. */
  isOpen(text: string): boolean {
    if (!ipaddr.isValid(text)) return false;
    if (this.matches(this.allowed, text)) return true;
    const address = ipaddr.parse(text);
    if (address.range() !== 'unicast') return false;
    if (address instanceof ipaddr.IPv6 && !address.match(globalUnicast6)) return false;
    return !this.matches(this.denied, text);
  }

  private matches(cidrs: readonly Cidr[], text: string): boolean {
    const address = ipaddr.process(text);
    return cidrs.some(
      ([network, prefix]) => address.kind() === network.kind() && address.match([network, prefix] as never),
    );
  }

  private async lookUp(host: string): Promise<readonly ResolvedAddress[]> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer')), RESOLVE_MS);
    });
    try {
      return await Promise.race([this.resolve(host), late]);
    } catch (cause) {
      throw new RhyzomeError('source_unavailable', `The host ${host} cannot be found.`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }
}

async function resolveBySystem(host: string): Promise<readonly ResolvedAddress[]> {
  return (await systemLookup(host, { all: true })) as ResolvedAddress[];
}

function refused(message: string): RhyzomeError {
  return new RhyzomeError('source_refused', message);
}
