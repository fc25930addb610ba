/** The routes that tell a caller what it may do, and why. */
import { jsonAnswer, parameter, responsesWith } from './answers.js';
import type { JsonSchema } from './json-schema.js';

const text = (description: string): JsonSchema => ({ type: 'string', description });
const texts = (description: string): JsonSchema => ({ type: 'array', items: { type: 'string' }, description });
const object = (properties: Record<string, JsonSchema>): JsonSchema => ({
  type: 'object',
  required: Object.keys(properties),
  properties,
});

const because: JsonSchema = {
  description: 'Where it comes from; own: what everybody may do with what is one’s own.',
  oneOf: [
    object({ role: text('A role of the token.') }),
    object({ grant: object({ id: text('Its id.'), name: text('Its name.') }) }),
    object({ own: { type: 'boolean' } }),
  ],
};

const permissions = object({
  subject: text('The “sub” of the token.'),
  name: { ...text('To show to people.'), type: ['string', 'null'] },
  tenant: text('Id of the tenant.'),
  roles: texts('Roles of the token.'),
  groups: texts('Groups of the token.'),
  scopes: { ...texts('What all is narrowed to; null: not narrowed.'), type: ['array', 'null'] },
  via: text('How the caller came in: token, apitoken.'),
  expiresAt: { type: ['string', 'null'], format: 'date-time' },
  items: {
    type: 'array',
    items: object({
      kind: text('Of which resources.'),
      verbs: texts('What may be done with them.'),
      where: {
        oneOf: [
          { const: 'all' },
          object({ tagSelector: text('Those with these tags.') }),
          object({ resources: texts('Ids.') }),
          object({ createdBy: text('Those made by this subject.') }),
        ],
      },
      because,
    }),
  },
});

const explanation = object({
  verb: text('As asked.'),
  resource: object({
    kind: text('Its kind.'),
    id: { type: ['string', 'null'] },
    name: { type: ['string', 'null'] },
  }),
  subject: text('Who would do it.'),
  allowed: { type: 'boolean' },
  reasons: {
    type: 'array',
    description: 'What allows it; where nothing does, all that was looked at and why it does not.',
    items: {
      type: 'object',
      required: ['allows', 'message'],
      properties: { allows: { type: 'boolean' }, message: text('In words.'), because },
    },
  },
});

const query = (name: string, required: boolean, description: string, example: string) => ({
  name,
  in: 'query',
  required,
  description,
  schema: { type: 'string', maxLength: 300, examples: [example] },
});

export const permissionPaths: Record<string, object> = {
  '/v1/permissions': {
    get: {
      operationId: 'listPermissions',
      tags: ['permission'],
      summary: 'Who you are and what you may do, with the role or grant that it comes from',
      parameters: [parameter('RequestId')],
      responses: responsesWith({ 200: jsonAnswer('All of it.', permissions) }, [401, 406, 422, 429, 503]),
    },
  },
  '/v1/permissions/explain': {
    get: {
      operationId: 'explainPermission',
      tags: ['permission'],
      summary: 'Why you, or somebody else, may or may not do something',
      parameters: [
        query('verb', true, 'What would be done.', 'reboot'),
        query('resource', true, 'kind/idOrName, an id, or a kind as a whole.', 'instance/web-1'),
        query(
          'subject',
          false,
          'Somebody else, for whoever may read all grants: user/…, serviceaccount/…, group/…, role/…, sub/….',
          'user/alice',
        ),
        parameter('RequestId'),
      ],
      responses: responsesWith(
        { 200: jsonAnswer('Yes or no, and why.', explanation) },
        [401, 403, 404, 406, 422, 429, 503],
      ),
    },
  },
};
