/** A body with one field of every sort, for the tests of this folder. */
import 'reflect-metadata';
import { Type } from 'class-transformer';
import {
  ArrayMaxSize,
  ArrayMinSize,
  IsArray,
  IsBoolean,
  IsIn,
  IsInt,
  IsIP,
  IsNotEmpty,
  IsOptional,
  IsString,
  Max,
  MaxLength,
  Min,
  ValidateNested,
} from 'class-validator';
import { Describe, Nullable, Optional, ResourceName, ResourceTags } from './index.js';

export class Interface {
  @Describe('Id or name of the network.', { example: 'lan' })
  @IsString()
  @IsNotEmpty()
  network!: string;

  @Describe('The address; the next free one when left out.')
  @Optional()
  @IsIP(4)
  ip?: string;

  @Describe('Made by the network.', { readOnly: true })
  mac!: string;
}

export class CreateInstance {
  @ResourceName()
  name!: string;

  @Describe('Virtual CPUs.')
  @IsInt()
  @Min(1)
  @Max(256)
  vcpus!: number;

  @Describe('Memory.', { unit: 'MiB' })
  @Optional()
  @IsInt()
  @Min(64)
  memoryMiB = 512;

  @Describe('Its interfaces.')
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(3)
  @ValidateNested({ each: true })
  @Type(() => Interface)
  interfaces!: Interface[];

  @Optional()
  @Nullable()
  @IsString()
  @MaxLength(10)
  note?: string | null;

  @IsOptional()
  @IsBoolean()
  protect?: boolean;

  @Optional()
  @IsIn(['stay', 'always'])
  restartPolicy?: string;

  @Optional()
  @IsArray()
  @ArrayMaxSize(4)
  @IsIP(undefined, { each: true })
  dns?: string[];

  @Optional()
  @ResourceTags()
  tags?: Record<string, string>;

  @Optional()
  @ValidateNested()
  @Type(() => Interface)
  primary?: Interface;
}

export class UpdateInstance {
  @Optional()
  @ResourceTags()
  tags?: Record<string, string>;
}

export class Resize {
  @Describe('Virtual CPUs.')
  @IsInt()
  @Min(1)
  @Max(256)
  vcpus!: number;
}

export class InstanceView {
  @Describe('Virtual CPUs.')
  vcpus!: number;

  @Describe('As observed.', { readOnly: true, nullable: true })
  powerState!: string;

  @Describe('Its interfaces.', { type: () => Interface })
  interfaces!: Interface[];
}
