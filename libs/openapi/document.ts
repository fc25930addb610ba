/**
 * The OpenAPI 3.1 document: the uniform routes of every kind from its DTO classes, and what else the caller adds. Its order
 * follows from its input alone, so that a generated file changes only when the API does.
 */
import {
  changeParameters,
  changeResponses,
  changing,
  filterParameters,
  jsonAnswer,
  parameter,
  pascal,
  responsesWith,
} from './answers.js';
import { commonHeaders, commonParameters, commonSchemas, problemResponses } from './components.js';
import type { DtoClass } from './dto-plan.js';
import type { JsonSchema } from './json-schema.js';
import type { ActionDescription, KindDescription } from './kind-description.js';
import { deleteMatchingOperation, deleteOperation } from './removal-operations.js';
import { schemaOf } from './schema.js';

export interface ApiDescription {
  info: { title: string; version: string; description?: string };
  kinds: readonly KindDescription[];
  extraPaths?: Record<string, object>;
  extraSchemas?: Record<string, JsonSchema>;
}

/** The whole document as a JSON value. Throws when two classes of one name would become one schema. */
export function buildOpenApi(api: ApiDescription): Record<string, unknown> {
  const schemas = new SchemaCollection({ ...commonSchemas, ...api.extraSchemas });
  const paths = api.kinds.map((kind) => pathsOfKind(kind, schemas));
  return {
    openapi: '3.1.0',
    jsonSchemaDialect: 'https://spec.openapis.org/oas/3.1/dialect/base',
    info: { license: { name: 'AGPL-3.0-only', identifier: 'AGPL-3.0-only' }, ...api.info },
    servers: [{ url: '/' }],
    security: [{ bearer: [] }],
    tags: api.kinds.map(({ name, summary }) => ({ name, ...(summary && { description: summary }) })),
    paths: sorted(Object.assign({}, ...paths, api.extraPaths)),
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'Access token (RFC 9068).' },
      },
      parameters: commonParameters,
      headers: commonHeaders,
      responses: Object.fromEntries(
        Object.entries(problemResponses).map(([status, value]) => [`Problem${status}`, value]),
      ),
      schemas: sorted(schemas.all()),
    },
  };
}

class SchemaCollection {
  private readonly classes = new Map<string, DtoClass>();

  constructor(private readonly schemas: Record<string, JsonSchema>) {}

  all(): Record<string, JsonSchema> {
    return this.schemas;
  }

  /** Puts a schema in under its name and gives its $ref. */
  add(name: string, schema: JsonSchema): JsonSchema {
    if (Object.hasOwn(this.schemas, name)) throw new Error(`Two schemas are named ${name}.`);
    this.schemas[name] = schema;
    return { $ref: `#/components/schemas/${name}` };
  }

  /** The schema of a class, with its nested classes as components of their own. */
  of(dtoClass: DtoClass, purpose: 'input' | 'view'): JsonSchema {
    return schemaOf(dtoClass, { purpose, refOf: (nested) => this.refOf(nested, purpose) });
  }

  private refOf(dtoClass: DtoClass, purpose: 'input' | 'view'): string {
    const name = purpose === 'view' ? dtoClass.name : `${dtoClass.name}Input`;
    const known = this.classes.get(name);
    if (known && known !== dtoClass) throw new Error(`Two nested classes are named ${dtoClass.name}.`);
    if (!known) {
      this.classes.set(name, dtoClass);
      this.add(name, {});
      this.schemas[name] = this.of(dtoClass, purpose);
    }
    return `#/components/schemas/${name}`;
  }
}

function pathsOfKind(kind: KindDescription, schemas: SchemaCollection): Record<string, object> {
  const title = pascal(kind.name);
  const own = schemas.of(kind.viewDto, 'view');
  const fixed: JsonSchema = { type: 'object', properties: { kind: { const: kind.name } } };
  const view = schemas.add(title, { allOf: [{ $ref: '#/components/schemas/Resource' }, fixed, own] });
  const job: JsonSchema = { type: 'object', properties: { job: { $ref: '#/components/schemas/JobReference' } } };
  const change = schemas.add(`${title}Change`, { allOf: [view, job] });
  const base = `/v1/${kind.plural}`;
  const actions = kind.actions.map((action) => [
    `${base}/{idOrName}/${action.name}`,
    { post: actionOperation(kind, action, change, schemas) },
  ]);
  return {
    [base]: {
      get: listOperation(kind, view),
      ...(kind.createDto && { post: createOperation(kind, kind.createDto, change, schemas) }),
      ...(kind.isDeletable !== false && { delete: deleteMatchingOperation(kind) }),
    },
    [`${base}/{idOrName}`]: {
      get: getOperation(kind, view),
      ...(kind.updateDto && { patch: updateOperation(kind, kind.updateDto, change, schemas) }),
      ...(kind.isDeletable !== false && { delete: deleteOperation(kind, change) }),
    },
    ...Object.fromEntries(actions),
  };
}

function listOperation(kind: KindDescription, view: JsonSchema): object {
  const sorts = ['name', 'createdAt', 'updatedAt', ...(kind.sorts ?? [])].flatMap((field) => [field, `-${field}`]);
  const page: JsonSchema = {
    type: 'object',
    required: ['items'],
    properties: {
      items: { type: 'array', items: view },
      nextPageToken: { type: ['string', 'null'], description: 'Null or missing on the last page.' },
      totalCount: { type: 'integer', description: 'With count=true.' },
    },
  };
  return {
    operationId: `list${pascal(kind.plural)}`,
    tags: [kind.name],
    summary: `List ${kind.plural}`,
    parameters: [
      ...['PageSize', 'PageToken', 'Count', 'TagSelector', 'RequestId'].map(parameter),
      { name: 'sort', in: 'query', description: 'Order; - is descending.', schema: { type: 'string', enum: sorts } },
      ...filterParameters(kind),
    ],
    responses: responsesWith({ 200: jsonAnswer('A page.', page, { Link: 'Link' }) }, [401, 403, 406, 422, 429, 503]),
  };
}

function getOperation(kind: KindDescription, view: JsonSchema): object {
  return {
    operationId: `get${pascal(kind.name)}`,
    tags: [kind.name],
    summary: `Get one ${kind.name}`,
    parameters: ['IdOrName', 'IfNoneMatch', 'RequestId'].map(parameter),
    responses: responsesWith(
      {
        200: jsonAnswer(`The ${kind.name}.`, view, { ETag: 'ETag' }),
        304: { description: 'It is as known (If-None-Match).' },
      },
      [401, 404, 406, 422, 429, 503],
    ),
  };
}

function createOperation(kind: KindDescription, dto: DtoClass, change: JsonSchema, schemas: SchemaCollection): object {
  const body = schemas.add(`${pascal(kind.name)}Create`, schemas.of(dto, 'input'));
  const created = kind.secretsDto
    ? schemas.add(`${pascal(kind.name)}Created`, { allOf: [change, schemas.of(kind.secretsDto, 'view')] })
    : change;
  return {
    operationId: `create${pascal(kind.name)}`,
    tags: [kind.name],
    summary: `Create a ${kind.name}`,
    parameters: changeParameters,
    requestBody: { required: true, content: { 'application/json': { schema: body } } },
    // What its body refers to and is not there is a wrong field: 422.
    responses: changeResponses(
      created,
      changing.filter((status) => status !== 404),
    ),
  };
}

function updateOperation(kind: KindDescription, dto: DtoClass, change: JsonSchema, schemas: SchemaCollection): object {
  const body = schemas.add(`${pascal(kind.name)}Update`, schemas.of(dto, 'input'));
  return {
    operationId: `update${pascal(kind.name)}`,
    tags: [kind.name],
    summary: `Change a ${kind.name}`,
    parameters: [parameter('IdOrName'), parameter('IfMatch'), ...changeParameters],
    requestBody: { required: true, content: { 'application/merge-patch+json': { schema: body } } },
    responses: changeResponses(change, [...changing, 412]),
  };
}

function actionOperation(
  kind: KindDescription,
  action: ActionDescription,
  change: JsonSchema,
  schemas: SchemaCollection,
): object {
  const name = pascal(kind.name) + pascal(action.name);
  const body = action.dto && schemas.add(name, schemas.of(action.dto, 'input'));
  const answer = action.secretsDto
    ? schemas.add(`${name}Done`, { allOf: [change, schemas.of(action.secretsDto, 'view')] })
    : change;
  return {
    operationId: name[0]?.toLowerCase() + name.slice(1),
    tags: [kind.name],
    summary: action.summary,
    parameters: [parameter('IdOrName'), parameter('IfMatch'), ...changeParameters],
    ...(body && { requestBody: { required: true, content: { 'application/json': { schema: body } } } }),
    responses: changeResponses(answer, [...changing, 412]),
  };
}

function sorted<T>(record: Record<string, T>): Record<string, T> {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
