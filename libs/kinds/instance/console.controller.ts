/** The serial log of an instance as text, relayed from its node. */

import { Readable } from 'node:stream';
import { Controller, Get, Inject, Param, Req, Res } from '@nestjs/common';
import { invalid } from '#libs/core';
import { ConsoleRelay } from '#libs/nodes';
import { responsesWith } from '#libs/openapi';
import { KindRegistry, ResourceReader } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';
import type { InstanceRow } from './rows.js';

const MAX_TAIL_BYTES = 4 * 1024 * 1024;
const DEFAULT_TAIL_BYTES = 1024 * 1024;

@Controller('v1/instances/:id/console')
export class ConsoleController {
  constructor(
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
    @Inject(ConsoleRelay) private readonly relay: ConsoleRelay,
  ) {}

  @Get()
  async log(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    const query = request.query as Record<string, unknown>;
    refuseUnknownParameters(query, ['tailBytes']);
    const tailBytes = tailBytesOf(query.tailBytes as string | undefined);
    const caller = callerOf(request);
    const found = await this.reader.get(caller, this.registry.get('instance'), id);
    const row = found.row as InstanceRow;
    reply.header('content-type', 'text/plain; charset=utf-8').header('x-content-type-options', 'nosniff');
    if (row.node_id === null) {
      reply.send('');
      return;
    }
    const gone = new AbortController();
    // The answer's own end, not the connection's, which may carry many more requests.
    reply.raw.once('close', () => gone.abort());
    const target = { nodeId: row.node_id, tenantId: row.tenant_id, instanceId: row.id, tailBytes };
    const chunks = await this.relay.open(target, caller, gone.signal);
    reply.send(Readable.from(chunks));
  }
}

function tailBytesOf(text: string | undefined): number {
  if (text === undefined) return DEFAULT_TAIL_BYTES;
  const bytes = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (bytes >= 1 && bytes <= MAX_TAIL_BYTES) return bytes;
  throw invalid([{ parameter: 'tailBytes', code: 'out_of_range', message: `must be 1 to ${MAX_TAIL_BYTES}` }]);
}

const name = { name: 'id', in: 'path', required: true, description: 'Id or name.', schema: { type: 'string' } };
const tail = {
  name: 'tailBytes',
  in: 'query',
  description: `At most so many bytes from the end; default ${DEFAULT_TAIL_BYTES}.`,
  schema: { type: 'integer', minimum: 1, maximum: MAX_TAIL_BYTES },
};

export const consolePaths = {
  '/v1/instances/{id}/console': {
    get: {
      tags: ['instance'],
      summary: 'The serial log of the machine, the end of it.',
      parameters: [name, tail],
      responses: responsesWith(
        { 200: { description: 'The log.', content: { 'text/plain': { schema: { type: 'string' } } } } },
        [401, 404, 406, 422, 429, 503],
      ),
    },
  },
};
