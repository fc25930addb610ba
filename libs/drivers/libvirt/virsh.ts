/** libvirt through `virsh`, with time limits on everything. Knows domains by name only. */
import type { ChildProcess } from 'node:child_process';
import { DriverError } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';

/** virDomainState and its reason, as numbers (libvirt-domain.h). */
export interface DomainState {
  state: number;
  reason: number;
}

export const domainState = { running: 1, blocked: 2, paused: 3, shuttingDown: 4, off: 5, crashed: 6, suspended: 7 };

export interface Virsh {
  /** Throws DriverError `hypervisor_unreachable` or `hypervisor_refused`. */
  run(args: readonly string[]): Promise<string>;
  /** Every domain, also inactive ones. */
  states(): Promise<Map<string, DomainState>>;
  /** Null: there is no such domain. */
  state(domain: string): Promise<DomainState | null>;
  /** A child that prints a line for each event. */
  events(): ChildProcess;
}

export function openVirsh(runner: Runner, uri: string): Virsh {
  const argv = (args: readonly string[]) => ['virsh', '-q', '-k', '5', '-K', '3', '-c', uri, ...args];
  const run: Virsh['run'] = async (args) => {
    try {
      return await runner.run(argv(args), { timeoutMs: 30_000 });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      throw toDriverError(error);
    }
  };
  return {
    run,
    states: async () => parseStates(await run(['domstats', '--state'])),
    async state(domain) {
      try {
        return parseStates(await run(['domstats', '--state', domain])).get(domain) ?? null;
      } catch (error) {
        if (isNoDomain(error)) return null;
        throw error;
      }
    },
    events: () => runner.spawn(argv(['event', '--all', '--loop', '--timestamp'])),
  };
}

/** Whether the failure says that the domain is not there. */
export function isNoDomain(error: unknown): boolean {
  return (
    error instanceof DriverError && /failed to get domain|Domain not found|no domain with matching/i.test(error.message)
  );
}

function toDriverError(error: CommandError): DriverError {
  const message = error.stderr.replaceAll(/^error: /gm, '').trim() || error.message;
  if (error.timedOut || /failed to connect|Cannot recv data|End of file|client socket is closed/i.test(message)) {
    return new DriverError('hypervisor_unreachable', `libvirt does not answer: ${message}`, { cause: error });
  }
  if (/No space left/i.test(message)) return new DriverError('disk_full', message, { cause: error });
  return new DriverError('hypervisor_refused', message, { cause: error });
}

/** Blocks of `Domain: 'name'` and `  state.state=1` lines (virsh(1), domstats). */
function parseStates(text: string): Map<string, DomainState> {
  const states = new Map<string, DomainState>();
  let current: DomainState = { state: 0, reason: 0 };
  for (const line of text.split('\n')) {
    const domain = /^Domain: '(.*)'$/.exec(line)?.[1];
    const value = /^ {2}state\.(state|reason)=(\d+)$/.exec(line);
    if (domain !== undefined) {
      current = { state: 0, reason: 0 };
      states.set(domain, current);
    } else if (value) {
      current[value[1] as 'state' | 'reason'] = Number(value[2]);
    }
  }
  return states;
}
