/** A replica whose certificate is revoked is let go of, over real TLS: with what stands on it, and for what comes. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type CredentialsSource,
  initPki,
  issueCertificate,
  refusingBy,
  revokedError,
  watchCredentials,
} from '#libs/pki';
import { type RelayServiceClient, type RelayServiceServer, RelayServiceService, serverCredentials } from '#libs/rpc';
import { ReplicaChannels } from './replica-channels.js';

const closing: (() => unknown)[] = [];
let dir: string;

const credentialsOf = async (name: string): Promise<CredentialsSource> => {
  const issued = await issueCertificate({ dir, type: 'server', name, dns: ['localhost'] });
  const source = await watchCredentials(issued);
  closing.push(() => source.close());
  return source;
};
const serialOf = ({ current }: CredentialsSource) => new X509Certificate(current.cert).serialNumber;

/** A replica that says something to whoever opens a console, and keeps it open. */
async function serve(credentials: CredentialsSource): Promise<string> {
  const server = new grpc.Server();
  const implementation: RelayServiceServer = {
    console: (call) => call.write({ data: Buffer.from('hello') }),
    consoleLog: (call) => call.end(),
  };
  server.addService(RelayServiceService, implementation);
  const bind = (done: (error: Error | null, port: number) => void) =>
    server.bindAsync('localhost:0', serverCredentials(credentials), done);
  const port = await new Promise<number>((resolve, reject) =>
    bind((error, at) => (error ? reject(error) : resolve(at))),
  );
  closing.push(() => server.forceShutdown());
  return `localhost:${port}`;
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rz-replicas-'));
  await initPki({ dir });
});
afterAll(async () => {
  for (const close of closing.reverse()) await close();
  await rm(dir, { recursive: true });
});

test('calls on a revoked server end at once, new ones find it refused, and others go on', async () => {
  const [fallen, sound] = [await credentialsOf('fallen'), await credentialsOf('sound')];
  const [there, elsewhere] = [await serve(fallen), await serve(sound)];
  const revoked = new Set<string>();
  const watchers = new Set<() => void>();
  const credentials = refusingBy(await credentialsOf('api'), {
    refusalOf: (shown) => (revoked.has(shown.serial) ? revokedError(shown) : undefined),
    watchRefusals: (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  });
  const channels = new ReplicaChannels(credentials);
  const open = (replica: string) =>
    channels.call(replica, (client: RelayServiceClient) => {
      const call = client.console(new grpc.Metadata(), { deadline: Date.now() + 60_000 });
      return call.on('error', () => undefined);
    });
  const [stands, stays] = [open(there), open(elsewhere)];
  for (const call of [stands, stays]) expect(String((await once(call, 'data'))[0].data)).toBe('hello');
  const statusOf = (call: ReturnType<typeof open>) =>
    new Promise<grpc.StatusObject>((resolve) => call.once('status', resolve));
  const ended = statusOf(stands);
  revoked.add(serialOf(fallen));
  for (const watcher of watchers) watcher();
  expect(await ended).toMatchObject({ code: grpc.status.CANCELLED });
  expect(await statusOf(open(there))).toMatchObject({
    code: grpc.status.UNAVAILABLE,
    details: expect.stringContaining('was revoked'),
  });
  const again = open(elsewhere);
  expect(String((await once(again, 'data'))[0].data)).toBe('hello');
  stays.cancel();
  again.cancel();
  channels.close();
  expect(watchers.size).toBe(0);
}, 60_000);
