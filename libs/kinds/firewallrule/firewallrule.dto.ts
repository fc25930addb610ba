/** What users write and read of a firewall rule. */
import { ArrayMaxSize, ArrayMinSize, IsArray, IsIn, IsInt, IsString, Max, Min } from 'class-validator';
import { parseSelector, SelectorError } from '#libs/core';
import { cidrFindings } from '#libs/kinds/network';
import { Check, Describe, type Finding, Optional, Reference } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';
import { parsePorts } from './ports.js';

/** Each item text that `find` has nothing to say about. */
function EachText(name: string, find: (text: string) => Finding[]): PropertyDecorator {
  return Check<unknown>(
    name,
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item: unknown, index): Finding[] => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        return find(item).map((finding) => ({ ...finding, pointer }));
      }),
    { items: { type: 'string' } },
  );
}

/** A selector of tags, as lists take it. */
function IsTagSelector(): PropertyDecorator {
  return Check<unknown>('isTagSelector', (value) => {
    if (typeof value !== 'string') return [];
    try {
      parseSelector(value);
      return [];
    } catch (error) {
      if (error instanceof SelectorError) return [{ code: 'invalid_format', message: error.message }];
      throw error;
    }
  });
}

export class FirewallruleUpdate extends CoreCreate {
  @Describe('0 to 65535; the lowest is asked first, of equal ones the first by name. The first that matches decides.', {
    example: 100,
  })
  @IsInt()
  @Min(0)
  @Max(65_535)
  priority!: number;

  @Describe('Seen from the machines: in is what reaches them, out what they send.', { example: 'in' })
  @IsIn(['in', 'out'])
  direction!: 'in' | 'out';

  @Describe('What becomes of it.', { example: 'allow' })
  @IsIn(['allow', 'deny'])
  action!: 'allow' | 'deny';

  @Describe('Default: any.', { example: 'tcp' })
  @Optional()
  @IsIn(['any', 'tcp', 'udp', 'icmp'])
  protocol?: 'any' | 'tcp' | 'udp' | 'icmp';

  @Describe('Destination ports of tcp or udp, each one port or a range; default: all.', {
    example: ['80', '8000-8100'],
  })
  @Optional()
  @IsArray()
  @ArrayMaxSize(16)
  @EachText('arePorts', (text) =>
    parsePorts(text) ? [] : [{ code: 'invalid_format', message: 'must be a port or a range such as 8000-8100' }],
  )
  ports?: string[];

  @Describe('The other side, by CIDRs of either family; default: anybody.', { example: ['192.0.2.0/24'] })
  @Optional()
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(64)
  @EachText('areCidrs', cidrFindings)
  remoteCidrs?: string[];

  @Describe('The other side, as instances of the same network by their tags.', { example: 'role=admin' })
  @Optional()
  @IsString()
  @IsTagSelector()
  remoteTags?: string;

  @Describe('The machines that it is about, by their tags; default: all of the network.', { example: 'role=web' })
  @Optional()
  @IsString()
  @IsTagSelector()
  targetTags?: string;
}

export class FirewallruleCreate extends FirewallruleUpdate {
  @Reference('network', 'Whose traffic it is about.')
  network!: string;
}

export class FirewallruleView extends FirewallruleCreate {}
