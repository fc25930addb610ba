/**
 * An agent with the sim driver beside a controller, for the specs of this library: started anew in each test, stopped
 * after it. Call `useAgent` once in a file.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import type { DiskSpec, DriverLog, InstanceSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { createSimDriver, type SimDriver, type SimFault } from '#libs/drivers/sim';
import { type AgentOptions, startAgent } from '../agent.js';
import { FakeController, makeTestPki, type TestPki } from './index.js';

/** What the controller serves as an image from the start. */
export const image = randomBytes(5500);

export function sha256Of(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

const lease = { ip: '10.0.0.5', mac: '02:00:00:00:00:05', hostname: 'web', ip6: null };

export function network(leases = [lease]): [Ref, NetworkSpec] {
  const spec: NetworkSpec = {
    subnet: '10.0.0.0/24',
    gateway: '10.0.0.1',
    subnet6: null,
    gateway6: null,
    gatewayMac: '02:00:00:00:00:01',
    dns: [],
    domain: null,
    mtu: 1450,
    leases,
    publicAddresses: [],
    forwards: [],
    firewall: [],
    wireguard: null,
  };
  return [{ tenantId: 'acme', kind: 'network', id: randomUUID() }, spec];
}

export function disk(content = image): [Ref, DiskSpec] {
  const spec: DiskSpec = {
    sizeBytes: 1 << 20,
    image: { sha256: sha256Of(content), format: 'qcow2', sizeBytes: content.length, virtualSizeBytes: 1 << 20 },
    snapshot: null,
  };
  return [{ tenantId: 'acme', kind: 'disk', id: randomUUID() }, spec];
}

export function instance(networkRef: Ref, diskRef?: Ref, name = 'web'): [Ref, InstanceSpec] {
  const spec: InstanceSpec = {
    name,
    vcpus: 1,
    memoryMiB: 64,
    disks: diskRef ? [{ diskId: diskRef.id, slot: 0, bootOrder: 1 }] : [],
    interfaces: [{ networkId: networkRef.id, mac: lease.mac, ip: lease.ip, ip6: null }],
    powerState: 'running',
    restartPolicy: 'stay',
    guest: { hostname: name, tags: { role: 'web' }, userData: null, sshKeys: [] },
  };
  return [{ tenantId: 'acme', kind: 'instance', id: randomUUID() }, spec];
}

export class AgentFixture {
  pki!: TestPki;
  controller!: FakeController;
  stateDir!: string;
  readonly opened: (() => Promise<unknown>)[] = [];

  /** A new controller, a new machine, a new agent on it. */
  async setUp(overrides: Partial<AgentOptions> = {}) {
    this.controller = await FakeController.start(this.pki);
    this.opened.push(() => this.controller.stop());
    this.controller.images.set(sha256Of(image), image);
    this.stateDir = await mkdtemp(join(this.pki.dir, 'state-'));
    return this.start(overrides);
  }

  /** An agent on the machine that is there. */
  async start(overrides: Partial<AgentOptions> = {}) {
    const errors: string[] = [];
    const quiet = () => {};
    const error: DriverLog['error'] = (fields, message) => errors.push(`${message} ${JSON.stringify(fields)}`);
    let driver: SimDriver | undefined;
    const agent = await startAgent({
      controller: this.controller.address,
      stateDir: this.stateDir,
      labels: { rack: '7' },
      version: '0.0.0',
      credentials: this.pki.node,
      createDriver: async (ctx) => {
        driver = await createSimDriver(ctx);
        return driver;
      },
      log: { debug: quiet, info: quiet, warn: quiet, error },
      timing: {
        retry: { firstMs: 50, mostMs: 200 },
        recheckMs: 200,
        refusedMs: 300,
        reconnect: { firstMs: 20, mostMs: 200 },
      },
      ...overrides,
    });
    let stopped: Promise<void> | undefined;
    const stop = () => {
      stopped ??= agent.stop();
      return stopped;
    };
    this.opened.push(stop);
    return { stop, errors, driver: () => driver! };
  }

  /** Resolves when the agent has said what its machine can do. */
  joined(): Promise<unknown> {
    return this.controller.until('a hello with kinds', () =>
      this.controller.all('hello').some(({ kinds }) => kinds.length > 0),
    );
  }

  async inject(...faults: SimFault[]): Promise<void> {
    await writeFile(join(this.stateDir, 'sim-faults.json'), JSON.stringify(faults));
  }

  /** How often a guest has booted. */
  async boots(ref: Ref): Promise<number> {
    const { instances } = JSON.parse(await readFile(join(this.stateDir, 'sim-state.json'), 'utf8'));
    return new Map<string, { boots: number }>(instances).get(ref.id)?.boots ?? 0;
  }
}

export function useAgent(): AgentFixture {
  const fixture = new AgentFixture();
  beforeAll(async () => {
    fixture.pki = await makeTestPki(await mkdtemp(join(tmpdir(), 'rhyzome-agent-')));
  });
  afterEach(async () => {
    for (const close of fixture.opened.splice(0).reverse()) await close();
  });
  afterAll(async () => {
    fixture.pki.server.close();
    fixture.pki.node.close();
    await rm(fixture.pki.dir, { recursive: true });
  });
  return fixture;
}
