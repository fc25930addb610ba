/** JSON Schema (2020-12) of a DTO class, derived from the same plan that its bodies are validated with. */
import { type DtoClass, type PropertyPlan, type PropertyType, planOf, type Rule } from './dto-plan.js';
import type { JsonSchema } from './json-schema.js';
import { schemaOfRule } from './rule-table.js';

export type { JsonSchema } from './json-schema.js';

export interface SchemaOptions {
  /** Where nested classes are: returns the $ref of a class. Without it they are put in place. */
  refOf?: (dtoClass: DtoClass) => string;
  /** 'input' (default): what a body may be, closed. 'view': what an answer is; all fields, open for new ones. */
  purpose?: 'input' | 'view';
}

/** The schema of a class. Throws when classes nest themselves and no `refOf` is given. */
export function schemaOf(dtoClass: DtoClass, options: SchemaOptions = {}): JsonSchema {
  return schemaOfClass(dtoClass, options, []);
}

function schemaOfClass(dtoClass: DtoClass, options: SchemaOptions, outer: DtoClass[]): JsonSchema {
  if (outer.includes(dtoClass)) throw new Error(`${dtoClass.name} nests itself; give schemaOf a refOf.`);
  const isView = options.purpose === 'view';
  const properties = [...planOf(dtoClass).properties.values()].filter((plan) => isView || plan.isInput);
  const required = properties.filter((plan) => !plan.isOptional).map((plan) => plan.name);
  return {
    type: 'object',
    properties: Object.fromEntries(
      properties.map((plan) => [plan.name, schemaOfProperty(plan, options, [...outer, dtoClass])]),
    ),
    ...(required.length > 0 && { required }),
    ...(!isView && { additionalProperties: false }),
  };
}

function schemaOfProperty(plan: PropertyPlan, options: SchemaOptions, outer: DtoClass[]): JsonSchema {
  const nested = plan.nested && refOrSchema(plan.nested, options, outer);
  const own = plan.type === 'array' ? arraySchema(plan, nested) : (nested ?? typeSchema(plan.type));
  const merged = mergeRules(own, plan.rules);
  const schema = { ...(plan.isNullable ? nullable(merged) : merged), ...annotations(plan, options) };
  return { ...schema, ...plan.description?.schema };
}

function refOrSchema(nested: DtoClass, options: SchemaOptions, outer: DtoClass[]): JsonSchema {
  return options.refOf ? { $ref: options.refOf(nested) } : schemaOfClass(nested, options, outer);
}

function arraySchema(plan: PropertyPlan, nested: JsonSchema | undefined): JsonSchema {
  return { type: 'array', items: nested ?? mergeRules({}, plan.elementRules) };
}

function typeSchema(type: PropertyType): JsonSchema {
  if (type === 'any') return {};
  return type === 'date' ? { type: 'string', format: 'date-time' } : { type };
}

/** Of two rules about the same keyword the last one stands, as does a stricter type (integer over number). */
function mergeRules(schema: JsonSchema, rules: Rule[]): JsonSchema {
  const merged: JsonSchema = Object.assign({}, schema, ...rules.map(schemaOfRule));
  const isString = merged.type === undefined && (merged.pattern ?? merged.format ?? merged.maxLength) !== undefined;
  return isString ? { type: 'string', ...merged } : merged;
}

/** OpenAPI 3.1 has no `nullable`; null is a type. */
function nullable(schema: JsonSchema): JsonSchema {
  if (schema.$ref) return { anyOf: [schema, { type: 'null' }] };
  if (schema.type === undefined) return schema;
  const types = Array.isArray(schema.type) ? schema.type : [schema.type];
  return {
    ...schema,
    type: [...types, 'null'],
    ...(schema.enum && { enum: [...schema.enum, null] }),
  };
}

function annotations(plan: PropertyPlan, options: SchemaOptions): JsonSchema {
  const { description, defaultValue } = plan;
  const isReadOnly = description?.readOnly ?? (options.purpose === 'view' && !plan.isInput);
  const text = description && (description.unit ? `${description.text} Unit: ${description.unit}.` : description.text);
  return {
    ...(text && { description: text }),
    ...(isReadOnly && { readOnly: true }),
    ...(defaultValue !== undefined && { default: structuredClone(defaultValue) }),
    ...(description?.example !== undefined && { examples: [description.example] }),
  };
}
