/**
 * The same server behind NestJS: options for its gRPC transport, and the filter that turns what controllers throw into a
 * status. Controllers use the generated names: `@GrpcMethod('NodeService', 'fetchImage')`, `@GrpcStreamCall('NodeService', 'connect')`.
 */
import type * as grpc from '@grpc/grpc-js';
import { type ArgumentsHost, Catch, Logger, type RpcExceptionFilter } from '@nestjs/common';
import { type GrpcOptions, Transport } from '@nestjs/microservices';
import { HealthImplementation } from 'grpc-health-check';
import { type Observable, throwError } from 'rxjs';
import type { CredentialsSource } from '#libs/pki';
import { serverCredentials } from '../certificates.js';
import { toStatus } from '../errors.js';
import { Gate, type GateOptions } from '../gate.js';
import { bindAll, maxMessageBytes, serverOptions, stopServer } from '../server.js';
import { addReflection, type ServiceName, services } from '../services.js';

export interface NestGrpcOptions {
  /** `host:port` or `unix:/path`; at least one. */
  listen: string[];
  credentials: CredentialsSource;
  /** Which services the application's controllers implement; all unless given. */
  services?: ServiceName[];
  refuse?: GateOptions['refuse'];
  onRefused?: GateOptions['onRefused'];
}

export interface NestGrpc {
  /** For `NestFactory.createMicroservice` or `app.connectMicroservice`. */
  options: GrpcOptions;
  /** Await after `listen()`: the addresses beyond the first are bound and calls are let in. Rejects with the reason. */
  serving: Promise<void>;
  health: HealthImplementation;
  gate: Gate;
  /** Before closing the application: takes no new calls and gives those under way `graceMs`. */
  drain(graceMs: number): Promise<void>;
}

export function nestGrpcOptions(options: NestGrpcOptions): NestGrpc {
  const gate = new Gate({
    trustDomain: () => options.credentials.current.identity.trustDomain,
    refuse: options.refuse,
    onRefused: options.onRefused,
  });
  const health = new HealthImplementation({ '': 'NOT_SERVING' });
  const credentials = serverCredentials(options.credentials, [gate.interceptor]);
  let settle: { resolve: () => void; reject: (reason: unknown) => void };
  const serving = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  serving.catch(() => {}); // Whoever awaits it gets the reason; it must not end the process by itself.
  let grpcServer: grpc.Server | undefined;
  const [first = '127.0.0.1:7443', ...others] = options.listen;
  const names = options.services ?? (Object.keys(services) as ServiceName[]);
  return {
    serving,
    health,
    gate,
    drain: async (graceMs) => {
      health.setStatus('', 'NOT_SERVING');
      if (grpcServer) await stopServer(grpcServer, graceMs);
    },
    options: {
      transport: Transport.GRPC,
      options: {
        url: first,
        package: 'rhyzome.v1',
        packageDefinition: Object.fromEntries(names.map((name) => [name, services[name]])),
        credentials,
        maxReceiveMessageLength: maxMessageBytes,
        maxSendMessageLength: maxMessageBytes,
        channelOptions: { ...serverOptions },
        gracefulShutdown: false,
        onLoadPackageDefinition: (_definition: unknown, server: grpc.Server) => {
          grpcServer = server;
          health.addToServer(server);
          addReflection(server);
          // Nest binds first and adds the controllers' services in this very tick; the gate keeps callers waiting till then.
          setImmediate(() => {
            bindAll(server, others, credentials).then(() => {
              gate.open();
              health.setStatus('', 'SERVING');
              settle.resolve();
            }, settle.reject);
          });
        },
      },
    },
  };
}

/** Global filter of a gRPC application; what no client is told stands in the log. */
@Catch()
export class RpcErrorFilter implements RpcExceptionFilter {
  private readonly logger = new Logger('rpc');

  catch(exception: unknown, _host: ArgumentsHost): Observable<never> {
    const status = toStatus(exception, (error) => this.logger.error(error));
    return throwError(() => status);
  }
}
