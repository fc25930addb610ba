/** The routes that belong to no kind: jobs, events and audit. Given to `buildOpenApi` as extra paths. */
import { jsonAnswer, responsesWith } from './answers.js';
import type { JsonSchema } from './json-schema.js';

const parameter = (name: string) => ({ $ref: `#/components/parameters/${name}` });
const job: JsonSchema = { $ref: '#/components/schemas/Job' };
const alarm: JsonSchema = { $ref: '#/components/schemas/Alarm' };
const alarmId = { name: 'id', in: 'path', required: true, description: 'The alarm’s id.', schema: { type: 'string' } };
const jobId = { name: 'id', in: 'path', required: true, description: 'The job’s id.', schema: { type: 'string' } };
const query = (name: string, description: string) => ({ name, in: 'query', description, schema: { type: 'string' } });
const page = (items: JsonSchema): JsonSchema => ({
  type: 'object',
  required: ['items'],
  properties: { items: { type: 'array', items }, nextPageToken: { type: ['string', 'null'] } },
});

const time = (name: string, description: string) => ({
  ...query(name, description),
  schema: { type: 'string', format: 'date-time' },
});
const auditRange = [time('from', 'From this time on.'), time('to', 'Before this time.')];

const quotas: JsonSchema = {
  type: 'object',
  required: ['items'],
  properties: {
    items: {
      type: 'array',
      items: {
        type: 'object',
        required: ['name', 'max', 'used'],
        properties: {
          name: { type: 'string', examples: ['instances', 'vcpus', 'diskGiB'] },
          max: { type: 'integer' },
          used: { type: 'integer', description: 'Also more than max, where that was set below what was used.' },
        },
      },
    },
  },
};

/** @param eventSchema, auditSchema the $ref or schema of one event and one audit entry. */
export function platformPaths(eventSchema: JsonSchema, auditSchema: JsonSchema): Record<string, object> {
  // What you may not read is left out of them.
  const listStatuses = [401, 406, 422, 429, 503];
  const pageParameters = ['PageSize', 'PageToken', 'Count', 'RequestId'].map(parameter);
  return {
    '/v1/jobs': {
      get: {
        operationId: 'listJobs',
        tags: ['job'],
        summary: 'List jobs',
        parameters: [
          ...pageParameters,
          query('state', 'Only with this state.'),
          query('resource', 'Only of this resource (id).'),
        ],
        responses: responsesWith({ 200: jsonAnswer('A page.', page(job), { Link: 'Link' }) }, listStatuses),
      },
    },
    '/v1/jobs/{id}': {
      get: {
        operationId: 'getJob',
        tags: ['job'],
        summary: 'Get one job',
        parameters: [jobId, parameter('Wait'), parameter('RequestId')],
        responses: responsesWith({ 200: jsonAnswer('The job.', job) }, [401, 404, 406, 422, 429, 503]),
      },
    },
    '/v1/jobs/{id}/cancel': { post: jobOperation('cancelJob', 'Cancel a job; what was done so far is undone') },
    '/v1/jobs/{id}/retry': { post: jobOperation('retryJob', 'Try a failed create again with its stored request') },
    '/v1/alarms': {
      get: {
        operationId: 'listAlarms',
        tags: ['alarm'],
        summary: 'What is wrong with resources that you may read, or was',
        parameters: [
          ...pageParameters,
          query('state', 'open or cleared.'),
          query('code', 'Only of this code.'),
          query('kind', 'Only about this kind.'),
          query('resource', 'Only about this resource (id).'),
        ],
        responses: responsesWith({ 200: jsonAnswer('A page.', page(alarm), { Link: 'Link' }) }, listStatuses),
      },
    },
    '/v1/alarms/{id}': {
      get: {
        operationId: 'getAlarm',
        tags: ['alarm'],
        summary: 'Get one alarm',
        parameters: [alarmId, parameter('RequestId')],
        responses: responsesWith({ 200: jsonAnswer('The alarm.', alarm) }, [401, 404, 406, 422, 429, 503]),
      },
    },
    '/v1/quotas': {
      get: {
        operationId: 'listQuotas',
        tags: ['quota'],
        summary: 'How much of what your tenant may have, and uses; what is not named has no limit',
        parameters: [parameter('RequestId')],
        responses: responsesWith({ 200: jsonAnswer('All that are set.', quotas) }, [401, 403, 406, 422, 429, 503]),
      },
    },
    '/v1/events': {
      get: {
        operationId: 'watchEvents',
        tags: ['event'],
        summary: 'Follow every change that you may read, as server-sent events, in order',
        parameters: [
          { ...query('Last-Event-ID', 'Go on after this event.'), in: 'header' },
          query('since', 'Go on after this event; beginning with the oldest kept when it is 0.'),
          query('kind', 'Only of this kind.'),
          query('resource', 'Only of this resource (id).'),
          parameter('TagSelector'),
          parameter('RequestId'),
        ],
        responses: responsesWith(
          {
            200: {
              description: 'The stream; its data lines are events. A comment line every 15 seconds.',
              content: { 'text/event-stream': { schema: eventSchema } },
            },
            410: jsonAnswer('cursor_too_old: list again, then follow.', { $ref: '#/components/schemas/Problem' }),
          },
          listStatuses,
        ),
      },
    },
    '/v1/audit': {
      get: {
        operationId: 'listAudit',
        tags: ['audit'],
        summary: 'Who did what to which resource, with which result',
        parameters: [
          ...pageParameters,
          ...auditRange,
          query('actor', 'Who: the token’s subject.'),
          query('action', 'E.g. network.create.'),
          query('kind', 'Kind of the resource.'),
          query('resource', 'Id of the resource.'),
          query('result', 'done or refused.'),
          query('requestId', 'Id of the request.'),
        ],
        responses: responsesWith({ 200: jsonAnswer('A page.', page(auditSchema), { Link: 'Link' }) }, [
          403,
          ...listStatuses,
        ]),
      },
    },
    '/v1/audit/export': {
      get: {
        operationId: 'exportAudit',
        tags: ['audit'],
        summary: 'The same as lines of JSON, the oldest first; fewer lines than the limit: that was all',
        parameters: [
          ...auditRange,
          query('after', 'Go on after this entry (id).'),
          {
            ...query('limit', 'Lines at most.'),
            schema: { type: 'integer', minimum: 1, maximum: 1_000_000, default: 100_000 },
          },
          parameter('RequestId'),
        ],
        responses: responsesWith(
          { 200: { description: 'One entry a line.', content: { 'application/x-ndjson': { schema: auditSchema } } } },
          [403, ...listStatuses],
        ),
      },
    },
  };
}

function jobOperation(operationId: string, summary: string): object {
  return {
    operationId,
    tags: ['job'],
    summary,
    parameters: [jobId, parameter('IdempotencyKey'), parameter('RequestId')],
    responses: responsesWith({ 202: jsonAnswer('Accepted.', job) }, [401, 403, 404, 406, 409, 422, 429, 503]),
  };
}
