/**
 * The page that shows the API's description to read: files of this server alone, which the browser is told to stick to.
 * Nothing is tried out from there, so it needs no credentials.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { Controller, Get, Param, Req, Res } from '@nestjs/common';
import { RhyzomeError } from '#libs/core';
import { isUnchanged, type Reply, type Request, refuseUnknownParameters } from '#libs/rest';

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rhyzome API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<noscript>This page needs scripts; what it shows is at <a href="/v1/openapi.json">/v1/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

/** `validatorUrl: null`: the page asks nobody else whether the description is valid. */
const start = `SwaggerUIBundle({
  url: '/v1/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  docExpansion: 'none',
  displayOperationId: true,
  supportedSubmitMethods: [],
  validatorUrl: null,
});
`;

const types = {
  '': 'text/html; charset=utf-8',
  'start.js': 'text/javascript; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'swagger-ui.css': 'text/css; charset=utf-8',
  'favicon-32x32.png': 'image/png',
} as const;

type FileName = keyof typeof types;

/** The media type of what a path below /docs answers with. */
export function docsTypeOf(path: string): string {
  const name = path.slice('/docs/'.length);
  return Object.hasOwn(types, name) ? types[name as FileName].split(';')[0]! : 'text/html';
}

interface Served {
  bytes: Buffer;
  compressed: Buffer;
  etag: string;
}

/** Read and compressed once. */
const served = new Map<FileName, Served>();

function fileNamed(name: FileName): Served {
  const known = served.get(name);
  if (known) return known;
  const own: Partial<Record<FileName, string>> = { '': page, 'start.js': start };
  const folder = () => dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
  const bytes = own[name] === undefined ? readFileSync(join(folder(), name)) : Buffer.from(own[name]);
  const etag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`;
  const file = { bytes, compressed: gzipSync(bytes), etag };
  served.set(name, file);
  return file;
}

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

@Controller('docs')
export class DocsController {
  @Get()
  page(@Req() request: Request, @Res() reply: Reply): void {
    send(request, reply, '');
  }

  @Get(':file')
  file(@Req() request: Request, @Res() reply: Reply, @Param('file') name: string): void {
    if (!Object.hasOwn(types, name)) throw new RhyzomeError('not_found', 'There is nothing at this path.');
    send(request, reply, name as FileName);
  }
}

function send(request: Request, reply: Reply, name: FileName): void {
  refuseUnknownParameters(request.query as Record<string, unknown>, []);
  const { bytes, compressed, etag } = fileNamed(name);
  const takesGzip = /\bgzip\b/.test(String(request.headers['accept-encoding'] ?? ''));
  reply.headers({
    etag,
    // Asked for again each time, and answered with 304 until the next version.
    'cache-control': 'no-cache',
    vary: 'accept-encoding',
    'content-security-policy': policy,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
  });
  if (isUnchanged(request, etag)) {
    reply.status(304).send();
    return;
  }
  reply.header('content-type', types[name]);
  if (takesGzip) reply.header('content-encoding', 'gzip');
  reply.send(takesGzip ? compressed : bytes);
}
