/** The fields that every kind's DTOs have. A kind's create and update DTOs extend CoreCreate. */

import { IsBoolean, IsString } from 'class-validator';
import { isName, namePattern, nameRule, type Tags, tagProblems } from '#libs/core';
import { Check, Describe, Optional } from '#libs/openapi';

/** A name as resources have it. */
export function IsResourceName(): PropertyDecorator {
  return Check<string>(
    'isResourceName',
    (value) => {
      if (typeof value !== 'string' || isName(value)) return [];
      if (value === '') return [{ code: 'empty', message: `must not be empty: ${nameRule}` }];
      return [{ code: value.length > 63 ? 'too_long' : 'invalid_format', message: `must be ${nameRule}` }];
    },
    { pattern: namePattern.source, minLength: 1, maxLength: 63 },
  );
}

/** Tags: an object of strings within the limits of libs/core/tags. */
export function IsTags(): PropertyDecorator {
  return Check<unknown>(
    'isTags',
    (value) =>
      tagProblems(value).map(({ key, code, message }) => ({
        pointer: key === null ? '' : `/${key.slice(0, 63).replaceAll('~', '~0').replaceAll('/', '~1')}`,
        code,
        message,
      })),
    { type: 'object', additionalProperties: { type: 'string', maxLength: 255 }, maxProperties: 64 },
  );
}

export class CoreCreate {
  @Describe('Unique in tenant and kind; also a DNS label.', { example: 'web-1' })
  @IsString()
  @IsResourceName()
  name!: string;

  @Describe('Up to 64 tags, string to string.', { example: { env: 'dev' } })
  @Optional()
  @IsTags()
  tags?: Tags;

  @Describe('True: a DELETE is refused until it is false again.')
  @Optional()
  @IsBoolean()
  deletionProtection?: boolean;
}

/** Read-only fields of every resource; sent ones are refused. */
export const coreReadOnly = [
  'id',
  'kind',
  'state',
  'conditions',
  'generation',
  'observedGeneration',
  'createdAt',
  'updatedAt',
  'createdBy',
  'job',
] as const;
