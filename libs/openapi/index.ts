export { Check, Describe, type DescribeOptions, type Finding, Nullable, Optional } from './describe.js';
export { type ApiDescription, buildOpenApi, type KindDescription } from './document.js';
export type { DtoClass } from './dto-plan.js';
export { type JsonSchema, schemaOf } from './schema.js';
export { type ValidateDtoOptions, validateDto } from './validate-dto.js';
