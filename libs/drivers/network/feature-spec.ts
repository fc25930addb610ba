/** Checks the parts of a network's spec that other kinds put there: public addresses, forwards, firewall, VPN door. */
import type {
  FirewallRuleSpec,
  ForwardSpec,
  NetworkSpec,
  PublicAddressSpec,
  WireguardSpec,
} from '#libs/drivers/contract';
import { addressNumber, addressText, type Cidr, checkAddress, checkRange, overlap, refuse } from './addresses.js';

const limits = { publicAddresses: 1024, forwards: 4096, rules: 1024, ports: 64, remotes: 20_000, guests: 65_536 };
const maxPeers = 1024;
const maxAllowedIps = 64;

/** What no public address can be: RFC 6890's local ranges, and where the ways out lie. */
const notPublic = ['0.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3'].map((cidr) =>
  checkRange(cidr, 'reserved range'),
);

type Inside = (address: unknown, what: string) => string;

function list<T>(value: readonly T[] | null | undefined, most: number, what: string): readonly T[] {
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value) || value.length > most) refuse(`list of ${what} is malformed or longer than ${most}`);
  return value;
}

function oneOf<T extends string>(value: unknown, words: readonly T[], what: string): T {
  if (!words.includes(value as T)) refuse(`${what} is none of ${words.join(', ')}`);
  return value as T;
}

function checkPort(port: unknown, what: string): number {
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65_535) refuse(`${what} is no port`);
  return port as number;
}

function checkPublic(address: unknown): string {
  const text = addressText(addressNumber(address, 'public address'));
  const range = checkRange(text, 'public address');
  if (notPublic.some((reserved) => overlap(range, reserved))) refuse(`public address ${text} is reserved`);
  return text;
}

export function checkPublicAddresses(value: NetworkSpec['publicAddresses'], inside: Inside): PublicAddressSpec[] {
  const used = new Set<string>();
  return list(value, limits.publicAddresses, 'public addresses').map((one) => {
    const publicIp = checkPublic(one.publicIp);
    const ip = inside(one.ip, 'address behind a public one');
    for (const address of [publicIp, ip]) {
      if (used.has(address)) refuse(`public addresses name ${address} twice`);
      used.add(address);
    }
    return { publicIp, ip };
  });
}

export function checkForwards(value: NetworkSpec['forwards'], inside: Inside): ForwardSpec[] {
  const used = new Set<string>();
  return list(value, limits.forwards, 'forwards').map((one) => {
    const forward = {
      publicIp: checkPublic(one.publicIp),
      protocol: oneOf(one.protocol, ['tcp', 'udp'], 'forward protocol'),
      port: checkPort(one.port, 'forward port'),
      ip: inside(one.ip, 'forward target'),
      targetPort: checkPort(one.targetPort, 'forward target port'),
    };
    const key = `${forward.publicIp} ${forward.protocol} ${forward.port}`;
    if (used.has(key)) refuse(`forwards name ${key} twice`);
    used.add(key);
    return forward;
  });
}

export function checkFirewall(value: NetworkSpec['firewall']): FirewallRuleSpec[] {
  return list(value, limits.rules, 'firewall rules').map((rule) => {
    if (typeof rule.id !== 'string' || !/^[0-9a-zA-Z-]{1,64}$/.test(rule.id)) refuse('firewall rule id is malformed');
    const protocol = oneOf(rule.protocol, ['any', 'tcp', 'udp', 'icmp'], 'firewall protocol');
    const ports = list(rule.ports, limits.ports, 'firewall ports').map(({ from, to }) => {
      if (checkPort(from, 'firewall port') > checkPort(to, 'firewall port')) refuse('firewall ports are upside down');
      return { from, to };
    });
    if (ports.length > 0 && protocol !== 'tcp' && protocol !== 'udp') refuse('firewall ports go with tcp or udp only');
    const remotes = rule.remotes ? list(rule.remotes, limits.remotes, 'firewall remotes') : null;
    for (const remote of remotes ?? []) checkRange(remote, 'firewall remote');
    const guests = rule.guests ? list(rule.guests, limits.guests, 'firewall guests') : null;
    return {
      id: rule.id,
      direction: oneOf(rule.direction, ['in', 'out'], 'firewall direction'),
      action: oneOf(rule.action, ['allow', 'deny'], 'firewall action'),
      protocol,
      ports,
      remotes: remotes && [...remotes],
      guests: guests?.map((guest) => checkAddress(guest, 'firewall guest')) ?? null,
    };
  });
}

function checkKey(key: unknown, what: string): string {
  // 32 bytes are 43 characters and one of padding; the last of the 43 carries two bits that must be none.
  const shape = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/;
  if (typeof key !== 'string' || !shape.test(key)) refuse(`${what} is no key of 32 bytes in base64`);
  return key;
}

/** An interface's address with its prefix; host bits are what it is about. */
function checkInterfaceAddress(text: unknown): string {
  const [address, length, ...rest] = typeof text === 'string' ? text.split('/') : [];
  const ip = checkAddress(address, 'VPN address');
  const most = ip.includes(':') ? 128 : 32;
  if (rest.length > 0 || !/^[0-9]{1,3}$/.test(length ?? '') || Number(length) > most || Number(length) < 8)
    refuse('VPN address has no prefix length');
  return `${ip}/${Number(length)}`;
}

/** `own`: the network's CIDRs, where no peer can lie. */
export function checkWireguard(value: WireguardSpec | null | undefined, own: readonly string[]): WireguardSpec | null {
  if (value === null || value === undefined) return null;
  const ranges: Cidr[] = [...own, '169.254.0.0/16', '100.64.0.0/10'].map((cidr) => checkRange(cidr, 'subnet'));
  const address = checkInterfaceAddress(value.address);
  ranges.push(checkRange(address.split('/')[0], 'VPN address'));
  const keys = new Set<string>();
  const peers = list(value.peers, maxPeers, 'VPN peers').map((peer) => {
    const publicKey = checkKey(peer.publicKey, 'public key of a VPN peer');
    if (keys.has(publicKey)) refuse('VPN peers name a public key twice');
    keys.add(publicKey);
    const allowedIps = list(peer.allowedIps, maxAllowedIps, 'allowed addresses of a VPN peer').map((text) => {
      const range = checkRange(text, 'allowed address of a VPN peer');
      if (range.prefixLength === 0) refuse('allowed address of a VPN peer is everything');
      ranges.push(range);
      return `${checkAddress(text.split('/')[0], 'allowed address')}/${range.prefixLength}`;
    });
    const presharedKey = peer.presharedKey ? checkKey(peer.presharedKey, 'preshared key of a VPN peer') : null;
    return { publicKey, presharedKey, allowedIps };
  });
  checkApart(ranges);
  const privateKey = checkKey(value.privateKey, 'private key of the VPN door');
  return { privateKey, port: checkPort(value.port, 'VPN port'), address, peers };
}

/** The network, the door and each peer's addresses must not overlap: a packet goes to one of them only. */
function checkApart(ranges: readonly Cidr[]): void {
  const sorted = [...ranges].sort((a, b) => a.family - b.family || (a.first < b.first ? -1 : 1));
  let before: Cidr | undefined;
  for (const range of sorted) {
    if (before && overlap(before, range)) refuse('VPN addresses overlap each other, the network or reserved ranges');
    before = range;
  }
}
