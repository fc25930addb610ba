/** Decorators for the fields that every kind's DTOs share, so that a name is the same name everywhere. */
import { applyDecorators } from '@nestjs/common';
import { IsString, Length, Matches } from 'class-validator';
import { isUuid, MAX_TAGS, namePattern, nameRule, tagKeyPattern, tagProblems } from '#libs/core';
import { Check, Describe } from './describe.js';

/** The name of a resource (required). */
export function ResourceName(): PropertyDecorator {
  return applyDecorators(
    Describe(`Unique in tenant and kind: ${nameRule}.`, { example: 'web-1' }),
    IsString(),
    Length(1, 63),
    Matches(namePattern, { message: nameRule }),
    // A name that looks like an id could hide the resource with that id.
    Check<unknown>('isNoUuid', (name) =>
      typeof name === 'string' && isUuid(name)
        ? [{ code: 'invalid_format', message: 'must not be shaped like a UUID' }]
        : [],
    ),
  );
}

/** Tags, string to string. */
export function ResourceTags(): PropertyDecorator {
  return applyDecorators(
    Describe('Words of your own to find and group resources by.', { example: { env: 'prod' } }),
    Check<unknown>('isTags', findTagProblems, {
      type: 'object',
      maxProperties: MAX_TAGS,
      propertyNames: { pattern: tagKeyPattern.source },
      additionalProperties: { type: 'string', maxLength: 255 },
    }),
  );
}

function findTagProblems(tags: unknown) {
  return tagProblems(tags).map(({ key, code, message }) => ({
    pointer: key === null ? '' : `/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`,
    code,
    message,
  }));
}

/** A reference to another resource: its id or its name. Whether it exists is the kind's to check. */
export function Reference(kind: string, text: string): PropertyDecorator {
  return applyDecorators(Describe(`${text} Id or name of the ${kind}.`), IsString(), Length(1, 63));
}
