/** Bytes between nodes and rhyzome-api. Only servers may ask. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod, GrpcStreamCall } from '@nestjs/microservices';
import type { Observable } from 'rxjs';
import { NodeHub } from '#libs/nodes';
import {
  type ConsoleLogRequest,
  type ConsoleLogResponse,
  type ConsoleRequest,
  type ConsoleResponse,
  duplex,
  requirePeer,
} from '#libs/rpc';
import { streamed } from '../streaming.js';

@Controller()
export class RelayController {
  constructor(@Inject(NodeHub) private readonly hub: NodeHub) {}

  @GrpcMethod('RelayService', 'consoleLog')
  consoleLog(
    request: ConsoleLogRequest,
    _metadata: grpc.Metadata,
    call: grpc.ServerWritableStream<ConsoleLogRequest, ConsoleLogResponse>,
  ): Observable<never> {
    return streamed(call, (signal) => this.chunks(request, call, signal));
  }

  private async *chunks(
    request: ConsoleLogRequest,
    call: grpc.ServerWritableStream<ConsoleLogRequest, ConsoleLogResponse>,
    signal: AbortSignal,
  ): AsyncGenerator<ConsoleLogResponse> {
    requirePeer(call, 'server');
    const ref = { tenantId: request.tenantId, kind: 'instance', id: request.instanceId };
    for await (const data of this.hub.consoleLog(request.nodeId, ref, request.tailBytes, signal)) {
      yield { data: Buffer.from(data) };
    }
  }

  @GrpcStreamCall('RelayService', 'console')
  console(call: grpc.ServerDuplexStream<ConsoleRequest, ConsoleResponse>): void {
    void duplex<ConsoleRequest, ConsoleResponse>((stream, signal) => {
      requirePeer(stream, 'server');
      return this.hub.serveConsole(stream, signal);
    })(call);
  }
}
