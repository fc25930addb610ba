/**
 * Which guest has which address on which network, and what it may know of itself. From what the controller desires here;
 * kept in a file, so that guests get answers also after a restart of the agent while no controller can be reached.
 */
import type { DriverLog, InstanceSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { readJson, writeJsonDurably } from '../durable.js';

/** A guest and its networks, by id. */
export interface Guest {
  ref: Ref;
  spec: InstanceSpec;
  networks: Record<string, NetworkFacts>;
}

export type NetworkFacts = Pick<NetworkSpec, 'subnet' | 'gateway' | 'subnet6' | 'gateway6' | 'dns' | 'domain' | 'mtu'>;

/** What is desired of a resource on this machine. */
export interface WantedResource {
  ref: Ref;
  wanted: { present: boolean; spec: unknown } | undefined;
}

interface Stored {
  guests: Guest[];
}

/** Writes come together for so long (ms). */
const writeDelayMs = 500;

export class GuestDirectory {
  private byAddress = new Map<string, Guest>();
  private written = '';
  private timer: NodeJS.Timeout | undefined;
  private writing: Promise<void> = Promise.resolve();

  private constructor(
    private readonly file: string,
    private readonly log: DriverLog,
  ) {}

  /** With what an earlier agent left. */
  static async open(file: string, log: DriverLog): Promise<GuestDirectory> {
    const directory = new GuestDirectory(file, log);
    const stored = await readJson<Stored>(file);
    if (stored) directory.index(stored.guests);
    return directory;
  }

  /** The guest that has this address on this network; undefined: nobody. */
  find(networkId: string, ip: string): Guest | undefined {
    return this.byAddress.get(addressKey(networkId, ip));
  }

  /** Takes all that is desired now in place of what was known. */
  update(resources: Iterable<WantedResource>): void {
    const networks = new Map<string, { tenantId: string; facts: NetworkFacts }>();
    const instances: { ref: Ref; spec: InstanceSpec }[] = [];
    for (const { ref, wanted } of resources) {
      if (!wanted?.present || typeof wanted.spec !== 'object' || wanted.spec === null) continue;
      if (ref.kind === 'network') {
        networks.set(ref.id, { tenantId: ref.tenantId, facts: factsOf(wanted.spec as NetworkSpec) });
      } else if (ref.kind === 'instance') instances.push({ ref, spec: wanted.spec as InstanceSpec });
    }
    this.index(
      instances.map(({ ref, spec }) => {
        const own = (spec.interfaces ?? []).flatMap(({ networkId }) => {
          const network = networks.get(networkId);
          return network?.tenantId === ref.tenantId ? [[networkId, network.facts] as const] : [];
        });
        return { ref, spec, networks: Object.fromEntries(own) };
      }),
    );
    this.timer ??= setTimeout(() => void this.write(), writeDelayMs);
  }

  /** Resolves when all that is known is in the file. */
  async close(): Promise<void> {
    if (this.timer) await this.write();
    await this.writing;
  }

  private index(guests: Guest[]): void {
    const byAddress = new Map<string, Guest>();
    for (const guest of guests) {
      for (const { networkId, ip, ip6 } of guest.spec.interfaces ?? []) {
        byAddress.set(addressKey(networkId, ip), guest);
        if (ip6) byAddress.set(addressKey(networkId, ip6), guest);
      }
    }
    this.byAddress = byAddress;
  }

  private write(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.writing = this.writing.then(async () => {
      const stored: Stored = { guests: [...new Set(this.byAddress.values())] };
      const text = JSON.stringify(stored);
      if (text === this.written) return;
      try {
        await writeJsonDurably(this.file, stored);
        this.written = text;
      } catch (error) {
        // Guests are answered from memory; the next change writes again.
        this.log.error({ err: error, file: this.file }, 'what guests are told cannot be kept');
      }
    });
    return this.writing;
  }
}

function addressKey(networkId: string, ip: string): string {
  return `${networkId} ${ip}`;
}

function factsOf({ subnet, gateway, subnet6, gateway6, dns, domain, mtu }: NetworkSpec): NetworkFacts {
  return { subnet, gateway, subnet6, gateway6, dns, domain, mtu };
}
