export { jsonAnswer, responsesWith } from './answers.js';
export { Check, Describe, type DescribeOptions, type Finding, Nullable, Optional } from './describe.js';
export { type ActionDescription, type ApiDescription, buildOpenApi, type KindDescription } from './document.js';
export type { DtoClass } from './dto-plan.js';
export { Reference, ResourceName, ResourceTags } from './fields.js';
export { metricsPaths, metricsSchema } from './metrics-paths.js';
export { platformPaths } from './platform-paths.js';
export { type JsonSchema, schemaOf } from './schema.js';
export { type ValidateDtoOptions, validateDto } from './validate-dto.js';
