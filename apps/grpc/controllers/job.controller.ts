/** Jobs for internal services. */

import type * as grpc from '@grpc/grpc-js';
import { Controller, Inject } from '@nestjs/common';
import { GrpcMethod } from '@nestjs/microservices';
import { JobService, type JobView } from '#libs/resources';
import type {
  CancelJobRequest,
  CancelJobResponse,
  GetJobRequest,
  GetJobResponse,
  Job,
  ListJobsRequest,
  ListJobsResponse,
  RetryJobRequest,
  RetryJobResponse,
} from '#libs/rpc';
import { ServiceCallers } from '../service-callers.js';

type Unary<Request> = grpc.ServerUnaryCall<Request, unknown>;

@Controller()
export class JobServiceController {
  constructor(
    @Inject(ServiceCallers) private readonly callers: ServiceCallers,
    @Inject(JobService) private readonly jobs: JobService,
  ) {}

  @GrpcMethod('JobService', 'getJob')
  async getJob(request: GetJobRequest, _: grpc.Metadata, call: Unary<GetJobRequest>): Promise<GetJobResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const read = () => this.jobs.get(caller, request.id);
    return { job: message(await this.callers.reading(caller, 'job', request.id, read)) };
  }

  @GrpcMethod('JobService', 'listJobs')
  async listJobs(request: ListJobsRequest, _: grpc.Metadata, call: Unary<ListJobsRequest>): Promise<ListJobsResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    const page = await this.jobs.list(caller, {
      ...(request.pageSize > 0 && { pageSize: String(request.pageSize) }),
      ...(request.pageToken !== '' && { pageToken: request.pageToken }),
      ...(request.state !== '' && { state: request.state }),
    });
    return { items: page.items.map(message), nextPageToken: page.nextPageToken ?? '' };
  }

  @GrpcMethod('JobService', 'cancelJob')
  async cancelJob(
    request: CancelJobRequest,
    _: grpc.Metadata,
    call: Unary<CancelJobRequest>,
  ): Promise<CancelJobResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    return { job: message((await this.jobs.cancel(caller, request.id)).body) };
  }

  @GrpcMethod('JobService', 'retryJob')
  async retryJob(request: RetryJobRequest, _: grpc.Metadata, call: Unary<RetryJobRequest>): Promise<RetryJobResponse> {
    const caller = await this.callers.callerOf(call, request.tenantId);
    return { job: message((await this.jobs.retry(caller, request.id)).body) };
  }
}

function message(body: JobView): Job {
  return { id: body.id, state: body.state, body };
}
