/** The nodes' service: their stream, and the images that they fetch. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod, GrpcStreamCall } from '@nestjs/microservices';
import type { Observable } from 'rxjs';
import { RhyzomeError } from '#libs/core';
import { NodeHub } from '#libs/nodes';
import {
  type ConnectRequest,
  type ConnectResponse,
  duplex,
  type FetchImageRequest,
  type FetchImageResponse,
  requirePeer,
} from '#libs/rpc';
import type { ContentStore } from '#libs/storage';
import { streamed } from '../streaming.js';
import { CONTENT } from '../tokens.js';

@Controller()
export class NodeController {
  constructor(
    @Inject(NodeHub) private readonly hub: NodeHub,
    @Inject(CONTENT) private readonly content: ContentStore | null,
  ) {}

  @GrpcStreamCall('NodeService', 'connect')
  connect(call: grpc.ServerDuplexStream<ConnectRequest, ConnectResponse>): void {
    void duplex<ConnectRequest, ConnectResponse>((stream) => this.hub.serve(requirePeer(stream, 'node').name, stream))(
      call,
    );
  }

  /** Only images of what is placed on the node. */
  @GrpcMethod('NodeService', 'fetchImage')
  fetchImage(
    request: FetchImageRequest,
    _metadata: grpc.Metadata,
    call: grpc.ServerWritableStream<FetchImageRequest, FetchImageResponse>,
  ): Observable<never> {
    return streamed(call, () => this.chunks(requirePeer(call, 'node').name, request));
  }

  private async *chunks(nodeName: string, request: FetchImageRequest): AsyncGenerator<FetchImageResponse> {
    const isPlaced = /^[0-9a-f]{64}$/.test(request.sha256) && (await this.hub.mayFetch(nodeName, request.sha256));
    if (!isPlaced) throw new RhyzomeError('not_found', 'No image with this content is placed on the node.');
    if (!this.content) throw new RhyzomeError('internal', 'No content store is configured (storage.dir).');
    const { stream } = await this.content.open(request.sha256, Number(request.offset));
    for await (const data of stream) yield { data: data as Buffer };
  }
}
