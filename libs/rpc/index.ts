export { channelCredentials, serverCredentials } from './certificates.js';
export { type ChannelSettings, createChannel, type RpcChannel } from './client.js';
export { isUnavailable, problemKey, problemOf, type StatusError, toStatus } from './errors.js';
export { Gate, type GateOptions } from './gate.js';
export {
  Acknowledge,
  Capacity,
  ConnectRequest,
  ConnectResponse,
  Deed,
  DeedOutcome,
  DeedResult,
  Desire,
  Desired,
  Failure,
  FetchImageRequest,
  FetchImageResponse,
  Heartbeat,
  Hello,
  NodeServiceClient,
  type NodeServiceServer,
  NodeServiceService,
  Observed,
  Phase,
  Ref,
  RelayCancel,
  RelayChunk,
  RelayRequest,
  Report,
  Welcome,
} from './generated/rhyzome/v1/node.js';
export {
  ConsoleLogRequest,
  ConsoleLogResponse,
  RelayServiceClient,
  type RelayServiceServer,
  RelayServiceService,
} from './generated/rhyzome/v1/relay.js';
export {
  CancelJobRequest,
  CancelJobResponse,
  CreateRequest,
  CreateResponse,
  DeleteRequest,
  DeleteResponse,
  GetJobRequest,
  GetJobResponse,
  GetRequest,
  GetResponse,
  Job,
  JobServiceClient,
  type JobServiceServer,
  JobServiceService,
  ListJobsRequest,
  ListJobsResponse,
  ListRequest,
  ListResponse,
  Resource,
  ResourceServiceClient,
  type ResourceServiceServer,
  ResourceServiceService,
  RetryJobRequest,
  RetryJobResponse,
  UpdateRequest,
  UpdateResponse,
  WatchRequest,
  WatchResponse,
} from './generated/rhyzome/v1/resource.js';
export { callSignal, duplex, messagesOf, send, serverStream, unary } from './handlers.js';
export { type Peer, peerOf, requestIdKey, requestIdOf, requirePeer } from './peer.js';
export { createRpcServer, maxMessageBytes, type RpcServer, type RpcServerOptions, type RpcService } from './server.js';
export { type ServiceName, services } from './services.js';
