/** Certificates for those who have one already. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod } from '@nestjs/microservices';
import { type RenewRequest, type RenewResponse, requirePeer } from '#libs/rpc';
import { Certificates } from '../certificates.js';
import { addressOf } from '../service-callers.js';

@Controller()
export class CertificateController {
  constructor(@Inject(Certificates) private readonly certificates: Certificates) {}

  @GrpcMethod('CertificateService', 'renew')
  async renew(
    { request }: RenewRequest,
    _: grpc.Metadata,
    call: grpc.ServerUnaryCall<RenewRequest, RenewResponse>,
  ): Promise<RenewResponse> {
    const peer = requirePeer(call, 'node', 'service');
    return { certificate: await this.certificates.renew(peer, request, addressOf(call.getPeer())) };
  }
}
