/** Enrolment for machines that have no certificate yet: the implementation behind its own listener. */

import type { ServerUnaryCall } from '@grpc/grpc-js';
import { RhyzomeError } from '#libs/core';
import type { UnauthenticatedLog } from '#libs/events';
import type { CredentialsSource } from '#libs/pki';
import {
  type EnrollmentServiceServer,
  type EnrollRequest,
  type EnrollResponse,
  type GetTrustAnchorsRequest,
  type GetTrustAnchorsResponse,
  unary,
} from '#libs/rpc';
import type { Certificates } from './certificates.js';
import { addressOf } from './service-callers.js';

export interface EnrollmentParts {
  certificates: Certificates;
  credentials: CredentialsSource;
  /** Where refused tokens are counted. */
  unauthenticated: UnauthenticatedLog;
  log: { error(fields: object, message: string): void };
}

export function enrollmentService(parts: EnrollmentParts): EnrollmentServiceServer {
  const { certificates, credentials, unauthenticated, log } = parts;
  const onUnknown = (error: unknown) => log.error({ err: error }, 'enrolling failed');
  const anchors = () => credentials.current.ca.toString();
  const take = async ({ token, request, nodeName }: EnrollRequest, call: ServerUnaryCall<EnrollRequest, unknown>) => {
    const source = addressOf(call.getPeer());
    try {
      const enrolled = await certificates.enroll({ token, request, nodeName }, source);
      return { nodeName: enrolled.nodeName, certificate: enrolled.chain, ca: anchors(), labels: enrolled.labels };
    } catch (error) {
      if (error instanceof RhyzomeError && error.code === 'unauthenticated')
        unauthenticated.tell({ reason: 'enrollment_token', source, method: 'gRPC', path: call.getPath() });
      throw error;
    }
  };
  return {
    getTrustAnchors: unary<GetTrustAnchorsRequest, GetTrustAnchorsResponse>(async () => ({ ca: anchors() }), onUnknown),
    enroll: unary<EnrollRequest, EnrollResponse>(take, onUnknown),
  };
}
