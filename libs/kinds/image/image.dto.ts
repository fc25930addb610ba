/** What users write and read of an image. Global images are made by `rhyzome image import`. */

import { IsIn, IsInt, IsObject, IsOptional, IsString, IsUUID, Matches, MaxLength, Min } from 'class-validator';
import { Check, Describe, type Finding, Optional } from '#libs/openapi';
import { CoreCreate } from '#libs/resources';
import { sourceUrlProblem } from '#libs/storage';

const MAX_OS_INFO = 64;

/** What is wrong with what is said of an operating system: string to string, as tags are. */
export function osInfoFindings(value: unknown): Finding[] {
  const entries = Object.entries((value ?? {}) as Record<string, unknown>);
  if (entries.length > MAX_OS_INFO) return [{ code: 'too_many', message: `must have at most ${MAX_OS_INFO} keys` }];
  return entries.flatMap(([key, member]): Finding[] => {
    const pointer = `/${key.slice(0, 100).replaceAll('~', '~0').replaceAll('/', '~1')}`;
    if (key.length === 0 || key.length > 63)
      return [{ pointer, code: 'invalid_format', message: 'must be a key of 1 to 63 characters' }];
    if (typeof member !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
    if (member.length > 255 || /[\p{Cc}]/u.test(member))
      return [{ pointer, code: 'invalid_value', message: 'must be at most 255 printable characters' }];
    return [];
  });
}

const urlFindings = (value: unknown): Finding[] => {
  const problem = typeof value === 'string' ? sourceUrlProblem(value) : undefined;
  return problem === undefined ? [] : [{ code: 'invalid_format', message: problem }];
};

class ImageFields extends CoreCreate {
  @Describe('What is known of the operating system: string to string, at most 64.', {
    example: { name: 'Debian', version: '12' },
    schema: { type: 'object', additionalProperties: { type: 'string', maxLength: 255 }, maxProperties: MAX_OS_INFO },
  })
  @Optional()
  @IsObject()
  @Check('isOsInfo', osInfoFindings)
  osInfo?: Record<string, string>;
}

export class ImageCreate extends ImageFields {
  @Describe(
    'Where the content is fetched from, http or https; with sha256. Nothing inside the installation is fetched.',
    {
      example: 'https://images.example/debian-12.qcow2',
    },
  )
  @Optional()
  @IsString()
  @Check('isSourceUrl', urlFindings, { format: 'uri' })
  sourceUrl?: string;

  @Describe('The snapshot that it is made from, id or name.')
  @Optional()
  @IsString()
  @MaxLength(63)
  snapshot?: string;

  @Describe('SHA-256 that the content must have, hexadecimal; required with sourceUrl.')
  @Optional()
  @IsString()
  @Matches(/^[0-9A-Fa-f]{64}$/)
  sha256?: string;

  @Describe('Bytes that the content must have.')
  @Optional()
  @IsInt()
  @Min(1)
  sizeBytes?: number;

  @Describe(
    'What the content must be; “raw” is taken as it is, whatever it looks like. Default: found out from the content.',
  )
  @Optional()
  @IsIn(['qcow2', 'raw'])
  format?: 'qcow2' | 'raw';
}

export class ImageUpdate extends ImageFields {}

export class ImagePublisher {
  @Describe('Id of the tenant.')
  @IsString()
  id!: string;

  @Describe('Its name when it published the image.')
  @IsString()
  name!: string;
}

export class ImageView extends ImageFields {
  @Describe('Who sees it: global and published ones are everybody’s to use.', { readOnly: true })
  @IsIn(['global', 'published', 'private'])
  visibility!: string;

  @Describe('The tenant that published it; null where none did.', {
    readOnly: true,
    nullable: true,
    type: () => ImagePublisher,
  })
  publisher!: ImagePublisher | null;

  @Describe('Where the content comes from.', { readOnly: true })
  @IsIn(['import', 'upload', 'url', 'snapshot'])
  source!: string;

  @Describe('Id of the snapshot that it was made from.', { readOnly: true, nullable: true })
  @IsOptional()
  @IsUUID()
  snapshot!: string | null;

  @Describe('Format of the content; null until it is there.', { readOnly: true, nullable: true })
  @IsOptional()
  @IsIn(['qcow2', 'raw'])
  format!: string | null;

  @Describe('Size of the content in bytes; null until it is there.', { readOnly: true, nullable: true })
  @IsOptional()
  @IsInt()
  sizeBytes!: number | null;

  @Describe('Size of the disk that a machine sees, in bytes; null until the content is there.', {
    readOnly: true,
    nullable: true,
  })
  @IsOptional()
  @IsInt()
  virtualSizeBytes!: number | null;

  @Describe('SHA-256 of the content, lower-case hex; null until it is there.', { readOnly: true, nullable: true })
  @IsOptional()
  @IsString()
  sha256!: string | null;
}
