/** libvirt through `virsh`, with time limits on everything. Knows domains by name only. */
import type { ChildProcess } from 'node:child_process';
import { DriverError } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';

/** virDomainState and its reason, as numbers (libvirt-domain.h). */
export interface DomainState {
  state: number;
  reason: number;
}

/** A domain with what belongs to it: while it is on, as it runs, else as it is defined. */
export interface Domain {
  state: DomainState;
  /** Target name (vda …) and file of each disk. */
  disks: { name: string; path: string }[];
}

/** Values by name, as `virsh domstats` gives them. */
export type Stats = ReadonlyMap<string, string>;

export const domainState = { running: 1, blocked: 2, paused: 3, shuttingDown: 4, off: 5, crashed: 6, suspended: 7 };

export interface Virsh {
  /** Throws DriverError `hypervisor_unreachable` or `hypervisor_refused`. */
  run(args: readonly string[]): Promise<string>;
  /** The same for what may take hours; libvirt's own keep-alive ends it when nobody answers. */
  long(args: readonly string[]): Promise<string>;
  /** Every domain, also inactive ones. */
  states(): Promise<Map<string, DomainState>>;
  /** Null: there is no such domain. */
  state(domain: string): Promise<DomainState | null>;
  /** Null: there is no such domain. */
  domain(domain: string): Promise<Domain | null>;
  /** What every domain uses, by domain (virsh(1), domstats). */
  stats(): Promise<Map<string, Stats>>;
  /** A child that prints a line for each event. */
  events(): ChildProcess;
}

const runMs = 30_000;
const longMs = 24 * 60 * 60 * 1000;

export function openVirsh(runner: Runner, uri: string): Virsh {
  const argv = (args: readonly string[]) => ['virsh', '-q', '-k', '5', '-K', '3', '-c', uri, ...args];
  const within = async (args: readonly string[], timeoutMs: number) => {
    try {
      return await runner.run(argv(args), { timeoutMs });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      throw toDriverError(error);
    }
  };
  const run: Virsh['run'] = (args) => within(args, runMs);
  const known = async (domain: string, groups: readonly string[]): Promise<Stats | null> => {
    try {
      return parseStats(await run(['domstats', ...groups, domain])).get(domain) ?? null;
    } catch (error) {
      if (isNoDomain(error)) return null;
      throw error;
    }
  };
  return {
    run,
    long: (args) => within(args, longMs),
    async states() {
      const all = parseStats(await run(['domstats', '--state']));
      return new Map([...all].map(([domain, stats]) => [domain, stateOf(stats)]));
    },
    async state(domain) {
      const stats = await known(domain, ['--state']);
      return stats && stateOf(stats);
    },
    async domain(domain) {
      const stats = await known(domain, ['--state', '--block']);
      if (!stats) return null;
      const disks = numbered(stats, 'block').map((n) => ({
        name: stats.get(`block.${n}.name`) ?? '',
        path: stats.get(`block.${n}.path`) ?? '',
      }));
      return { state: stateOf(stats), disks };
    },
    // One that is busy is left out of what takes its time.
    stats: async () =>
      parseStats(await run(['domstats', '--state', '--cpu-total', '--balloon', '--interface', '--block', '--nowait'])),
    events: () => runner.spawn(argv(['event', '--all', '--loop', '--timestamp'])),
  };
}

/** Whether the failure says that the domain is not there. */
export function isNoDomain(error: unknown): boolean {
  return (
    error instanceof DriverError && /failed to get domain|Domain not found|no domain with matching/i.test(error.message)
  );
}

/** Whether the failure says that the domain does not carry what was asked for. */
export function isNoMetadata(error: unknown): boolean {
  return error instanceof DriverError && /metadata not found/i.test(error.message);
}

function toDriverError(error: CommandError): DriverError {
  const message = error.stderr.replaceAll(/^error: /gm, '').trim() || error.message;
  if (error.timedOut || /failed to connect|Cannot recv data|End of file|client socket is closed/i.test(message)) {
    return new DriverError('hypervisor_unreachable', `libvirt does not answer: ${message}`, { cause: error });
  }
  if (/No space left/i.test(message)) return new DriverError('disk_full', message, { cause: error });
  return new DriverError('hypervisor_refused', message, { cause: error });
}

/** Numbers of a group's entries, e.g. 0 and 1 for `block.count=2`. */
export function numbered(stats: Stats, group: 'block' | 'net'): number[] {
  return Array.from({ length: Number(stats.get(`${group}.count`) ?? 0) }, (_, n) => n);
}

export function stateOf(stats: Stats): DomainState {
  return { state: Number(stats.get('state.state') ?? 0), reason: Number(stats.get('state.reason') ?? 0) };
}

/** Blocks of `Domain: 'name'` and `  name=value` lines (virsh(1), domstats). */
function parseStats(text: string): Map<string, Stats> {
  const all = new Map<string, Stats>();
  let current = new Map<string, string>();
  for (const line of text.split('\n')) {
    const domain = /^Domain: '(.*)'$/.exec(line)?.[1];
    const value = /^ {2}([a-z0-9._-]+)=(.*)$/i.exec(line);
    if (domain !== undefined) {
      current = new Map();
      all.set(domain, current);
    } else if (value) {
      current.set(value[1] as string, value[2] as string);
    }
  }
  return all;
}
