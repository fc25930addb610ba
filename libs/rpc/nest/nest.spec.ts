/** The gRPC transport of Nest with our options: all addresses serve, controllers see who calls, errors keep their code. */
import 'reflect-metadata';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { Controller, type INestMicroservice, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { GrpcMethod, GrpcStreamCall } from '@nestjs/microservices';
import { Observable } from 'rxjs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { type CredentialsSource, initPki, issueCertificate, watchCredentials } from '#libs/pki';
import {
  type ConnectRequest,
  type ConnectResponse,
  createChannel,
  duplex,
  FetchImageRequest,
  FetchImageResponse,
  messagesOf,
  NodeServiceClient,
  peerOf,
  problemOf,
  send,
} from '#libs/rpc';
import { type NestGrpc, nestGrpcOptions, RpcErrorFilter } from './index.js';

@Controller()
class NodeController {
  @GrpcMethod('NodeService', 'fetchImage')
  fetchImage(request: FetchImageRequest, _metadata: grpc.Metadata, call: any): Observable<FetchImageResponse> {
    if (request.sha256 === 'missing') throw new RhyzomeError('not_found', 'There is no such image.');
    if (request.sha256 === 'secret') throw new Error('hunter2');
    return new Observable((subscriber) => {
      subscriber.next({ data: Buffer.from(`${peerOf(call).name} ${request.offset + 1n}`) });
      subscriber.complete();
    });
  }

  @GrpcStreamCall('NodeService', 'connect')
  connect(call: grpc.ServerDuplexStream<ConnectRequest, ConnectResponse>): void {
    void duplex<ConnectRequest, ConnectResponse>(async (stream, signal) => {
      for await (const message of messagesOf(stream)) {
        if (message.body?.$case !== 'heartbeat')
          throw new RhyzomeError('malformed_request', 'A heartbeat was expected.');
        await send(stream, { body: { $case: 'acknowledge', value: {} } }, signal);
      }
    })(call);
  }
}

@Module({ controllers: [NodeController] })
class TestModule {}

let dir: string;
let app: INestMicroservice;
let nest: NestGrpc;
let server: CredentialsSource;
let node: CredentialsSource;
let socket: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-nest-'));
  await initPki({ dir });
  server = await watchCredentials(await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] }));
  node = await watchCredentials(await issueCertificate({ dir, type: 'node', name: 'node-9' }));
  socket = `unix:${join(dir, 'rpc.sock')}`;
  nest = nestGrpcOptions({
    listen: [`unix:${join(dir, 'first.sock')}`, socket],
    credentials: server,
    services: ['rhyzome.v1.NodeService'],
  });
  app = await NestFactory.createMicroservice(TestModule, { ...nest.options, logger: false });
  app.useGlobalFilters(new RpcErrorFilter());
  await app.listen();
  await nest.serving;
});
afterAll(async () => {
  await nest.drain(100);
  await app.close();
  server.close();
  node.close();
  await rm(dir, { recursive: true });
});

function withClient<T>(target: string, work: (client: NodeServiceClient) => Promise<T>): Promise<T> {
  const channel = createChannel({ target, credentials: node, timeoutMs: 5000 });
  return work(channel.client(NodeServiceClient)).finally(() => channel.close());
}

async function fetchText(client: NodeServiceClient, sha256: string): Promise<string> {
  let text = '';
  for await (const part of client.fetchImage({ sha256, offset: 41n }))
    text += (part as FetchImageResponse).data.toString();
  return text;
}

test('both addresses serve, with bigint and the name of the node', async () => {
  for (const target of [`unix:${join(dir, 'first.sock')}`, socket]) {
    expect(await withClient(target, (client) => fetchText(client, 'aa'))).toBe('node-9 42');
  }
});

test('what a controller throws keeps its code; what is not ours keeps its secret', async () => {
  await withClient(socket, async (client) => {
    const missing = await fetchText(client, 'missing').catch((error: grpc.ServiceError) => error);
    expect(missing).toMatchObject({ code: grpc.status.NOT_FOUND });
    expect(problemOf(missing)?.code).toBe('not_found');
    const secret = (await fetchText(client, 'secret').catch((error: grpc.ServiceError) => error)) as grpc.ServiceError;
    expect(secret.code).toBe(grpc.status.INTERNAL);
    expect(secret.message).not.toContain('hunter2');
  });
});

test('a stream goes both ways and ends with the status of what was thrown', async () => {
  await withClient(socket, async (client) => {
    const call = client.connect({ deadline: Number.POSITIVE_INFINITY });
    call.write({ body: { $case: 'heartbeat', value: { capacity: undefined } } });
    const answer = await new Promise<ConnectResponse>((resolve, reject) =>
      call.once('data', resolve).once('error', reject),
    );
    expect(answer.body?.$case).toBe('acknowledge');
    const ended = new Promise((resolve) => call.once('error', resolve));
    call.write({ body: { $case: 'report', value: { items: [] } } });
    call.resume();
    expect(problemOf(await ended)?.code).toBe('malformed_request');
  });
});

test('an address that cannot be bound is told', async () => {
  const second = nestGrpcOptions({
    listen: [`unix:${join(dir, 'x.sock')}`, `unix:${join(dir, 'no', 'such.sock')}`],
    credentials: server,
  });
  const other = await NestFactory.createMicroservice(TestModule, { ...second.options, logger: false });
  await other.listen();
  await expect(second.serving).rejects.toThrow('such.sock');
  await other.close();
});
