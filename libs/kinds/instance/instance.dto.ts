/** What users write and read of an instance. */

import { Type } from 'class-transformer';
import { ArrayMaxSize, ArrayMinSize, IsArray, IsIn, IsInt, IsString, Max, Min, ValidateNested } from 'class-validator';
import { isName, isUuid } from '#libs/core';
import { IsIpv4Address } from '#libs/kinds/network';
import { Check, Describe, Optional } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

/** The id or the name of a resource. */
function IsReference(): PropertyDecorator {
  return Check<string>(
    'isReference',
    (value) =>
      typeof value !== 'string' || isUuid(value) || isName(value)
        ? []
        : [{ code: value === '' ? 'empty' : 'invalid_format', message: 'must be an id or a name' }],
    { minLength: 1, maxLength: 63 },
  );
}

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

  @Describe('MAC address of the interface.', { readOnly: true })
  mac?: string;
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
  @Describe('Id or name of the image to boot from; answered by id.', { example: 'tiny' })
  @IsString()
  @IsReference()
  image!: string;

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

  @Describe('Size of the boot disk in GiB; default: the image’s.')
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
}

export class InstanceView extends InstanceCreate {
  @Describe('What the machine was seen to be.', { readOnly: true })
  @IsIn(['running', 'stopped', 'paused', 'unknown'])
  powerState!: string;

  @Describe('Name of the node that carries it; null while there is none.', { readOnly: true })
  @IsString()
  node!: string | null;
}
