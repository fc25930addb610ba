/**
 * The only service that asks for no client certificate, on a listener of its own, and how it is called by somebody who
 * knows no more than a CA's fingerprint: the CA is fetched from whoever answers, compared, and only the connection that
 * it vouches for is told the token.
 */
import * as grpc from '@grpc/grpc-js';
import type { CredentialsSource } from '#libs/pki';
import { openServerCredentials, strangerCredentials } from './certificates.js';
import {
  EnrollmentServiceClient,
  type EnrollmentServiceServer,
  EnrollmentServiceService,
  type EnrollRequest,
  type EnrollResponse,
} from './generated/rhyzome/v1/certificate.js';
import { bindAll, stopServer } from './server.js';

/** For strangers: small messages, few at once, and connections that do not stay. */
const openServerOptions: grpc.ServerOptions = {
  'grpc.max_receive_message_length': 32 * 1024,
  'grpc.max_send_message_length': 1024 * 1024,
  'grpc.max_metadata_size': 8 * 1024,
  'grpc.max_concurrent_streams': 8,
  'grpc.max_connection_age_ms': 60_000,
  'grpc.max_connection_age_grace_ms': 10_000,
  'grpc.max_connection_idle_ms': 10_000,
};

export interface EnrollmentListener {
  /** Where it really listens. */
  address: string;
  stop(graceMs: number): Promise<void>;
}

/** Rejects with the address when it cannot listen there. */
export async function serveEnrollment(options: {
  /** `host:port` (port 0: any) or `unix:/path`. */
  listen: string;
  credentials: CredentialsSource;
  implementation: EnrollmentServiceServer;
}): Promise<EnrollmentListener> {
  const server = new grpc.Server(openServerOptions);
  server.addService(EnrollmentServiceService, options.implementation);
  try {
    const [address] = await bindAll(server, [options.listen], openServerCredentials(options.credentials));
    return { address: address!, stop: (graceMs) => stopServer(server, graceMs) };
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
}

const CALL_MS = 20_000;

export interface EnrollmentCaller {
  /** What whoever answers there says its CA is (PEM). Worth nothing until it is compared. */
  trustAnchors(): Promise<string>;
  /** Over a connection that `ca` vouches for. Rejects with a ServiceError. */
  enroll(ca: string, request: EnrollRequest): Promise<EnrollResponse>;
}

/** `serverName`: what the certificate must hold for; the host of `target` unless given, `localhost` for a socket. */
export function enrollmentCaller(target: string, serverName?: string): EnrollmentCaller {
  const name = serverName ?? (target.startsWith('unix:') ? 'localhost' : undefined);
  const options = name ? { 'grpc.ssl_target_name_override': name, 'grpc.default_authority': name } : {};
  const within = <Answer>(
    credentials: grpc.ChannelCredentials,
    work: (
      client: EnrollmentServiceClient,
      limits: { deadline: number },
      done: (error: grpc.ServiceError | null, answer: Answer) => void,
    ) => unknown,
  ): Promise<Answer> => {
    const client = new EnrollmentServiceClient(target, credentials, options);
    return new Promise<Answer>((resolve, reject) => {
      work(client, { deadline: Date.now() + CALL_MS }, (error, answer) => (error ? reject(error) : resolve(answer)));
    }).finally(() => client.close());
  };
  return {
    trustAnchors: async () => {
      const answer = await within<{ ca: string }>(strangerCredentials(), (client, limits, done) =>
        client.getTrustAnchors({}, new grpc.Metadata(), limits, done),
      );
      return answer.ca;
    },
    enroll: (ca, request) =>
      within(strangerCredentials(ca), (client, limits, done) =>
        client.enroll(request, new grpc.Metadata(), limits, done),
      ),
  };
}
