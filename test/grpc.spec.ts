/** gRPC under mutual TLS: what an internal service can do, what others cannot, and servers that have no good certificate. */

import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { initPki, issueCertificate } from '#libs/pki';
import {
  type ActResponse,
  type CreateResponse,
  type DeleteResponse,
  type GetJobResponse,
  type GetResponse,
  JobServiceClient,
  type ListResponse,
  NodeServiceClient,
  ResourceServiceClient,
  type RpcChannel,
  type UpdateResponse,
  type WatchResponse,
} from '#libs/rpc';
import { apiOf } from './harness/client.js';
import { type CertificateFiles, call, channelOf, issue, rawCall, rhyzome, runProgram } from './harness/grpc.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const { status } = grpc;
const absent = '0193f9a0-0000-7000-8000-000000000000';
let stack: Stack;
const channels: RpcChannel[] = [];

beforeAll(async () => {
  stack = await sharedStack('sim');
}, 120_000);
afterAll(() => {
  for (const channel of channels) channel.close();
});

async function clients(files?: CertificateFiles) {
  const channel = await channelOf(stack, files);
  channels.push(channel);
  const resources = channel.client(ResourceServiceClient);
  const jobs = channel.client(JobServiceClient);
  const plain = { idempotencyKey: '', dryRun: false };
  const all = { pageSize: 0, pageToken: '', tagSelector: '', filters: {}, sort: '', count: false };
  const get = (kind: string, id: string) =>
    call<GetResponse>((done) => resources.get({ tenantId: 'acme', kind, id }, done));
  const list = (kind: string, tenantId = 'acme', more = {}) =>
    call<ListResponse>((done) => resources.list({ tenantId, kind, ...all, ...more }, done));
  const create = (kind: string, body: object, more = {}) =>
    call<CreateResponse>((done) => resources.create({ tenantId: 'acme', kind, body, ...plain, ...more }, done));
  const update = (kind: string, id: string, patch: object, ifMatch = '') =>
    call<UpdateResponse>((done) => resources.update({ tenantId: 'acme', kind, id, patch, ifMatch, ...plain }, done));
  const remove = (kind: string, id: string, cascade = false) =>
    call<DeleteResponse>((done) =>
      resources.delete({ tenantId: 'acme', kind, id, ifMatch: '', ...plain, cascade }, done),
    );
  const act = (kind: string, id: string, action: string, body: object = {}) =>
    call<ActResponse>((done) =>
      resources.act({ tenantId: 'acme', kind, id, action, body, ifMatch: '', ...plain }, done),
    );
  const job = (id: string) => call<GetJobResponse>((done) => jobs.getJob({ tenantId: 'acme', id }, done));
  const ended = (id: string) =>
    until(`job ${id}`, async () => {
      const found = (await job(id)).job!;
      return ['succeeded', 'failed', 'cancelled'].includes(found.state) && found;
    });
  return { channel, resources, jobs, get, list, create, update, remove, act, job, ended };
}

const refused = (promise: Promise<unknown>, code: number) => expect(promise).rejects.toMatchObject({ code });

describe('an internal service', () => {
  it('makes, reads, changes, lists, watches and removes what a user sees', async () => {
    const service = await clients();
    const watched: WatchResponse[] = [];
    const watch = service.resources.watch({ tenantId: 'acme', since: '', kind: 'network', tagSelector: '' }, {
      deadline: Number.POSITIVE_INFINITY,
    } as never);
    watch.on('data', (event: WatchResponse) => watched.push(event));
    watch.on('error', () => undefined);

    const key = { idempotencyKey: `grpc-${Date.now()}` };
    const body = { name: 'rpc', subnet: '10.80.0.0/24', tags: { by: 'service' } };
    const made = await service.create('network', body, key);
    expect(made.resource).toMatchObject({ kind: 'network', name: 'rpc', tenantId: 'acme' });
    expect((await service.create('network', body, key)).resource?.id).toBe(made.resource?.id);
    expect(await service.ended(made.job!.id)).toMatchObject({ state: 'succeeded' });

    const found = await service.get('network', 'rpc');
    const seen = await (await apiOf(stack)).get('/v1/networks/rpc');
    expect(found.resource?.body).toEqual(seen.body);
    expect(found.resource?.etag).toBe(seen.headers.get('etag'));
    await refused(service.update('network', 'rpc', { tags: {} }, '"0"'), status.FAILED_PRECONDITION);
    const patched = await service.update('network', 'rpc', { tags: { more: 'yes' } }, found.resource!.etag);
    await service.ended(patched.job!.id);
    expect((await service.list('network', 'acme', { tagSelector: 'more=yes' })).items).toMatchObject([{ name: 'rpc' }]);
    expect((await service.list('network', 'globex', { tagSelector: 'more=yes' })).items).toEqual([]);
    const removed = await service.remove('network', 'rpc');
    expect(await service.ended(removed.job!.id)).toMatchObject({ state: 'succeeded' });
    await refused(service.get('network', 'rpc'), status.NOT_FOUND);
    await until('the watch’s end', () => watched.some(({ type }) => type === 'resource.deleted'));
    const cursors = watched.map(({ cursor }) => Number(cursor));
    expect(cursors).toEqual([...new Set(cursors)].sort((a, b) => a - b));
    watch.cancel();
  });

  it('counts, sorts, acts, and removes with all that depends on it', async () => {
    const service = await clients();
    const made = async (kind: string, body: object) => {
      const { job } = await service.create(kind, body);
      expect(await service.ended(job!.id)).toMatchObject({ state: 'succeeded' });
    };
    await made('network', { name: 'rpc-lan', subnet: '10.81.0.0/24' });
    for (const name of ['rpc-b', 'rpc-a']) {
      const machine = { image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'rpc-lan' }] };
      await made('instance', { name, ...machine, tags: { of: 'rpc' } });
    }
    const page = await service.list('instance', 'acme', {
      tagSelector: 'of=rpc',
      sort: 'name',
      count: true,
      pageSize: 1,
    });
    expect(page).toMatchObject({ totalCount: 2n, items: [{ name: 'rpc-a' }] });
    const stopped = await service.act('instance', 'rpc-a', 'stop');
    expect(await service.ended(stopped.job!.id)).toMatchObject({ state: 'succeeded' });
    const resized = await service.act('instance', 'rpc-a', 'resize', { vcpus: 2 });
    expect(resized.resource?.body).toMatchObject({ vcpus: 2 });
    await service.ended(resized.job!.id);
    await refused(service.act('instance', 'rpc-a', 'reboot'), status.FAILED_PRECONDITION);
    await refused(service.act('instance', 'rpc-a', 'fly'), status.NOT_FOUND);
    await refused(service.remove('network', 'rpc-lan'), status.FAILED_PRECONDITION);
    const removed = await service.remove('network', 'rpc-lan', true);
    expect(await service.ended(removed.job!.id)).toMatchObject({ state: 'succeeded' });
    expect((await service.list('instance', 'acme', { tagSelector: 'of=rpc' })).items).toEqual([]);
  }, 90_000);

  it('is refused what is wrong, with the code of its kind', async () => {
    const service = await clients();
    await refused(service.create('network', { name: 'UPPER' }), status.INVALID_ARGUMENT);
    await refused(
      service.create('network', { name: 'x', subnet: '10.80.0.0/24' }, { tenantId: 'nobody' }),
      status.NOT_FOUND,
    );
    await refused(service.create('network', { name: 'x', subnet: '10.80.0.0/24' }, { tenantId: '' }), status.NOT_FOUND);
    await refused(service.get('network', absent), status.NOT_FOUND);
    await refused(service.get('unicorn', absent), status.INVALID_ARGUMENT);
    await refused(service.get('network', ''), status.NOT_FOUND);
    await refused(service.job(absent), status.NOT_FOUND);
    await refused(service.job('x'), status.NOT_FOUND);
    await refused(service.list('network', 'acme', { pageToken: 'x' }), status.INVALID_ARGUMENT);
    await refused(service.list('network', 'acme', { filters: { foo: 'x' } }), status.INVALID_ARGUMENT);
    await refused(
      service.create('network', { name: 'x', subnet: '10.80.0.0/24' }, { idempotencyKey: 'a b' }),
      status.INVALID_ARGUMENT,
    );
    expect((await service.list('network', 'acme', { filters: { name: 'x' } })).items).toEqual([]);
  });
});

describe('a certificate', () => {
  it('of a service that is not registered may do nothing, and of one that is, what it may', async () => {
    const files = await issue(stack, 'service', 'narrow');
    const service = await clients(files);
    await refused(service.list('network'), status.PERMISSION_DENIED);
    await rhyzome(stack, 'service', 'create', 'narrow', '--tenants', 'acme', '--verbs', 'network:read');
    try {
      expect((await service.list('network')).items).toBeInstanceOf(Array);
      await refused(service.list('network', 'globex'), status.PERMISSION_DENIED);
      await refused(service.list('instance'), status.PERMISSION_DENIED);
      await refused(service.create('network', { name: 'x', subnet: '10.80.0.0/24' }), status.PERMISSION_DENIED);
    } finally {
      await rhyzome(stack, 'service', 'remove', 'narrow');
    }
    await refused(service.list('network'), status.PERMISSION_DENIED);
  });

  it('of a node is no service’s, and the other way round', async () => {
    const node = await clients(await issue(stack, 'node', 'node9'));
    await refused(node.list('network'), status.PERMISSION_DENIED);
    await refused(node.job(absent), status.PERMISSION_DENIED);
    const service = await clients();
    const stream = service.channel.client(NodeServiceClient).connect();
    const error = await new Promise<grpc.ServiceError>((done) => {
      stream.on('error', done);
      stream.on('data', () => undefined);
    });
    expect(error.code).toBe(status.PERMISSION_DENIED);
    expect((await rhyzome(stack, 'node', 'list')).map(({ name }: { name: string }) => name)).toEqual(['node1']);
  });

  it('of another CA, or none at all, is not let in', async () => {
    const dir = join(stack.data, 'other-ca');
    await initPki({ dir });
    const foreign = await issueCertificate({ dir, type: 'service', name: 'dev', force: true });
    const trusted = readFileSync(stack.dev.pki.ca);
    const health = '/grpc.health.v1.Health/Check';
    const with_ = (cert?: CertificateFiles) =>
      cert
        ? grpc.credentials.createSsl(trusted, readFileSync(cert.key), readFileSync(cert.cert))
        : grpc.credentials.createSsl(trusted);
    for (const credentials of [with_(foreign), with_(), grpc.credentials.createInsecure()])
      await refused(rawCall(stack, credentials, health, Buffer.alloc(0)), status.UNAVAILABLE);
    // HealthCheckResponse{status: SERVING}
    expect([...(await rawCall(stack, with_(stack.dev.pki), health, Buffer.alloc(0)))]).toEqual([8, 1]);
    const reflection = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
    // ServerReflectionRequest{list_services: "*"}
    const listed = (await rawCall(stack, with_(stack.dev.pki), reflection, Buffer.from([0x3a, 1, 0x2a]))).toString(
      'latin1',
    );
    for (const name of ['ResourceService', 'JobService', 'NodeService']) expect(listed).toContain(`rhyzome.v1.${name}`);
  });
});

describe.each(['api', 'grpc'] as const)('rhyzome-%s', (program) => {
  /** A configuration whose pki is what `spoil` makes of good files; gives the file that is at fault. */
  async function spoiled(name: string, spoil: (files: CertificateFiles, dir: string) => Promise<string> | string) {
    const dir = join(stack.data, 'spoiled', program, name);
    mkdirSync(dir, { recursive: true });
    const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
    const files = { ca: join(dir, 'ca.pem'), cert: join(dir, 'cert.pem'), key: join(dir, 'key.pem') };
    for (const part of ['ca', 'cert', 'key'] as const) copyFileSync(settings.pki[part], files[part]);
    const fault = await spoil(files, dir);
    const config = join(dir, 'rhyzome-api.json');
    writeFileSync(config, JSON.stringify({ ...settings, pki: files }), { mode: 0o600 });
    return { config, fault };
  }

  const serverCertificate = (days: number, dir: string) =>
    issueCertificate({
      dir: join(stack.data, 'pki'),
      out: dir,
      type: 'server',
      name: 'spoiled',
      dns: ['localhost'],
      days,
      force: true,
    });

  it.each<[string, (files: CertificateFiles, dir: string) => Promise<string> | string]>([
    ['is missing', ({ key }) => `${key}.nowhere`],
    [
      'is no certificate',
      ({ cert }) => {
        writeFileSync(cert, 'nonsense');
        return cert;
      },
    ],
    [
      'is another’s key',
      async ({ key }, dir) => {
        copyFileSync((await serverCertificate(30, dir)).key, key);
        return key;
      },
    ],
    [
      'has expired',
      async ({ cert, key }, dir) => {
        const issued = await serverCertificate(-0.002, dir);
        copyFileSync(issued.cert, cert);
        copyFileSync(issued.key, key);
        return cert;
      },
    ],
    [
      'may be read by others',
      ({ key }) => {
        chmodSync(key, 0o640);
        return key;
      },
    ],
  ])('does not serve when a file of its PKI %s, and says which', async (name, spoil) => {
    const { config, fault } = await spoiled(name.replaceAll(/\W/g, '-'), spoil);
    if (fault.endsWith('.nowhere')) {
      const settings = JSON.parse(readFileSync(config, 'utf8'));
      settings.pki.key = fault;
      writeFileSync(config, JSON.stringify(settings));
    }
    const ended = await runProgram(program, ['--config', config]);
    expect({ status: ended.status, says: ended.stderr }).toMatchObject({
      status: 78,
      says: expect.stringContaining(fault),
    });
    expect(ended.stderr).toContain(`rhyzome-${program}`);
    expect(ended.stderr).not.toContain('PRIVATE KEY');
  });
});
