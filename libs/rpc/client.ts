/**
 * One channel under mutual TLS to a server, shared by the clients of its services. Reconnects by itself, and with another
 * certificate when that was renewed; a unix socket has no name of its own, so there the server's certificate must carry `serverName`.
 */
import * as grpc from '@grpc/grpc-js';
import type { CredentialsSource } from '#libs/pki';
import { channelCredentials } from './certificates.js';
import { FollowingChannel } from './following-channel.js';
import { requestIdKey } from './peer.js';
import { maxMessageBytes } from './server.js';

export interface ChannelSettings {
  /** `host:port` or `unix:/path`. */
  target: string;
  credentials: CredentialsSource;
  /** The name that the server's certificate must carry; `localhost` unless given for unix sockets, else the host. */
  serverName?: string;
  /** Deadline of calls that bring none of their own (ms). Streams bring `deadline: Infinity`. */
  timeoutMs?: number;
  /** The id that calls without one carry. */
  requestId?: () => string | undefined;
  channelOptions?: grpc.ChannelOptions;
}

type ClientClass<Client> = new (
  address: string,
  credentials: grpc.ChannelCredentials,
  options?: Partial<grpc.ClientOptions>,
) => Client;

export interface RpcChannel {
  readonly target: string;
  /** A client of one service, e.g. `channel.client(NodeServiceClient)`. */
  client<Client>(clientClass: ClientClass<Client>): Client;
  close(): void;
}

const RECEIVE_WINDOW_BYTES = 4 * 1024 * 1024;

/** Dials lazily: the first call connects. */
export function createChannel(settings: ChannelSettings): RpcChannel {
  const serverName = settings.serverName ?? (settings.target.startsWith('unix:') ? 'localhost' : undefined);
  const options: grpc.ChannelOptions = {
    'grpc.max_receive_message_length': maxMessageBytes,
    'grpc.max_send_message_length': maxMessageBytes,
    // HTTP/2's own 64 KiB would be all that comes between two turns of a busy event loop.
    'grpc-node.flow_control_window': RECEIVE_WINDOW_BYTES,
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
    'grpc.use_local_subchannel_pool': 1,
    ...(serverName ? { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName } : {}),
    ...settings.channelOptions,
  };
  const credentials = channelCredentials(settings.credentials);
  const channel = new FollowingChannel(
    () => new grpc.Channel(settings.target, channelCredentials(settings.credentials), options),
    (changed) => settings.credentials.subscribe(changed),
  );
  const interceptors = [callDefaults(settings)];
  return {
    target: settings.target,
    client: (clientClass) => new clientClass(settings.target, credentials, { channelOverride: channel, interceptors }),
    close: () => channel.close(),
  };
}

function callDefaults(settings: ChannelSettings): grpc.Interceptor {
  return (options, nextCall) => {
    const timeoutMs = settings.timeoutMs ?? 30_000;
    const deadline = options.deadline ?? Date.now() + timeoutMs;
    return new grpc.InterceptingCall(nextCall({ ...options, deadline }), {
      start: (metadata, listener, next) => {
        const requestId = settings.requestId?.();
        if (requestId && metadata.get(requestIdKey).length === 0) metadata.set(requestIdKey, requestId);
        next(metadata, listener);
      },
    });
  };
}
