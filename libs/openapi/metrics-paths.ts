/** The route of metrics, which every kind has. Given to `buildOpenApi` as extra paths. */
import { jsonAnswer, responsesWith } from './answers.js';
import type { JsonSchema } from './json-schema.js';

const metric: JsonSchema = {
  type: 'object',
  required: ['name', 'type', 'labels', 'value'],
  properties: {
    name: {
      type: 'string',
      description: 'With its unit, as Prometheus names metrics.',
      examples: ['cpu_seconds_total'],
    },
    type: { type: 'string', enum: ['counter', 'gauge'] },
    labels: { type: 'object', additionalProperties: { type: 'string' } },
    value: { type: 'number' },
  },
};

const sample = {
  at: { type: 'string', format: 'date-time', description: 'When it was taken.' },
  ageSeconds: { type: 'number', description: 'How long ago that was.' },
  metrics: { type: 'array', items: metric },
};

export const metricsSchema: JsonSchema = {
  type: 'object',
  required: ['resource', 'builtIn', 'custom'],
  properties: {
    resource: {
      type: 'object',
      required: ['kind', 'id', 'name'],
      properties: { kind: { type: 'string' }, id: { type: 'string', format: 'uuid' }, name: { type: 'string' } },
    },
    builtIn: {
      type: ['object', 'null'],
      description: 'What its node measured; null: nothing yet.',
      required: ['at', 'ageSeconds', 'metrics'],
      properties: sample,
    },
    custom: {
      type: 'array',
      description: 'What its guest and services report of it.',
      items: {
        type: 'object',
        required: ['source', 'at', 'ageSeconds', 'metrics'],
        properties: { source: { type: 'string', description: '`guest`, or `service:` and its name.' }, ...sample },
      },
    },
  },
};

/** @param schema the $ref of `metricsSchema`. */
export function metricsPaths(kind: { name: string; plural: string }, schema: JsonSchema): Record<string, object> {
  const parameters = ['IdOrName', 'RequestId'].map((name) => ({ $ref: `#/components/parameters/${name}` }));
  const title = kind.name.replaceAll(/(?:^|-)([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());
  const json = jsonAnswer('The last sample of each source; as text in the Prometheus format 0.0.4.', schema) as {
    content: object;
  };
  const answer = { ...json, content: { ...json.content, 'text/plain': { schema: { type: 'string' } } } };
  return {
    [`/v1/${kind.plural}/{idOrName}/metrics`]: {
      get: {
        operationId: `get${title}Metrics`,
        tags: [kind.name],
        summary: `What a ${kind.name} uses, and what is reported of it`,
        parameters,
        responses: responsesWith({ 200: answer }, [401, 404, 406, 422, 429, 503]),
      },
    },
  };
}
