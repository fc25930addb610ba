/**
 * RhyzomeError as a gRPC status and back. The status carries code and message; the metadata `problem-bin` carries the
 * stable code, the list of errors and the blockers as JSON. Anything else becomes INTERNAL without its message.
 */
import * as grpc from '@grpc/grpc-js';
import { type Blocker, codeEntry, type ErrorCode, errorCodes, type FieldError, RhyzomeError } from '#libs/core';

/** The metadata key of the problem; binary, because messages are not ASCII. */
export const problemKey = 'problem-bin';

/** Metadata has a limit (8 KiB at many peers); lists are cut so that a problem stays below it (bytes). */
const maxProblemBytes = 6 * 1024;

interface Problem {
  code: ErrorCode;
  message: string;
  errors?: FieldError[];
  blockers?: Blocker[];
  retryAfterSeconds?: number;
  extensions?: Record<string, unknown>;
}

/** A status that grpc-js sends as it is. */
export interface StatusError extends Partial<grpc.StatusObject> {
  name: string;
  message: string;
  code: grpc.status;
  details: string;
  metadata: grpc.Metadata;
}

/** What goes over the wire for anything thrown. `onUnknown` gets what is not told to the client, for the log. */
export function toStatus(error: unknown, onUnknown?: (error: unknown) => void): StatusError {
  if (error instanceof RhyzomeError) return statusOf(error);
  if (isStatus(error)) {
    return {
      name: 'StatusError',
      message: error.details,
      code: error.code,
      details: error.details,
      metadata: error.metadata,
    };
  }
  onUnknown?.(error);
  return statusOf(new RhyzomeError('internal', errorCodes.internal.title, { cause: error }));
}

function statusOf(error: RhyzomeError): StatusError {
  const metadata = new grpc.Metadata();
  metadata.set(problemKey, encodeProblem(error));
  return {
    name: error.name,
    message: error.message,
    code: codeEntry(error.code).grpc,
    details: error.message,
    metadata,
  };
}

function encodeProblem(error: RhyzomeError): Buffer {
  const { errors, blockers, retryAfterSeconds, extensions } = error.details;
  const problem: Problem = {
    code: error.code,
    message: error.message,
    errors,
    blockers,
    retryAfterSeconds,
    extensions,
  };
  let encoded = Buffer.from(JSON.stringify(problem));
  while (encoded.length > maxProblemBytes) {
    if (problem.errors?.length) problem.errors = problem.errors.slice(0, problem.errors.length >> 1);
    else if (problem.blockers?.length) problem.blockers = problem.blockers.slice(0, problem.blockers.length >> 1);
    else if (problem.extensions) delete problem.extensions;
    else problem.message = problem.message.slice(0, 1000);
    const smaller = Buffer.from(JSON.stringify(problem));
    if (smaller.length >= encoded.length) break;
    encoded = smaller;
  }
  return encoded;
}

function isStatus(error: unknown): error is grpc.ServiceError {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'number' &&
    'details' in error &&
    'metadata' in error
  );
}

/** For clients: the RhyzomeError that the other side threw; undefined when the failure is the transport's or unknown. */
export function problemOf(error: unknown): RhyzomeError | undefined {
  if (!isStatus(error)) return undefined;
  const [encoded] = error.metadata.get(problemKey);
  if (!Buffer.isBuffer(encoded)) return undefined;
  let problem: Problem;
  try {
    problem = JSON.parse(encoded.toString()) as Problem;
  } catch {
    return undefined; // Not ours: the status itself still says what there is to say.
  }
  if (typeof problem?.code !== 'string' || !Object.hasOwn(errorCodes, problem.code)) return undefined;
  const { errors, blockers, retryAfterSeconds, extensions } = problem;
  return new RhyzomeError(problem.code, String(problem.message), {
    errors,
    blockers,
    retryAfterSeconds,
    extensions,
    cause: error,
  });
}

/** For clients: true when trying again later may help (the connection, not the request, is at fault). */
export function isUnavailable(error: unknown): boolean {
  return isStatus(error) && (error.code === grpc.status.UNAVAILABLE || error.code === grpc.status.DEADLINE_EXCEEDED);
}
