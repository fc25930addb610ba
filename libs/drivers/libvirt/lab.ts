/**
 * For tests: a host of namespaces with the libvirt driver on it, and guests whose shell is typed at over their serial
 * line. Not exported by this library's door.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Capability,
  type ConsoleLine,
  type DiskSpec,
  type DiskStatus,
  type Driver,
  type DriverContext,
  type ImageSpec,
  type InstanceSpec,
  type InstanceStatus,
  type MigrationWire,
  type NetworkSpec,
  noMigration,
  type Ref,
  type SnapshotSpec,
  type SnapshotStatus,
} from '#libs/drivers/contract';
import { type Ability, canHost, type Host, startHost } from '#libs/drivers/host';
import { canBuildTiny, ensureTinyImage } from '../../../tools/tiny-image/index.js';
import { createLibvirtDriver, type LibvirtOptions } from './driver.js';

export const never = new AbortController().signal;
export const cache = resolve('.rhyzome/cache');
const log = { info() {}, warn() {}, error() {}, debug() {} };

/** Whether these tests run here; says why not. */
export async function canLab(what: string): Promise<boolean> {
  const abilities: Ability[] = [await canHost(), canBuildTiny()];
  const missing = abilities.flatMap((ability) => (ability.ok ? [] : [ability.reason]));
  if (missing.length > 0) console.warn(`skipped: ${what}: ${missing.join('; ')}`);
  return missing.length === 0;
}

export const refTo = (kind: string): Ref => ({ tenantId: 'acme', kind, id: randomUUID() });

export interface LabOptions {
  /** Default: a directory of the lab's own. */
  stateDir?: (lab: VirtLab) => Promise<string>;
  /** Default: a new one. */
  installation?: string;
  /** Default: none. */
  migration?: MigrationWire;
  /** Default: none. */
  shared?: LibvirtOptions['shared'];
}

export class VirtLab {
  readonly installation: string;
  /** What was put into the content store, by operation. */
  readonly stored = new Map<string, string>();
  host!: Host;
  driver!: Driver;
  context!: DriverContext;
  image!: ImageSpec;
  links = '';

  private constructor(
    readonly dir: string,
    private readonly hostname: string,
    { installation = randomBytes(4).toString('hex') }: LabOptions,
  ) {
    this.installation = installation;
  }

  static async open(hostname: string, options: LabOptions = {}): Promise<VirtLab> {
    const { stateDir, migration = noMigration, shared } = options;
    const tiny = await ensureTinyImage(cache);
    const lab = new VirtLab(await mkdtemp(join(tmpdir(), 'rz-libvirt-')), hostname, options);
    await lab.startHost();
    lab.links = await lab.host.exec(['ls', '/sys/class/net']);
    const path = join(lab.dir, 'tiny');
    await copyFile(tiny, path);
    const sha256 = createHash('sha256')
      .update(await readFile(tiny))
      .digest('hex');
    const { size: sizeBytes } = await stat(tiny);
    lab.image = { sha256, format: 'qcow2', sizeBytes, virtualSizeBytes: 24 * 1024 ** 2 };
    const state = (await stateDir?.(lab)) ?? join(lab.dir, 'state');
    await mkdir(state, { recursive: true, mode: 0o700 });
    lab.context = {
      installation: lab.installation,
      stateDir: state,
      images: { path: async () => path },
      content: { put: (operationId, file) => lab.store(operationId, file) },
      metadataSocket: null,
      migration,
      log,
    };
    await lab.startDriver({ shared });
    return lab;
  }

  async startHost(): Promise<void> {
    const { dir, hostname } = this;
    this.host = await startHost({ dir: join(dir, 'host'), cacheDir: join(cache, 'libvirt'), hostname });
  }

  async startDriver(options: LibvirtOptions = {}): Promise<void> {
    this.driver = await createLibvirtDriver(this.context, {
      enter: this.host.command([]),
      uri: this.host.libvirtUri,
      cacheDir: cache,
      probeImage: join(this.dir, 'tiny'),
      stopGraceMs: 15_000,
      root: `/proc/${this.host.pid}/root`,
      ...options,
    });
  }

  async close(): Promise<void> {
    await this.driver?.close();
    await this.host?.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  get networks(): Capability<NetworkSpec, object> {
    return this.kind('network');
  }
  get disks(): Capability<DiskSpec, DiskStatus> {
    return this.kind('disk');
  }
  get snapshots(): Capability<SnapshotSpec, SnapshotStatus> {
    return this.kind('snapshot');
  }
  get instances(): Capability<InstanceSpec, InstanceStatus> {
    return this.kind('instance');
  }

  diskPath({ id }: Ref): string {
    return join(this.context.stateDir, 'disk', id, 'disk.qcow2');
  }

  virsh(...args: string[]): Promise<string> {
    return this.host.exec(['virsh', '-c', this.host.libvirtUri, ...args]);
  }

  /** An instance of the tiny image, without networks. */
  spec(disks: Ref[], changes: Partial<InstanceSpec> = {}): InstanceSpec {
    return {
      name: 'web-1',
      vcpus: 1,
      memoryMiB: 128,
      disks: disks.map(({ id }, slot) => ({ diskId: id, slot, bootOrder: slot === 0 ? 1 : null })),
      interfaces: [],
      powerState: 'running',
      restartPolicy: 'stay',
      guest: { hostname: 'web-1', tags: {}, userData: null, sshKeys: [] },
      ...changes,
    };
  }

  async consoleLog(instance: Ref, tail = 100_000): Promise<string> {
    let text = '';
    for await (const chunk of this.instances.consoleLog?.(instance, tail) ?? []) text += Buffer.from(chunk).toString();
    return text;
  }

  private kind<S, T>(kind: string): Capability<S, T> {
    return this.driver.capabilities.find((capability) => capability.kind === kind) as Capability<S, T>;
  }

  private async store(operationId: string, file: string) {
    const path = join(this.dir, `stored-${operationId}`);
    await copyFile(file, path);
    this.stored.set(operationId, path);
    const bytes = await readFile(path);
    return { sha256: createHash('sha256').update(bytes).digest('hex'), sizeBytes: bytes.length };
  }
}

/** Waits until it holds; throws with `what` after the limit. */
export async function until(what: string, holds: () => Promise<boolean> | boolean, limitMs = 120_000): Promise<void> {
  for (const end = Date.now() + limitMs; !(await holds()); await sleep(100)) {
    if (Date.now() > end) throw new Error(`${what} did not come about in ${limitMs} ms`);
  }
}

const prompt = 'tiny# ';

/** The shell of a tiny guest. */
export class Shell {
  /** All that it wrote since it was opened. */
  text = '';
  ended = false;

  private constructor(readonly line: ConsoleLine) {
    void this.read();
  }

  /** Waits until the guest has booted and its shell answers. */
  static async open(lab: VirtLab, instance: Ref): Promise<Shell> {
    const shell = new Shell((await lab.instances.console?.(instance)) as ConsoleLine);
    let pressed = 0;
    await until('a prompt', async () => {
      if (shell.text.includes(prompt)) return true;
      if (Date.now() - pressed > 1000) await shell.line.write(Buffer.from('\n'));
      if (Date.now() - pressed > 1000) pressed = Date.now();
      return false;
    });
    // Whatever prompts are still to come for the keys pressed above come before this.
    await shell.run('echo synced');
    return shell;
  }

  /** Runs a line and gives what it printed. Throws after 60 s. */
  async run(command: string): Promise<string> {
    const mark = randomBytes(4).toString('hex');
    const from = this.text.length;
    await this.line.write(Buffer.from(`${command}; echo end''-${mark}\n`));
    await until(`the end of “${command}”`, () => this.text.includes(`end-${mark}`, from), 60_000);
    const [, ...lines] = this.text.slice(from, this.text.indexOf(`end-${mark}`, from)).split(/\r?\n/);
    return lines.join('\n').trim();
  }

  close(): void {
    this.line.close();
  }

  private async read(): Promise<void> {
    for await (const data of this.line.output) this.text += Buffer.from(data).toString();
    this.ended = true;
  }
}
