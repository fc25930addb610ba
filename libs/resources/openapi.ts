/** The description of the whole API, made from the kinds' manifests. */
import { buildOpenApi, metricsPaths, metricsSchema, permissionPaths, platformPaths } from '#libs/openapi';
import type { KindDefinition } from './kind.js';

const eventSchema = {
  type: 'object',
  required: ['type', 'kind', 'at'],
  properties: {
    type: {
      enum: [
        ...['resource.created', 'resource.updated', 'resource.deleted', 'job.created', 'job.updated'],
        ...['alarm.raised', 'alarm.cleared'],
      ],
    },
    kind: { type: 'string' },
    at: { type: 'string', format: 'date-time' },
    resource: { type: 'object', description: 'The common fields of the resource, as they were then.' },
    job: { type: 'object', description: 'The job, as it was then.' },
    alarm: { type: 'object', description: 'The alarm, as it was then.' },
  },
} as const;

const auditSchema = {
  type: 'object',
  properties: {
    id: { type: 'string', format: 'uuid' },
    at: { type: 'string', format: 'date-time' },
    actor: { type: 'string' },
    action: { type: 'string', examples: ['network.create'] },
    resource: { type: ['object', 'null'] },
    result: { enum: ['done', 'refused'] },
    code: { type: ['string', 'null'] },
    requestId: { type: ['string', 'null'] },
    source: { type: ['string', 'null'] },
    details: { type: ['object', 'null'] },
  },
} as const;

export function describeApi(kinds: readonly KindDefinition[], version: string): Record<string, unknown> {
  const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
  return buildOpenApi({
    info: { title: 'Rhyzome', version, description: 'Resources of many tenants, made real on machines.' },
    kinds: kinds.map((kind) => {
      const changes = kind.changes ?? ['create', 'update', 'delete'];
      return {
        name: kind.name,
        plural: kind.plural,
        summary: kind.description,
        viewDto: kind.dto.view,
        ...(kind.dto.secrets && { secretsDto: kind.dto.secrets }),
        ...(changes.includes('create') && { createDto: kind.dto.create }),
        ...(changes.includes('update') && { updateDto: kind.dto.update }),
        isDeletable: changes.includes('delete'),
        actions: Object.entries(kind.actions ?? {}).map(([name, { summary, dto, secrets }]) => ({
          name,
          summary,
          dto,
          ...(secrets && { secretsDto: secrets }),
        })),
        filters: Object.keys(kind.filters ?? {}),
      };
    }),
    extraPaths: Object.assign(
      {},
      ...kinds.map((kind) => metricsPaths(kind, ref('Metrics'))),
      ...kinds.map((kind) => kind.extraPaths ?? {}),
      platformPaths(ref('Event'), ref('AuditEntry')),
      permissionPaths,
    ),
    extraSchemas: Object.assign({}, ...kinds.map((kind) => kind.extraSchemas ?? {}), {
      Event: eventSchema,
      AuditEntry: auditSchema,
      Metrics: metricsSchema,
    }),
  });
}
