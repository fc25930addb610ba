/**
 * Reads once per DTO class what class-validator, class-transformer, reflect-metadata and our own decorators know of it, and
 * keeps it as a plan that bodies are validated with and schemas are made of.
 */
import 'reflect-metadata';
import { plainToInstance } from 'class-transformer';
import { getMetadataStorage, type ValidationArguments } from 'class-validator';
import { type CheckContext, type Description, descriptionsOf, isNotNull } from './describe.js';

export type DtoClass<T extends object = object> = new () => T;

type Metadata = ReturnType<ReturnType<typeof getMetadataStorage>['getTargetValidationMetadatas']>[number];

/** One decorator on a property. */
export interface Rule {
  /** class-validator's name: isString, maxLength … or the custom validator's. */
  name: string;
  constraints: readonly any[];
  validate(value: unknown, args: ValidationArguments): boolean;
  /** The decorator's own message, else the validator's default; tokens not yet replaced. */
  messageOf(args: ValidationArguments): string;
  /** True when the DTO's author wrote the message. */
  hasOwnMessage: boolean;
  context: Partial<CheckContext> & { code?: string };
}

export type PropertyType = 'string' | 'number' | 'boolean' | 'array' | 'object' | 'date' | 'any';

export interface PropertyPlan {
  name: string;
  type: PropertyType;
  /** Whether a body may have it; others are described for answers only. */
  isInput: boolean;
  rules: Rule[];
  elementRules: Rule[];
  nested: DtoClass | undefined;
  conditions: ((object: any, value: any) => boolean)[];
  isOptional: boolean;
  isNullable: boolean;
  description: Description | undefined;
  defaultValue: unknown;
}

export interface DtoPlan {
  dtoClass: DtoClass;
  properties: ReadonlyMap<string, PropertyPlan>;
}

const plans = new Map<DtoClass, DtoPlan>();

/** The plan of a class; made at the first call. Throws when its decorators cannot be understood. */
export function planOf(dtoClass: DtoClass): DtoPlan {
  const known = plans.get(dtoClass);
  if (known) return known;
  const plan = makePlan(dtoClass);
  plans.set(dtoClass, plan);
  return plan;
}

function makePlan(dtoClass: DtoClass): DtoPlan {
  const descriptions = descriptionsOf(dtoClass);
  const byProperty = new Map<string, Metadata[]>([...descriptions.keys()].map((name) => [name, []]));
  for (const metadata of getMetadataStorage().getTargetValidationMetadatas(dtoClass, '', true, false)) {
    const list = byProperty.get(metadata.propertyName) ?? [];
    list.push(metadata);
    byProperty.set(metadata.propertyName, list);
  }
  const defaults = new dtoClass() as Record<string, unknown>;
  const properties = [...byProperty].map(([name, list]): [string, PropertyPlan] => [
    name,
    planProperty(dtoClass, name, list, descriptions.get(name), defaults[name]),
  ]);
  return { dtoClass, properties: new Map(properties) };
}

function planProperty(
  dtoClass: DtoClass,
  name: string,
  list: Metadata[],
  description: Description | undefined,
  defaultValue: unknown,
): PropertyPlan {
  const designType: unknown = Reflect.getMetadata('design:type', dtoClass.prototype, name);
  const where = `${dtoClass.name}.${name}`;
  const conditions = list.filter(({ type }) => type === 'conditionalValidation');
  const nestedRule = list.find(({ type }) => type === 'nestedValidation');
  const rules = list.filter(({ type }) => type === 'customValidation' || type === 'isDefined');
  const isIsOptional = conditions.some((condition) => condition.name === 'isOptional');
  const isArrayRule = (rule: Metadata) => rule.each || rule.name === 'isArray' || /^array[A-Z]/.test(rule.name ?? '');
  const isArray = designType === Array || rules.some(isArrayRule) || nestedRule?.each === true;
  return {
    name,
    type: isArray ? 'array' : nestedRule ? 'object' : typeOf(designType),
    isInput: !description?.readOnly && list.some(({ type }) => type !== 'conditionalValidation'),
    rules: rules.filter((rule) => !rule.each).map((rule) => makeRule(rule, where)),
    elementRules: rules.filter((rule) => rule.each).map((rule) => makeRule(rule, where)),
    nested: nestedRule || description?.type ? nestedClass(dtoClass, name, isArray, designType, description) : undefined,
    conditions: conditions.map((condition) => condition.constraints[0]),
    isOptional: conditions.some(({ constraints }) => constraints[0] !== isNotNull) || defaultValue !== undefined,
    isNullable:
      isIsOptional || description?.nullable === true || conditions.some((c) => c.constraints[0] === isNotNull),
    description,
    defaultValue,
  };
}

function typeOf(designType: unknown): PropertyType {
  switch (designType) {
    case String:
      return 'string';
    case Number:
      return 'number';
    case Boolean:
      return 'boolean';
    case Date:
      return 'date';
    default:
      return 'any';
  }
}

function makeRule(metadata: Metadata, where: string): Rule {
  const [constraint] = getMetadataStorage().getTargetValidatorConstraints(metadata.constraintCls);
  if (!constraint) throw new Error(`${where}: the validator ${metadata.name ?? '?'} is not registered.`);
  if (constraint.async)
    throw new Error(`${where}: asynchronous validators are not for DTOs; check in the kind's validate.`);
  if (metadata.groups?.length) throw new Error(`${where}: validation groups are not supported.`);
  const { instance } = constraint;
  return {
    name: metadata.name ?? constraint.name ?? '',
    constraints: metadata.constraints ?? [],
    validate: (value, args) => {
      const isValid: unknown = instance.validate(value, args);
      if (typeof isValid !== 'boolean') throw new Error(`${where}: its validator did not answer with true or false.`);
      return isValid;
    },
    messageOf: (args) => {
      if (typeof metadata.message === 'function') return metadata.message(args);
      return metadata.message || instance.defaultMessage?.(args) || 'is not valid';
    },
    hasOwnMessage: Boolean(metadata.message),
    context: metadata.context ?? {},
  };
}

const builtIn = new Set<unknown>([String, Number, Boolean, Array, Object, Date, undefined]);

/** The class that @Type names, found by letting class-transformer make one; else the property's own class. */
function nestedClass(
  dtoClass: DtoClass,
  name: string,
  isArray: boolean,
  designType: unknown,
  description: Description | undefined,
): DtoClass {
  if (description?.type) return description.type() as DtoClass;
  const probe = plainToInstance(dtoClass, { [name]: isArray ? [{}] : {} }) as Record<string, any>;
  const made = isArray ? probe[name]?.[0] : probe[name];
  if (made?.constructor && made.constructor !== Object) return made.constructor;
  if (!isArray && !builtIn.has(designType)) return designType as DtoClass;
  throw new Error(`${dtoClass.name}.${name} has @ValidateNested but no @Type that names its class.`);
}
