/** What users write and read of a snapshot. */
import { IsInt, IsOptional, IsString } from 'class-validator';
import { Describe } from '#libs/openapi';
import { CoreCreate, IsReference } from '#libs/resources';

export class SnapshotUpdate extends CoreCreate {}

export class SnapshotCreate extends SnapshotUpdate {
  @Describe('Id or name of the disk; answered by id.', { example: 'data-1' })
  @IsString()
  @IsReference()
  disk!: string;
}

export class SnapshotView extends SnapshotCreate {
  @Describe('Bytes that the disk held on its node when it was taken; null until then.', { readOnly: true })
  @IsOptional()
  @IsInt()
  sizeBytes!: number | null;

  @Describe('Size of the disk then; a disk made from it is at least so large.', { readOnly: true })
  @IsOptional()
  @IsInt()
  virtualSizeBytes!: number | null;
}
