/** The parts of the OpenAPI document that all kinds share: parameters, headers, problems and the common schemas. */
import { alarmCodes, errorCodes } from '#libs/core';
import type { JsonSchema } from './json-schema.js';

const text = (description: string, more: JsonSchema = {}): JsonSchema => ({ type: 'string', description, ...more });
const time = (description: string): JsonSchema => text(description, { format: 'date-time' });
const refTo = (name: string): JsonSchema => ({ $ref: `#/components/schemas/${name}` });
const listOf = (items: JsonSchema, description: string): JsonSchema => ({ type: 'array', items, description });
const closed = (required: string[], properties: Record<string, JsonSchema>): JsonSchema => ({
  type: 'object',
  required,
  properties,
});

const jobStates = ['queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelling', 'cancelled'];

export const commonSchemas: Record<string, JsonSchema> = {
  Resource: closed(['id', 'kind', 'name', 'tags', 'state', 'conditions', 'generation', 'createdAt', 'updatedAt'], {
    id: text('UUIDv7.', { format: 'uuid', readOnly: true }),
    kind: text('What it is.', { readOnly: true }),
    name: text('Unique in tenant and kind.'),
    tags: { type: 'object', description: 'String to string.', additionalProperties: { type: 'string' } },
    state: {
      ...text('Where it is in its life.', { readOnly: true }),
      enum: ['pending', 'provisioning', 'ready', 'updating', 'deleting', 'failed'],
    },
    conditions: { ...listOf(refTo('Condition'), 'Why something waits or failed.'), readOnly: true },
    generation: { type: 'integer', description: 'Raised by each change of what is wanted.', readOnly: true },
    observedGeneration: { type: 'integer', description: 'The generation that was made real.', readOnly: true },
    deletionProtection: { type: 'boolean', description: 'True: a DELETE is refused.' },
    createdAt: { ...time('When it was created.'), readOnly: true },
    updatedAt: { ...time('When it last changed.'), readOnly: true },
    createdBy: text('Who created it.', { readOnly: true }),
  }),
  Condition: closed(['type', 'status', 'reason', 'message', 'lastTransitionTime', 'observedGeneration'], {
    type: text('What the condition is about.'),
    status: { type: 'string', enum: ['true', 'false', 'unknown'] },
    reason: text('One word for machines.'),
    message: text('In words that a user can act on.'),
    lastTransitionTime: time('When the status last changed.'),
    observedGeneration: { type: 'integer' },
  }),
  JobReference: closed(['id', 'state'], {
    id: text('Of the job, for /v1/jobs/{id}.', { format: 'uuid' }),
    state: { type: 'string', enum: jobStates },
  }),
  Job: closed(['id', 'action', 'resource', 'state', 'progress', 'steps', 'cancellable', 'attempts', 'createdAt'], {
    id: text('UUIDv7.', { format: 'uuid' }),
    action: text('create, update, delete or an action.'),
    resource: closed(['kind', 'id', 'name'], { kind: text('Its kind.'), id: text('Its id.'), name: text('Its name.') }),
    state: { type: 'string', enum: jobStates },
    progress: { type: 'integer', minimum: 0, maximum: 100 },
    steps: listOf(refTo('JobStep'), 'In their order.'),
    cancellable: { type: 'boolean' },
    error: { ...refTo('Problem') },
    attempts: { type: 'integer', minimum: 0 },
    createdAt: time('When it was asked for.'),
    startedAt: { ...time('When it began.'), type: ['string', 'null'] },
    finishedAt: { ...time('When it ended.'), type: ['string', 'null'] },
    createdBy: text('Who asked for it.'),
  }),
  Alarm: closed(['id', 'code', 'severity', 'title', 'message', 'state', 'resource', 'raisedAt'], {
    id: text('UUIDv7.', { format: 'uuid' }),
    code: { ...text('Stable; clients branch on it.'), examples: Object.keys(alarmCodes) },
    severity: { type: 'string', enum: ['warning', 'critical'] },
    title: text('The code in words.'),
    message: text('What is wrong, in words that a user can act on.'),
    state: { type: 'string', enum: ['open', 'cleared'] },
    resource: closed(['kind', 'id', 'name'], { kind: text('Its kind.'), id: text('Its id.'), name: text('Its name.') }),
    job: { ...closed(['id'], { id: text('The job whose end clears it.') }), type: ['object', 'null'] },
    raisedAt: time('When it was raised.'),
    clearedAt: { ...time('When its cause was gone.'), type: ['string', 'null'] },
    acknowledgedAt: { ...time('When an operator took note of it.'), type: ['string', 'null'] },
  }),
  JobStep: closed(['name', 'state'], {
    name: text('What it does.'),
    state: text('Where it is.'),
    startedAt: { ...time('When it began.'), type: ['string', 'null'] },
    finishedAt: { ...time('When it ended.'), type: ['string', 'null'] },
    message: { ...text('For the user.'), type: ['string', 'null'] },
  }),
  Problem: closed(['type', 'title', 'status', 'detail', 'code', 'requestId', 'retryable'], {
    type: text('A page about this code.', { format: 'uri-reference' }),
    title: text('The code in words.'),
    status: { type: 'integer', description: 'The HTTP status.' },
    detail: text('What is wrong with this request, and what to do.'),
    instance: text('The request’s path.', { format: 'uri-reference' }),
    code: { ...text('Stable; clients branch on it.'), enum: Object.keys(errorCodes).sort() },
    requestId: text('As in the X-Request-Id header.'),
    retryable: { type: 'boolean', description: 'True: the same request may succeed later.' },
    errors: listOf(refTo('FieldError'), 'All that is wrong with the request’s fields.'),
    blockers: listOf(refTo('Blocker'), 'What stands in the way.'),
  }),
  FieldError: closed(['code', 'message'], {
    pointer: text('RFC 6901 pointer into the body.', { format: 'json-pointer' }),
    parameter: text('Query or path parameter.'),
    header: text('Header.'),
    code: text('Stable, such as required, wrong_type, unknown_field, out_of_range.'),
    message: text('In words.'),
  }),
  Blocker: closed(['kind', 'id', 'name', 'relation'], {
    kind: text('Its kind.'),
    id: text('Its id.'),
    name: text('Its name.'),
    relation: text('How it is in the way.'),
  }),
};

const query = (name: string, description: string, schema: JsonSchema) => ({ name, in: 'query', description, schema });
const header = (name: string, description: string, schema: JsonSchema = { type: 'string' }) => ({
  name,
  in: 'header',
  description,
  schema,
});

export const commonParameters: Record<string, object> = {
  IdOrName: { name: 'idOrName', in: 'path', required: true, description: 'Id or name.', schema: { type: 'string' } },
  Wait: query('wait', 'Answer when the job has ended, or 202 after this time; 60s at most.', {
    type: 'string',
    pattern: '^[0-9]{1,2}s$',
    examples: ['30s'],
  }),
  DryRun: query('dryRun', 'Check everything, change nothing.', { type: 'boolean', default: false }),
  PageSize: query('pageSize', 'Items on a page; more than 500 are clamped.', {
    type: 'integer',
    minimum: 1,
    default: 50,
  }),
  PageToken: query('pageToken', 'nextPageToken of the page before, with the same query.', { type: 'string' }),
  Count: query('count', 'Also answer totalCount.', { type: 'boolean', default: false }),
  TagSelector: query('tagSelector', 'Terms joined by commas: k, !k, k=v, k!=v, k in (a,b), k notin (a,b).', {
    type: 'string',
    examples: ['env=prod,!legacy'],
  }),
  RequiredTagSelector: {
    ...query('tagSelector', 'As in lists; without it nothing is deleted.', { type: 'string' }),
    required: true,
  },
  Cascade: query('cascade', 'Delete all that depends on it, too, at most 200.', { type: 'boolean', default: false }),
  IfMatch: header('If-Match', 'ETag that the resource must still have (412 otherwise).'),
  IfNoneMatch: header('If-None-Match', 'ETag that is known already (304 then).'),
  IdempotencyKey: header('Idempotency-Key', 'The same key and request get the stored answer again, for 24 hours.', {
    type: 'string',
    minLength: 1,
    maxLength: 255,
  }),
  RequestId: header(
    'X-Request-Id',
    'Taken if well-formed, otherwise made; stands in answers, problems, jobs and logs.',
  ),
};

const stringHeader = (description: string) => ({ description, schema: { type: 'string' } });

export const commonHeaders: Record<string, object> = {
  ETag: stringHeader('New at any visible change of the resource.'),
  Link: stringHeader('rel="next": the next page.'),
  Location: stringHeader('The job.'),
  RequestId: stringHeader('The id of this request.'),
  RateLimit: stringHeader('What is left: "tenant";r=499;t=1, … (draft-ietf-httpapi-ratelimit-headers-10).'),
  RateLimitPolicy: stringHeader('What there is: "tenant";q=2000;w=4, …: so many in so many seconds.'),
  RetryAfter: { description: 'Seconds to wait before the next try.', schema: { type: 'integer' } },
  Replayed: stringHeader('true: this is the stored answer of the first request with this Idempotency-Key.'),
  WwwAuthenticate: stringHeader('RFC 6750: why the token was refused.'),
};

const problem = (description: string, headers: Record<string, string> = {}) => ({
  description,
  headers: Object.fromEntries(
    Object.entries({ 'X-Request-Id': 'RequestId', ...headers }).map(([name, ref]) => [
      name,
      { $ref: `#/components/headers/${ref}` },
    ]),
  ),
  content: { 'application/problem+json': { schema: refTo('Problem') } },
});

/** Problems by status; each operation takes those that it can answer with. */
export const problemResponses: Record<string, object> = {
  400: problem('The body is not JSON or not an object.'),
  401: problem('No valid access token.', { 'WWW-Authenticate': 'WwwAuthenticate' }),
  403: problem('The permission is missing.'),
  404: problem('It does not exist, or you may not know of it.'),
  405: problem('The method is not allowed here.'),
  406: problem('No acceptable representation.'),
  409: problem('It conflicts with the state: name_taken, in_use, busy, protected and others.'),
  412: problem('The resource has changed (If-Match).'),
  413: problem('The body is larger than 1 MiB.'),
  415: problem('The media type is not supported.'),
  422: problem('Well-formed but wrong; errors[] says what, each with its pointer.'),
  426: problem('A WebSocket upgrade is needed.'),
  429: problem('Too many requests of the tenant, its user or the address.', {
    'Retry-After': 'RetryAfter',
    RateLimit: 'RateLimit',
    'RateLimit-Policy': 'RateLimitPolicy',
  }),
  503: problem('Something that is needed is away; try again.', { 'Retry-After': 'RetryAfter' }),
};
