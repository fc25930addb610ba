/** What users write and read of an API token. */
import { ArrayMaxSize, ArrayMinSize, ArrayUnique, IsArray, IsInt, IsString, Max, Min } from 'class-validator';
import { parseScopes } from '#libs/auth';
import { Check, Describe, type Finding, Optional } from '#libs/openapi';
import { CoreCreate, IsReference } from '#libs/resources';

export const MAX_DAYS = 366;
export const DEFAULT_DAYS = 90;
export const DAY_MS = 86_400_000;
const MAX_SCOPES = 100;

/** RFC 3339, in the future and not too far. */
function IsEnd(): PropertyDecorator {
  return Check<unknown>(
    'isEnd',
    (value): Finding[] => {
      if (typeof value !== 'string') return [{ code: 'wrong_type', message: 'must be a string' }];
      const at = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(value)
        ? Date.parse(value)
        : Number.NaN;
      if (Number.isNaN(at)) return [{ code: 'invalid_format', message: 'must be a time as in RFC 3339' }];
      const leftMs = at - Date.now();
      if (leftMs > 0 && leftMs <= MAX_DAYS * DAY_MS) return [];
      return [{ code: 'out_of_range', message: `must be in the future, and at most ${MAX_DAYS} days away` }];
    },
    { type: 'string', format: 'date-time' },
  );
}

function AreScopes(): PropertyDecorator {
  return Check<unknown>(
    'areScopes',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item: unknown, index): Finding[] => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        return !item.includes(' ') && parseScopes(item)
          ? []
          : [{ pointer, code: 'invalid_format', message: 'must be kind:verb, either of them *' }];
      }),
    { items: { type: 'string', maxLength: 127 } },
  );
}

export class ApitokenUpdate extends CoreCreate {}

export class ApitokenCreate extends ApitokenUpdate {
  @Describe('As which service account it acts: id or name; answered by id. Default: as you.')
  @Optional()
  @IsString()
  @IsReference()
  serviceAccount?: string;

  @Describe(`When it ends, at most ${MAX_DAYS} days from now. Default: in ${DEFAULT_DAYS} days.`)
  @Optional()
  @IsEnd()
  expiresAt?: string;

  @Describe('In place of expiresAt: in how many days it ends.')
  @Optional()
  @IsInt()
  @Min(1)
  @Max(MAX_DAYS)
  expiresInDays?: number;

  @Describe('What it is narrowed to, as kind:verb; at most what your own token is narrowed to, which is the default.', {
    example: ['instance:read'],
  })
  @Optional()
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(MAX_SCOPES)
  @ArrayUnique()
  @AreScopes()
  scopes?: string[];
}

export class ApitokenView {
  @Describe('Id of the service account that it acts as; null: of whoever made it.', { nullable: true })
  @IsString()
  serviceAccount!: string | null;

  @Describe('The sub as which it acts.', { readOnly: true })
  @IsString()
  subject!: string;

  @Describe('When it ends.', { schema: { type: 'string', format: 'date-time' } })
  expiresAt!: string;

  @Describe('What it is narrowed to; null: nothing but what its owner may do.', {
    nullable: true,
    schema: { type: ['array', 'null'], items: { type: 'string' } },
  })
  scopes!: string[] | null;

  @Describe('How it begins, to tell it from others.', { readOnly: true, example: 'rhz_8Zp1' })
  @IsString()
  prefix!: string;

  @Describe('When it was used last, to within some minutes; null: never.', {
    readOnly: true,
    nullable: true,
    schema: { type: ['string', 'null'], format: 'date-time' },
  })
  lastUsedAt!: string | null;
}

/** In the answer to the create, and nowhere else. */
export class ApitokenSecrets {
  @Describe('The token: Authorization: Bearer <token>.', { example: 'rhz_…' })
  @IsString()
  token!: string;
}
