/**
 * For tests: two hosts whose links `und0` are on one wire, the underlay, with a stranger on it; and what each is told of a
 * network that spans both. Not exported by this library's door.
 */
import type { Capability, LeaseSpec, NetworkSpec, OverlaySpec } from '#libs/drivers/contract';
import { layUnderlay, shareWorld, underlayLink } from '#libs/drivers/host';
import { Lab } from './lab.js';
import type { LocalNetworkStatus } from './parts.js';
import type { Uplink } from './uplink.js';

export type Side = 'a' | 'b';

export const underlayOf: Record<Side, string> = { a: underlayLink.first, b: underlayLink.second };
/** Of the namespace `stranger`, in host a. */
export const strangerAddress = underlayLink.stranger;

export interface LabPair {
  a: Lab;
  b: Lab;
  networks(side: Side, uplink?: Uplink): Capability<NetworkSpec, LocalNetworkStatus>;
  close(): Promise<void>;
}

/** `hasWorld`: with a world outside that both see, in host a. */
export async function openPair(hasWorld = false): Promise<LabPair> {
  const a = await Lab.open('rz-over-a', hasWorld);
  const b = await Lab.open('rz-over-b', false, a.installation).catch(async (error: unknown) => {
    await a.close();
    throw error;
  });
  const labs = { a, b };
  const close = async () => {
    await a.close();
    await b.close();
  };
  try {
    await layUnderlay(a.host, b.host);
    if (hasWorld) await shareWorld(a.host, b.host);
    await a.run('ip netns add stranger');
    await a.run('ip link add wire-s type veth peer name eth0 netns stranger');
    await a.run(`ip link set wire-s master ${underlayLink.interface} up`);
    await a.run('ip -n stranger link set eth0 up');
    await a.run(`ip -n stranger addr add ${strangerAddress}/24 dev eth0`);
    return {
      ...labs,
      close,
      networks: (side, uplink) =>
        labs[side].networks(uplink, [], { address: underlayOf[side], interface: underlayLink.interface }),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

export interface Spanning {
  spec: NetworkSpec;
  vni: number;
  router: Side;
  /** Where the guest of a lease is, by its address. */
  places: Record<string, Side>;
}

/** What one side is told. */
export function toldTo(side: Side, { spec, vni, router, places }: Spanning): NetworkSpec {
  const other = side === 'a' ? 'b' : 'a';
  const overlay: OverlaySpec = {
    vni,
    address: underlayOf[side],
    port: 4789,
    nodes: [{ address: underlayOf[other], port: 4789 }],
    router: router === side ? null : 0,
    walled: spec.firewall.length > 0,
  };
  const at = (lease: LeaseSpec) => ({ ...lease, node: places[lease.ip] === other ? 0 : null });
  const leases = spec.leases.map(at);
  if (router === side) return { ...spec, leases, overlay };
  const nothing = { publicAddresses: [], forwards: [], firewall: [], wireguard: null };
  return { ...spec, ...nothing, leases: leases.map((lease) => ({ ...lease, hostname: null })), overlay };
}
