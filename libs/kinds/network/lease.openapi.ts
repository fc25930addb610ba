/** The routes of leases in the API's description. */
import { responsesWith, schemaOf } from '#libs/openapi';
import { LeaseCreate, LeaseView } from './network.dto.js';

const lease = { $ref: '#/components/schemas/Lease' };
const json = (schema: object) => ({ 'application/json': { schema } });
const network = { name: 'network', in: 'path', required: true, description: 'Id or name.', schema: { type: 'string' } };
const id = {
  name: 'lease',
  in: 'path',
  required: true,
  description: 'Id.',
  schema: { type: 'string', format: 'uuid' },
};

export const leaseSchemas = { Lease: schemaOf(LeaseView), LeaseCreate: schemaOf(LeaseCreate) };

export const leasePaths = {
  '/v1/networks/{network}/leases': {
    get: {
      tags: ['network'],
      summary: 'Lists the leases of a network.',
      parameters: [network],
      responses: responsesWith(
        {
          200: {
            description: 'A page of leases.',
            content: json({
              type: 'object',
              properties: { items: { type: 'array', items: lease }, nextPageToken: { type: ['string', 'null'] } },
            }),
          },
        },
        [401, 404, 406, 422, 429, 503],
      ),
    },
    post: {
      tags: ['network'],
      summary: 'Keeps an address for a MAC address.',
      parameters: [network],
      requestBody: { required: true, content: json({ $ref: '#/components/schemas/LeaseCreate' }) },
      responses: responsesWith(
        { 201: { description: 'The lease.', content: json(lease) } },
        [400, 401, 403, 404, 406, 409, 412, 413, 415, 422, 429, 503],
      ),
    },
  },
  '/v1/networks/{network}/leases/{lease}': {
    delete: {
      tags: ['network'],
      summary: 'Gives up a static lease.',
      parameters: [network, id],
      responses: responsesWith({ 204: { description: 'It is gone.' } }, [401, 403, 404, 406, 409, 412, 422, 429, 503]),
    },
  },
};
