/** What users write and read of a disk. */

import { IsInt, IsOptional, IsString, Matches, Max, MaxLength, Min } from 'class-validator';
import { Describe, Optional } from '#libs/openapi';
import { CoreCreate, IsReference } from '#libs/resources';

export const MAX_SIZE_GIB = 65_536;

export class DiskUpdate extends CoreCreate {
  @Describe('Size in GiB. It can grow, also in use, and never shrink. Default: that of the image or snapshot.', {
    example: 10,
  })
  @Optional()
  @IsInt()
  @Min(1)
  @Max(MAX_SIZE_GIB)
  sizeGiB?: number;
}

export class DiskCreate extends DiskUpdate {
  @Describe('Id or name of the image that it is made from; answered by id.', { example: 'tiny' })
  @Optional()
  @IsString()
  @IsReference()
  image?: string;

  @Describe(
    'Id or name of the snapshot that it is made from; answered by id. Without an image and a snapshot it is empty.',
  )
  @Optional()
  @IsString()
  @IsReference()
  snapshot?: string;
}

export class DiskView extends DiskCreate {
  @Describe('Id of the instance that it is attached to; null: none.', { readOnly: true })
  @IsOptional()
  @IsString()
  instance!: string | null;

  @Describe('Its turn when the instance boots, 1 first; null: it is not booted from.', { readOnly: true })
  @IsOptional()
  @IsInt()
  bootOrder!: number | null;

  @Describe('The name of its device in the guest, as virtio has them in their order; null: not attached.', {
    readOnly: true,
    example: 'vdb',
  })
  @IsOptional()
  @IsString()
  device!: string | null;

  @Describe('Name of the node that carries it.', { readOnly: true })
  @IsOptional()
  @IsString()
  node!: string | null;
}

export class AttachBody {
  @Describe('Id or name of the instance.', { example: 'web-1' })
  @IsString()
  @IsReference()
  instance!: string;
}

export class DiskMigrateBody {
  @Describe('Name of the node to move to; default: one with room.', { example: 'node-2' })
  @Optional()
  @IsString()
  @MaxLength(63)
  // As certificates name nodes (migration 0002).
  @Matches(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/, { message: 'must be the name of a node' })
  node?: string;
}
