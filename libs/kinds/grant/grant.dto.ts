/** What users write and read of a grant. */
import { Type } from 'class-transformer';
import { ArrayMaxSize, ArrayMinSize, IsArray, IsIn, IsString, Length, Matches, ValidateNested } from 'class-validator';
import { Check, Describe, Optional } from '#libs/openapi';
import { AreReferences, CoreCreate, IsReference, IsTagSelector } from '#libs/resources';

export const MAX_RESOURCES = 100;
const MAX_VERBS = 32;
const MAX_KINDS = 64;
const MAX_SELECTOR = 2000;

/** Printable: no control characters, no lone surrogates. */
const printableText = /^[^\p{Cc}\p{Cs}]+$/u;

export const subjectFields = ['user', 'serviceAccount', 'group', 'role', 'sub'] as const;

function IsOneSubject(): PropertyDecorator {
  return Check<object>(
    'isOneSubject',
    (value) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
      const given = subjectFields.filter((field) => Object.hasOwn(value, field));
      return given.length === 1 || Object.keys(value).some((key) => !(subjectFields as readonly string[]).includes(key))
        ? []
        : [
            {
              code: given.length === 0 ? 'required' : 'invalid_value',
              message: `needs one of ${subjectFields.join(', ')}`,
            },
          ];
    },
    { minProperties: 1, maxProperties: 1 },
  );
}

/** Each item a name of a verb or kind, or `*`, and none twice. */
function AreWords(): PropertyDecorator {
  return Check<unknown[]>(
    'areWords',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item, index) => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        if (!/^(\*|[a-z][a-z0-9-]{0,62})$/.test(item)) {
          return [{ pointer, code: 'invalid_format', message: 'must be a name of a-z, 0-9 and “-”, or “*”' }];
        }
        return value.indexOf(item) === index ? [] : [{ pointer, code: 'invalid_value', message: 'stands there twice' }];
      }),
    { items: { type: 'string', pattern: '^(\\*|[a-z][a-z0-9-]{0,62})$' } },
  );
}

export class GrantSubject {
  @Describe('Id or name of a user; answered by id.', { example: 'alice' })
  @Optional()
  @IsString()
  @IsReference()
  user?: string;

  @Describe('Id or name of a service account; answered by id. What it is given is cut to what the author has.')
  @Optional()
  @IsString()
  @IsReference()
  serviceAccount?: string;

  @Describe('Name of a group, as in the tokens’ claim “groups”.', { example: 'ops' })
  @Optional()
  @IsString()
  @Length(1, 255)
  @Matches(printableText, { message: 'must be printable' })
  group?: string;

  @Describe('A built-in role, of which the tenant’s grants then say what it means.', { example: 'viewer' })
  @Optional()
  @IsIn(['operator', 'viewer'])
  role?: 'operator' | 'viewer';

  @Describe('The “sub” of somebody’s tokens, where the tenant’s users are kept by somebody else.')
  @Optional()
  @IsString()
  @Length(1, 255)
  @Matches(printableText, { message: 'must be printable' })
  sub?: string;
}

export class GrantCreate extends CoreCreate {
  @Describe('Whom it is for: one of these.', { type: () => GrantSubject, example: { group: 'ops' } })
  @Type(() => GrantSubject)
  @ValidateNested()
  @IsOneSubject()
  subject!: GrantSubject;

  @Describe('What it allows: read, create, update (with it all actions), delete, names of actions, or * for all.', {
    example: ['update', 'reboot'],
  })
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(MAX_VERBS)
  @AreWords()
  verbs!: string[];

  @Describe('Of which kinds, also audit and quota; * for all, also those that are to come.', { example: ['instance'] })
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(MAX_KINDS)
  @AreWords()
  kinds!: string[];

  @Describe('Only resources with these tags, whenever they have them.', { example: 'env in (dev,test)' })
  @Optional()
  @IsString()
  @IsTagSelector(MAX_SELECTOR)
  tagSelector?: string;

  @Describe('Instead of a selector: only these resources of the one kind, ids or names. Answered by id.')
  @Optional()
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(MAX_RESOURCES)
  @AreReferences()
  resources?: string[];
}

/** What a changed one must look like as a whole. */
export class GrantUpdate extends GrantCreate {}

export class GrantRule {
  @Describe('Verbs.', { schema: { type: 'array', items: { type: 'string' } } })
  verbs!: string[];

  @Describe('Kinds.', { schema: { type: 'array', items: { type: 'string' } } })
  kinds!: string[];

  @Describe('Only resources with these tags.', { schema: { type: 'string' } })
  @Optional()
  tagSelector?: string;

  @Describe('Only these, by id.', { schema: { type: 'array', items: { type: 'string' } } })
  @Optional()
  resources?: string[];
}

export class GrantView extends GrantCreate {
  @Describe('What it gives: as asked, or for a service account what its author had of it.', {
    readOnly: true,
    type: () => GrantRule,
  })
  @IsArray()
  @Type(() => GrantRule)
  @ValidateNested({ each: true })
  rules!: GrantRule[];
}
