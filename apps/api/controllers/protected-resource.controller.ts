/** Where a client finds out whose tokens this API takes: OAuth 2.0 Protected Resource Metadata (RFC 9728, section 3). */
import { Controller, Get, Inject, Req, Res } from '@nestjs/common';
import { RhyzomeError } from '#libs/core';
import { type Reply, type Request, refuseUnknownParameters } from '#libs/rest';
import { ProtectedResource } from '../protected-resource.js';

@Controller('.well-known/oauth-protected-resource')
export class ProtectedResourceController {
  constructor(@Inject(ProtectedResource) private readonly resource: ProtectedResource) {}

  @Get()
  get(@Req() request: Request, @Res() reply: Reply): void {
    refuseUnknownParameters(request.query as Record<string, unknown>, []);
    const metadata = this.resource.metadataOf(request.addressed);
    if (!metadata) throw new RhyzomeError('malformed_request', 'The request has no Host header.');
    reply.send(metadata);
  }
}
