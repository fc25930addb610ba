/** The descriptions of DELETE: of one resource, with what depends on it, and of all that a selector picks. */
import {
  changeParameters,
  changeResponses,
  filterParameters,
  jsonAnswer,
  parameter,
  pascal,
  responsesWith,
} from './answers.js';
import type { JsonSchema } from './json-schema.js';
import type { KindDescription } from './kind-description.js';

const job: JsonSchema = { $ref: '#/components/schemas/JobReference' };
const text: JsonSchema = { type: 'string' };

const cascaded: JsonSchema = {
  type: 'object',
  properties: {
    cascade: {
      type: 'array',
      description: 'With cascade=true: what goes before it, each by a job of its own.',
      items: {
        type: 'object',
        required: ['kind', 'id', 'name'],
        properties: { kind: text, id: text, name: text, job },
      },
    },
  },
};

export function deleteOperation(kind: KindDescription, change: JsonSchema): object {
  return {
    operationId: `delete${pascal(kind.name)}`,
    tags: [kind.name],
    summary: `Delete a ${kind.name}`,
    parameters: [parameter('IdOrName'), parameter('Cascade'), parameter('IfMatch'), ...changeParameters],
    responses: changeResponses({ allOf: [change, cascaded] }, [401, 403, 404, 406, 409, 412, 422, 429, 503]),
  };
}

const item: JsonSchema = {
  type: 'object',
  required: ['id', 'name', 'status'],
  properties: {
    id: text,
    name: text,
    status: { type: 'integer', description: '202; in a dry run 200; or the status of its problem.' },
    job,
    problem: { type: 'object', description: 'Why it stays; a problem without instance and requestId.' },
  },
};

const outcome: JsonSchema = {
  type: 'object',
  required: ['items', 'remaining'],
  properties: {
    items: { type: 'array', items: item, maxItems: 500 },
    remaining: { type: 'integer', description: 'How many more match; the same request again goes on with them.' },
  },
};

export function deleteMatchingOperation(kind: KindDescription): object {
  return {
    operationId: `deleteMatching${pascal(kind.plural)}`,
    tags: [kind.name],
    summary: `Delete the ${kind.plural} that a selector picks, at most 500 at once`,
    parameters: [
      { $ref: '#/components/parameters/RequiredTagSelector' },
      ...filterParameters(kind),
      ...['DryRun', 'IdempotencyKey', 'RequestId'].map(parameter),
    ],
    responses: responsesWith(
      { 200: jsonAnswer('What became of each.', outcome, { 'Idempotency-Replayed': 'Replayed' }) },
      [401, 403, 406, 409, 422, 429, 503],
    ),
  };
}
