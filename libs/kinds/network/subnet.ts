/** The rules of a network's addresses, apart from any request or row. */
import {
  broadcastOf,
  type Cidr4,
  contains,
  type FieldError,
  formatCidr4,
  formatIpv4,
  hostCount,
  isPrivate,
  parseCidr4,
  parseIpv4,
} from '#libs/core';

/** What is wrong with a subnet's text. */
export function subnetFindings(text: unknown): { code: string; message: string }[] {
  if (typeof text !== 'string') return [];
  const cidr = parseCidr4(text);
  if (!cidr) return [{ code: 'invalid_format', message: 'must be an IPv4 CIDR such as 10.20.0.0/24' }];
  if (cidr.hostBits) {
    return [{ code: 'invalid_value', message: `has bits set beyond its prefix; did you mean ${formatCidr4(cidr)}?` }];
  }
  if (cidr.prefix < 8 || cidr.prefix > 29) {
    return [{ code: 'out_of_range', message: 'must have a prefix from /8 to /29' }];
  }
  if (!isPrivate(cidr)) {
    return [{ code: 'invalid_value', message: 'must lie in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16' }];
  }
  return [];
}

/** The first host address. The subnet is valid. */
export function firstHost(subnet: string): string {
  return formatIpv4(parseCidr4(subnet)!.network + 1);
}

/** Addresses that machines can have: the hosts without the gateway. */
export function usableAddresses(subnet: string): number {
  return hostCount(parseCidr4(subnet)!) - 1;
}

/** Why an address can be no host's in this subnet; the gateway is checked apart. */
function hostProblem(cidr: Cidr4, address: number): string | undefined {
  if (!contains(cidr, address)) return `is outside of the network’s subnet ${formatCidr4(cidr)}`;
  if (address === cidr.network) return 'is the network’s own address';
  if (address === broadcastOf(cidr)) return 'is the broadcast address';
  return undefined;
}

/** Why the gateway cannot be what it is asked to be. */
export function gatewayErrors(subnet: string, gateway: string): FieldError[] {
  const problem = hostProblem(parseCidr4(subnet)!, parseIpv4(gateway)!);
  return problem ? [{ pointer: '/gateway', code: 'out_of_range', message: problem }] : [];
}

/** Why a machine cannot have this address. */
export function addressErrors(subnet: string, gateway: string, ip: string, pointer: string): FieldError[] {
  const problem = hostProblem(parseCidr4(subnet)!, parseIpv4(ip)!);
  if (problem) return [{ pointer, code: 'out_of_range', message: problem }];
  return ip === gateway ? [{ pointer, code: 'out_of_range', message: 'is the gateway’s address' }] : [];
}
