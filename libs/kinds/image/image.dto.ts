/** What users read of an image. Global images are made by `rhyzome image import`. */

import { IsIn, IsInt, IsObject, IsOptional, IsString } from 'class-validator';
import { Describe } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';

export class ImageView extends CoreCreate {
  @Describe('Who sees it: global ones are everybody’s.', { readOnly: true })
  @IsIn(['global', 'published', 'private'])
  visibility!: string;

  @Describe('Id of the tenant that published it; null for global ones.', { readOnly: true })
  @IsOptional()
  @IsString()
  publisher!: string | null;

  @Describe('Format of the content.', { readOnly: true })
  @IsIn(['qcow2', 'raw'])
  format!: string;

  @Describe('Size of the content in bytes.', { readOnly: true })
  @IsInt()
  sizeBytes!: number;

  @Describe('Size of the disk that a machine sees, in bytes.', { readOnly: true })
  @IsInt()
  virtualSizeBytes!: number;

  @Describe('SHA-256 of the content, lower-case hex.', { readOnly: true })
  @IsString()
  sha256!: string;

  @Describe('What is known of the operating system.', { readOnly: true })
  @IsObject()
  osInfo!: Record<string, unknown>;
}
