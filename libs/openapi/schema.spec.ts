/** The JSON Schema of a sample DTO. */
import { describe, expect, it } from 'vitest';
import { schemaOf } from './index.js';
import { CreateInstance, Interface } from './sample.dto.js';

describe('schemaOf', () => {
  it('says what the validation says', () => {
    const { properties, ...schema } = schemaOf(CreateInstance);
    expect(schema).toEqual({ type: 'object', required: ['name', 'vcpus', 'interfaces'], additionalProperties: false });
    expect(properties).toMatchObject({
      name: { type: 'string', minLength: 1, maxLength: 63, pattern: '^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$' },
      vcpus: { type: 'integer', minimum: 1, maximum: 256, description: 'Virtual CPUs.' },
      memoryMiB: { type: 'integer', minimum: 64, default: 512, description: 'Memory. Unit: MiB.' },
      interfaces: { type: 'array', minItems: 1, maxItems: 3, items: { type: 'object', required: ['network'] } },
      note: { type: ['string', 'null'], maxLength: 10 },
      protect: { type: ['boolean', 'null'] },
      restartPolicy: { type: 'string', enum: ['stay', 'always'] },
      dns: { type: 'array', maxItems: 4, items: { anyOf: [{ format: 'ipv4' }, { format: 'ipv6' }] } },
      tags: { type: 'object', additionalProperties: { type: 'string', maxLength: 255 } },
    });
    expect(properties?.interfaces?.items?.properties?.mac).toBeUndefined();
  });

  it('shows read-only fields in views, leaves them open, and makes null a type', () => {
    const view = schemaOf(CreateInstance, {
      purpose: 'view',
      refOf: (nested) => `#/components/schemas/${nested.name}`,
    });
    expect(view.properties?.interfaces?.items).toEqual({ $ref: '#/components/schemas/Interface' });
    expect(view.additionalProperties).toBeUndefined();
    expect(schemaOf(Interface, { purpose: 'view' })).toMatchObject({
      required: ['network', 'mac'],
      properties: { mac: { type: 'string', description: 'Made by the network.', readOnly: true } },
    });
  });
});
