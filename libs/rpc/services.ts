/**
 * The services of the protocol as grpc-js wants them (bigint, numeric enums, `$case` unions: exactly the generated
 * types), and their descriptors for reflection.
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type * as grpc from '@grpc/grpc-js';
import { loadFileDescriptorSetFromBuffer } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { CertificateServiceService } from './generated/rhyzome/v1/certificate.js';
import { NodeServiceService } from './generated/rhyzome/v1/node.js';
import { RelayServiceService } from './generated/rhyzome/v1/relay.js';
import { JobServiceService, ResourceServiceService } from './generated/rhyzome/v1/resource.js';

/** Full name → definition. Enrolment is not among them: it has a listener of its own. */
export const services = {
  'rhyzome.v1.NodeService': NodeServiceService,
  'rhyzome.v1.RelayService': RelayServiceService,
  'rhyzome.v1.ResourceService': ResourceServiceService,
  'rhyzome.v1.JobService': JobServiceService,
  'rhyzome.v1.CertificateService': CertificateServiceService,
} as const;

export type ServiceName = keyof typeof services;

/** Adds server reflection (v1 and v1alpha) for all services of the protocol. */
export function addReflection(server: Pick<grpc.Server, 'addService'>): void {
  const definition = loadFileDescriptorSetFromBuffer(readFileSync(descriptorFile()));
  new ReflectionService(definition, { services: Object.keys(services) }).addToServer(server);
}

/** Beside this file in the sources; the build copies no binary files, so dist/ looks back to them. */
function descriptorFile(): string {
  const candidates = ['./generated/rhyzome.binpb', '../../../libs/rpc/generated/rhyzome.binpb'].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  const found = candidates.find((file) => existsSync(file));
  if (!found)
    throw new Error(`The descriptors of the protocol are missing: none of ${candidates.join(', ')} is there.`);
  return found;
}
