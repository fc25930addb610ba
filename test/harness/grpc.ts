/** gRPC as an internal service calls it, with certificates of the stack's own PKI. */

import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { fixedCredentials, issueCertificate, loadCredentials } from '#libs/pki';
import { createChannel, type RpcChannel } from '#libs/rpc';
import type { Stack } from './stack.js';

const root = resolve(import.meta.dirname, '..', '..');

export interface CertificateFiles {
  ca: string;
  cert: string;
  key: string;
}

/** A channel with this certificate; the development service's unless given. */
export async function channelOf(stack: Stack, files: CertificateFiles = stack.dev.pki): Promise<RpcChannel> {
  const credentials = fixedCredentials(await loadCredentials(files));
  return createChannel({ target: stack.dev.grpc, credentials, timeoutMs: 15_000 });
}

/** A new certificate of the stack's CA, in a folder of its own. */
export function issue(stack: Stack, type: 'service' | 'node', name: string): Promise<CertificateFiles> {
  return issueCertificate({ dir: join(stack.data, 'pki'), out: join(stack.data, 'issued'), type, name, force: true });
}

type Callback<Response> = (error: grpc.ServiceError | null, response: Response) => void;

/** One unary call as a promise. Rejects with the StatusError. */
export function call<Response>(method: (callback: Callback<Response>) => unknown): Promise<Response> {
  return new Promise((done, fail) => method((error, response) => (error ? fail(error) : done(response))));
}

/** One call by its bare name and bytes, for protocols that are not ours. Gives the bytes of the first answer. */
export function rawCall(
  stack: Stack,
  credentials: grpc.ChannelCredentials,
  path: string,
  request: Buffer,
): Promise<Buffer> {
  const client = new grpc.Client(stack.dev.grpc, credentials);
  const asIs = (bytes: Buffer) => bytes;
  return new Promise<Buffer>((done, fail) => {
    const stream = client.makeBidiStreamRequest(path, asIs, asIs, { deadline: Date.now() + 10_000 });
    stream.on('data', done);
    stream.on('error', fail);
    stream.write(request);
    stream.end();
  }).finally(() => client.close());
}

export interface Ended {
  status: number;
  stdout: string;
  stderr: string;
}

/** Runs one of the built programs to its end, as an operator would. */
export function runProgram(program: 'cli' | 'api' | 'grpc', args: string[], timeoutMs = 30_000): Promise<Ended> {
  const main = join(root, 'dist', 'apps', program, 'main.js');
  return new Promise((done) => {
    execFile(process.execPath, [main, ...args], { timeout: timeoutMs, cwd: root }, (error, stdout, stderr) => {
      done({ status: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr });
    });
  });
}

/** The admin command on the stack's database. Throws where it fails. */
export async function rhyzome(stack: Stack, ...args: string[]): Promise<any> {
  const { status, stdout, stderr } = await runProgram('cli', ['--config', stack.dev.config, ...args, '--json']);
  if (status !== 0) throw new Error(`rhyzome ${args.join(' ')}: status ${status}: ${stderr}`);
  return JSON.parse(stdout);
}
