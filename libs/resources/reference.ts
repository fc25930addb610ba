/** References between resources: their shape in a body, and finding what they name. */
import { isName, isUuid, type ResourceCore } from '#libs/core';
import { Check } from '#libs/openapi';

/** The id or the name of a resource. */
export function IsReference(): PropertyDecorator {
  return Check<string>(
    'isReference',
    (value) =>
      typeof value !== 'string' || isUuid(value) || isName(value)
        ? []
        : [{ code: value === '' ? 'empty' : 'invalid_format', message: 'must be an id or a name' }],
    { minLength: 1, maxLength: 63 },
  );
}

/** Each item the id or the name of a resource. */
export function AreReferences(): PropertyDecorator {
  return Check<unknown[]>(
    'areReferences',
    (value) =>
      (Array.isArray(value) ? value : []).flatMap((item, index) => {
        const pointer = `/${index}`;
        if (typeof item !== 'string') return [{ pointer, code: 'wrong_type', message: 'must be a string' }];
        return isUuid(item) || isName(item)
          ? []
          : [{ pointer, code: 'invalid_format', message: 'must be an id or a name' }];
      }),
    { items: { type: 'string', minLength: 1, maxLength: 63 } },
  );
}

/** The part of a core that names a row. */
export type Who = Pick<ResourceCore, 'tenantId' | 'id'>;
