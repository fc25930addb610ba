/** Reads real files in a folder of their own: what counts, what is refused, and that each refusal names its place. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError } from './config-error.js';
import { loadConfig } from './load-config.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-config-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const whole = {
  db: 'dbname=rhyzome host=/var/run/postgresql sslmode=disable',
  pki: { ca: 'pki/ca.pem', cert: '/etc/cert.pem', key: 'key.pem' },
  agent: { controller: 'controller.example:7443', stateDir: 'state', driver: 'sim' },
};

function write(content: unknown): void {
  writeFileSync(join(folder, 'rhyzome-api.json'), typeof content === 'string' ? content : JSON.stringify(content));
}

function problems(content: unknown, needs: Parameters<typeof loadConfig>[0] = []): string[] {
  write(content);
  try {
    loadConfig(needs, { folder });
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error.exitCode).toBe(78);
    expect(error.message).toContain(join(folder, 'rhyzome-api.json'));
    return error.problems.map((p) => `${p.pointer} ${p.message}`);
  }
}

describe('loadConfig', () => {
  it('fills in defaults and resolves paths against the folder of the file', () => {
    write(whole);
    const config = loadConfig(['db', 'pki', 'api', 'grpc', 'agent'], { folder });
    expect(config.pki).toEqual({ ca: join(folder, 'pki/ca.pem'), cert: '/etc/cert.pem', key: join(folder, 'key.pem') });
    expect(config.api).toEqual({
      listen: '127.0.0.1:8080',
      monitoring: '127.0.0.1:8081',
      trustedProxies: [],
      audience: 'urn:rhyzome:api',
      rateLimit: expect.objectContaining({ tenantPerSecond: 500, userPerSecond: 300 }),
    });
    expect(config.grpc.listen).toEqual(['127.0.0.1:7443']);
    expect(config.agent).toMatchObject({ stateDir: join(folder, 'state'), labels: {} });
    expect(config.log.level).toBe('info');
  });

  it('takes a Unix socket where gRPC listens and is dialled', () => {
    write({
      grpc: { listen: ['127.0.0.1:0', 'unix:run/grpc.sock'] },
      agent: { ...whole.agent, controller: 'unix:/x' },
    });
    const config = loadConfig(['grpc', 'agent'], { folder });
    expect(config.grpc.listen).toEqual(['127.0.0.1:0', `unix:${join(folder, 'run/grpc.sock')}`]);
    expect(config.agent.controller).toEqual(['unix:/x']);
    expect(problems({ grpc: { listen: [`unix:${'x'.repeat(108)}`] } })).toHaveLength(1);
  });

  it('takes one controller or several', () => {
    const several = ['one.example:7443', 'two.example:7443'];
    write({ agent: { ...whole.agent, controller: several } });
    expect(loadConfig(['agent'], { folder }).agent.controller).toEqual(several);
    expect(problems({ agent: { ...whole.agent, controller: ['one.example:7443', 'two'] } })).toEqual([
      '/agent/controller/1 must be host:port',
    ]);
    expect(problems({ agent: { ...whole.agent, controller: [] } })).toEqual([
      '/agent/controller must have 1 to 16 entries',
    ]);
  });

  it('takes the example', () => {
    const file = join(import.meta.dirname, '../../rhyzome-api.json.example');
    expect(
      loadConfig(['db', 'dbOperator', 'dbOwner', 'pki', 'api', 'grpc', 'agent', 'storage'], { file }).db,
    ).toBeDefined();
  });

  it('reads the file that the command line names', () => {
    writeFileSync(join(folder, 'other.json'), JSON.stringify({ log: { level: 'debug' } }));
    expect(loadConfig([], { file: join(folder, 'other.json') }).log.level).toBe('debug');
  });

  it.each<[unknown, Parameters<typeof loadConfig>[0], string]>([
    [{ ...whole, dbb: 'x' }, [], '/dbb is not known here'],
    [{ ...whole, 'a/b~': 1 }, [], '/a~1b~0 is not known here'],
    [{ ...whole, pki: { ca: 'x', cert: 'y' } }, [], '/pki/key is missing'],
    [{ ...whole, pki: { ca: 1, cert: 'y', key: 'z' } }, [], '/pki/ca must be a string, not a number'],
    [{ ...whole, api: { listen: '127.0.0.1' } }, [], '/api/listen must be host:port'],
    [{ ...whole, api: { listen: '127.0.0.1:70000' } }, [], '/api/listen must be host:port'],
    [{ ...whole, api: { publicUrl: 'ftp://x' } }, [], '/api/publicUrl must be an http or https URL'],
    [{ ...whole, api: { domain: '10.0.0.1' } }, [], '/api/domain must be a domain, e.g. api.example.org'],
    [{ ...whole, api: { domain: 'api.example:80' } }, [], '/api/domain must be a domain, e.g. api.example.org'],
    [{ ...whole, api: { trustedProxies: ['10.0.0.1'] } }, [], '/api/trustedProxies/0 must be a CIDR'],
    [{ ...whole, grpc: { listen: [] } }, [], '/grpc/listen must have 1 to 16 entries'],
    [{ ...whole, grpc: { listen: ['a:1', null] } }, [], '/grpc/listen/1 must be a string, not null'],
    [{ ...whole, grpc: { workers: 1.5 } }, [], '/grpc/workers must be a whole number'],
    [{ ...whole, grpc: { fence: { afterSeconds: 60 } } }, [], '/grpc/fence/command is missing'],
    [{ ...whole, grpc: { fence: { command: [] } } }, [], '/grpc/fence/command must have 1 to 32 entries'],
    [{ ...whole, agent: { ...whole.agent, driver: 'xen' } }, [], '/agent/driver must be one of sim, libvirt, auto'],
    [{ ...whole, db: 'dbname' }, [], '/db is not a PostgreSQL connection: keyword 1'],
    [{ ...whole, db: '' }, [], '/db must not be empty'],
    [{ pki: whole.pki }, ['db'], '/db is missing'],
    [{ __proto__: null, constructor: {} }, [], '/constructor is not known here'],
    [[], [], ' must be an object, not a list'],
    ['null', [], ' must be an object, not null'],
  ])('refuses %j', (content, needs, expected) => {
    const found = problems(content, needs);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });

  it('tells of everything that is wrong at once', () => {
    expect(problems({ db: 1, api: { listen: '' }, x: 1 })).toHaveLength(3);
  });

  it('says where JSON breaks, and quotes nothing', () => {
    write('{\n  "db": "dbname=x password=hunter2"\n  "pki": {}\n}');
    expect(() => loadConfig([], { folder })).toThrow(/is not JSON \(line 3\)$/);
    write('{"db": "hunter2');
    expect(() => loadConfig([], { folder })).toThrow(/^(?!.*hunter2).*is not JSON/);
  });

  it('says which file is missing or cannot be read', () => {
    expect(() => loadConfig([], { file: join(folder, 'none.json') })).toThrow(/none\.json: there is no such file$/);
    expect(() => loadConfig([], { file: folder })).toThrow(/cannot be read \(EISDIR\)/);
    if (process.getuid?.() === 0) return; // root reads everything
    write(whole);
    chmodSync(join(folder, 'rhyzome-api.json'), 0);
    expect(() => loadConfig([], { folder })).toThrow(/cannot be read \(EACCES\)/);
  });
});
