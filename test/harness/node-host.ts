/**
 * The node of a libvirt stack as its administrator sees it from inside: namespaces of their own, entered through a
 * process that lives in them. For looking, and for breaking things as a crash of the node would.
 */
import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { CommandError, createRunner, type Host, type Runner, underlayLink, worldLink } from '#libs/drivers/host';
import type { Stack } from './stack.js';
import { until } from './until.js';

export class NodeHost {
  private constructor(
    private readonly runner: Runner,
    private readonly uts: string,
    private readonly enter: readonly string[],
  ) {}

  /** Found by the agent, which runs inside; from then on the host is known whatever happens to the agent. */
  static of(stack: Stack): NodeHost {
    const uts = utsOf(stack.pid('agent'));
    const holder = processesIn(uts).find(({ command }) => command.startsWith('sleep infinity'));
    if (!uts || !holder) throw new Error('the agent runs in no host of its own');
    const enter = ['nsenter', '-t', String(holder.pid), '-n', '-m', '-u', '--'];
    return new NodeHost(createRunner(enter), uts, enter);
  }

  /** The argv that runs `argv` inside. */
  readonly command = (argv: readonly string[]): string[] => [...this.enter, ...argv];

  static within(host: Host): NodeHost {
    return new NodeHost(host.runner, utsOf(host.pid), host.command([]));
  }

  exec(...argv: string[]): Promise<string> {
    return this.runner.run(argv);
  }

  /** Names of the domains, running or not. */
  async domains(): Promise<string[]> {
    return words(await this.exec('virsh', 'list', '--all', '--name'));
  }

  async links(): Promise<string[]> {
    return words(await this.exec('ls', '/sys/class/net'));
  }

  /** Names of the routers' namespaces. */
  async routers(): Promise<string[]> {
    const names = (await this.exec('ip', 'netns', 'list')).split('\n').flatMap((line) => line.split(' ')[0] || []);
    return names.filter((name) => name.startsWith('rz-'));
  }

  /** Processes of a program, e.g. qemu or dnsmasq, whose command line has `part`. */
  processes(program: string, part = ''): { pid: number; command: string }[] {
    return processesIn(this.uts).filter(({ command }) => {
      const [file = ''] = command.split(' ');
      return (file.split('/').at(-1) ?? '').startsWith(program) && command.includes(part);
    });
  }

  /** Runs in the namespace that plays the world outside, at the other end of the node's uplink. */
  inWorld(...argv: string[]): Promise<string> {
    return this.exec('ip', 'netns', 'exec', 'world', ...argv);
  }

  /** The same for a program that stays. */
  spawnInWorld(...argv: string[]): ChildProcess {
    return this.runner.spawn(['ip', 'netns', 'exec', 'world', ...argv]);
  }

  /** The body of an answer to GET http://address/path, asked from the router of a network. Throws CommandError. */
  fetchFrom(networkId: string, address: string, path = '/'): Promise<string> {
    const request = `exec 3<>/dev/tcp/${address}/80; printf 'GET ${path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3`;
    return this.inRouter(networkId, ['timeout', '8', 'bash', '-c', request]);
  }

  async inRouter(networkId: string, argv: string[]): Promise<string> {
    const router = (await this.routers()).find((name) => name.includes(networkId));
    if (!router) throw new Error(`network ${networkId} has no router here`);
    return this.exec('ip', 'netns', 'exec', router, ...argv);
  }

  /** Until the guest answers; gives what it says. */
  reached(networkId: string, address: string, path = '/', limitMs = 60_000): Promise<string> {
    return until(
      `an answer of ${address}`,
      () =>
        this.fetchFrom(networkId, address, path).catch((error: unknown) => {
          if (error instanceof CommandError || (error as Error).message.includes('no router')) return '';
          throw error;
        }),
      limitMs,
      300,
    );
  }

  /** As if the power had failed and come back: machines, daemons, routers and links are gone, libvirt is started anew. */
  async losePower(): Promise<void> {
    await this.powerOff();
    await this.powerOn();
  }

  async powerOff(): Promise<void> {
    for (const program of ['qemu-system', 'dnsmasq', 'socat', 'wireguard-go', 'libvirtd'])
      for (const { pid } of this.processes(program)) process.kill(pid, 'SIGKILL');
    await until(
      'all processes are gone',
      () => this.processes('qemu-system').length + this.processes('libvirtd').length === 0,
    );
    for (const router of await this.routers()) await this.exec('ip', 'netns', 'delete', router);
    for (const link of await this.links()) {
      // The cables to the world outside and to other nodes stay, and what is at their other ends.
      if (link !== 'lo' && !cables.some((cable) => link.startsWith(cable)))
        await this.exec('sh', '-c', `ip link delete ${link} 2>/dev/null || true`);
    }
    await this.exec('nft', 'flush', 'ruleset');
    await this.exec(
      'sh',
      '-c',
      'ip neigh flush nud permanent; for a in $(ip neigh show proxy | cut -d" " -f1); do ip neigh del proxy $a dev up0; done',
    );
    await this.exec('sh', '-c', 'rm -rf /run/libvirt/*');
  }

  async powerOn(): Promise<void> {
    await this.exec('libvirtd', '-d', '-f', '/etc/libvirt/libvirtd.conf', '-p', '/run/libvirt/libvirtd.pid');
  }
}

const cables = [worldLink.interface, underlayLink.interface, 'wire-'];

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

function utsOf(pid: number): string {
  return readlinkSync(`/proc/${pid}/ns/uts`);
}

function processesIn(uts: string): { pid: number; command: string }[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    try {
      if (!pid || utsOf(pid) !== uts) return [];
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      return command === '' ? [] : [{ pid, command }];
    } catch {
      // It ended between two looks.
      return [];
    }
  });
}
