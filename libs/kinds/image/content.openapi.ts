/** The routes of an image's content in the API's description. */
import { jsonAnswer, responsesWith } from '#libs/openapi';

const parameter = (name: string) => ({ $ref: `#/components/parameters/${name}` });
const integer = (description: string) => ({ description, schema: { type: 'integer' } });
const change = { $ref: '#/components/schemas/ImageChange' };
const offsets = {
  'Upload-Offset': integer('Bytes that have arrived; the next piece begins there.'),
  'Upload-Length': integer('Bytes of the whole content, where they are known.'),
};
const answer = (description: string) => {
  const { headers, ...rest } = jsonAnswer(description, change, { ETag: 'ETag', Location: 'Location' }) as {
    headers: object;
  };
  return { ...rest, headers: { ...headers, ...offsets } };
};

export const contentPaths = {
  '/v1/images/{idOrName}/content': {
    put: {
      operationId: 'putImageContent',
      tags: ['image'],
      summary: 'Send the content, whole or a piece of it',
      description:
        'While the create’s job waits for content. Without Content-Range the body is the whole content, and begins it anew; ' +
        'with Content-Range it is the piece that begins where the last one ended. What has come of an interrupted request stays.',
      parameters: [
        parameter('IdOrName'),
        parameter('Wait'),
        {
          name: 'Content-Range',
          in: 'header',
          description: 'The piece, as bytes first-last/total.',
          schema: { type: 'string' },
        },
        parameter('RequestId'),
      ],
      requestBody: {
        required: true,
        content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
      },
      responses: responsesWith(
        {
          200: answer('The piece was taken in and more is awaited; or the job has ended (wait).'),
          202: answer('All has arrived; the job checks it.'),
        },
        [401, 403, 404, 406, 409, 413, 415, 422, 429, 503],
      ),
    },
    head: {
      operationId: 'headImageContent',
      tags: ['image'],
      summary: 'Ask how much of the content has arrived',
      parameters: [parameter('IdOrName'), parameter('RequestId')],
      responses: responsesWith(
        { 200: { description: 'How much has arrived.', headers: offsets } },
        [401, 404, 406, 422, 429, 503],
      ),
    },
  },
};
