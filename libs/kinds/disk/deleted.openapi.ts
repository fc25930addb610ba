/** The routes of deleted disks in the API's description. */
import { responsesWith, schemaOf } from '#libs/openapi';
import { RestoreBody } from './deleted.controller.js';

const json = (schema: object) => ({ 'application/json': { schema } });
const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const id = { name: 'id', in: 'path', required: true, description: 'Id.', schema: { type: 'string', format: 'uuid' } };

export const deletedDiskSchemas = {
  DeletedDisk: {
    type: 'object',
    properties: {
      id: { type: 'string', format: 'uuid' },
      name: { type: 'string', description: 'What it was called; others may be called so by now.' },
      tags: { type: 'object', additionalProperties: { type: 'string' } },
      sizeGiB: { type: 'integer' },
      image: { type: ['string', 'null'], description: 'Id of the image that it builds on.' },
      createdAt: { type: 'string', format: 'date-time' },
      deletedAt: { type: 'string', format: 'date-time' },
      expiresAt: { type: 'string', format: 'date-time', description: 'From then on it cannot be had back.' },
    },
  },
  DeletedDiskRestore: schemaOf(RestoreBody),
};

export const deletedDiskPaths = {
  '/v1/deleted-disks': {
    get: {
      tags: ['disk'],
      summary: 'Lists the deleted disks that can be had back.',
      responses: responsesWith(
        {
          200: {
            description: 'A page of deleted disks.',
            content: json({
              type: 'object',
              properties: {
                items: { type: 'array', items: ref('DeletedDisk') },
                nextPageToken: { type: ['string', 'null'] },
              },
            }),
          },
        },
        [401, 403, 406, 422, 429, 503],
      ),
    },
  },
  '/v1/deleted-disks/{id}/restore': {
    post: {
      tags: ['disk'],
      summary: 'Makes it a disk again, with its id and what it holds.',
      parameters: [id],
      requestBody: { required: false, content: json(ref('DeletedDiskRestore')) },
      responses: responsesWith(
        { 200: { description: 'The disk.', content: json(ref('Disk')) } },
        [400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 503],
      ),
    },
  },
  '/v1/deleted-disks/{id}': {
    delete: {
      tags: ['disk'],
      summary: 'Takes away what it holds, for good.',
      parameters: [id],
      responses: responsesWith({ 204: { description: 'It is gone.' } }, [401, 403, 404, 406, 422, 429, 503]),
    },
  },
};
