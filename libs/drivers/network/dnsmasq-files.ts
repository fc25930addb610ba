/**
 * What dnsmasq reads: its configuration, which it reads once, and beside it options, hosts and names, which it reads
 * again on SIGHUP. Every value has been checked; see dnsmasq(8).
 */
import { join } from 'node:path';
import { lan } from './links.js';
import type { CheckedNetwork } from './network-spec.js';

export const filesOf = (dir: string) => ({
  conf: join(dir, 'dnsmasq.conf'),
  pid: join(dir, 'dnsmasq.pid'),
  leases: join(dir, 'dnsmasq.leases'),
  options: join(dir, 'dhcp-options'),
  dhcpHosts: join(dir, 'dhcp-hosts'),
  names: join(dir, 'hosts'),
});

/** `user`: whom it becomes after its start; `resolvers`: to whom it forwards names outside. */
export function configuration(dir: string, spec: CheckedNetwork, resolvers: readonly string[], user: string): string {
  const file = filesOf(dir);
  const lines = [
    'port=53',
    `user=${user}`,
    `pid-file=${file.pid}`,
    'no-resolv',
    'no-poll',
    'no-hosts',
    `interface=${lan}`,
    'bind-interfaces',
    'domain-needed',
    'bogus-priv',
    'cache-size=1000',
    ...resolvers.map((server) => `server=${server}`),
    `addn-hosts=${file.names}`,
    'dhcp-authoritative',
    'no-ping',
    'quiet-dhcp',
    'quiet-dhcp6',
    'quiet-ra',
    // Names come from the control plane, never from guests.
    'dhcp-ignore-names',
    'dhcp-lease-max=100000',
    `dhcp-range=${spec.network},static,${spec.netmask},1h`,
    `dhcp-hostsfile=${file.dhcpHosts}`,
    `dhcp-optsfile=${file.options}`,
    `dhcp-leasefile=${file.leases}`,
  ];
  if (spec.ipv6) {
    const { network, prefixLength, stateful } = spec.ipv6;
    // Seldom enough for a thousand networks, and soon enough for a change (RFC 4861 §6.2.1). The MTU is the link's.
    lines.push('enable-ra', `ra-param=${lan},120`);
    lines.push(stateful ? `dhcp-range=${network},static,${prefixLength},1h` : `dhcp-range=${network},ra-stateless,64`);
  }
  if (spec.domain) lines.push(`domain=${spec.domain}`, `local=/${spec.domain}/`, 'expand-hosts');
  return `${lines.join('\n')}\n`;
}

/** What DHCP says beside addresses; a change reaches guests when they renew. */
export function options(spec: CheckedNetwork): string {
  const of = (family: 4 | 6) => spec.dns.filter((server) => server.includes(':') === (family === 6));
  const resolvers = of(4).length > 0 ? of(4) : [spec.gateway];
  const lines = [`option:router,${spec.gateway}`, `option:mtu,${spec.mtu}`, `option:dns-server,${resolvers.join(',')}`];
  if (spec.ipv6) {
    const resolvers6 = of(6).length > 0 ? of(6) : [spec.ipv6.gateway];
    lines.push(`option6:dns-server,${resolvers6.map((server) => `[${server}]`).join(',')}`);
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** What dnsmasq takes in a line of hosts for an order or a lease time, and not for a name (`--dhcp-host` in dnsmasq(8)). */
const reserved = /^(?:ignore|infinite|\d+[smhdw]?)$/;

/** A line of dhcp-hosts. A machine without its name there still has it in the file of names. */
export function hostLine({ mac, ip, ip6, hostname }: CheckedNetwork['leases'][number], stateful: boolean): string {
  const words = [mac, ip];
  if (stateful && ip6) words.push(`[${ip6}]`);
  if (hostname && !reserved.test(hostname)) words.push(hostname);
  return `${words.join(',')}\n`;
}

/** Names as hosts(5) has them. */
export function names(spec: CheckedNetwork): string {
  const line = (ip: string | null, hostname: string | null) => (ip && hostname ? `${ip} ${hostname}\n` : '');
  return spec.leases.map(({ ip, ip6, hostname }) => line(ip, hostname) + line(ip6, hostname)).join('');
}
