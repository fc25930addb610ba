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
