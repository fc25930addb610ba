/**
 * Property decorators for DTOs beside class-validator's: what a field is for, and that it may be missing or null. Both the
 * validation of bodies and the OpenAPI document read them.
 */
import 'reflect-metadata';
import { ValidateBy, ValidateIf } from 'class-validator';
import type { JsonSchema } from './json-schema.js';

export interface DescribeOptions {
  example?: unknown;
  /** Shown in answers only; `validateDto` refuses it with `read_only` when the caller lists it. */
  readOnly?: boolean;
  /** MiB, seconds …; put into the description. */
  unit?: string;
  nullable?: boolean;
  /** The class of a nested object, or of the items of an array, where no @Type says it. */
  type?: () => new () => object;
  /** Merged over what was derived; for what decorators cannot say. */
  schema?: JsonSchema;
}

export interface Description extends DescribeOptions {
  text: string;
}

const descriptions = new WeakMap<object, Map<string, Description>>();

/** Says in a sentence what a field is for; it becomes the schema's description. */
export function Describe(text: string, options: DescribeOptions = {}): PropertyDecorator {
  return (prototype, property) => {
    const known = descriptions.get(prototype) ?? new Map<string, Description>();
    known.set(String(property), { text, ...options });
    descriptions.set(prototype, known);
  };
}

/** All described properties of a class, inherited ones first, in the order of their declaration. */
export function descriptionsOf(dtoClass: Function): Map<string, Description> {
  const chain: Map<string, Description>[] = [];
  for (let prototype = dtoClass.prototype; prototype; prototype = Object.getPrototypeOf(prototype)) {
    chain.unshift(descriptions.get(prototype) ?? new Map());
  }
  return new Map(chain.flatMap((map) => [...map]));
}

const isPresent = (_object: unknown, value: unknown): boolean => value !== undefined;
/** The condition behind Nullable; recognized by identity. */
export const isNotNull = (_object: unknown, value: unknown): boolean => value !== null;

/** The field may be missing. Unlike class-validator's IsOptional it may not be null. */
export function Optional(): PropertyDecorator {
  return ValidateIf(isPresent);
}

/** The field may be null (in a merge patch: to be removed). */
export function Nullable(): PropertyDecorator {
  return ValidateIf(isNotNull);
}

/** Something wrong inside a value. */
export interface Finding {
  /** RFC 6901, from the value on: '' is the value itself, '/key' a member. Default ''. */
  pointer?: string;
  code: string;
  message: string;
}

/** The context under which a Check travels through class-validator's metadata. */
export interface CheckContext {
  find: (value: unknown, object: object) => Finding[];
  schema?: JsonSchema;
}

/** A check of one's own that can say where in the value something is wrong; no findings: it is valid. */
export function Check<T>(
  name: string,
  find: (value: T, object: any) => Finding[],
  schema?: JsonSchema,
): PropertyDecorator {
  const context = { find, schema } as CheckContext;
  const validate = (value: any, args?: { object: object }) => find(value, args?.object ?? {}).length === 0;
  return ValidateBy({ name, validator: { validate, defaultMessage: () => '$property is not valid' } }, { context });
}
