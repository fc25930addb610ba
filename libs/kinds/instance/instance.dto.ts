/** What users write and read of an instance. */

import { Type } from 'class-transformer';
import {
  ArrayMaxSize,
  ArrayMinSize,
  IsArray,
  IsBoolean,
  IsIn,
  IsInt,
  IsObject,
  IsString,
  Matches,
  Max,
  MaxLength,
  Min,
  ValidateNested,
} from 'class-validator';
import { tagKeyPattern } from '#libs/core';
import { IsIpv4Address } from '#libs/kinds/network';
import { Check, Describe, Optional } from '#libs/openapi';
import { AreReferences, CoreCreate, IsReference, IsTagSelector } from '#libs/resources';

export class InterfaceCreate {
  @Describe('Id or name of the network; answered by id.', { example: 'backend' })
  @IsString()
  @IsReference()
  network!: string;

  @Describe('The address to take; default: the next free one.', { example: '10.20.0.10' })
  @Optional()
  @IsString()
  @IsIpv4Address()
  ip?: string;

  @Describe('Its IPv6 address; null where the network has none.', { readOnly: true, nullable: true })
  ip6?: string;

  @Describe('MAC address of the interface.', { readOnly: true })
  mac?: string;
}

const MAX_USER_DATA_BYTES = 64 * 1024;

/** At most 64 KiB in UTF-8. */
function IsUserData(): PropertyDecorator {
  return Check<string>(
    'isUserData',
    (value) =>
      typeof value !== 'string' || Buffer.byteLength(value) <= MAX_USER_DATA_BYTES
        ? []
        : [{ code: 'too_long', message: `must be at most ${MAX_USER_DATA_BYTES} bytes` }],
    { maxLength: MAX_USER_DATA_BYTES },
  );
}

/** Type, base64, comment: one line each, without options. */
const sshKeyShape =
  /^(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9@.-]{1,60}) [A-Za-z0-9+/]{32,8000}={0,3}(?: [^\p{Cc}]{0,255})?$/u;

function AreSshKeys(): PropertyDecorator {
  return Check<unknown[]>(
    'areSshKeys',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item, index) => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        return sshKeyShape.test(item)
          ? []
          : [{ pointer, code: 'invalid_format', message: 'must be a public key such as “ssh-ed25519 AAAA… name”' }];
      }),
    { items: { type: 'string', maxLength: 9_000 } },
  );
}

const MAX_SELECTOR = 1_000;

export class SpreadWish {
  @Describe('The label of nodes whose values are the domains, e.g. zones or racks.', { example: 'zone' })
  @IsString()
  @Matches(tagKeyPattern)
  over!: string;

  @Describe('The instances to be spread, this one beside them.', { example: 'app=shop' })
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  among!: string;

  @Describe('Only in a domain that has the fewest of them. Default: there if it has room.')
  @Optional()
  @IsBoolean()
  required?: boolean;
}

export class PlacementWish {
  @Describe('Only on nodes with these labels, of those that administrators let tenants choose by.', {
    example: 'gpu=yes',
  })
  @Optional()
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  nodes?: string;

  @Describe('Only on nodes that carry one of these instances, as soon as there is one.', { example: 'app=shop' })
  @Optional()
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  affinity?: string;

  @Describe('On no node that carries one of these instances.', { example: 'role=db' })
  @Optional()
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  antiAffinity?: string;

  @Describe('Rather on nodes that carry one of these instances.', { example: 'app=shop' })
  @Optional()
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  preferredAffinity?: string;

  @Describe('Rather on nodes that carry few of these instances.', { example: 'role=db' })
  @Optional()
  @IsString()
  @MaxLength(MAX_SELECTOR)
  @IsTagSelector(MAX_SELECTOR)
  preferredAntiAffinity?: string;

  @Describe('Spread over failure domains.')
  @Optional()
  @IsObject()
  @ValidateNested()
  @Type(() => SpreadWish)
  spread?: SpreadWish;
}

export class InstanceUpdate extends CoreCreate {
  @Describe('What the machine should be; PATCH of it and start or stop are the same. Default: running.')
  @Optional()
  @IsIn(['running', 'stopped'])
  desiredPowerState?: 'running' | 'stopped';

  @Describe('When the guest shuts itself down: stay leaves it stopped, always starts it again. Default: stay.')
  @Optional()
  @IsIn(['stay', 'always'])
  restartPolicy?: 'stay' | 'always';
}

export class InstanceCreate extends InstanceUpdate {
  @Describe('Id or name of the image that its boot disk is made from, which goes with it; answered by id.', {
    example: 'tiny',
  })
  @Optional()
  @IsString()
  @IsReference()
  image?: string;

  @Describe('Instead of an image: id or name of a disk to boot from, which stays when it goes; answered by id.')
  @Optional()
  @IsString()
  @IsReference()
  bootDisk?: string;

  @Describe('Ids or names of further disks, at most 13; later ones are attached and detached as disks. Answered by id.')
  @Optional()
  @IsArray()
  @ArrayMaxSize(13)
  @AreReferences()
  disks?: string[];

  @Describe('Virtual processors.', { example: 1 })
  @IsInt()
  @Min(1)
  @Max(256)
  vcpus!: number;

  @Describe('Memory in MiB, 64 or more.', { example: 128 })
  @IsInt()
  @Min(64)
  @Max(16_777_216)
  memoryMiB!: number;

  @Describe('Size of the boot disk that is made from the image, in GiB; default: the image’s.')
  @Optional()
  @IsInt()
  @Min(1)
  @Max(65_536)
  diskGiB?: number;

  @Describe('The networks that it is on, 1 to 8.')
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(8)
  @ValidateNested({ each: true })
  @Type(() => InterfaceCreate)
  interfaces!: InterfaceCreate[];

  @Describe('What cloud-init or a script of the image’s own reads at the first boot, at most 64 KiB; never answered.', {
    schema: { writeOnly: true },
    example: '#cloud-config\npackages: [nginx]\n',
  })
  @Optional()
  @IsString()
  @IsUserData()
  userData?: string;

  @Describe('Public keys that may log in, as authorized_keys(5) has them, at most 32.')
  @Optional()
  @IsArray()
  @ArrayMaxSize(32)
  @AreSshKeys()
  sshKeys?: string[];

  @Describe('Where to place it, by tags of the tenant’s other instances and by labels of nodes.')
  @Optional()
  @IsObject()
  @ValidateNested()
  @Type(() => PlacementWish)
  placement?: PlacementWish;
}

export class ResizeBody {
  @Describe('Virtual processors; default: as they are.', { example: 2 })
  @Optional()
  @IsInt()
  @Min(1)
  @Max(256)
  vcpus?: number;

  @Describe('Memory in MiB; default: as it is.', { example: 256 })
  @Optional()
  @IsInt()
  @Min(64)
  @Max(16_777_216)
  memoryMiB?: number;
}

export class MigrateBody {
  @Describe('Name of the node to move to; default: one with room.', { example: 'node-2' })
  @Optional()
  @IsString()
  @MaxLength(63)
  // As certificates name nodes (migration 0002).
  @Matches(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/, { message: 'must be the name of a node' })
  node?: string;

  @Describe('It may be stopped for it and started again, where it cannot move while it runs.', { example: false })
  @Optional()
  @IsBoolean()
  mayStop?: boolean;
}

export class InstanceView extends InstanceCreate {
  @Describe('What the machine was seen to be.', { readOnly: true })
  @IsIn(['running', 'stopped', 'paused', 'unknown'])
  powerState!: string;

  @Describe('Name of the node that carries it; null while there is none.', { readOnly: true })
  @IsString()
  node!: string | null;
}
