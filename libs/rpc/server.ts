/**
 * A gRPC server under mutual TLS without Nest: for tests, small providers and the agent's counterparts. rhyzome-grpc
 * itself uses the same pieces through nest.ts.
 */
import * as grpc from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import type { CredentialsSource } from '#libs/pki';
import { serverCredentials } from './certificates.js';
import { Gate, type GateOptions } from './gate.js';
import { addReflection } from './services.js';
import { removeStaleSocket } from './stale-socket.js';

/** Largest message either way (bytes). Image content and logs are streamed in smaller chunks. */
export const maxMessageBytes = 4 * 1024 * 1024;

/** Channel options of every server: limits, and pings that find a peer that is gone without a word. */
export const serverOptions: grpc.ServerOptions = {
  'grpc.max_receive_message_length': maxMessageBytes,
  'grpc.max_send_message_length': maxMessageBytes,
  'grpc.max_metadata_size': 16 * 1024,
  'grpc.max_concurrent_streams': 1000,
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  // Then new calls go over another connection, with the certificate that the peer has by then. Streams go on.
  'grpc.max_connection_age_ms': 3_600_000,
};

export interface RpcService {
  definition: grpc.ServiceDefinition;
  implementation: grpc.UntypedServiceImplementation;
}

export interface RpcServerOptions {
  /** `host:port` (port 0: any) or `unix:/path`; at least one. */
  listen: string[];
  credentials: CredentialsSource;
  services: RpcService[];
  refuse?: GateOptions['refuse'];
  channelOptions?: grpc.ServerOptions;
}

export interface RpcServer {
  /** Where it really listens, in the order of `listen`. */
  addresses: string[];
  health: HealthImplementation;
  gate: Gate;
  /** Ends when the calls under way have ended, or after `graceMs` whatever they do. */
  stop(graceMs?: number): Promise<void>;
}

/** Listens on all addresses or on none; rejects with the reason and the address. */
export async function createRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const gate = new Gate({
    trustDomain: () => options.credentials.current.identity.trustDomain,
    refuse: options.refuse,
  });
  const server = new grpc.Server({ ...serverOptions, ...options.channelOptions });
  for (const { definition, implementation } of options.services) server.addService(definition, implementation);
  const health = new HealthImplementation({ '': 'SERVING' });
  health.addToServer(server);
  addReflection(server);
  const credentials = serverCredentials(options.credentials, [gate.interceptor]);
  try {
    const addresses = await bindAll(server, options.listen, credentials);
    gate.open();
    return { addresses, health, gate, stop: (graceMs = 0) => stopServer(server, graceMs) };
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
}

/** Binds one after the other; returns the addresses with the real ports. */
export async function bindAll(
  server: grpc.Server,
  listen: string[],
  credentials: grpc.ServerCredentials,
): Promise<string[]> {
  const addresses: string[] = [];
  for (const address of listen) {
    await removeStaleSocket(address);
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, credentials, (error, bound) => {
        if (error) reject(new Error(`Cannot listen on ${address}: ${error.message}`, { cause: error }));
        else resolve(bound);
      });
    });
    addresses.push(address.startsWith('unix:') ? address : address.replace(/:\d+$/, `:${port}`));
  }
  return addresses;
}

/** Lets calls end for `graceMs`, then cuts them. */
export function stopServer(server: grpc.Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, graceMs);
    server.tryShutdown((error) => {
      if (error) return; // Already cut by the timer, which resolves.
      clearTimeout(timer);
      resolve();
    });
  });
}
