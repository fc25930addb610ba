/** The configuration of a WireGuard peer as text, with a placeholder for the key that only its owner has. */
import { Controller, Get, Inject, Param, Req, Res } from '@nestjs/common';
import { responsesWith } from '#libs/openapi';
import { KindRegistry, ResourceReader } from '#libs/resources';
import { callerOf, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';
import { clientConfig } from './client-config.js';
import { configOf, type WireguardpeerRow } from './wireguardpeer.resource.js';

@Controller('v1/wireguardpeers/:id/config')
export class ConfigController {
  constructor(
    @Inject(KindRegistry) private readonly registry: KindRegistry,
    @Inject(ResourceReader) private readonly reader: ResourceReader,
  ) {}

  @Get()
  async config(@Req() request: Request, @Res() reply: Reply, @Param('id') id: string): Promise<void> {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    const found = await this.reader.get(callerOf(request), this.registry.get('wireguardpeer'), id);
    reply
      .header('content-type', 'text/plain; charset=utf-8')
      .header('x-content-type-options', 'nosniff')
      .send(clientConfig(configOf(found.row as WireguardpeerRow)));
  }
}

const name = { name: 'id', in: 'path', required: true, description: 'Id or name.', schema: { type: 'string' } };

export const configPaths = {
  '/v1/wireguardpeers/{id}/config': {
    get: {
      tags: ['wireguardpeer'],
      summary: 'The configuration of the peer, without its private key.',
      parameters: [name],
      responses: responsesWith(
        { 200: { description: 'As wg-quick(8) reads it.', content: { 'text/plain': { schema: { type: 'string' } } } } },
        [401, 404, 406, 422, 429, 503],
      ),
    },
  },
};
