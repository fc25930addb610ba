/** What users write and read of a network. */

import { ArrayMaxSize, IsArray, IsInt, IsString, Matches, Max, MaxLength, Min } from 'class-validator';
import { isIpv4 } from '#libs/core';
import { Check, Describe, Optional } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';
import { subnet6Findings } from './cidr6.js';
import { subnetFindings } from './subnet.js';

export const DEFAULT_MTU = 1450;

/** A DNS domain of labels (RFC 1035 §2.3.1), at most 253 characters, without a dot at its end. */
const domainPattern = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/;

/** A dotted IPv4 address. */
export function IsIpv4Address(): PropertyDecorator {
  return Check<string>(
    'isIpv4Address',
    (value) =>
      typeof value !== 'string' || isIpv4(value)
        ? []
        : [{ code: 'invalid_format', message: 'must be an IPv4 address such as 10.20.0.5' }],
    { format: 'ipv4' },
  );
}

/** Each item a dotted IPv4 address. */
function AreIpv4Addresses(): PropertyDecorator {
  return Check<unknown[]>(
    'areIpv4Addresses',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item, index) => {
        if (typeof item !== 'string')
          return [{ pointer: `/${index}`, code: 'wrong_type', message: 'must be a string' }];
        return isIpv4(item)
          ? []
          : [{ pointer: `/${index}`, code: 'invalid_format', message: 'must be an IPv4 address' }];
      }),
    { items: { type: 'string', format: 'ipv4' } },
  );
}

export class NetworkCreate extends CoreCreate {
  @Describe('IPv4 CIDR without host bits, from a private range (RFC 1918), /8 to /29.', { example: '10.20.0.0/24' })
  @IsString()
  @Check<string>('isSubnet', subnetFindings)
  subnet!: string;

  @Describe(
    'IPv6 CIDR without host bits, unique local (RFC 4193) or global unicast, /64 (machines make their addresses by SLAAC) ' +
      'to /120 (they get them by DHCPv6); default: no IPv6.',
    { example: 'fd12:3456:789a::/64' },
  )
  @Optional()
  @IsString()
  @Check<string>('isSubnet6', subnet6Findings)
  subnet6?: string;

  @Describe('Address of the router; default: the first host address.', { example: '10.20.0.1' })
  @Optional()
  @IsString()
  @IsIpv4Address()
  gateway?: string;

  @Describe('Resolvers that DHCP hands out; default: the gateway, which also knows the instances by name.')
  @Optional()
  @IsArray()
  @ArrayMaxSize(4)
  @AreIpv4Addresses()
  dns?: string[];

  @Describe('DNS domain of the instances.', { example: 'acme.internal' })
  @Optional()
  @IsString()
  @MaxLength(253)
  @Matches(domainPattern)
  domain?: string;

  @Describe('Largest packet in bytes, 576 to 9000; default 1450, which leaves room for a tunnel between nodes.')
  @Optional()
  @IsInt()
  @Min(576)
  @Max(9000)
  mtu?: number;
}

export class NetworkUpdate extends NetworkCreate {}

class NetworkAddresses {
  @Describe('Addresses that machines can have, the gateway not counted.')
  @IsInt()
  total!: number;

  @Describe('Addresses with a lease.')
  @IsInt()
  used!: number;
}

export class NetworkView extends NetworkCreate {
  @Describe('IPv6 address of the router; null without IPv6.', { readOnly: true, nullable: true })
  @IsString()
  gateway6!: string | null;

  @Describe('How many addresses there are and how many are taken.', { readOnly: true })
  addresses!: NetworkAddresses;
}

export class LeaseCreate {
  @Describe('The address to keep for this MAC; default: the next free one.', { example: '10.20.0.50' })
  @Optional()
  @IsString()
  @IsIpv4Address()
  ip?: string;

  @Describe('MAC address, unicast.', { example: '52:54:00:12:34:56' })
  @IsString()
  @Matches(/^[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}$/)
  mac!: string;

  @Describe('Name in the network’s DNS.', { example: 'printer' })
  @Optional()
  @IsString()
  @Matches(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/)
  hostname?: string;
}

export class LeaseView extends LeaseCreate {
  @Describe('The id of the lease.', { readOnly: true })
  @IsString()
  id!: string;

  @Describe('Its IPv6 address, which follows from the network; null without IPv6.', { readOnly: true, nullable: true })
  @IsString()
  ip6!: string | null;

  @Describe('True: came with an instance, leaves with it.', { readOnly: true })
  automatic!: boolean;

  @Describe('Id of the instance, null for a static lease.', { readOnly: true })
  instance!: string | null;
}
