/**
 * WebSockets (RFC 6455) behind the same routes, hooks and problems as every other request: an upgrade is routed like a
 * plain GET, whose handler refuses it with a problem or accepts it here.
 */
import { type IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import { parseBearer } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import type { Reply, Request } from './http.js';

interface Upgrade {
  socket: Socket;
  head: Buffer;
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>();
const requestIds = new WeakMap<IncomingMessage, string>();

/** Largest message that a client may send (bytes); a larger one ends the connection with 1009. */
const MAX_MESSAGE_BYTES = 64 * 1024;
/** What stands before a token among the protocols that a browser offers: it cannot send an Authorization header. */
const TOKEN_PROTOCOL = 'bearer.';

const protocols = { console: 'rhyzome.console' };

const sockets = new WebSocketServer({
  noServer: true,
  clientTracking: false,
  maxPayload: MAX_MESSAGE_BYTES,
  perMessageDeflate: false,
  // Never the one with the token: what is selected stands in the answer.
  handleProtocols: (offered) => (offered.has(protocols.console) ? protocols.console : false),
});
sockets.on('headers', (headers, request) => {
  const id = requestIds.get(request);
  if (id !== undefined) headers.push(`x-request-id: ${id}`);
});

/** For the HTTP server: other upgrades are passed over, as RFC 9110 §7.8 lets it, and answered as if there were none. */
export function shouldUpgrade(request: IncomingMessage): boolean {
  const path = request.url?.split('?')[0] ?? '';
  return path.endsWith('/attach') && request.headers.upgrade?.toLowerCase() === 'websocket';
}

/** Sends upgrades through the routes of the server; one that is answered like a plain request ends its connection. */
export function routeUpgrades(
  server: Server,
  route: (request: IncomingMessage, response: ServerResponse) => void,
): void {
  server.on('upgrade', (request: IncomingMessage, stream, head: Buffer) => {
    const socket = stream as Socket;
    // Whoever reads it hears of its end; until then there is nobody to tell.
    socket.on('error', () => socket.destroy());
    upgrades.set(request, { socket, head });
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket);
    response.once('finish', () => {
      response.detachSocket(socket);
      socket.end();
    });
    route(request, response);
  });
}

/** The bearer token of a request; of an upgrade also from Sec-WebSocket-Protocol. Throws InvalidToken. */
export function bearerOf(request: Request): string {
  const { authorization } = request.headers;
  if (authorization === undefined && upgrades.has(request.raw)) {
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    const token = offered.find((name) => name.startsWith(TOKEN_PROTOCOL))?.slice(TOKEN_PROTOCOL.length);
    if (token) return token;
  }
  return parseBearer(authorization);
}

/** Throws RhyzomeError `upgrade_required` unless a WebSocket handshake was asked for that can be accepted. */
export function requireUpgrade(request: Request, reply: Reply): void {
  const { headers, method } = request;
  const isHandshake =
    upgrades.has(request.raw) &&
    method === 'GET' &&
    headers['sec-websocket-version'] === '13' &&
    /^[+/0-9A-Za-z]{22}==$/.test(headers['sec-websocket-key'] ?? '');
  if (isHandshake) return;
  reply.header('upgrade', 'websocket').header('sec-websocket-version', '13');
  throw new RhyzomeError('upgrade_required', 'This is a WebSocket (RFC 6455, version 13); ask for the upgrade.');
}

/** Calls back when who asked for the upgrade is gone before it is accepted. Returns the callback's end. */
export function onUpgradeGone(request: Request, gone: () => void): () => void {
  const socket = upgrades.get(request.raw)?.socket;
  if (!socket || socket.destroyed) gone();
  socket?.once('close', gone);
  return () => socket?.removeListener('close', gone);
}

/** Answers 101; after `requireUpgrade`. Rejects when the client is gone. */
export function acceptUpgrade(request: Request, reply: Reply): Promise<WebSocket> {
  const { socket, head } = upgrades.get(request.raw)!;
  const { raw } = reply.hijack();
  raw.removeAllListeners('finish');
  raw.detachSocket(socket);
  requestIds.set(request.raw, request.requestId);
  return new Promise((resolve, reject) => {
    const gone = () => reject(new RhyzomeError('request_timeout', 'The client is gone.'));
    if (socket.destroyed) return gone();
    socket.once('close', gone);
    sockets.handleUpgrade(request.raw, socket, head, (webSocket) => {
      socket.removeListener('close', gone);
      resolve(webSocket);
    });
  });
}
