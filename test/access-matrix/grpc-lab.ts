/**
 * gRPC for the matrix: a replica in this process on the lab's database, and callers with certificates of all sorts. Its
 * methods are those of the services that it has loaded.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import type { INestMicroservice } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { RevocationList, revokeHolder } from '#libs/certificates';
import { newId } from '#libs/core';
import { Database } from '#libs/db';
import { NodeHub } from '#libs/nodes';
import {
  CertificateIssuer,
  fixedCredentials,
  type IssuedFiles,
  initPki,
  issueCertificate,
  loadCredentials,
} from '#libs/pki';
import { problemOf, services } from '#libs/rpc';
import { type NestGrpc, nestGrpcOptions } from '#libs/rpc/nest';
import { createService, removeService } from '#libs/tenants';
import { Certificates } from '../../apps/grpc/certificates.js';
import { GrpcModule } from '../../apps/grpc/grpc.module.js';
import { ATTACKER, type Lab, VICTIM } from './lab.js';

type Definition = grpc.MethodDefinition<any, any>;

export interface Method {
  /** `/rhyzome.v1.ResourceService/Get`. */
  name: string;
  service: string;
  definition: Definition;
}

/** What every server has beside its own services; without messages of ours. */
const standard = ['/grpc.health.v1.Health/Check', '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo'];

export interface Answer {
  /** `PERMISSION_DENIED forbidden`; `OK` for what was let in, `OK, empty` where it was told nothing. */
  text: string;
  /** All that the caller can see. */
  face: object;
  statements: string[];
}

interface Outcome {
  error: grpc.ServiceError | undefined;
  /** All that came. */
  messages: any[];
}

const OPEN_MS = 1_000;
const DEADLINE_MS = 10_000;

export class GrpcLab {
  readonly methods: Method[] = Object.entries(services).flatMap(([service, methods]) =>
    Object.values(methods as Record<string, Definition>).map((definition) => ({
      name: definition.path,
      service: service.split('.').at(-1)!,
      definition,
    })),
  );
  readonly standard: Method[] = standard.map((name) => ({ name, service: '', definition: rawDefinition(name) }));
  private readonly clients = new Map<string, grpc.Client>();

  private constructor(
    private readonly dir: string,
    private readonly app: INestMicroservice,
    private readonly nest: NestGrpc,
    private readonly hub: NodeHub,
    private readonly revocations: RevocationList,
    private readonly db: Database,
    private readonly target: string,
    readonly statements: string[],
  ) {}

  static async open(lab: Lab): Promise<GrpcLab> {
    const dir = mkdtempSync(join(tmpdir(), 'matrix-'));
    await initPki({ dir });
    const server = await issueCertificate({ dir, type: 'server', name: 's', dns: ['localhost'] });
    const target = `unix:${join(dir, 'rpc.sock')}`;
    const credentials = fixedCredentials(await loadCredentials(server));
    const statements: string[] = [];
    const { platform } = lab;
    const db = new Database({ app: platform.connection, onQuery: (text) => statements.push(text) });
    const log = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };
    const { listener, registry } = platform;
    const hub = new NodeHub(db, listener, registry, { installationId: newId(), advertise: 'localhost:1', log });
    const revocations = new RevocationList(platform.db, log, 3_600_000);
    await platform.db.operatorTransaction((tx) =>
      revokeHolder(tx, { kind: 'service', name: 'revoked' }, { by: 'admin:lab' }),
    );
    await revocations.follow(listener, () => undefined);
    const nest = nestGrpcOptions({ listen: [target], credentials, refuse: (peer) => revocations.refusalOf(peer) });
    const { trustDomain } = credentials.current.identity;
    const own = { cert: server.ca, key: join(dir, 'ca-key.pem'), ca: server.ca, trustDomain, validityMs: 60_000 };
    const certificates = new Certificates(db, await CertificateIssuer.open(own));
    const draining = new AbortController().signal;
    const tokenKey = Buffer.alloc(32, 1);
    const module = GrpcModule.with({ db, listener, registry, hub, content: null, certificates, tokenKey, draining });
    const app = await NestFactory.createMicroservice(module, { ...nest.options, logger: false });
    await app.listen();
    await nest.serving;
    const made = new GrpcLab(dir, app, nest, hub, revocations, db, target, statements);
    await made.admit(lab, server);
    return made;
  }

  /** Callers by name; services with what they may. */
  private async admit({ platform }: Lab, server: IssuedFiles): Promise<void> {
    const { dir } = this;
    const other = join(dir, 'other');
    await initPki({ dir: other });
    const issue = (type: 'service' | 'node', name: string, days?: number, from = dir) =>
      issueCertificate({ dir: from, type, name, ...(days !== undefined && { days }) });
    this.come('plaintext', grpc.credentials.createInsecure());
    this.come('no certificate', grpc.credentials.createSsl(readFileSync(server.ca)));
    this.comeWith('foreign CA', { ...(await issue('service', 'whole', undefined, other)), ca: server.ca });
    this.comeWith('expired', await issue('service', 'old', -0.002));
    this.comeWith('server', server);
    this.comeWith('node', await issue('node', 'node-9'));
    for (const name of ['unregistered', 'removed', 'elsewhere', 'verbless', 'whole', 'revoked'])
      this.comeWith(name, await issue('service', name));
    await platform.db.operatorTransaction(async (tx) => {
      const all = ['*:*'];
      await createService(tx, { name: 'elsewhere', tenants: [ATTACKER], verbs: all });
      await createService(tx, { name: 'verbless', tenants: [VICTIM], verbs: ['unicorn:read'] });
      await createService(tx, { name: 'whole', tenants: ['*'], verbs: all });
      await createService(tx, { name: 'removed', tenants: ['*'], verbs: all });
      await removeService(tx, 'removed');
    });
  }

  private comeWith(name: string, { ca, cert, key }: IssuedFiles): void {
    this.come(name, grpc.credentials.createSsl(readFileSync(ca), readFileSync(key), readFileSync(cert)));
  }

  private come(name: string, credentials: grpc.ChannelCredentials): void {
    const options = { 'grpc.ssl_target_name_override': 'localhost', 'grpc.default_authority': 'localhost' };
    this.clients.set(name, new grpc.Client(this.target, credentials, options));
  }

  /** One message, and what comes of it. `fields`: laid over an empty request, as far as it has them. */
  async call(caller: string, { definition }: Method, fields: Record<string, unknown>): Promise<Answer> {
    const empty = definition.requestDeserialize(Buffer.alloc(0));
    const known = Object.entries(fields).filter(([name]) => Object.hasOwn(empty, name));
    this.statements.length = 0;
    const { error, messages } = await this.send(caller, definition, { ...empty, ...Object.fromEntries(known) });
    const isEmpty = messages.every(({ items }) => items?.length === 0);
    const problem = problemOf(error);
    const text = error ? [grpc.status[error.code], problem?.code ?? ''].join(' ').trim() : isEmpty ? 'OK, empty' : 'OK';
    const { cause: _raw, ...told } = problem?.details ?? {};
    const face = { text, details: error?.details, problem: { ...told, message: problem?.message } };
    return { text, face, statements: [...this.statements] };
  }

  private send(caller: string, definition: Definition, request: object): Promise<Outcome> {
    const client = this.clients.get(caller)!;
    const { path, requestSerialize, responseDeserialize, requestStream, responseStream } = definition;
    const options = { deadline: Date.now() + DEADLINE_MS };
    return new Promise((done) => {
      const messages: any[] = [];
      const finish = (error: grpc.ServiceError | null | undefined, message?: unknown) => {
        if (message) messages.push(message);
        done({ error: error ?? undefined, messages });
      };
      const follow = (stream: grpc.ClientReadableStream<any>) => {
        // Open, whether or not anything comes.
        const timer = setTimeout(() => {
          finish(undefined);
          stream.cancel();
        }, OPEN_MS);
        stream.on('data', (message) => messages.push(message));
        stream.on('error', (error: grpc.ServiceError) => {
          clearTimeout(timer);
          finish(error.code === grpc.status.CANCELLED ? undefined : error);
        });
        stream.on('end', () => finish(undefined));
      };
      if (requestStream && responseStream) {
        const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, options);
        follow(stream);
        stream.write(request);
      } else if (responseStream) {
        follow(client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, options));
      } else if (requestStream) {
        client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, options, finish).end(request);
      } else client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, options, finish);
    });
  }

  async close(): Promise<void> {
    for (const client of this.clients.values()) client.close();
    this.hub.close();
    await this.revocations.close();
    await this.nest.drain(200);
    await this.app.close();
    await this.db.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function rawDefinition(path: string): Definition {
  const asIs = (bytes: Buffer) => bytes;
  const empty = () => ({});
  const none = () => Buffer.alloc(0);
  const isStream = path.endsWith('Info');
  const codecs = {
    requestDeserialize: empty,
    responseSerialize: asIs,
    responseDeserialize: asIs,
    requestSerialize: none,
  };
  return { path, requestStream: isStream, responseStream: isStream, ...codecs } as Definition;
}
