/** `dev.json`: how tests and tools find a running development stack. There when all of it serves, and only then. */
import { rmSync } from 'node:fs';
import type { CertificateFiles } from './certificates.js';
import { writeWhole } from './data-folder.js';
import type { ProcessName } from './process-record.js';

export interface DevJson {
  /** The supervisor; SIGINT or SIGTERM to it stops all. */
  pid: number;
  /** Base URL. */
  api: string;
  /** host:port. */
  grpc: string;
  /** Base URL. */
  issuer: string;
  /** Connection URL as the login of `db`. A secret. */
  database: string;
  driver: 'sim' | 'libvirt';
  /** What `npx rhyzome --config` takes. */
  config: string;
  /** A client certificate that may call every gRPC service for every tenant. */
  pki: CertificateFiles;
  processes: Partial<Record<ProcessName, number>>;
  tenants: Record<string, { issuer: string; clientId: string; clientSecret: string }>;
}

/** Written aside with mode 0600, then renamed. */
export function publish(file: string, content: DevJson): void {
  writeWhole(file, content);
}

export function withdraw(file: string): void {
  rmSync(file, { force: true });
}
