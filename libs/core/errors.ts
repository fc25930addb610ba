/**
 * The one error class that crosses module borders, and the one table from its code to HTTP and gRPC. Rendering lives in
 * the adapters; whoever throws knows neither protocol.
 */

/** gRPC status codes by number (google.rpc.Code), so that core needs no gRPC library. */
export const GrpcCode = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

interface CodeEntry {
  http: number;
  grpc: number;
  title: string;
  /** True: the same request may succeed later without a change by the client. */
  retryable?: boolean;
}

/** Every code that Rhyzome answers with. Stable: clients branch on them; the error catalogue in docs is made of it. */
export const errorCodes = {
  malformed_json: { http: 400, grpc: GrpcCode.invalidArgument, title: 'The body is not JSON' },
  not_an_object: { http: 400, grpc: GrpcCode.invalidArgument, title: 'The body is not a JSON object' },
  malformed_request: { http: 400, grpc: GrpcCode.invalidArgument, title: 'The request is malformed' },
  unauthenticated: { http: 401, grpc: GrpcCode.unauthenticated, title: 'No valid credentials' },
  forbidden: { http: 403, grpc: GrpcCode.permissionDenied, title: 'The permission is missing' },
  not_found: { http: 404, grpc: GrpcCode.notFound, title: 'Not found' },
  method_not_allowed: { http: 405, grpc: GrpcCode.unimplemented, title: 'The method is not allowed here' },
  not_acceptable: { http: 406, grpc: GrpcCode.invalidArgument, title: 'No acceptable representation' },
  request_timeout: { http: 408, grpc: GrpcCode.deadlineExceeded, title: 'The request took too long to arrive' },
  name_taken: { http: 409, grpc: GrpcCode.alreadyExists, title: 'The name is taken' },
  already_exists: { http: 409, grpc: GrpcCode.alreadyExists, title: 'It exists already' },
  address_in_use: { http: 409, grpc: GrpcCode.alreadyExists, title: 'The address is in use' },
  mac_in_use: { http: 409, grpc: GrpcCode.alreadyExists, title: 'The MAC address is in use' },
  port_in_use: { http: 409, grpc: GrpcCode.alreadyExists, title: 'The port is in use' },
  limit_reached: { http: 409, grpc: GrpcCode.resourceExhausted, title: 'There are as many as there can be' },
  no_free_address: { http: 409, grpc: GrpcCode.resourceExhausted, title: 'No free address is left' },
  no_capacity: { http: 409, grpc: GrpcCode.resourceExhausted, title: 'No node has the capacity', retryable: true },
  quota_exceeded: { http: 409, grpc: GrpcCode.resourceExhausted, title: 'A quota is used up' },
  in_use: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'The resource is in use' },
  protected: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'The resource is protected from deletion' },
  busy: { http: 409, grpc: GrpcCode.aborted, title: 'Another change is under way', retryable: true },
  conflict: { http: 409, grpc: GrpcCode.aborted, title: 'The request conflicts with the state', retryable: true },
  not_cancellable: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'The job cannot be cancelled' },
  not_retryable: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'The job cannot be retried' },
  not_ready: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'The resource is not ready for this' },
  wrong_offset: {
    http: 409,
    grpc: GrpcCode.failedPrecondition,
    title: 'The piece does not begin where the last one ended',
  },
  not_managed: {
    http: 409,
    grpc: GrpcCode.failedPrecondition,
    title: 'Rhyzome does not keep the people of this tenant',
  },
  no_issuer: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'This server issues no certificates' },
  last_admin: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'It is the last administrator' },
  managed: { http: 409, grpc: GrpcCode.failedPrecondition, title: 'It is managed by another resource' },
  idempotency_in_progress: {
    http: 409,
    grpc: GrpcCode.aborted,
    title: 'The first request with this key is still under way',
    retryable: true,
  },
  cursor_too_old: { http: 410, grpc: GrpcCode.outOfRange, title: 'The cursor is too old' },
  precondition_failed: { http: 412, grpc: GrpcCode.failedPrecondition, title: 'The resource has changed' },
  body_too_large: { http: 413, grpc: GrpcCode.invalidArgument, title: 'The body is too large' },
  uri_too_long: { http: 414, grpc: GrpcCode.invalidArgument, title: 'The URI is too long' },
  unsupported_media_type: { http: 415, grpc: GrpcCode.invalidArgument, title: 'The media type is not supported' },
  invalid: { http: 422, grpc: GrpcCode.invalidArgument, title: 'The request is well-formed but wrong' },
  checksum_mismatch: {
    http: 422,
    grpc: GrpcCode.invalidArgument,
    title: 'The content is not the one that was announced',
  },
  image_refused: { http: 422, grpc: GrpcCode.invalidArgument, title: 'The content is no image that may be used' },
  source_refused: { http: 422, grpc: GrpcCode.invalidArgument, title: 'Nothing is fetched from that address' },
  source_unavailable: { http: 422, grpc: GrpcCode.invalidArgument, title: 'The source does not give the content' },
  upload_abandoned: { http: 422, grpc: GrpcCode.invalidArgument, title: 'The content did not come' },
  idempotency_key_reused: {
    http: 422,
    grpc: GrpcCode.invalidArgument,
    title: 'The idempotency key was used for another request',
  },
  upgrade_required: { http: 426, grpc: GrpcCode.unimplemented, title: 'A WebSocket upgrade is needed' },
  too_many_requests: { http: 429, grpc: GrpcCode.resourceExhausted, title: 'Too many requests', retryable: true },
  headers_too_large: { http: 431, grpc: GrpcCode.invalidArgument, title: 'The headers are too large' },
  step_timed_out: {
    http: 504,
    grpc: GrpcCode.deadlineExceeded,
    title: 'A step of the job took too long',
    retryable: true,
  },
  job_failed: { http: 500, grpc: GrpcCode.internal, title: 'The job failed' },
  internal: { http: 500, grpc: GrpcCode.internal, title: 'Something went wrong on our side' },
  database_unavailable: {
    http: 503,
    grpc: GrpcCode.unavailable,
    title: 'The database is away',
    retryable: true,
  },
  identity_provider_unavailable: {
    http: 503,
    grpc: GrpcCode.unavailable,
    title: 'The identity provider is away and its keys are not known yet',
    retryable: true,
  },
  node_unreachable: { http: 503, grpc: GrpcCode.unavailable, title: 'The node is away', retryable: true },
  content_store_unavailable: {
    http: 503,
    grpc: GrpcCode.unavailable,
    title: 'The content store is full or away',
    retryable: true,
  },
  draining: { http: 503, grpc: GrpcCode.unavailable, title: 'This server is being ended', retryable: true },
  overloaded: { http: 503, grpc: GrpcCode.unavailable, title: 'Too much is under way', retryable: true },
} as const satisfies Record<string, CodeEntry>;

export type ErrorCode = keyof typeof errorCodes;

/** The row of a code, with the optional fields readable. */
export function codeEntry(code: ErrorCode): CodeEntry {
  return errorCodes[code];
}

/** One thing that is wrong with a request. Exactly one of pointer, parameter and header says where. */
export interface FieldError {
  /** RFC 6901 pointer into the body. */
  pointer?: string;
  /** Query or path parameter. */
  parameter?: string;
  header?: string;
  /** Stable, snake_case: required, wrong_type, unknown_field, read_only, immutable, out_of_range, … */
  code: string;
  message: string;
}

/** What stands in the way of a 409. Never another tenant's. */
export interface Blocker {
  kind: string;
  id: string;
  name: string;
  relation: string;
}

export interface RhyzomeErrorDetails {
  errors?: FieldError[];
  blockers?: Blocker[];
  retryAfterSeconds?: number;
  /** Further members of the problem, e.g. what is left of a quota. */
  extensions?: Record<string, unknown>;
  cause?: unknown;
}

/** Thrown wherever a request or a job cannot go on for a reason that its user should read. */
export class RhyzomeError extends Error {
  override readonly name = 'RhyzomeError';
  constructor(
    readonly code: ErrorCode,
    /** For the user: what is wrong and what to do. Never a secret. */
    message: string,
    readonly details: RhyzomeErrorDetails = {},
  ) {
    super(message, { cause: details.cause });
  }
}

/** 404 for what does not exist and, in the same words, for what the caller may not know of. */
export function notFound(kind: string, idOrName: string): RhyzomeError {
  return new RhyzomeError('not_found', `There is no ${kind} “${printable(idOrName)}” that you may see.`);
}

/** 422 with its list of errors. */
export function invalid(errors: FieldError[]): RhyzomeError {
  const first = errors[0];
  const where = first?.pointer ?? first?.parameter ?? first?.header;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  return new RhyzomeError('invalid', first ? `${where ? `${where}: ` : ''}${first.message}${more}` : 'Invalid.', {
    errors,
  });
}

/** Cuts and escapes what a client sent before it is put into a message. */
export function printable(text: string): string {
  const clean = text.replaceAll(/[^\x20-\x7e]/g, '?');
  return clean.length > 80 ? `${clean.slice(0, 80)}…` : clean;
}
