/** What users write and read of a WireGuard peer. */
import { ArrayMaxSize, ArrayMinSize, IsArray, IsString, Matches } from 'class-validator';
import { formatCidr4, parseCidr4 } from '#libs/core';
import { Check, Describe, type Finding, Optional, Reference } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';
import { keyShape } from './keys.js';

const keyMessage = 'must be a key of 32 bytes in base64, as wg(8) writes it';

function AreIpv4Cidrs(): PropertyDecorator {
  return Check<unknown>(
    'areIpv4Cidrs',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item: unknown, index): Finding[] => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        const cidr = parseCidr4(item);
        if (!cidr) return [{ pointer, code: 'invalid_format', message: 'must be an IPv4 CIDR such as 10.20.0.0/24' }];
        if (!cidr.hostBits) return [];
        const message = `has bits set beyond its prefix; did you mean ${formatCidr4(cidr)}?`;
        return [{ pointer, code: 'invalid_value', message }];
      }),
    { items: { type: 'string' } },
  );
}

class WireguardpeerFields extends CoreCreate {
  @Describe('What its configuration sends through the tunnel, IPv4 CIDRs; default: the network’s subnet.', {
    example: ['10.20.0.0/24'],
  })
  @Optional()
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(64)
  @AreIpv4Cidrs()
  allowedAddresses?: string[];
}

export class WireguardpeerUpdate extends WireguardpeerFields {
  @Describe('A second secret that both sides know, 32 bytes in base64; never shown. Default: none.')
  @Optional()
  @IsString()
  @Matches(keyShape, { message: keyMessage })
  presharedKey?: string;
}

export class WireguardpeerCreate extends WireguardpeerUpdate {
  @Reference('network', 'Which it may enter.')
  network!: string;

  @Describe('Its public key, 32 bytes in base64; default: a pair is made, whose private half the answer tells once.', {
    example: 'HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=',
  })
  @Optional()
  @IsString()
  @Matches(keyShape, { message: keyMessage })
  publicKey?: string;
}

export class WireguardpeerView extends WireguardpeerFields {
  @Describe('Id of the network.')
  @IsString()
  network!: string;

  @Describe('Its public key.')
  @IsString()
  publicKey!: string;

  @Describe('Whether it has a pre-shared key.', { readOnly: true })
  hasPresharedKey!: boolean;

  @Describe('Its address in the tunnel.', { readOnly: true, example: '198.18.0.2' })
  @IsString()
  address!: string;

  @Describe('Where it reaches the network, host and port; null until the network stands on a node.', {
    readOnly: true,
    nullable: true,
    example: '192.0.2.1:16384',
  })
  @IsString()
  endpoint!: string | null;

  @Describe('The network’s public key.', { readOnly: true })
  @IsString()
  serverPublicKey!: string;
}

/** In the answer to the create that made the pair, and nowhere else. */
export class WireguardpeerSecrets {
  @Describe('The private key that was made for it.')
  @IsString()
  privateKey!: string;

  @Describe('Its configuration with the private key, as wg-quick(8) reads it.')
  @IsString()
  config!: string;
}
