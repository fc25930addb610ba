/**
 * A host for `npm start` and for tests: network, mount and UTS namespaces of its own with a libvirtd in them, so that
 * an agent can make bridges, routers and machines while this machine's links, firewall, names and libvirt stay as they
 * were. Held by a holder process; everything inside shares its UTS namespace, by which it is found and ended. Not used
 * on real nodes.
 */
import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CommandError, createRunner, type Runner } from './command.js';
import { endProcesses, utsNamespaces } from './processes.js';

export interface HostOptions {
  /** The host's own directory: record, logs, private files. Made when missing. */
  dir: string;
  /** libvirt's cache of what each QEMU can do: kept, since filling it takes 8 s. May serve many hosts. */
  cacheDir: string;
  hostname: string;
  /** With a namespace `world` beyond the host's link `up0`, as the network outside that an uplink leads to. */
  hasWorld?: boolean;
}

/** Addresses of the host and of what plays the world outside, on the link between them (RFC 5737). */
export const worldLink = { interface: 'up0', host: '203.0.113.1', world: '203.0.113.2', prefixLength: 24 } as const;

export interface Host {
  /** The holder; its namespaces are the host's. */
  readonly pid: number;
  readonly libvirtUri: string;
  /** The argv that runs `argv` inside; its working directory is /. */
  command(argv: readonly string[]): string[];
  /** Runs inside with a time limit and gives standard output. Throws CommandError. */
  exec(argv: readonly string[]): Promise<string>;
  readonly runner: Runner;
  /** Starts libvirtd when it does not run, e.g. after a crash, and waits until it answers. */
  startLibvirt(): Promise<void>;
  /** Ends everything inside, machines too, without asking their guests. The directory stays. */
  stop(): Promise<void>;
}

/** Written before anything is started: what carries this id is ours to end. */
interface HostRecord {
  id: string;
}

/**
 * $1 hostname, $2 host directory, $3 libvirt's cache, $4 the host's id (kept as the namespace's NIS domain name), $5
 * whether there is a world.
 */
const holderScript = `set -e
echo "$4" > /proc/sys/kernel/domainname
hostname "$1"
mkdir -p /run/netns /run/libvirt /run/rhyzome /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
for d in /run/netns /run/libvirt /run/rhyzome /etc/libvirt /var/lib/libvirt /var/log/libvirt; do mount -t tmpfs -o mode=755 host "$d"; done
mount --bind "$3" /var/cache/libvirt
mount --bind "$2/resolv.conf" /etc/resolv.conf
mount --bind "$2/hosts" /etc/hosts
mount -t sysfs sysfs /sys
ip link set lo up
if [ "$5" = world ]; then
  ip netns add world
  ip link add ${worldLink.interface} type veth peer name eth0 netns world
  ip addr add ${worldLink.host}/${worldLink.prefixLength} dev ${worldLink.interface}
  ip -n world addr add ${worldLink.world}/${worldLink.prefixLength} dev eth0
  ip link set ${worldLink.interface} up
  ip -n world link set lo up
  ip -n world link set eth0 up
  ip route add default via ${worldLink.world}
fi
cp "$2/libvirtd.conf" "$2/qemu.conf" /etc/libvirt/
echo ready
exec sleep infinity </dev/null >/dev/null 2>&1`;

// Users, security labels, cgroups and logs by file: what works without systemd, and needs nothing of this machine's.
const qemuConf = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
dynamic_ownership = 0
`;

function libvirtdConf(uuid: string): string {
  return `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
host_uuid = "${uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`;
}

/** Starts a host; what an earlier one left in `dir` is ended first. Throws CommandError or Error with the reason. */
export async function startHost(options: HostOptions): Promise<Host> {
  if (!/^[a-z][a-z0-9-]{0,62}$/.test(options.hostname)) throw new Error(`bad host name ${options.hostname}`);
  const dir = resolve(options.dir);
  const cacheDir = resolve(options.cacheDir);
  await mkdir(dir, { recursive: true });
  await mkdir(cacheDir, { recursive: true });
  await adoptOrCleanHost(dir);
  await writeFile(join(dir, 'resolv.conf'), '# this host has no resolver\n');
  await writeFile(join(dir, 'hosts'), `127.0.0.1 localhost ${options.hostname}\n`);
  await writeFile(join(dir, 'qemu.conf'), qemuConf);
  await writeFile(join(dir, 'libvirtd.conf'), libvirtdConf(randomUUID()));
  const record: HostRecord = { id: randomBytes(12).toString('hex') };
  await writeFile(join(dir, 'host.json.new'), JSON.stringify(record));
  await rename(join(dir, 'host.json.new'), join(dir, 'host.json'));
  const pid = await startHolder([options.hostname, dir, cacheDir, record.id, options.hasWorld ? 'world' : '']);
  const host = hostOf(pid, record, dir);
  try {
    await host.startLibvirt();
  } catch (error) {
    await host.stop();
    throw error;
  }
  return host;
}

/** Ends what a host in `dir` left behind when its owner was killed; nothing there is success. */
export async function adoptOrCleanHost(dir: string): Promise<void> {
  const path = join(resolve(dir), 'host.json');
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (text === null) return;
  await endHost(JSON.parse(text) as HostRecord);
  await rm(path, { force: true });
}

function hostOf(pid: number, record: HostRecord, dir: string): Host {
  const prefix = ['nsenter', '-t', String(pid), '-n', '-m', '-u', '--'];
  const runner = createRunner(prefix);
  const libvirtUri = 'qemu:///system';
  const answers = () =>
    runner.run(['virsh', '-c', libvirtUri, 'uri'], { timeoutMs: 5000 }).then(
      () => true,
      (error: unknown) => {
        if (error instanceof CommandError) return false;
        throw error;
      },
    );
  return {
    pid,
    libvirtUri,
    runner,
    command: (argv) => [...prefix, ...argv],
    exec: (argv) => runner.run(argv),
    async startLibvirt() {
      if (await answers()) return;
      await runner.run(['libvirtd', '-d', '-f', '/etc/libvirt/libvirtd.conf', '-p', '/run/libvirt/libvirtd.pid']);
      for (const end = Date.now() + 60_000; !(await answers()); await sleep(100)) {
        const gone = (await runner.run(['sh', '-c', 'cat /run/libvirt/libvirtd.pid || true'])) === '';
        if (!gone && Date.now() < end) continue;
        const log = await runner.run(['sh', '-c', 'tail -n 5 /var/log/libvirt/libvirtd.log || true']);
        throw new Error(`libvirtd ${gone ? 'ended' : 'does not answer after 60 s'}: ${log.trim()}`);
      }
    },
    async stop() {
      await endHost(record);
      await rm(join(dir, 'host.json'), { force: true });
    },
  };
}

/** Starts the holder, detached, and resolves with its pid when its namespaces are ready. */
function startHolder(args: readonly string[]): Promise<number> {
  const child = spawn(
    'unshare',
    ['--net', '--mount', '--uts', '--propagation', 'private', '--', 'sh', '-c', holderScript, 'sh', ...args],
    { detached: true, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let out = '';
  let err = '';
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      if (!out.includes('ready')) reject(new CommandError('unshare', code, err, false));
    });
    child.stderr.on('data', (data) => {
      err += data;
    });
    child.stdout.on('data', (data) => {
      out += data;
      if (!out.includes('ready') || child.pid === undefined) return;
      clearTimeout(timer);
      child.unref();
      resolve(child.pid);
    });
  });
}

/** Ends everything in the UTS namespace that carries the host's id; a namespace's number alone may be another's by now. */
async function endHost(record: HostRecord): Promise<void> {
  const runner = createRunner();
  for (const [uts, [first]] of await utsNamespaces()) {
    const argv = ['nsenter', '-t', String(first), '-u', '--', 'cat', '/proc/sys/kernel/domainname'];
    const id = await runner.run(argv).catch((error: unknown) => {
      // It ended meanwhile, or may not be entered: not ours.
      if (error instanceof CommandError) return '';
      throw error;
    });
    if (id.trim() !== record.id) continue;
    await endProcesses(async () => (await utsNamespaces()).get(uts) ?? [], 3000);
    return;
  }
}
