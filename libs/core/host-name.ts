/**
 * Host names as requests and administrators write them, in one form: lower case, ASCII, without a dot at the end. What is
 * not exactly a host is refused and never repaired, so that no two readers of a request differ on where it went.
 */
import ipaddr from 'ipaddr.js';

/** RFC 3986 §3.2.2, §3.2.3: an IPv6 literal in brackets, or a name or IPv4 address; then a port, which may be empty. */
const authorityShape = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,254}))(?::(\d{0,5}))?$/;
/** RFC 1035 §2.3.4 for the lengths. Underscores are no host's by RFC 952, but names inside installations have them. */
const nameShape = /^(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*$/;
/** RFC 1123 §2.1: letters, digits and inner hyphens; at least two labels, the last of which is no number. */
const domainShape = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** What is no part of a domain in any script, and what IDNA might quietly drop. */
const foreign = /[\s\p{Cc}\p{Cf}/@?#%:[\]\\*_"'<>^`{|}]/u;
const MAX_TEXT = 500;

export interface Authority {
  /** A name in lower case without a dot at the end, or an address without brackets. */
  host: string;
  /** Null: none was given. */
  port: number | null;
}

/** The value of a Host header (RFC 9110 §7.2), or undefined where it is not one. */
export function parseAuthority(text: string): Authority | undefined {
  const match = authorityShape.exec(text);
  if (!match) return undefined;
  const [, literal, name, digits] = match;
  const port = digits ? Number(digits) : null;
  if (port !== null && port > 65_535) return undefined;
  if (literal !== undefined) return ipaddr.IPv6.isValid(literal) ? { host: literal.toLowerCase(), port } : undefined;
  const host = (name!.endsWith('.') ? name!.slice(0, -1) : name!).toLowerCase();
  return nameShape.test(host) ? { host, port } : undefined;
}

/**
 * A domain as an administrator writes it, in any script (UTS #46), with or without a dot at the end or a port; undefined
 * where it is none: also for an address, a single label and a wildcard.
 */
export function domainOf(text: string): string | undefined {
  if (text.length > MAX_TEXT) return undefined;
  const name = text.trim().replace(/:\d{1,5}$/, '');
  if (foreign.test(name)) return undefined;
  // The host parser of the URL standard, which takes any script.
  const ascii = URL.canParse(`http://${name}`) ? new URL(`http://${name}`).hostname.replace(/\.$/, '') : '';
  return domainShape.test(ascii) ? ascii : undefined;
}
