/** The description of this API, OpenAPI 3.1. */
import { Controller, Get, Inject, Res } from '@nestjs/common';
import type { Reply } from '#libs/rest';
import { OPENAPI } from '../tokens.js';

@Controller('v1/openapi.json')
export class OpenApiController {
  constructor(@Inject(OPENAPI) private readonly document: object) {}

  @Get()
  get(@Res() reply: Reply): void {
    reply.send(this.document);
  }
}
