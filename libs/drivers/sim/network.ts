/** Networks of the simulated machine: remembered, and refused to go while an instance is attached. */
import { type Capability, DriverError, type Found, type NetworkSpec, type Ref } from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import type { SimState } from './state.js';

export type SimNetworkStatus = Record<string, never>;

export class SimNetworkCapability implements Capability<NetworkSpec, SimNetworkStatus> {
  readonly kind = 'network';
  readonly after = [];

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
  ) {}

  async apply(ref: Ref, spec: NetworkSpec, signal: AbortSignal): Promise<SimNetworkStatus> {
    if (typeof spec?.subnet !== 'string' || !Array.isArray(spec.leases)) {
      throw new DriverError('invalid_spec', 'The network has no subnet or no leases.', { permanent: true });
    }
    refuseLostEnds(spec);
    await this.faults.strike('apply', ref, signal);
    signal.throwIfAborted();
    this.state.networks.set(ref.id, { ref, spec });
    await this.state.save();
    return {};
  }

  async remove(ref: Ref, signal: AbortSignal): Promise<void> {
    await this.faults.strike('remove', ref, signal);
    const user = [...this.state.instances.values()].find(({ spec }) =>
      spec.interfaces.some(({ networkId }) => networkId === ref.id),
    );
    if (user) throw new DriverError('in_use', `Instance ${user.spec.name} is still attached.`);
    this.state.networks.delete(ref.id);
    await this.state.save();
  }

  async halt(ref: Ref): Promise<void> {
    await this.faults.strike('halt', ref);
    const network = this.state.networks.get(ref.id);
    if (!network) return;
    network.isClosed = true;
    await this.state.save();
  }

  async inventory(): Promise<Found<SimNetworkStatus>[]> {
    await this.faults.strike('inventory', { kind: this.kind, id: '' });
    return [...this.state.networks.values()].map(({ ref }) => ({ ref, status: {} }));
  }
}

/** Everything of the network that is elsewhere is on one of its nodes; only the router's node is told of what is a router's. */
function refuseLostEnds({ overlay, ...spec }: NetworkSpec): void {
  const ends = spec.leases.flatMap(({ node }) => node ?? []);
  const nodes = overlay?.nodes ?? [];
  const isLost = [...ends, overlay?.router ?? null].some((index) => index !== null && !nodes[index]);
  if (isLost) throw new DriverError('invalid_spec', 'Something of the network is on no node.', { permanent: true });
  if (typeof overlay?.router !== 'number') return;
  const parts = [spec.publicAddresses, spec.forwards, spec.firewall].flat();
  if (parts.length === 0 && !spec.wireguard) return;
  throw new DriverError('invalid_spec', 'The network’s router is elsewhere, and has parts here.', { permanent: true });
}
