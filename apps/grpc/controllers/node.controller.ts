/** The nodes' service: their stream, the images that they fetch, and the contents that they bring. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod, GrpcStreamCall } from '@nestjs/microservices';
import type { Observable } from 'rxjs';
import { isUuid, RhyzomeError } from '#libs/core';
import { imageContents } from '#libs/kinds/image';
import { NodeHub } from '#libs/nodes';
import {
  type ConnectRequest,
  type ConnectResponse,
  type ContentOffsetRequest,
  type ContentOffsetResponse,
  duplex,
  type FetchImageRequest,
  type FetchImageResponse,
  type PutContentRequest,
  type PutContentResponse,
  requirePeer,
  toStatus,
} from '#libs/rpc';
import { type ContentStore, giveBack, TooManyBytes } from '#libs/storage';
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
    return streamed(
      call,
      () => this.chunks(requirePeer(call, 'node').name, request),
      ({ data }) => giveBack(data),
    );
  }

  private async *chunks(nodeName: string, request: FetchImageRequest): AsyncGenerator<FetchImageResponse> {
    const isPlaced = /^[0-9a-f]{64}$/.test(request.sha256) && (await this.hub.mayFetch(nodeName, request.sha256));
    if (!isPlaced) throw new RhyzomeError('not_found', 'No image with this content is placed on the node.');
    if (!this.content) throw new RhyzomeError('internal', 'No content store is configured (storage.dir).');
    const { stream } = await this.content.open(request.sha256, Number(request.offset));
    for await (const data of stream) yield { data: data as Buffer };
  }

  /** Of what a deed of this node brings. */
  @GrpcMethod('NodeService', 'contentOffset')
  async contentOffset(
    { operationId }: ContentOffsetRequest,
    _metadata: grpc.Metadata,
    call: grpc.ServerUnaryCall<ContentOffsetRequest, ContentOffsetResponse>,
  ): Promise<ContentOffsetResponse> {
    const store = await this.storeFor(requirePeer(call, 'node').name, operationId);
    return { offset: BigInt(await store.parts.size(operationId)) };
  }

  @GrpcStreamCall('NodeService', 'putContent')
  putContent(
    call: grpc.ServerReadableStream<PutContentRequest, PutContentResponse>,
    answer: grpc.sendUnaryData<PutContentResponse>,
  ): void {
    this.take(call).then(
      (response) => answer(null, response),
      (error: unknown) => answer(toStatus(error)),
    );
  }

  /** Not more than was announced; the digest is of what lies there then, whoever brought it. */
  private async take(
    call: grpc.ServerReadableStream<PutContentRequest, PutContentResponse>,
  ): Promise<PutContentResponse> {
    const { name } = requirePeer(call, 'node');
    const messages = call.iterator({ destroyOnReturn: false }) as AsyncIterableIterator<PutContentRequest>;
    const first = await messages.next();
    if (first.done) throw new RhyzomeError('malformed_request', 'There is no message.');
    const { operationId, offset, sizeBytes, data } = first.value as PutContentRequest;
    const store = await this.storeFor(name, operationId);
    const total = Number(sizeBytes);
    const { maxBytes } = imageContents();
    if (total < 1 || total > maxBytes) {
      throw new RhyzomeError('body_too_large', `An image has 1 to ${maxBytes} bytes, and not ${total}.`);
    }
    try {
      const room = { maxBytes: total - Number(offset) };
      const size = await store.parts.write(operationId, Number(offset), dataOf(data, messages), room);
      if (size < total) throw new RhyzomeError('malformed_request', `Only ${size} of ${total} bytes came.`);
    } catch (error) {
      if (error instanceof TooManyBytes) throw new RhyzomeError('malformed_request', `More than ${total} bytes came.`);
      throw error;
    }
    return digested(store, operationId);
  }

  /** The store, if this node was asked for the operation and has not answered. Throws RhyzomeError `not_found`. */
  private async storeFor(nodeName: string, operationId: string): Promise<ContentStore> {
    if (!isUuid(operationId) || !(await this.hub.isAskedToBring(nodeName, operationId))) {
      throw new RhyzomeError('not_found', 'The node is not asked for such a content.');
    }
    if (!this.content) throw new RhyzomeError('internal', 'No content store is configured (storage.dir).');
    return this.content;
  }
}

async function* dataOf(first: Uint8Array, messages: AsyncIterable<PutContentRequest>): AsyncGenerator<Uint8Array> {
  if (first.byteLength > 0) yield first;
  for await (const { data } of messages) yield data;
}

async function digested(store: ContentStore, operationId: string): Promise<PutContentResponse> {
  const { sha256, sizeBytes } = await store.parts.digest(operationId);
  return { sha256, sizeBytes: BigInt(sizeBytes) };
}
